"""What must be true of an authority before it is to sign, whichever way a rotation then goes. Pure."""

from __future__ import annotations

from federation.core.trust.rotation.consumers import met, unmet
from federation.core.trust.rotation.record import Condition, RotationBook, Side
from federation.core.trust.rotation.steps import OperationRefused
from federation.core.trust.rotation.world import World


def left_for_good(book: RotationBook, side: Side) -> bool:
    """Whether an emergency was declared against its root or its intermediate."""
    return not {side.root, side.intermediate}.isdisjoint(book.compromised)


def require_able(side: Side, which: str, world: World, *, lasting: bool = False) -> list[Condition]:
    """The evidence that every signer heard of can sign with that side; ``which`` is its name in the rotation.

    One that cannot would issue nothing from then on: orders forbid it every other. ``lasting`` asks as well that it
    still could once it is restarted. Raises OperationRefused.
    """
    found = [
        _kept(replica, which)
        if lasting and side.intermediate in facts.kept
        else _able(replica, facts.ready_with, side, which)
        for replica, facts in sorted(world.signers.items())
    ]
    for condition in found or [unmet("signers", "no signer is heard of")]:
        if not condition.met:
            raise OperationRefused(
                f"nothing would be issued any more where the {which} authority is to sign: {condition.detail}",
                remedy="put it back into that signer's configuration beside what signs now, [signer.authority] or "
                "[signer.successor], and ask again"
                if lasting and any(side.intermediate in facts.kept for facts in world.signers.values())
                else f"mend the {which} authority in that signer's configuration or back end, or end that signer",
            )
    return found


def _kept(replica: str, which: str) -> Condition:
    return unmet(
        "signers",
        f"the {which} authority is configured no longer on {replica}, which has it only until it is restarted",
    )


def _able(replica: str, ready_with: frozenset[str], side: Side, which: str) -> Condition:
    if side.intermediate in ready_with:
        return met("signers", f"{replica} is ready to sign with the {which} intermediate")
    return unmet("signers", f"{replica} is not ready to sign with the {which} intermediate")
