"""The single conditions between the states of a rotation, in the order of the states that first have them. Pure.

``gates.py`` says which gate has which of them; a name is the condition's name there, and all have the same signature.
What is looked at in each cluster is in ``cluster_conditions.py``.

**The side that is to sign:** what must be true of an authority before it signs, whichever way a rotation then goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from federation.core.rotation.cluster_conditions import (
    MOST_PAIRS,
    MOST_REFUSED,
    Wanted,
    alive_in,
    consumers,
    delivered_in_removed,
    delivered_with,
    earlier,
    earlier_in_removed,
    in_force,
    istiod_issuer,
    istiod_trust,
    leaves_without,
    met,
    read_back,
    removal_observed,
    shas,
    time_of,
    unmet,
    webhooks,
)
from federation.core.rotation.record import Condition, OperationRefused, Rotation, RotationRecord, Side, State
from federation.core.rotation.world import ClusterFacts, World
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER, alive


def configuration(_: RotationRecord, __: Rotation, world: World) -> Iterator[Condition]:
    """No process refuses its newest configuration: a step is not taken on what the operators no longer want."""
    yield from accepted_configuration(world)


def accepted_configuration(world: World) -> Iterator[Condition]:
    """As :func:`configuration`, for what is no step of a rotation."""
    for problem in world.refused[:MOST_REFUSED]:
        yield unmet("configuration", problem)
    if not world.refused:
        yield met("configuration", "every process runs the newest configuration that it was given")


def pinned(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """The configuration pins the new root: an operator who has taken its pin out does not want it signed under."""
    if rotation.new.root in world.pins:
        yield met("pinned", f"the configuration pins {shas({rotation.new.root})}")
    else:
        detail = f"the configuration no longer pins {shas({rotation.new.root})}: pin it again, or abort the rotation"
        yield unmet("pinned", detail)


def validated(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """The new authority was found good, and a signature of it verified."""
    if world.validated is not None:
        yield unmet("validated", world.validated)
    else:
        yield met("validated", f"{rotation.new.subject or rotation.new.intermediate[:16]} may sign and does")


def capacity(_: RotationRecord, __: Rotation, world: World) -> Iterator[Condition]:
    """The back end of the new authority can carry the renewals that the rotation will ask of it."""
    rate, quota = world.capacity.rate, world.capacity.quota
    known_from = world.capacity.known_from
    if quota and known_from > world.now:
        yield unmet(
            "capacity", f"what renewals ask for is measured until {time_of(known_from)}", until=known_from
        )
    elif quota and rate > quota:
        yield unmet(
            "capacity", f"renewals would ask for {rate:.1f} certificates a second, {quota:.1f} are allowed"
        )
    else:
        allowed = f"of {quota:.1f} that are allowed" if quota else "with no limit known"
        yield met("capacity", f"renewals ask for {rate:.1f} certificates a second {allowed}")


def in_force_both(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What is delivered from now on holds both roots."""
    yield in_force(frozenset({rotation.old.root, rotation.new.root}), world)


def both_roots_published(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every namespace was read back to hold both roots."""
    roots = frozenset({rotation.old.root, rotation.new.root})
    for name, facts in consumers(record, world):
        yield read_back(name, facts, roots, world, since=rotation.since)


def leaves_with_both(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every unexpired leaf was delivered with both roots."""
    roots = frozenset({rotation.old.root, rotation.new.root})
    late = leaves_without(roots, world)
    for name, _ in consumers(record, world):
        yield from delivered_with(name, roots, late)
    yield from delivered_in_removed(record, world, roots, late)


def none_earlier(record: RotationRecord, _: Rotation, world: World) -> Iterator[Condition]:
    """No leaf from before the hub is alive where a gate waits: it would not trust the new root."""
    for name, facts in consumers(record, world):
        yield earlier(name, facts, world)
    yield from earlier_in_removed(world, without=frozenset(record.quarantined))


def istiods_trust_both(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every istiod's ca.crt holds both roots, before its certificate is re-signed under the new one."""
    for name, facts in consumers(record, world):
        yield from istiod_trust(name, facts, Wanted.both(rotation), world)


def webhooks_with_both(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """kube-apiserver verifies every istiod by both roots, before its certificate is re-signed under the new one."""
    for name, facts in consumers(record, world):
        yield from webhooks(name, facts, Wanted.both(rotation), world)


def soaked(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every other condition was met for the soak time without a break."""
    if not rotation.conditions_met_since:
        yield unmet("soak", f"everything else has to hold for {rotation.soak:.0f} s without a break")
        return
    until = rotation.conditions_met_since + rotation.soak
    if until > world.now:
        yield unmet("soak", f"all others are met since {time_of(rotation.conditions_met_since)}", until=until)
    else:
        yield met("soak", f"all others are met since {time_of(rotation.conditions_met_since)}")


def signers_ready(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every signer that is live can sign with the new intermediate: one that cannot issues nothing."""
    if not world.signers:
        yield unmet("signers", "no signer is live")
    for replica, facts in sorted(world.signers.items()):
        if rotation.new.intermediate in facts.ready_with:
            yield met("signers", f"{replica} is ready to sign with the new intermediate")
        else:
            why = facts.detail or "it does not report it"
            yield unmet("signers", f"{replica} is not ready to sign with the new intermediate: {why}")


def directives_followed(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every signer that is live has seen the directives of this state."""
    if not world.signers:
        yield unmet("directives", "no signer is live")
    for replica, facts in sorted(world.signers.items()):
        if (facts.rotation, facts.state) == (rotation.number, rotation.state.value):
            yield met("directives", f"{replica} follows {rotation.state.value}")
        else:
            yield unmet("directives", f"{replica} does not follow {rotation.state.value} yet")


def listeners_open(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """New connections to every signer's listener were accepted since this state began, by the anchors in force.

    The certificate of the listener is of the side that signs. Callers that are connected do not notice one that new
    ones refuse; a workload that starts or reconnects would get nothing.
    """
    if not world.signers:
        yield unmet("listener", "no signer is live")
    for replica, facts in sorted(world.signers.items()):
        at = facts.listener_proved_at
        if not at:
            yield unmet("listener", f"the listener of {replica} is not proved: {facts.listener_detail}")
        elif at <= rotation.since or facts.listener_generation != world.in_force:
            yield unmet(
                "listener",
                f"the listener of {replica} was not proved with what is in force since {time_of(rotation.since)}",
            )
        elif world.now - at > world.fresh:
            yield unmet("listener", f"the listener of {replica} was proved {world.now - at:.0f} s ago")
        else:
            yield met("listener", f"new connections accept the listener of {replica}")


def green(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every ordered pair of clusters that are not quarantined has validated since this state began.

    Where a root is removed it has to be with what is there since: a proof may be made between the two.
    """
    names = [name for name, _ in consumers(record, world)]
    bad = 0
    for client in names:
        for server in names:
            if client == server:
                continue
            problem = _pair_problem(client, server, rotation, world)
            if problem is not None:
                bad += 1
                yield unmet("matrix", problem, client)
                if bad == MOST_PAIRS:  # after a change all of them are: 200 clusters have 39,800
                    return
    if not bad:
        count = len(names) * (len(names) - 1)
        yield met("matrix", f"all {count} ordered pairs have validated since {time_of(rotation.since)}")


def _pair_problem(client: str, server: str, rotation: Rotation, world: World) -> str | None:
    """Why the pair does not count as proved since this state began; None where it does."""
    pair = world.pairs.get((client, server))
    if pair is None or pair.computed <= rotation.since:
        return f"{client} to {server} was not proved since {time_of(rotation.since)}"
    if world.now - pair.computed > world.fresh:
        return f"{client} to {server} was proved {world.now - pair.computed:.0f} s ago"
    meant = (world.behind.get(client, world.in_force), world.behind.get(server, world.in_force))
    if rotation.state is State.UNPUBLISHING and (pair.client_generation, pair.server_generation) != meant:
        return f"{client} to {server} was proved before both had what is meant for them now"
    return None if pair.valid else f"{client} to {server} does not validate: {pair.reason}"


def new_in_use(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What was proved was proved with the new intermediate, where it is meant to sign."""
    names = [name for name, _ in consumers(record, world)]
    meant = {name for name in names if rotation.state is not State.CANARY or name in rotation.canary}
    if not meant and rotation.state is State.CANARY:
        yield unmet("new_in_use", "no canary is left that could show it")
        return
    among, new, old = set(names), rotation.new.intermediate, set[str]()
    for (client, server), pair in world.pairs.items():
        if client in among and server in among:
            if pair.client_issuer != new and client in meant:
                old.add(client)
            if pair.server_issuer != new and server in meant:
                old.add(server)
    for name in sorted(old):
        yield unmet("new_in_use", "its probe still holds a leaf of another issuer", name)
    if not old:
        yield met("new_in_use", "the proof was made with leaves of the new intermediate")


def drained(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """No unexpired leaf needs the old side (the gate G2); of an issuer that is not known, it might."""
    yield from _no_leaf(world, lambda issuer: needs_old(rotation, issuer), "drained")


def new_drained(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """No unexpired leaf needs the new side: the gate out of ABORTING."""
    yield from _no_leaf(world, lambda issuer: needs_new(rotation, issuer), "new_drained")


def needs_old(rotation: Rotation, issuer: str) -> bool:
    """Whether a leaf of that issuer may need the old side: any but the new one, as the old one may be a renewal."""
    return issuer != rotation.new.intermediate


def needs_new(rotation: Rotation, issuer: str) -> bool:
    """The same of the new side: under another root than before, any but the old one."""
    if rotation.changes_root:
        return issuer != rotation.old.intermediate
    return issuer in {rotation.new.intermediate, UNKNOWN_ISSUER}


def _no_leaf(world: World, needs: Callable[[str], bool], name: str) -> Iterator[Condition]:
    late: dict[str, float] = {}
    for delivered, until in alive(world.expiry_bounds, world.now, skew=world.skew).items():
        if needs(delivered.issuer):
            late[delivered.cluster] = max(until + world.skew, late.get(delivered.cluster, 0.0))
    for cluster, until in sorted(late.items()):
        yield unmet(name, f"leaves that need it may live until {time_of(until)}", cluster, until)
    if not late:
        yield met(name, "no leaf alive needs it")


def none_earlier_anywhere(_: RotationRecord, __: Rotation, world: World) -> Iterator[Condition]:
    """Leaves from before the hub may need the old root, in a quarantined cluster as well."""
    for name, facts in sorted(world.clusters.items()):
        yield earlier(name, facts, world)
    yield from earlier_in_removed(world)


def none_earlier_before_removal(_: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """They may need the new root as well, where it is the own root of a cluster that joined."""
    if rotation.changes_root and not rotation.wave:
        yield from none_earlier_anywhere(_, rotation, world)


def istiods_trust_staying(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every istiod's ca.crt holds the root that stays, before the other is removed."""
    for name, facts in _before_removal(record, rotation, world):
        yield from istiod_trust(name, facts, _staying(rotation), world)


def istiods_of_staying(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """Every istiod's certificate is of the side that stays, before the other is removed."""
    side = rotation.old if rotation.state is State.ABORTING else rotation.new
    for name, facts in _before_removal(record, rotation, world):
        yield from istiod_issuer(name, facts, side, world, since=rotation.since)


def webhooks_with_staying(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """kube-apiserver verifies every istiod by the root that stays, before the other is removed."""
    for name, facts in _before_removal(record, rotation, world):
        yield from webhooks(name, facts, _staying(rotation), world)


def _before_removal(
    record: RotationRecord, rotation: Rotation, world: World
) -> Iterator[tuple[str, ClusterFacts]]:
    """The clusters to wait for; none once an abort has removed its root, which is then only observed."""
    if not (rotation.state is State.ABORTING and rotation.wave):
        yield from consumers(record, world)


def _staying(rotation: Rotation) -> Wanted:
    if rotation.state is State.ABORTING:
        return Wanted.only(rotation.old, rotation.new, since=rotation.since)
    return Wanted.only(rotation.new, rotation.old, since=rotation.since)


def observed(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What was meant for each cluster so far was read back there."""
    if rotation.state is State.ABORTING and not rotation.wave:
        return  # nothing is removed yet
    waiting = waits_for_its_wave(rotation)
    for name, facts in consumers(record, world):
        if name in waiting:
            continue
        fresh = world.now - facts.read_back_at <= world.fresh and facts.read_back_at > rotation.since
        if facts.current and fresh and facts.anchors is not None:
            yield met("observed", "every namespace was read back to hold what is meant for it", name)
        else:
            yield unmet("observed", facts.detail or "it does not hold what is meant for it yet", name)
        yield from removal_observed(name, facts, world, since=rotation.since)


def waits_for_its_wave(rotation: Rotation) -> frozenset[str]:
    """Clusters that keep the old root until their wave; one that no wave names waits for none."""
    if rotation.state is not State.UNPUBLISHING:
        return frozenset()
    return frozenset(name for wave in rotation.waves[rotation.wave :] for name in wave)


def renewing(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """At least half of the workloads of each cluster hold a certificate that has not ended, or it has none.

    Together with the drain these certificates are of the side that stays. An abort asks before its removal alone:
    after it, the old side signs again in any case.
    """
    if rotation.state is State.ABORTING and rotation.wave:
        return
    for name, facts in consumers(record, world):
        yield alive_in(name, facts, world, condition="alive")


def left_for_good(record: RotationRecord, side: Side) -> bool:
    """Whether an emergency was declared against its root or its intermediate."""
    return not {side.root, side.intermediate}.isdisjoint(record.compromised)


def require_able(side: Side, which: str, world: World, *, lasting: bool = False) -> list[Condition]:
    """The evidence that every signer seen can sign with that side; ``which`` is its name in the rotation.

    One that cannot would issue nothing from then on: directives forbid it every other. ``lasting`` asks as well that it
    still could once it is restarted. Raises OperationRefused.
    """
    found = [
        _only_until_restart(replica, which)
        if lasting and side.intermediate in facts.until_restart
        else _able(replica, facts.ready_with, side, which)
        for replica, facts in sorted(world.signers.items())
    ]
    for condition in found or [unmet("signers", "no signer is live")]:
        if not condition.met:
            raise OperationRefused(
                f"nothing would be issued any more where the {which} authority is to sign: {condition.detail}",
                remedy="put it back into that signer's configuration beside what signs now, [signer.authority] or "
                "[signer.successor], and ask again"
                if lasting
                and any(side.intermediate in facts.until_restart for facts in world.signers.values())
                else f"correct the {which} authority in that signer's configuration or back end, or end that signer",
            )
    return found


def _only_until_restart(replica: str, which: str) -> Condition:
    return unmet(
        "signers",
        f"the {which} authority is configured no longer on {replica}, which has it only until it is restarted",
    )


def _able(replica: str, ready_with: frozenset[str], side: Side, which: str) -> Condition:
    if side.intermediate in ready_with:
        return met("signers", f"{replica} is ready to sign with the {which} intermediate")
    return unmet("signers", f"{replica} is not ready to sign with the {which} intermediate")
