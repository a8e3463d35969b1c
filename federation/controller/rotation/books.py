"""The record of the rotation, the orders that follow from it, and how clusters joined, in the state store.

The record is swapped against the version that was read; orders follow from it and are written before
anything else is observed, so that a signer which has just said how far its leaves reach sees them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.controller.publication.joining import Remembered
from federation.core.trust.rotation.effects import Orders, orders_of
from federation.core.trust.rotation.record import RotationBook
from federation.state.documents import Takeovers, decode, encode
from federation.state.store import StateStore

ROTATION: Final = "rotation"
ORDERS: Final = "orders"
TAKEOVERS: Final = "takeovers"

_log = logging.getLogger(__name__)


class Arrivals(Takeovers, frozen=True, kw_only=True):
    """How clusters joined, besides when the hub was first configured to issue for each of them.

    ``joined`` are those whose every namespace has held the hub's bundle, as long as they are registered.
    ``own`` are the accepted CAs (SHA-256) that a cluster came with: as long as no takeover was ``declared``
    (the last time that a person did), they go on issuing there.
    """

    joined: list[str] = msgspec.field(default_factory=list)
    own: dict[str, list[str]] = msgspec.field(default_factory=dict)
    declared: dict[str, float] = msgspec.field(default_factory=dict)

    def taken_over(self, cluster: str) -> float | None:
        """Since when nobody but the hub issues for a registered cluster; None: its own CA still does."""
        if self.own.get(cluster) and cluster not in self.declared:
            return None
        return max(self.since[cluster], self.declared.get(cluster, 0.0))


class Books:
    """Reads and writes them. Every failure is a StateUnavailable: nothing is guessed."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._version: str | None = None
        self.book = RotationBook()
        self.arrivals: Arrivals | None = None
        """As it was last read or written; None before."""

    async def load(self) -> RotationBook:
        """The record as it is persisted; an empty one where none ever was."""
        stored = await self._store.read(ROTATION)
        if stored is None:
            self._version, self.book = None, RotationBook()
        else:
            self._version, self.book = stored.version, decode(stored.data, RotationBook, key=ROTATION)
        return self.book

    async def save(self, book: RotationBook) -> None:
        """Persist the record. Raises StateConflict where somebody else wrote since it was read."""
        if book == self.book:
            return
        data = encode(book)
        if self._version is None:
            self._version = await self._store.write(ROTATION, data, create=True)
        else:
            self._version = await self._store.write(ROTATION, data, expected=self._version)
        before, self.book = self.book, book
        _tell(before, book)

    async def give_orders(self) -> Orders:
        """Make the persisted orders those of the record; the orders."""
        orders = orders_of(self.book)
        stored = await self._store.read(ORDERS)
        if stored is None:
            if orders != Orders():
                await self._store.write(ORDERS, encode(orders), create=True)
        elif decode(stored.data, Orders, key=ORDERS) != orders:
            await self._store.write(ORDERS, encode(orders), expected=stored.version)
            _log.info("orders of rotation %d: %s", orders.rotation, orders.state or "at rest")
        return orders

    def remembered(self, cluster: str) -> Remembered | None:
        """What is persisted of how that cluster joined; None before anything was read."""
        if self.arrivals is None:
            return None
        return Remembered(
            joined=cluster in self.arrivals.joined, own=frozenset(self.arrivals.own.get(cluster, ()))
        )

    async def takeovers(self, clusters: Iterable[str], now: float) -> dict[str, float]:
        """Since when the hub issues for each of these clusters, remembering those that are new."""
        return (await self.arrive(clusters, now)).since

    async def arrive(
        self,
        clusters: Iterable[str],
        now: float,
        *,
        joined: Collection[str] = (),
        own: Mapping[str, Collection[str]] | None = None,
    ) -> Arrivals:
        """How clusters joined, with what is seen of the registered ones now."""
        registered = frozenset(clusters)

        def met(before: Arrivals) -> Arrivals:
            since = {name: now for name in sorted(registered) if name not in before.since}
            own_now = {
                name: sorted({*before.own.get(name, ()), *found})
                for name, found in sorted((own or {}).items())
                if found
            }
            return replace(
                before,
                since=before.since | since,
                joined=sorted(registered & {*before.joined, *joined}),
                own=before.own | own_now,
            )

        return await self._arrive(met)

    async def declare(self, cluster: str, now: float) -> None:
        """Remember that from now on nobody but the hub issues there. Said again, it counts from then on."""
        await self._arrive(lambda before: replace(before, declared=before.declared | {cluster: now}))
        _log.warning("the hub has taken over the cluster %s", cluster, extra={"cluster": cluster})

    async def meet(self) -> Arrivals:
        """How clusters joined, as it is persisted."""
        return await self._arrive(lambda before: before)

    async def _arrive(self, change: Callable[[Arrivals], Arrivals]) -> Arrivals:
        """What is persisted, changed. Raises StateConflict where somebody else wrote in between."""
        stored = await self._store.read(TAKEOVERS)
        before = decode(stored.data, Arrivals, key=TAKEOVERS) if stored is not None else Arrivals()
        after = change(before)
        if after != before:
            data = encode(after)
            if stored is None:
                await self._store.write(TAKEOVERS, data, create=True)
            else:
                await self._store.write(TAKEOVERS, data, expected=stored.version)
        self.arrivals = after
        return after


def _tell(before: RotationBook, after: RotationBook) -> None:
    rotation = after.rotation
    known = before.rotation.history if before.rotation is not None else []
    if rotation is not None and rotation.history and rotation.history != known:
        step = rotation.history[-1]
        _log.info(
            "rotation %d: %s to %s: %s",
            rotation.number,
            step.before.value,
            step.after.value,
            step.reason,
            extra={"author": step.author, "rotation": rotation.number, "state": rotation.state.value},
        )
    for name in sorted(after.quarantined.keys() ^ before.quarantined.keys()):
        what = "quarantined" if name in after.quarantined else "released from quarantine"
        _log.warning("the cluster %s is %s", name, what, extra={"cluster": name})
