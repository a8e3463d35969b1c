"""Which authority is in force while no rotation is under way: what signers are held to, whatever is configured. Pure.

It is recorded when signers are first seen to sign, and changes by a rotation. The one thing that changes it without
a rotation is another intermediate under the very same root: everything that verifies the leaves of now trusts that
root, and an intermediate's certificate comes with each leaf (RFC 8446, section 4.4.2). So nothing has to be
published, read back or drained for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from msgspec.structs import replace

from federation.core.trust.horizons import UNKNOWN_ISSUER
from federation.core.trust.rotation.record import (
    AT_REST,
    SIGNS_WITH_NEW,
    Rotation,
    RotationBook,
    Side,
    State,
)

NOT_IN_FORCE: Final = "authority_not_in_force"
"""The reason where what is configured, or what a file or a back end holds, may sign only after a rotation."""

MOST_LEFT: Final = 200
"""Intermediates remembered as left; the latest. Each took a rotation, so that this is decades."""


def signing_side(book: RotationBook) -> Side | None:
    """The authority in force at rest; while a rotation is under way, the one that it leaves.

    None where none is recorded: before signers were first seen to sign, or by a release that recorded none.
    """
    rotation = book.under_way
    return book.signing if rotation is None else rotation.old


def preferred_side(book: RotationBook) -> Side | None:
    """What is to sign at rest where it can: the authority in force, else the one that the last rotation ended with."""
    return book.signing or _outcome(book)


def left_behind(book: RotationBook) -> list[str]:
    """The intermediates (SHA-256) that rotations have led away from, but for the one in force."""
    rotation, side = book.rotation, preferred_side(book)
    last = {rotation.old.intermediate, rotation.new.intermediate} if rotation is not None else set[str]()
    found = [*book.left, *sorted(last - {*book.left})]
    return [sha256 for sha256 in found if side is None or sha256 != side.intermediate][-MOST_LEFT:]


def settled(book: RotationBook) -> RotationBook:
    """The book of a rotation that has just ended: the side that it ended with is in force, the other is left."""
    side = _outcome(book)
    if side is None:
        return book
    book = replace(book, signing=side)
    return replace(book, left=left_behind(book))


def note_signing(
    book: RotationBook, signing: Mapping[str, Side], alive: Collection[str]
) -> tuple[RotationBook, str]:
    """The book with what signers were seen to sign with at rest, and why that could not be noted (empty: it could).

    ``signing`` is the side that each signer which is heard of signs with; ``alive`` are the issuers (SHA-256) of
    leaves that may be alive. What is in force is recorded once, when all agree. Where that is not what the last
    rotation ended with, no leaf of another issuer may be alive: else an authority that was exchanged while nobody
    looked would become the one in force. After that only another intermediate under the same root is noted.
    """
    sides = {side.intermediate: side for side in signing.values()}
    if book.under_way is not None or not sides:
        return book, ""
    if len(sides) > 1:
        named = ", ".join(sorted(f"{side.subject or side.intermediate[:16]}" for side in sides.values()))
        return book, f"signers sign with different authorities: {named}"
    (side,) = sides.values()
    held = book.signing
    if held is None:
        ended_with = _outcome(book)
        others = sorted({*alive} - {side.intermediate, UNKNOWN_ISSUER})
        expected = ended_with is not None and side.intermediate == ended_with.intermediate
        if others and not expected:
            return book, (
                f"leaves of {others[0][:16]} are alive, and signers sign with {side.subject or side.intermediate[:16]}"
            )
        book = replace(book, signing=side)
        return replace(book, left=left_behind(book)), ""
    barred = side.intermediate in book.left or side.intermediate in book.compromised
    if side.intermediate == held.intermediate or side.root != held.root or barred:
        return book, ""
    return replace(book, signing=side), ""


def note_renewal(
    book: RotationBook, offered: Mapping[str, Collection[Side]], ready_with: Collection[str]
) -> RotationBook:
    """The book where the intermediate that a rotation has sign was renewed, and no signer has the former one any more.

    ``offered`` are the sides that each signer which is heard of could sign with, ``ready_with`` the intermediates
    (SHA-256) of all of them. A running signer keeps what it has, so this is for signers that were restarted, or whose
    intermediate has ended: where none has the one that is ordered, and all have the same other one under the same root,
    nothing would be issued any more until the rotation has ended. As at rest the root is what every consumer trusts.
    What may sign changes after it is recorded, so the gates reckon with its leaves; the former one is left.

    Where both sides are under one root it has to bear the name of the side, or it could not be told which it renews.
    """
    rotation = book.under_way
    if rotation is None or not offered or UNKNOWN_ISSUER in ready_with:
        return book
    for place in ("new", "old"):
        side: Side = getattr(rotation, place)
        if not _is_ordered(rotation, place) or side.intermediate in ready_with:
            continue
        renewed = [
            {other for other in sides if _renews(other, side, rotation, book)} for sides in offered.values()
        ]
        agreed = set.intersection(*renewed)
        if len(agreed) != 1:
            continue
        left = [*book.left, *([side.intermediate] if side.intermediate not in book.left else [])]
        changed = replace(rotation, **{place: agreed.pop()})
        book = replace(book, rotation=changed, left=left[-MOST_LEFT:])
        return replace(book, signing=changed.old) if book.signing == rotation.old else book
    return book


def _is_ordered(rotation: Rotation, place: str) -> bool:
    """Whether that side signs somewhere in the present state."""
    if rotation.state in SIGNS_WITH_NEW:
        return place == "new"
    return place == "old" or rotation.state is State.CANARY


def _renews(other: Side, side: Side, rotation: Rotation, book: RotationBook) -> bool:
    """Whether it is another intermediate in the place of that side, and may be."""
    sides = {rotation.old.intermediate, rotation.new.intermediate}
    barred = sides | {*book.left, *book.compromised}
    if other.root != side.root or other.root in book.compromised or other.intermediate in barred:
        return False
    return rotation.changes_root or (bool(side.subject) and other.subject == side.subject)


def _outcome(book: RotationBook) -> Side | None:
    """The side that signs after the last rotation; None where none has ended."""
    rotation = book.rotation
    if rotation is None or rotation.state not in AT_REST:
        return None
    return rotation.new if rotation.state is State.RETIRED else rotation.old
