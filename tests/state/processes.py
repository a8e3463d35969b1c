"""What tests run in processes of their own, to be killed: ``python -m tests.state.processes VERB [N] PLACE...``."""

from __future__ import annotations

import asyncio
import sys

from federation.state.store import StateConflict, StateStore
from tests.state.places import place_of


def content(number: int) -> bytes:
    """What the writer writes: of every size, so that a kill finds it in the middle of something."""
    return b"%d " % number + b"x" * (number * 997 % 20000)


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def write_on(store: StateStore) -> None:
    """Swap for ever, saying each number once it was acknowledged. Waits for a line first."""
    await asyncio.to_thread(sys.stdin.readline)
    found = await store.read("current")
    number = int(found.data.split()[0]) if found else 0
    version = found.version if found else None
    while True:
        number += 1
        version = await store.write("current", content(number), expected=version, create=version is None)
        say(number)


async def overwrite_on(store: StateStore) -> None:
    """As :func:`write_on`, overwriting any document that is there."""
    await asyncio.to_thread(sys.stdin.readline)
    found = await store.read("horizons/one")
    number = int(found.data.split()[0]) if found else 0
    while True:
        number += 1
        await store.write("horizons/one", content(number))
        say(number)


async def count(store: StateStore, times: int) -> None:
    """Add one to the document that many times, in competition with other processes."""
    for _ in range(times):
        while True:
            found = await store.read("current")
            number = int(found.data) + 1 if found else 1
            try:
                await store.write(
                    "current",
                    b"%d" % number,
                    expected=found.version if found else None,
                    create=found is None,
                )
                break
            except StateConflict:
                pass


async def lead(store: StateStore) -> None:
    """Lead until killed."""
    async with store.lead("controller", identity="the-other") as leadership:
        say(f"leading {leadership.leading}")
        await asyncio.sleep(60)


async def main(arguments: list[str]) -> None:
    verb, *rest = arguments
    times = int(rest.pop(0)) if verb == "count" else 0
    async with place_of(rest).opened() as store:
        match verb:
            case "write":
                await write_on(store)
            case "overwrite":
                await overwrite_on(store)
            case "count":
                await count(store, times)
            case "lead":
                await lead(store)
            case _:
                raise ValueError(verb)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
