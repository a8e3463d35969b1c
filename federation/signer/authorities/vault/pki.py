"""The PKI engine: it holds the intermediate's key and issues through a role, whose rules come after the hub's own.

Names are given explicitly beside the CSR, so that a role may ignore what the CSR says (``use_csr_sans=false``). A
lifetime is given in seconds, because a role can forbid absolute times but not that; the server counts it from its own
clock.

Why the engine did not sign is distinguished by status and text (``builtin/logical/pki`` of OpenBao 2 and Vault 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from federation.core.config.authorities.settings import VaultAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    InvalidValue,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.core.pki.pem import parse_certificates
from federation.signer.authorities.authority import BackEndContext, LeafRequest, ServiceAnswer, ServiceView
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.vault.client import NOT_VAULT, VaultAnswer
from federation.signer.authorities.vault.session import VaultSession, api_path, unexpected

_OF_THE_ROLE: Final = (
    "this role",
    "role requires",
    "require_cn",
    "common_name field is required",
    "key type",
    "key_bits",
    "not_before_bound",
    "not_after_bound",
)
_NO_ISSUER: Final = "unable to find pki issuer"
_NO_USAGE: Final = "requested usage"


@dataclass(frozen=True, slots=True)
class PkiMount:
    """Where a request goes: words for errors."""

    mount: str
    issuer: str
    role: str = ""


def sign_refusal(answer: VaultAnswer, at: PkiMount) -> AuthorityError | AuthorityUnavailable:
    """What an answer to ``sign`` with another status than 2xx and 403 means, as an error."""
    role = f"the role {at.role} of {at.mount}"
    if answer.status == 400:
        if answer.says("unknown role"):
            return AuthorityMisconfigured(
                f"{role} is not there: {answer.why}",
                reason="not_found",
                remedy="create it as docs/authorities.md says, or name another one",
            )
        if answer.says("beyond the expiration of the ca"):
            return issuer_ends(at, answer.why)
        if answer.says(*_OF_THE_ROLE):
            return AuthorityRefused(
                f"{role} is narrower than the hub's policy: {answer.why}",
                reason="role_too_narrow",
                remedy="widen the role as docs/authorities.md says, or narrow the clusters' policies to it",
            )
        return AuthorityRefused(
            f"{role} refuses the request: {answer.why}",
            reason="request_refused",
            remedy="see Vault's log and audit log for this request",
        )
    return pki_refusal(answer, at, "POST sign")


def pki_refusal(
    answer: VaultAnswer, at: PkiMount, what: str
) -> AuthorityMisconfigured | AuthorityUnavailable:
    """What any other answer of the engine means, as an error.

    A GET that needs no token is answered with 403 where nothing is mounted.
    """
    if answer.says(_NO_ISSUER):
        return AuthorityMisconfigured(
            f"the issuer {at.issuer} of {at.mount} is not there: {answer.why}",
            reason="not_found",
            remedy=f"name one that `bao list {at.mount}/issuers` shows, or set the default issuer",
        )
    if answer.says(_NO_USAGE):
        return AuthorityMisconfigured(
            f"the issuer {at.issuer} of {at.mount} may not issue: {answer.why}",
            reason="issuer_unusable",
            remedy="it was revoked, or its usage was narrowed: give another issuer, or the usage"
            " issuing-certificates",
        )
    if answer.status in {403, 404, 405} and answer.refusal is not None:
        return AuthorityMisconfigured(
            f"there is no PKI engine at {at.mount}: {answer.why}",
            reason="not_found",
            remedy="enable it there, and check the mount and the namespace in the configuration",
        )
    return unexpected(what, f"of {at.mount}", answer)


def issuer_ends(at: PkiMount, why: str) -> AuthorityMisconfigured:
    """The intermediate is at its end."""
    return AuthorityMisconfigured(
        f"the issuer {at.issuer} of {at.mount} ends too soon: {why}",
        reason="issuer_expired",
        remedy="make a new intermediate in the engine and set it as the issuer now; workloads cannot renew",
    )


ON_THE_WAY: Final = timedelta(seconds=2)
"""Taken off each lifetime: the server starts to count when the request arrives, and rounds."""

CAPPED: Final = timedelta(minutes=1)
"""A leaf that ends so much earlier than asked for was cut short by its role or mount."""

_SECOND: Final = timedelta(seconds=1)


class _Issuer(msgspec.Struct, frozen=True):
    certificate: str
    ca_chain: tuple[str, ...] | None = None


class _Leaf(msgspec.Struct, frozen=True):
    certificate: str
    issuing_ca: str = ""
    ca_chain: tuple[str, ...] | None = None
    expiration: int = 0


class VaultPki:
    """Implements CertificateService."""

    def __init__(
        self, config: VaultAuthorityConfig, credentials: OwnCredentials, context: BackEndContext
    ) -> None:
        self._clock = context.clock
        self._at = PkiMount(config.mount.strip("/"), config.issuer)
        self._roles = {LeafProfile.WORKLOAD: config.role, LeafProfile.SERVING: config.serving_role}
        self._timeout = timedelta(seconds=config.timeout)
        self._session = VaultSession(config, config.server, credentials, context)
        self._issuer_path = api_path(config.mount, "issuer", config.issuer)
        self._chain: tuple[Certificate, ...] = ()
        self._parsed: tuple[tuple[str, ...], tuple[Certificate, ...]] = ((), ())
        self._capped: dict[str, str] = {}

    async def poll(self) -> ServiceView:
        """Health, login, and the chain and CRL of the issuer."""
        warnings = list(await self._session.poll())
        path = f"{self._issuer_path}/json"
        answer = await self._session.public(path)
        if not answer.ok:
            raise pki_refusal(answer, self._at, f"GET {path}")
        issuer = answer.data(_Issuer, what=f"GET {path}")
        try:
            self._chain = self._certificates(issuer.certificate, *(issuer.ca_chain or ()))
        except InvalidValue as error:
            raise AuthorityUnavailable(
                f"the certificates of {path} cannot be read: {error}", reason="garbage", remedy=NOT_VAULT
            ) from None
        crl = await self._crl(warnings)
        return ServiceView(self._chain, crl, (*warnings, *self._capped.values()))

    async def issue(self, wanted: LeafRequest) -> ServiceAnswer:
        """Have the role sign the CSR, with exactly its names and until exactly its end, at most."""
        role = self._roles[wanted.profile]
        at = PkiMount(self._at.mount, self._at.issuer, role)
        serving = wanted.profile is LeafProfile.SERVING
        seconds = self._lifetime(wanted, at)
        asked_at = self._clock.now()
        path = f"{self._issuer_path}{api_path('sign', role).removeprefix('/v1')}"
        answer = await self._session.ask(
            "POST",
            path,
            {
                "csr": wanted.csr_pem,
                "ttl": seconds,
                "format": "pem",
                "exclude_cn_from_sans": True,
                "alt_names": ",".join(wanted.names) if serving else "",
                "uri_sans": [] if serving else list(wanted.names),
            },
            may_issue=True,
        )
        if not answer.ok:
            raise sign_refusal(answer, at)
        try:
            leaf = answer.data(_Leaf, what=f"POST {path}")
        except AuthorityUnavailable as error:
            raise AuthorityUncertain(f"{error.what}: it may have issued", remedy=NOT_VAULT) from None
        wanted_end = asked_at.timestamp() + seconds
        self._note_end(role, seconds, wanted_end - leaf.expiration if leaf.expiration else 0.0)
        return self._read(leaf)

    async def close(self) -> None:
        """Close login, connections and credentials."""
        await self._session.close()

    def _lifetime(self, wanted: LeafRequest, at: PkiMount) -> int:
        """Seconds until the leaf's end; a little less near the end of an issuer, which fails otherwise.

        ``leaf_not_after_behavior`` is ``err`` by default: one second beyond the issuer's end is refused.
        """
        now = self._clock.now()
        life = wanted.validity.not_after - now - ON_THE_WAY
        if self._chain:
            ends = min(certificate.not_after for certificate in self._chain)
            life = min(life, ends - now - ON_THE_WAY - self._timeout)
        if life < _SECOND:
            raise issuer_ends(at, f"nothing issued now would be valid for a second, by {now:%H:%M:%S} UTC")
        return life // _SECOND

    def _note_end(self, role: str, asked: int, missing: float) -> None:
        if missing < CAPPED.total_seconds():
            self._capped.pop(role, None)
            return
        self._capped[role] = (
            f"the role {role} or its mount cuts lifetimes short: {asked} s asked for,"
            f" {asked - missing:.0f} s given; raise max_ttl, or lower the clusters' longest TTL"
        )

    def _read(self, leaf: _Leaf) -> ServiceAnswer:
        try:
            own = parse_certificates(leaf.certificate.encode(), where="certificate")
            chain = self._certificates(*filter(None, (leaf.issuing_ca, *(leaf.ca_chain or ()))))
        except InvalidValue as error:
            raise AuthorityViolation(
                f"what it returned is no certificate: {error}", reason="garbage"
            ) from None
        if len(own) != 1:
            raise AuthorityViolation(f"it returned {len(own)} certificates for one", reason="garbage")
        if chain and self._chain and chain[0] == self._chain[0]:
            # The path above this issuer has been judged. What the engine lists above it may be more than
            # one way up, where issuers are cross-signed, which is right there and wrong in a chain.
            chain = ()
        return ServiceAnswer(own[0].der, chain)

    def _certificates(self, *pems: str) -> tuple[Certificate, ...]:
        """The certificates of these texts, each once; parsed only when they are not those of the last time."""
        if pems != self._parsed[0]:
            found = (c for pem in pems for c in parse_certificates(pem.encode(), where="ca_chain"))
            self._parsed = pems, tuple(dict.fromkeys(found))
        return self._parsed[1]

    async def _crl(self, warnings: list[str]) -> bytes | None:
        """The issuer's CRL in DER; none where the engine keeps none. A failure is a warning."""
        path = f"{self._issuer_path}/crl/der"
        try:
            answer = await self._session.public(path)
        except (AuthorityError, AuthorityUnavailable) as error:
            warnings.append(f"its CRL cannot be fetched: {error.diagnostics()}")
            return None
        if answer.ok and answer.body:
            return answer.body
        if not answer.ok and answer.status != 404:
            warnings.append(f"its CRL cannot be fetched: {answer.why}")
        return None
