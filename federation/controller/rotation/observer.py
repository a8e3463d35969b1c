"""What signers and earlier leaders have persisted, read for the gates: what cannot be used counts as the worst.

A store that is down raises StateUnavailable, and nothing is decided. One document that is damaged must not stop
that, or it would take the operators' hands off the rotation: a signer whose report is damaged is ready with
nothing, and where it is not known how far a signer's leaves reach, every gate that waits for leaves is shut.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from federation.controller.generations import GENERATIONS, bundle_of
from federation.core.config.members import LONGEST_TTL
from federation.core.config.model import HubConfig
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import ClusterName
from federation.core.trust.horizons import (
    ANY_REMOVED,
    LONGEST_STEP,
    UNKNOWN_ISSUER,
    Delivered,
    merged,
)
from federation.state.damage import StateDamaged, damaged
from federation.state.documents import Generation, HorizonRow, HorizonTable, SignerReport, decode
from federation.state.liveness import is_heard_of
from federation.state.many import read_many
from federation.state.store import StateStore, Stored

HORIZONS: Final = "horizons/"
SIGNERS: Final = "signers/"
UNKNOWN_GENERATION: Final = 0
LAST_GENERATION: Final = 10**12 - 1  # what their keys have room for
LAST_INSTANT: Final = (
    253_370_764_800.0  # the year 9999 begins: later ones no calendar holds, with some skew added
)
MOST_COUNTED: Final = 2**53  # certificates: up to here a float tells one more from none

_log = logging.getLogger(__name__)

Table = Mapping[Delivered, float]


class UnreadableReport(SignerReport, frozen=True, kw_only=True):
    """Stands for a signer whose report is damaged: it may be alive, and what it can sign with is not known."""

    why: str


class Observer:
    """Reads it all. ``problem`` is what the last look could not use of how far leaves reach, empty where nothing."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._anchors: dict[int, frozenset[str]] = {}
        self._tables: dict[str, tuple[str, Table]] = {}  # with the version of each
        self.problem = ""

    async def signers(self, now: float, *, skew: float = 0.0) -> dict[str, SignerReport]:
        """Those that are heard of, and those of which it is not known whether they should be."""
        found: dict[str, SignerReport] = {}
        for key, stored in (await read_many(self._store, await self._store.keys(SIGNERS))).items():
            if stored is None:
                continue  # it has ended in good order
            replica = key.removeprefix(SIGNERS)
            try:
                report = report_of(key, stored)
            except StateDamaged as error:
                found[replica] = _unreadable(replica, now, error)
            else:
                if is_heard_of(report, now, skew=skew):
                    found[replica] = report
        return found

    async def horizons(self, worst: Table) -> Table:
        """How far the leaves of every signer reach, of those that are gone as well.

        Where one cannot be told, ``worst`` is counted for it (:func:`worst_of`).
        """
        stored = await read_many(self._store, await self._store.keys(HORIZONS))
        tables: dict[str, tuple[str, Table]] = {}
        problems: list[StateDamaged] = []
        for key, document in stored.items():
            try:
                tables[key] = self._table(key, document)
            except StateDamaged as error:
                problems.append(error)
        self._tables = tables
        self._tell(problems)
        counted = [table for _, table in tables.values()]
        return merged([*counted, worst] if problems else counted)

    def _table(self, key: str, document: Stored | StateDamaged | None) -> tuple[str, Table]:
        if document is None:  # nobody but the leader removes one, and it does so between two looks
            raise StateUnavailable(
                "it was listed and then was not there", where=key, remedy="the next look lists anew"
            )
        known = self._tables.get(key)
        if known is not None and isinstance(document, Stored) and known[0] == document.version:
            return known
        if isinstance(document, StateDamaged):
            raise document
        return document.version, table_of(key, document)

    def _tell(self, problems: list[StateDamaged]) -> None:
        problem = ""
        if problems:
            first = problems[0]
            more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
            problem = (
                f"how far leaves reach is not known, so every gate that waits for leaves is shut: {first}{more}; "
                f"{first.remedy}"
            )
        if problem and problem != self.problem:
            _log.error("%s", problem, extra={"reason": problems[0].reason})
        self.problem = problem

    async def generations(self, numbers: frozenset[int]) -> dict[int, frozenset[str]]:
        """The anchors of each; one that cannot be read is left out, which counts as holding none."""
        for number in sorted(numbers - self._anchors.keys() - {UNKNOWN_GENERATION}):
            await self.anchors(number)
        self._anchors = {number: held for number, held in self._anchors.items() if number in numbers}
        return dict(self._anchors)

    async def anchors(self, number: int) -> frozenset[str]:
        """The anchors of that generation; none where it cannot be read."""
        if number not in self._anchors:
            anchors = await self._generation(number)
            if anchors is None:
                return frozenset()
            self._anchors[number] = anchors  # a generation never changes once written
        return self._anchors[number]

    async def _generation(self, number: int) -> frozenset[str] | None:
        key = f"{GENERATIONS}{number:012d}"
        try:
            stored = await self._store.read(key)
            if stored is None:
                return None
            bundle = bundle_of(decode(stored.data, Generation, key=key))
        except (InvalidValue, StateDamaged):
            return None
        return frozenset(anchor.sha256 for anchor in bundle.certificates)


def report_of(key: str, stored: Stored | StateDamaged) -> SignerReport:
    """The report of a signer; raises StateDamaged for what cannot be one."""
    if isinstance(stored, StateDamaged):
        raise stored
    report = decode(stored.data, SignerReport, key=key)
    if f"{SIGNERS}{report.replica}" != key:
        raise damaged(f"it says that it is of {report.replica[:80]!r}", key=key, where=key)
    if not 0 <= report.issued <= MOST_COUNTED:
        raise damaged("it counts certificates that nobody can have issued", key=key, where=key)
    return report


def table_of(key: str, stored: Stored) -> dict[Delivered, float]:
    """How far one signer's leaves reach; raises StateDamaged for what cannot be that."""
    table: dict[Delivered, float] = {}
    for row in decode(stored.data, HorizonTable, key=key).rows:
        _check(row, key)
        delivered = Delivered(row.cluster, row.issuer, row.generation)
        table[delivered] = max(row.until, table.get(delivered, row.until))
    return table


def _check(row: HorizonRow, key: str) -> None:
    try:
        ClusterName(row.cluster)
    except InvalidValue as error:
        raise damaged(error.what, key=key, where=key) from None
    if not 0 <= row.generation <= LAST_GENERATION or len(row.issuer) > 64 or not row.issuer.isprintable():
        raise damaged("a row names no generation, or no issuer, that there can be", key=key, where=key)
    if not 0 <= row.until <= LAST_INSTANT:
        raise damaged(f"a leaf is to live until {row.until:g}, which is no instant", key=key, where=key)


def worst_of(config: HubConfig, now: float, *, gone: Iterable[str] = ()) -> dict[Delivered, float]:
    """The leaves of a signer of whom nothing is known: of any issuer, delivered with nothing, and as long as any.

    Like those of a CA that goes on issuing: their end moves on with the time. Its leaves may as well be of clusters
    that are registered no more: of those in ``gone``, and of others whose name nobody knows by now
    (:data:`ANY_REMOVED`). What their policy allowed is not known either, so they live as long as any policy allows.
    """
    longest = {ANY_REMOVED: LONGEST_TTL} | dict.fromkeys(gone, LONGEST_TTL)
    longest |= {str(cluster.name): cluster.policy.longest_ttl for cluster in config.clusters}
    return {
        Delivered(name, UNKNOWN_ISSUER, UNKNOWN_GENERATION): now + ttl + LONGEST_STEP
        for name, ttl in longest.items()
    }


def _unreadable(replica: str, now: float, error: StateDamaged) -> UnreadableReport:
    return UnreadableReport(
        replica=replica,
        started=now,
        updated=now,
        heartbeat=1.0,
        ready=False,
        why=f"its report cannot be used: {error}; {error.remedy}",
    )
