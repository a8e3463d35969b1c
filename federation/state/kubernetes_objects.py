"""The ConfigMaps of the state store, one request at a time: what was asked for, or one typed error.

Nothing is taken for absent because an answer was strange: an object that is not there is believed only of a
namespace that is there, and is not being deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from federation.core.clock import Clock
from federation.core.errors import ClusterConflict, ClusterGone, ClusterNotFound, StateUnavailable
from federation.state.kubernetes_api import MISSING, NOT_KUBERNETES, Calls
from federation.state.kubernetes_documents import Draft, Found, opened
from federation.state.kubernetes_names import object_name

T = TypeVar("T")

PAGE: Final = 500
MAX_PAGES: Final = 200
NAMES_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

BELIEVED: Final = 5.0
"""Seconds for which a namespace that was there is taken to be there: readers poll for what is not there yet."""


class _Named(msgspec.Struct, rename="camel"):
    name: str
    deletion_timestamp: str | None = None


class _Item(msgspec.Struct):
    metadata: _Named


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    kind: str
    metadata: _ListMetadata
    items: list[_Item] | None = None  # Go's API machinery writes null for an empty slice


class _Namespace(msgspec.Struct):
    kind: str
    metadata: _Named


_page = msgspec.json.Decoder(_Page)
_namespace = msgspec.json.Decoder(_Namespace)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document is. Raises InvalidValue for a key that has no place."""

    namespace: str
    key: str

    def __post_init__(self) -> None:
        object_name(self.key)

    @property
    def name(self) -> str:
        """The object's name."""
        return object_name(self.key)

    @property
    def collection(self) -> str:
        """The path to create it at."""
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    @property
    def path(self) -> str:
        """The path of the object."""
        return f"{self.collection}/{self.name}"

    @property
    def where(self) -> str:
        """Its name for people, and for kubectl."""
        return f"ConfigMap {self.namespace}/{self.name}"


class Objects:
    """The objects of one store. Everything raises StateUnavailable; what else is raised is said."""

    def __init__(self, calls: Calls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._there: dict[str, float] = {}  # when a namespace was last seen to be there

    async def get(self, place: Place) -> Found | None:
        """The object, or None where there is none: then nothing is known of its namespace either."""
        try:
            answer = await self._calls.call("GET", place.path, where=place.where)
        except ClusterNotFound:
            return None
        return self._opened(place, answer)

    async def post(self, place: Place, draft: Draft) -> str:
        """Create it and return its version. Raises ClusterConflict where it is there."""
        body = draft.body(key=place.key, name=place.name)
        try:
            answer = await self._calls.call("POST", place.collection, where=place.where, body=body)
        except ClusterNotFound:
            raise _no_namespace(place.namespace) from None
        return self._opened(place, answer).version

    async def put(self, place: Place, draft: Draft, version: str) -> str:
        """Replace that version and return the new one. Raises ClusterConflict and ClusterNotFound."""
        body = draft.body(key=place.key, name=place.name, version=version)
        answer = await self._calls.call("PUT", place.path, where=place.where, body=body)
        return self._opened(place, answer).version

    async def delete(self, place: Place, version: str) -> None:
        """Remove that version. Raises ClusterConflict; it is no error where the object is gone."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": version},
        }
        try:
            await self._calls.call("DELETE", place.path, where=place.where, body=msgspec.json.encode(options))
        except ClusterNotFound:
            return

    async def names(self, namespace: str) -> list[str]:
        """The names of all ConfigMaps in a namespace. Empty as well where there is no such namespace."""
        where, path = f"ConfigMaps of {namespace}", f"/api/v1/namespaces/{namespace}/configmaps"
        for _ in range(2):
            try:
                return await self._pages(path, where)
            except ClusterGone:
                continue  # the list took longer than its version was kept: from the start
            except (ClusterNotFound, ClusterConflict) as error:
                raise _garbage(error.what, where) from error
        raise StateUnavailable("the list went out of date twice while it was read", where=where)

    async def check_namespace(self, namespace: str, *, fresh: bool) -> None:
        """Raise unless the namespace is there and stays; ``fresh`` asks even where it was just seen."""
        seen = self._there.get(namespace)
        if not fresh and seen is not None and self._clock.monotonic() - seen < BELIEVED:
            return
        where = f"Namespace {namespace}"
        try:
            answer = await self._calls.call("GET", f"/api/v1/namespaces/{namespace}", where=where)
        except ClusterNotFound:
            raise _no_namespace(namespace) from None
        found = _decoded(_namespace, answer, where)
        if found.kind != "Namespace" or found.metadata.name != namespace:
            raise _garbage("it is another object", where)
        if found.metadata.deletion_timestamp is not None:
            raise StateUnavailable("the namespace is being deleted", where=where, remedy=MISSING)
        self._there[namespace] = self._clock.monotonic()

    async def _pages(self, path: str, where: str) -> list[str]:
        names: list[str] = []
        params = {"limit": str(PAGE)}
        for _ in range(MAX_PAGES):
            answer = await self._calls.call("GET", path, where=where, params=params, accept=NAMES_ONLY)
            page = _decoded(_page, answer, where)
            if not page.kind.endswith("List"):
                raise _garbage("it is no list", where)
            names += (item.metadata.name for item in page.items or ())
            if not page.metadata.continue_:
                return names
            params["continue"] = page.metadata.continue_
        raise _garbage(f"it has more than {MAX_PAGES} pages", where)

    def _opened(self, place: Place, answer: bytes) -> Found:
        found = opened(answer, name=place.name, where=place.where)
        self._there[place.namespace] = self._clock.monotonic()
        return found


def _decoded(decoder: msgspec.json.Decoder[T], answer: bytes, where: str) -> T:
    try:
        return decoder.decode(answer)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _garbage(str(error)[:200], where) from None


def _no_namespace(namespace: str) -> StateUnavailable:
    return StateUnavailable("the namespace is not there", where=f"Namespace {namespace}", remedy=MISSING)


def _garbage(what: str, where: str) -> StateUnavailable:
    return StateUnavailable(
        f"the answer is not what was asked for: {what}", where=where, remedy=NOT_KUBERNETES
    )
