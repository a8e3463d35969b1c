"""What must be true of an authority before it is to sign, whichever way a rotation then goes. Pure."""

from __future__ import annotations

from federation.core.trust.rotation.consumers import met, unmet
from federation.core.trust.rotation.record import Condition, RotationBook, Side
from federation.core.trust.rotation.steps import OperationRefused
from federation.core.trust.rotation.world import World


def left_for_good(book: RotationBook, side: Side) -> bool:
    """Whether an emergency was declared against its root or its intermediate."""
    return not {side.root, side.intermediate}.isdisjoint(book.compromised)


def require_able(side: Side, which: str, world: World) -> list[Condition]:
    """The evidence that every signer heard of can sign with that side; ``which`` is its name in the rotation.

    One that cannot would issue nothing from then on: orders forbid it every other. Raises OperationRefused.
    """
    found = [
        _able(replica, facts.ready_with, side, which) for replica, facts in sorted(world.signers.items())
    ]
    for condition in found or [unmet("signers", "no signer is heard of")]:
        if not condition.met:
            raise OperationRefused(
                f"nothing would be issued any more where the {which} authority is to sign: {condition.detail}",
                remedy=f"mend the {which} authority in that signer's configuration or back end, or end that signer",
            )
    return found


def _able(replica: str, ready_with: frozenset[str], side: Side, which: str) -> Condition:
    if side.intermediate in ready_with:
        return met("signers", f"{replica} is ready to sign with the {which} intermediate")
    return unmet("signers", f"{replica} is not ready to sign with the {which} intermediate")
