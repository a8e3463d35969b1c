"""The system's clock. Whatever waits or dates takes a :class:`~federation.core.clock.Clock` instead."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """Wall time, monotonic time and sleep of this machine."""

    def now(self) -> datetime:
        """The wall clock as an aware datetime in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; cancellation ends it at once."""
        await asyncio.sleep(seconds)
