"""What operators asked for, and what signers are told to sign with. Pure."""

from __future__ import annotations

from federation.core.trust.rotation.effects import Orders
from federation.state.documents import Operation
from federation.status.freshness import finite, instant
from federation.status.rotation_model import OperationView, OrdersView


def orders_view(orders: Orders | None) -> OrdersView | None:
    """What signers are to do; None where it is not recorded what is in force and nothing is quarantined."""
    if orders is None:
        return None
    return OrdersView(
        rotation=orders.rotation,
        state=orders.state,
        issuer=orders.issuer,
        clusters=orders.clusters,
        strict=orders.strict,
        stopped=orders.stopped,
        ttl_cap=finite(orders.ttl_cap),
        root=orders.root,
        left=orders.left,
    )


def operation_view(operation: Operation, *, sealed: bool | None = None) -> OperationView:
    """One operation of the audit; ``sealed`` is whether its seal verifies, None where that is not known."""
    return OperationView(
        id=operation.id,
        verb=operation.verb,
        author=operation.author,
        asked=instant(operation.asked),
        arguments=operation.arguments,
        decided=instant(operation.decided),
        outcome=operation.outcome,
        detail=operation.detail,
        remedy=operation.remedy,
        sealed=sealed,
    )
