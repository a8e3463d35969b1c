"""What will fail, and until when, if a side of a rotation is removed at a given time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.core.trust.horizons import alive
from federation.core.trust.rotation.conditions import needs_old
from federation.core.trust.rotation.control_planes import Wanted, provided, webhook_problem
from federation.core.trust.rotation.record import Rotation
from federation.core.trust.rotation.world import ClusterFacts, World

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


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Leaves of one cluster that stop validating, or stop trusting, from ``begins`` until they are renewed.

    Both in seconds since the epoch; ``ends`` is when the last such leaf has expired by the slowest clock, 0
    where that cannot be foretold: it ends with a publication, with a signer that is mended, or with the takeover
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
    for delivered, until in alive(world.horizons, world.now, skew=world.skew).items():
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

    for delivered, until in alive(world.horizons, world.now, skew=world.skew).items():
        if below(delivered.issuer):
            note(delivered.cluster, "its leaves below it are refused by others", until + world.skew)
    unable = [
        replica
        for replica, facts in sorted(world.signers.items())
        if (below(signing) if signing else facts.ready_with and all(map(below, facts.ready_with)))
    ]
    doors = [replica for replica, facts in sorted(world.signers.items()) if facts.door and below(facts.door)]
    for name, facts in sorted(world.clusters.items()):
        if unable:
            note(name, f"nothing is issued any more: signers sign below it: {_named(unable)}", 0.0)
        if doors:
            note(name, f"workloads may refuse the doors of {_named(doors)}", 0.0)
        ends = facts.unknown_until + world.skew if facts.unknown_until else 0.0
        if (name in clusters or not clusters) and (facts.own_issues or ends > world.now):
            what = "its leaves from before the hub may be refused by others"
            note(name, what, 0.0 if facts.own_issues else ends)
        if any(plane.held is None or below(plane.issuer) for plane in facts.control_planes):
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
    if facts.held is None or rotation.new.root not in facts.held:
        yield "some namespace may refuse the other authority until it is published there", world.now, 0.0
    for what in _of_control_planes(rotation, facts, removed=isfinite(at)):
        yield what, at if what in {ISTIOD_OF_LEFT, ISTIOD_OF_ANOTHER} else world.now, 0.0


def _of_control_planes(rotation: Rotation, facts: ClusterFacts, *, removed: bool) -> Iterator[str]:
    """What is lost of the cluster's control planes; ``removed``: the root of the side that is left as well."""
    new, planes = rotation.new, facts.control_planes
    hooks = facts.webhooks or ()
    wanted = Wanted.only(new, rotation.old, since=0.0)
    failing = [hook for hook in hooks if webhook_problem(hook, facts, wanted)]
    if planes and (facts.webhooks is None or any(provided(hook, facts) for hook in failing)):
        yield WEBHOOKS_REFUSE
    if any(plane.held is None or new.root not in plane.held for plane in planes):
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
