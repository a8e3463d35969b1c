"""The two watches of a cluster: which namespaces there are, and what each of them holds.

Both are replaced by fresh ones in every resync period, so that nothing a watch may have lost stays lost, and
at once where the cluster comes back after it was away: a reflector that has waited up to its longest delay
would otherwise sleep through the return. A pair is exchanged only once the new one has listed everything.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final

from federation.clusters.objects import METADATA_ONLY, ObjectKey, ObjectMeta, decode_metadata
from federation.clusters.reflector import Change, Reflector
from federation.clusters.session import ClusterSession
from federation.controller.publication.config_map import Held, HeldDecoder
from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig, PublicationConfig
from federation.core.errors import ClusterError

POLL: Final = 0.5
SYNC_POLL: Final = 0.05
SYNC_LIMIT: Final = 60.0

MOST_NAMESPACES: Final = 30_000
"""Of one cluster: three times what Kubernetes is tested with. Each report counts what they hold."""

NAMESPACES: Final = "/api/v1/namespaces"
CONFIG_MAPS: Final = "/api/v1/configmaps"


class _Pair:
    """Both reflectors, running from :meth:`start` to :meth:`stop`."""

    def __init__(self, namespaces: Reflector[ObjectMeta], held: Reflector[Held]) -> None:
        self.namespaces = namespaces
        self.held = held
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def synced(self) -> bool:
        return self.namespaces.synced and self.held.synced

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self.namespaces.run()), asyncio.create_task(self.held.run())]

    def check(self) -> None:
        """A reflector survives every failure of its cluster; what ends it is a bug, which is raised here."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class ClusterWatch:
    """A cluster's namespaces and what they hold. ``on_change`` gets a namespace's name and old and new Held."""

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        publication: PublicationConfig,
        *,
        decode: HeldDecoder,
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[str, Held | None, Held | None], None],
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._publication = publication
        self._decode = decode
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self._kick = asyncio.Event()
        self._pair = self._new_pair()

    @property
    def namespaces(self) -> Mapping[ObjectKey, ObjectMeta]:
        """The namespaces the selector matches, by their key (whose own namespace is empty)."""
        return self._pair.namespaces.items

    @property
    def held(self) -> Mapping[ObjectKey, Held]:
        """What each namespace holds under the name of the ConfigMap."""
        return self._pair.held.items

    def held_in(self, namespace: str) -> Held | None:
        """What that namespace holds."""
        return self._pair.held.items.get(ObjectKey(namespace, self._publication.config_map))

    @property
    def synced(self) -> bool:
        """True once both were listed."""
        return self._pair.synced

    @property
    def fresh(self) -> bool:
        """True while both are listed and their watches stand and were heard: only then is it read back."""
        pair = self._pair
        return pair.synced and pair.namespaces.fresh and pair.held.fresh

    @property
    def heard(self) -> float:
        """When the cluster was last heard of on the watch that was silent longer, by the monotonic clock."""
        return min(self._pair.namespaces.heard, self._pair.held.heard)

    @property
    def problems(self) -> tuple[ClusterError, ...]:
        """What is wrong with the watches now."""
        found = (self._pair.namespaces.problem, self._pair.held.problem)
        return tuple(problem for problem in found if problem is not None)

    def renew(self) -> None:
        """Begin anew at once: the cluster has come back."""
        self._kick.set()

    async def run(self) -> None:
        """Keep both until cancelled."""
        self._pair.start()
        try:
            while True:
                await self._until_due()
                await self._exchange(self._new_pair())
        finally:
            await self._pair.stop()

    async def _until_due(self) -> None:
        self._kick.clear()
        due = self._clock.monotonic() + self._publication.resync * self._jitter.uniform(0.9, 1.1)
        while self._clock.monotonic() < due and not self._kick.is_set():
            self._pair.check()
            await self._clock.sleep(POLL)

    async def _synced_in_time(self, pair: _Pair) -> bool:
        deadline = self._clock.monotonic() + SYNC_LIMIT
        while not pair.synced and self._clock.monotonic() < deadline:
            if pair.namespaces.problem is not None or pair.held.problem is not None:
                return False
            await self._clock.sleep(SYNC_POLL)
        return pair.synced

    async def _exchange(self, newer: _Pair) -> None:
        """Put ``newer`` in the place of the pair that runs, once it has listed everything."""
        newer.start()
        before = self._pair
        try:
            if await self._synced_in_time(newer):
                self._pair = newer
                self._tell(before, newer)
        finally:
            await (before if self._pair is newer else newer).stop()

    def _tell(self, before: _Pair, after: _Pair) -> None:
        """What went unnoticed before is a change as any other."""
        name = self._publication.config_map
        for key in {*before.namespaces.items, *after.namespaces.items}:
            at = ObjectKey(key.name, name)
            old, new = before.held.items.get(at), after.held.items.get(at)
            if old != new or (key in before.namespaces.items) != (key in after.namespaces.items):
                self._on_change(key.name, old, new)

    def _new_pair(self) -> _Pair:
        timeouts = self._cluster.timeouts
        pair: list[_Pair] = []

        def current() -> bool:
            return bool(pair) and pair[0] is self._pair

        def namespace_changed(change: Change[ObjectMeta]) -> None:
            if current():
                held = self.held_in(change.key.name)
                self._on_change(change.key.name, held, held)

        def held_changed(change: Change[Held]) -> None:
            if current():
                self._on_change(change.key.namespace, change.old, change.new)

        pair.append(
            _Pair(
                Reflector(
                    self._session,
                    NAMESPACES,
                    decode=decode_metadata,
                    accept=METADATA_ONLY,
                    label_selector=self._cluster.namespace_selector,
                    timeouts=timeouts,
                    clock=self._clock,
                    jitter=self._jitter,
                    on_change=namespace_changed,
                    most=MOST_NAMESPACES,
                ),
                Reflector(
                    self._session,
                    CONFIG_MAPS,
                    decode=self._decode,
                    field_selector=f"metadata.name={self._publication.config_map}",
                    timeouts=timeouts,
                    clock=self._clock,
                    jitter=self._jitter,
                    on_change=held_changed,
                    most=MOST_NAMESPACES,
                ),
            )
        )
        return pair[0]
