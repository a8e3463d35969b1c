"""An authority whose leaves the hub builds: only the signature comes from the key, wherever that lives.

The pair of chain and key is read again and again. A pair is taken up when key and certificate agree and the
intermediate may sign leaves under a root of the bundle in force that every verifier of a mesh accepts
(``core/pki/path_rules.py``), for workloads and for the listener; otherwise the last good pair stays, the authority is
degraded and says why. The same holds for a pair that is good and is not what is in force: files that were exchanged in
place are a pending change like any other edit. A pair whose root has left the bundle signs nothing any more: its leaves
would chain to an anchor that no workload trusts.

:class:`KeyInMemory` is a private key that this process has, out of a file or a secret store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec
from cryptography import x509

from federation.core.documents.signer import AuthorityReport
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityUnavailable,
    InvalidValue,
)
from federation.core.pki import path_rules
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import PrivateKey, PublicKey, load_private_key, signer
from federation.core.pki.leaf import LeafProfile, LeafTemplate
from federation.core.pki.pem import parse_certificates
from federation.signer.authorities.authority import (
    AuthorityBasics,
    IssuedLeaf,
    KeyPair,
    LeafRequest,
    ManagedAuthority,
    PairSource,
)
from federation.signer.authorities.reports import with_problem, with_warnings
from federation.signer.revalidation import Superseded

_logger = logging.getLogger(__name__)

CONFINED: Final = (
    "have the intermediate issued with name constraints that permit the name, or use another name"
)


@dataclass(frozen=True, slots=True)
class _Signing:
    """A pair that was judged good, with all that one signature needs."""

    pair: KeyPair
    issuers: tuple[Certificate, ...]
    confining: tuple[Certificate, ...]
    """Those of ``issuers`` that have name constraints: each leaf is compared with what they permit."""

    templates: Mapping[LeafProfile, LeafTemplate]

    @property
    def not_after(self) -> datetime:
        """When the first of the issuers ends."""
        return min(issuer.not_after for issuer in self.issuers)


class HubBuiltAuthority(ManagedAuthority):
    """The authority of a :class:`PairSource`."""

    _outage = "the authority's chain and key are not taken up"
    _outage_level = logging.INFO

    def __init__(
        self,
        source: PairSource,
        basics: AuthorityBasics,
    ) -> None:
        super().__init__(basics)
        self._source = source
        self._candidate: KeyPair | None = None
        self._signing: _Signing | None = None

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while nothing can be signed."""
        return self._signing.issuers if self._signing is not None else ()

    async def close(self) -> None:
        """Close the source of the pair, and forget the key."""
        await self._source.close()

    @property
    def _has_what_it_needs(self) -> bool:
        return self._signing is not None

    async def _issue(self, wanted: LeafRequest) -> IssuedLeaf:
        signing = self._signing
        if signing is None:
            self._raise_problem()
            raise AuthorityUnavailable("there is no intermediate", where=self._name)
        if wanted.validity.not_after > signing.not_after:
            raise Superseded(
                f"it was to live until {wanted.validity.not_after:%Y-%m-%d %H:%M:%S} UTC, and an issuer taken up"
                f" meanwhile ends at {signing.not_after:%Y-%m-%d %H:%M:%S} UTC",
                where=self._name,
            )
        words = path_rules.not_permitted(signing.confining, wanted.names) if signing.confining else None
        if words is not None:
            raise AuthorityRefused(words, where=self._name, reason="name_constraints", remedy=CONFINED)
        template = signing.templates[wanted.profile]
        validity = wanted.validity
        tbs = template.tbs(
            wanted.spki_der, wanted.san, wanted.serial, validity.not_before, validity.not_after
        )
        signature = await signing.pair.key.sign(tbs)
        if not signing.pair.key.has_local_key:
            template.check_signature(tbs, signature)
        return IssuedLeaf(template.assemble(tbs, signature), signing.issuers, built_by_hub=True)

    def _describe(self) -> AuthorityReport:
        """Ready with the pair as it is now, degraded with an older one, else unavailable."""
        problem, signing = self._problem, self._signing
        if signing is None:
            report = self._report(())
            unknown = msgspec.structs.replace(report, state="unavailable")
            return unknown if problem is None else with_problem(report, "unavailable", problem)
        report = self._report(signing.pair.chain)
        if self._ends_too_soon(signing.issuers):
            return msgspec.structs.replace(
                report,
                state="unavailable",
                reason="issuer_expired",
                detail=f"the intermediate or its root ends at {signing.not_after:%Y-%m-%d %H:%M:%S} UTC",
                remedy="give it a new intermediate now; workloads cannot renew",
            )
        if problem is not None:
            detail = f"{problem}; still signing with {signing.pair.chain[0].subject}"
            return with_problem(report, "degraded", problem, detail)
        return with_warnings(report, self._source.warnings)

    async def _poll(self) -> bool:
        """Read the pair and take it up if it is good."""
        try:
            self._candidate = await self._source.read()
        except (AuthorityError, AuthorityUnavailable) as error:
            self._candidate = None
            error.where = error.where or self._name
            self._fail(error)
        self._judge_again()
        return self._problem is None

    def _judge_again(self) -> None:
        """Take up the pair that was read if it is good, else keep the one in use if that still is."""
        candidate = self._candidate
        if candidate is not None:
            try:
                self._signing = self._unless_in_force(self._made(candidate, anew=True))
            except (AuthorityError, AuthorityUnavailable) as error:
                self._fail(error)
            else:
                if self._problem is not None:
                    _logger.info(
                        "the authority signs with %s",
                        candidate.chain[0].subject,
                        extra={"authority": self._name, "sha256": candidate.chain[0].sha256},
                    )
                self._problem = None
                return
        if self._signing is not None:
            try:
                # The listener's next certificate is refused by itself where its new names are not permitted.
                self._signing = self._made(self._signing.pair)
            except (AuthorityError, AuthorityUnavailable) as error:
                self._signing = None
                self._fail(error)

    def _unless_in_force(self, found: _Signing) -> _Signing:
        """The pair that was found; raises AuthorityMisconfigured where the one in use has to go on."""
        current = self._signing
        if current is not None and current.not_after > self._clock.now():
            problem = self._context.exchange(current.issuers, found.issuers)
            if problem is not None:
                raise problem
        return found

    def _made(self, pair: KeyPair, *, anew: bool = False) -> _Signing:
        """The pair with its way to a root; the same object as before where nothing has changed."""
        path = self._path(pair.chain, pair.key.public_key, anew=anew)
        if self._signing is not None and self._signing.pair is pair and self._signing.issuers == path:
            return self._signing
        templates = {profile: LeafTemplate(pair.chain[0], profile) for profile in LeafProfile}
        confining = tuple(issuer for issuer in path if issuer.extension(x509.NameConstraints) is not None)
        return _Signing(pair, path, confining, MappingProxyType(templates))


class KeyInMemory:
    """Implements SigningKey. Nothing of the key is ever part of its text."""

    has_local_key = True

    def __init__(self, key: PrivateKey) -> None:
        self._sign = signer(key)
        self.public_key: PublicKey = key.public_key()

    def __repr__(self) -> str:
        return "KeyInMemory(...)"

    async def sign(self, message: bytes) -> bytes:
        """The signature, made at once."""
        return self._sign(message)


def pair_in_memory(chain_pem: bytes, key_pem: bytes, *, chain_at: str, key_at: str) -> KeyPair:
    """The pair that these texts hold; raises AuthorityMisconfigured that names where each came from."""
    try:
        chain = parse_certificates(chain_pem, where=chain_at)
        return KeyPair(chain, KeyInMemory(load_private_key(key_pem, where=key_at)))
    except InvalidValue as error:
        raise AuthorityMisconfigured(str(error), remedy=error.remedy, reason="file_invalid") from None
