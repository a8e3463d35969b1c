"""All objects of one cluster, with one revision counter and the history that watches and pages need.

Stored objects are never changed in place: a write makes a new :class:`Stored`, so lists, watches and continue tokens
may hold old ones for as long as they like. Revisions behave as etcd's: one counter for everything, one step for each
write. What all objects share is here too: their JSON, names, times and unique identifiers.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from federation_sandbox.apiserver.resources import Resource
from federation_sandbox.apiserver.status import ApiError, bad_request, invalid

Obj = dict[str, Any]

encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUFFIX_ALPHABET = (
    "bcdfghjklmnpqrstvwxz2456789"  # no vowels and no look-alikes, as in apimachinery's rand.String
)


def decode(raw: bytes) -> Any:
    """JSON as fresh Python values: the quickest deep copy of a stored object. Raises msgspec.DecodeError."""
    return _decode(raw)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as ``metav1.Time`` is written."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def new_uid() -> str:
    """A random UUID; it distinguishes an object from a later one of the same name."""
    return str(uuid.uuid4())


def generated_name(prefix: str) -> str:
    """``metadata.generateName`` with five characters more, the prefix cut to leave room for them."""
    number = uuid.uuid4().int
    suffix = ""
    for _ in range(5):
        number, digit = divmod(number, len(_SUFFIX_ALPHABET))
        suffix += _SUFFIX_ALPHABET[digit]
    return prefix[:58] + suffix


def metadata(obj: Mapping[str, Any]) -> Obj:
    """The object's metadata, which a stored object always has."""
    found: Obj = obj["metadata"]
    return found


def labels(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """The object's labels, empty where it has none."""
    found: Mapping[str, str] = metadata(obj).get("labels") or {}
    return found


def check_type(resource: Resource, body: Any) -> Obj:
    """A decoded body as an object of this resource, apiVersion and kind filled in. Raises ApiError 400."""
    if not isinstance(body, dict):
        raise bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): not a JSON object"
        )
    kind, version = body.get("kind") or resource.kind, body.get("apiVersion") or resource.api_version
    if (kind, version) != (resource.kind, resource.api_version):
        raise bad_request(f'{kind} in version "{version}" cannot be handled as a {resource.kind}')
    if not isinstance(body.setdefault("metadata", {}), dict):
        raise bad_request(f"{resource.kind}.metadata must be an object")
    return {"kind": resource.kind, "apiVersion": resource.api_version} | {
        key: value for key, value in body.items() if key not in {"kind", "apiVersion"}
    }


def is_subdomain(text: str) -> bool:
    """Whether it is a lower-case RFC 1123 subdomain, as most names are."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def check_name(resource: Resource, name: str) -> None:
    """Refuse a name that the type does not allow. Raises ApiError 422."""
    problem = _name_problem(resource, name)
    if problem is not None:
        raise problem


def _name_problem(resource: Resource, name: str) -> ApiError | None:
    def refuse(problem: str, reason: str = "FieldValueInvalid") -> ApiError:
        return invalid(resource.kind, resource.group, name, "metadata.name", problem, reason=reason)

    if not name:
        return refuse("Required value: name or generateName is required", "FieldValueRequired")
    if resource.path_name:
        bad = name in {".", ".."} or "/" in name or "%" in name
        return (
            refuse(f'Invalid value: "{name}": may not be "." or "..", or contain "/" or "%"') if bad else None
        )
    if resource.label_name:
        rule = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must"
        )
        return (
            None
            if _LABEL.fullmatch(name)
            else refuse(f'Invalid value: "{name}": {rule} start and end with an alphanumeric')
        )
    rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
    if not is_subdomain(name):
        return refuse(f'Invalid value: "{name}": {rule}')
    return None


ObjectKey = tuple[str, str]
EventType = Literal["ADDED", "MODIFIED", "DELETED"]

HISTORY = 5_000  # events kept a resource: enough that 410 comes only where a test asks for it
BACKLOG = (
    50_000  # events a watcher may lag behind before its watch is ended, as kube-apiserver ends slow ones
)


class Stored:
    """One revision of one object: its value (read only) and its bytes."""

    __slots__ = ("_partial", "name", "namespace", "raw", "revision", "value")

    def __init__(self, value: Obj, revision: int) -> None:
        meta = metadata(value)
        meta["resourceVersion"] = str(revision)
        self.namespace: str = meta.get("namespace", "")
        self.name: str = meta["name"]
        self.revision = revision
        self.value = value
        self.raw = encode(value)
        self._partial: bytes | None = None

    @property
    def key(self) -> ObjectKey:
        """Namespace (empty for cluster-scoped objects) and name."""
        return self.namespace, self.name

    @property
    def uid(self) -> str:
        """The object's unique identifier."""
        found: str = metadata(self.value)["uid"]
        return found

    @property
    def partial(self) -> bytes:
        """The same object as ``meta.k8s.io/v1 PartialObjectMetadata``."""
        if self._partial is None:
            head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            self._partial = encode(head | {"metadata": self.value["metadata"]})
        return self._partial

    def in_version(self, resource: Resource) -> Stored:
        """The same object in the version of ``resource``: the versions here differ by their name alone."""
        if self.value.get("apiVersion") == resource.api_version:
            return self
        return Stored(self.copy() | {"apiVersion": resource.api_version}, self.revision)

    def copy(self) -> Obj:
        """A value the caller may change."""
        found: Obj = decode(self.raw)
        return found


class Event:
    """One change of one object. ``stored`` is the state after it, or the last one for a deletion."""

    __slots__ = ("previous", "stored", "type")

    def __init__(self, kind: EventType, stored: Stored, previous: Stored | None) -> None:
        self.type: EventType = kind
        self.stored = stored
        self.previous = previous

    @property
    def revision(self) -> int:
        """The revision at which it happened."""
        return self.stored.revision


class Subscription:
    """The events of one resource from some revision on, in order, for one watch."""

    def __init__(self, pending: list[Event], on_close: Callable[[Subscription], None]) -> None:
        self.pending = deque(pending)
        self.closed = False
        self._wake = asyncio.Event()
        self._on_close = on_close
        if pending:
            self._wake.set()

    def offer(self, event: Event) -> None:
        """Add an event; a subscriber too far behind is closed instead."""
        if len(self.pending) >= BACKLOG:
            self.close()
            return
        self.pending.append(event)
        self._wake.set()

    async def wait(self, timeout: float) -> bool:
        """Wait until something is pending or the subscription is closed; False after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> list[Event]:
        """Everything pending."""
        events = list(self.pending)
        self.pending.clear()
        if not self.closed:
            self._wake.clear()
        return events

    def close(self) -> None:
        """End it, from either side."""
        if not self.closed:
            self.closed = True
            self._wake.set()
            self._on_close(self)


class HistoryGoneError(Exception):
    """The revision asked for is older than the history that is kept."""


class _Shelf:
    """The objects and history of one resource."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, Stored] = {}
        self.history: deque[Event] = deque()
        self.floor = 0  # the newest revision whose event was dropped
        self.subscriptions: list[Subscription] = []


class Store:
    """The objects of one cluster."""

    def __init__(self) -> None:
        self.revision = 1
        self._shelves: dict[tuple[str, str], _Shelf] = {}

    def _shelf(self, resource: Resource) -> _Shelf:
        key = resource.group, resource.plural
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = _Shelf()
        return shelf

    def get(self, resource: Resource, namespace: str, name: str) -> Stored | None:
        """The current state of an object, if it exists."""
        found = self._shelf(resource).objects.get((namespace, name))
        return None if found is None else found.in_version(resource)

    def all(self, resource: Resource, namespace: str = "") -> list[Stored]:
        """Current objects in etcd's order (by namespace and name); of one namespace where one is given."""
        return [stored.in_version(resource) for stored in _sorted(self._shelf(resource).objects, namespace)]

    def at(self, resource: Resource, revision: int, namespace: str = "") -> list[Stored]:
        """The objects as they were at a revision. Raises :class:`HistoryGoneError`."""
        shelf = self._shelf(resource)
        if revision < shelf.floor:
            raise HistoryGoneError
        objects = dict(shelf.objects)
        for event in reversed(shelf.history):
            if event.revision <= revision:
                break
            if event.previous is None:
                objects.pop(event.stored.key, None)
            else:
                objects[event.stored.key] = event.previous
        return [stored.in_version(resource) for stored in _sorted(objects, namespace)]

    def put(self, resource: Resource, value: Obj) -> Stored:
        """Create or replace an object, and send it to every watch."""
        shelf = self._shelf(resource)
        self.revision += 1
        stored = Stored(value, self.revision)
        previous = shelf.objects.get(stored.key)
        shelf.objects[stored.key] = stored
        self._publish(shelf, Event("ADDED" if previous is None else "MODIFIED", stored, previous))
        return stored

    def remove(self, resource: Resource, namespace: str, name: str) -> Stored:
        """Delete an object that exists; returns its last state with the deletion's revision."""
        shelf = self._shelf(resource)
        previous = shelf.objects.pop((namespace, name))
        self.revision += 1
        last = Stored(previous.copy(), self.revision)
        self._publish(shelf, Event("DELETED", last, previous))
        return last

    def subscribe(self, resource: Resource, after: int) -> Subscription:
        """Every event of the resource after a revision, then live. Raises :class:`HistoryGoneError`."""
        shelf = self._shelf(resource)
        if after < shelf.floor:
            raise HistoryGoneError
        pending: list[Event] = []
        for event in reversed(shelf.history):
            if event.revision <= after:
                break
            pending.append(event)
        subscription = Subscription(pending[::-1], shelf.subscriptions.remove)
        shelf.subscriptions.append(subscription)
        return subscription

    def subscriptions(self, resource: Resource | None = None) -> Iterator[Subscription]:
        """The watches under way."""
        shelves = [self._shelf(resource)] if resource is not None else list(self._shelves.values())
        for shelf in shelves:
            yield from list(shelf.subscriptions)

    def compact(self) -> None:
        """Forget all history, as etcd's compaction does: older versions and continue tokens are gone."""
        for shelf in self._shelves.values():
            shelf.history.clear()
            shelf.floor = self.revision

    def _publish(self, shelf: _Shelf, event: Event) -> None:
        shelf.history.append(event)
        if len(shelf.history) > HISTORY:
            shelf.floor = shelf.history.popleft().revision
        for subscription in list(shelf.subscriptions):
            subscription.offer(event)


def _sorted(objects: dict[ObjectKey, Stored], namespace: str) -> list[Stored]:
    chosen: Any = objects if not namespace else (key for key in objects if key[0] == namespace)
    return [objects[key] for key in sorted(chosen)]
