"""Admission to a back end, by a clock that a test moves: its quota, its fairness, and early refusals."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from federation.core.errors import AuthorityThrottled, Overloaded
from federation.signer.authorities.limiter import Limiter
from tests.support.clock import VirtualClock


def limiter(clock: VirtualClock, **options: float) -> Limiter:
    settings = {"quota": 10.0, "max_in_flight": 1000, "max_queued": 1000, "patience": 60.0} | options
    return Limiter(
        quota=settings["quota"],
        max_in_flight=int(settings["max_in_flight"]),
        max_queued=int(settings["max_queued"]),
        patience=settings["patience"],
        lifetime=lambda: 3600.0,
        clock=clock,
        jitter=random.Random(7),
        where="test",
    )


def ends(seconds: float) -> datetime:
    """When a caller's certificate ends: the sooner, the more urgent."""
    return datetime.fromtimestamp(seconds, UTC)


@asynccontextmanager
async def callers(
    way: Limiter, clock: VirtualClock, clusters: list[str], *, takes: float = 0.0
) -> AsyncIterator[list[tuple[float, str]]]:
    """So many callers at once; who was admitted, and when."""
    admitted: list[tuple[float, str]] = []

    async def call(cluster: str, urgency: float) -> None:
        async with way.admitted(cluster, ends(urgency)):
            admitted.append((clock.monotonic(), cluster))
            if takes:
                await clock.sleep(takes)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call(name, place)) for place, name in enumerate(clusters)]
        yield admitted
        for task in tasks:
            task.cancel()


async def test_no_more_a_second_than_the_quota_after_a_burst_of_one_second() -> None:
    clock = VirtualClock()
    way = limiter(clock)
    async with callers(way, clock, ["east"] * 100) as admitted:
        await clock.settle()
        assert len(admitted) == 10
        for second in range(1, 9):
            await clock.advance(1.0)
            assert 10 * (second + 1) - 1 <= len(admitted) <= 10 * (second + 1)
        await clock.advance(2.0)
        assert len(admitted) == 100
    assert way.queued == 0
    assert not way.busy
    assert way.rate == pytest.approx(1.1, rel=0.2)


async def test_a_share_is_a_part_of_the_quota() -> None:
    clock = VirtualClock()
    way = limiter(clock)
    way.share = 0.5
    await clock.advance(5.0)
    async with callers(way, clock, ["east"] * 60) as admitted:
        await clock.advance(8.0)
        assert 44 <= len(admitted) <= 46


async def test_clusters_are_served_in_turn() -> None:
    clock = VirtualClock()
    way = limiter(clock)
    async with callers(way, clock, ["east"] * 200 + ["west"] * 20) as admitted:
        await clock.advance(4.05)
        assert Counter(name for _, name in admitted[10:]) == {"east": 20, "west": 20}


async def test_only_so_many_at_once() -> None:
    clock = VirtualClock()
    way = limiter(clock, quota=0.0, max_in_flight=4)
    async with callers(way, clock, ["east"] * 12, takes=1.0) as admitted:
        await clock.settle()
        assert len(admitted) == 4
        await clock.advance(1.0)
        assert len(admitted) == 8
        await clock.advance(1.0)
        assert len(admitted) == 12
        await clock.advance(1.0)
    assert not way.busy


async def test_whose_turn_would_come_too_late_is_refused_at_once() -> None:
    clock = VirtualClock()
    way = limiter(clock, patience=2.0)
    async with callers(way, clock, ["east"] * 30) as admitted:
        await clock.settle()
        assert (len(admitted), way.queued) == (10, 20)
        with pytest.raises(Overloaded) as caught:
            async with way.admitted("east", ends(1e9)):
                pytest.fail("it was admitted")
        assert caught.value.reason == "authority_quota"
        assert caught.value.remedy
        assert way.refused == 1
        await clock.advance(2.1)
        assert len(admitted) == 30


async def test_a_full_queue_sends_away_the_least_urgent_of_the_longest_line() -> None:
    clock = VirtualClock()
    way = limiter(clock, max_queued=5)
    async with callers(way, clock, ["east"] * 10) as admitted:  # takes the burst
        await clock.settle()
        waiting = [asyncio.create_task(_once(way, "east", 100.0 + place)) for place in range(5)]
        await clock.settle()
        other = asyncio.create_task(_once(way, "west", 900.0))
        await clock.settle()
        assert isinstance(waiting[4].exception(), Overloaded)
        await clock.advance(1.0)
        await asyncio.gather(*waiting[:4], other)
        assert len(admitted) == 10


async def _once(way: Limiter, cluster: str, urgency: float) -> None:
    async with way.admitted(cluster, ends(urgency)):
        pass


async def test_who_gives_up_takes_no_turn_and_the_next_keeps_the_time() -> None:
    clock = VirtualClock()
    way = limiter(clock)
    async with callers(way, clock, ["east"] * 10):
        await clock.settle()
        waiting = [asyncio.create_task(_once(way, "east", float(place))) for place in range(20)]
        await clock.settle()
        for task in waiting[:15]:  # among them the one that keeps the time
            task.cancel()
        await clock.advance(0.6)
        assert [task.done() and not task.cancelled() for task in waiting[15:]] == [True] * 5
    assert not way.busy


async def test_a_back_end_that_throttles_is_asked_less_until_it_does_not() -> None:
    clock = VirtualClock()
    way = limiter(clock)

    async def throttled() -> None:
        async with way.admitted("east"):
            await asyncio.sleep(0)
            raise AuthorityThrottled("fewer", retry_after=3.0)

    both = await asyncio.gather(throttled(), throttled(), return_exceptions=True)  # of the same burst
    assert all(isinstance(outcome, AuthorityThrottled) for outcome in both)
    async with callers(way, clock, ["east"] * 200) as admitted:
        await clock.advance(2.9)
        assert admitted == []
        await clock.advance(2.0)
        assert 5 <= len(admitted) <= 20, "half the pace"
        before = len(admitted)
        await clock.advance(20.0)
        assert len(admitted) - before > 100, "it recovers"


async def test_without_a_quota_no_caller_waits() -> None:
    clock = VirtualClock()
    way = limiter(clock, quota=0.0)
    async with callers(way, clock, ["east"] * 500) as admitted:
        await clock.settle()
        assert len(admitted) == 500
