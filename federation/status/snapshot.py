"""The documents of one moment: read whole or not at all, and sorted into what counts now and what does not.

**Reading:** cached for half a second, never stale. A store that cannot be listed, or does not answer in time, raises:
the API then says 503 rather than what it knew before. A single document that is damaged is named in the snapshot,
which makes the verdict failing and leaves the rest readable.

**Sorting** (pure): everything in ``status`` that says "ready" or "valid" goes through a :class:`Snapshot`, so that the
rule of staleness and the rule of what is in force are each written once. Whether a report still counts is decided by
``state/liveness.py``; how instants, ages and expiries are put in words is decided here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

import msgspec
from msgspec.structs import replace

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import HubConfig
from federation.core.documents.controller import ControllerClusterReport, ControllerReport, Operation
from federation.core.documents.discovery import Discovery
from federation.core.documents.encoding import decode
from federation.core.documents.keys import (
    CONTROLLERS,
    CURRENT,
    DIRECTIVES,
    DISCOVERED,
    GENERATIONS,
    OPERATIONS,
    ROTATION,
    SIGNERS,
    generation_key,
)
from federation.core.documents.signer import SignerReport
from federation.core.documents.trust import Current, Generation
from federation.core.errors import StateUnavailable
from federation.core.problem import Problem
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import Quarantine, RotationRecord
from federation.state.liveness import HEARTBEATS, LONGEST_HEARTBEAT, is_live
from federation.state.store import StateStore
from federation.status.encoding import instant
from federation.status.model import Expiry

_logger = logging.getLogger(__name__)

DAY: Final = 86400.0

NOTICE_DAYS: Final = 90.0  # an offline root needs a ceremony: a quarter is what planning one takes
WARNING_DAYS: Final = 30.0
CRITICAL_DAYS: Final = 7.0


def days_left(not_after: float, now: float) -> float:
    """Days until ``not_after`` to a tenth, negative once it has passed; bounded to what JSON holds."""
    return round(min(max((not_after - now) / DAY, -1e6), 1e6), 1)


def expiry(not_after: float, now: float, *, not_before: float = 0.0) -> Expiry:
    """How near the end is. Where the whole lifetime is known and short, the thresholds shrink with it.

    Notice at 90 days or a third of the lifetime, warning at 30 days or a fifth, critical at 7 days or a
    twentieth, whichever is less.
    """
    if not_after <= 0:
        return "unknown"
    left = not_after - now
    if left <= 0:
        return "expired"
    lifetime = not_after - not_before if 0 < not_before < not_after else float("inf")
    if left <= min(CRITICAL_DAYS * DAY, lifetime / 20):
        return "critical"
    if left <= min(WARNING_DAYS * DAY, lifetime / 5):
        return "warning"
    if left <= min(NOTICE_DAYS * DAY, lifetime / 3):
        return "notice"
    return "ok"


def elapsed(seconds: float) -> str:
    """A duration in words, to the unit that matters: ``12 s``, ``4 min``, ``3 h``, ``2 days``."""
    seconds = abs(seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds / 3600:.0f} h"
    return f"{min(seconds / DAY, 1e6):.0f} days"


def instant_text(seconds: float) -> str:
    """Seconds since the epoch as a person reads them: ``2026-11-30 03:12:00 UTC``."""
    at = instant(seconds)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at is not None else "at a time that is not known"


def clock_time(seconds: float, now: float) -> str:
    """An instant as a sentence has it: ``03:12 UTC``, and with the date where that is another day than today."""
    at, today = instant(seconds), instant(now)
    if at is None:
        return "a time that is not known"
    same_day = today is not None and at.date() == today.date()
    return f"{at:%H:%M} UTC" if same_day else f"{at:%Y-%m-%d %H:%M} UTC"


def finite(seconds: float) -> float:
    """The number, or 0 where it is none that JSON could hold."""
    return seconds if abs(seconds) < 1e15 else 0.0


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """What was in the store at one moment. ``damaged`` maps unusable keys to the reason, in words."""

    current: Current | None = None
    generations: Mapping[int, Generation] = field(default_factory=dict)
    signers: Mapping[str, SignerReport] = field(default_factory=dict)
    controllers: Mapping[str, ControllerReport] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    record: RotationRecord | None = None
    directives: SigningDirectives | None = None
    operations: Sequence[Operation] = ()  # newest first
    discovery: Discovery | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot seen with a configuration at an instant (seconds since the epoch)."""

    documents: DocumentSet
    config: HubConfig
    now: float
    config_problems: tuple[str, ...]
    signers: Mapping[str, SignerReport]  # those that are live
    leaders: Mapping[str, ControllerReport]  # those that are live and claim to lead
    leader: ControllerReport | None
    last_leader: ControllerReport | None  # to show what was known last, never as if it still were
    in_force: Generation | None
    unread: Mapping[str, Problem] = field(default_factory=dict)
    """Why a cluster's trust was not read back recently, by name; clusters that were read back are not in it."""

    @classmethod
    def of(
        cls, documents: DocumentSet, config: HubConfig, now: float, config_problems: tuple[str, ...] = ()
    ) -> Self:
        """Sort the documents of ``documents``."""
        leaders = {r: c for r, c in documents.controllers.items() if c.leader and is_live(c, now)}
        past = [c for c in documents.controllers.values() if c.leader]
        snapshot = cls(
            documents=documents,
            config=config,
            now=now,
            config_problems=config_problems,
            signers={r: s for r, s in documents.signers.items() if is_live(s, now)},
            leaders=leaders,
            leader=max(leaders.values(), key=lambda c: c.updated, default=None),
            last_leader=max(past, key=lambda c: c.updated, default=None),
            in_force=_in_force(documents),
        )
        looked_up = ((cluster.name.value, snapshot._not_read_back(cluster)) for cluster in config.clusters)
        unread = {name: problem for name, problem in looked_up if problem is not None}
        return dataclasses.replace(snapshot, unread=unread)

    @property
    def leader_follows(self) -> bool:
        """True where the leader works with the generation in force."""
        return (
            self.leader is not None
            and self.in_force is not None
            and (self.leader.generation == self.in_force.number)
        )

    @property
    def rotation_unknown(self) -> Problem | None:
        """Why neither the rotation nor quarantines are known; None where they are, and where none ever was."""
        damaged = self.documents.damaged
        if ROTATION in damaged:
            return _rotation_unknown(f"the record of rotations cannot be used: {damaged['rotation']}")
        directives = self.documents.directives
        # Which clusters were looked into, and what they hold, is in the directives before there is a record.
        given = DIRECTIVES in damaged or (
            directives is not None
            and replace(directives, met=None, ahead={}, others={}) != SigningDirectives()
        )
        if self.documents.record is None and given:
            return _rotation_unknown(
                "the record of rotations is not there, though signers were given directives that followed from it"
            )
        return None

    @property
    def quarantined(self) -> Mapping[str, Quarantine]:
        """Clusters that a person took out, by name; none where that is not known."""
        return self.documents.record.quarantined if self.documents.record else {}

    @property
    def discovery(self) -> Discovery | None:
        """The clusters that were found; None where none are looked for, and where no leader has looked yet."""
        return self.documents.discovery if self.config.discovery is not None else None

    def meant_for(self, name: str) -> Generation | None:
        """The generation that a cluster is to hold: the one in force, or an older one until its wave has come."""
        current = self.documents.current
        if self.in_force is None or current is None or name not in current.behind:
            return self.in_force
        number = current.behind[name]
        generation = self.documents.generations.get(number)
        return generation if generation is not None and generation.number == number else None

    def seen(self, name: str) -> ControllerClusterReport | None:
        """The leader's report on a cluster; None without a leader, or where it does not know the cluster."""
        return self.leader.clusters.get(name) if self.leader else None

    def not_read_back(self, cluster: ClusterConfig) -> Problem | None:
        """Why this cluster's trust was not read back recently; None where it was."""
        return self.unread.get(cluster.name.value)

    def _not_read_back(self, cluster: ClusterConfig) -> Problem | None:
        if self.leader is None:
            return self.no_leader
        name = cluster.name.value
        seen = self.seen(name)
        if seen is None:
            return Problem(
                code="not_reported", detail="the controller does not report this cluster yet", where=name
            )
        if (problem := seen.problem) is not None and seen.state != "degraded":
            detail = f"the controller cannot reach it: {problem.detail}"
            return replace(problem, detail=detail, where=name, since=seen.since)
        # The server is live at least once within watch_silence or the reflector takes the watch for dead;
        # twice that leaves room for the reconnection.
        longest = 2 * cluster.timeouts.watch_silence + HEARTBEATS * LONGEST_HEARTBEAT
        read_back = seen.publication.read_back
        if not 0 < read_back <= self.now + HEARTBEATS * LONGEST_HEARTBEAT:
            return Problem(
                code="never_read_back", detail="nothing has been read back from it yet", where=name
            )
        if self.now - read_back > longest:
            ago = elapsed(self.now - read_back)
            return Problem(
                code="read_back_old", detail=f"it was last read back {ago} ago", where=name, since=read_back
            )
        return None

    @property
    def no_leader(self) -> Problem | None:
        """Why no leader counts; None where one does."""
        if self.leader is not None:
            return None
        last = self.last_leader
        return Problem(
            code="no_leader",
            detail="no controller has reported as leader yet"
            if last is None
            else f"the leading controller was last seen {elapsed(self.now - last.updated)} ago",
            where="controller",
            remedy=LEAD,
            since=last.updated if last is not None else 0.0,
        )

    @property
    def nothing_in_force(self) -> Problem | None:
        """Why no generation is in force; None where one is."""
        if self.in_force is not None:
            return None
        current = self.documents.current
        if current is None:
            detail = "no generation of trust has been put in force"
        elif current.number not in self.documents.generations:
            detail = f"generation {current.number} is in force, but its document cannot be read"
        else:
            detail = f"generation {current.number} does not have the digest that was put in force"
        remedy = "start a controller" if self.leader is None else MAKE_ONE
        return Problem(code="no_generation", detail=detail, where="current", remedy=remedy)


LEAD: Final = "start a controller, or look in its log for why it does not lead"
RESTORE_RECORD: Final = (
    "restore this document of the state store from a backup; publication and signing go on as they were"
)
MAKE_ONE: Final = (
    "correct what keeps the controller from making one: the anchors that [[trust.anchors]] pins, or what the state "
    "store has lost, which a backup brings back"
)


def _rotation_unknown(detail: str) -> Problem:
    return Problem(
        code="rotation_unknown",
        detail=detail,
        where="rotation",
        remedy=RESTORE_RECORD,
    )


def _in_force(documents: DocumentSet) -> Generation | None:
    current = documents.current
    generation = documents.generations.get(current.number) if current else None
    if current is None or generation is None or generation.number != current.number:
        return None
    return generation if generation.sha256 == current.sha256 else None


CACHED: Final = 0.5  # a scrape storm costs two reads a second; half a second makes no visible difference
TIMEOUT: Final = 5.0
MOST_GENERATIONS: Final = 20
MOST_OPERATIONS: Final = 50
MOST_REPORTS: Final = 1000  # of each role; a directory full of strangers must not exhaust this process

Document = TypeVar("Document", bound=msgspec.Struct)


class SnapshotReader:
    """The newest snapshot of a store. Callers that come together share one reading."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = asyncio.Lock()
        self._snapshot: DocumentSet | None = None
        self._read_at = float("-inf")
        self._generations: OrderedDict[tuple[str, str], Generation] = OrderedDict()
        self._decided: dict[str, Operation] = {}

    async def read(self) -> DocumentSet:
        """What the store holds, at most half a second old. Raises StateUnavailable if it cannot be determined."""
        async with self._lock:
            if self._snapshot is not None and self._clock.monotonic() - self._read_at < CACHED:
                return self._snapshot
            self._snapshot = None
            started = self._clock.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT):
                    documents = await self._read_all()
            except TimeoutError as error:
                raise StateUnavailable(f"the state store did not answer in {TIMEOUT:.0f} s") from error
            self._snapshot, self._read_at = documents, started
            return documents

    async def _read_all(self) -> DocumentSet:
        damaged: dict[str, str] = {}
        current = await self._document(CURRENT, Current, damaged)
        return DocumentSet(
            current=current,
            generations=await self._read_generations(current, damaged),
            signers=await self._reports(SIGNERS, SignerReport, damaged),
            controllers=await self._reports(CONTROLLERS, ControllerReport, damaged),
            directives=await self._document(
                DIRECTIVES, SigningDirectives, damaged
            ),  # before the record that it follows from
            record=await self._document(ROTATION, RotationRecord, damaged),
            operations=await self._operations(damaged),
            discovery=await self._document(DISCOVERED, Discovery, damaged),
            damaged=damaged,
        )

    async def _reports(
        self, prefix: str, kind: type[Document], damaged: dict[str, str]
    ) -> dict[str, Document]:
        keys = await self._store.keys(prefix)
        if len(keys) > MOST_REPORTS:
            damaged[prefix] = f"{len(keys)} reports, of which the first {MOST_REPORTS} are read"
        found = {key: await self._document(key, kind, damaged) for key in keys[:MOST_REPORTS]}
        return {key.removeprefix(prefix): report for key, report in found.items() if report is not None}

    async def _read_generations(
        self, current: Current | None, damaged: dict[str, str]
    ) -> dict[int, Generation]:
        keys = (await self._store.keys(GENERATIONS))[-MOST_GENERATIONS:]
        for number in {current.number, *current.behind.values()} if current is not None else ():
            if (key := generation_key(number)) not in keys:
                keys.insert(0, key)
        found: dict[int, Generation] = {}
        for key in keys:
            generation = await self._document(key, Generation, damaged, decoder=self._generation)
            if generation is not None:
                found[generation.number] = generation
        return found

    async def _operations(self, damaged: dict[str, str]) -> list[Operation]:
        """The newest ones, newest first. One that is decided never changes: it is read once."""
        keys = sorted(await self._store.keys(OPERATIONS), reverse=True)[:MOST_OPERATIONS]
        found: list[Operation] = []
        for key in keys:
            known = self._decided.get(key)
            operation = known or await self._document(key, Operation, damaged)
            if operation is not None:
                found.append(operation)
        self._decided = {f"{OPERATIONS}{o.id}": o for o in found if o.outcome}
        return found

    async def _document(
        self,
        key: str,
        kind: type[Document],
        damaged: dict[str, str],
        *,
        decoder: Callable[[str, str, bytes], Document] | None = None,
    ) -> Document | None:
        try:
            stored = await self._store.read(key)
            if stored is None:
                return None
            if decoder is not None:
                return decoder(key, stored.version, stored.data)
            return decode(stored.data, kind, key=key)
        except StateUnavailable as error:
            _logger.warning("a state document cannot be used", extra={"key": key, "reason": str(error)})
            damaged[key] = error.what
            return None

    def _generation(self, key: str, version: str, data: bytes) -> Generation:
        """A generation never changes: it is decoded and its digest checked once for each version."""
        known = self._generations.get((key, version))
        if known is not None:
            return known
        generation = decode(data, Generation, key=key)
        if generation_key(generation.number) != key:
            raise StateUnavailable(f"it says it is generation {generation.number}", where=key)
        if hashlib.sha256(generation.bundle_pem.encode()).hexdigest() != generation.sha256:
            raise StateUnavailable("its bundle does not have the digest it states", where=key)
        self._generations[key, version] = generation
        while len(self._generations) > 2 * MOST_GENERATIONS:
            self._generations.popitem(last=False)
        return generation
