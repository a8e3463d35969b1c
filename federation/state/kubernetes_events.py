"""Kubernetes Events on the objects of the hub's state: what ``kubectl describe`` and ``kubectl events`` show there.

They are for people, and nothing depends on them: an Event that cannot be written is counted and given up, and the log
says so once. Core v1 Events as client-go's recorder writes them: what happens again on the same object within ten
minutes is counted in the Event that is there. kube-apiserver keeps them for an hour.

At most :data:`BURST` are written at once and one each :data:`EVERY` seconds for long: something that changes all the
time fills neither etcd nor the list that a person reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from enum import Enum
from typing import Any, Final, TypeAlias

import msgspec

from federation.core.clock import Clock
from federation.core.documents.keys import CURRENT, ROTATION
from federation.core.errors import ClusterConflict, ClusterError, ClusterNotFound, ClusterWithheld
from federation.kubernetes.objects import METADATA_ONLY
from federation.state.kubernetes_documents import KubernetesApi
from federation.state.kubernetes_store import object_name

_logger = logging.getLogger(__name__)

BURST: Final = 30
EVERY: Final = 10.0
AGAIN: Final = 600.0  # seconds for which what happens again is the same Event, as client-go's recorder has it
KNOWN_FOR: Final = 300.0  # seconds for which the uid of an object is taken to be the same
MOST_REMEMBERED: Final = 500
TIMEOUT: Final = 5.0  # seconds for all requests of one Event
MOST_NOTE: Final = 1000  # characters; Kubernetes takes 1024 in its newer Events
COMPONENT: Final = "federation-hub"


class About(Enum):
    """The object that an Event is about, with its kind, API version and resource."""

    TRUST = (CURRENT, "ConfigMap", "v1", "api/v1", "configmaps")
    ROTATION = (ROTATION, "ConfigMap", "v1", "api/v1", "configmaps")
    LEADER = (
        "controller",
        "Lease",
        "coordination.k8s.io/v1",
        "apis/coordination.k8s.io/v1",
        "leases",
    )

    @property
    def object_name(self) -> str:
        """The object's name."""
        return object_name(self.value[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEvent:
    """Something that has happened. ``reason`` is one word in CamelCase, ``note`` a sentence without secrets.

    ``of`` distinguishes what happens to several things for one reason: the same again is counted in the same Event.
    """

    about: About
    reason: str
    note: str
    is_warning: bool = False
    of: str = ""


@dataclass(slots=True)
class EventCounts:
    """How many Events were written, failed, or were left out because there were too many."""

    written: int = 0
    failed: int = 0
    dropped: int = 0


class _Metadata(msgspec.Struct):
    uid: str


class _Object(msgspec.Struct):
    metadata: _Metadata


@dataclass(slots=True)
class _Written:
    name: str
    count: int
    at: float  # monotonic


_Same: TypeAlias = tuple[About, str, str]


@dataclass(slots=True)
class EventWriter:
    """Writes Events beside the state in ``namespace``; ``replica`` is the process that reports them."""

    api: KubernetesApi
    clock: Clock
    namespace: str
    replica: str
    random_bytes: Callable[[int], bytes] = os.urandom
    counts: EventCounts = field(default_factory=EventCounts)
    _known: OrderedDict[_Same, _Written] = field(default_factory=OrderedDict)
    _uids: dict[About, tuple[str, float]] = field(default_factory=dict)
    _left: float = BURST
    _counted_at: float | None = None
    _problem: str = ""

    async def write(self, event: StateEvent, *, permitted: Callable[[], bool]) -> None:
        """Write it, or count that it was not; raises nothing that a cluster could cause.

        ``permitted`` says whether this process may still write, and is asked where a request is sent.
        """
        if not self._take():
            self.counts.dropped += 1
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._write(event, permitted)
        except ClusterWithheld:
            self.counts.dropped += 1
        except (ClusterError, TimeoutError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            self.counts.failed += 1
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                _logger.warning(
                    "an Event could not be written in namespace %s, and nothing else is affected: %s",
                    self.namespace,
                    error,
                )
            self._problem = problem
        else:
            self.counts.written += 1
            self._problem = ""

    def _take(self) -> bool:
        """Whether one more may be written now."""
        now = self.clock.monotonic()
        since = now - (now if self._counted_at is None else self._counted_at)
        self._left = min(float(BURST), self._left + since / EVERY)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    async def _write(self, event: StateEvent, permitted: Callable[[], bool]) -> None:
        same = (event.about, event.reason, event.of)
        known = self._known.get(same)
        is_old = known is not None and self.clock.monotonic() - known.at > AGAIN
        if known is None or is_old or not await self._again(known, event, permitted):
            known = _Written(await self._create(event, permitted), 1, self.clock.monotonic())
        self._known[same] = known
        self._known.move_to_end(same)
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def _again(self, known: _Written, event: StateEvent, permitted: Callable[[], bool]) -> bool:
        """Count it in the Event that is there; False where that has ended."""
        change = {"count": known.count + 1, "lastTimestamp": self._now(), "message": event.note[:MOST_NOTE]}
        path = f"{self._events}/{known.name}"
        try:
            await self.api.request(
                "PATCH",
                path,
                body=msgspec.json.encode(change),
                content_type="application/merge-patch+json",
                permitted=permitted,
            )
        except ClusterNotFound:
            return False
        known.count += 1
        known.at = self.clock.monotonic()
        return True

    async def _create(self, event: StateEvent, permitted: Callable[[], bool]) -> str:
        """Write a new one; its name."""
        _, kind, version, *_ = event.about.value
        name = f"{event.about.object_name}.{self.random_bytes(8).hex()}"
        now = self._now()
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {"app.kubernetes.io/part-of": COMPONENT},
            },
            "involvedObject": {
                "apiVersion": version,
                "kind": kind,
                "namespace": self.namespace,
                "name": event.about.object_name,
                "uid": await self._uid(event.about),
            },
            "reason": event.reason,
            "message": event.note[:MOST_NOTE],
            "type": "Warning" if event.is_warning else "Normal",
            "source": {"component": COMPONENT, "host": self.replica},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.replica,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        with contextlib.suppress(ClusterConflict):  # an earlier attempt has landed: the name was drawn for it
            await self.api.request("POST", self._events, body=msgspec.json.encode(body), permitted=permitted)
        return name

    async def _uid(self, about: About) -> str:
        """The object's uid, by which ``kubectl describe`` finds its Events."""
        known = self._uids.get(about)
        if known is not None and self.clock.monotonic() - known[1] < KNOWN_FOR:
            return known[0]
        _, _, _, group, resource = about.value
        path = f"/{group}/namespaces/{self.namespace}/{resource}/{about.object_name}"
        answer = await self.api.request("GET", path, accept=METADATA_ONLY)
        uid = msgspec.json.decode(answer, type=_Object).metadata.uid
        self._uids[about] = uid, self.clock.monotonic()
        return uid

    @property
    def _events(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/events"

    def _now(self) -> str:
        return self.clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
