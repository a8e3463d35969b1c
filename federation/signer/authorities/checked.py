"""Asking an authority and judging what it returned: nobody gets a leaf that was not ordered exactly so.

This is the one place where leaves come from, for workloads and for the door's own certificate. A violation
is an alarm: it is counted, kept with its time, logged as an error and shown by status until the process ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from federation.core.clock import Clock
from federation.core.errors import AuthorityUncertain, AuthorityViolation, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.issued import check_issued
from federation.signer.authorities.interface import Authority, IssuedLeaf, LeafOrder
from federation.state.documents import AuthorityReport

_logger = logging.getLogger(__name__)


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
    order: LeafOrder,
    *,
    anchors: Iterable[Certificate],
    at: datetime,
    alarms: Alarms,
    thorough: bool = False,
) -> CheckedLeaf:
    """The leaf that was ordered, judged. Raises what the authority raises, and AuthorityViolation.

    Of a leaf that the hub built everything was judged beforehand: its issuers when they were taken up, its names
    by their constraints. With ``thorough`` it is judged like a stranger's word all the same: the few leaves that tell
    whether an authority is any good, and the door's, can afford that.

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
    issued: IssuedLeaf, order: LeafOrder, anchors: Iterable[Certificate], at: datetime
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
