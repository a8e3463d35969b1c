"""What an authority is, what back ends give it and are given, and how each leaf is checked.

An authority describes itself and issues leaves; the authority set has it poll its back end. There are two kinds. Where
a back end **signs bytes** (a key in a file, in an HSM, behind a signing API), the hub builds the leaf by its own
template and the back end can only fail to sign it: ``hub_built.py`` is the whole authority, and a back end gives it a
:class:`PairSource`. Where a back end **issues from a request** (a PKI service), it may return anything at all:
``service.py`` is the whole authority, a back end gives it a :class:`CertificateService`, and what comes back is
compared with the request before any caller gets it. What both kinds share is in :class:`ManagedAuthority`.

What back ends raise, and what becomes of it:

========================  ===============================================================================
AuthorityUnavailable      down, sealed, no answer; counts against it, callers may ask again
AuthorityThrottled        asks for fewer requests; the limiter slows down
AuthorityUncertain        may have issued all the same; accounted for as issued
AuthorityMisconfigured    an operator must correct key, login, role or permission; counts against it
AuthorityRefused          refuses this one request; others may pass
AuthorityViolation        answered with something else than was requested: an alarm
========================  ===============================================================================

``reason`` says which it is exactly, ``remedy`` what to do; no secret is ever part of either.

:func:`issue_checked` is the one place where leaves come from, for workloads and for the listener's own certificate: no
caller gets a leaf that was not requested exactly so. A violation is an alarm: it is counted, kept with its time, logged
as an error and shown by status until the process ends.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from federation.core.clock import Clock
from federation.core.config.authorities.settings import AuthorityConfig, ConjurConfig, SpiffeConfig
from federation.core.config.hub import SignerConfig
from federation.core.documents.signer import AuthorityReport
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    FederationError,
    InvalidValue,
)
from federation.core.identity import SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import PrivateKey, PublicKey, spki
from federation.core.pki.leaf import LEAST_USEFUL_LIFE, LeafProfile, Validity, draw_serial
from federation.core.pki.pem import encode_certificates
from federation.core.pki.requests import build_request
from federation.core.pki.verification import check_intermediate, check_issued
from federation.signer.authorities.limiter import Limiter

_logger = logging.getLogger(__name__)


class LeafRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf as it is to be: checked, clamped, and with a serial number already drawn.

    ``names`` are what ``san`` holds, as text: one SPIFFE ID, or the DNS names of a server. ``csr_pem`` is the
    request as it came, for services that issue from one; nothing else of it is to be used. ``cluster`` and
    ``replaces`` (when the caller's certificate ends, None where none is known) decide whose turn it is where a back
    end has a quota.
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
    the issuer's key in this process; otherwise nothing of the leaf may be relied on before it is checked.
    """

    der: bytes
    issuers: tuple[Certificate, ...]
    built_by_hub: bool


class Authority(Protocol):
    """The intermediate that signs for every cluster, as issuance sees it."""

    def describe(self) -> AuthorityReport:
        """What it is and how it fares now; never blocks."""
        ...

    async def issue(self, wanted: LeafRequest) -> IssuedLeaf:
        """The leaf that was requested; raises what the module's table says."""
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
        """The signature as certificates have it: ECDSA in DER, or RSASSA-PKCS1-v1_5.

        The hash goes by the kind of key (:func:`federation.core.pki.keys.digest`). Raises what the module's
        table says, and leaves the back end's session usable when it is cancelled.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A chain (intermediate first, then those between it and the root) and its key."""

    chain: tuple[Certificate, ...]
    key: SigningKey


class PairSource(Protocol):
    """Where the chain and the key of a hub-built leaf come from."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know although signing goes on, as of the last :meth:`read`."""
        ...

    async def read(self) -> KeyPair:
        """Both as they are now; the very same object while nothing has changed.

        Bounded in time. Raises AuthorityMisconfigured or AuthorityUnavailable.
        """
        ...

    async def close(self) -> None:
        """Close sessions and connections."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What a service says of itself: the certificates above its leaves, its issuer first, and its CRL.

    ``chain`` is empty where the service gives it only with a leaf. ``warnings`` are shown as they are.
    """

    chain: tuple[Certificate, ...] = ()
    crl_der: bytes | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """What a service returned: the leaf's bytes, and the certificates that came with it in any order."""

    der: bytes
    chain: tuple[Certificate, ...]


class CertificateService(Protocol):
    """A service that issues from a request."""

    async def poll(self) -> ServiceView:
        """Poll it: log in where that is due, check its health and fetch its chain; cheap where nothing is due.

        Bounded in time. Raises AuthorityMisconfigured, AuthorityUnavailable or AuthorityThrottled.
        """
        ...

    async def issue(self, wanted: LeafRequest) -> ServiceAnswer:
        """Have it issued; raises what the module's table says. Bounded in time."""
        ...

    async def close(self) -> None:
        """Close sessions and connections."""
        ...


def request_for_own_key(
    key: PrivateKey,
    name: SpiffeId | tuple[str, ...],
    validity: Validity,
    random_bytes: Callable[[int], bytes],
) -> LeafRequest:
    """A request for a key that this process has made: a workload's with an identity, a server's with host names."""
    serving = not isinstance(name, SpiffeId)
    names = (str(name),) if isinstance(name, SpiffeId) else name
    return LeafRequest(
        profile=LeafProfile.SERVING if serving else LeafProfile.WORKLOAD,
        public_key=key.public_key(),
        spki_der=spki(key.public_key()),
        names=names,
        san=SubjectAltName.of_identity(name) if isinstance(name, SpiffeId) else SubjectAltName.of_hosts(name),
        serial=draw_serial(random_bytes),
        validity=validity,
        csr_pem=build_request(
            key, [x509.DNSName(each) if serving else x509.UniformResourceIdentifier(each) for each in names]
        ),
    )


class CheckedLeaf(msgspec.Struct, frozen=True):
    """A leaf that may be handed out. ``issuers`` is the path above it, its anchor last."""

    der: bytes
    issuers: tuple[Certificate, ...]
    not_after: datetime


class Alarms:
    """Violations of back ends, and answers of theirs that were lost."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.violations = 0
        self.last_violation = ""
        self.last_violation_at = 0.0
        self.uncertain = 0

    def absorb(self, others: Alarms | AuthorityReport) -> None:
        """Take over those of an authority that is no longer used, or those that were reported before a restart.

        An alarm is shown until the process ends in good wanted: to be killed answers none.
        """
        self.violations += others.violations
        self.uncertain += others.uncertain
        if others.last_violation_at > self.last_violation_at:
            self.last_violation, self.last_violation_at = others.last_violation, others.last_violation_at

    def violated(self, error: AuthorityViolation) -> None:
        """Raise the alarm."""
        self.violations += 1
        self.last_violation = str(error)
        self.last_violation_at = self.clock.now().timestamp()
        _logger.error(
            "ALARM: the authority returned something else than was requested: %s",
            error.diagnostics(),
            extra={"reason": error.reason},
        )


async def issue_checked(
    authority: Authority,
    wanted: LeafRequest,
    *,
    anchors: Iterable[Certificate],
    at: datetime,
    alarms: Alarms,
    thorough: bool = False,
) -> CheckedLeaf:
    """The leaf that was requested, checked. Raises what the authority raises, and AuthorityViolation.

    Of a leaf that the hub built everything was checked beforehand: its issuers when they were taken up, its names
    by their constraints. With ``thorough`` it is checked like any other all the same: canary leaves and the
    listener's are few enough for that.

    ``at`` is when it was requested. It is checked by the clock after the answer: a service may date a leaf from the
    moment it signs.
    """
    try:
        issued = await authority.issue(wanted)
        if issued.built_by_hub and not thorough:
            return CheckedLeaf(issued.der, issued.issuers, wanted.validity.not_after)
        return _judged(issued, wanted, anchors, max(at, alarms.clock.now()))
    except AuthorityUncertain:
        alarms.uncertain += 1
        raise
    except AuthorityViolation as error:
        alarms.violated(error)
        raise


def _judged(
    issued: IssuedLeaf, wanted: LeafRequest, anchors: Iterable[Certificate], at: datetime
) -> CheckedLeaf:
    try:
        leaf = Certificate.from_der(issued.der)
    except InvalidValue as error:
        raise AuthorityViolation(f"what it returned is no certificate: {error}", reason="garbage") from None
    path = check_issued(
        leaf,
        issued.issuers,
        subject=", ".join(wanted.names),
        public_key=wanted.public_key,
        san=wanted.san,
        validity=wanted.validity,
        anchors=anchors,
        at=at,
        profile=wanted.profile,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityBasics:
    """What makes an authority beside its back end: its name and kind, how often it is polled, and its limiter.

    ``limiter`` protects a back end that is reached by a network or a device; None where the key is in this process.
    """

    name: str
    kind: str
    poll_seconds: float
    context: BackEndContext
    limiter: Limiter | None = None


class ManagedAuthority(ABC):
    """An authority as the authority set keeps it: what both kinds share, around what each does its own way.

    While nothing is known that prevents it, it signs under an intermediate that was checked against the anchors of the
    bundle in force (:meth:`trust`). :meth:`refresh` polls the back end; what is wrong is kept for :meth:`describe`.
    Where there is a limiter, requests wait for their turn in it, and its circuit breaker decides what goes out at all.
    """

    _outage: ClassVar = "the authority cannot sign"  # how the log introduces what is wrong
    _outage_level: ClassVar = logging.WARNING

    def __init__(self, basics: AuthorityBasics) -> None:
        self._name = basics.name
        self._kind = basics.kind
        self._poll_seconds = basics.poll_seconds
        self._context = basics.context
        self._clock = basics.context.clock
        self._limiter = basics.limiter
        self._anchors: tuple[Certificate, ...] = ()
        self._problem: FederationError | None = AuthorityUnavailable(
            "it was not polled yet", where=basics.name
        )

    @property
    @abstractmethod
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, self-signed root last; empty while they are not known; one object until they change."""

    @property
    def can_sign(self) -> bool:
        """True while nothing is known that prevents it."""
        return self._has_what_it_needs and (self._limiter is None or not self._limiter.open)

    @property
    def pause(self) -> float:
        """Seconds until the back end should be polled next."""
        regular = self._regular_pause
        return regular if self._limiter is None else self._limiter.pause(regular)

    @property
    def busy(self) -> bool:
        """True while requests wait for it or are being answered by it."""
        return self._limiter is not None and self._limiter.busy

    def take_share(self, share: float) -> None:
        """Take this part of the quota: the others are taken by other signers."""
        if self._limiter is not None:
            self._limiter.share = share

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on: the self-signed ones of the bundle in force."""
        self._anchors = tuple(anchor for anchor in anchors if anchor.is_self_signed)
        self._judge_again()

    async def issue(self, wanted: LeafRequest) -> IssuedLeaf:
        """The leaf, when its turn has come; raises what the module's table says, and Overloaded."""
        if self._limiter is None:
            return await self._issue(wanted)
        async with self._limiter.admitted(wanted.cluster, wanted.replaces):
            return await self._issue(wanted)

    async def refresh(self) -> bool:
        """Poll the back end, unless its circuit is open and no probe is due.

        True where this poll succeeded; after one that failed an earlier one may stay in force.
        """
        limiter = self._limiter
        if limiter is None:
            return await self._poll()
        if not limiter.probe_due:
            return False
        good = await self._poll()
        limiter.polled(good=good and self._has_what_it_needs, report=self._describe())
        return good

    def describe(self) -> AuthorityReport:
        """Ready, degraded (it signs, and something is wrong), or unavailable; with the reason and the quota's use."""
        report = self._describe()
        return report if self._limiter is None else self._limiter.report(report)

    @abstractmethod
    async def close(self) -> None:
        """Close sessions and connections, once nothing is under way any more."""

    @property
    @abstractmethod
    def _has_what_it_needs(self) -> bool:
        """True while it could sign, whatever the limiter says."""

    @property
    def _regular_pause(self) -> float:
        return self._poll_seconds

    @abstractmethod
    async def _issue(self, wanted: LeafRequest) -> IssuedLeaf: ...

    @abstractmethod
    async def _poll(self) -> bool: ...

    @abstractmethod
    def _judge_again(self) -> None:
        """Judge what is known by other anchors."""

    @abstractmethod
    def _describe(self) -> AuthorityReport: ...

    def _raise_problem(self) -> None:
        """Raise what is wrong, if anything is: for each caller its own, or its traceback would grow with each."""
        if self._problem is not None:
            raise copy(self._problem)

    def _path(
        self, chain: tuple[Certificate, ...], public_key: CertificatePublicKeyTypes, *, anew: bool
    ) -> tuple[Certificate, ...]:
        """The checked way from the intermediate to an anchor; ``public_key`` is what signs for it.

        ``anew`` it is judged by the configuration of now as well: by the listener's names, and for ztunnel. What is in
        use already must not stop workloads because the configuration has changed since.
        """
        if not self._anchors:
            raise AuthorityUnavailable("there is no bundle yet to judge it by", where=self._name)
        return check_intermediate(
            chain,
            public_key,
            self._anchors,
            self._clock.now(),
            trust_domain=self._context.trust_domain,
            hosts=self._context.hosts() if anew else (),
            ztunnel=anew and self._context.ztunnel(),
        )

    def _report(self, chain: Sequence[Certificate]) -> AuthorityReport:
        """A report with nothing wrong in it; ``chain`` is what is shown of the issuers, the intermediate first."""
        report = AuthorityReport(name=self._name, kind=self._kind, state="ready")
        if not chain:
            return report
        return msgspec.structs.replace(
            report,
            subject=chain[0].subject,
            sha256=chain[0].sha256,
            not_after=self._ends(self.issuers).timestamp(),
            chain_pem=encode_certificates(chain).decode("ascii"),
        )

    def _ends(self, issuers: Sequence[Certificate]) -> datetime:
        """When the first of them ends."""
        return min(issuer.not_after for issuer in issuers)

    def _ends_too_soon(self, issuers: Sequence[Certificate]) -> bool:
        """True where no leaf under them would live long enough to be of use."""
        return self._clock.now() + LEAST_USEFUL_LIFE > self._ends(issuers)

    def _fail(self, problem: AuthorityError | AuthorityUnavailable) -> None:
        """Keep what is wrong, and log it where it is not what was wrong before."""
        if str(problem) != str(self._problem):
            _logger.log(
                logging.ERROR if isinstance(problem, AuthorityError) else self._outage_level,
                "%s: %s",
                self._outage,
                problem.diagnostics(),
                extra={"authority": self._name, "reason": problem.reason},
            )
        self._problem = problem.without_frames()
