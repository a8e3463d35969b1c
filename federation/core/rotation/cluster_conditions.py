"""Conditions of one cluster between the states of a rotation, each with its evidence and its estimate. Pure.

A condition that is met says what shows it; one that is not says what is in the way and, where only time has to pass,
until when. They are of three kinds:

**Consumers of trust:** what they are known to trust. G1 and the way back from a quarantine share these.

**Control planes:** istiod's certificate, its ca.crt, and the webhooks. Three parties verify istiod's certificate and
none of them renews anything by itself: agents that are started or reconnect (by the ConfigMap of their namespace),
kube-apiserver when it calls a webhook (by its ``caBundle``), and istiod, which verifies clients by its own
``ca.crt``. istiod patches the caBundles from the roots that it has loaded (``pkg/webhooks`` of Istio), so what they
hold also shows what istiod has loaded. Before anything is signed under a new root, every ``ca.crt`` and every
caBundle holds both roots: istiod's certificate is re-signed as soon as the issuer changes. Before a root is removed,
every certificate is of the side that stays.

**Workloads alive:** whether those of each cluster still get certificates. A drain waits until every leaf that needs a
side has ended. In a mesh that gets no certificates all of them have, and an abort or a removal would seem safe: it
would make permanent what is broken, and a later proof with the hub's own probes would call it green.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace as replace_field

from federation.core.rotation.record import Condition, Rotation, RotationRecord, Side
from federation.core.rotation.world import ClusterFacts, ControlPlane, Webhook, World
from federation.core.trust.expiry_bounds import ANY_REMOVED, alive
from federation.core.trust.liveness import assess

NOT_REGISTERED: Final = "it is not registered any more, and others still talk to its workloads"
NOT_KNOWN: Final = "a table that cannot be read may hold some, and others still talk to their workloads"
NOT_READ: Final = "Istio's webhooks could not be read"

RESTART: Final = (
    "restart istiod where that stays so: it reads its files only at its start; where there is no such istiod any"
    " more, delete the webhook configuration"
)

MOST_NAMED: Final = 10  # webhooks of one cluster that are named one by one
MOST_REFUSED: Final = 10  # processes that are named one by one
MOST_PAIRS: Final = 200  # pairs that are named one by one: a report has no more conditions of all kinds


def met(name: str, detail: str, cluster: str = "") -> Condition:
    """A condition that holds."""
    return Condition(name=name, met=True, detail=detail, cluster=cluster)


def unmet(name: str, detail: str, cluster: str = "", until: float = 0.0) -> Condition:
    """A condition that does not hold, and may from ``until`` on (0: that cannot be determined)."""
    return Condition(name=name, met=False, detail=detail, cluster=cluster, until=until)


def in_words(condition: Condition) -> str:
    """A condition in a sentence: with its cluster, where it is about one."""
    return f"{condition.cluster}: {condition.detail}" if condition.cluster else condition.detail


def shas(roots: Iterable[str]) -> str:
    """Fingerprints as a person reads them."""
    return " and ".join(sorted(root[:12] for root in roots)) or "nothing"


def time_of(seconds: float) -> str:
    """An instant as a person reads it, whatever the number is."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "a time that no calendar holds"


def consumers(record: RotationRecord, world: World) -> Iterator[tuple[str, ClusterFacts]]:
    """The registered clusters that are not quarantined: those that a gate waits for."""
    for name, facts in sorted(world.clusters.items()):
        if name not in record.quarantined:
            yield name, facts


def read_back(
    name: str, facts: ClusterFacts, roots: frozenset[str], world: World, *, since: float
) -> Condition:
    """Every source of the cluster's trust was read back to hold the roots, not long ago and after ``since``.

    What was read before the present state began, or at that very instant, may have been replaced by what the state
    before it published.
    """
    if facts.anchors is None:
        return unmet(
            "read_back", f"what it trusts is not known: {facts.detail or 'it was not read back'}", name
        )
    age = world.now - facts.read_back_at
    if age > world.fresh:
        return unmet("read_back", f"it was last read back {age:.0f} s ago", name)
    if facts.read_back_at <= since:
        return unmet("read_back", f"it was not read back since {time_of(since)}", name)
    missing = roots - facts.anchors
    if missing:
        where = f": {facts.detail}" if facts.detail and not facts.current else ""
        return unmet("read_back", f"{shas(missing)} is not everywhere yet{where}", name)
    return met("read_back", f"{shas(roots)} was read back everywhere", name)


def leaves_without(roots: frozenset[str], world: World) -> Mapping[str, Mapping[int, float]]:
    """Per cluster, the generations that lack one of the roots and until when leaves delivered so may live.

    A generation that is not known lacks everything.
    """
    late: dict[str, dict[int, float]] = {}
    for delivered, until in alive(world.expiry_bounds, world.now, skew=world.skew).items():
        if roots <= world.generations.get(delivered.generation, frozenset()):
            continue
        of_cluster = late.setdefault(delivered.cluster, {})
        last = of_cluster.get(delivered.generation, 0.0)
        of_cluster[delivered.generation] = max(until + world.skew, last)
    return late


def delivered_with(
    name: str, roots: frozenset[str], late: Mapping[str, Mapping[int, float]]
) -> list[Condition]:
    """Every unexpired leaf of the cluster was delivered with all the roots; ``late`` is :func:`leaves_without`."""
    if name not in late:
        return [met("leaves", f"every leaf alive was delivered with {shas(roots)}", name)]
    return [
        unmet(
            "leaves",
            f"leaves delivered with generation {generation}, which lacks one of {shas(roots)}, may live until"
            f" {time_of(until)}",
            name,
            until,
        )
        for generation, until in sorted(late[name].items())
    ]


def delivered_in_removed(
    record: RotationRecord, world: World, roots: frozenset[str], late: Mapping[str, Mapping[int, float]]
) -> Iterator[Condition]:
    """The same for clusters that are not registered any more, but for those that were quarantined before."""
    for name in sorted(late.keys() - world.clusters.keys() - record.quarantined.keys()):
        why = NOT_REGISTERED if name != ANY_REMOVED else NOT_KNOWN
        for condition in delivered_with(name, roots, late):
            yield replace_field(condition, detail=f"{why}; {condition.detail}")


def in_force(roots: frozenset[str], world: World) -> Condition:
    """What is delivered from now on holds the roots; leaves alive say nothing about the next one."""
    missing = roots - world.generations.get(world.in_force, frozenset())
    if missing:
        return unmet("in_force", f"generation {world.in_force}, which is in force, lacks {shas(missing)}")
    return met("in_force", f"generation {world.in_force}, which is in force, holds {shas(roots)}")


def earlier(name: str, facts: ClusterFacts, world: World) -> Condition:
    """No leaf from before the hub is alive: it may need any root, and trust none of the hub's."""
    if facts.own_issues:
        return unmet(
            "earlier",
            f"its own CA issues there until the takeover is declared: federation rotate takeover {name}",
            name,
        )
    until = facts.unknown_until + world.skew if facts.unknown_until else 0.0
    if until > world.now:
        return unmet("earlier", f"leaves from before the hub may live until {time_of(until)}", name, until)
    return met("earlier", "no leaf from before the hub can be alive", name)


def earlier_in_removed(world: World, *, without: frozenset[str] = frozenset()) -> Iterator[Condition]:
    """No leaf from before the hub is alive in a cluster that is not registered any more: others still talk to it."""
    for name, end in sorted(world.gone.items()):
        until = end + world.skew
        if until > world.now and name not in without:
            detail = f"{NOT_REGISTERED}; leaves from before the hub may live until {time_of(until)}"
            yield unmet("earlier", detail, name, until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is wanted of control planes: the ``roots`` that they hold, of which ``staying`` is not removed next.

    ``leaving`` is the root of the other side. What was read at ``since`` or before does not count.
    """

    roots: frozenset[str]
    staying: str
    leaving: str
    since: float = 0.0

    @classmethod
    def both(cls, rotation: Rotation) -> Wanted:
        """Both roots: before anything is signed under the new one."""
        old, new = rotation.old.root, rotation.new.root
        return cls(roots=frozenset({old, new}), staying=new, leaving=old, since=rotation.since)

    @classmethod
    def only(cls, staying: Side, leaving: Side, *, since: float) -> Wanted:
        """The root of the side that stays: before the other is removed."""
        return cls(roots=frozenset({staying.root}), staying=staying.root, leaving=leaving.root, since=since)

    @classmethod
    def signed_under(cls, rotation: Rotation | None, roots: frozenset[str], *, since: float = 0.0) -> Wanted:
        """These roots, under which leaves may be signed."""
        if rotation is None:
            return cls(roots=roots, staying="", leaving="", since=since)
        staying, leaving = rotation.old.root, rotation.new.root
        if rotation.new.root in roots:
            staying, leaving = leaving, staying
        return cls(roots=roots, staying=staying, leaving=leaving, since=since)


def istiod_trust(name: str, facts: ClusterFacts, wanted: Wanted, world: World) -> Iterator[Condition]:
    """The ``ca.crt`` beside each istiod's certificate was read back, not long ago, to hold the roots."""
    for plane in facts.control_planes:
        problem = _not_read(plane, world, wanted.since)
        missing = wanted.roots - (plane.anchors or frozenset())
        if problem is None and missing:
            problem = f"its ca.crt lacks {shas(missing)}" + (f": {plane.detail}" if plane.detail else "")
        if problem is not None:
            yield unmet("istiod_trust", f"{plane.name}: {problem}", name)
        else:
            yield met("istiod_trust", f"{plane.name}: its ca.crt holds {shas(wanted.roots)}", name)
    if not facts.control_planes:
        yield met("istiod_trust", "the hub provides no certificate of an istiod", name)


def istiod_issuer(
    name: str, facts: ClusterFacts, staying: Side, world: World, *, since: float
) -> Iterator[Condition]:
    """Each istiod's certificate was read back, not long ago, to be valid and of the intermediate that stays."""
    for plane in facts.control_planes:
        problem = _not_read(plane, world, since)
        if problem is None and plane.issuer != staying.intermediate:
            of = f"of {plane.issuer[:12]}" if plane.issuer else "of an issuer that is not known"
            problem = f"its certificate is {of}, not of {staying.intermediate[:12]}"
            problem += f": {plane.detail}" if plane.detail else ""
        elif problem is None and plane.not_after <= world.now:
            problem = f"its certificate has expired at {time_of(plane.not_after)}"
        if problem is not None:
            yield unmet("istiod_issuer", f"{plane.name}: {problem}", name)
        else:
            until = time_of(plane.not_after)
            yield met(
                "istiod_issuer",
                f"{plane.name}: its certificate is of {staying.intermediate[:12]} until {until}",
                name,
            )
    if not facts.control_planes:
        yield met("istiod_issuer", "the hub provides no certificate of an istiod", name)


def webhooks(name: str, facts: ClusterFacts, wanted: Wanted, world: World) -> Iterator[Condition]:
    """Every webhook's caBundle was read, not long ago, to verify the istiod that it calls, before and after."""
    problem = _unread_webhooks(facts, world, wanted.since)
    if problem is not None:
        yield unmet("webhooks", problem, name)
        return
    found = facts.webhooks or ()
    problems = [text for webhook in found if (text := webhook_problem(webhook, facts, wanted)) is not None]
    for text in problems[:MOST_NAMED]:
        yield unmet("webhooks", text, name)
    if not problems:
        yield met("webhooks", _verified(found, facts, wanted), name)


def webhooks_settled(name: str, facts: ClusterFacts, world: World, *, since: float) -> Iterator[Condition]:
    """What istiod had loaded before ``since`` has reached its webhooks by now.

    It patches them some time after it has loaded other roots: where a root was removed and published again in
    between, a caBundle that still holds it may be about to lose it. A read-back is expected to be no older than
    ``world.fresh``, and the same is given to istiod.
    """
    until = since + world.fresh
    if not any(provided(webhook, facts) for webhook in facts.webhooks or ()):
        return
    if until > world.now:
        detail = f"istiod may patch its webhooks until {time_of(until)} with roots that it had before"
        yield unmet("webhooks_settled", detail, name, until)
    else:
        yield met("webhooks_settled", f"what istiod had before {time_of(since)} is patched", name)


def removal_observed(name: str, facts: ClusterFacts, world: World, *, since: float) -> Iterator[Condition]:
    """The ``ca.crt`` of each istiod was read back to be the bundle that is meant for the cluster now."""
    for plane in facts.control_planes:
        problem = _not_read(plane, world, since)
        if problem is None and not plane.current:
            problem = f"its ca.crt is not what is meant for it: {plane.detail or 'it was not written yet'}"
        if problem is not None:
            yield unmet("observed", f"{plane.name}: {problem}", name)
        else:
            yield met("observed", f"{plane.name}: its ca.crt is what is meant for it", name)


def webhook_problem(webhook: Webhook, facts: ClusterFacts, wanted: Wanted) -> str | None:
    """Why kube-apiserver would refuse the istiod that it calls, now or after the removal; None where it would not.

    Where the hub does not provide that istiod's certificate no rotation re-signs it: then only the root that is
    left must not be all that verifies it.
    """
    if provided(webhook, facts):
        missing = wanted.roots - webhook.anchors
        if not missing:
            return None
        lacks = f"its caBundle lacks {shas(missing)}, so {webhook.istiod} has not loaded ca.crt"
        return f"{webhook.name}: {lacks}; {RESTART}"
    if wanted.leaving in webhook.anchors and wanted.staying not in webhook.anchors:
        return (
            f"{webhook.name}: it verifies {webhook.istiod} by {wanted.leaving[:12]}, which is to be left, and the hub"
            " does not provide that istiod's certificate; give it one of the other authority, or let the hub provide it"
        )
    return None


def provided(webhook: Webhook, facts: ClusterFacts) -> bool:
    """Whether the hub provides the certificate of the istiod that it calls: there is one for its namespace."""
    namespace = webhook.istiod.partition("/")[0]
    return any(plane.name.partition("/")[0] == namespace for plane in facts.control_planes)


def serving(facts: ClusterFacts, world: World) -> ClusterFacts:
    """The cluster without control planes that were read back, not long ago, to serve nothing.

    Where nothing is issued while a cluster is quarantined, they get a certificate only once it has returned.
    """
    planes = facts.control_planes
    idle = {p.name for p in planes if p.anchors is None and world.now - p.read_back_at <= world.fresh}
    if not idle:
        return facts
    hooks = facts.webhooks
    if hooks is not None:
        places = {name.partition("/")[0] for name in idle}
        hooks = tuple(hook for hook in hooks if hook.istiod.partition("/")[0] not in places)
    remaining = tuple(plane for plane in planes if plane.name not in idle)
    return replace(facts, control_planes=remaining, webhooks=hooks)


def obstacles(facts: ClusterFacts, old: Side, new: Side) -> dict[str, str]:
    """What of a cluster's control planes a rotation between these sides would wait for as things are, by its name.

    Each with the condition that is not met. What a rotation itself brings about is none.
    """
    found: dict[str, str] = {}
    for plane in facts.control_planes:
        if plane.anchors is None:
            found[plane.name] = f"istiod_trust: {plane.detail or 'it was not read back'}"
        elif old.root not in plane.anchors:
            found[plane.name] = f"istiod_trust: its ca.crt lacks {shas({old.root})}"
    wanted = Wanted(roots=frozenset({old.root}), staying=new.root, leaving=old.root)
    for webhook in facts.webhooks or ():
        if (problem := webhook_problem(webhook, facts, wanted)) is not None:
            found[webhook.name] = f"webhooks: {problem.removeprefix(f'{webhook.name}: ')}"
    return found


def _verified(found: Iterable[Webhook], facts: ClusterFacts, wanted: Wanted) -> str:
    mine = [webhook for webhook in found if provided(webhook, facts)]
    others = [webhook for webhook in found if not provided(webhook, facts)]
    said = [f"{len(mine)} webhooks hold {shas(wanted.roots)}"] if mine else []
    said += [f"{len(others)} call an istiod whose certificate is of another CA"] if others else []
    return " and ".join(said) or "no webhook of Istio was found"


def _unread_webhooks(facts: ClusterFacts, world: World, since: float) -> str | None:
    """Why what is known of its webhooks does not count; None where it does."""
    if facts.webhooks is None:
        return f"{NOT_READ}: {facts.webhooks_detail or 'they were not read yet'}"
    if not facts.webhooks:
        return None
    age = world.now - facts.webhooks_read_at
    if age > world.fresh:
        return f"Istio's webhooks were last read {age:.0f} s ago"
    return (
        None if facts.webhooks_read_at > since else f"Istio's webhooks were not read since {time_of(since)}"
    )


def _not_read(plane: ControlPlane, world: World, since: float) -> str | None:
    """Why what is known of it does not count; None where it does."""
    if plane.anchors is None:
        return f"what it trusts is not known: {plane.detail or 'it was not read back'}"
    age = world.now - plane.read_back_at
    if age > world.fresh:
        return f"it was last read back {age:.0f} s ago"
    return None if plane.read_back_at > since else f"it was not read back since {time_of(since)}"


def alive_in(name: str, facts: ClusterFacts, world: World, *, condition: str) -> Condition:
    """Whether one cluster's workloads get certificates, as a condition of that name."""
    found = assess(facts.life, world.now)
    if found.fine:
        return met(condition, found.detail, name)
    until = f"; more is known at {time_of(found.until)}" if found.until else ""
    remedy = f"; {found.remedy}" if found.remedy else ""
    return unmet(condition, f"{found.detail}{until}{remedy}", name, found.until)
