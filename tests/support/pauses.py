"""How long the event loop's thread works without giving others a turn: in processor time, whatever else runs."""

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
        """Look until cancelled."""
        while True:
            before = time.thread_time()
            try:
                await asyncio.sleep(0.0005)
            finally:  # the last one as well, which ends what was waited for
                self.longest = max(self.longest, time.thread_time() - before)


@asynccontextmanager
async def pauses() -> AsyncIterator[Pauses]:
    """What is seen while the block runs."""
    gc.freeze()  # or a collection walks through all that a worker of the suite holds: a quarter of a second, seen
    seen = Pauses()
    task = asyncio.create_task(seen.run())
    await asyncio.sleep(0)  # it looks from now on
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.unfreeze()
