"""How long the event loop's thread runs without a turn for other tasks, in its own processor time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pauses:
    """``longest`` is the most processor time, in seconds, between two turns of a task that is always ready."""

    longest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            before = time.thread_time()
            try:
                await asyncio.sleep(0.0005)
            finally:  # the last pause counts, too
                self.longest = max(self.longest, time.thread_time() - before)


@asynccontextmanager
async def pauses() -> AsyncIterator[Pauses]:
    """The pauses while the block runs."""
    gc.freeze()  # else a collection of all objects of the test worker would count: a quarter of a second was seen
    seen = Pauses()
    task = asyncio.create_task(seen.run())
    await asyncio.sleep(0)  # measuring has started
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.unfreeze()
