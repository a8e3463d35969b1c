"""The way to a back end: only as many requests at once, and only as many a second, as it allows.

Requests beyond that wait for their turn (``turns.py``). One whose turn would come too late is refused at
once with a code that agents retry, so that no caller waits for nothing. There is no task beside the
requests: the one that waits first keeps the time for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import Overloaded
from federation.signer.authorities.turns import NOTHING_HELD, Turn, Turns

BURST_SECONDS: Final = 1.0
"""Requests that may go out together after a pause: what a second allows, as the back ends' own buckets do."""

SMOOTHING: Final = 16.0  # requests that the mean time of one is taken over
RATE_WINDOW: Final = 60.0  # seconds that the shown rate is smoothed over
SLOWEST: Final = 0.1  # of the quota: how far a back end that keeps throttling slows us down
RECOVERY: Final = 1.05  # the pace grows by so much with each second that nothing was throttled


@dataclass(slots=True, eq=False)
class _Waiting(Turn):
    """A turn and the caller that waits for it."""

    woken: asyncio.Event = field(default_factory=asyncio.Event)
    granted: bool = False


class Lane:
    """Admits requests. ``quota`` is for all signers together, of which this one takes ``share``; 0: no limit.

    ``patience`` is for how many seconds a request may wait at most.
    """

    def __init__(
        self, *, quota: float, max_in_flight: int, max_queued: int, patience: float, clock: Clock, where: str
    ) -> None:
        self.quota: Final = quota
        self._max_in_flight = max_in_flight
        self._patience = patience
        self._clock = clock
        self._where = where
        self._turns = Turns(max_queued)
        self._waiting: dict[_Waiting, None] = {}
        self._in_flight = 0
        self._share = 1.0
        self._pace = 1.0  # below 1 while the back end throttles
        self._paced_at = clock.monotonic()
        self._paused_until = 0.0
        self._tokens = self._burst
        self._filled_at = clock.monotonic()
        self._keeper: _Waiting | None = None
        self._took = 0.0
        self._rate = 0.0
        self._rated_at = clock.monotonic()
        self.refused = 0

    @property
    def share(self) -> float:
        """The part of the quota that this process takes."""
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        self._fill()
        self._share = share

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._turns.waiting

    @property
    def busy(self) -> bool:
        """True while any request waits or is under way."""
        return bool(self._in_flight or self._turns.waiting)

    @property
    def rate(self) -> float:
        """Requests a second that went through lately."""
        decay: float = 0.5 ** ((self._clock.monotonic() - self._rated_at) / RATE_WINDOW)
        return self._rate * decay

    @asynccontextmanager
    async def admitted(self, cluster: str, urgency: float = NOTHING_HELD) -> AsyncIterator[None]:
        """The context in which the back end may be asked. Raises Overloaded at once where it would be too late."""
        await self._enter(cluster, urgency)
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self._took += (self._clock.monotonic() - began - self._took) / SMOOTHING
            self._in_flight -= 1
            self._grant()
            self._wake_keeper()

    def throttled(self, retry_after: float) -> None:
        """The back end asked for fewer: pause for so long, and go on at half the pace."""
        now = self._clock.monotonic()
        self._fill()
        if now >= self._paused_until:  # one answer of a burst that was throttled as a whole counts once
            self._pace = max(SLOWEST, self._pace / 2)
        self._paced_at = now
        self._paused_until = max(self._paused_until, now + min(retry_after or 1.0, self._patience))
        self._tokens = min(self._tokens, 0.0)
        self._filled_at = self._paused_until  # nothing is saved up meanwhile: the pause would end in a burst

    async def _enter(self, cluster: str, urgency: float) -> None:
        if not self._turns.waiting and self._room() == 0.0:
            self._admit()
            return
        wait = self._estimate(self._turns.ahead(cluster, urgency))
        if wait > self._patience:
            self.refused += 1
            raise self._overloaded(f"its turn would come after {wait:.0f} s")
        turn = _Waiting(cluster, urgency)
        victim = self._turns.join(turn)
        if victim is turn:
            self.refused += 1
            raise self._overloaded("the queue is full")
        if isinstance(victim, _Waiting):
            victim.woken.set()
        self._waiting[turn] = None
        try:
            await self._wait(turn)
        except BaseException:
            if turn.granted:  # cancelled in the very moment of its turn
                self._in_flight -= 1
            raise
        finally:
            self._waiting.pop(turn, None)
            self._turns.leave(turn)
            self._wake_keeper()

    async def _wait(self, turn: _Waiting) -> None:
        """Return with the turn granted. Whoever waits first keeps the time until its own turn has come."""
        try:
            async with asyncio.timeout(self._patience * 2):
                while True:
                    delay = self._grant()
                    if turn.granted:
                        return
                    if turn.gone:
                        self.refused += 1
                        raise self._overloaded("the queue is full of what is more urgent")
                    turn.woken.clear()
                    if delay is None or self._keeper not in {None, turn}:
                        await turn.woken.wait()
                        continue
                    self._keeper = turn
                    try:
                        await self._clock.sleep(delay)
                    finally:
                        self._keeper = None
        except TimeoutError:
            self.refused += 1
            raise self._overloaded("its turn did not come in time") from None

    def _grant(self) -> float | None:
        """Give turns to as many as there is room for; seconds until the next, None where a slot must come free."""
        while self._turns.waiting:
            delay = self._room()
            if delay != 0.0:
                return delay
            turn = self._turns.take()
            if not isinstance(turn, _Waiting):
                return None
            self._admit()
            turn.granted = True
            turn.woken.set()
        return None

    def _wake_keeper(self) -> None:
        """Somebody has to keep the time while any wait."""
        if self._keeper is None and self._waiting:
            next(iter(self._waiting)).woken.set()

    def _room(self) -> float | None:
        """0 where a request may go out now, else seconds until the quota allows it; None where no slot is free."""
        if self._in_flight >= self._max_in_flight:
            return None
        now = self._clock.monotonic()
        if now < self._paused_until:
            return self._paused_until - now
        if not self.quota:
            return 0.0
        self._fill()
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self._speed + 1e-6

    def _admit(self) -> None:
        self._in_flight += 1
        if self.quota:
            self._tokens -= 1.0
        now = self._clock.monotonic()
        decay = 0.5 ** ((now - self._rated_at) / RATE_WINDOW)
        self._rate = self._rate * decay + 0.693 / RATE_WINDOW  # ln 2: the steady state is the true rate
        self._rated_at = now

    def _fill(self) -> None:
        now = self._clock.monotonic()
        if self._pace < 1.0 and now > self._paced_at:
            self._pace = min(1.0, self._pace * RECOVERY ** (now - self._paced_at))
            self._paced_at = now
        if now > self._filled_at:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._speed)
            self._filled_at = now

    def _estimate(self, ahead: int) -> float:
        """Seconds until a request with so many before it has its turn, by the quota or by how long others took."""
        wait = self._took * (ahead + 1.0) / self._max_in_flight
        if self.quota:
            self._fill()
            wait = max(wait, (ahead + 1.0 - self._tokens) / self._speed)
        return max(0.0, self._paused_until - self._clock.monotonic()) + wait

    @property
    def _speed(self) -> float:
        return self.quota * self._share * self._pace

    @property
    def _burst(self) -> float:
        return max(1.0, self.quota * self._share * BURST_SECONDS)

    def _overloaded(self, why: str) -> Overloaded:
        return Overloaded(
            f"{why}; {self._turns.waiting} requests wait for the back end",
            where=self._where,
            reason="authority_quota",
            remedy="have the back end's limit raised, set quota to it, or let certificates live longer",
        )
