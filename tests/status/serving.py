"""A status server on loopback over a real file store, for tests and for the screenshots of the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from federation.cli.mounted_operations import operations
from federation.core.config.hub import StatusConfig
from federation.core.config.types import Address
from federation.core.documents.controller import ControllerReport
from federation.runtime.clock import SystemClock
from federation.status.app import NOTHING, create_app
from federation.status.server import serve
from tests.status.worlds import CountingStore, FixedConfig, World
from tests.support.clock import VirtualClock
from tests.support.seals import SEAL

LOOPBACK = Address("127.0.0.1", 0)


@dataclass
class Running:
    """A status server that runs, and its parts for a test to change."""

    world: World
    store: CountingStore
    config: FixedConfig
    clock: VirtualClock
    session: aiohttp.ClientSession
    url: str

    async def settle(self) -> None:
        """Write the world as it stands and let the cached reading expire."""
        await self.store.put(self.world.document_set())
        await self.clock.advance(0.6)

    async def get(self, path: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Ask; the body is decoded where it is JSON."""
        async with self.session.get(self.url + path, **options) as response:
            body = await response.read()
            json = "json" in response.content_type
            return response.status, msgspec.json.decode(body) if json and body else body, response


@asynccontextmanager
async def serving(
    directory: Path,
    names: tuple[str, ...] = ("east", "west", "north"),
    *,
    status: StatusConfig | None = None,
    report: Callable[[], ControllerReport] | None = None,
    operates: bool = False,
) -> AsyncIterator[Running]:
    """A status server over a world that is well; one that ``operates`` takes operations in real time."""
    clock = VirtualClock()
    world = World(list(names), clock.now().timestamp())
    if status is not None:
        world.config = replace(world.config, status=status)
    store = CountingStore(directory, SystemClock())
    await store.put(world.document_set())
    config = FixedConfig(world.config)
    mounted = operations(store, config, SystemClock(), SEAL) if operates else NOTHING
    app = create_app(store=store, config=config, clock=clock, report=report, mounted=mounted)
    async with serve(app, listen=LOOPBACK, clock=clock) as address, aiohttp.ClientSession() as session:
        yield Running(world, store, config, clock, session, f"http://{address}")
