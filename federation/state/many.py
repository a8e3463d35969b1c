"""Many documents read at once, a few at a time: one after another they would take a second each second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from federation.state.damage import StateDamaged
from federation.state.store import StateStore, Stored

AT_ONCE: Final = 8
"""Half of what a store lets through at once, so that whoever reads many documents holds up nobody else."""


async def read_many(store: StateStore, keys: Iterable[str]) -> dict[str, Stored | StateDamaged | None]:
    """Each document, None where there is none, or why it cannot be used.

    Raises StateUnavailable where the store itself fails: then nothing is known of any of them.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def read(key: str) -> Stored | StateDamaged | None:
        async with slots:
            try:
                return await store.read(key)
            except StateDamaged as error:
                return error

    reading: dict[str, asyncio.Task[Stored | StateDamaged | None]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            reading = {key: group.create_task(read(key)) for key in keys}
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the others tell the same, or were cancelled for it
    return {key: task.result() for key, task in reading.items()}
