"""The orders of the rotation, as the controller wrote them: which intermediate signs where, and who gets nothing.

No document means that it is not recorded what is in force. Orders that were read stay until others are read: what
is damaged, gone, of an earlier rotation or of an earlier revision of the record changes nothing, and the fence
(``fence.py``) keeps a signer that cannot read them from going on for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.core.trust.rotation.effects import Orders
from federation.state.documents import decode
from federation.state.store import StateStore

POLL: Final = 0.5  # seconds: a rotation waits for the slowest signer
READ_TIMEOUT: Final = 5.0

ORDERS: Final = "orders"

_logger = logging.getLogger(__name__)


class OrdersFollower:
    """Follows the orders; ``orders`` is None until it was read whether there are any."""

    def __init__(
        self, store: StateStore, *, clock: Clock, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._looking = asyncio.Lock()
        self._version = ""
        self.orders: Orders | None = None
        self.problem: StateUnavailable | None = None

    async def run(self) -> None:
        """Look every :data:`POLL` seconds until cancelled."""
        while True:
            await self.poll()
            await self._clock.sleep(POLL)

    async def poll(self) -> None:
        """Look once; what is wrong is kept as :attr:`problem`."""
        try:
            await self.catch_up()
        except StateUnavailable as error:
            self._fail(error)

    async def catch_up(self) -> Orders:
        """The orders that hold at some instant after the call, taken up. Raises StateUnavailable."""
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._looking:  # an older answer never comes later
                orders = await self._read()
        except TimeoutError:
            raise StateUnavailable(f"no answer in {READ_TIMEOUT:g} s", where=ORDERS) from None
        self.problem = None
        if orders != self.orders:
            self.orders = orders
            if orders.rotation:
                _logger.info(
                    "rotation %d is in %s",
                    orders.rotation,
                    orders.state,
                    extra={"rotation": orders.rotation, "state": orders.state},
                )
            self._on_change()
        return orders

    async def _read(self) -> Orders:
        stored = await self._store.read(ORDERS)
        held = self.orders
        if stored is None:
            if self._version:
                raise StateUnavailable(
                    "the state store holds no orders any more",
                    where=ORDERS,
                    remedy="nothing, where the controller writes them; else restore the newest backup of the state",
                    reason="orders_missing",
                )
            return Orders()
        if held is not None and stored.version == self._version:
            return held
        orders = decode(stored.data, Orders, key=ORDERS)
        if held is not None and orders.rotation < held.rotation:
            raise _backwards(
                f"these are of rotation {orders.rotation}, and rotation {held.rotation} has begun"
            )
        if held is not None and 0 < orders.revision < held.revision:  # 0: of a controller that counts none
            raise _backwards(
                f"these are of revision {orders.revision} of the record, and revision {held.revision} was followed"
            )
        self._version = stored.version
        return orders

    def _fail(self, problem: StateUnavailable) -> None:
        if str(problem) != str(self.problem):
            _logger.error(
                "the orders are not taken up: %s", problem.diagnostics(), extra={"reason": problem.reason}
            )
        self.problem = problem


def _backwards(what: str) -> StateUnavailable:
    return StateUnavailable(
        what,
        where=ORDERS,
        remedy="restore the newest backup of the state, then restart every role",
        reason="orders_backwards",
    )
