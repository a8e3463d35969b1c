"""A clock that stands still until a test moves it: hours of backoff pass in a millisecond, and in order."""

from __future__ import annotations

import asyncio
import heapq
import time
from datetime import UTC, datetime, timedelta
from itertools import count

from federation.runtime.clock import SystemClock
from tests.support.patience import PATIENCE

START = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)

_SETTLE_TURNS = 25


class VirtualClock:
    """A :class:`federation.core.clock.Clock` whose time passes only in :meth:`advance`.

    ``advance`` wakes sleepers one instant after another and lets the loop run between two instants, so code
    that sleeps again meets the times it would have met. It does not wait for sockets or threads: a test that
    mixes virtual time with real servers polls for what it expects.
    """

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._elapsed = 0.0
        self._skew = timedelta(0)
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.slept: list[float] = []

    def now(self) -> datetime:
        """The wall clock in UTC."""
        return self._start + timedelta(seconds=self._elapsed) + self._skew

    def monotonic(self) -> float:
        """Seconds since the clock was made; :meth:`step` does not move it."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Return once :meth:`advance` has passed the instant; for 0 after one turn of the loop."""
        self.slept.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        await future

    @property
    def sleeping(self) -> int:
        """How many calls of :meth:`sleep` are waiting."""
        return sum(not future.done() for _, _, future in self._sleepers)

    @property
    def next_wake(self) -> float | None:
        """Seconds until the next sleeper is due, or None if no call sleeps."""
        waiting = [due for due, _, future in self._sleepers if not future.done()]
        return min(waiting) - self._elapsed if waiting else None

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        until = self._elapsed + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._elapsed = max(self._elapsed, due)
            future.set_result(None)
            await self.settle()
        self._elapsed = until
        await self.settle()

    async def until_sleeping(self, number: int = 1) -> None:
        """Let the loop run until ``number`` calls sleep; fails after a while, so that a test cannot hang."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.sleeping >= number:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{self.sleeping} calls sleep, not {number}")

    def jump(self, seconds: float) -> None:
        """Let ``seconds`` pass without the loop, as where the process is blocked: no sleeper wakes meanwhile."""
        self._elapsed += seconds

    def step(self, seconds: float) -> None:
        """Move the wall clock alone, as an administrator or NTP would."""
        self._skew += timedelta(seconds=seconds)

    async def settle(self) -> None:
        """Let everything that can run without time passing do so."""
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)


class AheadClock(SystemClock):
    """The system's clock plus ``ahead`` seconds, so that real servers see an hour pass at once.

    Sleepers do not wake earlier.
    """

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> datetime:
        """The wall clock in UTC."""
        return super().now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        """Seconds since some instant."""
        return super().monotonic() + self.ahead
