"""A status API to ask, and a verb of the CLI to ask it with."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from federation.core.config.types import Address
from federation.runtime.clock import SystemClock
from federation.status.app import create_app
from federation.status.server import serve
from tests.status.worlds import CountingStore, FixedConfig, World


class StandingClock(SystemClock):
    """Its wall clock stands at one moment: what a world reported then does not grow old while a busy machine asks."""

    def __init__(self) -> None:
        self._moment = super().now()

    def now(self) -> datetime:
        """The moment at which the clock was made."""
        return self._moment


Verb = Callable[..., Coroutine[Any, Any, int]]


@asynccontextmanager
async def asked(verb: ModuleType, world: World, directory: Path) -> AsyncIterator[tuple[Verb, CountingStore]]:
    """Yields what runs the verb with arguments against a hub that says what ``world`` holds."""
    clock = StandingClock()
    store = CountingStore(directory / "state", clock)
    await store.put(world.document_set())
    app = create_app(store=store, config=FixedConfig(world.config), clock=clock)
    async with serve(app, listen=Address("127.0.0.1", 0), clock=clock) as address:

        async def run(*arguments: str) -> int:
            return await asyncio.to_thread(run_verb, verb, *arguments, "--url", f"http://{address}")

        yield run, store


def run_verb(verb: ModuleType, *arguments: str) -> int:
    """Run a verb as the command line would."""
    parser = argparse.ArgumentParser(prog="federation")
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(arguments)
    code: int = args.run(args)
    return code
