"""The status of this moment for everybody who asks in it: one reading, one composition, one encoding."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Protocol

import msgspec

from federation.core.clock import Clock
from federation.core.config.model import HubConfig
from federation.core.errors import StateUnavailable
from federation.status.model import FederationStatus
from federation.status.reader import SnapshotReader
from federation.status.scene import Scene, Snapshot
from federation.status.view import compose

logger = logging.getLogger(__name__)


class ConfigView(Protocol):
    """The configuration that runs, and what was wrong with one that was refused since."""

    @property
    def current(self) -> HubConfig:
        """The configuration in force."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems of the last reload; empty where it was taken up."""
        ...


class StatusSource:
    """Composes the status when asked, and remembers since when each thing has needed attention.

    Where no document says since when, it is the time at which this process first saw it.
    """

    def __init__(self, reader: SnapshotReader, config: ConfigView, clock: Clock) -> None:
        self._reader = reader
        self._config = config
        self._clock = clock
        self._first_seen: dict[tuple[str, str], datetime] = {}
        self._composed: tuple[Snapshot, HubConfig, FederationStatus] | None = None
        self._readable = True

    async def read(self) -> tuple[Snapshot, FederationStatus]:
        """The snapshot and its status. Raises StateUnavailable where the store cannot be read."""
        try:
            snapshot = await self._reader.read()
        except StateUnavailable as error:
            if self._readable:
                logger.warning("status cannot read the state store: %s", error.diagnostics())
            self._readable = False
            raise
        self._readable = True
        config = self._config.current
        if self._composed is not None and self._composed[0] is snapshot and self._composed[1] is config:
            return snapshot, self._composed[2]
        status = self._dated(compose(snapshot, config, self._clock.now(), self._config.problems))
        self._composed = (snapshot, config, status)
        return snapshot, status

    async def scene(self) -> tuple[Scene, FederationStatus]:
        """The same as a scene, at the instant that the status was composed. Raises StateUnavailable."""
        snapshot, status = await self.read()
        return Scene.of(snapshot, self._config.current, status.generated.timestamp()), status

    def _dated(self, status: FederationStatus) -> FederationStatus:
        seen = {
            (item.code, item.where): self._first_seen.get((item.code, item.where), status.generated)
            for item in status.attention
        }
        self._first_seen = seen
        dated = [
            item if item.since else msgspec.structs.replace(item, since=seen[item.code, item.where])
            for item in status.attention
        ]
        return msgspec.structs.replace(status, attention=dated)
