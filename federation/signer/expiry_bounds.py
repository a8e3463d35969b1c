"""Until when this signer's leaves may live, persisted ahead of them under ``horizons/<replica>``.

What a request needs to know is in memory: a delivery within a bound that was persisted, and revalidated since, costs
a look-up. For a delivery beyond it the bound is written a step ahead, and then what is in force is read again
(``revalidation.py``). Deliveries that come meanwhile share the next write. What is in force is also read again, once
for all of them, where it was read last some seconds ago: a signer that is cut off from the store learns of no
quarantine, and must not go on for as long as its longest leaf lives. A bound is never lowered, even where another
process writes the document: it is swapped against the version that was read, and merged where that has changed.

Rows are dropped a day after their end. The gates count a leaf for at most an hour of clock skew longer, so
that a day also covers a clock of this machine that is wrong by most of one. In a table that would become too
large, the rows that end first are put together for each cluster as one of an unknown issuer and generation, which
every gate counts as the worst case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from federation.core.clock import Clock
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import EXPIRY_BOUNDS
from federation.core.documents.signer import ExpiryBound, ExpiryBoundTable
from federation.core.documents.trust import Current
from federation.core.errors import StateUnavailable
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER, Delivered, merged, step_for
from federation.signer.revalidation import Delivery, revalidate
from federation.state.store import StateConflict, StateStore, Stored

_logger = logging.getLogger(__name__)

KEPT: Final = 86400.0  # seconds after its end
MOST_ROWS: Final = 4000
"""A row takes up to 170 bytes: some 660 KiB, which stays below 1 MiB even in base64. Two hundred clusters may have
twenty rows each: three issuers in each of six generations that leaves are alive of."""

UNKNOWN_GENERATION: Final = 0
ATTEMPTS: Final = 3  # at swapping the document, where another process of this name writes it as well
REVALIDATE_AFTER: Final = 30.0
"""Seconds after which a delivery has what is in force read again: how long a signer that is cut off goes on at most."""

TIMEOUT: Final = 8.0  # seconds for one write and the read after it
RETRY: Final = 1.0  # seconds between attempts to be able again

_Key = tuple[str, str, int]


class _Round:
    """Deliveries that share one write. Once ``settled``, either ``seen`` or ``error`` is set."""

    def __init__(self) -> None:
        self.wanted: dict[Delivered, float] = {}
        self.settled = asyncio.Event()
        self.seen: tuple[Current | None, SigningDirectives] | None = None
        self.error: StateUnavailable | None = None


class PersistedExpiryBounds:
    """The bounds of one signer. ``read_in_force`` reads the store anew, or raises StateUnavailable.

    Nothing is covered before :meth:`run` has read the table of an earlier process of this name, nor while the
    store fails.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        replica: str,
        clock: Clock,
        read_in_force: Callable[[], Awaitable[tuple[Current | None, SigningDirectives]]],
    ) -> None:
        self._store = store
        self._replica = replica
        self._key = f"{EXPIRY_BOUNDS}{replica}"
        self._clock = clock
        self._read_in_force = read_in_force
        self._asked = asyncio.Event()
        self._gathering = _Round()
        self._version: str | None = None
        self._persisted: dict[Delivered, float] = {}
        self._cleared: dict[_Key, float] = {}  # what was persisted and revalidated since
        self._read_at: float | None = None  # when the last read that was answered had begun
        self._loaded = False
        self.problem: StateUnavailable | None = StateUnavailable(
            "how far earlier leaves reach was not read yet", where=self._key
        )

    async def cover(self, delivery: Delivery) -> None:
        """Return once the delivery may leave. Raises StateUnavailable or Superseded where it must not."""
        key = delivery.cluster.value, delivery.authority, delivery.generation
        until = delivery.not_after.timestamp()
        if self._cleared.get(key, 0.0) >= until and self._sees:
            return
        if self.problem is not None:
            raise _again(self.problem)
        shared, row = self._gathering, Delivered(*key)
        reach = self._persisted.get(row, 0.0)  # by an earlier process, or not revalidated since
        if reach < until:
            reach = until + step_for(until - self._clock.now().timestamp())
        shared.wanted[row] = max(reach, shared.wanted.get(row, 0.0))
        self._asked.set()
        await shared.settled.wait()
        if shared.seen is None:
            raise _again(shared.error)
        revalidate(delivery, *shared.seen)
        self._cleared[key] = max(reach, self._cleared.get(key, 0.0))

    @property
    def _sees(self) -> bool:
        """True while what is in force was read a moment ago."""
        return self._read_at is not None and self._clock.monotonic() - self._read_at < REVALIDATE_AFTER

    async def run(self) -> None:
        """Serve deliveries, and become able again after a failure, until cancelled."""
        try:
            while True:
                if self.problem is None:
                    await self._asked.wait()
                    await self._settle(self._next_round())
                else:
                    await self._recover()
                    if self.problem is not None:
                        await self._clock.sleep(RETRY)
        finally:
            self._next_round().settled.set()

    def _next_round(self) -> _Round:
        """The round that was gathering; from now on another one is."""
        self._asked.clear()
        shared, self._gathering = self._gathering, _Round()
        return shared

    async def _recover(self) -> None:
        if self._loaded:
            await self._settle(_Round(), anew=True)
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                stored = await self._store.read(self._key)
            self._persisted = _rows(stored, self._key)
        except TimeoutError:
            self._fail(StateUnavailable(f"no answer in {TIMEOUT:g} s", where=self._key))
        except StateUnavailable as error:
            self._fail(error)
        else:
            self._version = stored.version if stored is not None else None
            self._loaded, self.problem = True, None

    async def _settle(self, shared: _Round, *, anew: bool = False) -> None:
        """Persist what a round wants, then read what is in force; ``anew`` writes what is persisted as well."""
        try:
            async with asyncio.timeout(TIMEOUT):
                if anew or any(until > self._persisted.get(row, 0.0) for row, until in shared.wanted.items()):
                    await self._persist(shared.wanted)
                began = self._clock.monotonic()
                shared.seen = await self._read_in_force()
            self._read_at, self.problem = began, None
        except TimeoutError:
            self._fail(StateUnavailable(f"no answer in {TIMEOUT:g} s", where=self._key), shared)
        except StateUnavailable as error:
            self._fail(error, shared)
        finally:
            shared.settled.set()

    async def _persist(self, wanted: Mapping[Delivered, float]) -> None:
        conflict: StateConflict | None = None
        for _ in range(ATTEMPTS):
            now = self._clock.now().timestamp()
            table = bounded(merged((self._persisted, wanted)), now)
            rows = [
                ExpiryBound(cluster=d.cluster, issuer=d.issuer, generation=d.generation, until=until)
                for d, until in sorted(table.items())
            ]
            data = encode(ExpiryBoundTable(replica=self._replica, rows=rows))
            try:
                self._version = await self._store.write(
                    self._key, data, expected=self._version, create=self._version is None
                )
            except (
                StateConflict
            ) as error:  # another process of this name, or a write of ours that seemed to fail
                conflict = error
                stored = await self._store.read(self._key)
                self._persisted = merged((self._persisted, _rows(stored, self._key)))
                self._version = stored.version if stored is not None else None
                continue
            self._persisted = table
            self._cleared = {key: until for key, until in self._cleared.items() if Delivered(*key) in table}
            return
        raise _again(conflict)

    def _fail(self, problem: StateUnavailable, shared: _Round | None = None) -> None:
        if str(problem) != str(self.problem):
            _logger.error(
                "how far leaves reach cannot be persisted, so that none may reach farther: %s",
                problem.diagnostics(),
                extra={"reason": problem.reason},
            )
        self.problem = problem.without_frames()
        for failed in (shared, self._next_round()):  # no delivery waits for the next attempt
            if failed is not None:
                failed.error = problem.without_frames()
                failed.settled.set()


def bounded(table: Mapping[Delivered, float], now: float, *, most: int = MOST_ROWS) -> dict[Delivered, float]:
    """The table without rows that ended long ago, and with ``most`` rows at most; no leaf loses its bound."""
    kept = {row: until for row, until in table.items() if until + KEPT > now}
    if len(kept) <= most:
        return kept
    for row in sorted(kept, key=lambda row: (kept[row], row)):
        worst = Delivered(row.cluster, UNKNOWN_ISSUER, UNKNOWN_GENERATION)
        if row != worst:
            until = kept.pop(row)
            kept[worst] = max(until, kept.get(worst, 0.0))
        if len(kept) <= most:
            break
    return kept


def _rows(stored: Stored | None, key: str) -> dict[Delivered, float]:
    if stored is None:
        return {}
    rows = decode(stored.data, ExpiryBoundTable, key=key).rows
    return {Delivered(row.cluster, row.issuer, row.generation): row.until for row in rows}


def _again(error: StateUnavailable | None) -> StateUnavailable:
    """An error of one's own for each that waited: one that is raised twice tangles its traceback."""
    if error is None:
        return StateUnavailable("how far leaves reach cannot be persisted")
    return StateUnavailable(error.what, where=error.where, remedy=error.remedy, reason=error.reason)
