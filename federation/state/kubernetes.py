"""The state store in ConfigMaps of the hub's own cluster, for deployments without a volume.

One object for each document (``kubernetes_documents.py``), named after its key, in one of two namespaces
(``kubernetes_names.py``); leadership is a Lease (``kubernetes_election.py``). The API server is the engine: a write is
durable when it is answered, and every write is a compare-and-swap on resourceVersion. That goes for "last writer wins"
as well, which is a swap over whatever is there: a write that was given up must not land after a newer one.

ConfigMaps, not Secrets: no document holds one, and a role that may list Secrets in a namespace may read all of them.

Where the answer to a write is lost, the store looks: each write is marked, so that its own is told from another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

from federation.core.clock import Clock
from federation.core.errors import ClusterConflict, ClusterNotFound, InvalidValue, StateUnavailable
from federation.state.kubernetes_api import Calls, KubernetesApi
from federation.state.kubernetes_documents import Draft, Found, pack, unpack
from federation.state.kubernetes_election import LeaseTimings, leading
from federation.state.kubernetes_names import Namespaces, key_of, object_name
from federation.state.kubernetes_objects import Objects, Place
from federation.state.store import Leadership, StateConflict, Stored

T = TypeVar("T")

TIMEOUT: Final = 10.0
"""Seconds an operation may take, all attempts included; past that the state is unavailable."""

REQUEST_TIMEOUT: Final = 4.0
"""Seconds for one request: a connection that hangs leaves time for another attempt."""

LEASE_TIMEOUT: Final = 3.0
"""Seconds for one look at the Lease or one renewal, of which several have to fit into its deadline."""

SWAPS: Final = 8
"""Attempts at a write over whatever is there, while others write the same document."""

REMOVED: Final = "the document was removed since it was read"
WRITTEN: Final = "the document was written by somebody else since it was read"

_LARGE: Final = 128 * 1024  # bytes; from here on they are packed in a thread, as it takes milliseconds
_EXPANSION: Final = 16  # how much larger than its compressed form a document is taken to be


class KubernetesStore:
    """A :class:`~federation.state.store.StateStore` in objects; the session behind ``api`` is the caller's to close.

    ``namespace`` holds what controllers write, the same with ``-signers`` behind it what signers write.
    Raises InvalidValue where that is no namespace.
    """

    def __init__(
        self,
        api: KubernetesApi,
        clock: Clock,
        *,
        namespace: str,
        jitter: random.Random,
        timeout: float = TIMEOUT,
        request_timeout: float = REQUEST_TIMEOUT,
        lease: LeaseTimings = LeaseTimings(),  # noqa: B008 - it is frozen
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._namespaces = Namespaces(namespace)
        self._clock = clock
        self._timeout = timeout
        self._jitter = jitter
        self._lease = lease
        self._random_bytes = random_bytes
        self._objects = Objects(
            Calls(api, clock, timeout=request_timeout, budget=timeout, jitter=jitter), clock
        )
        short = min(LEASE_TIMEOUT, request_timeout)
        self._lease_calls = Calls(api, clock, timeout=short, budget=short, jitter=jitter)
        self._versions: dict[str, str] = {}  # of what this process wrote last, and is the only writer of
        self._listed: dict[tuple[str, str], set[str]] = {}

    async def read(self, key: str) -> Stored | None:
        """The document, or None where there is none; StateDamaged where it is damaged."""
        place = self._place(key)
        async with self._within(place.where):
            found = await self._objects.get(place)
            if found is not None:
                return await self._unpack(place, found)
            await self._objects.check_namespace(place.namespace, fresh=False)
        return None

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        """Replace the document, durably, and return its new version; see the protocol for the conditions."""
        place = self._place(key)
        mark = self._random_bytes(16).hex()
        draft = await self._off_loop(len(data), lambda: pack(key, mark, data))
        async with self._within(place.where):
            if create and expected is not None:
                raise StateConflict("a document that is to be new has no version", where=place.where)
            if create:
                return await self._create(place, draft)
            if expected is not None:
                return await self._swap(place, draft, expected)
            return await self._overwrite(place, draft)

    async def delete(self, key: str, *, expected: str | None = None) -> None:
        """Remove the document, durably, or only that version of it; no error where there is none."""
        place = self._place(key)
        self._versions.pop(key, None)
        async with self._within(place.where):
            if expected is not None:
                await self._remove(place, expected)
                return
            for _ in range(SWAPS):
                found = await self._objects.get(place)
                if found is None:
                    return
                try:
                    await self._objects.delete(place, found.version)
                except ClusterConflict:
                    continue
                return
            raise _restless(place)

    async def keys(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``, sorted; objects that are no documents are passed over.

        A namespace that is being deleted loses its objects one by one. So that half of them are never taken
        for all, StateUnavailable is raised for one.
        """
        found: list[str] = []
        async with self._within(" and ".join(self._namespaces.below(prefix))):
            for namespace in self._namespaces.below(prefix):
                keys = await self._keys(namespace, prefix)
                known = self._listed.get((namespace, prefix))
                if known is None or not keys or known - keys:
                    # After the list: had the deletion begun before it, the namespace is marked by now.
                    await self._objects.check_namespace(namespace, fresh=True)
                self._listed[namespace, prefix] = keys
                found += keys
        return sorted(found)

    @contextlib.asynccontextmanager
    async def lead(self, name: str, *, identity: str) -> AsyncIterator[Leadership]:
        """Wait until this process leads; see ``kubernetes_election.py`` for what that is worth."""
        if "/" in name:
            raise InvalidValue(f"{name[:80]!r} is not a name for a leadership")
        async with leading(
            self._lease_calls,
            self._clock,
            namespace=self._namespaces.controllers,
            name=object_name(name),
            identity=identity,
            timings=self._lease,
            jitter=self._jitter,
            random_bytes=self._random_bytes,
        ) as leadership:
            yield leadership

    def _place(self, key: str) -> Place:
        return Place(self._namespaces.of(key), key)

    async def _create(self, place: Place, draft: Draft) -> str:
        try:
            return await self._objects.post(place, draft)
        except ClusterConflict:
            found = await self._objects.get(place)
            if found is not None and found.mark == draft.mark:
                return found.version  # an earlier attempt of this very write
            if found is not None:
                await self._unpack(place, found)  # that it is damaged matters more than that it is there
            raise StateConflict("the document exists already", where=place.where) from None

    async def _swap(self, place: Place, draft: Draft, expected: str) -> str:
        _check_version(place, expected)
        try:
            return await self._objects.put(place, draft, expected)
        except ClusterNotFound:
            raise StateConflict(REMOVED, where=place.where) from None
        except ClusterConflict:
            found = await self._objects.get(place)
            if found is not None and found.mark == draft.mark:
                return found.version
            raise StateConflict(REMOVED if found is None else WRITTEN, where=place.where) from None

    async def _remove(self, place: Place, expected: str) -> None:
        _check_version(place, expected)
        if (
            await self._objects.get(place) is None
        ):  # whether it was Kubernetes that took a removal, no answer says
            return
        try:
            await self._objects.delete(place, expected)
        except ClusterConflict:
            if await self._objects.get(place) is not None:
                raise StateConflict(WRITTEN, where=place.where) from None

    async def _overwrite(self, place: Place, draft: Draft) -> str:
        version = self._versions.pop(place.key, "")
        for _ in range(SWAPS):
            if not version:
                found = await self._objects.get(place)
                version = "" if found is None else found.version
                if found is not None and found.mark == draft.mark:
                    break  # an earlier attempt of this write landed
            try:
                if version:
                    version = await self._objects.put(place, draft, version)
                else:
                    version = await self._objects.post(place, draft)
                break
            except (ClusterConflict, ClusterNotFound):
                version = ""
        else:
            raise _restless(place)
        self._versions[place.key] = version
        return version

    async def _keys(self, namespace: str, prefix: str) -> set[str]:
        keys = {key for name in await self._objects.names(namespace) if (key := key_of(name)) is not None}
        return {key for key in keys if key.startswith(prefix) and self._namespaces.of(key) == namespace}

    async def _unpack(self, place: Place, found: Found) -> Stored:
        size = sum(map(len, found.binary_data.values())) * _EXPANSION
        return await self._off_loop(size, lambda: unpack(place.key, found, where=place.where))

    async def _off_loop(self, size: int, function: Callable[[], T]) -> T:
        return function() if size < _LARGE else await asyncio.to_thread(function)

    @contextlib.asynccontextmanager
    async def _within(self, where: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise StateUnavailable(
                f"no answer from the API server within {self._timeout:g} s",
                where=where,
                remedy="look at the API server of the hub's cluster; the hub keeps trying",
            ) from None


def _check_version(place: Place, version: str) -> None:
    """Kubernetes takes no version, or "0", for "whatever is there"."""
    if not (version.isascii() and version.isdecimal() and int(version)):
        raise StateConflict("the version is none that this store gave", where=place.where)


def _restless(place: Place) -> StateUnavailable:
    return StateUnavailable(
        f"somebody else wrote the document {SWAPS} times while it was to be written",
        where=place.where,
        remedy="give each process a name of its own (--replica): two write what belongs to one",
    )
