"""What one member may cost: bytes and objects before anything is taken apart, and processor time while it is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterOverBudget, FederationError
from federation.core.identity import ClusterName
from federation.kubernetes.budget import BRIEF, BRIEF_BYTES, BURST, REPORTED_FOR, SHARE, CpuBudget
from federation.kubernetes.objects import METADATA_ONLY, decode_metadata, decode_pod
from federation.kubernetes.reflector import MAX_PAGE_BYTES, Reflector
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.hostile import giant_page
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE
from tests.support.pauses import pauses

EAST = ClusterName("east")


class Processor:
    """Processor time that a test spends."""

    def __init__(self) -> None:
        self.used = 0.0

    def __call__(self) -> float:
        return self.used


def budget_of(clock: VirtualClock) -> tuple[CpuBudget, Processor]:
    processor = Processor()
    return CpuBudget("east", clock=clock, cpu=processor), processor


@given(st.lists(st.floats(0.0005, 0.2), min_size=1, max_size=200))
def test_a_member_uses_no_more_than_its_share(pieces: list[float]) -> None:
    async def work() -> float:
        clock = VirtualClock()
        budget, processor = budget_of(clock)

        async def member() -> None:
            for piece in pieces:
                with budget.charged():
                    processor.used += piece
                await budget.turn()

        task = asyncio.create_task(member())
        while not task.done():
            await clock.settle()
            if not task.done():
                await clock.advance(clock.next_wake or 0.0)
        return clock.monotonic()

    took = asyncio.run(work())
    assert took >= (sum(pieces) - BURST) / SHARE - 1e-6, "no more than its share after the burst"
    assert took <= max(0.0, sum(pieces) - BURST + 1e-6) / SHARE + 1e-6, "and no less"


async def test_small_pieces_are_charged_by_the_time_that_passes_within_a_bound() -> None:
    """An interruption by the machine's other work counts as a bounded part, and a large piece by processor time."""
    clock, processor, passed = VirtualClock(), Processor(), Processor()

    def charged(size: int | None, *, used: float, went_by: float) -> float:
        budget = CpuBudget("east", clock=clock, cpu=processor, passed=passed, burst=0.0, share=1.0)
        with budget.charged(size):
            processor.used += used
            passed.used += went_by
        return budget.due() or 0.0

    assert charged(BRIEF_BYTES, used=0.0, went_by=0.0003) == pytest.approx(0.0003)
    assert charged(BRIEF_BYTES, used=0.0, went_by=30.0) == pytest.approx(BRIEF)
    assert charged(BRIEF_BYTES + 1, used=0.2, went_by=30.0) == pytest.approx(0.2)
    assert charged(None, used=0.2, went_by=30.0) == pytest.approx(0.2)


def problem_of(budget: CpuBudget) -> FederationError | None:
    return budget.problem


async def test_who_had_to_wait_is_reported_for_a_while_and_no_other_is() -> None:
    clock = VirtualClock()
    (east, processor), (west, _) = budget_of(clock), budget_of(clock)
    assert problem_of(east) is None
    with east.charged():
        processor.used += BURST + 1.0
    waiting = asyncio.create_task(east.turn())
    await clock.until_sleeping()
    await west.turn()
    problem = problem_of(east)
    assert isinstance(problem, ClusterOverBudget)
    assert problem.where == "east"
    assert "10%" in problem.what
    assert west.problem is None
    await clock.advance(1.0 / SHARE)
    await waiting
    await clock.advance(REPORTED_FOR)
    assert problem_of(east) is None


@asynccontextmanager
async def reflected(cluster: SandboxCluster, directory: Path, path: str) -> AsyncIterator[Reflector[Any]]:
    clock = SystemClock()
    timeouts = ClusterTimeouts(backoff_first=0.05, backoff_longest=0.2)
    credentials = Credentials(kubeconfig=cluster.write_kubeconfig(directory / "kubeconfig"))
    session = await ClusterSession.open(
        credentials,
        cluster=EAST,
        timeouts=timeouts,
        clock=clock,
        budget=CpuBudget("east", clock=clock),
    )
    async with session:
        reflector = Reflector[Any](
            session,
            path,
            decode=decode_pod if path.endswith("pods") else decode_metadata,
            accept=METADATA_ONLY,
            timeouts=timeouts,
            clock=clock,
            jitter=random.Random(1),
        )
        task = asyncio.create_task(reflector.run())
        try:
            yield reflector
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(what: object, limit: float = PATIENCE) -> None:
    assert callable(what)
    async with asyncio.timeout(limit):
        while not what():
            await asyncio.sleep(0.01)


async def test_a_giant_page_does_not_hold_up_the_loop_and_is_named(tmp_path: Path) -> None:
    """Seen once: 30 MiB with 400,000 objects took the loop 1.5 s at each hit."""
    async with SandboxCluster("east") as cluster:
        page = giant_page("PodList", 360_000)  # 30 MiB
        assert len(page.body) > 8 * MAX_PAGE_BYTES
        with cluster.faults.inject(page, verb="list", resource="pods"):
            async with pauses() as seen, reflected(cluster, tmp_path, "/api/v1/pods") as reflector:
                await until(lambda: reflector.problem is not None)
                problem = reflector.problem
        assert isinstance(problem, ClusterOverBudget)
        assert "/api/v1/pods" in str(problem)
        assert "larger than" in str(problem)
        assert not reflector.items
        assert seen.longest < 0.5


async def test_a_page_with_more_objects_than_were_asked_for_is_taken_apart_in_slices(tmp_path: Path) -> None:
    """Some API servers ignore ``limit``. What is within the bytes of a page is taken, others get their turns."""
    async with SandboxCluster("east") as cluster:
        page = giant_page("PodList", 30_000)
        assert len(page.body) < MAX_PAGE_BYTES
        with cluster.faults.inject(page, verb="list", resource="pods"):
            async with pauses() as seen, reflected(cluster, tmp_path, "/api/v1/pods") as reflector:
                await until(lambda: len(reflector.items) == 30_000)
        assert seen.longest < 0.1


async def test_large_objects_come_in_smaller_pages(tmp_path: Path) -> None:
    """An honest cluster may hold objects of which a page of the usual length is too large."""
    async with SandboxCluster("east") as cluster:
        for number in range(40):
            metadata = {"name": f"large-{number}", "annotations": {"note": "x" * 200_000}}
            cluster.create("serviceaccounts", {"metadata": metadata}, namespace="default")
        async with reflected(cluster, tmp_path, "/api/v1/serviceaccounts") as reflector:
            await until(lambda: reflector.synced)
            assert sum(key.name.startswith("large-") for key in reflector.items) == 40
            assert reflector.problem is None
        assert 1 < cluster.requests.count(verb="list", resource="serviceaccounts") < 20


def test_labels_beyond_reason_count_as_none() -> None:
    labels = {f"k{number}": "v" for number in range(100_000)}
    raw = msgspec.json.encode({"metadata": {"name": "x", "resourceVersion": "1", "labels": labels}})
    began = time.thread_time()
    for _ in range(20):
        decode_metadata(raw)
    assert (time.thread_time() - began) / 20 < 0.02
    assert decode_metadata(raw).value.labels == {}
