"""An authority that issues from a request: a PKI service, whose chain is judged before it is asked to sign.

What the service says of itself is read again and again. It may sign while its chain reaches a root that the bundle in
force holds; a root that only the service names is a proposal, shown to a person and trusted by no process. What it
returns for a request is not relied on: ``authority.py`` checks it. A certificate revocation list of a back end is
verified before anything in it counts (RFC 5280, section 5).

**Health polls that fail** (:class:`HealthPolling`): how long an earlier good one still counts, and when to poll again.
One lost answer says little: requests may pass all the while, and a signer that stopped them all would make an outage of
it. So a failure that may pass is tolerated a few times in a row while requests pass. Anything that an operator has to
correct counts at once.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
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
)
from federation.core.pki.certificate import Certificate
from federation.kubernetes.backoff import Backoff
from federation.signer.authorities.authority import (
    AuthorityBasics,
    CertificateService,
    IssuedLeaf,
    LeafRequest,
    ManagedAuthority,
    ServiceAnswer,
    ServiceView,
)
from federation.signer.authorities.reports import with_problem, with_warnings

_logger = logging.getLogger(__name__)

SOON: Final = 2.0  # seconds at most until the poll after the first that failed; doubled up to the usual pause
TOLERATED: Final = 2  # failures in a row that an earlier good poll outlasts
TOLERATED_THROTTLED: Final = (
    6  # as many where it answers and only asks for fewer: to stop requests would not help
)

PASSING: Final = frozenset({"timeout", "unreachable", "cut_off", "server_error", "throttled"})
"""Reasons of back ends where nothing is known but that no answer came, or none that says anything."""


class HealthPolling:
    """Counts polls that failed in a row; ``poll_seconds`` is the usual pause between two."""

    def __init__(self, *, poll_seconds: float, jitter: random.Random) -> None:
        self._poll_seconds = poll_seconds
        self._backoff = Backoff(first=SOON, longest=max(SOON, poll_seconds), jitter=jitter)
        self.pause = poll_seconds
        self.suspect: AuthorityUnavailable | None = None
        """Why the last poll failed, while an earlier one still counts."""

    def succeeded(self) -> None:
        """A poll was answered."""
        self._backoff.reset()
        self.pause, self.suspect = self._poll_seconds, None

    def failed(self, error: AuthorityError | AuthorityUnavailable) -> None:
        """A poll failed. It is repeated soon, but for what a repetition cannot correct: logins may be counted."""
        self.suspect = None
        if not isinstance(error, AuthorityUnavailable):
            self.pause = self._poll_seconds
            return
        throttled, at_least = False, 0.0
        if isinstance(error, AuthorityThrottled):
            throttled, at_least = True, min(error.retry_after, self._poll_seconds)
        self.pause = self._backoff.next(at_least=at_least)
        tolerated = TOLERATED_THROTTLED if throttled else TOLERATED
        if (throttled or error.reason in PASSING) and self._backoff.failures <= tolerated:
            self.suspect = error.without_frames()


MOST_PROPOSALS: Final = 8


class ProposedRoots:
    """Roots that the authority of that name names and that are not pinned."""

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
            if len(self._found) < MOST_PROPOSALS:
                _logger.warning(
                    "the authority names a root that is not pinned: %s (%s)",
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


class ServiceAuthority(ManagedAuthority):
    """The authority of a :class:`CertificateService`."""

    def __init__(
        self,
        service: CertificateService,
        basics: AuthorityBasics,
    ) -> None:
        super().__init__(basics)
        self._service = service
        self._health_polling = HealthPolling(poll_seconds=basics.poll_seconds, jitter=basics.context.jitter)
        self._view: ServiceView | None = None
        self._issuers: tuple[Certificate, ...] = ()
        self._crl: RevocationList | None = None
        self._proposals = ProposedRoots(basics.name, self._clock)
        self._refused: AuthorityRefused | None = None

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while they are not known."""
        return self._issuers

    async def revocation_list(self) -> bytes:
        """The newest CRL in DER, verified; raises AuthorityUnavailable where there is none."""
        if self._crl is None:
            raise AuthorityUnavailable("it has no CRL", where=self._name, reason="no_crl")
        return self._crl.der

    async def close(self) -> None:
        """Close the service's sessions and connections."""
        await self._service.close()

    @property
    def _has_what_it_needs(self) -> bool:
        return self._problem is None

    @property
    def _regular_pause(self) -> float:
        return self._health_polling.pause  # shorter after a poll that failed

    async def _issue(self, wanted: LeafRequest) -> IssuedLeaf:
        """What the service returned for the request; :func:`issue_checked` judges it."""
        self._raise_problem()
        try:
            answer = await self._service.issue(wanted)
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            if isinstance(error, AuthorityRefused):
                self._refused = error.without_frames()
            self._confirm_failure(error)
            raise
        self._refused = None
        if answer.chain and (not self._issuers or self._signed_with_another(answer)):
            self._learn(answer.chain)
        return IssuedLeaf(answer.der, answer.chain or self._issuers, built_by_hub=False)

    def _describe(self) -> AuthorityReport:
        """Ready, degraded (it refuses some requests, or something about it is odd), or unavailable."""
        crl, problem, suspect = self._crl, self._problem, self._health_polling.suspect
        report = msgspec.structs.replace(
            self._report([issuer for issuer in self._issuers if not issuer.is_self_signed]),
            proposals=self._proposals.documents(),
            crl_next_update=crl.next_update.timestamp() if crl and crl.next_update else 0.0,
            crl_revoked=crl.revoked if crl else 0,
        )
        if problem is None and self._issuers and self._ends_too_soon(self._issuers):
            problem = AuthorityMisconfigured(
                f"the intermediate or its root ends at {self._ends(self._issuers):%Y-%m-%d %H:%M:%S} UTC",
                where=self._name,
                reason="issuer_expired",
                remedy="have the service issue from a new intermediate now; workloads cannot renew",
            )
        if problem is not None:
            return with_problem(report, "unavailable", problem)
        if suspect is not None:
            detail = f"the last health poll failed, and requests go on: {suspect}"
            return with_problem(report, "degraded", suspect, detail)
        if self._refused is not None:
            return with_problem(report, "degraded", self._refused)
        return with_warnings(report, self._view.warnings if self._view is not None else ())

    async def _poll(self) -> bool:
        """Ask the service and judge what it says of itself."""
        try:
            view = await self._service.poll()
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            self._health_polling.failed(error)
            if self._health_polling.suspect is None or self._problem is not None or self._view is None:
                self._view = None
                self._fail(error)
            else:
                _logger.warning(
                    "a health poll of the authority failed: %s", error, extra={"authority": self._name}
                )
            return False
        self._health_polling.succeeded()
        return self._judge(view)

    def _judge_again(self) -> None:
        if self._view is not None:
            self._judge(self._view)

    def _confirm_failure(self, error: AuthorityError | AuthorityUnavailable) -> None:
        """A request failed after a poll had: the earlier poll that succeeded counts no longer."""
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
        if not view.chain:
            self._recheck_learned()
            return
        in_use = bool(self._issuers) and view.chain[0] == self._issuers[0]
        path = self._path(view.chain, view.chain[0].public_key, anew=not in_use)
        self._crl = self._checked_crl(view, path)
        if path != self._issuers:
            self._issuers = path

    def _recheck_learned(self) -> None:
        """Forget issuers that came with a leaf and do not hold any more: the next leaf shows the new ones."""
        if not self._anchors:
            raise AuthorityUnavailable("there is no bundle yet to judge it by", where=self._name)
        if self._issuers and (self._issuers[-1] not in self._anchors or self._ends_too_soon(self._issuers)):
            self._issuers = ()

    def _signed_with_another(self, answer: ServiceAnswer) -> bool:
        """Whether a service that gives its chain only with a leaf signs below another intermediate by now."""
        known_beforehand = self._view is not None and bool(self._view.chain)
        return not known_beforehand and self._issuers[0] not in answer.chain

    def _learn(self, chain: tuple[Certificate, ...]) -> None:
        """Take the chain that came with a leaf, where the service gives it only so; the leaf is judged elsewhere."""
        try:
            self._issuers = self._path(chain, chain[0].public_key, anew=True)
        except (AuthorityError, AuthorityUnavailable) as error:
            _logger.debug("the chain that came with a leaf is not taken up: %s", error)

    def _checked_crl(self, view: ServiceView, path: Sequence[Certificate]) -> RevocationList | None:
        """The CRL, where the issuer signed it; one that cannot be verified is refused whole."""
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
