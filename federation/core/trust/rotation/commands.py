"""What an operator may ask of a rotation. Pure: a book in, a book out, or OperationRefused with what to do instead.

The world that a command is given must have been observed after the last transition was persisted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from federation.core.config.tables import suggested_cluster
from federation.core.trust.rotation.consumers import in_words
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
from federation.core.trust.rotation.sides import left_for_good, require_able
from federation.core.trust.rotation.signing import left_behind
from federation.core.trust.rotation.steps import OperationRefused, Step, cut, enter
from federation.core.trust.rotation.world import World

_INSTEAD_OF_ABORTING: Final = {
    State.UNPUBLISHING: "publish the old root again first (federation rotate restore), then abort",
    State.EMERGENCY: "from EMERGENCY there is no way back: let it end, then rotate to a third authority",
    State.ABORTING: "it is being aborted already: `federation rotate status` says what it waits for",
}


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
    if world.refused:
        raise OperationRefused(
            f"the newest configuration is refused, so it is not known what is wanted: {world.refused[0]}",
            remedy="mend the configuration; the running one stays until then",
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
    if left_for_good(book, new):
        raise OperationRefused(
            "an emergency was declared against the new authority: it is compromised",
            remedy="make another one with a key of its own; what was compromised does not come back",
        )
    if left_for_good(book, old):
        raise OperationRefused(
            "the authority to leave was left in an emergency already",
            remedy="configure the authority that signs at present as [signer.authority]",
        )
    unknown = sorted(({*canary} | {n for wave in waves for n in wave}) - world.clusters.keys())
    if unknown:
        raise OperationRefused(
            f"no cluster is registered as {', '.join(unknown)}",
            remedy=suggested_cluster(unknown[0], world.clusters),
        )
    for replica, facts in sorted(world.signers.items()):
        if facts.ready_with - {new.intermediate} and old.intermediate not in facts.ready_with:
            raise OperationRefused(
                f"{replica} is ready with another intermediate than the one to leave, and the rotation would"
                " forbid it that one",
                remedy="give every signer the same [signer.authority], or end the one that has another",
            )
    author, reason = cut(author), cut(reason)
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
    return replace(book, rotation=rotation, signing=old, left=left_behind(book))


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
            remedy=_INSTEAD_OF_ABORTING[rotation.state],
        )
    if left_for_good(book, rotation.old):
        raise OperationRefused(
            "an emergency was declared against the old side: it does not sign again",
            remedy="let the rotation end; then rotate to a third authority",
        )
    if rotation.state is State.STAGED:
        return enter(book, State.STABLE, Step(author, world.now, reason))
    evidence: tuple[Condition, ...] = ()
    if rotation.removed and "abort_trusts" not in without:
        verdict = trusts(book, world, frozenset({rotation.old.root}), without=without)
        if not verdict.open:
            raise OperationRefused(
                f"the old root was removed before and is not trusted everywhere: {in_words(verdict.unmet[0])}",
                remedy="wait until it is: `federation rotate status` says when at the earliest",
            )
        evidence = verdict.conditions
    if rotation.state in {State.CANARY, State.ACTIVE}:
        evidence = (*evidence, *require_able(rotation.old, "old", world, lasting=True))
        if rotation.changes_root and world.pins and rotation.old.root not in world.pins:
            raise OperationRefused(
                "the configuration no longer pins the old root, under which everything would be signed again",
                remedy="pin it again, then abort",
            )
    return enter(book, State.ABORTING, Step(author, world.now, reason, evidence), wave=0)


def restore(book: RotationBook, world: World, *, author: str, reason: str) -> RotationBook:
    """Publish the old root again, from UNPUBLISHING. Raises OperationRefused in every other state."""
    rotation = book.under_way
    if rotation is None or rotation.state is not State.UNPUBLISHING:
        raise OperationRefused(
            "nothing is being unpublished", remedy="restore is for a rotation in UNPUBLISHING"
        )
    if world.pins and rotation.old.root not in world.pins:
        raise OperationRefused(
            "the configuration no longer pins the old root, and signers refuse a bundle with it",
            remedy="pin it again, then restore",
        )
    step = Step(author, world.now, reason)
    why = "the old root was restored by hand"
    return enter(book, State.ACTIVE, step, wave=0, deadline=0.0, ttl_cap=0.0, paused=why)


def quarantine(book: RotationBook, cluster: str, *, author: str, reason: str, world: World) -> RotationBook:
    """Take a cluster out: issuing stops there, and no gate waits until it is reached. Raises OperationRefused.

    The last gates still wait until its leaves have expired.
    """
    if not reason.strip():
        raise OperationRefused("a quarantine needs a reason", remedy="say why with --reason")
    if cluster not in world.clusters:
        raise OperationRefused(
            f"no cluster is registered as {cluster[:80]!r}", remedy=suggested_cluster(cluster, world.clusters)
        )
    held = Quarantine(reason=cut(reason), author=cut(author), since=world.now)
    return replace(book, quarantined=book.quarantined | {cluster: held})


def release(book: RotationBook, cluster: str) -> RotationBook:
    """Let a cluster return once it is caught up; until then nothing is issued there."""
    held = book.quarantined.get(cluster)
    if held is None:
        raise OperationRefused(
            f"{cluster[:80]!r} is not quarantined", remedy="see `federation rotate status`"
        )
    return replace(book, quarantined=book.quarantined | {cluster: replace(held, returning=True)})
