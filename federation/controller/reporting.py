"""When a controller writes its report: where something in it has changed, and else as a sign of life.

The report is one document, which grows with the clusters: 180 KB at 200. Much of it says when something was looked at
last, which is another time at each look; that alone is no reason to write all of it anew. Readers get these times with
the sign of life, and none of them judges by less than some heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from federation.core.clock import Clock
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControllerReport,
    ListenerReport,
    RotationReport,
)
from federation.core.documents.encoding import encode
from federation.core.errors import StateUnavailable
from federation.state.store import StateStore

_logger = logging.getLogger(__name__)

HEARTBEAT: Final = 5.0
"""Seconds within which a report is written at the latest; status takes three of them for gone."""

MANY_CLUSTERS: Final = 100
MANY_HEARTBEAT: Final = 10.0
"""The same with more clusters than that: the report of 200 is 400 KB, and written for no other reason."""

SIGN_OF_LIFE: Final = 0.8
"""Of what it promises, after which it is written though nothing has changed: the rest is for a store that is slow."""

COMPARE: Final = 0.5
"""Of a heartbeat, within which it is put together and compared at the latest, where no change was noted."""

COMPARE_FIRST: Final = 0.5
"""The same where that costs little: what is not noted is then seen as soon."""

SHARE: Final = 0.02
"""Of the time that comparing may take: the report of 200 clusters takes a twenty-fifth of a second to put together."""

REPORT_SPACING: Final = 0.25
"""Seconds between reports at least, where something has changed."""

CHANGING_SHARE: Final = 0.1
"""Of the time that comparing may take where something changes all the time, as while a bundle is written."""

STORE_TIMEOUT: Final = 15.0


def heartbeat(clusters: int) -> float:
    """Seconds between two writes of the report at the most, for that number of clusters."""
    return HEARTBEAT if clusters <= MANY_CLUSTERS else MANY_HEARTBEAT


class ReportWriter:
    """Writes what ``compose`` gives under ``key``. ``problem`` is why the last one could not be written, else empty.

    ``also`` is what is not in the report and is a reason to write it all the same, where it is another value.
    """

    def __init__(
        self,
        store: StateStore,
        key: str,
        compose: Callable[[], ControllerReport],
        *,
        clock: Clock,
        also: Callable[[], object] = lambda: None,
    ) -> None:
        self._store = store
        self._key = key
        self._compose = compose
        self._clock = clock
        self._also = also
        self._changed = False
        self._written: tuple[ControllerReport, object] | None = None
        self._due = clock.monotonic()
        self.problem = ""

    def note_change(self) -> None:
        """Something may have changed: compare soon."""
        self._changed = True

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._changed = False
            took, latest = await self._write_news()
            now = self._clock.monotonic()
            pause = min(latest, max(COMPARE_FIRST, took / SHARE))
            spacing = min(latest, max(REPORT_SPACING, took / CHANGING_SHARE))
            compare = min(now + pause, max(self._due, now + spacing))
            await self._clock.sleep(spacing)
            while self._clock.monotonic() < compare and not self._changed:
                await self._clock.sleep(REPORT_SPACING / 4)

    async def _write_news(self) -> tuple[float, float]:
        """Write it where it is due; the seconds that putting it together took, and in how many it is to be repeated."""
        began = self._clock.monotonic()
        report = self._compose()
        news = without_times(report), self._also()
        known = news == self._written
        took, latest = self._clock.monotonic() - began, COMPARE * report.heartbeat
        if known and self._clock.monotonic() < self._due:
            return took, latest
        self._written = None  # unless it is known to have been written
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.write(self._key, encode(report))
        except (StateUnavailable, TimeoutError) as error:
            problem = str(error) or f"the state store did not answer in {STORE_TIMEOUT:g} s"
            if problem != self.problem:
                _logger.error(
                    "the report cannot be written: %s", problem, extra={"reason": "state_unavailable"}
                )
            self.problem = problem
        else:
            self.problem, self._written = "", news
        self._due = self._clock.monotonic() + SIGN_OF_LIFE * report.heartbeat
        return took, latest


def without_times(report: ControllerReport) -> ControllerReport:
    """The report without what is different at each look though nothing has changed: times, and open connections.

    Whether something was read back or proved at all stays, and so do instants that are of what was found there.
    """
    return replace(
        report,
        updated=0.0,
        clusters={name: _cluster(cluster) for name, cluster in report.clusters.items()},
        matrix=replace(report.matrix, computed=float(report.matrix.computed > 0)),
        rotation=rotation_without_times(report.rotation),
        listener=_listener(report.listener),
        open_files=0,
    )


def _cluster(report: ControllerClusterReport) -> ControllerClusterReport:
    publication = report.publication
    return replace(
        report,
        clock_skew=0.0,  # read anew from a header that has whole seconds; too large a one is a state
        publication=replace(publication, read_back=float(publication.read_back > 0), lag=0.0),
        control_planes=[
            replace(plane, read_back=float(plane.read_back > 0)) for plane in report.control_planes
        ],
    )


def rotation_without_times(report: RotationReport) -> RotationReport:
    """The same of a rotation: at each look the rate of certificates is another one, and the last leaf ends sooner."""
    plan = replace(report.plan, rate=0.0, longest_leaf=0.0) if report.plan is not None else None
    return replace(report, computed=0.0, plan=plan)


def _listener(report: ListenerReport) -> ListenerReport:
    signers = [replace(found, proved_at=float(found.proved_at > 0)) for found in report.signers]
    return replace(report, computed=0.0, connections=0, signers=signers)
