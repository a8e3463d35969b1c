"""The sources of discovery, read from the hub's own cluster: listed by metadata, and fetched where they have changed.

Metadata comes first, so that an object that is far too large, or is written again and again, costs no more than itself.
Each answer is bounded in time and size, and what is read is taken apart in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from federation.clusters.discovery import (
    ISTIO_LABEL,
    MOST_SIGHTINGS,
    sightings_in,
    unusable,
)
from federation.core.config.discovery import DiscoveryConfig
from federation.core.documents.discovery import DiscoverySource, Sighting
from federation.core.errors import ClusterGarbage, ClusterNotFound, ClusterOverBudget
from federation.kubernetes.objects import METADATA_ONLY_LIST, decode_metadata, decode_page

PAGE: Final = 50
NOT_OF_ITS_FORM: Final = "the object is not of the form that this source has"
MOST_PAGE_BYTES: Final = 8 * 1024 * 1024
MOST_OBJECT_BYTES: Final = 256 * 1024
"""A Secret with sixteen kubeconfigs has a third of it."""

_RESOURCES: Final[dict[DiscoverySource, str]] = {
    "istio_secret": "/api/v1/namespaces/{}/secrets",
    "labelled_secret": "/api/v1/namespaces/{}/secrets",
    "cluster_profile": "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/{}/clusterprofiles",
}


class Requests(Protocol):
    """As much of a session as reading takes."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = "application/json",
        most_bytes: int | None = None,
    ) -> bytes:
        """As :meth:`federation.kubernetes.session.ClusterSession.request`."""
        ...


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """One source in one namespace. ``selector`` chooses by labels; empty takes all."""

    source: DiscoverySource
    namespace: str
    selector: str = ""

    @property
    def path(self) -> str:
        """Of the collection."""
        return _RESOURCES[self.source].format(self.namespace)

    def __str__(self) -> str:
        kind = {
            "istio_secret": "Istio's remote secrets",
            "labelled_secret": "labelled Secrets",
            "cluster_profile": "ClusterProfiles",
        }[self.source]
        return f"{kind} in {self.namespace}"


def places_of(config: DiscoveryConfig) -> tuple[SourcePlace, ...]:
    """Every place that the configuration names."""
    return (
        *(SourcePlace("istio_secret", namespace, ISTIO_LABEL) for namespace in config.istio_secrets),
        *(SourcePlace("labelled_secret", each, config.selector) for each in config.labelled_secrets),
        *(SourcePlace("cluster_profile", namespace) for namespace in config.cluster_profiles),
    )


@dataclass(frozen=True, slots=True)
class PlaceReading:
    """What was in one place. ``crowded``: there are more objects, which were not read."""

    objects: int
    sightings: tuple[Sighting, ...]
    crowded: bool


class SourceReader:
    """Reads places one after another, and remembers what an object of a version says: credentials are not kept."""

    def __init__(self) -> None:
        self._known: dict[SourcePlace, dict[str, tuple[str, tuple[Sighting, ...]]]] = {}

    def keep_only(self, places: tuple[SourcePlace, ...]) -> None:
        """Forget what was read elsewhere."""
        self._known = {place: known for place, known in self._known.items() if place in places}

    async def read(
        self, session: Requests, place: SourcePlace, *, most: int = MOST_SIGHTINGS
    ) -> PlaceReading:
        """What is in the place: the first ``most`` objects by name, and of them the first ``most`` sightings.

        Raises ClusterError where it cannot be read.
        """
        versions, crowded = await self._versions(session, place, most)
        before = self._known.get(place, {})
        now: dict[str, tuple[str, tuple[Sighting, ...]]] = {}
        for name, version in versions.items():
            known = before.get(name)
            if known is not None and known[0] == version:
                now[name] = known
                continue
            found = await self._fetch(session, place, name)
            if found is not None:
                now[name] = (version, found)
        self._known[place] = now
        sightings = [sighting for _, found in now.values() for sighting in found]
        return PlaceReading(len(now), tuple(sightings[:most]), crowded or len(sightings) > most)

    async def _versions(
        self, session: Requests, place: SourcePlace, most: int
    ) -> tuple[dict[str, str], bool]:
        """The version of each object by name, and whether there are more than ``most``."""
        found: dict[str, str] = {}
        token = ""
        for _ in range(most // PAGE + 1):
            params = {"limit": str(PAGE)}
            params |= {"labelSelector": place.selector} if place.selector else {}
            params |= {"continue": token} if token else {}
            body = await session.request(
                "GET", place.path, params=params, accept=METADATA_ONLY_LIST, most_bytes=MOST_PAGE_BYTES
            )
            try:
                page = decode_page(body)
                items = [decode_metadata(item) for item in page.items or ()]
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                raise ClusterGarbage(f"GET {place.path}: the answer is no list of objects") from None
            found |= {item.key.name: item.resource_version for item in items}
            token = page.metadata.continue_
            if not token:
                break
        return dict(sorted(found.items())[:most]), bool(token) or len(found) > most

    async def _fetch(self, session: Requests, place: SourcePlace, name: str) -> tuple[Sighting, ...] | None:
        """What the object says; None where it is gone by now."""
        try:
            body = await session.request("GET", f"{place.path}/{name}", most_bytes=MOST_OBJECT_BYTES)
        except ClusterNotFound:
            return None
        except ClusterOverBudget:
            return (unusable(place.source, place.namespace, name, "the object is too large to be read"),)
        try:
            return tuple(await asyncio.to_thread(sightings_in, place.source, body))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return (unusable(place.source, place.namespace, name, NOT_OF_ITS_FORM),)
