"""A limit on how long another may take does not count how late this process is itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterTimeout
from federation.core.identity import ClusterName
from federation.kubernetes.session import OWN_DELAY, ClusterSession
from federation.kubernetes.time_limit import MOST_EXTENDED, TimeLimit
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Hang
from federation_sandbox.cluster import SandboxCluster


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time a test moves, as it passes where the process is kept from running."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


@pytest.fixture
def loop() -> Iterator[JumpingLoop]:
    loop = JumpingLoop()
    yield loop
    loop.close()


def test_an_answer_that_is_there_is_read_however_late_this_process_is(loop: JumpingLoop) -> None:
    """Every turn of the loop takes two seconds, and the answer some turns: thrice the limit in all."""

    async def ask() -> float:
        limit = TimeLimit(15.0)
        async with limit:
            for _ in range(22):
                await asyncio.sleep(0.001)
                loop.ahead += 2.0
        return limit.late

    assert loop.run_until_complete(ask()) > 40


def test_where_this_process_is_in_time_it_is_a_limit_as_any(loop: JumpingLoop) -> None:
    async def ask() -> float:
        limit = TimeLimit(0.2)
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with limit:
                await loop.create_future()
        assert limit.expired
        return loop.time() - began - limit.late

    assert loop.run_until_complete(ask()) >= 0.2


def test_what_is_not_counted_has_an_end(loop: JumpingLoop) -> None:
    async def wait() -> None:
        async with TimeLimit(10.0):
            while True:
                await asyncio.sleep(0.001)
                loop.ahead += 2.0

    async def ask() -> float:
        began = loop.time()
        with pytest.raises(TimeoutError):
            await wait()
        return loop.time() - began

    assert loop.run_until_complete(ask()) == pytest.approx(10.0 * (1 + MOST_EXTENDED), abs=5.0)


def test_it_ends_nothing_after_it_was_left(loop: JumpingLoop) -> None:
    async def ask() -> bool:
        async with TimeLimit(0.1) as limit:
            pass
        loop.ahead += 60.0
        await asyncio.sleep(0.05)
        return limit.expired

    assert loop.run_until_complete(ask()) is False


def test_what_is_cancelled_is_no_timeout(loop: JumpingLoop) -> None:
    async def ask() -> None:
        async with TimeLimit(60.0):
            await loop.create_future()

    async def cancel() -> None:
        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run_until_complete(cancel())


@pytest.mark.parametrize(("jump", "reason"), [(2.0, OWN_DELAY), (0.0, "timeout")])
def test_a_cluster_is_not_said_to_be_silent_by_a_process_that_is_late(
    loop: JumpingLoop, tmp_path: Path, jump: float, reason: str
) -> None:
    async def go_late() -> None:
        while True:
            await asyncio.sleep(0.01)
            loop.ahead += jump

    async def ask() -> str:
        async with SandboxCluster("east") as east:
            east.write_kubeconfig(tmp_path / "kubeconfig")
            async with await ClusterSession.open(
                Credentials(kubeconfig=tmp_path / "kubeconfig"),
                cluster=ClusterName("east"),
                timeouts=ClusterTimeouts(),
                clock=SystemClock(),
            ) as session:
                await session.get("/version")  # the connection is there
                with east.faults.inject(Hang()):
                    late = asyncio.create_task(go_late())
                    try:
                        with pytest.raises(ClusterTimeout) as failed:
                            await session.get("/version", timeout=1.0)
                    finally:
                        late.cancel()
        return failed.value.reason

    assert loop.run_until_complete(ask()) == reason
