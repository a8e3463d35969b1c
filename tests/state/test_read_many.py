"""Many documents at once: what fails says so, and what is cancelled ends."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from federation.core.errors import StateUnavailable
from federation.state.store import StateStore, Stored, read_many


class LateStore:
    """Fails once it may."""

    def __init__(self) -> None:
        self.fails = asyncio.Event()

    async def read(self, key: str) -> Stored | None:
        await self.fails.wait()
        raise StateUnavailable(f"{key}: no answer")


async def test_a_failure_is_raised_by_itself() -> None:
    store = LateStore()
    store.fails.set()
    with pytest.raises(StateUnavailable, match="no answer"):
        await read_many(cast("StateStore", store), ["a", "b"])


async def test_what_is_cancelled_as_it_fails_ends() -> None:
    """Seen: a controller that had lost the Lease neither followed nor ended."""
    store = LateStore()
    reading = asyncio.create_task(read_many(cast("StateStore", store), ["a", "b"]))
    for _ in range(5):
        await asyncio.sleep(0)
    store.fails.set()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
