"""The system's clock, which a test can move ahead: leases run out at once, and no test really sleeps."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from federation.runtime.clock import SystemClock


class ShiftedClock(SystemClock):
    """A Clock ``ahead`` of the system's by some seconds; a sleep only moves it on."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ahead += seconds
        await asyncio.sleep(0)
