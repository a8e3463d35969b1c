"""What follows from the record for bundles and for signers. Pure, and the same after every restart."""

from __future__ import annotations

import msgspec

from federation.core.trust.rotation.conditions import waits_for_its_wave
from federation.core.trust.rotation.record import SIGNS_WITH_NEW, RotationBook, State


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What signers are to do, by the record: persisted for them under ``orders``.

    ``issuer`` is the intermediate (SHA-256) to sign with, empty where no rotation says; ``clusters`` are
    exceptions from it. ``strict`` forbids any other one: a signer that lacks it issues nothing. ``forbidden``
    are roots and intermediates (SHA-256) that are never signed under, whatever else may be. ``stopped`` are
    clusters that get nothing, with the reason. ``ttl_cap`` is in seconds, 0 for none.
    """

    rotation: int = 0
    state: str = ""
    issuer: str = ""
    clusters: dict[str, str] = {}
    strict: bool = False
    forbidden: list[str] = []
    stopped: dict[str, str] = {}
    ttl_cap: float = 0.0

    def issuer_for(self, cluster: str) -> str:
        """The intermediate that signs for that cluster; empty where no rotation says."""
        return self.clusters.get(cluster, self.issuer)


def orders_of(book: RotationBook) -> Orders:
    """The orders that follow from the record."""
    rotation = book.rotation
    stopped = {name: quarantine.reason for name, quarantine in sorted(book.quarantined.items())}
    if rotation is None:
        return Orders(forbidden=book.compromised, stopped=stopped)
    new = rotation.new.intermediate
    return Orders(
        rotation=rotation.number,
        state=rotation.state.value,
        issuer=new if rotation.state in SIGNS_WITH_NEW else rotation.old.intermediate,
        clusters=dict.fromkeys(rotation.canary, new) if rotation.state is State.CANARY else {},
        strict=book.under_way is not None,
        forbidden=book.compromised,
        stopped=stopped,
        ttl_cap=rotation.ttl_cap if book.under_way is not None else 0.0,
    )


def published(
    book: RotationBook,
    pins: frozenset[str],
    staged: frozenset[str],
    in_force: frozenset[str] = frozenset(),
) -> frozenset[str]:
    """The roots that the newest bundle holds; ``staged`` are pinned ones that only a rotation publishes.

    ``in_force`` are the roots that some generation in force holds. They stay, pinned or not, until the record says
    that they are removed: an edit of the configuration adds a root and never takes one away.

    A rotation takes away the old root in the end, and when it is aborted what it has brought itself: a root
    that is pinned for other reasons as well was published before, and stays.
    """
    wanted = pins - (staged - frozenset(book.admitted))
    roots = (wanted | frozenset(book.unpinned) | in_force) - removed(book)
    rotation = book.under_way
    if rotation is None or not rotation.changes_root:
        return roots
    match rotation.state:
        case State.UNPUBLISHING:
            return roots - {rotation.old.root}
        case State.STAGED:
            return roots
        case State.ABORTING if rotation.wave:
            return roots
        case State.ABORTING:  # the new root stays for now where it is; from STAGED it was never brought
            return roots | (frozenset({rotation.old.root}) & pins)
        case _:
            return roots | (frozenset({rotation.old.root, rotation.new.root}) & pins)


def removed(book: RotationBook) -> frozenset[str]:
    """The roots that the record has taken out of the bundle, though they may be pinned or still be held somewhere."""
    return frozenset(book.retired) | frozenset(book.withdrawn)


def kept_behind(book: RotationBook) -> frozenset[str]:
    """Clusters that keep the generation before the newest: their wave has not come yet."""
    rotation = book.under_way
    return waits_for_its_wave(rotation) if rotation is not None else frozenset()
