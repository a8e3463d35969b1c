"""Which pods hold certificates, shared between signers through the state store under ``callers/<replica>``.

A signer writes what it knows when that has changed, and reads what the others wrote, often enough for the shortest
certificates and at most every two seconds. What a signer that is gone has left is taken over by those that are
alive, before the leader removes it.

A signer that was killed may have issued certificates that are in no table. How far those can reach is known: its
horizon is written ahead of every certificate (``horizons.py``). So until that has passed, it is not known of its
clusters which pods hold none; where its horizon cannot be read, that is not known of any cluster. The same goes for a
signer that wrote no table at all, such as one of a release that knew of none. One that ends in good order closes its
table, and opens it again before it issues.

The same documents hold which member published each token key first (``attestation/key_claims.py``), so that no restart
makes another member the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.config.members import LONGEST_TTL
from federation.core.errors import StateUnavailable
from federation.signer.attestation.key_claims import Claims, KeyClaims, claims_in
from federation.signer.callers import Callers, Known, unpacked
from federation.state.damage import StateDamaged, damaged
from federation.state.documents import CallersTable, HorizonTable, decode, encode
from federation.state.liveness import is_heard_of
from federation.state.many import read_many
from federation.state.store import StateStore, Stored

CALLERS: Final = "callers/"
HORIZONS: Final = "horizons/"
SIGNERS: Final = "signers/"

SHORTEST: Final = 2.0  # seconds between two looks
LONGEST: Final = 30.0
LOOKS_IN_A_LIFE: Final = 20.0
RETRY: Final = 1.0
TIMEOUT: Final = 15.0
MOST_SIGNERS: Final = 512

_Documents = Mapping[str, Stored | StateDamaged | None]

_logger = logging.getLogger(__name__)


class _Beat(msgspec.Struct, frozen=True):
    """What tells of a signer's report whether its writer is alive."""

    updated: float
    heartbeat: float


class SharedCallers:
    """Keeps :class:`Callers` in step with the store. ``usual_life`` is how long certificates live by policy."""

    def __init__(
        self,
        store: StateStore,
        *,
        replica: str,
        clock: Clock,
        callers: Callers,
        usual_life: Callable[[], float],
        claims: KeyClaims | None = None,
    ) -> None:
        self._store = store
        self._replica = replica
        self._clock = clock
        self._callers = callers
        self._claims = claims or KeyClaims()
        self._usual_life = usual_life
        self._unread = ""
        self._adopted: dict[str, str] = {}  # with the version that was taken over
        self.problem: StateUnavailable | None = StateUnavailable(
            "which pods hold certificates was not read yet", where=CALLERS
        )

    async def run(self) -> None:
        """Read, write and read the others' until cancelled; a store that fails is tried again."""
        while True:
            await self.share()
            await self._pause(RETRY if self.problem is not None else self._interval)

    async def _pause(self, seconds: float) -> None:
        """Sleep; a token key that was first seen just now is persisted at once, or a restart would forget it."""
        waits = {
            asyncio.create_task(self._clock.sleep(seconds)),
            *([asyncio.create_task(self._claims.news.wait())] if self.problem is None else ()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    @property
    def _interval(self) -> float:
        life = self._callers.shortest_lifetime or self._usual_life()
        return min(LONGEST, max(SHORTEST, min(life, self._usual_life()) / LOOKS_IN_A_LIFE))

    async def share(self) -> None:
        """Once; what goes wrong is kept as :attr:`problem`."""
        try:
            async with asyncio.timeout(TIMEOUT):
                if not self._callers.open:
                    await self._load()
                await self._look()
                self._claims.open = True
                if self._callers.changed or self._claims.news.is_set():
                    await self._write(closed=False)
        except TimeoutError:
            self._fail(StateUnavailable(f"no answer in {TIMEOUT:g} s", where=CALLERS))
        except StateUnavailable as error:
            self._fail(error)
        else:
            self.problem = None

    async def close(self) -> None:
        """Write for the last time: nothing is issued any more, so that what is written is all there is."""
        if not self._callers.open:
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._write(closed=True)
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("which pods hold certificates cannot be written: %s", str(error) or "no answer")

    async def _load(self) -> None:
        """What an earlier process of this name has left. Before this, nothing is written over it."""
        key = f"{CALLERS}{self._replica}"
        found = await read_many(self._store, [key, f"{HORIZONS}{self._replica}"])
        table = _table(key, found[key])
        if table is not None:
            self._callers.adopt(table.known)
            self._claims.adopt(table.claims)
        if table is None or not table.closed:
            for cluster, until in _reach(f"{HORIZONS}{self._replica}", found).items():
                self._callers.doubt(cluster, until)
        await self._write(closed=False)
        self._callers.open = True

    async def _look(self) -> None:
        """What the other signers know, those that are gone included."""
        keys = [*await self._store.keys(CALLERS), *await self._store.keys(HORIZONS)]
        replicas = sorted({key.partition("/")[2] for key in keys} - {self._replica})[:MOST_SIGNERS]
        now = self._clock.now().timestamp()
        reports = await read_many(self._store, [f"{SIGNERS}{replica}" for replica in replicas])
        heard = {replica: _is_heard_of(reports[f"{SIGNERS}{replica}"], now) for replica in replicas}
        documents = await read_many(self._store, [f"{CALLERS}{replica}" for replica in replicas])
        tables: list[Known] = []
        doubtful: list[str] = []
        for replica in replicas:
            key = f"{CALLERS}{replica}"
            table = _table(key, documents[key])
            if table is None or not (table.closed or heard[replica]):
                doubtful.append(f"{HORIZONS}{replica}")
            if table is None:
                continue
            tables.append(table.known)
            self._claims.adopt(table.claims)
            if not heard[replica] and self._adopted.get(key) != table.version:
                self._callers.adopt(table.known)  # its document is not kept for ever
                self._adopted[key] = table.version
            await asyncio.sleep(0)
        doubts: dict[str, float] = {}
        everywhere, unread = 0.0, ""
        horizons = await read_many(self._store, doubtful)
        for key in doubtful:
            try:
                reach = _reach(key, horizons)
            except StateDamaged as error:
                everywhere, unread = now + LONGEST_TTL, error.diagnostics()
                continue
            for cluster, until in reach.items():
                doubts[cluster] = max(until, doubts.get(cluster, 0.0))
        if unread and unread != self._unread:
            _logger.error(
                "every cluster is in doubt, for how far a signer's leaves reach is not known: %s", unread
            )
        self._unread = unread
        self._callers.learn(tables, doubts, everywhere=everywhere)
        self._adopted = {key: version for key, version in self._adopted.items() if key in documents}

    async def _write(self, *, closed: bool) -> None:
        table = msgspec.structs.replace(
            self._callers.table(self._replica, closed=closed), keys=self._claims.document()
        )
        try:
            await self._store.write(f"{CALLERS}{self._replica}", encode(table))
        except BaseException:
            self._callers.changed = True
            self._claims.news.set()
            raise

    def _fail(self, problem: StateUnavailable) -> None:
        if str(problem) != str(self.problem):
            _logger.warning(
                "which pods hold certificates is not shared with the other signers: %s",
                problem.diagnostics(),
                extra={"reason": problem.reason},
            )
        self.problem = problem


@dataclass(frozen=True, slots=True)
class _Table:
    known: Known
    claims: Claims
    closed: bool
    version: str


def _table(key: str, stored: Stored | StateDamaged | None) -> _Table | None:
    """A signer's table; None where it has none that can be used."""
    if not isinstance(stored, Stored):
        return None
    try:
        table = decode(stored.data, CallersTable, key=key)
        if f"{CALLERS}{table.replica}" != key:
            raise damaged(f"it says that it is of {table.replica[:80]!r}", key=key, where=key)
        return _Table(unpacked(table, key=key), claims_in(table, key=key), table.closed, stored.version)
    except StateDamaged as error:
        _logger.warning("%s", error.diagnostics(), extra={"reason": error.reason})
        return None


def _reach(key: str, found: _Documents) -> dict[str, float]:
    """How far certificates of a signer may reach in each cluster. Raises StateDamaged where that is not known."""
    stored = found[key]
    if isinstance(stored, StateDamaged):
        raise stored
    reach: dict[str, float] = {}
    for row in decode(stored.data, HorizonTable, key=key).rows if stored is not None else ():
        reach[row.cluster] = max(row.until, reach.get(row.cluster, 0.0))
    return reach


def _is_heard_of(stored: Stored | StateDamaged | None, now: float) -> bool:
    if not isinstance(stored, Stored):
        return False
    try:
        return is_heard_of(decode(stored.data, _Beat, key=SIGNERS), now)
    except StateDamaged:
        return False
