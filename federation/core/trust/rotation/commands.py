"""What an operator may ask of a rotation. Pure: a book in, a book out, or OperationRefused with what to do instead.

The world that a command is given must have been observed after the last transition was persisted.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from federation.core.trust.rotation.consumers import met, unmet
from federation.core.trust.rotation.gates import trusts
from federation.core.trust.rotation.record import (
    ABORTABLE,
    Condition,
    Quarantine,
    Rotation,
    RotationBook,
    Side,
    State,
    Transition,
)
from federation.core.trust.rotation.steps import OperationRefused, Step, enter
from federation.core.trust.rotation.world import World


def propose(
    book: RotationBook,
    *,
    number: int,
    trust_domain: str,
    old: Side,
    new: Side,
    author: str,
    reason: str,
    automatic: bool,
    soak: float,
    canary: Sequence[str],
    waves: Sequence[Sequence[str]],
    world: World,
) -> RotationBook:
    """A rotation in STAGED. Raises OperationRefused where one is under way or the two sides do not differ."""
    if book.under_way is not None:
        raise OperationRefused(
            f"rotation {book.under_way.number} is under way, in {book.under_way.state.value}",
            remedy="let it end, or abort it: one at a time in a trust domain",
        )
    if old.intermediate == new.intermediate:
        raise OperationRefused(
            "the new intermediate is the one that signs already",
            remedy="configure another one as [signer.successor]",
        )
    if old.root in book.retired:
        raise OperationRefused(
            "the authority to leave is under a root that was retired already",
            remedy="configure the authority that signs at present as [signer.authority]",
        )
    if new.root in book.retired:
        raise OperationRefused(
            "the new root was retired by an earlier rotation",
            remedy="make a new root with a key of its own; an old one does not come back",
        )
    unknown = sorted(({*canary} | {n for wave in waves for n in wave}) - world.clusters.keys())
    if unknown:
        raise OperationRefused(
            f"no cluster is registered as {', '.join(unknown)}", remedy="name registered clusters"
        )
    for replica, facts in sorted(world.signers.items()):
        if facts.ready_with - {new.intermediate} and old.intermediate not in facts.ready_with:
            raise OperationRefused(
                f"{replica} is ready with another intermediate than the one to leave, and the rotation would"
                " forbid it that one",
                remedy="give every signer the same [signer.authority], or end the one that has another",
            )
    step = Transition(before=State.STABLE, after=State.STAGED, at=world.now, author=author, reason=reason)
    rotation = Rotation(
        number=number,
        trust_domain=trust_domain,
        state=State.STAGED,
        since=world.now,
        old=old,
        new=new,
        author=author,
        reason=reason,
        automatic=automatic,
        soak=soak,
        canary=sorted(set(canary)),
        waves=[sorted(set(wave)) for wave in waves],
        history=[step],
    )
    return replace(book, rotation=rotation)


def abort(
    book: RotationBook, world: World, *, author: str, reason: str, without: frozenset[str] = frozenset()
) -> RotationBook:
    """Back to the old authority. Raises OperationRefused from UNPUBLISHING on, and where it is not safe.

    Nor is it from CANARY and ACTIVE where a signer cannot sign with the old intermediate: it would issue nothing.

    ``without`` names conditions to leave out: for tests alone.
    """
    rotation = book.under_way
    if rotation is None:
        raise OperationRefused("no rotation is under way", remedy="nothing has to be aborted")
    if rotation.state not in ABORTABLE:
        raise OperationRefused(
            f"a rotation in {rotation.state.value} cannot be aborted",
            remedy="in UNPUBLISHING restore the old root first; otherwise let it end and rotate back",
        )
    if rotation.state is State.STAGED:
        return enter(book, State.STABLE, Step(author, world.now, reason))
    evidence: tuple[Condition, ...] = ()
    if rotation.removed and "abort_trusts" not in without:
        verdict = trusts(book, world, frozenset({rotation.old.root}), without=without)
        if not verdict.open:
            raise OperationRefused(
                f"the old root was removed before and is not trusted everywhere: {verdict.unmet[0].detail}",
                remedy="wait until it is: `federation rotate status` says when at the earliest",
            )
        evidence = verdict.conditions
    if rotation.state in {State.CANARY, State.ACTIVE}:
        able = _able(rotation.old, "old", world)
        if not_able := next((condition for condition in able if not condition.met), None):
            raise OperationRefused(
                f"nothing would be issued any more where the old authority is to sign again: {not_able.detail}",
                remedy="mend the old authority there, or end that signer; else let the rotation go on",
            )
        evidence = (*evidence, *able)
    return enter(book, State.ABORTING, Step(author, world.now, reason, evidence), wave=0)


def _able(side: Side, which: str, world: World) -> list[Condition]:
    """For each signer that is heard of, whether it can sign with that side; an order that it cannot stops it."""
    if not world.signers:
        return [unmet("signers", "no signer is heard of")]
    return [
        met("signers", f"{replica} is ready to sign with the {which} intermediate")
        if side.intermediate in facts.ready_with
        else unmet("signers", f"{replica} is not ready to sign with the {which} intermediate")
        for replica, facts in sorted(world.signers.items())
    ]


def restore(book: RotationBook, world: World, *, author: str, reason: str) -> RotationBook:
    """Publish the old root again, from UNPUBLISHING. Raises OperationRefused in every other state."""
    rotation = book.under_way
    if rotation is None or rotation.state is not State.UNPUBLISHING:
        raise OperationRefused(
            "nothing is being unpublished", remedy="restore is for a rotation in UNPUBLISHING"
        )
    step = Step(author, world.now, reason)
    why = "the old root was restored by hand"
    return enter(book, State.ACTIVE, step, wave=0, deadline=0.0, ttl_cap=0.0, paused=why)


def quarantine(book: RotationBook, cluster: str, *, author: str, reason: str, world: World) -> RotationBook:
    """Take a cluster out: issuing stops there, and no gate waits for it. Raises OperationRefused."""
    if not reason.strip():
        raise OperationRefused("a quarantine needs a reason", remedy="say why with --reason")
    if cluster not in world.clusters:
        raise OperationRefused(
            f"no cluster is registered as {cluster[:80]!r}", remedy="name a registered cluster"
        )
    held = Quarantine(reason=reason, author=author, since=world.now)
    return replace(book, quarantined=book.quarantined | {cluster: held})


def release(book: RotationBook, cluster: str) -> RotationBook:
    """Let a cluster return once it is caught up; until then nothing is issued there."""
    held = book.quarantined.get(cluster)
    if held is None:
        raise OperationRefused(
            f"{cluster[:80]!r} is not quarantined", remedy="see `federation rotate status`"
        )
    return replace(book, quarantined=book.quarantined | {cluster: replace(held, returning=True)})


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
    confirmation. What will fail is :func:`federation.core.trust.rotation.losses.losses`. Raises
    OperationRefused.
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
    changes: dict[str, object] = {"deadline": deadline, "ttl_cap": ttl_cap, "automatic": True}
    if compromised in {rotation.old.root, rotation.old.intermediate}:
        if rotation.state is State.UNPUBLISHING:
            raise OperationRefused("its root is being removed already", remedy="let the rotation end")
        if rotation.state is State.STAGED and world.validated:  # later on its gate has seen to that
            raise OperationRefused(
                f"the new authority is not good: {world.validated}", remedy="give it another one first"
            )
        able = _able(rotation.new, "new", world)
        if not_able := next((condition for condition in able if not condition.met), None):
            raise OperationRefused(
                f"nothing would be issued any more where the new authority is to sign at once: {not_able.detail}",
                remedy="give it [signer.successor] as it was when the rotation began, or end that signer",
            )
        step = Step(author, world.now, reason, able)
        entered = enter(book, State.EMERGENCY, step, **changes)
        return replace(entered, admitted=sorted({*book.admitted, rotation.new.root}))
    if compromised in {rotation.new.root, rotation.new.intermediate}:
        if rotation.state not in ABORTABLE:
            raise OperationRefused(
                f"in {rotation.state.value} every leaf may be of the compromised side",
                remedy="restore the old root if it is being removed, or let this end and rotate once more",
            )
        state = State.STABLE if rotation.state is State.STAGED else State.ABORTING
        return enter(book, state, Step(author, world.now, reason), wave=0, **changes)
    raise OperationRefused(
        "that fingerprint is of neither side of the rotation",
        remedy="give the whole SHA-256 of the compromised root or intermediate",
    )
