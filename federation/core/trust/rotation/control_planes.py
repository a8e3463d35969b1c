"""What a rotation waits for in Istio's control planes: istiod's certificate, its ca.crt, and the webhooks. Pure.

Three parties verify istiod's certificate and none of them renews anything by itself: agents that are started or
reconnect (by the ConfigMap of their namespace), kube-apiserver when it calls a webhook (by its ``caBundle``), and
istiod verifies clients by its own ``ca.crt``. istiod patches the caBundles from the roots that it has loaded
(``pkg/webhooks`` of Istio), so what they hold also shows what istiod has loaded.

Before anything is signed under a new root, every ``ca.crt`` and every caBundle holds both roots: istiod's certificate
is re-signed as soon as the issuer changes. Before a root is removed, every certificate is of the side that stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from federation.core.trust.rotation.consumers import met, shas, time_of, unmet
from federation.core.trust.rotation.record import Condition, Rotation, Side
from federation.core.trust.rotation.world import ClusterFacts, ControlPlane, Webhook, World

MOST_NAMED: Final = 10  # webhooks of one cluster that are named one by one
RESTART: Final = (
    "restart istiod where that stays so: it looks for its files only at its start; where there is no such istiod any"
    " more, delete the webhook configuration"
)
NOT_READ: Final = "Istio's webhooks could not be read"


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
    """The ``ca.crt`` beside each istiod's certificate was lately read back to hold the roots."""
    for plane in facts.control_planes:
        problem = _not_read(plane, world, wanted.since)
        missing = wanted.roots - (plane.held or frozenset())
        if not problem and missing:
            problem = f"its ca.crt lacks {shas(missing)}" + (f": {plane.detail}" if plane.detail else "")
        if problem:
            yield unmet("istiod_trust", f"{plane.name}: {problem}", name)
        else:
            yield met("istiod_trust", f"{plane.name}: its ca.crt holds {shas(wanted.roots)}", name)
    if not facts.control_planes:
        yield met("istiod_trust", "the hub provides no certificate of an istiod", name)


def istiod_issuer(
    name: str, facts: ClusterFacts, staying: Side, world: World, *, since: float
) -> Iterator[Condition]:
    """Each istiod's certificate was lately read back to be valid, and of the intermediate that stays."""
    for plane in facts.control_planes:
        problem = _not_read(plane, world, since)
        if not problem and plane.issuer != staying.intermediate:
            of = f"of {plane.issuer[:12]}" if plane.issuer else "of an issuer that is not known"
            problem = f"its certificate is {of}, not of {staying.intermediate[:12]}"
            problem += f": {plane.detail}" if plane.detail else ""
        elif not problem and plane.not_after <= world.now:
            problem = f"its certificate has expired at {time_of(plane.not_after)}"
        if problem:
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
    """Every webhook's caBundle was lately read to verify the istiod that it calls, before and after."""
    problem = _unread_webhooks(facts, world, wanted.since)
    if problem:
        yield unmet("webhooks", problem, name)
        return
    found = facts.webhooks or ()
    problems = [text for webhook in found if (text := webhook_problem(webhook, facts, wanted))]
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


def _unread_webhooks(facts: ClusterFacts, world: World, since: float) -> str:
    if facts.webhooks is None:
        return f"{NOT_READ}: {facts.webhooks_detail or 'they were not read yet'}"
    if not facts.webhooks:
        return ""
    age = world.now - facts.webhooks_read_at
    if age > world.fresh:
        return f"Istio's webhooks were last read {age:.0f} s ago"
    return "" if facts.webhooks_read_at > since else f"Istio's webhooks were not read since {time_of(since)}"


def webhook_problem(webhook: Webhook, facts: ClusterFacts, wanted: Wanted) -> str:
    """Why kube-apiserver would refuse the istiod that it calls, now or after the removal; empty where it would not.

    Where the hub does not provide that istiod's certificate no rotation re-signs it: then only the root that is
    left must not be all that verifies it.
    """
    if provided(webhook, facts):
        missing = wanted.roots - webhook.held
        if not missing:
            return ""
        lacks = f"its caBundle lacks {shas(missing)}, so {webhook.istiod} has not loaded ca.crt"
        return f"{webhook.name}: {lacks}; {RESTART}"
    if wanted.leaving in webhook.held and wanted.staying not in webhook.held:
        return (
            f"{webhook.name}: it verifies {webhook.istiod} by {wanted.leaving[:12]}, which is to be left, and the hub"
            " does not provide that istiod's certificate; give it one of the other authority, or let the hub provide it"
        )
    return ""


def provided(webhook: Webhook, facts: ClusterFacts) -> bool:
    """Whether the hub provides the certificate of the istiod that it calls: there is one for its namespace."""
    namespace = webhook.istiod.partition("/")[0]
    return any(plane.name.partition("/")[0] == namespace for plane in facts.control_planes)


def serving(facts: ClusterFacts, world: World) -> ClusterFacts:
    """The cluster without control planes that were lately read back to serve nothing.

    Where nothing is issued while a cluster is quarantined, they get a certificate only once it has returned.
    """
    planes = facts.control_planes
    idle = {p.name for p in planes if p.held is None and world.now - p.read_back_at <= world.fresh}
    if not idle:
        return facts
    hooks = facts.webhooks
    if hooks is not None:
        places = {name.partition("/")[0] for name in idle}
        hooks = tuple(hook for hook in hooks if hook.istiod.partition("/")[0] not in places)
    kept = tuple(plane for plane in planes if plane.name not in idle)
    return replace(facts, control_planes=kept, webhooks=hooks)


def _verified(found: Iterable[Webhook], facts: ClusterFacts, wanted: Wanted) -> str:
    mine = [webhook for webhook in found if provided(webhook, facts)]
    others = [webhook for webhook in found if not provided(webhook, facts)]
    said = [f"{len(mine)} webhooks hold {shas(wanted.roots)}"] if mine else []
    said += [f"{len(others)} call an istiod whose certificate is of another CA"] if others else []
    return " and ".join(said) or "no webhook of Istio was found"


def obstacles(facts: ClusterFacts, old: Side, new: Side) -> dict[str, str]:
    """What of a cluster's control planes a rotation between these sides would wait for as things are, by its name.

    Each with the condition that is not met. What a rotation itself brings about is none.
    """
    found: dict[str, str] = {}
    for plane in facts.control_planes:
        if plane.held is None:
            found[plane.name] = f"istiod_trust: {plane.detail or 'it was not read back'}"
        elif old.root not in plane.held:
            found[plane.name] = f"istiod_trust: its ca.crt lacks {shas({old.root})}"
    wanted = Wanted(roots=frozenset({old.root}), staying=new.root, leaving=old.root)
    for webhook in facts.webhooks or ():
        if problem := webhook_problem(webhook, facts, wanted):
            found[webhook.name] = f"webhooks: {problem.removeprefix(f'{webhook.name}: ')}"
    return found


def removal_observed(name: str, facts: ClusterFacts, world: World, *, since: float) -> Iterator[Condition]:
    """The ``ca.crt`` of each istiod was read back to be the bundle that is meant for the cluster now."""
    for plane in facts.control_planes:
        problem = _not_read(plane, world, since)
        if not problem and not plane.current:
            problem = f"its ca.crt is not what is meant for it: {plane.detail or 'it was not written yet'}"
        if problem:
            yield unmet("observed", f"{plane.name}: {problem}", name)
        else:
            yield met("observed", f"{plane.name}: its ca.crt is what is meant for it", name)


def _not_read(plane: ControlPlane, world: World, since: float) -> str:
    """Why what is known of it does not count; empty where it does."""
    if plane.held is None:
        return f"what it holds is not known: {plane.detail or 'it was not read back'}"
    age = world.now - plane.read_back_at
    if age > world.fresh:
        return f"it was last read back {age:.0f} s ago"
    return "" if plane.read_back_at > since else f"it was not read back since {time_of(since)}"
