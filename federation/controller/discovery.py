"""The leader's search for clusters that could be registered: sources read again and again, proposals in one document.

It registers nothing, and what goes wrong here stops nothing else: a source that cannot be read keeps what it showed
last, and says why. The document lets the next leader begin with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from msgspec.structs import replace

from federation.clusters.discovery import MOST_SIGHTINGS, RegisteredCluster, proposals
from federation.clusters.discovery_sources import PlaceReading, Requests, SourcePlace, SourceReader, places_of
from federation.clusters.members import followed
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.config.discovery import DiscoveryConfig
from federation.core.documents.discovery import Discovery, Sighting, SourceReading
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import DISCOVERED, StateDamaged
from federation.core.errors import (
    ClusterForbidden,
    ClusterNotFound,
    ClusterTimeout,
    FederationError,
    StateUnavailable,
)
from federation.core.identity import ClusterName
from federation.core.problem import Problem
from federation.runtime.config_source import ConfigSource
from federation.state.store import StateStore

_logger = logging.getLogger(__name__)

LOOK: Final = 0.5  # seconds between checks whether the configuration has changed
MOST_JITTER: Final = 0.1  # of the interval
ROUND: Final = 120.0  # seconds for one place, beyond every timeout of a single request
CONNECTIONS: Final = 2
OWN: Final = ClusterName("hub")
CROWDED: Final = "discovery_crowded"

_GRANT: Final = (
    "let the controller's account get and list {what} in namespace {namespace} (the chart does it for `discovery` in "
    "its values), or take the namespace out of [discovery]"
)
_INSTALL: Final = (
    "install the CRD of ClusterProfiles (multicluster.x-k8s.io/v1alpha1, Cluster Inventory API) in the hub's cluster, "
    "or take the namespace out of discovery.cluster_profiles"
)


class ClusterDiscovery:
    """Only the leader runs it. ``registered`` are the clusters of the configuration, as it reaches them now."""

    def __init__(
        self,
        *,
        config: ConfigSource,
        store: StateStore,
        clock: Clock,
        jitter: random.Random,
        allowed: Callable[[], bool],
        registered: Callable[[], Sequence[RegisteredCluster]],
        changed: Callable[[], None],
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._jitter = jitter
        self._allowed = allowed
        self._registered = registered
        self._changed = changed
        self._reader = SourceReader()
        self._readings: dict[SourcePlace, SourceReading] = {}
        self._sightings: dict[SourcePlace, tuple[Sighting, ...]] = {}
        self._document: Discovery | None = None
        self._said = ""

    async def run(self) -> None:
        """Look until cancelled."""
        await self._recall()
        while True:
            credentials = self._credentials
            try:
                if credentials is None:
                    await self._forget()
                    await self._until_changed(credentials, float("inf"))
                else:
                    await self._look_with(credentials)
            except FederationError as error:
                await self._fail(error)
                await self._until_changed(credentials, self._interval)
            except Exception:
                _logger.exception("discovery has failed, and is tried again")
                await self._until_changed(credentials, self._interval)

    @property
    def _credentials(self) -> Credentials | None:
        config = self._config.current.discovery
        return config.credentials if config is not None else None

    @property
    def _interval(self) -> float:
        config = self._config.current.discovery
        seconds = config.interval if config is not None else 0.0
        return seconds * (1 + self._jitter.random() * MOST_JITTER)

    async def _until_changed(self, credentials: Credentials | None, seconds: float) -> bool:
        """True where the hub's cluster is reached otherwise now, False where that time is over or anything else is."""
        current, due = self._config.current, self._clock.monotonic() + seconds
        while self._clock.monotonic() < due and self._config.current is current:
            await self._clock.sleep(LOOK)
        return self._credentials != credentials

    async def _look_with(self, credentials: Credentials) -> None:
        """Look in the hub's own cluster until it is reached otherwise. Raises FederationError where it cannot be."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(
                followed(
                    credentials,
                    cluster=OWN,
                    timeouts=ClusterTimeouts(),
                    clock=self._clock,
                    connections=CONNECTIONS,
                )
            )
            while True:
                config = self._config.current.discovery
                if config is None or config.credentials != credentials:
                    return
                await self._look(session, config)
                if await self._until_changed(credentials, self._interval):
                    return

    async def _look(self, session: Requests, config: DiscoveryConfig) -> None:
        """Read every place once, and write down what is found."""
        places = places_of(config)
        self._reader.keep_only(places)
        share = max(1, MOST_SIGHTINGS // len(places))
        for place in places:
            try:
                async with asyncio.timeout(ROUND):
                    reading = await self._reader.read(session, place, most=share)
            except TimeoutError:
                error = ClusterTimeout(f"it was not read within {ROUND:g} s", where=str(place))
                self._note(place, _problem(place, error))
            except FederationError as error:
                self._note(place, _problem(place, error))
            else:
                self._take(place, reading, share)
        await self._write(config, places)

    def _take(self, place: SourcePlace, reading: PlaceReading, share: int) -> None:
        crowded = Problem(
            code=CROWDED,
            detail=f"{place} name more than {share} clusters, and no more than that are read",
            where=str(place),
            remedy="remove what is not needed there, or narrow the selector",
        )
        self._sightings[place] = reading.sightings
        self._readings[place] = SourceReading(
            source=place.source,
            namespace=place.namespace,
            read=self._clock.now().timestamp(),
            objects=reading.objects,
            problem=self._since(place, crowded) if reading.crowded else None,
        )

    def _note(self, place: SourcePlace, problem: Problem) -> None:
        before = self._readings.get(place, SourceReading(source=place.source, namespace=place.namespace))
        self._readings[place] = replace(before, problem=self._since(place, problem))

    def _since(self, place: SourcePlace, problem: Problem) -> Problem:
        before = self._readings.get(place)
        same = before is not None and before.problem is not None and before.problem.code == problem.code
        since = before.problem.since if same and before and before.problem else self._clock.now().timestamp()
        return replace(problem, since=since)

    async def _fail(self, error: FederationError) -> None:
        """Say of every place why the hub's cluster cannot be reached at all."""
        config = self._config.current.discovery
        if config is None:
            return
        places = places_of(config)
        for place in places:
            self._note(place, _problem(place, error))
        await self._write(config, places)

    async def _write(self, config: DiscoveryConfig, places: tuple[SourcePlace, ...]) -> None:
        before = self._document or Discovery()
        first_seen = {cluster.name: cluster.first_seen for cluster in before.clusters}
        now = self._clock.now().timestamp()
        self._readings = {place: each for place, each in self._readings.items() if place in places}
        self._sightings = {place: each for place, each in self._sightings.items() if place in places}
        document = Discovery(
            updated=now,
            sources=[self._readings[place] for place in places],
            clusters=proposals(
                (sighting for each in self._sightings.values() for sighting in each),
                registered=self._registered(),
                names=config.names,
                ignore=config.ignore,
                first_seen=lambda name: first_seen.get(name) or now,
            ),
        )
        if not self._allowed():
            return
        try:
            await self._store.write(DISCOVERED, encode(document))
        except StateUnavailable as error:
            self._say(error)
            return
        self._document, self._said = document, ""
        self._changed()

    async def _recall(self) -> None:
        """Begin with what the leader before this one found."""
        try:
            stored = await self._store.read(DISCOVERED)
            document = decode(stored.data, Discovery, key=DISCOVERED) if stored is not None else None
        except StateUnavailable as error:
            if not isinstance(error, StateDamaged):  # which is written anew
                self._say(error)
            return
        config = self._config.current.discovery
        if document is None or config is None:
            self._document = document
            return
        self._document = document
        for place in places_of(config):
            found = [
                sighting
                for cluster in document.clusters
                for sighting in cluster.sightings
                if (sighting.source, sighting.namespace) == (place.source, place.namespace)
            ]
            reading = next(
                (r for r in document.sources if (r.source, r.namespace) == (place.source, place.namespace)),
                None,
            )
            if reading is not None:
                self._sightings[place], self._readings[place] = tuple(found), reading

    async def _forget(self) -> None:
        """Nothing is looked for: what was found before is shown no more."""
        self._readings, self._sightings = {}, {}
        self._reader.keep_only(())
        if self._document is None or not self._allowed():
            return
        try:
            await self._store.delete(DISCOVERED)
        except StateUnavailable as error:
            self._say(error)
            return
        self._document = None
        self._changed()

    def _say(self, error: StateUnavailable) -> None:
        if str(error) != self._said:
            _logger.error("what was discovered cannot be persisted: %s", error.diagnostics())
        self._said = str(error)


def _problem(place: SourcePlace, error: FederationError) -> Problem:
    what = "clusterprofiles.multicluster.x-k8s.io" if place.source == "cluster_profile" else "secrets"
    remedy = error.remedy
    if isinstance(error, ClusterForbidden):
        remedy = _GRANT.format(what=what, namespace=place.namespace)
    elif isinstance(error, ClusterNotFound) and place.source == "cluster_profile":
        remedy = _INSTALL
    return Problem(
        code=error.reason, detail=f"{place} cannot be read: {error.what}", where=str(place), remedy=remedy
    )
