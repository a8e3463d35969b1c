"""An emergency: one side of a rotation is compromised and is left by a deadline. Pure.

Whatever is named is remembered for good: nothing is signed with it again, in this rotation or after it.
"""

from __future__ import annotations

from msgspec.structs import replace

from federation.core.trust.rotation.record import ABORTABLE, Rotation, RotationBook, Side, State
from federation.core.trust.rotation.sides import left_for_good, require_able
from federation.core.trust.rotation.steps import OperationRefused, Step, admit, enter
from federation.core.trust.rotation.world import World


def emergency(
    book: RotationBook,
    world: World,
    *,
    compromised: str,
    deadline: float,
    ttl_cap: float,
    author: str,
    reason: str,
) -> RotationBook:
    """The old or the new side of a rotation is compromised: leave it by the deadline, whatever still needs it.

    ``compromised`` is the fingerprint (SHA-256) of its root or intermediate, in full: the operator's
    confirmation. ``deadline`` is in seconds since the epoch, ``ttl_cap`` in seconds (0: none). What will fail is
    :func:`federation.core.trust.rotation.losses.losses`. Raises OperationRefused.
    """
    rotation = book.under_way
    if rotation is None:
        raise OperationRefused(
            "no rotation is under way to leave it by",
            remedy="start one to a new authority (federation rotate start), then declare the emergency",
        )
    if compromised == rotation.old.root == rotation.new.root:
        raise OperationRefused(
            "both sides are under that root: another intermediate does not leave it",
            remedy="abort this rotation and start one to an authority under another root",
        )
    step = Step(author, world.now, reason)
    changes: dict[str, object] = {"deadline": deadline, "ttl_cap": ttl_cap, "automatic": True}
    if compromised in {rotation.old.root, rotation.old.intermediate}:
        return _leave_old(_noted(book, compromised, rotation.old), rotation, world, step, changes)
    if compromised in {rotation.new.root, rotation.new.intermediate}:
        return _leave_new(_noted(book, compromised, rotation.new), rotation, world, step, changes)
    raise OperationRefused(
        "that fingerprint is of neither side of the rotation",
        remedy="give the whole SHA-256 of the compromised root or intermediate",
    )


def _noted(book: RotationBook, compromised: str, side: Side) -> RotationBook:
    """With what was named, and the intermediate of that side, which is under it or is it."""
    return replace(book, compromised=sorted({*book.compromised, compromised, side.intermediate}))


def _leave_old(
    book: RotationBook, rotation: Rotation, world: World, step: Step, changes: dict[str, object]
) -> RotationBook:
    """The new side signs at once."""
    if left_for_good(book, rotation.new):
        raise OperationRefused(
            "an emergency was declared against the new side before, and the old one signs already",
            remedy="let the abort end; then rotate to a third authority, and declare this emergency there",
        )
    if rotation.state is State.UNPUBLISHING:
        raise OperationRefused("its root is being removed already", remedy="let the rotation end")
    if rotation.state is State.STAGED and world.validated:  # later on its gate has seen to that
        raise OperationRefused(
            f"the new authority is not good: {world.validated}", remedy="give it another one first"
        )
    able = require_able(rotation.new, "new", world)
    entered = enter(book, State.EMERGENCY, Step(step.author, step.at, step.reason, able), **changes)
    return admit(entered, rotation.new.root)


def _leave_new(
    book: RotationBook, rotation: Rotation, world: World, step: Step, changes: dict[str, object]
) -> RotationBook:
    """The old side signs again, whoever can: to ask every signer first would leave the new one signing."""
    if left_for_good(book, rotation.old) or rotation.state is State.EMERGENCY:
        raise OperationRefused(
            "the old side is compromised as well: from an emergency there is no way back",
            remedy="let the rotation end; then rotate to a third authority",
        )
    if rotation.state is State.ABORTING:
        raise OperationRefused(
            "it is being aborted already: nothing is signed with the new side any more",
            remedy="let the abort end: `federation rotate status` says what it waits for",
        )
    if rotation.state not in ABORTABLE:
        raise OperationRefused(
            f"in {rotation.state.value} every leaf may be of the compromised side",
            remedy="publish the old root again first (federation rotate restore), then declare the emergency",
        )
    if rotation.state is not State.STAGED:
        return enter(book, State.ABORTING, step, wave=0, **changes)
    if rotation.new.root not in book.compromised:
        return enter(book, State.STABLE, step, wave=0, **changes)
    if rotation.new.root in world.generations.get(world.in_force, frozenset({rotation.new.root})):
        return enter(book, State.ABORTING, step, wave=0, **changes)  # it was published before, and has to go
    entered = enter(book, State.STABLE, step, wave=0, **changes)
    return replace(entered, retired=sorted({*book.retired, rotation.new.root}))
