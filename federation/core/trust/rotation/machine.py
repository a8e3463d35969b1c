"""The transitions of a rotation that its gates allow. Pure: a book in, a book out.

Each call makes at most one transition. Whoever calls persists the result before anything follows from it, and
observes the world only once everything that follows from the book is persisted: the gates then see every leaf
that was delivered by earlier orders, because a signer looks at the orders again whenever it persists a bound.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from federation.core.trust.rotation.commands import abort, propose, quarantine, release, restore
from federation.core.trust.rotation.emergencies import emergency
from federation.core.trust.rotation.gates import Verdict, gate, return_gate
from federation.core.trust.rotation.record import AT_REST, Condition, Rotation, RotationBook, State
from federation.core.trust.rotation.signing import settled
from federation.core.trust.rotation.steps import OperationRefused, Step, admit, cut, enter
from federation.core.trust.rotation.world import World

__all__ = [
    "OperationRefused",
    "abort",
    "advance",
    "emergency",
    "interrupted",
    "propose",
    "quarantine",
    "release",
    "restore",
]

_NONE: frozenset[str] = frozenset()
NO_CANARY: Final = "no canary is left: each is quarantined or not registered any more"


def advance(
    book: RotationBook,
    world: World,
    *,
    author: str = "the controller",
    by_hand: bool = False,
    without: frozenset[str] = _NONE,
) -> RotationBook:
    """The book after what the gates allow now. ``by_hand`` takes a step that automatic advance would not.

    ``without`` names conditions to leave out: for tests alone, which show that each is needed.
    """
    book = _let_return(book, world, without)
    rotation = book.under_way
    if rotation is None:
        return book
    verdict = gate(book, world, without=without)
    failed = _failed_canary(book, rotation, world) if "canary_fallback" not in without else ""
    if failed:
        return _fall_back(book, rotation, world, failed)
    book, rotation = _note_hold(book, rotation, verdict, world)
    if "soak" not in without and rotation.state is State.PUBLISHING:
        verdict = gate(book, world, without=without)
    overdue = _overdue(rotation, world)
    by_itself = rotation.automatic and not rotation.paused and not by_hand
    if by_itself and rotation.state is State.SOAKED and _lacks_canary(book, rotation, world):
        return replace(book, rotation=replace(rotation, paused=NO_CANARY))  # to go on without is for a person
    may = by_hand or by_itself
    if not may or not (verdict.open or overdue):
        return book
    return _step(book, rotation, world, author, verdict)


def _overdue(rotation: Rotation, world: World) -> bool:
    """Whether an emergency leaves its side now, whatever the gate says; its removal then waits to be observed."""
    removes = rotation.state is State.EMERGENCY or (rotation.state is State.ABORTING and not rotation.wave)
    return removes and bool(rotation.deadline) and world.now >= rotation.deadline


def _step(
    book: RotationBook, rotation: Rotation, world: World, author: str, verdict: Verdict
) -> RotationBook:
    """The one transition out of the present state."""
    after, reason = _next(book, rotation, verdict, world)
    changes = _changes(rotation, after, world)
    entered = enter(book, after, Step(author, world.now, reason, verdict.conditions), **changes)
    if after is State.PUBLISHING:
        return admit(entered, rotation.new.root)
    if after in AT_REST:
        entered = settled(entered)
    if after is State.RETIRED and rotation.changes_root:
        return replace(entered, retired=sorted({*book.retired, rotation.old.root}))
    if after is State.ABORTING:
        gone = {rotation.new.root}
        brought = gone & {*world.staged, *book.compromised} if rotation.changes_root else set()
        return replace(
            entered,
            admitted=sorted({*book.admitted} - gone),
            retired=sorted({*book.retired, *(gone & {*book.compromised})}),
            withdrawn=sorted({*book.withdrawn, *brought}),
        )
    return entered


def _next(book: RotationBook, rotation: Rotation, verdict: Verdict, world: World) -> tuple[State, str]:
    """The state that follows, and why."""
    changes_root = rotation.changes_root
    match rotation.state:
        case State.STAGED:
            why = "" if changes_root else "; every consumer trusts its root already"
            return State.PUBLISHING if changes_root else State.SOAKED, f"the new authority is good{why}"
        case State.PUBLISHING:
            return State.SOAKED, "every consumer trusts both roots, and has for the soak time"
        case State.SOAKED | State.CANARY:
            lacks = _lacks_canary(book, rotation, world)
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
            brought = rotation.new.root in {*world.staged, *book.compromised}
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


def _note_hold(
    book: RotationBook, rotation: Rotation, verdict: Verdict, world: World
) -> tuple[RotationBook, Rotation]:
    """Remember since when everything but the time itself has held."""
    if rotation.state is not State.PUBLISHING:
        return book, rotation
    holds = all(condition.met for condition in verdict.conditions if condition.name != "soak")
    since = (rotation.held_since or world.now) if holds else 0.0
    if since == rotation.held_since:
        return book, rotation
    rotation = replace(rotation, held_since=since)
    return replace(book, rotation=rotation), rotation


def interrupted(book: RotationBook) -> RotationBook:
    """The book after nobody has watched for a while: what held without a break may have had one."""
    if book.rotation is None or not book.rotation.held_since:
        return book
    return replace(book, rotation=replace(book.rotation, held_since=0.0))


def _failed_canary(book: RotationBook, rotation: Rotation, world: World) -> str:
    """Why a pair with a canary's new leaf does not validate, or none can be tried; empty where neither is known."""
    if rotation.state is not State.CANARY:
        return ""
    if _lacks_canary(book, rotation, world):
        return NO_CANARY
    for (client, server), pair in sorted(world.pairs.items()):
        if pair.valid or pair.computed <= rotation.since:
            continue
        if {client, server} & book.quarantined.keys() or {client, server} - world.clusters.keys():
            continue
        if rotation.new.intermediate in {pair.client_issuer, pair.server_issuer}:
            return f"{client} to {server} does not validate with the new intermediate: {pair.reason}"
    return ""


def _lacks_canary(book: RotationBook, rotation: Rotation, world: World) -> bool:
    """Whether canaries were asked for and none can show anything: registered still, and not quarantined."""
    left = [name for name in rotation.canary if name in world.clusters and name not in book.quarantined]
    return bool(rotation.canary) and not left


def _fall_back(book: RotationBook, rotation: Rotation, world: World, failed: str) -> RotationBook:
    failures = rotation.canary_failures + 1
    why = cut(f"the canary failed: {failed}")
    evidence = [Condition(name="canary_fallback", met=False, detail=failed)]
    step = Step("the controller", world.now, why, evidence)
    return enter(book, State.SOAKED, step, canary_failures=failures, paused=why)


def _let_return(book: RotationBook, world: World, without: frozenset[str]) -> RotationBook:
    """Release clusters that were to return and are caught up."""
    back = {
        name
        for name, quarantine in book.quarantined.items()
        if quarantine.returning and return_gate(book, name, world, without=without).open
    }
    if not back:
        return book
    return replace(book, quarantined={n: q for n, q in book.quarantined.items() if n not in back})
