"""Reads the state store into a snapshot: whole or not at all, cached for half a second, never stale.

A store that cannot be listed, or does not answer in time, raises: the API then says 503 rather than what it
knew before. A single document that is damaged is named in the snapshot, which makes the verdict failing and
leaves the rest readable.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.core.trust.rotation.effects import Orders
from federation.core.trust.rotation.record import RotationBook
from federation.state.documents import (
    ControllerReport,
    Current,
    Generation,
    Operation,
    SignerReport,
    decode,
    generation_key,
)
from federation.state.store import StateStore
from federation.status.scene import Snapshot

CACHED: Final = 0.5  # a scrape storm costs two reads a second; nobody sees a difference of half a second
TIMEOUT: Final = 5.0
MOST_GENERATIONS: Final = 20
MOST_OPERATIONS: Final = 50
MOST_REPORTS: Final = 1000  # of each role; a directory full of strangers must not exhaust this process

Document = TypeVar("Document", bound=msgspec.Struct)
logger = logging.getLogger(__name__)


class SnapshotReader:
    """The newest snapshot of a store. Callers that come together share one reading."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self._read_at = float("-inf")
        self._generations: OrderedDict[tuple[str, str], Generation] = OrderedDict()
        self._decided: dict[str, Operation] = {}

    async def read(self) -> Snapshot:
        """What the store holds, at most half a second old. Raises StateUnavailable if it cannot be told."""
        async with self._lock:
            if self._snapshot is not None and self._clock.monotonic() - self._read_at < CACHED:
                return self._snapshot
            self._snapshot = None
            started = self._clock.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT):
                    snapshot = await self._read_all()
            except TimeoutError as error:
                raise StateUnavailable(f"the state store did not answer in {TIMEOUT:.0f} s") from error
            self._snapshot, self._read_at = snapshot, started
            return snapshot

    async def _read_all(self) -> Snapshot:
        damaged: dict[str, str] = {}
        current = await self._document("current", Current, damaged)
        return Snapshot(
            current=current,
            generations=await self._read_generations(current, damaged),
            signers=await self._reports("signers/", SignerReport, damaged),
            controllers=await self._reports("controllers/", ControllerReport, damaged),
            orders=await self._document("orders", Orders, damaged),  # before the record that it follows from
            book=await self._document("rotation", RotationBook, damaged),
            operations=await self._operations(damaged),
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
        keys = (await self._store.keys("generations/"))[-MOST_GENERATIONS:]
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
        keys = sorted(await self._store.keys("operations/"), reverse=True)[:MOST_OPERATIONS]
        found: list[Operation] = []
        for key in keys:
            known = self._decided.get(key)
            operation = known or await self._document(key, Operation, damaged)
            if operation is not None:
                found.append(operation)
        self._decided = {f"operations/{o.id}": o for o in found if o.outcome}
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
            logger.warning("a state document cannot be used", extra={"key": key, "reason": str(error)})
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
