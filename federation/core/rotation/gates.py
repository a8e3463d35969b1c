"""The gates between the states of a rotation: which conditions each has, and when it will open. Pure.

A condition that is met says what shows it; one that is not says which cluster or signer is in the way and, where only
time has to pass, until when. Conditions are named, so that tests can take each of them away in turn and show what
breaks.

**What is in force.** What the record only decided has not happened yet. A bundle may be withheld (a pin that cannot
be read or was taken out, a store that cannot be written) while the record goes on. Read-backs do not show that: the
clusters then hold what is meant for them, which is the old one.

**An anchor that leaves without a rotation** does so once nothing depends on it. The own anchor of a cluster that
joined was merged for the leaves that the cluster's own CA had issued, and for as long as that went on. It goes by
itself, remembered as retired like the old root of a rotation; until the pin is taken out of the configuration that
keeps it from coming back.

**An anchor whose pin is gone** leaves by the same gate, or when an operator insists. The configuration says what is
wanted. A pin that is added is published; one that is removed or replaced, or whose cluster is removed, takes nothing
away: the record notes the anchor, and it leaves once nothing needs it. An anchor that left comes back only with a pin
that is not staged, or by a rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from federation.core.rotation import conditions
from federation.core.rotation.cluster_conditions import (
    MOST_NAMED,
    NOT_READ,
    Wanted,
    alive_in,
    consumers,
    delivered_in_removed,
    delivered_with,
    earlier,
    earlier_in_removed,
    in_force,
    istiod_trust,
    leaves_without,
    met,
    provided,
    read_back,
    serving,
    shas,
    time_of,
    unmet,
    webhooks,
    webhooks_settled,
)
from federation.core.rotation.conditions import accepted_configuration, renewing
from federation.core.rotation.effects import clusters_behind, published, removed, signing_side
from federation.core.rotation.record import (
    Condition,
    Departure,
    OperationRefused,
    Rotation,
    RotationRecord,
    State,
    Unpinned,
    bounded,
    cut,
)
from federation.core.rotation.world import World
from federation.core.trust.expiry_bounds import alive

MOST_PAIRS: Final = 10  # named one by one
MOST_DEPARTURES: Final = 20
NOTHING_NEEDS_IT: Final = "its pin is gone, and nothing depends on it any more"


_Rule = Callable[[RotationRecord, Rotation, World], Iterator[Condition]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says: open where every condition is met."""

    conditions: tuple[Condition, ...]

    @property
    def open(self) -> bool:
        """True where every condition is met."""
        return all(condition.met for condition in self.conditions)

    @property
    def opens_at(self) -> float:
        """When it opens at the earliest (seconds since the epoch); 0 where that cannot be determined."""
        unmet = [condition.until for condition in self.conditions if not condition.met]
        return max(unmet) if unmet and all(unmet) else 0.0

    @property
    def unmet(self) -> tuple[Condition, ...]:
        """The conditions that are not met."""
        return tuple(condition for condition in self.conditions if not condition.met)


def enacted(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What is in force has of both roots what it is to have, and no cluster stays behind without need."""
    found = list(_problems(record, rotation, world))
    why = f": {world.unwritten}" if world.unwritten is not None else ""
    for problem, cluster in found:
        yield unmet("enacted", f"{problem}{why}", cluster)
    if not found:
        yield met(
            "enacted", f"generation {world.in_force}, which is in force, is what {rotation.state} asks for"
        )


def _problems(record: RotationRecord, rotation: Rotation, world: World) -> Iterator[tuple[str, str]]:
    """What is in the way, with the cluster that it is about."""
    both = frozenset({rotation.old.root, rotation.new.root})
    staying = rotation.old.root if rotation.state is State.ABORTING else rotation.new.root
    if staying not in world.pins:
        yield f"the configuration no longer pins {shas({staying})}, which is to stay", ""
    holds = world.generations.get(world.in_force)
    if holds is None:
        yield f"what generation {world.in_force} holds, which is in force, is not known", ""
        return
    wanted = published(record, world.pins, world.staged, holds) & both
    if wanted - holds:
        yield f"generation {world.in_force}, which is in force, lacks {shas(wanted - holds)}", ""
    if (holds & both) - wanted:
        yield (
            f"generation {world.in_force}, which is in force, holds {shas((holds & both) - wanted)} still",
            "",
        )
    for name in sorted(world.behind.keys() - clusters_behind(record)):
        yield f"it still gets generation {world.behind[name]}, and its wave has come", name


GATES: Final[Mapping[State, Mapping[str, _Rule]]] = {
    State.STAGED: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "validated": conditions.validated,
        "capacity": conditions.capacity,
    },
    State.PUBLISHING: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "in_force": conditions.in_force_both,
        "read_back": conditions.both_roots_published,
        "leaves": conditions.leaves_with_both,
        "earlier": conditions.none_earlier,
        "istiod_trust": conditions.istiods_trust_both,
        "webhooks": conditions.webhooks_with_both,
        "soak": conditions.soaked,
    },
    State.SOAKED: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "in_force": conditions.in_force_both,
        "read_back": conditions.both_roots_published,
        "leaves": conditions.leaves_with_both,
        "earlier": conditions.none_earlier,
        "istiod_trust": conditions.istiods_trust_both,
        "webhooks": conditions.webhooks_with_both,
        "matrix": conditions.green,
        "signers": conditions.signers_ready,
        "alive": renewing,
    },
    State.CANARY: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "in_force": conditions.in_force_both,
        "read_back": conditions.both_roots_published,
        "leaves": conditions.leaves_with_both,
        "earlier": conditions.none_earlier,
        "istiod_trust": conditions.istiods_trust_both,
        "webhooks": conditions.webhooks_with_both,
        "signers": conditions.signers_ready,
        "directives": conditions.directives_followed,
        "matrix": conditions.green,
        "new_in_use": conditions.new_in_use,
        "alive": renewing,
    },
    State.ACTIVE: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "drained": conditions.drained,
        "earlier": conditions.none_earlier_anywhere,
        "istiod_issuer": conditions.istiods_of_staying,
        "istiod_trust": conditions.istiods_trust_staying,
        "webhooks": conditions.webhooks_with_staying,
        "directives": conditions.directives_followed,
        "read_back": conditions.both_roots_published,
        "leaves": conditions.leaves_with_both,
        "matrix": conditions.green,
        "listener": conditions.listeners_open,
        "new_in_use": conditions.new_in_use,
        "alive": renewing,
    },
    State.UNPUBLISHING: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "observed": conditions.observed,
        "matrix": conditions.green,
        "listener": conditions.listeners_open,
        "alive": renewing,
    },
    State.ABORTING: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "new_drained": conditions.new_drained,
        "earlier": conditions.none_earlier_before_removal,
        "istiod_issuer": conditions.istiods_of_staying,
        "istiod_trust": conditions.istiods_trust_staying,
        "webhooks": conditions.webhooks_with_staying,
        "directives": conditions.directives_followed,
        "observed": conditions.observed,
        "listener": conditions.listeners_open,
        "alive": renewing,
    },
    State.EMERGENCY: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "drained": conditions.drained,
        "earlier": conditions.none_earlier_anywhere,
        "istiod_issuer": conditions.istiods_of_staying,
        "istiod_trust": conditions.istiods_trust_staying,
        "webhooks": conditions.webhooks_with_staying,
        "leaves": conditions.leaves_with_both,
        "read_back": conditions.both_roots_published,
        "alive": renewing,
    },
}
"""The gate out of each state: its conditions by name."""


def gate(record: RotationRecord, world: World, *, without: frozenset[str] = frozenset()) -> Verdict:
    """The gate out of the present state. ``without`` names conditions to leave out: for tests alone."""
    rotation = record.rotation
    if rotation is None:
        return Verdict(())
    rules = [rule for name, rule in GATES.get(rotation.state, {}).items() if name not in without]
    found = [condition for rule in rules for condition in rule(record, rotation, world)]
    return Verdict(tuple(_with_soak_behind(found, rotation)))


def _with_soak_behind(found: list[Condition], rotation: Rotation) -> list[Condition]:
    """The soak begins once every other condition is met: where that instant is known, so is its end."""
    others = [condition.until for condition in found if not condition.met and condition.name != "soak"]
    if not others or not all(others):
        return found
    ends = max(others) + rotation.soak
    return [replace(c, until=ends) if c.name == "soak" and not c.met else c for c in found]


def trusts(
    record: RotationRecord, world: World, roots: frozenset[str], *, without: frozenset[str] = frozenset()
) -> Verdict:
    """Whether every consumer of every cluster that is not quarantined trusts these roots (the gate G1)."""
    since = (
        record.rotation.since
        if record.rotation is not None and "conditions_met_since" not in without
        else 0.0
    )
    late = leaves_without(roots, world)
    found = [] if "in_force" in without else [in_force(roots, world)]
    for name, facts in consumers(record, world):
        found += [] if "read_back" in without else [read_back(name, facts, roots, world, since=since)]
        wanted = Wanted.signed_under(record.rotation, roots, since=since)
        found += [] if "istiod_trust" in without else istiod_trust(name, facts, wanted, world)
        found += [] if "webhooks" in without else webhooks(name, facts, wanted, world)
        found += [] if "webhooks_settled" in without else webhooks_settled(name, facts, world, since=since)
        found += [] if "leaves" in without else delivered_with(name, roots, late)
        found += [] if "earlier" in without else [earlier(name, facts, world)]
    if "leaves" not in without:
        found += delivered_in_removed(record, world, roots, late)
    return Verdict(tuple(found))


def return_gate(
    record: RotationRecord, cluster: str, world: World, *, without: frozenset[str] = frozenset()
) -> Verdict:
    """The gate out of a quarantine: caught up, and no leaf alive that lacks an anchor that is signed under."""
    rules: dict[str, Callable[[RotationRecord, str, World], Iterator[Condition]]] = {
        "return_read_back": _return_read_back,
        "return_istiod_trust": _return_istiod_trust,
        "return_webhooks": _return_webhooks,
        "return_leaves": _return_leaves,
        "return_earlier": _return_earlier,
    }
    applied = [rule for name, rule in rules.items() if name not in without]
    return Verdict(tuple(condition for rule in applied for condition in rule(record, cluster, world)))


def _return_read_back(record: RotationRecord, cluster: str, world: World) -> Iterator[Condition]:
    facts = world.clusters.get(cluster)
    roots = signed_under(record)
    if facts is None:
        yield unmet("return_read_back", "it is not registered any more", cluster)
    else:
        condition = read_back(cluster, facts, roots, world, since=0.0)
        current = facts.current or not condition.met
        detail = condition.detail if current else "it does not hold the generation in force yet"
        yield replace(condition, name="return_read_back", met=condition.met and current, detail=detail)


def _return_istiod_trust(record: RotationRecord, cluster: str, world: World) -> Iterator[Condition]:
    facts, roots = world.clusters.get(cluster), signed_under(record)
    if facts is not None and roots:
        wanted = Wanted.signed_under(record.rotation, roots)
        for condition in istiod_trust(cluster, serving(facts, world), wanted, world):
            yield replace(condition, name="return_istiod_trust")


def _return_webhooks(record: RotationRecord, cluster: str, world: World) -> Iterator[Condition]:
    facts, roots = world.clusters.get(cluster), signed_under(record)
    if facts is not None and roots:
        wanted = Wanted.signed_under(record.rotation, roots)
        for condition in webhooks(cluster, serving(facts, world), wanted, world):
            yield replace(condition, name="return_webhooks")


def _return_leaves(record: RotationRecord, cluster: str, world: World) -> Iterator[Condition]:
    roots = signed_under(record)
    for condition in delivered_with(cluster, roots, leaves_without(roots, world)):
        yield replace(condition, name="return_leaves")


def _return_earlier(record: RotationRecord, cluster: str, world: World) -> Iterator[Condition]:
    """Its leaves from before the hub cannot trust a root that a rotation has brought."""
    rotation, facts = record.rotation, world.clusters.get(cluster)
    if rotation is None or facts is None or not rotation.changes_root:
        return
    if rotation.new.root in signed_under(record):
        yield replace(earlier(cluster, facts, world), name="return_earlier")


def signed_under(record: RotationRecord) -> frozenset[str]:
    """The roots that leaves may be signed under at present."""
    rotation = record.rotation
    if rotation is None:
        return frozenset()
    match rotation.state:
        case State.RETIRED | State.UNPUBLISHING:
            return frozenset({rotation.new.root})
        case State.STABLE | State.STAGED:
            return frozenset({rotation.old.root})
        case _:
            return frozenset({rotation.old.root, rotation.new.root})


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCa:
    """An anchor (SHA-256) that is the own CA of clusters: of those it is pinned for, and of others.

    With ``everywhere`` it is a root of the hub's, and every registered cluster depends on it. As at the end of a
    rotation one that is quarantined is then not read back, and its leaves count.
    """

    sha256: str
    clusters: frozenset[str]
    everywhere: bool = False

    def where(self, record: RotationRecord, world: World) -> list[str]:
        """The registered clusters that have to show that they do not need it any more, in order."""
        if self.everywhere:
            return sorted(world.clusters.keys() - record.quarantined.keys())
        return sorted(self.clusters & world.clusters.keys())


def drop_gates(
    anchors: Iterable[MemberCa],
    record: RotationRecord,
    world: World,
    *,
    roots: Mapping[str, str],
    without: frozenset[str] = frozenset(),
) -> dict[str, Verdict]:
    """For each anchor that is not retired yet, whether it may leave the bundle.

    ``roots`` gives for each intermediate of the hub that is known the root above it, both by SHA-256: a leaf or
    a signer of one that is not known may need the anchor. ``without`` names conditions to leave out: for tests
    alone.
    """
    waiting = [anchor for anchor in anchors if anchor.sha256 not in record.retired]
    of_all = (
        {
            "at_rest": _at_rest(record),
            "configuration": accepted_configuration(world),
            "own_matrix": _matrix(record, world),
        }
        if waiting
        else {}
    )
    shared = [c for name, found in of_all.items() if name not in without for c in found]
    return {
        anchor.sha256: Verdict((*shared, *_rules_of(anchor, record, world, roots, without)))
        for anchor in waiting
    }


def drop(record: RotationRecord, verdicts: Mapping[str, Verdict]) -> RotationRecord:
    """The record with those anchors retired whose gate is open."""
    gone = [sha256 for sha256, verdict in verdicts.items() if verdict.open]
    return replace(record, retired=sorted({*record.retired, *gone})) if gone else record


def _rules_of(
    anchor: MemberCa, record: RotationRecord, world: World, roots: Mapping[str, str], without: frozenset[str]
) -> Iterator[Condition]:
    rules = {
        "own_in_force": _in_force(anchor, world),
        "own_issuers": _issuers(anchor, record, world, roots),
        "own_listener": _listener(anchor, world, roots),
        "own_earlier": _earlier(anchor, record, world),
        "own_read_back": _read_back(anchor, record, world),
        "own_alive": _alive(anchor, record, world),
        "own_istiod": _istiod(anchor, record, world, roots),
        "own_webhooks": _webhooks(anchor, record, world),
    }
    for name, found in rules.items():
        if name not in without:
            yield from found


def _at_rest(record: RotationRecord) -> Iterator[Condition]:
    """A rotation changes trust one step at a time."""
    if record.under_way is not None:
        yield unmet("at_rest", f"rotation {record.under_way.number} is under way")
    else:
        yield met("at_rest", "no rotation is under way")


def _matrix(record: RotationRecord, world: World) -> Iterator[Condition]:
    """Every ordered pair of clusters that are not quarantined validates by leaves of the hub, proved not long ago."""
    names = [name for name, _ in consumers(record, world)]
    pairs = [(client, server) for client in names for server in names if client != server]
    bad = [pair for pair in pairs if not _validates(*pair, world)]
    for client, server in bad[:MOST_PAIRS]:
        pair = world.pairs.get((client, server))
        why = (
            f"was not proved in the last {world.fresh:.0f} s"
            if pair is None or pair.valid
            else f"does not validate: {pair.reason}"
        )
        yield unmet("own_matrix", f"{client} to {server} {why}", client)
    if not bad:
        yield met("own_matrix", f"all {len(pairs)} ordered pairs validate")


def _validates(client: str, server: str, world: World) -> bool:
    pair = world.pairs.get((client, server))
    return pair is not None and pair.valid and world.now - pair.computed <= world.fresh


def _in_force(anchor: MemberCa, world: World) -> Iterator[Condition]:
    """There is something to drop."""
    if anchor.sha256 in world.generations.get(world.in_force, frozenset()):
        yield met("own_in_force", f"generation {world.in_force} holds it")
    else:
        yield unmet("own_in_force", f"generation {world.in_force} does not hold it")


def _issuers(
    anchor: MemberCa, record: RotationRecord, world: World, roots: Mapping[str, str]
) -> Iterator[Condition]:
    """Nothing of the hub's own is below it: no leaf that may be alive, no signer's authority, nor the one in force."""
    side = signing_side(record)
    if side is not None and side.root == anchor.sha256:
        yield unmet(
            "own_issuers",
            f"{side.subject or side.intermediate[:12]}, which is in force, is below it: a rotation leads away from it",
        )
        return
    until: dict[str, float] = {}
    for delivered, end in alive(world.expiry_bounds, world.now, skew=world.skew).items():
        until[delivered.issuer] = max(end + world.skew, until.get(delivered.issuer, 0.0))
    if not world.signers:
        yield unmet("own_issuers", "no signer is live")
    signing = {intermediate for facts in world.signers.values() for intermediate in facts.ready_with}
    found = 0
    for issuer in sorted(signing | until.keys()):
        if roots.get(issuer, anchor.sha256) != anchor.sha256:
            continue
        found += 1
        where = "below it" if issuer in roots else "below a root that is not known"
        if issuer in signing:
            yield unmet("own_issuers", f"signers can sign with {issuer[:12]}, which is {where}")
        else:
            ends = f"the last of its leaves ends at {time_of(until[issuer])}"
            yield unmet("own_issuers", f"{issuer[:12] or 'an issuer'} is {where}; {ends}", "", until[issuer])
    if not found:
        yield met("own_issuers", "nothing that the hub signs with, and no leaf of it alive, is below it")


def _listener(anchor: MemberCa, world: World, roots: Mapping[str, str]) -> Iterator[Condition]:
    """No signer's listener shows a certificate below it: clients of the listener verify it by their ConfigMap."""
    bad = 0
    for replica, facts in sorted(world.signers.items()):
        if facts.listener and roots.get(facts.listener, anchor.sha256) == anchor.sha256:
            bad += 1
            yield unmet("own_listener", f"{replica}: the certificate of its listener is below it, or may be")
    if not bad:
        yield met("own_listener", "no signer's listener shows a certificate below it")


def _earlier(anchor: MemberCa, record: RotationRecord, world: World) -> Iterator[Condition]:
    """No leaf of the CA can be alive where it has issued."""
    for name in sorted(world.clusters if anchor.everywhere else anchor.clusters & world.clusters.keys()):
        facts = world.clusters[name]
        if name in record.quarantined and not anchor.everywhere:
            yield unmet("own_earlier", "it is quarantined, and it is not known what issues there", name)
        else:
            condition = earlier(name, facts, world)
            yield replace(condition, name="own_earlier")
    for condition in earlier_in_removed(world):
        if anchor.everywhere or condition.cluster in anchor.clusters:
            yield replace(condition, name="own_earlier")


def _read_back(anchor: MemberCa, record: RotationRecord, world: World) -> Iterator[Condition]:
    """Where it has issued, every namespace was read back, not long ago, to hold what is in force."""
    for name in anchor.where(record, world):
        facts = world.clusters[name]
        if facts.anchors is None or not facts.current:
            yield unmet("own_read_back", facts.detail or "it does not hold the generation in force", name)
        elif world.now - facts.read_back_at > world.fresh:
            yield unmet(
                "own_read_back", f"it was last read back {world.now - facts.read_back_at:.0f} s ago", name
            )
        else:
            yield met("own_read_back", "every namespace was read back to hold the generation in force", name)


def _alive(anchor: MemberCa, record: RotationRecord, world: World) -> Iterator[Condition]:
    """Where it has issued, workloads hold certificates of the hub: pods that were never restarted hold none."""
    for name in anchor.where(record, world):
        if name in record.quarantined:
            continue
        yield alive_in(name, world.clusters[name], world, condition="own_alive")


def _istiod(
    anchor: MemberCa, record: RotationRecord, world: World, roots: Mapping[str, str]
) -> Iterator[Condition]:
    """No istiod that was found where it has issued shows a certificate below it."""
    for name in anchor.where(record, world):
        bad = 0
        for plane in world.clusters[name].control_planes:
            if plane.anchors is None:
                problem = f"what it trusts is not known: {plane.detail or 'it was not read back'}"
            elif roots.get(plane.issuer, anchor.sha256) == anchor.sha256:
                problem = "its certificate is below it, or below a root that is not known"
            else:
                continue
            bad += 1
            yield unmet("own_istiod", f"{plane.name}: {problem}", name)
        if not bad:
            yield met("own_istiod", "no certificate of istiod that the hub provides is below it", name)


def _webhooks(anchor: MemberCa, record: RotationRecord, world: World) -> Iterator[Condition]:
    """No webhook where it has issued depends on it: the istiod that is called then has another certificate.

    One that the hub provides no certificate for counts as having one below it while its caBundle holds it.
    """
    others = world.generations.get(world.in_force, frozenset()) - {anchor.sha256}
    for name in anchor.where(record, world):
        facts = world.clusters[name]
        if facts.webhooks is None:
            yield unmet("own_webhooks", f"{NOT_READ}: {facts.webhooks_detail or 'not yet'}", name)
            continue
        needing = [
            webhook
            for webhook in facts.webhooks
            if anchor.sha256 in webhook.anchors
            and not (provided(webhook, facts) and others & webhook.anchors)
        ]
        for webhook in needing[:MOST_NAMED]:
            detail = f"{webhook.name} verifies {webhook.istiod} by it, and by no certificate of the hub's"
            yield unmet("own_webhooks", detail, name)
        if not needing:
            yield met("own_webhooks", "no webhook of Istio depends on it", name)


def settle(
    record: RotationRecord, *, pins: frozenset[str], staged: frozenset[str], found: Mapping[str, Unpinned]
) -> RotationRecord:
    """The record by these pins, ``staged`` ones among them; ``found`` are the roots of all generations in force.

    Noted are roots that are published and not pinned, and those pinned as staged after they were published: both
    stay. What was withdrawn may come back where a pin is not staged.
    """
    gone = removed(record)
    unpinned = {
        sha256: known
        for sha256, known in record.unpinned.items()
        if sha256 not in pins and sha256 not in gone
    }
    for sha256, seen in sorted(found.items()):
        if sha256 not in pins and sha256 not in gone and sha256 not in unpinned:
            unpinned[sha256] = seen
    admitted = sorted({*record.admitted, *(staged & found.keys() - gone)})
    withdrawn = [sha256 for sha256 in record.withdrawn if sha256 not in pins - staged]
    if (unpinned, admitted, withdrawn) == (record.unpinned, record.admitted, record.withdrawn):
        return record
    return replace(record, unpinned=unpinned, admitted=admitted, withdrawn=withdrawn)


def unpinned_anchors(record: RotationRecord, own: Mapping[str, Iterable[str]]) -> list[MemberCa]:
    """Those of the record, for the gate that they leave by.

    ``own`` are the CAs (SHA-256) that each cluster came with: one may have joined after the pin was gone.
    """
    return [
        MemberCa(
            sha256=sha256,
            clusters=frozenset(known.clusters) | {name for name, shas in own.items() if sha256 in shas},
            everywhere=not known.clusters,
        )
        for sha256, known in sorted(record.unpinned.items())
    ]


def remove_now(
    record: RotationRecord, world: World, sha256: str, *, author: str, reason: str
) -> RotationRecord:
    """Remove such an anchor whatever needs it. Raises OperationRefused for every other one.

    What fails then is :func:`federation.core.rotation.effects.losses_without`.
    """
    known = record.unpinned.get(sha256)
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
    rotation = record.under_way
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
    return depart(record, {sha256: evidence}, at=world.now, author=author, reason=reason)


def drop_unpinned(record: RotationRecord, verdicts: Mapping[str, Verdict], *, at: float) -> RotationRecord:
    """The record without those anchors whose gate is open; each with its evidence among the departures."""
    going = {
        sha256: verdicts[sha256].conditions
        for sha256 in record.unpinned
        if sha256 in verdicts and verdicts[sha256].open
    }
    if not going:
        return record
    return depart(record, going, at=at, author="the controller", reason=NOTHING_NEEDS_IT)


def depart(
    record: RotationRecord,
    going: Mapping[str, Sequence[Condition]],
    *,
    at: float,
    author: str,
    reason: str,
) -> RotationRecord:
    """The record with these unpinned anchors removed, each on its evidence."""
    left = [
        Departure(
            sha256=sha256,
            subject=record.unpinned[sha256].subject,
            at=at,
            author=cut(author),
            reason=cut(reason),
            evidence=bounded(evidence),
        )
        for sha256, evidence in sorted(going.items())
    ]
    return replace(
        record,
        unpinned={sha256: known for sha256, known in record.unpinned.items() if sha256 not in going},
        withdrawn=sorted({*record.withdrawn, *going}),
        admitted=[sha256 for sha256 in record.admitted if sha256 not in going],
        departures=[*record.departures, *left][-MOST_DEPARTURES:],
    )
