"""What follows from the record: bundles, directives for signers, and what an emergency will cost. Pure.

It is the same after every restart.

While no rotation is under way, the record says which authority is in force: signers use that one, whatever is
configured. It is recorded when signers are first seen to sign, and changes by a rotation. The one thing that changes
it without a rotation is another intermediate under the very same root: everything that verifies the leaves of now
trusts that root, and an intermediate's certificate comes with each leaf (RFC 8446, section 4.4.2). So nothing has to
be published, read back or drained for it.

Losses are what will fail, and until when, if a side of a rotation is removed at a given time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.core.rotation.cluster_conditions import Wanted, provided, webhook_problem
from federation.core.rotation.conditions import needs_old, waits_for_its_wave
from federation.core.rotation.record import AT_REST, SIGNS_WITH_NEW, Rotation, RotationRecord, Side, State
from federation.core.rotation.world import ClusterFacts, World
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER, alive

NOT_IN_FORCE: Final = "authority_not_in_force"
"""The reason where what is configured, or what a file or a back end holds, may sign only after a rotation."""

MOST_LEFT: Final = 200
"""Intermediates remembered as left; the latest. Each took a rotation, so that this is decades."""

MOST_NAMED: Final = 3

WEBHOOKS_REFUSE: Final = (
    "kube-apiserver may refuse istiod's next certificate, so that pods are not injected, until istiod has patched"
    " its webhooks"
)

ISTIOD_REFUSES: Final = (
    "istiod may refuse clients by their next certificates until its ca.crt is published and loaded"
)

ISTIOD_OF_LEFT: Final = (
    "istiod's certificate is of the authority that is left: where it is not re-signed by then, restarted agents do"
    " not reach istiod and pods are not injected, until it is"
)

ISTIOD_OF_ANOTHER: Final = (
    "an istiod whose certificate the hub does not provide is refused by restarted agents until it has another"
)

CONTROL_PLANE_LOSSES: Final = frozenset({WEBHOOKS_REFUSE, ISTIOD_REFUSES, ISTIOD_OF_LEFT, ISTIOD_OF_ANOTHER})
"""What is lost of control planes, and not of workloads."""


class SigningDirectives(msgspec.Struct, frozen=True, kw_only=True):
    """What signers are to do, by the record: persisted for them under ``directives``.

    ``issuer`` is the intermediate (SHA-256) to sign with, empty where it is not known what is in force; ``clusters``
    are exceptions from it. ``strict`` forbids any other one: a signer that lacks it issues nothing. ``root`` is the
    root above ``issuer``, at rest: another intermediate under it may sign as well, while it is none of those
    ``left`` (SHA-256); nothing else may (:meth:`permit`). ``forbidden`` are roots and intermediates (SHA-256) that are
    never signed under, whatever else may be. ``stopped`` are clusters that get nothing, with the reason. ``ttl_cap``
    is in seconds, 0 for none. ``revision`` is that of the record that they follow from. ``ahead`` are clusters that
    hold a later generation (its number) than the state knows: it is not known what they trust, and they get nothing.
    ``others`` are clusters that another hub publishes to (its identity): nothing there trusts what this one signs.
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
        it signs, since its certificate is delivered with each leaf. Under another root it may not, however configured
        and wherever that root is published: only a rotation makes sure that every consumer trusts it.
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


def signing_directives(record: RotationRecord) -> SigningDirectives:
    """The directives that follow from the record."""
    rotation = record.rotation
    given = SigningDirectives(
        rotation=rotation.number if rotation is not None else 0,
        state=rotation.state.value if rotation is not None else "",
        forbidden=record.compromised,
        stopped={name: quarantine.reason for name, quarantine in sorted(record.quarantined.items())},
        revision=record.revision,
    )
    rotation = record.under_way
    if rotation is None:
        side = preferred_side(record)
        if side is None:
            return given
        if record.signing is None:
            return replace(
                given, issuer=side.intermediate
            )  # what signs now may be another one: it is not recorded
        return replace(given, issuer=side.intermediate, root=side.root, left=left_behind(record))
    new = rotation.new.intermediate
    return replace(
        given,
        issuer=new if rotation.state in SIGNS_WITH_NEW else rotation.old.intermediate,
        clusters=dict.fromkeys(rotation.canary, new) if rotation.state is State.CANARY else {},
        strict=True,
        ttl_cap=rotation.ttl_cap,
    )


def published(
    record: RotationRecord,
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
    wanted = pins - (staged - frozenset(record.admitted))
    roots = (wanted | frozenset(record.unpinned) | in_force) - removed(record)
    rotation = record.under_way
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


def removed(record: RotationRecord) -> frozenset[str]:
    """The roots that the record has taken out of the bundle, which may be pinned, or present in some cluster, still."""
    return frozenset(record.retired) | frozenset(record.withdrawn)


def clusters_behind(record: RotationRecord) -> frozenset[str]:
    """Clusters that keep the generation before the newest: their wave has not come yet."""
    rotation = record.under_way
    return waits_for_its_wave(rotation) if rotation is not None else frozenset()


def signing_side(record: RotationRecord) -> Side | None:
    """The authority in force at rest; while a rotation is under way, the one that it leaves.

    None where none is recorded: before signers were first seen to sign, or by a release that recorded none.
    """
    rotation = record.under_way
    return record.signing if rotation is None else rotation.old


def preferred_side(record: RotationRecord) -> Side | None:
    """What is to sign at rest where it can: the authority in force, else the one that the last rotation ended with."""
    return record.signing or _outcome(record)


def left_behind(record: RotationRecord) -> list[str]:
    """The intermediates (SHA-256) that rotations have led away from, but for the one in force."""
    rotation, side = record.rotation, preferred_side(record)
    last = {rotation.old.intermediate, rotation.new.intermediate} if rotation is not None else set[str]()
    found = [*record.left, *sorted(last - {*record.left})]
    return [sha256 for sha256 in found if side is None or sha256 != side.intermediate][-MOST_LEFT:]


def settled(record: RotationRecord) -> RotationRecord:
    """The record of a rotation that has just ended: the side that it ended with is in force, the other is left."""
    side = _outcome(record)
    if side is None:
        return record
    record = replace(record, signing=side)
    return replace(record, left=left_behind(record))


def note_signing(
    record: RotationRecord, signing: Mapping[str, Side], alive: Collection[str]
) -> tuple[RotationRecord, str]:
    """The record with what signers were seen to sign with at rest, and why that could not be noted (empty: it could).

    ``signing`` is the side that each signer which is live signs with; ``alive`` are the issuers (SHA-256) of
    leaves that may be alive. What is in force is recorded once, when all agree. Where that is not what the last
    rotation ended with, no leaf of another issuer may be alive: else an authority that was exchanged unobserved
    would become the one in force. After that only another intermediate under the same root is noted.
    """
    sides = {side.intermediate: side for side in signing.values()}
    if record.under_way is not None or not sides:
        return record, ""
    if len(sides) > 1:
        named = ", ".join(sorted(f"{side.subject or side.intermediate[:16]}" for side in sides.values()))
        return record, f"signers sign with different authorities: {named}"
    (side,) = sides.values()
    recorded = record.signing
    if recorded is None:
        ended_with = _outcome(record)
        others = sorted({*alive} - {side.intermediate, UNKNOWN_ISSUER})
        expected = ended_with is not None and side.intermediate == ended_with.intermediate
        if others and not expected:
            return record, (
                f"leaves of {others[0][:16]} are alive, and signers sign with {side.subject or side.intermediate[:16]}"
            )
        record = replace(record, signing=side)
        return replace(record, left=left_behind(record)), ""
    barred = side.intermediate in record.left or side.intermediate in record.compromised
    if side.intermediate == recorded.intermediate or side.root != recorded.root or barred:
        return record, ""
    return replace(record, signing=side), ""


def note_renewal(
    record: RotationRecord, offered: Mapping[str, Collection[Side]], ready_with: Collection[str]
) -> RotationRecord:
    """The record where the intermediate that a rotation has sign was renewed and no signer has the former one.

    ``offered`` are the sides that each signer which is live could sign with, ``ready_with`` the intermediates
    (SHA-256) of all of them. A running signer keeps what it has, so this is for signers that were restarted, or whose
    intermediate has ended: where none has the one that is ordered, and all have the same other one under the same root,
    nothing would be issued any more until the rotation has ended. As at rest the root is what every consumer trusts.
    What may sign changes after it is recorded, so the gates reckon with its leaves; the former one is left.

    Where both sides are under one root it has to bear the name of the side, or it could not be determined which it
    renews.
    """
    rotation = record.under_way
    if rotation is None or not offered or UNKNOWN_ISSUER in ready_with:
        return record
    for place in ("new", "old"):
        side: Side = getattr(rotation, place)
        if not _is_directed(rotation, place) or side.intermediate in ready_with:
            continue
        renewed = [
            {other for other in sides if _renews(other, side, rotation, record)} for sides in offered.values()
        ]
        agreed = set.intersection(*renewed)
        if len(agreed) != 1:
            continue
        left = [*record.left, *([side.intermediate] if side.intermediate not in record.left else [])]
        changed = replace(rotation, **{place: agreed.pop()})
        record = replace(record, rotation=changed, left=left[-MOST_LEFT:])
        return replace(record, signing=changed.old) if record.signing == rotation.old else record
    return record


def _is_directed(rotation: Rotation, place: str) -> bool:
    """Whether that side signs somewhere in the present state."""
    if rotation.state in SIGNS_WITH_NEW:
        return place == "new"
    return place == "old" or rotation.state is State.CANARY


def _renews(other: Side, side: Side, rotation: Rotation, record: RotationRecord) -> bool:
    """Whether it is another intermediate in the place of that side, and may be."""
    sides = {rotation.old.intermediate, rotation.new.intermediate}
    barred = sides | {*record.left, *record.compromised}
    if other.root != side.root or other.root in record.compromised or other.intermediate in barred:
        return False
    return rotation.changes_root or (bool(side.subject) and other.subject == side.subject)


def _outcome(record: RotationRecord) -> Side | None:
    """The side that signs after the last rotation; None where none has ended."""
    rotation = record.rotation
    if rotation is None or rotation.state not in AT_REST:
        return None
    return rotation.new if rotation.state is State.RETIRED else rotation.old


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Leaves of one cluster that stop validating, or stop trusting, from ``begins`` until they are renewed.

    Both in seconds since the epoch; ``ends`` is when the last such leaf has expired by the slowest clock, 0
    where that cannot be predicted: it ends with a publication, with a signer that works again, or with the takeover
    from a CA of the cluster's own that goes on issuing.
    """

    cluster: str
    what: str
    begins: float
    ends: float


def losses(rotation: Rotation, world: World, *, at: float, leaving_new: bool = False) -> list[Loss]:
    """What fails if the old side is no longer trusted from ``at`` on, and the new one signs from now on.

    With ``leaving_new`` it is the new side that is left, and the old one that signs. Where both are under one
    root nothing stops being trusted, but a signer that cannot sign with the other side issues nothing. Where
    ``at`` is infinite only what fails at once is found.
    """
    if leaving_new:
        rotation = replace(rotation, old=rotation.new, new=rotation.old)
    found: dict[tuple[str, str], Loss] = {}

    def note(cluster: str, what: str, begins: float, ends: float) -> None:
        known = found.get((cluster, what))
        last = max(ends, known.ends) if known else ends
        found[cluster, what] = Loss(cluster=cluster, what=what, begins=begins, ends=last)

    unable = [r for r, s in sorted(world.signers.items()) if rotation.new.intermediate not in s.ready_with]
    for name in world.clusters if unable else ():
        what = f"cannot sign with the other authority, and issues nothing: {_named(unable)}"
        note(name, what, world.now, 0.0)
    if not rotation.changes_root:
        return _sorted(found.values())
    for delivered, until in alive(world.expiry_bounds, world.now, skew=world.skew).items():
        ends = until + world.skew
        if needs_old(rotation, delivered.issuer) and ends > at:
            note(
                delivered.cluster, "its leaves of the authority that is left are refused by others", at, ends
            )
        if rotation.new.root not in world.generations.get(delivered.generation, frozenset()):
            note(
                delivered.cluster,
                "its workloads refuse the other authority until they renew",
                world.now,
                ends,
            )
    for name, facts in world.clusters.items():
        for what, begins, until in _of_cluster(rotation, facts, world, at):
            note(name, what, begins, until)
    return _sorted(found.values())


def losses_without(
    sha256: str, world: World, roots: Mapping[str, str], *, clusters: frozenset[str], signing: str = ""
) -> list[Loss]:
    """What fails if that anchor is removed now, as far as it is known.

    ``roots`` gives for each intermediate that is known the root above it, by SHA-256: whatever is below one that is not
    known may need the anchor. ``clusters`` are those whose own CA it was; none: a root of the hub's, which leaves from
    before the hub may need in every cluster. ``signing`` is the intermediate in force, which alone may sign; empty
    where that is not recorded.
    """
    found: dict[tuple[str, str], Loss] = {}

    def note(cluster: str, what: str, ends: float) -> None:
        known = found.get((cluster, what))
        last = max(ends, known.ends) if known and known.ends and ends else ends
        found[cluster, what] = Loss(cluster=cluster, what=what, begins=world.now, ends=last)

    def below(issuer: str) -> bool:
        return roots.get(issuer, sha256) == sha256

    for delivered, until in alive(world.expiry_bounds, world.now, skew=world.skew).items():
        if below(delivered.issuer):
            note(delivered.cluster, "its leaves below it are refused by others", until + world.skew)
    unable = [
        replica
        for replica, facts in sorted(world.signers.items())
        if (below(signing) if signing else facts.ready_with and all(map(below, facts.ready_with)))
    ]
    listeners = [
        replica
        for replica, facts in sorted(world.signers.items())
        if facts.listener and below(facts.listener)
    ]
    for name, facts in sorted(world.clusters.items()):
        if unable:
            note(name, f"nothing is issued any more: signers sign below it: {_named(unable)}", 0.0)
        if listeners:
            note(name, f"workloads may refuse the listeners of {_named(listeners)}", 0.0)
        ends = facts.unknown_until + world.skew if facts.unknown_until else 0.0
        if (name in clusters or not clusters) and (facts.own_issues or ends > world.now):
            what = "its leaves from before the hub may be refused by others"
            note(name, what, 0.0 if facts.own_issues else ends)
        if any(plane.anchors is None or below(plane.issuer) for plane in facts.control_planes):
            note(name, ISTIOD_OF_LEFT, 0.0)
    for name, end in sorted(world.gone.items()):
        if (name in clusters or not clusters) and end + world.skew > world.now:
            note(name, "its leaves from before the hub may be refused by others", end + world.skew)
    return _sorted(found.values())


def _of_cluster(
    rotation: Rotation, facts: ClusterFacts, world: World, at: float
) -> Iterator[tuple[str, float, float]]:
    """What is lost of one cluster beside its leaves of the hub, from when on and until when."""
    ends = facts.unknown_until + world.skew if facts.unknown_until else 0.0
    own = facts.own_issues  # then it does not end: what its own CA issues later fares no better
    if (own and isfinite(at)) or ends > at:
        yield "its leaves from before the hub may be refused by others", at, 0.0 if own else ends
    if own or ends > world.now:
        what = "its workloads from before the hub may refuse the other authority"
        yield what, world.now, 0.0 if own else ends
    if facts.anchors is None or rotation.new.root not in facts.anchors:
        yield "some namespace may refuse the other authority until it is published there", world.now, 0.0
    for what in _of_control_planes(rotation, facts, removed=isfinite(at)):
        yield what, at if what in {ISTIOD_OF_LEFT, ISTIOD_OF_ANOTHER} else world.now, 0.0


def _of_control_planes(rotation: Rotation, facts: ClusterFacts, *, removed: bool) -> Iterator[str]:
    """What is lost of the cluster's control planes; ``removed``: the root of the side that is left as well."""
    new, planes = rotation.new, facts.control_planes
    hooks = facts.webhooks or ()
    wanted = Wanted.only(new, rotation.old, since=0.0)
    failing = [hook for hook in hooks if webhook_problem(hook, facts, wanted) is not None]
    if planes and (facts.webhooks is None or any(provided(hook, facts) for hook in failing)):
        yield WEBHOOKS_REFUSE
    if any(plane.anchors is None or new.root not in plane.anchors for plane in planes):
        yield ISTIOD_REFUSES
    if removed and any(plane.issuer != new.intermediate for plane in planes):
        yield ISTIOD_OF_LEFT
    if removed and any(not provided(hook, facts) for hook in failing):
        yield ISTIOD_OF_ANOTHER


def _sorted(found: Iterable[Loss]) -> list[Loss]:
    return sorted(found, key=lambda loss: (loss.cluster, loss.what))


def _named(replicas: Sequence[str]) -> str:
    more = len(replicas) - MOST_NAMED
    return ", ".join(replicas[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
