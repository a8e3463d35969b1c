"""Watches one Secret by its name, in a namespace that need not exist.

The right to a Secret is granted in its own namespace (a Role there), so nothing is watched before the namespace exists,
and what is forbidden at one moment may be granted at the next: it is tried again every few seconds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Generic, TypeVar

from federation.clusters.objects import METADATA_ONLY, ObjectKey, ObjectMeta, decode_metadata
from federation.clusters.reflector import Change, Reflector
from federation.clusters.session import ClusterSession
from federation.controller.publication.cluster_watch import NAMESPACES
from federation.controller.publication.istiod_secret import HeldSecret, decode_secret
from federation.core.clock import Clock
from federation.core.config.access import ClusterTimeouts
from federation.core.errors import ClusterError

TICK: Final = 0.25
LONGEST_BACKOFF: Final = 5.0
"""Seconds between attempts at a Secret that may not be watched: istiod may be waiting for it."""

T = TypeVar("T")


class _Running(Generic[T]):
    """A reflector with its task."""

    def __init__(self, reflector: Reflector[T]) -> None:
        self.reflector = reflector
        self._task = asyncio.create_task(reflector.run())

    def check(self) -> None:
        """A reflector survives every failure of its cluster; what ends it is a bug, which is raised here."""
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class SecretWatch:
    """The Secret ``name`` in ``namespace``; ``on_change`` gets what it held before and holds now."""

    def __init__(
        self,
        session: ClusterSession,
        *,
        namespace: str,
        name: str,
        timeouts: ClusterTimeouts,
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[HeldSecret | None, HeldSecret | None], None],
    ) -> None:
        self._session = session
        self._namespace = namespace
        self._name = name
        longest = min(LONGEST_BACKOFF, timeouts.backoff_longest)
        self._timeouts = replace(timeouts, backoff_longest=max(longest, timeouts.backoff_first))
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self._kicked = False
        self._places: _Running[ObjectMeta] | None = None
        self._secrets: _Running[HeldSecret] | None = None

    @property
    def path(self) -> str:
        """Where the Secret is."""
        return f"{self._collection}/{self._name}"

    @property
    def present(self) -> bool | None:
        """Whether the namespace exists and is not being deleted; None while that is not known."""
        if self._places is None or not self._places.reflector.synced:
            return None
        meta = self._places.reflector.items.get(ObjectKey("", self._namespace))
        return meta is not None and meta.deletion is None

    @property
    def held(self) -> HeldSecret | None:
        """What it held when last read; None where there is none, or nothing was read."""
        if self._secrets is None:
            return None
        return self._secrets.reflector.items.get(ObjectKey(self._namespace, self._name))

    @property
    def fresh(self) -> bool:
        """True while what :attr:`present` and :attr:`held` say is read back."""
        if self._places is None or not self._places.reflector.synced or not self._places.reflector.fresh:
            return False
        if not self.present:
            return True
        watch = self._secrets.reflector if self._secrets is not None else None
        return watch is not None and watch.synced and watch.fresh

    @property
    def heard(self) -> float:
        """When the cluster was last heard on the watch that was silent longer, by the monotonic clock."""
        heard = [w.reflector.heard for w in (self._places, self._secrets) if w is not None]
        return min(heard, default=float("-inf"))

    @property
    def problem(self) -> ClusterError | None:
        """Why it is not watched at present."""
        problems = (w.reflector.problem for w in (self._places, self._secrets) if w is not None)
        return next((problem for problem in problems if problem is not None), None)

    def renew(self) -> None:
        """Begin anew at once: the cluster has come back."""
        self._kicked = True

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await self._adjust()
                await self._clock.sleep(TICK)
        finally:
            await self._stop_all()

    async def _adjust(self) -> None:
        """Watch what there is to watch."""
        if self._kicked:
            self._kicked = False
            await self._stop_all()
        if self._places is None:
            self._places = _Running(self._watch_namespace())
        self._places.check()
        secrets = self._secrets
        if secrets is not None:
            secrets.check()
            if self.present is False:
                self._secrets = None
                await secrets.stop()
        if self.present and self._secrets is None:
            self._secrets = _Running(self._watch_secret())

    async def _stop_all(self) -> None:
        running = [w for w in (self._places, self._secrets) if w is not None]
        self._places = self._secrets = None
        for watch in running:
            await watch.stop()

    @property
    def _collection(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets"

    def _watch_namespace(self) -> Reflector[ObjectMeta]:
        return Reflector(
            self._session,
            NAMESPACES,
            decode=decode_metadata,
            accept=METADATA_ONLY,
            field_selector=f"metadata.name={self._namespace}",
            timeouts=self._timeouts,
            clock=self._clock,
            jitter=self._jitter,
        )

    def _watch_secret(self) -> Reflector[HeldSecret]:
        def changed(change: Change[HeldSecret]) -> None:
            if self._secrets is not None and self._secrets.reflector is watch:
                self._on_change(change.old, change.new)

        watch: Reflector[HeldSecret] = Reflector(
            self._session,
            self._collection,
            decode=decode_secret,
            field_selector=f"metadata.name={self._name}",
            timeouts=self._timeouts,
            clock=self._clock,
            jitter=self._jitter,
            on_change=changed,
        )
        return watch
