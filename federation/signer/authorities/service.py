"""An authority that issues from a request: a PKI service, whose chain is judged before it is asked to sign.

What the service says of itself is read again and again. It may sign while its chain reaches a root that the bundle in
force holds; a root that only the service names is a proposal, shown to a person and trusted by no process. What it
returns for an order is a stranger's word, and ``authority.py`` judges it. A certificate revocation list of a back end
is verified before anything in it counts (RFC 5280, section 5).

**Polls that fail:** how long an earlier good one still counts, and when to poll again. One lost answer says little:
requests may pass all the while, and a signer that stopped them all would make an outage of it. So a failure that may
pass is borne a few times in a row while requests pass. Anything that an operator has to mend counts at once. Pure but
for the jitter that it is given.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from federation.core.clock import Clock
from federation.core.documents.signer import AuthorityReport
from federation.core.documents.trust import Proposal
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    FederationError,
)
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LEAST_USEFUL_LIFE
from federation.core.pki.pem import encode_certificates
from federation.core.pki.verification import check_intermediate
from federation.kubernetes.backoff import Backoff
from federation.signer.authorities.authority import (
    Answer,
    CertificateService,
    IssuedLeaf,
    LeafRequest,
    ServiceView,
)

_logger = logging.getLogger(__name__)

SOON: Final = 2.0  # seconds at most until the look after the first that failed; doubled up to the usual pause
BORNE: Final = 2  # failures in a row that an earlier good look outlasts
BORNE_THROTTLED: Final = (
    6  # as many where it answers, and only asks for fewer: stopping requests is no answer to that
)

PASSING: Final = frozenset({"timeout", "unreachable", "cut_off", "server_error", "throttled"})
"""Reasons that a back end gives where nothing is known but that no answer came, or none that says anything."""


class HealthPolling:
    """Counts looks that failed in a row; ``poll_seconds`` is the usual pause between two."""

    def __init__(self, *, poll_seconds: float, jitter: random.Random) -> None:
        self._poll_seconds = poll_seconds
        self._backoff = Backoff(first=SOON, longest=max(SOON, poll_seconds), jitter=jitter)
        self.pause = poll_seconds
        self.suspect: AuthorityUnavailable | None = None
        """Why the last look failed, while an earlier one still counts."""

    def went_well(self) -> None:
        """A look was answered."""
        self._backoff.reset()
        self.pause, self.suspect = self._poll_seconds, None

    def failed(self, error: AuthorityError | AuthorityUnavailable) -> None:
        """A look failed. It is repeated soon, but for what asking again cannot mend: logins may be counted."""
        self.suspect = None
        if not isinstance(error, AuthorityUnavailable):
            self.pause = self._poll_seconds
            return
        throttled, at_least = False, 0.0
        if isinstance(error, AuthorityThrottled):
            throttled, at_least = True, min(error.retry_after, self._poll_seconds)
        self.pause = self._backoff.next(at_least=at_least)
        borne = BORNE_THROTTLED if throttled else BORNE
        if (throttled or error.reason in PASSING) and self._backoff.failures <= borne:
            self.suspect = error


MOST: Final = 8


class Proposals:
    """Of the authority of that name."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._found: dict[str, Proposal] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def documents(self) -> list[Proposal]:
        """As a report shows them."""
        return list(self._found.values())

    def note(self, chain: Sequence[Certificate], anchors: Iterable[Certificate]) -> None:
        """Remember each root in the chain that is none of the anchors, and forget those that are now."""
        pinned = {anchor.sha256 for anchor in anchors}
        for found in chain:
            if not (found.is_self_signed and found.is_ca) or found.sha256 in pinned | set(self._found):
                continue
            if len(self._found) < MOST:
                _logger.warning(
                    "the authority names a root that nobody has pinned: %s (%s)",
                    found.subject,
                    found.sha256,
                    extra={"authority": self._name},
                )
                self._found[found.sha256] = Proposal(
                    sha256=found.sha256,
                    subject=found.subject,
                    cluster="",
                    origin=f"the authority {self._name}",
                    not_after=found.not_after.timestamp(),
                    first_seen=self._clock.now().timestamp(),
                    pem=found.pem.decode("ascii"),
                )
        self._found = {key: value for key, value in self._found.items() if key not in pinned}


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A CRL that one of the issuers has signed."""

    der: bytes = field(repr=False)
    issuer: x509.Name
    next_update: datetime | None
    serials: frozenset[int] = field(repr=False)

    @property
    def revoked(self) -> int:
        """How many certificates it revokes."""
        return len(self.serials)

    def revokes(self, serial: int) -> bool:
        """True where that serial number is on it."""
        return serial in self.serials


def read_revocations(der: bytes, *, issuers: Sequence[Certificate]) -> RevocationList:
    """The list in these bytes. Raises AuthorityMisconfigured where none of ``issuers`` has signed it."""
    try:
        crl = x509.load_der_x509_crl(der)
        signed = any(crl.is_signature_valid(issuer.x509.public_key()) for issuer in issuers)  # type: ignore[arg-type]
        serials = frozenset(entry.serial_number for entry in crl)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityMisconfigured(
            f"its CRL cannot be read ({type(error).__name__})",
            reason="crl_invalid",
            remedy="see what answers at its CRL's address; a CRL in DER is expected",
        ) from None
    if not signed:
        raise AuthorityMisconfigured(
            "its CRL is not signed by its issuer",
            reason="crl_invalid",
            remedy="see what answers at its CRL's address, and whether the issuer was exchanged",
        )
    return RevocationList(der, crl.issuer, crl.next_update_utc, serials)


class ServiceAuthority:
    """Implements ManagedAuthority, KnowsIssuers and PublishesRevocations."""

    def __init__(
        self,
        service: CertificateService,
        *,
        name: str,
        kind: str,
        poll_seconds: float,
        trust_domain: TrustDomain,
        clock: Clock,
        jitter: random.Random,
        hosts: Callable[[], tuple[str, ...]] = tuple,
        ztunnel: Callable[[], bool] = lambda: False,
    ) -> None:
        """``hosts`` are the names of the listener, whose certificate it has to sign as well."""
        self._service = service
        self._name = name
        self._kind = kind
        self._health_polling = HealthPolling(poll_seconds=poll_seconds, jitter=jitter)
        self._trust_domain = trust_domain
        self._hosts = hosts
        self._ztunnel = ztunnel
        self._clock = clock
        self._anchors: tuple[Certificate, ...] = ()
        self._view: ServiceView | None = None
        self._issuers: tuple[Certificate, ...] = ()
        self._crl: RevocationList | None = None
        self._proposals = Proposals(name, clock)
        self._refused: AuthorityRefused | None = None
        self._problem: FederationError | None = AuthorityUnavailable("it was not asked yet", where=name)

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while they are not known."""
        return self._issuers

    @property
    def can_sign(self) -> bool:
        """True while the service answers and what it says of itself is good."""
        return self._problem is None

    @property
    def pause(self) -> float:
        """Seconds until the next look at the service: soon after one that failed."""
        return self._health_polling.pause

    async def issue(self, order: LeafRequest) -> IssuedLeaf:
        """What the service returned for the order, unjudged; raises the problem where there is one."""
        if self._problem is not None:
            raise copy(
                self._problem
            )  # for each its own: one that is raised again and again grows its traceback
        try:
            answer = await self._service.issue(order)
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            if isinstance(error, AuthorityRefused):
                self._refused = error
            self._confirm_failure(error)
            raise
        self._refused = None
        if answer.chain and (not self._issuers or self._signed_with_another(answer)):
            self._learn(answer.chain)
        return IssuedLeaf(answer.der, answer.chain or self._issuers, built_by_hub=False)

    def describe(self) -> AuthorityReport:
        """Ready, degraded (it refuses some requests, or something about it is odd), or unavailable."""
        report = AuthorityReport(
            name=self._name,
            kind=self._kind,
            state="ready",
            proposals=self._proposals.documents(),
            crl_next_update=self._crl.next_update.timestamp() if self._crl and self._crl.next_update else 0.0,
            crl_revoked=self._crl.revoked if self._crl else 0,
        )
        if self._issuers:
            own = self._issuers[0]
            below_root = [issuer for issuer in self._issuers if not issuer.is_self_signed]
            report = msgspec.structs.replace(
                report,
                subject=own.subject,
                sha256=own.sha256,
                not_after=self._ends.timestamp(),
                chain_pem=encode_certificates(below_root).decode("ascii"),
            )
        problem = self._problem
        if problem is None and self._issuers and self._ends_too_soon:
            problem = AuthorityMisconfigured(
                f"the intermediate or its root ends at {self._ends:%Y-%m-%d %H:%M:%S} UTC",
                where=self._name,
                reason="issuer_expired",
                remedy="have the service issue from a new intermediate now; workloads cannot renew",
            )
        if problem is not None:
            return msgspec.structs.replace(
                report,
                state="unavailable",
                reason=problem.reason,
                detail=str(problem),
                remedy=problem.remedy,
            )
        suspect = self._health_polling.suspect
        if suspect is not None:
            return msgspec.structs.replace(
                report,
                state="degraded",
                reason=suspect.reason,
                detail=f"the last look at it failed, and requests go on: {suspect}",
                remedy=suspect.remedy,
            )
        if self._refused is not None:
            return msgspec.structs.replace(
                report,
                state="degraded",
                reason=self._refused.reason,
                detail=str(self._refused),
                remedy=self._refused.remedy,
            )
        warnings = self._view.warnings if self._view is not None else ()
        if warnings:
            return msgspec.structs.replace(
                report, state="degraded", reason="warning", detail="; ".join(warnings)
            )
        return report

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on: the self-signed ones of the bundle in force."""
        self._anchors = tuple(anchor for anchor in anchors if anchor.is_self_signed)
        if self._view is not None:
            self._judge(self._view)

    async def refresh(self) -> bool:
        """Ask the service and judge what it says; what is wrong is kept for :meth:`describe`."""
        try:
            view = await self._service.look()
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            self._health_polling.failed(error)
            if self._health_polling.suspect is None or self._problem is not None or self._view is None:
                self._view = None
                self._fail(error)
            else:
                _logger.warning("a look at the authority failed: %s", error, extra={"authority": self._name})
            return False
        self._health_polling.went_well()
        return self._judge(view)

    async def revocation_list(self) -> bytes:
        """The newest CRL in DER, verified; raises AuthorityUnavailable where there is none."""
        if self._crl is None:
            raise AuthorityUnavailable("it has no CRL", where=self._name, reason="no_crl")
        return self._crl.der

    async def close(self) -> None:
        """Let go of the service."""
        await self._service.close()

    @property
    def _ends(self) -> datetime:
        return min(issuer.not_after for issuer in self._issuers)

    @property
    def _ends_too_soon(self) -> bool:
        return self._clock.now() + LEAST_USEFUL_LIFE > self._ends

    def _confirm_failure(self, error: AuthorityError | AuthorityUnavailable) -> None:
        """A request failed after a look had: the earlier good one counts no longer."""
        silent = isinstance(error, AuthorityUnavailable) and not isinstance(error, AuthorityThrottled)
        if silent and self._health_polling.suspect is not None and self._problem is None:
            self._view = None
            self._fail(copy(error))

    def _judge(self, view: ServiceView) -> bool:
        self._view = view
        self._proposals.note(view.chain, self._anchors)
        try:
            self._take_up(view)
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            if self._proposals and error.reason == "no_anchor":
                error.remedy = "compare the proposed root's fingerprint with its owner, then pin it"
            self._issuers = ()
            self._fail(error)
            return False
        if self._problem is not None:
            _logger.info("the authority can sign", extra={"authority": self._name})
        self._problem = None
        return True

    def _take_up(self, view: ServiceView) -> None:
        if not self._anchors:
            raise AuthorityUnavailable("there is no bundle yet to judge it by", where=self._name)
        if (
            not view.chain
        ):  # told only with a leaf: what was learned has to stand by the anchors and the time of now
            if self._issuers and (self._issuers[-1] not in self._anchors or self._ends_too_soon):
                self._issuers = ()  # or nothing would ever be asked that tells of new ones
            return
        # The configuration may have changed since it was taken up: that must not stop workloads.
        in_use = bool(self._issuers) and view.chain[0] == self._issuers[0]
        path = self._path(view.chain, anew=not in_use)
        self._crl = self._judged_crl(view, path)
        if path != self._issuers:
            self._issuers = path

    def _signed_with_another(self, answer: Answer) -> bool:
        """Whether a service that tells its chain only with a leaf signs below another intermediate by now."""
        tells = self._view is not None and bool(self._view.chain)
        return not tells and self._issuers[0] not in answer.chain

    def _learn(self, chain: tuple[Certificate, ...]) -> None:
        """Take the chain that came with a leaf, where the service tells it only so; the leaf is judged elsewhere."""
        try:
            self._issuers = self._path(chain, anew=True)
        except AuthorityError as error:
            _logger.debug("the chain that came with a leaf is not taken: %s", error)

    def _path(self, chain: tuple[Certificate, ...], *, anew: bool) -> tuple[Certificate, ...]:
        """The way to a root; ``anew`` judged by the listener's names of now as well, and for ztunnel."""
        return check_intermediate(
            chain,
            chain[0].public_key,
            self._anchors,
            self._clock.now(),
            trust_domain=self._trust_domain,
            hosts=self._hosts() if anew else (),
            ztunnel=anew and self._ztunnel(),
        )

    def _judged_crl(self, view: ServiceView, path: Sequence[Certificate]) -> RevocationList | None:
        """The CRL, where the issuer signed it; one that nobody can verify is refused whole."""
        if view.crl_der is None:
            return None
        crl = read_revocations(view.crl_der, issuers=path)
        revoked = next((c for c in path[:-1] if crl.issuer == c.x509.issuer and crl.revokes(c.serial)), None)
        if revoked is not None:
            raise AuthorityMisconfigured(
                f"the CRL of its issuer revokes {revoked.subject} ({revoked.sha256[:16]})",
                reason="issuer_revoked",
                remedy="have the service issue from another intermediate; treat this one's key as lost",
            )
        return crl

    def _fail(self, problem: AuthorityError | AuthorityUnavailable) -> None:
        if str(problem) != str(self._problem):
            _logger.log(
                logging.ERROR if isinstance(problem, AuthorityError) else logging.WARNING,
                "the authority cannot sign: %s",
                problem.diagnostics(),
                extra={"authority": self._name, "reason": problem.reason},
            )
        self._problem = problem
