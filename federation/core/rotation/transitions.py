"""The transitions of a rotation: what its gates allow, what an operator may ask for, and the emergency. Pure.

A record comes in and a record goes out. Each call makes at most one transition. The caller persists the result before
anything follows from it, and observes the world only once everything that follows from the record is persisted: the
gates then see every leaf that was delivered by earlier directives, because a signer reads the directives again whenever
it persists a bound.

An operator's command is given the world as it was observed after the last transition was persisted. Where it cannot
be done, OperationRefused says what to do instead.

In an emergency one side of a rotation is compromised and is left by a deadline. What was named is remembered for
good: nothing is signed with it again, in this rotation or after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from federation.core.config.mistakes import suggested_cluster
from federation.core.rotation.cluster_conditions import in_words
from federation.core.rotation.conditions import left_for_good, require_able
from federation.core.rotation.effects import left_behind, settled
from federation.core.rotation.gates import Verdict, gate, return_gate, trusts
from federation.core.rotation.record import (
    ABORTABLE,
    AT_REST,
    Condition,
    OperationRefused,
    Quarantine,
    Rotation,
    RotationRecord,
    Side,
    State,
    Step,
    Transition,
    admit,
    cut,
    enter,
)
from federation.core.rotation.world import World

_NONE: frozenset[str] = frozenset()
NO_CANARY: Final = "no canary is left: each is quarantined or not registered any more"

_INSTEAD_OF_ABORTING: Final = {
    State.UNPUBLISHING: "publish the old root again first (federation rotate restore), then abort",
    State.EMERGENCY: "from EMERGENCY there is no way back: let it end, then rotate to a third authority",
    State.ABORTING: "it is being aborted already: `federation rotate status` says what it waits for",
}


def advance(
    record: RotationRecord,
    world: World,
    *,
    author: str = "the controller",
    by_hand: bool = False,
    without: frozenset[str] = _NONE,
) -> RotationRecord:
    """The record after what the gates allow now. ``by_hand`` takes a step that automatic advance would not.

    ``without`` names conditions to leave out: for tests alone, which show that each is needed.
    """
    record = _return_caught_up(record, world, without)
    rotation = record.under_way
    if rotation is None:
        return record
    verdict = gate(record, world, without=without)
    failed = _failed_canary(record, rotation, world) if "canary_fallback" not in without else None
    if failed is not None:
        return _fall_back(record, rotation, world, failed)
    record, rotation = _note_conditions_met(record, rotation, verdict, world)
    if "soak" not in without and rotation.state is State.PUBLISHING:
        verdict = gate(record, world, without=without)
    overdue = _overdue(rotation, world)
    by_itself = rotation.automatic and not rotation.paused and not by_hand
    if by_itself and rotation.state is State.SOAKED and _lacks_canary(record, rotation, world):
        return replace(
            record, rotation=replace(rotation, paused=NO_CANARY)
        )  # to go on without is for a person
    may = by_hand or by_itself
    if not may or not (verdict.open or overdue):
        return record
    return _step(record, rotation, world, author, verdict)


def _return_caught_up(record: RotationRecord, world: World, without: frozenset[str]) -> RotationRecord:
    """Release clusters that were to return and are caught up."""
    back = {
        name
        for name, quarantine in record.quarantined.items()
        if quarantine.returning and return_gate(record, name, world, without=without).open
    }
    if not back:
        return record
    return replace(record, quarantined={n: q for n, q in record.quarantined.items() if n not in back})


def _note_conditions_met(
    record: RotationRecord, rotation: Rotation, verdict: Verdict, world: World
) -> tuple[RotationRecord, Rotation]:
    """Record since when every condition but the soak time itself is met."""
    if rotation.state is not State.PUBLISHING:
        return record, rotation
    holds = all(condition.met for condition in verdict.conditions if condition.name != "soak")
    since = (rotation.conditions_met_since or world.now) if holds else 0.0
    if since == rotation.conditions_met_since:
        return record, rotation
    rotation = replace(rotation, conditions_met_since=since)
    return replace(record, rotation=rotation), rotation


def _overdue(rotation: Rotation, world: World) -> bool:
    """Whether an emergency leaves its side now, whatever the gate says; its removal then waits to be observed."""
    removes = rotation.state is State.EMERGENCY or (rotation.state is State.ABORTING and not rotation.wave)
    return removes and bool(rotation.deadline) and world.now >= rotation.deadline


def _step(
    record: RotationRecord, rotation: Rotation, world: World, author: str, verdict: Verdict
) -> RotationRecord:
    """The one transition out of the present state."""
    after, reason = _next(record, rotation, verdict, world)
    changes = _changes(rotation, after, world)
    entered = enter(record, after, Step(author, world.now, reason, verdict.conditions), **changes)
    if after is State.PUBLISHING:
        return admit(entered, rotation.new.root)
    if after in AT_REST:
        entered = settled(entered)
    if after is State.RETIRED and rotation.changes_root:
        return replace(entered, retired=sorted({*record.retired, rotation.old.root}))
    if after is State.ABORTING:
        gone = {rotation.new.root}
        brought = gone & {*world.staged, *record.compromised} if rotation.changes_root else set()
        return replace(
            entered,
            admitted=sorted({*record.admitted} - gone),
            retired=sorted({*record.retired, *(gone & {*record.compromised})}),
            withdrawn=sorted({*record.withdrawn, *brought}),
        )
    return entered


def _next(record: RotationRecord, rotation: Rotation, verdict: Verdict, world: World) -> tuple[State, str]:
    """The state that follows, and why."""
    changes_root = rotation.changes_root
    match rotation.state:
        case State.STAGED:
            why = "" if changes_root else "; every consumer trusts its root already"
            return State.PUBLISHING if changes_root else State.SOAKED, f"the new authority is good{why}"
        case State.PUBLISHING:
            return State.SOAKED, "every consumer trusts both roots, and has for the soak time"
        case State.SOAKED | State.CANARY:
            lacks = _lacks_canary(record, rotation, world)
            first = rotation.state is State.SOAKED and bool(rotation.canary) and not lacks
            why = f"; {NO_CANARY}, and a person goes on without one" if lacks else ""
            return (
                State.CANARY if first else State.ACTIVE
            ), f"every pair validates, every signer is ready{why}"
        case State.ACTIVE | State.EMERGENCY:
            why = "no leaf alive needs the old side" if verdict.open else "the deadline has passed"
            return (State.UNPUBLISHING if changes_root else State.RETIRED), why
        case State.UNPUBLISHING if rotation.wave < len(rotation.waves):
            return State.UNPUBLISHING, "the wave before was observed"
        case State.ABORTING if rotation.wave == 0:
            why = "no leaf alive needs the new side" if verdict.open else "the deadline has passed"
            brought = rotation.new.root in {*world.staged, *record.compromised}
            then = "its root is removed" if brought else "its root stays published, for its pin is not staged"
            return (State.ABORTING, f"{why}: {then}") if changes_root else (State.STABLE, why)
        case State.ABORTING:
            return State.STABLE, "every cluster was read back to hold what is meant for it after the abort"
        case _:
            return State.RETIRED, "the old root was read back to be gone everywhere"


def _changes(rotation: Rotation, after: State, world: World) -> dict[str, object]:
    """What else a transition changes in the record."""
    if after is State.UNPUBLISHING:
        if rotation.state is State.EMERGENCY:
            return {"waves": [sorted(world.clusters)], "wave": 1, "removed": True}
        return {"wave": min(rotation.wave + 1, len(rotation.waves)), "removed": True}
    return {"wave": 1} if after is State.ABORTING else {}


def _failed_canary(record: RotationRecord, rotation: Rotation, world: World) -> str | None:
    """Why a pair with a canary's new leaf does not validate, or none can be tried; None where neither is known."""
    if rotation.state is not State.CANARY:
        return None
    if _lacks_canary(record, rotation, world):
        return NO_CANARY
    for (client, server), pair in sorted(world.pairs.items()):
        if pair.valid or pair.computed <= rotation.since:
            continue
        if {client, server} & record.quarantined.keys() or {client, server} - world.clusters.keys():
            continue
        if rotation.new.intermediate in {pair.client_issuer, pair.server_issuer}:
            return f"{client} to {server} does not validate with the new intermediate: {pair.reason}"
    return None


def _lacks_canary(record: RotationRecord, rotation: Rotation, world: World) -> bool:
    """Whether canaries were named and none can show anything: registered still, and not quarantined."""
    left = [name for name in rotation.canary if name in world.clusters and name not in record.quarantined]
    return bool(rotation.canary) and not left


def _fall_back(record: RotationRecord, rotation: Rotation, world: World, failed: str) -> RotationRecord:
    failures = rotation.canary_failures + 1
    why = cut(f"the canary failed: {failed}")
    evidence = [Condition(name="canary_fallback", met=False, detail=failed)]
    step = Step("the controller", world.now, why, evidence)
    return enter(record, State.SOAKED, step, canary_failures=failures, paused=why)


def interrupted(record: RotationRecord) -> RotationRecord:
    """The record after an interval that was not observed: conditions that were met without a break may have had one."""
    if record.rotation is None or not record.rotation.conditions_met_since:
        return record
    return replace(record, rotation=replace(record.rotation, conditions_met_since=0.0))


def propose(
    record: RotationRecord,
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
) -> RotationRecord:
    """A rotation in STAGED. Raises OperationRefused where one is under way or the two sides do not differ."""
    if record.under_way is not None:
        raise OperationRefused(
            f"rotation {record.under_way.number} is under way, in {record.under_way.state.value}",
            remedy="let it end, or abort it: one at a time in a trust domain",
        )
    if world.refused:
        raise OperationRefused(
            f"the newest configuration is refused, so it is not known what is wanted: {world.refused[0]}",
            remedy="correct the configuration; the running one stays until then",
        )
    if old.intermediate == new.intermediate:
        raise OperationRefused(
            "the new intermediate is the one that signs already",
            remedy="configure another one as [signer.successor]",
        )
    if old.root in record.retired:
        raise OperationRefused(
            "the authority to leave is under a root that was retired already",
            remedy="configure the authority that signs at present as [signer.authority]",
        )
    if new.root in record.retired:
        raise OperationRefused(
            "the new root was retired by an earlier rotation",
            remedy="make a new root with a key of its own; an old one does not come back",
        )
    if left_for_good(record, new):
        raise OperationRefused(
            "an emergency was declared against the new authority: it is compromised",
            remedy="make another one with a key of its own; what was compromised does not come back",
        )
    if left_for_good(record, old):
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
    return replace(record, rotation=rotation, signing=old, left=left_behind(record))


def abort(
    record: RotationRecord, world: World, *, author: str, reason: str, without: frozenset[str] = frozenset()
) -> RotationRecord:
    """Back to the old authority. Raises OperationRefused from UNPUBLISHING on, and where it is not safe.

    Nor is it from CANARY and ACTIVE where a signer cannot sign with the old intermediate: it would issue nothing.

    ``without`` names conditions to leave out: for tests alone.
    """
    rotation = record.under_way
    if rotation is None:
        raise OperationRefused("no rotation is under way", remedy="nothing has to be aborted")
    if rotation.state not in ABORTABLE:
        raise OperationRefused(
            f"a rotation in {rotation.state.value} cannot be aborted",
            remedy=_INSTEAD_OF_ABORTING[rotation.state],
        )
    if left_for_good(record, rotation.old):
        raise OperationRefused(
            "an emergency was declared against the old side: it does not sign again",
            remedy="let the rotation end; then rotate to a third authority",
        )
    if rotation.state is State.STAGED:
        return enter(record, State.STABLE, Step(author, world.now, reason))
    evidence: tuple[Condition, ...] = ()
    if rotation.removed and "abort_trusts" not in without:
        verdict = trusts(record, world, frozenset({rotation.old.root}), without=without)
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
    return enter(record, State.ABORTING, Step(author, world.now, reason, evidence), wave=0)


def restore(record: RotationRecord, world: World, *, author: str, reason: str) -> RotationRecord:
    """Publish the old root again, from UNPUBLISHING. Raises OperationRefused in every other state."""
    rotation = record.under_way
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
    return enter(record, State.ACTIVE, step, wave=0, deadline=0.0, ttl_cap=0.0, paused=why)


def quarantine(
    record: RotationRecord, cluster: str, *, author: str, reason: str, world: World
) -> RotationRecord:
    """Take a cluster out: issuing stops there, and no gate waits until it is reached. Raises OperationRefused.

    The last gates still wait until its leaves have expired.
    """
    if not reason.strip():
        raise OperationRefused("a quarantine needs a reason", remedy="say why with --reason")
    if cluster not in world.clusters:
        raise OperationRefused(
            f"no cluster is registered as {cluster[:80]!r}", remedy=suggested_cluster(cluster, world.clusters)
        )
    entry = Quarantine(reason=cut(reason), author=cut(author), since=world.now)
    return replace(record, quarantined=record.quarantined | {cluster: entry})


def release(record: RotationRecord, cluster: str) -> RotationRecord:
    """Let a cluster return once it is caught up; until then nothing is issued there."""
    entry = record.quarantined.get(cluster)
    if entry is None:
        raise OperationRefused(
            f"{cluster[:80]!r} is not quarantined", remedy="see `federation rotate status`"
        )
    return replace(record, quarantined=record.quarantined | {cluster: replace(entry, returning=True)})


def emergency(
    record: RotationRecord,
    world: World,
    *,
    compromised: str,
    deadline: float,
    ttl_cap: float,
    author: str,
    reason: str,
) -> RotationRecord:
    """The old or the new side of a rotation is compromised: leave it by the deadline, whatever still needs it.

    ``compromised`` is the fingerprint (SHA-256) of its root or intermediate, in full: the operator's
    confirmation. ``deadline`` is in seconds since the epoch, ``ttl_cap`` in seconds (0: none). What will fail is
    :func:`federation.core.rotation.effects.losses`. Raises OperationRefused.
    """
    rotation = record.under_way
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
        return _leave_old(
            _with_compromised(record, compromised, rotation.old), rotation, world, step, changes
        )
    if compromised in {rotation.new.root, rotation.new.intermediate}:
        return _leave_new(
            _with_compromised(record, compromised, rotation.new), rotation, world, step, changes
        )
    raise OperationRefused(
        "that fingerprint is of neither side of the rotation",
        remedy="give the whole SHA-256 of the compromised root or intermediate",
    )


def _with_compromised(record: RotationRecord, compromised: str, side: Side) -> RotationRecord:
    """With what was named, and the intermediate of that side, which is under it or is it."""
    return replace(record, compromised=sorted({*record.compromised, compromised, side.intermediate}))


def _leave_old(
    record: RotationRecord, rotation: Rotation, world: World, step: Step, changes: dict[str, object]
) -> RotationRecord:
    """The new side signs at once."""
    if left_for_good(record, rotation.new):
        raise OperationRefused(
            "an emergency was declared against the new side before, and the old one signs already",
            remedy="let the abort end; then rotate to a third authority, and declare this emergency there",
        )
    if rotation.state is State.UNPUBLISHING:
        raise OperationRefused("its root is being removed already", remedy="let the rotation end")
    if rotation.state is State.STAGED and world.validated is not None:  # later on its gate has seen to that
        raise OperationRefused(
            f"the new authority is not good: {world.validated}", remedy="give it another one first"
        )
    able = require_able(rotation.new, "new", world)
    entered = enter(record, State.EMERGENCY, Step(step.author, step.at, step.reason, able), **changes)
    return admit(entered, rotation.new.root)


def _leave_new(
    record: RotationRecord, rotation: Rotation, world: World, step: Step, changes: dict[str, object]
) -> RotationRecord:
    """The old side signs again where a signer can: to require it of all first would leave the new one signing."""
    if left_for_good(record, rotation.old) or rotation.state is State.EMERGENCY:
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
        return enter(record, State.ABORTING, step, wave=0, **changes)
    if rotation.new.root not in record.compromised:
        return enter(record, State.STABLE, step, wave=0, **changes)
    if rotation.new.root in world.generations.get(world.in_force, frozenset({rotation.new.root})):
        return enter(
            record, State.ABORTING, step, wave=0, **changes
        )  # it was published before, and has to go
    entered = enter(record, State.STABLE, step, wave=0, **changes)
    return replace(entered, retired=sorted({*record.retired, rotation.new.root}))
