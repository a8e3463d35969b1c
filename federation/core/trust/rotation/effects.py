"""What follows from the record for bundles and for signers. Pure, and the same after every restart."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from federation.core.trust.rotation.conditions import waits_for_its_wave
from federation.core.trust.rotation.record import SIGNS_WITH_NEW, RotationBook, State
from federation.core.trust.rotation.signing import left_behind, preferred_side


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What signers are to do, by the record: persisted for them under ``orders``.

    ``issuer`` is the intermediate (SHA-256) to sign with, empty where it is not known what is in force; ``clusters``
    are exceptions from it. ``strict`` forbids any other one: a signer that lacks it issues nothing. ``root`` is the
    root above ``issuer``, at rest: another intermediate under it may sign as well, as long as it is none of those
    ``left`` (SHA-256); nothing else may (:meth:`permit`). ``forbidden`` are roots and intermediates (SHA-256) that are
    never signed under, whatever else may be. ``stopped`` are clusters that get nothing, with the reason. ``ttl_cap``
    is in seconds, 0 for none. ``revision`` is that of the record that they follow from. ``ahead`` are clusters that
    hold a later generation (its number) than the state knows: it is not known what they trust, and they get nothing.
    ``others`` are clusters that another hub publishes to (its identity): nobody there trusts what this one signs.
    ``met`` are the clusters that some controller has looked into since they were registered: before that, it is not
    known whether one is another hub's. None is of an earlier release, where that did not count.
    """

    rotation: int = 0
    state: str = ""
    issuer: str = ""
    clusters: dict[str, str] = {}
    strict: bool = False
    forbidden: list[str] = []
    stopped: dict[str, str] = {}
    ttl_cap: float = 0.0
    root: str = ""
    left: list[str] = []
    revision: int = 0
    ahead: dict[str, int] = {}
    others: dict[str, str] = {}
    met: list[str] | None = None

    @property
    def binding(self) -> bool:
        """True where they say what may sign: a rotation is under way, or it is known what is in force."""
        return self.strict or bool(self.root)

    def permit(self, intermediate: str, root: str) -> bool:
        """Whether an authority with that intermediate and that root (SHA-256) may sign for some cluster.

        At rest another intermediate under the root in force may: whatever verifies what is signed now verifies what
        it signs, since its certificate is delivered with each leaf. Under another root it may not, whoever configured
        it and wherever that root is published: only a rotation makes sure that every consumer trusts it.
        """
        if not {intermediate, root}.isdisjoint(self.forbidden):
            return False
        if self.strict:
            named = {self.issuer, *self.clusters.values()} - {""}
            return not named or intermediate in named
        if not self.root or intermediate == self.issuer:
            return True
        return root == self.root and intermediate not in self.left

    def serve(self, cluster: str) -> bool:
        """Whether that cluster (empty: the hub itself) gets certificates at all."""
        withheld = cluster in self.stopped or cluster in self.ahead or cluster in self.others
        return not withheld and (not cluster or self.met is None or cluster in self.met)

    def issuer_for(self, cluster: str) -> str:
        """The intermediate that signs for that cluster; empty where no rotation says."""
        return self.clusters.get(cluster, self.issuer)


def orders_of(book: RotationBook) -> Orders:
    """The orders that follow from the record."""
    rotation = book.rotation
    given = Orders(
        rotation=rotation.number if rotation is not None else 0,
        state=rotation.state.value if rotation is not None else "",
        forbidden=book.compromised,
        stopped={name: quarantine.reason for name, quarantine in sorted(book.quarantined.items())},
        revision=book.revision,
    )
    rotation = book.under_way
    if rotation is None:
        side = preferred_side(book)
        if side is None:
            return given
        if book.signing is None:
            return replace(
                given, issuer=side.intermediate
            )  # what signs now may be another one: it is not recorded
        return replace(given, issuer=side.intermediate, root=side.root, left=left_behind(book))
    new = rotation.new.intermediate
    return replace(
        given,
        issuer=new if rotation.state in SIGNS_WITH_NEW else rotation.old.intermediate,
        clusters=dict.fromkeys(rotation.canary, new) if rotation.state is State.CANARY else {},
        strict=True,
        ttl_cap=rotation.ttl_cap,
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
