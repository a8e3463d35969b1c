"""What every authority can do and what some can do as well, what back ends are given, and how each leaf is checked.

An authority says what it is and issues leaves; the authority set has it look after itself. There are two kinds. Where
a back end **signs bytes** (a key in a file, in an HSM, behind a signing API), the hub builds the leaf by its own
template and the back end can only fail to sign it: ``hub_built.py`` is the whole authority, and a back end gives it a
:class:`PairSource`. Where a back end **issues from a request** (a PKI service), it may return anything at all:
``service.py`` is the whole authority, a back end gives it a :class:`CertificateService`, and what comes back is
judged against the order before any caller gets it. Anything else an authority can do is a capability: a protocol of
its own that callers look for, once.

What back ends raise, and what becomes of it:

========================  ===============================================================================
AuthorityUnavailable      down, sealed, no answer; counts against it, callers are told to ask again
AuthorityThrottled        asks for fewer requests; the queue slows down
AuthorityUncertain        may have issued all the same; accounted for as issued
AuthorityMisconfigured    an operator must mend key, login, role or permission; counts against it
AuthorityRefused          refuses this one request; others may pass
AuthorityViolation        answered with something else than was asked for: an alarm
========================  ===============================================================================

``reason`` says which it is exactly, ``remedy`` what to do; no secret is ever part of either.

:func:`issue_checked` is the one place where leaves come from, for workloads and for the listener's own certificate: no
caller gets a leaf that was not ordered exactly so. A violation is an alarm: it is counted, kept with its time, logged
as an error and shown by status until the process ends.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

import msgspec

from federation.core.clock import Clock
from federation.core.config.authorities.settings import AuthorityConfig, ConjurConfig, SpiffeConfig
from federation.core.config.hub import SignerConfig
from federation.core.documents.signer import AuthorityReport
from federation.core.errors import (
    AuthorityMisconfigured,
    AuthorityUncertain,
    AuthorityViolation,
    InvalidValue,
)
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import PublicKey
from federation.core.pki.leaf import LeafProfile, Validity
from federation.core.pki.verification import check_issued

_logger = logging.getLogger(__name__)


class LeafRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf as it is to be: checked, clamped, and with a serial number already drawn.

    ``names`` are what ``san`` holds, as text: one SPIFFE ID, or the DNS names of a server. ``csr_pem`` is the
    request as it came, for services that issue from one; nothing else of it is to be used. ``cluster`` and
    ``replaces`` (when what the caller holds ends, None where that is not known) decide whose turn it is where
    a back end allows only so many a second.
    """

    profile: LeafProfile
    public_key: PublicKey
    spki_der: bytes
    names: tuple[str, ...]
    san: SubjectAltName
    serial: int
    validity: Validity
    csr_pem: str
    cluster: str = ""
    replaces: datetime | None = None


class IssuedLeaf(msgspec.Struct, frozen=True):
    """A leaf and every certificate above it, its issuer first and a self-signed root last.

    ``built_by_hub`` says that the hub made every byte but the signature, which was made or verified with
    the issuer's key in this process; otherwise the leaf is a stranger's word.
    """

    der: bytes
    issuers: tuple[Certificate, ...]
    built_by_hub: bool


class Authority(Protocol):
    """The intermediate that signs for every cluster."""

    def describe(self) -> AuthorityReport:
        """What it is and how it fares now; never blocks."""
        ...

    async def issue(self, order: LeafRequest) -> IssuedLeaf:
        """The leaf that was ordered; raises what the module's table says."""
        ...


class ManagedAuthority(Authority, Protocol):
    """An authority as its keeper sees it."""

    @property
    def can_sign(self) -> bool:
        """True while nothing is known that stands in the way."""
        ...

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """As in :class:`KnowsIssuers`."""
        ...

    @property
    def pause(self) -> float:
        """Seconds until it should be refreshed next."""
        ...

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on: those of the bundle in force."""
        ...

    async def refresh(self) -> bool:
        """Look at files, logins, chains and health anew; what is wrong is kept for :meth:`describe`.

        True where this look went well; one that did not may leave an earlier one in force.
        """
        ...

    async def close(self) -> None:
        """Let go of sessions and connections, once nothing is under way any more."""
        ...


@runtime_checkable
class KnowsIssuers(Protocol):
    """Optional: knows beforehand which certificates will stand above a leaf, so that it can be clamped."""

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, self-signed root last, empty where it has none; one object until they change."""
        ...


@runtime_checkable
class PublishesRevocations(Protocol):
    """Optional: keeps a CRL."""

    async def revocation_list(self) -> bytes:
        """The newest CRL in DER."""
        ...


@runtime_checkable
class HasWarnings(Protocol):
    """Optional, of a PairSource: what an operator should know although signing goes on."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Shown as they are; empty where all is well."""
        ...


class SigningKey(Protocol):
    """The private key of an intermediate, wherever it lives."""

    @property
    def public_key(self) -> PublicKey:
        """Its public half, as the holder of the key gives it."""
        ...

    @property
    def has_local_key(self) -> bool:
        """True where the key is in this process, so that its signatures need no verification."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """The signature as it stands in a certificate: ECDSA in DER, or RSASSA-PKCS1-v1_5.

        The hash goes by the kind of key (:func:`federation.core.pki.keys.digest`). Raises what the module's
        table says, and never leaves the back end's session in doubt when it is cancelled.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A chain (intermediate first, then what stands between it and the root) and its key."""

    chain: tuple[Certificate, ...]
    key: SigningKey


class PairSource(Protocol):
    """Where the chain and the key of a hub-built leaf come from."""

    async def read(self) -> KeyPair:
        """Both as they are now; the very same object while nothing has changed.

        Bounded in time. Raises AuthorityMisconfigured or AuthorityUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go of what is held open."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What a service says of itself: the certificates above its leaves, its issuer first, and its CRL.

    ``chain`` is empty where the service tells only with a leaf. ``warnings`` are shown as they are.
    """

    chain: tuple[Certificate, ...] = ()
    crl_der: bytes | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service returned: the leaf's bytes, and the certificates that came with it in any order."""

    der: bytes
    chain: tuple[Certificate, ...]


class CertificateService(Protocol):
    """A service that issues from a request."""

    async def look(self) -> ServiceView:
        """Log in where that is due, check its health and fetch its chain; cheap where nothing is due.

        Bounded in time. Raises AuthorityMisconfigured, AuthorityUnavailable or AuthorityThrottled.
        """
        ...

    async def issue(self, order: LeafRequest) -> Answer:
        """Have it issued; raises what the module's table says. Bounded in time."""
        ...

    async def close(self) -> None:
        """Let go of what is held open."""
        ...


@dataclass(frozen=True, slots=True)
class CheckedLeaf:
    """A leaf that may be handed out. ``issuers`` is the path above it, its anchor last."""

    der: bytes
    issuers: tuple[Certificate, ...]
    not_after: datetime


class Alarms:
    """What back ends did that they must never do, and answers of theirs that were lost."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.violations = 0
        self.last_violation = ""
        self.last_violation_at = 0.0
        self.uncertain = 0

    def absorb(self, others: Alarms) -> None:
        """Take over those of an authority that is no longer used: an alarm is shown until the process ends."""
        self.violations += others.violations
        self.uncertain += others.uncertain
        if others.last_violation_at > self.last_violation_at:
            self.last_violation, self.last_violation_at = others.last_violation, others.last_violation_at

    def recall(self, report: AuthorityReport) -> None:
        """Take over what this signer reported before it was killed: that answers no alarm."""
        self.violations += report.violations
        self.uncertain += report.uncertain
        if report.last_violation_at > self.last_violation_at:
            self.last_violation, self.last_violation_at = report.last_violation, report.last_violation_at

    def violated(self, error: AuthorityViolation) -> None:
        """Raise the alarm."""
        self.violations += 1
        self.last_violation = str(error)
        self.last_violation_at = self.clock.now().timestamp()
        _logger.error(
            "ALARM: the authority returned something else than was asked for: %s",
            error.diagnostics(),
            extra={"reason": error.reason},
        )


async def issue_checked(
    authority: Authority,
    order: LeafRequest,
    *,
    anchors: Iterable[Certificate],
    at: datetime,
    alarms: Alarms,
    thorough: bool = False,
) -> CheckedLeaf:
    """The leaf that was ordered, judged. Raises what the authority raises, and AuthorityViolation.

    Of a leaf that the hub built everything was judged beforehand: its issuers when they were taken up, its names
    by their constraints. With ``thorough`` it is judged like a stranger's word all the same: the few leaves that tell
    whether an authority is any good, and the listener's, can afford that.

    ``at`` is when it was ordered. It is judged by the clock after the answer: a service that dates a leaf from the
    moment it signs has not looked into the future.
    """
    try:
        issued = await authority.issue(order)
        if issued.built_by_hub and not thorough:
            return CheckedLeaf(issued.der, issued.issuers, order.validity.not_after)
        return _judged(issued, order, anchors, max(at, alarms.clock.now()))
    except AuthorityUncertain:
        alarms.uncertain += 1
        raise
    except AuthorityViolation as error:
        alarms.violated(error)
        raise


def _judged(
    issued: IssuedLeaf, order: LeafRequest, anchors: Iterable[Certificate], at: datetime
) -> CheckedLeaf:
    try:
        leaf = Certificate.from_der(issued.der)
    except InvalidValue as error:
        raise AuthorityViolation(f"what it returned is no certificate: {error}", reason="garbage") from None
    path = check_issued(
        leaf,
        issued.issuers,
        subject=", ".join(order.names),
        public_key=order.public_key,
        san=order.san,
        validity=order.validity,
        anchors=anchors,
        at=at,
        profile=order.profile,
    )
    return CheckedLeaf(leaf.der, path[1:], leaf.not_after)


MayExchange = Callable[[Sequence[Certificate], Sequence[Certificate]], AuthorityMisconfigured | None]
"""Why what is below the second issuers must not take the place of what is below the first; None where it may."""


@dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """Everything of a configuration that decides what an authority is: another one means another authority."""

    authority: AuthorityConfig
    conjur: ConjurConfig | None = None
    spiffe: SpiffeConfig | None = None

    @classmethod
    def of(cls, signer: SignerConfig) -> AuthoritySettings:
        """Those of ``[signer]``."""
        return cls(signer.authority, signer.conjur, signer.spiffe)


@dataclass(frozen=True, slots=True)
class BackEndContext:
    """What every back end is given beside its settings; ``hosts`` are the listener's names.

    ``ztunnel`` says whether ztunnels verify what is signed.

    ``exchange`` says why a pair that its source holds by now must not take the place of the one in use, where that
    can still sign. A service signs with what it likes: what it says of itself is judged when an authority is chosen,
    and each leaf of it before it is handed out.
    """

    trust_domain: TrustDomain
    clock: Clock
    random_bytes: Callable[[int], bytes]
    jitter: random.Random
    hosts: Callable[[], tuple[str, ...]] = tuple
    exchange: MayExchange = lambda _, __: None
    ztunnel: Callable[[], bool] = lambda: False
