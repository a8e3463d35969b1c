"""When a report is written: with each change at once, and with nothing but later times as a sign of life alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from federation.controller.reporting import (
    HEARTBEAT,
    MANY_CLUSTERS,
    MANY_HEARTBEAT,
    REPORT_SPACING,
    ReportWriter,
    heartbeat,
    without_times,
)
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControllerReport,
    ControlPlaneReport,
    ListenerReport,
    Matrix,
    PlanReport,
    PublicationReport,
    RotationReport,
    SignerListenerReport,
    TrustBundleReport,
    WebhookReport,
)
from federation.core.documents.encoding import decode
from federation.core.errors import StateUnavailable
from federation.core.rotation.record import Condition
from federation.state.liveness import is_live
from tests.controller.test_generations import MemoryStore
from tests.support.clock import VirtualClock

KEY = "controllers/one"
CONDITION = Condition(name="read_back", met=False, detail="not yet", cluster="east", until=7.0)
CLUSTER = ControllerClusterReport(
    state="ready",
    reason="none",
    since=3.0,
    clock_skew=0.5,
    publication=PublicationReport(
        selected=3,
        current=3,
        lag=2.0,
        read_back=9.0,
        problems=["a"],
        contents={"d": 3},
        other_writers=["istiod"],
    ),
    probe_not_after=99.0,
    probe_chain=["f"],
    trust_bundle=TrustBundleReport(state="current"),
    control_planes=[
        ControlPlaneReport(
            namespace="istio-system",
            secret="istiod-tls",
            state="provided",
            not_after=9.0,
            renew_at=8.0,
            read_back=7.0,
        )
    ],
    webhooks=[WebhookReport(name="mutating/istio", istiod="istio-system/istiod", anchors=["f"])],
)
REPORT = ControllerReport(
    replica="one",
    started=1.0,
    updated=10.0,
    heartbeat=HEARTBEAT,
    leader=True,
    ready=True,
    reasons=["none"],
    generation=4,
    sources={"pins": "ok"},
    clusters={"east": CLUSTER},
    matrix=Matrix(computed=10.0, clusters=["east"], rows=["-"], reasons={"a>b": "x"}, handshakes=1),
    rotation=RotationReport(
        computed=10.0, state="SOAKED", conditions=[CONDITION], plan=PlanReport(rate=1.5, longest_leaf=60.0)
    ),
    listener=ListenerReport(
        computed=10.0,
        connections=2,
        signers=[SignerListenerReport(replica="s", state="proved", proved_at=10.0)],
    ),
)
TIMES = {
    "updated",
    "clusters.east.clock_skew",
    "clusters.east.publication.lag",
    "clusters.east.publication.read_back",
    "clusters.east.control_planes.0.read_back",
    "matrix.computed",
    "rotation.computed",
    "rotation.plan.rate",
    "rotation.plan.longest_leaf",
    "door.computed",
    "door.connections",
    "door.signers.0.proved_at",
    "open_files",
}
"""What is another at each look though nothing has changed."""


class CountingStore(MemoryStore):
    """Counts what is written, and refuses it while it is ``down``."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[ControllerReport] = []
        self.down = False

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        if self.down:
            raise StateUnavailable("the disk is full")
        self.written.append(decode(data, ControllerReport, key=key))
        return await super().write(key, data, expected=expected, create=create)


class Rig:
    """A writer of a report whose times go on, and in which a test changes the rest."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = CountingStore()
        self.report = REPORT
        self.composed = 0
        self.proved = False
        self.writer = ReportWriter(self.store, KEY, self._compose, clock=self.clock, also=lambda: self.proved)

    def _compose(self) -> ControllerReport:
        self.composed += 1
        at = self.clock.now().timestamp()
        return replace(
            self.report,
            updated=at,
            matrix=replace(self.report.matrix, computed=at),
            rotation=replace(self.report.rotation, computed=at),
        )

    async def look(self, seconds: float) -> None:
        """So long, while the leader notes each second that something may have changed."""
        for _ in range(round(seconds)):
            self.writer.note_change()
            await self.clock.advance(1.0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    running = asyncio.create_task(rig.writer.run())
    await rig.clock.settle()
    yield rig
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_at_rest_it_is_a_sign_of_life_and_no_more(rig: Rig) -> None:
    await rig.look(60)
    assert rig.composed >= 60
    assert len(rig.store.written) <= 16
    at = [report.updated for report in rig.store.written]
    assert all(later - earlier <= HEARTBEAT for earlier, later in itertools.pairwise(at))
    assert rig.clock.now().timestamp() - at[-1] <= HEARTBEAT


async def test_a_report_of_many_clusters_is_written_half_as_often(rig: Rig) -> None:
    assert heartbeat(MANY_CLUSTERS) == HEARTBEAT
    rig.report = replace(rig.report, heartbeat=heartbeat(MANY_CLUSTERS + 1))
    await rig.look(5)
    first = len(rig.store.written)
    await rig.look(60)
    at = [report.updated for report in rig.store.written[first:]]
    assert len(at) <= 8
    assert all(later - earlier <= MANY_HEARTBEAT for earlier, later in itertools.pairwise(at))
    assert is_live(rig.store.written[-1], rig.clock.now().timestamp() + 2 * MANY_HEARTBEAT)


async def test_the_sign_of_life_needs_no_change_that_was_noted(rig: Rig) -> None:
    await rig.clock.advance(60)
    at = [report.updated for report in rig.store.written]
    assert all(later - earlier <= HEARTBEAT for earlier, later in itertools.pairwise(at))
    assert len(at) >= 60 / HEARTBEAT


async def test_a_change_is_written_at_once(rig: Rig) -> None:
    await rig.look(3)
    for generation in (5, 6, 7):
        rig.report = replace(rig.report, generation=generation)
        rig.writer.note_change()
        await rig.clock.advance(2 * REPORT_SPACING)
        assert rig.store.written[-1].generation == generation


async def test_a_change_that_was_not_noted_is_found_within_a_heartbeat(rig: Rig) -> None:
    rig.report = replace(rig.report, generation=5)
    await rig.clock.advance(HEARTBEAT)
    assert rig.store.written[-1].generation == 5


async def test_the_first_proof_of_what_is_in_force_is_written_at_once(rig: Rig) -> None:
    """Its pairs are those of the proof before; readers take it by its time alone."""
    await rig.look(1)
    count, rig.proved = len(rig.store.written), True
    await rig.look(1)
    assert len(rig.store.written) == count + 1


async def test_what_could_not_be_written_is_tried_again(rig: Rig) -> None:
    rig.store.down = True
    rig.report = replace(rig.report, generation=5)
    await rig.look(2)
    assert "the disk is full" in rig.writer.problem
    rig.store.down = False
    await rig.look(2)
    assert rig.store.written[-1].generation == 5
    assert not rig.writer.problem


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, f"{path}.{key}".lstrip("."))
    elif not isinstance(value, dict | list) and value is not None:
        yield path


def with_another(path: str) -> ControllerReport:
    """The report with another value there."""
    document = msgspec.to_builtins(REPORT)
    *way, last = path.split(".")
    place = document
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    key = int(last) if isinstance(place, list) else last
    value = place[key]
    place[key] = not value if isinstance(value, bool) else value + ("x" if isinstance(value, str) else 1)
    return msgspec.convert(document, ControllerReport)


@pytest.mark.parametrize("path", list(leaves(msgspec.to_builtins(REPORT))))
def test_all_but_the_times_of_looks_is_news(path: str) -> None:
    same = without_times(with_another(path)) == without_times(REPORT)
    assert same == (path in TIMES)


def test_whether_something_was_read_back_or_proved_at_all_is_news() -> None:
    never = replace(CLUSTER, publication=replace(CLUSTER.publication, read_back=0.0))
    assert without_times(replace(REPORT, clusters={"east": never})) != without_times(REPORT)
    unproved = replace(REPORT, matrix=replace(REPORT.matrix, computed=0.0))
    assert without_times(unproved) != without_times(REPORT)
