"""The state store in ConfigMaps of the hub's own cluster, for deployments without a volume.

One object for each document (its format: ``kubernetes_documents.py``), named after its key, in one of two namespaces;
leadership is a Lease (``kubernetes_lease.py``). The API server is the engine: a write is durable when it is answered,
and every write is a compare-and-swap on resourceVersion. That goes for "last writer wins" as well, which is a swap
over whatever is there: a write that was given up must not land after a newer one.

ConfigMaps, not Secrets: no document holds one, and a role that may list Secrets in a namespace may read all of them.

Where the answer to a write is lost, the store reads again: each write is marked, so that its own can be distinguished
from another's. No strange answer makes a document absent: that an object is not there counts only in a namespace that
is there, and is not being deleted.

**Namespaces.** A document is in the namespace that its writer alone may write to. What signers write is separate
from what controllers write, because RBAC cannot narrow the creation of objects by their names: one namespace
for both would let a signer write generations, and a controller expiry bounds.

**Names** are the keys, readable for people::

    signers/federation-signer-7d4b9c6f5-x2x8q   federation.signers.federation-signer-7d4b9c6f5-x2x8q
    generations/000000000012                    federation.generations.000000000012

A ``/`` becomes a dot. What else a key may hold and an object's name may not (RFC 1123 subdomains) is written with
``y``, which is itself doubled, so that every name is of one key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec

from federation.core.clock import Clock
from federation.core.documents.keys import OF_SIGNERS
from federation.core.errors import (
    ClusterConflict,
    ClusterGone,
    ClusterNotFound,
    InvalidValue,
    StateUnavailable,
)
from federation.state.kubernetes_documents import (
    MISSING,
    NOT_KUBERNETES,
    Draft,
    Found,
    KubernetesApi,
    StoreCalls,
    opened,
    pack,
    unpack,
)
from federation.state.kubernetes_lease import LeaseTimings, leading
from federation.state.store import Leadership, StateConflict, StateStore, Stored

TIMEOUT: Final = 10.0
"""Seconds an operation may take, all attempts included; past that the state is unavailable."""

REQUEST_TIMEOUT: Final = 4.0
"""Seconds for one request: a connection that hangs leaves time for another attempt."""

LEASE_TIMEOUT: Final = 3.0
"""Seconds for one reading of the Lease or one renewal, of which several have to fit into its deadline."""

SWAPS: Final = 8
"""Attempts at a write over whatever is there, while others write the same document."""

PAGE: Final = 500
MAX_PAGES: Final = 200

SEEN_COUNTS: Final = 5.0
"""Seconds for which a namespace that was seen counts as present: readers poll for what is not there yet."""

NAMES_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
REMOVED: Final = "the document was removed since it was read"
WRITTEN: Final = "the document was written by another process since it was read"

PREFIX: Final = "federation."
"""Other things put ConfigMaps into every namespace: ``kube-root-ca.crt``, ``istio-ca-root-cert``."""

SIGNERS_SUFFIX: Final = "-signers"
"""What the namespace of the signers' documents is called after the name of the controllers' one."""

MAX_KEY: Final = 200  # as in the file store
MAX_NAME: Final = 253  # RFC 1123 subdomains, as Kubernetes limits them
MAX_NAMESPACE: Final = 63 - len(SIGNERS_SUFFIX)
_LARGE: Final = 128 * 1024  # bytes; from here on they are packed in a thread, as it takes milliseconds
_EXPANSION: Final = 16  # how much larger than its compressed form a document is taken to be
_SEGMENT: Final = r"[a-z0-9_-][a-z0-9._-]*"
_KEY: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_ESCAPES: Final = {"y": "yy", ".": "yd", "_": "yu"}
_HYPHEN: Final = "yh"  # at either end of a segment, where a name may have none
_CHARACTERS: Final = {code: character for character, code in {**_ESCAPES, "-": _HYPHEN}.items()}
_ESCAPED: Final = re.compile("y(.?)")
T = TypeVar("T")


class KubernetesStore:
    """A :class:`~federation.state.store.StateStore` in objects; the session behind ``api`` is the caller's to close.

    ``namespace`` holds what controllers write, the same with ``-signers`` behind it what signers write.
    ``permitted`` says whether this process may write documents, and is asked before each attempt (default: it may
    always). Raises InvalidValue where ``namespace`` is none.
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
        permitted: Callable[[], bool] | None = None,
    ) -> None:
        self._namespaces = Namespaces(namespace)
        self._clock = clock
        self._timeout = timeout
        self._jitter = jitter
        self._lease = lease
        self._random_bytes = random_bytes
        calls = StoreCalls(
            api, clock, timeout=request_timeout, budget=timeout, jitter=jitter, permitted=permitted
        )
        self._objects = Objects(calls, clock)
        self._another = partial(
            KubernetesStore,
            api,
            clock,
            namespace=namespace,
            jitter=jitter,
            timeout=timeout,
            request_timeout=request_timeout,
            lease=lease,
            random_bytes=random_bytes,
        )
        short = min(LEASE_TIMEOUT, request_timeout)
        self._lease_calls = StoreCalls(api, clock, timeout=short, budget=short, jitter=jitter)
        self._versions: dict[str, str] = {}  # of what this process wrote last, and is the only writer of
        self._listed: dict[tuple[str, str], set[str]] = {}

    async def read(self, key: str) -> Stored | None:
        """The document, or None where there is none; StateDamaged where it is damaged."""
        address = self._address(key)
        async with self._within(address.where):
            found = await self._objects.get(address)
            if found is not None:
                return await self._unpack(address, found)
            await self._objects.check_namespace(address.namespace, fresh=False)
        return None

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        """Replace the document, durably, and return its new version; see the protocol for the conditions."""
        address = self._address(key)
        mark = self._random_bytes(16).hex()
        draft = await self._off_loop(len(data), lambda: pack(key, mark, data))
        async with self._within(address.where):
            if create and expected is not None:
                raise StateConflict("a document that is to be new has no version", where=address.where)
            if create:
                return await self._create(address, draft)
            if expected is not None:
                return await self._swap(address, draft, expected)
            return await self._overwrite(address, draft)

    async def delete(self, key: str, *, expected: str | None = None) -> None:
        """Remove the document, durably, or only that version of it; no error where there is none."""
        address = self._address(key)
        self._versions.pop(key, None)
        async with self._within(address.where):
            if expected is not None:
                await self._remove(address, expected)
                return
            for _ in range(SWAPS):
                found = await self._objects.get(address)
                if found is None:
                    return
                try:
                    await self._objects.delete(address, found.version)
                except ClusterConflict:
                    continue
                return
            raise _contended(address)

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
        """Wait until this process leads; ``kubernetes_lease.py`` says what that guarantees."""
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

    def of_leader(self, leadership: Leadership) -> StateStore:
        """The same store for what the leader alone writes; ``leading`` is asked before each attempt is sent."""
        return self._another(permitted=lambda: leadership.leading)

    def _address(self, key: str) -> DocumentAddress:
        return DocumentAddress(self._namespaces.of(key), key)

    async def _create(self, address: DocumentAddress, draft: Draft) -> str:
        try:
            return await self._objects.post(address, draft)
        except ClusterConflict:
            found = await self._objects.get(address)
            if found is not None and found.mark == draft.mark:
                return found.version  # an earlier attempt of this very write
            if found is not None:
                await self._unpack(address, found)  # that it is damaged matters more than that it is there
            raise StateConflict("the document exists already", where=address.where) from None

    async def _swap(self, address: DocumentAddress, draft: Draft, expected: str) -> str:
        _check_version(address, expected)
        try:
            return await self._objects.put(address, draft, expected)
        except ClusterNotFound:
            raise StateConflict(REMOVED, where=address.where) from None
        except ClusterConflict:
            found = await self._objects.get(address)
            if found is not None and found.mark == draft.mark:
                return found.version
            raise StateConflict(REMOVED if found is None else WRITTEN, where=address.where) from None

    async def _remove(self, address: DocumentAddress, expected: str) -> None:
        _check_version(address, expected)
        if (
            await self._objects.get(address) is None
        ):  # whether it was Kubernetes that took a removal, no answer says
            return
        try:
            await self._objects.delete(address, expected)
        except ClusterConflict:
            if await self._objects.get(address) is not None:
                raise StateConflict(WRITTEN, where=address.where) from None

    async def _overwrite(self, address: DocumentAddress, draft: Draft) -> str:
        version = self._versions.pop(address.key, "")
        for _ in range(SWAPS):
            if not version:
                found = await self._objects.get(address)
                version = "" if found is None else found.version
                if found is not None and found.mark == draft.mark:
                    break  # an earlier attempt of this write landed
            try:
                if version:
                    version = await self._objects.put(address, draft, version)
                else:
                    version = await self._objects.post(address, draft)
                break
            except (ClusterConflict, ClusterNotFound):
                version = ""
        else:
            raise _contended(address)
        self._versions[address.key] = version
        return version

    async def _keys(self, namespace: str, prefix: str) -> set[str]:
        keys = {key for name in await self._objects.names(namespace) if (key := key_of(name)) is not None}
        return {key for key in keys if key.startswith(prefix) and self._namespaces.of(key) == namespace}

    async def _unpack(self, address: DocumentAddress, found: Found) -> Stored:
        size = sum(map(len, found.binary_data.values())) * _EXPANSION
        return await self._off_loop(size, lambda: unpack(address.key, found, where=address.where))

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
                remedy="check the API server of the hub's cluster; the hub keeps trying",
            ) from None


def _check_version(address: DocumentAddress, version: str) -> None:
    """Kubernetes takes no version, or "0", for "whatever is there"."""
    if not (version.isascii() and version.isdecimal() and int(version)):
        raise StateConflict("the version is none that this store gave", where=address.where)


def _contended(address: DocumentAddress) -> StateUnavailable:
    return StateUnavailable(
        f"another process wrote the document {SWAPS} times while it was to be written",
        where=address.where,
        remedy="give each process a name of its own (--replica): two write what belongs to one",
    )


class Namespaces:
    """The two namespaces of one store. Raises InvalidValue where ``namespace`` is no name for one."""

    def __init__(self, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace) or len(namespace) > MAX_NAMESPACE:
            raise InvalidValue(
                f"{namespace[:80]!r} is not the namespace of a state store",
                remedy=f"name one of at most {MAX_NAMESPACE} characters of a-z, 0-9 and '-'",
            )
        self.controllers: Final = namespace
        self.signers: Final = namespace + SIGNERS_SUFFIX

    def of(self, key: str) -> str:
        """Where the document of that key is."""
        return self.signers if key.startswith(OF_SIGNERS) else self.controllers

    def below(self, prefix: str) -> tuple[str, ...]:
        """Where documents whose keys begin so may be."""
        if prefix.startswith(OF_SIGNERS):
            return (self.signers,)
        if any(start.startswith(prefix) for start in OF_SIGNERS):
            return (self.controllers, self.signers)
        return (self.controllers,)


def object_name(key: str) -> str:
    """The name of the key's object. Raises InvalidValue for what is not a key, or makes too long a name."""
    if len(key) > MAX_KEY or not _KEY.fullmatch(key):
        raise InvalidValue(f"{key[:80]!r} is not the key of a document")
    name = PREFIX + ".".join(map(_label, key.split("/")))
    if len(name) > MAX_NAME:
        raise InvalidValue(f"{key[:80]!r} makes a name of more than {MAX_NAME} characters")
    return name


def key_of(name: str) -> str | None:
    """The key whose object is named so; None where that is no name of ours."""
    if not name.startswith(PREFIX):
        return None
    segments = name.removeprefix(PREFIX).split(".")
    key = "/".join(_ESCAPED.sub(lambda m: _CHARACTERS.get(m[0], "?"), segment) for segment in segments)
    try:
        return key if object_name(key) == name else None
    except InvalidValue:
        return None


def _label(segment: str) -> str:
    middle = segment.strip("-")
    if not middle:
        return _HYPHEN * len(segment)
    start = len(segment) - len(segment.lstrip("-"))
    end = len(segment) - start - len(middle)
    return _HYPHEN * start + "".join(_ESCAPES.get(c, c) for c in middle) + _HYPHEN * end


@dataclass(frozen=True, slots=True)
class DocumentAddress:
    """Where a document is. Raises InvalidValue for a key that no object can be named after."""

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

    def __init__(self, calls: StoreCalls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._seen: dict[str, float] = {}  # when a namespace was last seen to be there

    async def get(self, address: DocumentAddress) -> Found | None:
        """The object, or None where there is none: then nothing is known of its namespace either."""
        try:
            answer = await self._calls.call("GET", address.path, where=address.where)
        except ClusterNotFound:
            return None
        return self._opened(address, answer)

    async def post(self, address: DocumentAddress, draft: Draft) -> str:
        """Create it and return its version. Raises ClusterConflict where it is there."""
        body = draft.body(key=address.key, name=address.name)
        try:
            answer = await self._calls.call("POST", address.collection, where=address.where, body=body)
        except ClusterNotFound:
            raise _no_namespace(address.namespace) from None
        return self._opened(address, answer).version

    async def put(self, address: DocumentAddress, draft: Draft, version: str) -> str:
        """Replace that version and return the new one. Raises ClusterConflict and ClusterNotFound."""
        body = draft.body(key=address.key, name=address.name, version=version)
        answer = await self._calls.call("PUT", address.path, where=address.where, body=body)
        return self._opened(address, answer).version

    async def delete(self, address: DocumentAddress, version: str) -> None:
        """Remove that version. Raises ClusterConflict; it is no error where the object is gone."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": version},
        }
        try:
            await self._calls.call(
                "DELETE", address.path, where=address.where, body=msgspec.json.encode(options)
            )
        except ClusterNotFound:
            return

    async def names(self, namespace: str) -> list[str]:
        """The names of all ConfigMaps in a namespace. Empty as well where there is no such namespace."""
        where, path = f"ConfigMaps of {namespace}", f"/api/v1/namespaces/{namespace}/configmaps"
        for _ in range(2):
            try:
                return await self._pages(path, where)
            except ClusterGone:
                continue  # the list took longer than its version was available: from the start
            except (ClusterNotFound, ClusterConflict) as error:
                raise _garbage(error.what, where) from error
        raise StateUnavailable("the list went out of date twice while it was read", where=where)

    async def check_namespace(self, namespace: str, *, fresh: bool) -> None:
        """Raise unless the namespace is there and stays; ``fresh`` reads it even where it was just seen."""
        seen = self._seen.get(namespace)
        if not fresh and seen is not None and self._clock.monotonic() - seen < SEEN_COUNTS:
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
        self._seen[namespace] = self._clock.monotonic()

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

    def _opened(self, address: DocumentAddress, answer: bytes) -> Found:
        found = opened(answer, name=address.name, where=address.where)
        self._seen[address.namespace] = self._clock.monotonic()
        return found


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


def _decoded(decoder: msgspec.json.Decoder[T], answer: bytes, where: str) -> T:
    try:
        return decoder.decode(answer)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _garbage(str(error)[:200], where) from None


def _no_namespace(namespace: str) -> StateUnavailable:
    return StateUnavailable("the namespace is not there", where=f"Namespace {namespace}", remedy=MISSING)


def _garbage(what: str, where: str) -> StateUnavailable:
    return StateUnavailable(
        f"the answer is not what was requested: {what}", where=where, remedy=NOT_KUBERNETES
    )
