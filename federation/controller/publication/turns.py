"""Turns of all clusters at writing: how many requests are under way at once, and whose is the next.

What is written everywhere is written by as many workers as there are clusters, times what each cluster may have. A
process that begins thousands of requests in one instant is late with each of them, with its watches and its gates. So
there is a bound for all clusters together, and the next turn is that of the cluster with the fewest requests under
way; of equals it is the one that has waited longest since its last.

A cluster that is slow to answer takes no turn of another: its turn passes on after a moment, while its request goes
on. It is bounded still by what one cluster may have, and as its requests count, others go first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from typing import Final

TURN_LASTS: Final = 1.0
"""Seconds after which a turn passes on though its request is not answered: far longer than any that is well takes."""


class Turns:
    """``most`` turns at once of all clusters together."""

    def __init__(self, most: int, *, lasts: float = TURN_LASTS) -> None:
        self._most = most
        self._lasts = lasts
        self._taken = 0
        self._under_way: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def taken(self) -> int:
        """Turns that are taken now."""
        return self._taken

    def under_way(self, cluster: str) -> int:
        """Requests of that cluster that are under way, whether or not their turn has passed on."""
        return self._under_way.get(cluster, 0)

    def allow(self, most: int) -> None:
        """Another bound from now on; turns that are taken stay."""
        self._most = most
        self._pass_on()

    @contextlib.asynccontextmanager
    async def turn(self, cluster: str) -> AsyncIterator[None]:
        """One request of that cluster, once it is its turn."""
        await self._enter(cluster)
        passed_on = False

        def pass_on() -> None:
            nonlocal passed_on
            passed_on = True
            self._taken -= 1
            self._pass_on()

        timer = asyncio.get_running_loop().call_later(self._lasts, pass_on)
        try:
            yield
        finally:
            timer.cancel()
            self._end(cluster)
            if not passed_on:
                pass_on()

    async def _enter(self, cluster: str) -> None:
        if self._taken < self._most and not self._waiting:
            self._begin(cluster)
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(cluster, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was given its turn in that very moment
                self._end(cluster)
                self._taken -= 1
                self._pass_on()
            raise

    def _begin(self, cluster: str) -> None:
        self._taken += 1
        self._under_way[cluster] = self._under_way.get(cluster, 0) + 1

    def _end(self, cluster: str) -> None:
        left = self._under_way[cluster] - 1
        if left:
            self._under_way[cluster] = left
        else:
            del self._under_way[cluster]

    def _pass_on(self) -> None:
        """Give what is free to those that wait."""
        while self._taken < self._most and self._waiting:
            cluster = self._next()
            waiting = self._waiting[cluster]
            future = waiting.popleft()
            if waiting:
                self._waiting.move_to_end(cluster)
            else:
                del self._waiting[cluster]
            if not future.done():  # else it does not wait any more
                self._begin(cluster)
                future.set_result(None)

    def _next(self) -> str:
        best, fewest = "", -1
        for cluster in self._waiting:
            count = self._under_way.get(cluster, 0)
            if not count:
                return cluster
            if fewest < 0 or count < fewest:
                best, fewest = cluster, count
        return best
