"""What a certificate for a cluster is made on: the generation it is delivered with, the orders, the authority."""

from __future__ import annotations

import msgspec

from federation.core.errors import NotReady
from federation.core.trust.rotation.effects import Orders
from federation.signer.authorities.keeper import AuthorityKeeper
from federation.signer.authorities.succession import Succession
from federation.signer.choosing import choose, require_served
from federation.signer.orders import OrdersFollower
from federation.signer.trust import AcceptedTrust, TrustFollower
from federation.state.documents import Current


class Terms(msgspec.Struct, frozen=True):
    """What holds for a cluster now. Any of it may change between two requests."""

    trust: AcceptedTrust
    orders: Orders


class Grounds:
    """Looks it up, for every request, in what is kept up to date beside the requests."""

    def __init__(self, trust: TrustFollower, orders: OrdersFollower, authorities: Succession) -> None:
        self._trust = trust
        self._orders = orders
        self._authorities = authorities

    def terms(self, cluster: str) -> Terms:
        """The terms for that cluster; empty for the hub itself.

        Raises NotReady where there is no bundle or there are no orders yet, where its generation is not
        believed, and where it is quarantined.
        """
        in_force, orders = self._trust.in_force, self._orders.orders
        if in_force is None:
            raise NotReady("there is no bundle yet", reason="no_bundle")
        if orders is None:
            raise NotReady(
                f"the orders of the controller were not read yet: {self._orders.problem or 'starting'}",
                reason="no_orders",
            )
        require_served(orders, cluster)
        return Terms(in_force.for_cluster(cluster), orders)

    def signer(self, cluster: str, terms: Terms) -> AuthorityKeeper:
        """Who signs on these terms; raises NotReady as :func:`choose` does."""
        return choose(terms.orders, cluster, self._authorities.in_order, terms.trust.anchors)

    async def look(self) -> tuple[Current | None, Orders]:
        """What is to hold by the state store, read after the call and taken up. Raises StateUnavailable."""
        orders = await self._orders.catch_up()
        return await self._trust.catch_up(), orders
