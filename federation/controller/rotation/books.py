"""The record of the rotation, the orders that follow from it, and the takeovers, in the state store.

The record is swapped against the version that was read; orders follow from it and are written before
anything else is observed, so that a signer which has just said how far its leaves reach sees them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from federation.core.trust.rotation.effects import Orders, orders_of
from federation.core.trust.rotation.record import RotationBook
from federation.state.documents import Takeovers, decode, encode
from federation.state.store import StateStore

ROTATION: Final = "rotation"
ORDERS: Final = "orders"
TAKEOVERS: Final = "takeovers"

_log = logging.getLogger(__name__)


class Books:
    """Reads and writes them. Every failure is a StateUnavailable: nothing is guessed."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._version: str | None = None
        self.book = RotationBook()

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

    async def takeovers(self, clusters: Iterable[str], now: float) -> dict[str, float]:
        """Since when the hub issues for each of these clusters, remembering those that are new."""
        stored = await self._store.read(TAKEOVERS)
        known = decode(stored.data, Takeovers, key=TAKEOVERS).since if stored is not None else {}
        new = {name: now for name in clusters if name not in known}
        if new:
            data = encode(Takeovers(since=known | new))
            if stored is None:
                await self._store.write(TAKEOVERS, data, create=True)
            else:
                await self._store.write(TAKEOVERS, data, expected=stored.version)
        return known | new


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
