"""What happened over the last hours, minute by minute: certificates issued, requests refused, certificates that ended.

Signers report counts since they started. Two readings of the same signer give what happened in between, and that is
added to the minute of the later one. It is kept in memory alone: it says since when it counts, begins anew with the
process, and is not part of the verdict. A minute in which nothing could be read is ``None``, which is not zero: what
happened meanwhile is counted in no minute.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from federation.core.clock import Clock
from federation.core.documents.signer import SignerClusterReport, SignerReport
from federation.core.errors import StateUnavailable
from federation.state.liveness import is_live, workloads_of
from federation.status.model import HistoryView
from federation.status.snapshot import SnapshotReader

_logger = logging.getLogger(__name__)

STEP: Final = 60
"""Seconds of one bucket."""

KEPT: Final = 360
"""Buckets that are kept: six hours."""

EVERY: Final = 20.0
"""Seconds between two readings: a minute in which one of them fails still has two others."""

LONGEST_GAP: Final = 3 * STEP
"""Seconds between two readings after which what happened meanwhile belongs to no minute any more."""

MOST_REASONS: Final = 40
"""Reasons of refusal that are distinguished in one minute; what a document names beyond that is in the sum alone."""


@dataclass(slots=True)
class _Minute:
    issued: int = 0
    refused: int = 0
    ended: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class History:
    """The minutes of the last hours. Bounded by :data:`KEPT`, whatever the reports say."""

    def __init__(self, since: float) -> None:
        """``since`` is when counting begins (seconds since the epoch)."""
        self._since = since
        self._minutes: dict[int, _Minute] = {}
        self._last: Mapping[str, SignerReport] = {}
        self._read_at: float | None = None

    def observe(self, signers: Mapping[str, SignerReport], now: float) -> None:
        """Take in the signers' reports as they were read at ``now`` (seconds since the epoch)."""
        number = int(now // STEP)
        minute = self._minutes.setdefault(number, _Minute())
        if self._read_at is not None and 0 <= now - self._read_at <= LONGEST_GAP:
            for replica, report in signers.items():
                before = self._last.get(replica)
                if before is not None and before.started != report.started:
                    before = None
                if before is not None or report.started >= self._read_at:
                    _add(minute, before.clusters if before else {}, report.clusters)
        live = [report for report in signers.values() if is_live(report, now)]
        names = {name for report in live for name in report.clusters}
        reports = [workloads_of(live, name) for name in names]
        minute.ended = max(minute.ended, sum(max(0, report.lapsed) for report in reports if report))
        self._last, self._read_at = signers, now
        for old in [known for known in self._minutes if not number - KEPT < known <= number]:
            del self._minutes[old]

    def view(self, now: float) -> HistoryView:
        """All minutes from the first one that is kept until that of ``now``, oldest first."""
        last = int(now // STEP)
        first = max(last - KEPT + 1, int(self._since // STEP))
        minutes = [self._minutes.get(number) for number in range(first, last + 1)]
        reasons: Counter[str] = Counter()
        for minute in minutes:
            reasons.update(minute.reasons if minute else {})
        return HistoryView(
            since=self._since,
            first=float(first * STEP),
            step=float(STEP),
            issued=[minute.issued if minute else None for minute in minutes],
            refused=[minute.refused if minute else None for minute in minutes],
            ended=[minute.ended if minute else None for minute in minutes],
            refusals=dict(sorted(reasons.items())),
        )


def _add(
    minute: _Minute,
    before: Mapping[str, SignerClusterReport],
    after: Mapping[str, SignerClusterReport],
) -> None:
    """Add what one signer did between two reports. A count that fell, as of a cluster that was added anew, adds 0."""
    for name, report in after.items():
        known = before.get(name) or SignerClusterReport(state="")
        minute.issued += max(0, (report.issued - report.own_issued) - (known.issued - known.own_issued))
        for reason, count in report.refused.items():
            own = report.own_refused.get(reason, 0) - known.own_refused.get(reason, 0)
            more = max(0, count - known.refused.get(reason, 0) - max(0, own))
            minute.refused += more
            if more and (reason in minute.reasons or len(minute.reasons) < MOST_REASONS):
                minute.reasons[reason] += more


async def keep(history: History, reader: SnapshotReader, clock: Clock) -> None:
    """Read the reports again and again, until cancelled. A store that cannot be read leaves a gap."""
    while True:
        await clock.sleep(EVERY)
        try:
            documents = await reader.read()
        except StateUnavailable:
            pass  # the API says so, and the reader of status logs it once
        except Exception:
            _logger.exception("the history of the last hours could not be carried on")
        else:
            history.observe(documents.signers, clock.now().timestamp())
