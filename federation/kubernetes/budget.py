"""How much of this process one member cluster may cost: processor time, as a share that fills up again.

Whatever a member sends is taken apart in slices of a few milliseconds, and each is charged to that member. One that
has used up its share waits, and no other member does: its changes are then seen later, and status says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import ClusterOverBudget
from federation.core.identity import ClusterName

SHARE: Final = 0.1
"""Of one core. A cluster with a thousand changes a second needs a tenth of that."""

BURST: Final = 1.0
"""Seconds of processor time at once: what the first list of 100,000 objects takes."""

SLICE: Final = 0.002
"""Seconds of processor time after which others get their turn."""

REPORTED_FOR: Final = 60.0
"""Seconds for which it is reported that a member was over its budget."""

WORTH_REPORTING: Final = 1.0
"""Seconds of waiting within :data:`REPORTED_FOR` from which on anything is seen later than it should be."""


BRIEF_BYTES: Final = 16 * 1024
"""Of a piece that is taken apart in less than :data:`BRIEF`, whatever it says."""

BRIEF: Final = 0.001
"""Seconds that such a piece is charged with at the most."""


class CpuBudget:
    """One member's.

    ``cpu`` is the processor time that this thread has used, in seconds. To read it takes a system call, which costs
    more than to take a small piece apart: small ones are charged by ``passed``, the time that goes by. What else the
    machine did meanwhile is in that, so it is bounded.
    """

    def __init__(
        self,
        where: str,
        *,
        clock: Clock,
        cpu: Callable[[], float] = time.thread_time,
        passed: Callable[[], float] = time.perf_counter,
        share: float = SHARE,
        burst: float = BURST,
    ) -> None:
        self._where = where
        self._clock = clock
        self._by_processor_time = _Charge(self, cpu)
        self._by_time_passed = _Charge(self, passed, most=BRIEF)
        self._share = share
        self._burst = burst
        self._left = burst
        self._filled_at = clock.monotonic()
        self._slice = 0.0
        self._waited = 0.0
        self._over_since = float("-inf")

    def charged(self, size: int | None = None) -> _Charge:
        """What is done inside, without an await, is charged; ``size`` are its bytes, where it takes some apart.

        One at a time: what is charged holds no other that is.
        """
        return self._by_time_passed if size is not None and size <= BRIEF_BYTES else self._by_processor_time

    def charge(self, seconds: float) -> None:
        """So much processor time was used."""
        self._left -= seconds
        self._slice += seconds

    async def turn(self) -> None:
        """Between two pieces of work: give others their turn, and wait where the share is used up."""
        wait = self.due()
        if wait is not None:
            await self.wait(wait)

    def due(self) -> float | None:
        """The seconds for which this member has to wait now, 0 for a turn of the others; None where it may go on."""
        if self._slice < SLICE and self._left >= 0:
            return None
        self._slice = 0.0
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._filled_at) * self._share)
        self._filled_at = now
        if self._left >= 0:
            return 0.0
        wait = -self._left / self._share
        if now - self._over_since > REPORTED_FOR:
            self._over_since, self._waited = now, 0.0
        self._waited += wait
        return wait

    async def wait(self, seconds: float) -> None:
        """Wait so long, which :meth:`due` has said."""
        await (self._clock.sleep(seconds) if seconds else asyncio.sleep(0))

    @property
    def problem(self) -> ClusterOverBudget | None:
        """That it had to wait within :data:`REPORTED_FOR`; None where it did not, or only for a moment."""
        if self._clock.monotonic() - self._over_since > REPORTED_FOR or self._waited < WORTH_REPORTING:
            return None
        return ClusterOverBudget(
            f"what it sends takes more than {self._share:.0%} of a core to read, which is what one cluster may "
            "cost: it is read more slowly",
            where=self._where,
        )


class _Charge:
    """A context manager that charges the budget with what its block takes by ``measure``; ``most`` seconds at most.

    One instance serves one block after another.
    """

    __slots__ = ("_began", "_budget", "_measure", "_most")

    def __init__(
        self, budget: CpuBudget, measure: Callable[[], float], *, most: float = float("inf")
    ) -> None:
        self._budget = budget
        self._measure = measure
        self._most = most
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = self._measure()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.charge(min(self._most, self._measure() - self._began))


class Budgets:
    """Each member's, while this process runs: a member that connects anew does not get its burst anew."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of: dict[str, CpuBudget] = {}

    def of(self, cluster: ClusterName) -> CpuBudget:
        """That member's, the same whenever it is asked for."""
        name = str(cluster)
        if name not in self._of:
            self._of[name] = CpuBudget(name, clock=self._clock)
        return self._of[name]


class Unlimited(CpuBudget):
    """For what is no member: nothing is charged, and others get their turn all the same."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("", clock=clock, cpu=lambda: 0.0, passed=lambda: 0.0)

    def due(self) -> None:
        """Never waits."""
