"""A leader that looks for clusters, on a store of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from federation.clusters.discovery import RegisteredCluster
from federation.controller.discovery import ClusterDiscovery
from federation.core.documents.discovery import DiscoveredCluster, Discovery
from federation.core.documents.encoding import decode
from federation.core.documents.keys import DISCOVERED
from federation.runtime.config_source import ConfigSource
from tests.controller.test_rotation_driver import FailingStore
from tests.core.config.example import PLAIN
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE


class DiscoveringLeader:
    """Looks by the kubeconfig ``hub`` in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = VirtualClock()
        self.store = FailingStore(directory / "state", self.clock)
        self.leads = True
        self.registered: list[RegisteredCluster] = []
        self.file = directory / "clusters.toml"
        self.source = ConfigSource(self.file, self.clock)

    def configure(self, discovery: str) -> None:
        table = f'[discovery]\nkubeconfig = "hub"\n{discovery}' if discovery else ""
        self.file.write_text(f"{PLAIN}\n{table}", "utf-8")

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """A leader that looks until the block ends."""
        discovery = ClusterDiscovery(
            config=self.source,
            store=self.store,
            clock=self.clock,
            jitter=random.Random(1),
            allowed=lambda: self.leads,
            registered=lambda: self.registered,
            changed=lambda: None,
        )
        task = asyncio.create_task(discovery.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), "it never ends by itself"

    async def document(self) -> Discovery | None:
        stored = await self.store.read(DISCOVERED)
        return decode(stored.data, Discovery, key=DISCOVERED) if stored is not None else None

    async def until(self, wanted: Callable[[Discovery], bool]) -> Discovery:
        """What is written down, as soon as it is so. Each look takes a minute of the virtual clock."""
        seen: Discovery | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                while (seen := await self.document()) is None or not wanted(seen):
                    await self.clock.advance(1.0)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"it never was so: {seen}") from None
        return seen

    async def again(self) -> Discovery:
        """What is written down after one more look."""
        before = await self.document()
        since = before.updated if before is not None else 0.0
        return await self.until(lambda found: found.updated > since)


def named(found: Discovery) -> dict[str, DiscoveredCluster]:
    return {cluster.name: cluster for cluster in found.clusters}
