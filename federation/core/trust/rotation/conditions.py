"""The single conditions between the states of a rotation, each with its evidence and its estimate. Pure.

What they are for stands in ``gates.py``; a name is the condition's name there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from federation.core.trust.horizons import UNKNOWN_ISSUER, alive
from federation.core.trust.rotation.consumers import (
    consumers,
    delivered_in_removed,
    delivered_with,
    earlier,
    earlier_in_removed,
    held,
    in_force,
    leaves_without,
    met,
    shas,
    time_of,
    unmet,
)
from federation.core.trust.rotation.control_planes import (
    Wanted,
    istiod_issuer,
    istiod_trust,
    removal_observed,
    webhooks,
)
from federation.core.trust.rotation.record import Condition, Rotation, RotationBook, State
from federation.core.trust.rotation.world import ClusterFacts, World

MOST_REFUSED: Final = 10  # processes that are named one by one


def configuration(_: RotationBook, __: Rotation, world: World) -> Iterator[Condition]:
    """No process refuses its newest configuration: a step is not taken on what the operators no longer want."""
    yield from accepted_configuration(world)


def accepted_configuration(world: World) -> Iterator[Condition]:
    """As :func:`configuration`, for what is no step of a rotation."""
    for problem in world.refused[:MOST_REFUSED]:
        yield unmet("configuration", problem)
    if not world.refused:
        yield met("configuration", "every process runs the newest configuration that it was given")


def pinned(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """The configuration pins the new root: an operator who has taken its pin out does not want it signed under."""
    if rotation.new.root in world.pins:
        yield met("pinned", f"the configuration pins {shas({rotation.new.root})}")
    else:
        detail = f"the configuration no longer pins {shas({rotation.new.root})}: pin it again, or abort the rotation"
        yield unmet("pinned", detail)


def validated(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """The new authority was found good, and a signature of it verified."""
    if world.validated:
        yield unmet("validated", world.validated)
    else:
        yield met("validated", f"{rotation.new.subject or rotation.new.intermediate[:16]} may sign and does")


def capacity(_: RotationBook, __: Rotation, world: World) -> Iterator[Condition]:
    """The back end of the new authority can carry the renewals that the rotation will ask of it."""
    asked, quota = world.capacity.rate, world.capacity.quota
    known_from = world.capacity.known_from
    if quota and known_from > world.now:
        yield unmet(
            "capacity", f"what renewals ask for is measured until {time_of(known_from)}", until=known_from
        )
    elif quota and asked > quota:
        yield unmet(
            "capacity", f"renewals would ask for {asked:.1f} certificates a second, {quota:.1f} are allowed"
        )
    else:
        allowed = f"of {quota:.1f} that are allowed" if quota else "with no limit known"
        yield met("capacity", f"renewals ask for {asked:.1f} certificates a second {allowed}")


def in_force_both(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What is delivered from now on holds both roots."""
    yield in_force(frozenset({rotation.old.root, rotation.new.root}), world)


def held_both(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every namespace was read back to hold both roots."""
    roots = frozenset({rotation.old.root, rotation.new.root})
    for name, facts in consumers(book, world):
        yield held(name, facts, roots, world, since=rotation.since)


def leaves_with_both(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every unexpired leaf was delivered with both roots."""
    roots = frozenset({rotation.old.root, rotation.new.root})
    late = leaves_without(roots, world)
    for name, _ in consumers(book, world):
        yield from delivered_with(name, roots, late)
    yield from delivered_in_removed(book, world, roots, late)


def none_earlier(book: RotationBook, _: Rotation, world: World) -> Iterator[Condition]:
    """No leaf from before the hub is alive where a gate waits: it would not trust the new root."""
    for name, facts in consumers(book, world):
        yield earlier(name, facts, world)
    yield from earlier_in_removed(world, without=frozenset(book.quarantined))


def istiods_trust_both(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every istiod's ca.crt holds both roots, before its certificate is re-signed under the new one."""
    for name, facts in consumers(book, world):
        yield from istiod_trust(name, facts, Wanted.both(rotation), world)


def webhooks_with_both(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """kube-apiserver verifies every istiod by both roots, before its certificate is re-signed under the new one."""
    for name, facts in consumers(book, world):
        yield from webhooks(name, facts, Wanted.both(rotation), world)


def istiods_trust_staying(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every istiod's ca.crt holds the root that stays, before the other is removed."""
    for name, facts in _before_removal(book, rotation, world):
        yield from istiod_trust(name, facts, _staying(rotation), world)


def istiods_of_staying(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every istiod's certificate is of the side that stays, before the other is removed."""
    side = rotation.old if rotation.state is State.ABORTING else rotation.new
    for name, facts in _before_removal(book, rotation, world):
        yield from istiod_issuer(name, facts, side, world, since=rotation.since)


def webhooks_with_staying(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """kube-apiserver verifies every istiod by the root that stays, before the other is removed."""
    for name, facts in _before_removal(book, rotation, world):
        yield from webhooks(name, facts, _staying(rotation), world)


def _before_removal(
    book: RotationBook, rotation: Rotation, world: World
) -> Iterator[tuple[str, ClusterFacts]]:
    """The clusters to wait for; none once an abort has removed its root, which is then only observed."""
    if not (rotation.state is State.ABORTING and rotation.wave):
        yield from consumers(book, world)


def _staying(rotation: Rotation) -> Wanted:
    if rotation.state is State.ABORTING:
        return Wanted.only(rotation.old, rotation.new, since=rotation.since)
    return Wanted.only(rotation.new, rotation.old, since=rotation.since)


def soaked(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Everything else has held for the soak time without a break."""
    if not rotation.held_since:
        yield unmet("soak", f"everything else has to hold for {rotation.soak:.0f} s without a break")
        return
    until = rotation.held_since + rotation.soak
    if until > world.now:
        yield unmet("soak", f"it has held since {time_of(rotation.held_since)}", until=until)
    else:
        yield met("soak", f"it has held since {time_of(rotation.held_since)}")


def signers_ready(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every signer that is heard of can sign with the new intermediate: one that cannot issues nothing."""
    if not world.signers:
        yield unmet("signers", "no signer is heard of")
    for replica, facts in sorted(world.signers.items()):
        if rotation.new.intermediate in facts.ready_with:
            yield met("signers", f"{replica} is ready to sign with the new intermediate")
        else:
            why = facts.detail or "it does not report it"
            yield unmet("signers", f"{replica} is not ready to sign with the new intermediate: {why}")


def orders_followed(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every signer that is heard of has seen the orders of this state."""
    if not world.signers:
        yield unmet("orders", "no signer is heard of")
    for replica, facts in sorted(world.signers.items()):
        if (facts.rotation, facts.state) == (rotation.number, rotation.state.value):
            yield met("orders", f"{replica} follows {rotation.state.value}")
        else:
            yield unmet("orders", f"{replica} does not follow {rotation.state.value} yet")


def doors_open(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """New connections to every signer's door were accepted since this state began, by the anchors in force.

    The certificate of the door is of the side that signs. Callers that are connected do not notice one that new ones
    refuse; whoever starts or reconnects would get nothing.
    """
    if not world.signers:
        yield unmet("door", "no signer is heard of")
    for replica, facts in sorted(world.signers.items()):
        at = facts.door_proved_at
        if not at:
            yield unmet("door", f"the door of {replica} is not proved: {facts.door_detail}")
        elif at <= rotation.since or facts.door_generation != world.in_force:
            yield unmet(
                "door",
                f"the door of {replica} was not proved with what is in force since {time_of(rotation.since)}",
            )
        elif world.now - at > world.fresh:
            yield unmet("door", f"the door of {replica} was proved {world.now - at:.0f} s ago")
        else:
            yield met("door", f"new connections accept the door of {replica}")


def green(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every ordered pair of clusters that are not quarantined has validated since this state began.

    Where a root is removed it has to be with what is there since: a proof may be made between the two.
    """
    names = [name for name, _ in consumers(book, world)]
    bad = 0
    for client in names:
        for server in names:
            if client == server:
                continue
            problem = _pair_problem(client, server, rotation, world)
            if problem:
                bad += 1
                yield unmet("matrix", problem, client)
    if not bad:
        count = len(names) * (len(names) - 1)
        yield met("matrix", f"all {count} ordered pairs have validated since {time_of(rotation.since)}")


def _pair_problem(client: str, server: str, rotation: Rotation, world: World) -> str:
    pair = world.pairs.get((client, server))
    if pair is None or pair.computed <= rotation.since:
        return f"{client} to {server} was not proved since {time_of(rotation.since)}"
    if world.now - pair.computed > world.fresh:
        return f"{client} to {server} was proved {world.now - pair.computed:.0f} s ago"
    meant = (world.behind.get(client, world.in_force), world.behind.get(server, world.in_force))
    if rotation.state is State.UNPUBLISHING and (pair.client_held, pair.server_held) != meant:
        return f"{client} to {server} was proved before both held what is meant for them now"
    return "" if pair.valid else f"{client} to {server} does not validate: {pair.reason}"


def new_in_use(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What was proved was proved with the new intermediate, where it is meant to sign."""
    names = [name for name, _ in consumers(book, world)]
    meant = [name for name in names if rotation.state is not State.CANARY or name in rotation.canary]
    if not meant and rotation.state is State.CANARY:
        yield unmet("new_in_use", "no canary is left that could show it")
        return
    old = sorted(
        {
            name
            for (client, server), pair in world.pairs.items()
            for name, issuer in ((client, pair.client_issuer), (server, pair.server_issuer))
            if name in meant and client in names and server in names
            if issuer != rotation.new.intermediate
        }
    )
    for name in old:
        yield unmet("new_in_use", "its probe still holds a leaf of another issuer", name)
    if not old:
        yield met("new_in_use", "the proof was made with leaves of the new intermediate")


def drained(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """No unexpired leaf needs the old side (the gate G2); of an issuer that is not known, it might."""
    yield from _no_leaf(world, lambda issuer: needs_old(rotation, issuer), "drained")


def needs_old(rotation: Rotation, issuer: str) -> bool:
    """Whether a leaf of that issuer may need the old side: any but the new one, as the old one may be a renewal."""
    return issuer != rotation.new.intermediate


def needs_new(rotation: Rotation, issuer: str) -> bool:
    """The same of the new side: under another root than before, any but the old one."""
    if rotation.changes_root:
        return issuer != rotation.old.intermediate
    return issuer in {rotation.new.intermediate, UNKNOWN_ISSUER}


def new_drained(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """No unexpired leaf needs the new side: the gate out of ABORTING."""
    yield from _no_leaf(world, lambda issuer: needs_new(rotation, issuer), "new_drained")


def _no_leaf(world: World, needs: Callable[[str], bool], name: str) -> Iterator[Condition]:
    late: dict[str, float] = {}
    for delivered, until in alive(world.horizons, world.now, skew=world.skew).items():
        if needs(delivered.issuer):
            late[delivered.cluster] = max(until + world.skew, late.get(delivered.cluster, 0.0))
    for cluster, until in sorted(late.items()):
        yield unmet(name, f"leaves that need it may live until {time_of(until)}", cluster, until)
    if not late:
        yield met(name, "no leaf alive needs it")


def none_earlier_anywhere(_: RotationBook, __: Rotation, world: World) -> Iterator[Condition]:
    """Leaves from before the hub may need the old root, in a quarantined cluster as well."""
    for name, facts in sorted(world.clusters.items()):
        yield earlier(name, facts, world)
    yield from earlier_in_removed(world)


def none_earlier_before_removal(_: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """They may need the new root as well, where it is the own root of a cluster that joined."""
    if rotation.changes_root and not rotation.wave:
        yield from none_earlier_anywhere(_, rotation, world)


def observed(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What was meant for each cluster so far was read back there."""
    if rotation.state is State.ABORTING and not rotation.wave:
        return  # nothing is removed yet
    waiting = waits_for_its_wave(rotation)
    for name, facts in consumers(book, world):
        if name in waiting:
            continue
        fresh = world.now - facts.read_back_at <= world.fresh and facts.read_back_at > rotation.since
        if facts.current and fresh and facts.held is not None:
            yield met("observed", "every namespace was read back to hold what is meant for it", name)
        else:
            yield unmet("observed", facts.detail or "it does not hold what is meant for it yet", name)
        yield from removal_observed(name, facts, world, since=rotation.since)


def waits_for_its_wave(rotation: Rotation) -> frozenset[str]:
    """Clusters that keep the old root until their wave; one that no wave names waits for none."""
    if rotation.state is not State.UNPUBLISHING:
        return frozenset()
    return frozenset(name for wave in rotation.waves[rotation.wave :] for name in wave)
