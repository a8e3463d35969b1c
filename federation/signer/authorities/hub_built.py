"""An authority whose leaves the hub builds: only the signature comes from the key, wherever that lives.

The pair of chain and key is read again and again. A pair is taken up when key and certificate agree and the
intermediate may sign leaves under a root of the bundle in force that every verifier of a mesh accepts
(``core/pki/path_rules.py``), for workloads and for the listener; otherwise the last good pair stays, the authority is
degraded and says why. The same goes for a pair that is good and is not what is in force: files that were exchanged in
place are a wish like any other edit. A pair whose root has left the bundle signs nothing any more: its leaves would
chain to an anchor that no workload trusts.

:class:`KeyInMemory` is a private key that this process has, out of a file or a secret store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec
from cryptography import x509

from federation.core.clock import Clock
from federation.core.documents.signer import AuthorityReport
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityUnavailable,
    FederationError,
    InvalidValue,
)
from federation.core.identity import TrustDomain
from federation.core.pki import path_rules
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import PrivateKey, PublicKey, load_private_key, signer
from federation.core.pki.leaf import LEAST_USEFUL_LIFE, LeafProfile, LeafTemplate
from federation.core.pki.pem import encode_certificates, parse_certificates
from federation.core.pki.verification import check_intermediate
from federation.signer.authorities.authority import (
    HasWarnings,
    IssuedLeaf,
    KeyPair,
    LeafRequest,
    MayExchange,
    PairSource,
)
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
    """Those of ``issuers`` that have name constraints: what they permit is looked at for every leaf."""

    templates: Mapping[LeafProfile, LeafTemplate]

    @property
    def not_after(self) -> datetime:
        """When the first of the issuers ends."""
        return min(issuer.not_after for issuer in self.issuers)


class HubBuiltAuthority:
    """Implements ManagedAuthority and KnowsIssuers."""

    def __init__(
        self,
        source: PairSource,
        *,
        name: str,
        kind: str,
        poll_seconds: float,
        trust_domain: TrustDomain,
        clock: Clock,
        hosts: Callable[[], tuple[str, ...]] = tuple,
        ztunnel: Callable[[], bool] = lambda: False,
        exchange: MayExchange = lambda _, __: None,
    ) -> None:
        """``hosts`` are the names of the listener, whose certificate it has to sign as well."""
        self._source = source
        self._exchange = exchange
        self._name = name
        self._kind = kind
        self._poll_seconds = poll_seconds
        self._trust_domain = trust_domain
        self._hosts = hosts
        self._ztunnel = ztunnel
        self._clock = clock
        self._anchors: tuple[Certificate, ...] = ()
        self._candidate: KeyPair | None = None
        self._signing: _Signing | None = None
        self._problem: FederationError | None = AuthorityUnavailable("it was not looked at yet", where=name)

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while nothing can be signed."""
        return self._signing.issuers if self._signing is not None else ()

    @property
    def can_sign(self) -> bool:
        """True while there is a good pair."""
        return self._signing is not None

    @property
    def pause(self) -> float:
        """Seconds between two looks at the pair."""
        return self._poll_seconds

    async def issue(self, order: LeafRequest) -> IssuedLeaf:
        """The leaf that was ordered; raises why there is no pair where there is none."""
        signing = self._signing
        if signing is None:
            if self._problem is not None:
                raise copy(
                    self._problem
                )  # for each its own: one that is raised again and again grows its traceback
            raise AuthorityUnavailable("there is no intermediate", where=self._name)
        if order.validity.not_after > signing.not_after:
            raise Superseded(
                f"it was to live until {order.validity.not_after:%Y-%m-%d %H:%M:%S} UTC, and an issuer taken up"
                f" meanwhile ends at {signing.not_after:%Y-%m-%d %H:%M:%S} UTC",
                where=self._name,
            )
        words = path_rules.not_permitted(signing.confining, order.names) if signing.confining else ""
        if words:
            raise AuthorityRefused(words, where=self._name, reason="name_constraints", remedy=CONFINED)
        template = signing.templates[order.profile]
        validity = order.validity
        tbs = template.tbs(order.spki_der, order.san, order.serial, validity.not_before, validity.not_after)
        signature = await signing.pair.key.sign(tbs)
        if not signing.pair.key.has_local_key:
            template.check_signature(tbs, signature)
        return IssuedLeaf(template.assemble(tbs, signature), signing.issuers, built_by_hub=True)

    def describe(self) -> AuthorityReport:
        """Ready with the pair as it is now, degraded with an older one, else unavailable; with the reason."""
        problem, signing = self._problem, self._signing
        report = AuthorityReport(name=self._name, kind=self._kind, state="unavailable")
        if signing is not None:
            ends = signing.not_after
            own = signing.pair.chain[0]
            report = msgspec.structs.replace(
                report,
                state="ready" if problem is None else "degraded",
                subject=own.subject,
                sha256=own.sha256,
                not_after=ends.timestamp(),
                chain_pem=encode_certificates(signing.pair.chain).decode("ascii"),
            )
            if self._clock.now() + LEAST_USEFUL_LIFE > ends:
                return msgspec.structs.replace(
                    report,
                    state="unavailable",
                    reason="issuer_expired",
                    detail=f"the intermediate or its root ends at {ends:%Y-%m-%d %H:%M:%S} UTC",
                    remedy="give it a new intermediate now; workloads cannot renew",
                )
        warnings = self._source.warnings if isinstance(self._source, HasWarnings) else ()
        if problem is None and warnings:
            return msgspec.structs.replace(
                report, state="degraded", reason="warning", detail="; ".join(warnings)
            )
        if problem is None:
            return report
        kept = f"; still signing with {signing.pair.chain[0].subject}" if signing is not None else ""
        return msgspec.structs.replace(
            report, reason=problem.reason, detail=f"{problem}{kept}", remedy=problem.remedy
        )

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on: the self-signed ones of the bundle in force."""
        self._anchors = tuple(anchor for anchor in anchors if anchor.is_self_signed)
        self._judge()

    async def refresh(self) -> bool:
        """Read the pair and take it up if it is good; what is wrong is kept for :meth:`describe`."""
        try:
            self._candidate = await self._source.read()
        except (AuthorityError, AuthorityUnavailable) as error:
            self._candidate = None
            error.where = error.where or self._name
            self._fail(error)
        self._judge()
        return self._problem is None

    async def close(self) -> None:
        """Let go of the key."""
        await self._source.close()

    def _judge(self) -> None:
        """Take up the pair that was read if it is good, else keep the one in use if that still is."""
        candidate = self._candidate
        if candidate is not None:
            try:
                self._signing = self._successor_of(self._signing, self._make(candidate, anew=True))
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
                # The configuration may have changed since. That must not stop workloads, and the listener's next
                # certificate is refused for itself where its new names are not permitted.
                self._signing = self._make(self._signing.pair)
            except (AuthorityError, AuthorityUnavailable) as error:
                self._signing = None
                self._fail(error)

    def _successor_of(self, held: _Signing | None, found: _Signing) -> _Signing:
        """What was found, unless what is held has to go on; raises AuthorityMisconfigured then."""
        if held is not None and held.not_after > self._clock.now():
            problem = self._exchange(held.issuers, found.issuers)
            if problem is not None:
                raise problem
        return found

    def _make(self, pair: KeyPair, *, anew: bool = False) -> _Signing:
        """The pair with its way to a root; the same object as before where nothing has changed.

        ``anew`` it is judged by the configuration of now as well: by the listener's names, and for ztunnel.
        """
        if not self._anchors:
            raise AuthorityUnavailable("there is no bundle yet to judge it by", where=self._name)
        path = check_intermediate(
            pair.chain,
            pair.key.public_key,
            self._anchors,
            self._clock.now(),
            trust_domain=self._trust_domain,
            hosts=self._hosts() if anew else (),
            ztunnel=anew and self._ztunnel(),
        )
        if self._signing is not None and self._signing.pair is pair and self._signing.issuers == path:
            return self._signing
        templates = {profile: LeafTemplate(pair.chain[0], profile) for profile in LeafProfile}
        confining = tuple(issuer for issuer in path if issuer.extension(x509.NameConstraints) is not None)
        return _Signing(pair, path, confining, MappingProxyType(templates))

    def _fail(self, problem: AuthorityError | AuthorityUnavailable) -> None:
        if str(problem) != str(self._problem):
            _logger.log(
                logging.ERROR if isinstance(problem, AuthorityError) else logging.INFO,
                "the authority's chain and key are not taken up: %s",
                problem.diagnostics(),
                extra={"authority": self._name, "reason": problem.reason},
            )
        self._problem = problem


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
