"""Anchors whose pin is gone: they stay in the bundle until nothing needs them, or until an operator insists. Pure.

The configuration says what is wanted. A pin that is added is published; one that is removed or replaced, or whose
cluster is removed, takes nothing away: the record notes the anchor, and it leaves by the same gate as the own CA of a
cluster that joined (``own_anchors.py``). An anchor that left comes back only with a pin that is not staged, or by a
rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from federation.core.trust.rotation.consumers import met
from federation.core.trust.rotation.effects import removed
from federation.core.trust.rotation.gates import Verdict
from federation.core.trust.rotation.own_anchors import OwnAnchor
from federation.core.trust.rotation.record import Condition, Departure, RotationBook, Unpinned
from federation.core.trust.rotation.steps import OperationRefused, bounded, cut
from federation.core.trust.rotation.world import World

MOST_DEPARTURES: Final = 20
NOTHING_NEEDS_IT: Final = "its pin is gone, and nothing depends on it any more"


def settle(
    book: RotationBook, *, pins: frozenset[str], staged: frozenset[str], found: Mapping[str, Unpinned]
) -> RotationBook:
    """The book by these pins, ``staged`` ones among them; ``found`` are the roots of all generations in force.

    Noted are roots that are published and not pinned, and those pinned as staged after they were published: both
    stay. What was withdrawn may come back where a pin is not staged.
    """
    gone = removed(book)
    unpinned = {
        sha256: known for sha256, known in book.unpinned.items() if sha256 not in pins and sha256 not in gone
    }
    for sha256, seen in sorted(found.items()):
        if sha256 not in pins and sha256 not in gone and sha256 not in unpinned:
            unpinned[sha256] = seen
    admitted = sorted({*book.admitted, *(staged & found.keys() - gone)})
    withdrawn = [sha256 for sha256 in book.withdrawn if sha256 not in pins - staged]
    if (unpinned, admitted, withdrawn) == (book.unpinned, book.admitted, book.withdrawn):
        return book
    return replace(book, unpinned=unpinned, admitted=admitted, withdrawn=withdrawn)


def unpinned_anchors(book: RotationBook, own: Mapping[str, Iterable[str]]) -> list[OwnAnchor]:
    """Those of the book, for the gate that they leave by.

    ``own`` are the CAs (SHA-256) that each cluster came with: one may have joined after the pin was gone.
    """
    return [
        OwnAnchor(
            sha256=sha256,
            clusters=frozenset(known.clusters) | {name for name, shas in own.items() if sha256 in shas},
            everywhere=not known.clusters,
        )
        for sha256, known in sorted(book.unpinned.items())
    ]


def remove_now(book: RotationBook, world: World, sha256: str, *, author: str, reason: str) -> RotationBook:
    """Remove such an anchor whatever needs it. Raises OperationRefused for every other one.

    What fails then is :func:`federation.core.trust.rotation.losses.losses_without`.
    """
    known = book.unpinned.get(sha256)
    if known is None:
        pinned = sha256 in world.pins
        raise OperationRefused(
            "it is pinned, and a pinned anchor is removed by a rotation or an emergency"
            if pinned
            else f"no published anchor without a pin has the fingerprint {sha256[:80]!r}",
            remedy="take its pin out of the configuration first; it then leaves by itself once nothing needs it"
            if pinned
            else "give the whole SHA-256 of one that `federation trust list` shows as `pin gone`",
        )
    rotation = book.under_way
    if rotation is not None and sha256 in {rotation.old.root, rotation.new.root}:
        raise OperationRefused(
            f"rotation {rotation.number}, which is under way, is from or to that root",
            remedy="abort it, or declare an emergency: federation rotate abort, federation rotate emergency",
        )
    others = world.generations.get(world.in_force, frozenset()) & world.pins
    if not others:
        raise OperationRefused(
            "no pinned anchor is in the bundle in force, so none would be left",
            remedy="pin the root that is to stay, and wait until it is published",
        )
    evidence = [met("remove", "an operator removed it whatever needs it")]
    return depart(book, {sha256: evidence}, at=world.now, author=author, reason=reason)


def drop_unpinned(book: RotationBook, verdicts: Mapping[str, Verdict], *, at: float) -> RotationBook:
    """The book without those anchors whose gate is open; each with its evidence among the departures."""
    going = {
        sha256: verdicts[sha256].conditions
        for sha256 in book.unpinned
        if sha256 in verdicts and verdicts[sha256].open
    }
    if not going:
        return book
    return depart(book, going, at=at, author="the controller", reason=NOTHING_NEEDS_IT)


def depart(
    book: RotationBook,
    going: Mapping[str, Sequence[Condition]],
    *,
    at: float,
    author: str,
    reason: str,
) -> RotationBook:
    """The book with these unpinned anchors removed, each on its evidence."""
    left = [
        Departure(
            sha256=sha256,
            subject=book.unpinned[sha256].subject,
            at=at,
            author=cut(author),
            reason=cut(reason),
            evidence=bounded(evidence),
        )
        for sha256, evidence in sorted(going.items())
    ]
    return replace(
        book,
        unpinned={sha256: known for sha256, known in book.unpinned.items() if sha256 not in going},
        withdrawn=sorted({*book.withdrawn, *going}),
        admitted=[sha256 for sha256 in book.admitted if sha256 not in going],
        departures=[*book.departures, *left][-MOST_DEPARTURES:],
    )
