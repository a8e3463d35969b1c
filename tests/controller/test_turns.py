"""Writing everywhere: so many requests at once of all clusters together, in turns, and none waits for a slow one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from federation.controller.publication.config_map import ObservedConfigMap, Target
from federation.controller.publication.publisher import CATCH_UP, Publisher
from federation.controller.publication.turns import Turns
from federation.core.config.clusters import ClusterTimeouts
from federation.core.config.hub import PublicationConfig
from federation.core.errors import ClusterTimeout
from federation.kubernetes.objects import ObjectKey, ObjectMeta
from federation.kubernetes.session import OWN_DELAY
from federation.runtime.clock import SystemClock
from tests.controller.test_publication import generation
from tests.controller.world import eventually

NAMESPACES = 12
TARGET = Target.of(generation(), PublicationConfig())


class Watched:
    """What the watch shows: namespaces, and the target in those that were written to."""

    synced = True

    def __init__(self) -> None:
        names = [f"team-{number}" for number in range(NAMESPACES)]
        self.namespaces = {ObjectKey("", name): ObjectMeta("", name, b"") for name in names}
        self.written: set[str] = set()

    def observed_in(self, namespace: str) -> ObservedConfigMap | None:
        return ObservedConfigMap(TARGET.sha256, labelled=True) if namespace in self.written else None


class Answering:
    """Requests of one cluster, counted while they are under way; the test answers them."""

    def __init__(self, name: str, watched: Watched, under_way: list[str]) -> None:
        self.name = name
        self.watched = watched
        self.under_way = under_way
        self.most = 0
        self.requests = 0
        self.failures: list[Exception] = []
        self.answers = asyncio.Event()

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        self.requests += 1
        self.under_way.append(self.name)
        self.most = max(self.most, len(self.under_way))
        try:
            await self.answers.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way.remove(self.name)
        if self.failures:
            raise self.failures.pop()
        self.watched.written.add(path.split("/")[4])
        return b"{}"


class Fleet:
    """Publishers of some clusters that share turns."""

    def __init__(self, names: Iterable[str], turns: Turns, *, concurrency: int = 16) -> None:
        self.under_way: list[str] = []
        self.clock = SystemClock()
        self.turns = turns
        self.sessions = {name: Answering(name, Watched(), self.under_way) for name in names}
        self.publishers = {name: self._publisher(name, concurrency) for name in self.sessions}

    def _publisher(self, name: str, concurrency: int) -> Publisher:
        session: Any = self.sessions[name]
        watched: Any = self.sessions[name].watched
        return Publisher(
            session,
            watched,
            excluded=(),
            concurrency=concurrency,
            timeouts=ClusterTimeouts(),
            clock=self.clock,
            jitter=random.Random(1),
            allowed=lambda: True,
            stays=lambda _namespace, _observed: False,
            joins=lambda: False,
            turns=self.turns,
        )

    def answer(self, *names: str) -> None:
        for name in names or self.sessions:
            self.sessions[name].answers.set()

    def complete(self, name: str) -> bool:
        return len(self.sessions[name].watched.written) == NAMESPACES

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(publisher.run()) for publisher in self.publishers.values()]
        try:
            for publisher in self.publishers.values():
                publisher.aim(TARGET)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_all_clusters_together_have_so_many_requests_under_way() -> None:
    """30 clusters with 12 namespaces and 16 workers each would begin 360 at once."""
    fleet = Fleet([f"c{number}" for number in range(30)], Turns(8, lasts=600))
    async with fleet.running():
        await settle()
        assert len(fleet.under_way) == 8, "those that come first"
        fleet.answer("c0")
        await settle()
        assert len(fleet.under_way) == len(set(fleet.under_way)) == 8, "each has one before any has two"
        fleet.answer()
        await eventually(lambda: all(map(fleet.complete, fleet.sessions)))
    assert max(session.most for session in fleet.sessions.values()) == 8
    assert {session.requests for session in fleet.sessions.values()} == {NAMESPACES}, "none is written twice"
    assert fleet.turns.taken == 0


async def test_a_cluster_that_does_not_answer_delays_no_other() -> None:
    fleet = Fleet(["slow", "fast"], Turns(4, lasts=0.01))
    fleet.answer("fast")
    async with fleet.running():
        await eventually(lambda: fleet.complete("fast"))
        await eventually(lambda: fleet.turns.under_way("slow") == NAMESPACES)
        await eventually(lambda: fleet.turns.taken == 0)  # what it has under way takes no turn of another
        assert fleet.turns.under_way("slow") == NAMESPACES
        fleet.answer()
        await eventually(lambda: fleet.complete("slow"))


async def test_many_that_do_not_answer_delay_no_other() -> None:
    slow = [f"slow-{number}" for number in range(20)]
    fleet = Fleet([*slow, "fast"], Turns(8, lasts=0.01))
    fleet.answer("fast")
    async with fleet.running():
        await eventually(lambda: fleet.complete("fast"))
        assert not any(map(fleet.complete, slow))


async def test_one_alone_may_have_all_turns() -> None:
    fleet = Fleet(["only"], Turns(8, lasts=600), concurrency=10)
    async with fleet.running():
        await settle()
        assert len(fleet.under_way) == 8
        fleet.answer()
        await eventually(lambda: fleet.complete("only"))


async def test_that_this_process_is_late_pauses_no_cluster() -> None:
    fleet = Fleet(["east"], Turns(8))
    fleet.sessions["east"].failures = [ClusterTimeout("late", reason=OWN_DELAY) for _ in range(3)]
    fleet.answer()
    publisher = fleet.publishers["east"]
    began = fleet.clock.monotonic()
    async with fleet.running():
        await eventually(lambda: fleet.complete("east"))
        assert publisher.tally.cluster_problem is None
    assert fleet.sessions["east"].requests == NAMESPACES + 3
    assert fleet.clock.monotonic() >= began + CATCH_UP, "a process that is late does not try again at once"


async def test_a_timeout_of_the_cluster_pauses_it() -> None:
    fleet = Fleet(["east"], Turns(1, lasts=600))
    fleet.sessions["east"].failures = [ClusterTimeout("no answer")]
    fleet.answer()
    async with fleet.running():
        await eventually(lambda: fleet.publishers["east"].tally.cluster_problem is not None)
        assert fleet.sessions["east"].requests == 1


async def test_the_next_turn_is_that_of_who_has_the_fewest_and_waited_longest() -> None:
    turns, order = Turns(1, lasts=600), list[str]()

    async def work(cluster: str) -> None:
        async with turns.turn(cluster):
            order.append(cluster)
            await asyncio.sleep(0)

    wanted = ["a"] * 4 + ["b"] * 4 + ["c"] * 2
    await asyncio.gather(*map(work, wanted))
    assert Counter(order) == Counter(wanted)
    assert order == ["a", "a", "b", "c", "a", "b", "c", "a", "b", "b"]


async def test_a_turn_that_is_not_waited_for_any_more_is_anothers() -> None:
    turns = Turns(1, lasts=600)
    entered = asyncio.Event()

    async def keep(cluster: str) -> None:
        async with turns.turn(cluster):
            entered.set()
            await asyncio.get_running_loop().create_future()

    first = asyncio.create_task(keep("a"))
    await entered.wait()
    waiting = [asyncio.create_task(keep(name)) for name in ("b", "c")]
    await settle()
    waiting[0].cancel()  # while it waits
    first.cancel()
    await asyncio.sleep(0)
    waiting[1].cancel()  # as it gets its turn
    await asyncio.gather(first, *waiting, return_exceptions=True)
    assert turns.taken == 0
    async with asyncio.timeout(5), turns.turn("d"):
        assert turns.taken == 1
        turns.allow(2)
        async with turns.turn("e"):
            assert turns.taken == 2
    assert (turns.taken, turns.under_way("d")) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_cancelled_no_turn_is_lost(seed: int) -> None:
    chance, turns = random.Random(seed), Turns(3, lasts=600)

    async def work(cluster: str) -> None:
        async with turns.turn(cluster):
            assert turns.taken <= 3
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(chance.choice("abcd"))) for _ in range(60)]
    while not all(task.done() for task in tasks):
        chance.choice(tasks).cancel()
        await asyncio.sleep(0)
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert (turns.taken, [turns.under_way(name) for name in "abcd"]) == (0, [0] * 4)
