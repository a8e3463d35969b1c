"""The steps by which a mesh that ran on another CA joins, and which one a cluster is at, by evidence. Pure.

The order is one in which no proxy, agent or webhook ever meets a certificate that it cannot verify. It was carried out
on istiod 1.32-dev, and the sources named are of istio/istio:

1. ``accept``: a person compares the fingerprint of the cluster's own root, and pins it. The bundle then holds it.
2. ``serve``: the cluster's own CA delivers that bundle, to the byte. A proxy trusts what comes with its certificate
   (security/pkg/server/ca/server.go appends the root of ``cacerts``), not the ConfigMap; and while its bytes
   differ from the hub's, istiod puts them back (security/pkg/k8s/configutil.go).
3. ``renew``: every certificate that was delivered without that bundle has ended, in this cluster and in the others.
4. ``control_plane``: istiod has its own certificate from the hub, and was restarted since. A mounted ``istiod-tls``
   takes precedence over the certificate of its own CA, which goes on issuing (initIstiodCerts of
   pilot/pkg/bootstrap/server.go); it reads the files at its start only. Not before 3: agents and kube-apiserver
   verify it by what was published and patched then.
5. ``move``: proxies are configured to request certificates from the hub, and every pod with a sidecar has done so.
   ``CA_ADDR`` is written into a pod when it is injected, so each has to be restarted; in any order, since all trust
   both sides.
6. ``switch_off``: istiod's CA is off in its settings, and that version runs.
7. ``takeover``: it is declared that nothing but the hub issues there. Only time after it counts.
8. ``drop``: the own root has left the bundle, once nothing depends on it.

Nothing is remembered of a step but since when the bundle is served and istiod's certificate is provided. Once the
takeover is declared the steps before it are past.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from federation.core.rotation.cluster_conditions import leaves_without, met, shas, time_of, unmet
from federation.core.rotation.record import Condition
from federation.core.rotation.world import ClusterFacts, World

ISTIOD: Final = "pilot-discovery"
"""The field manager of istiod: the name of its program."""

MOST_NAMED: Final = 5
WHOLE_SECOND: Final = 1.0
"""Times of Kubernetes have no fractions (meta/v1.Time): one is up to a second earlier than the instant itself."""

NOT_WANTED: Final = (
    "it is to provide none there, or [clusters.istio] namespaces names none in which istiod runs; set these, or, where"
    " another issuer provides it, go on without this command: move the pods, turn istiod's CA off, then declare it by"
    " `federation rotate takeover`"
)
GRANT: Final = "apply manifests/member there, with the optional rights to read what is set in Istio"


class JoinStep(StrEnum):
    """The steps, in their order."""

    ACCEPT = "accept"
    SERVE = "serve"
    RENEW = "renew"
    CONTROL_PLANE = "control_plane"
    MOVE = "move"
    SWITCH_OFF = "switch_off"
    TAKEOVER = "takeover"
    DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class IstiodSeen:
    """One Deployment of istiod. ``rolled_out`` is when its last rollout went on, in seconds since the epoch."""

    name: str  # namespace/name
    ca_server: bool | None = None  # None: not known
    settled: bool = False
    rolled_out: float = 0.0  # 0: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioSeen:
    """What was read of the cluster's Istio; ``unread`` says what could not be.

    ``addresses`` is where proxies request certificates, by the object that configures it (empty: istiod itself), and
    ``trust_domains`` the trust domain that they request them in.
    """

    istiods: tuple[IstiodSeen, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    trust_domains: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarsSeen:
    """Pods with a sidecar: how many there are, how many have a certificate of the hub, and some that have none."""

    pods: int
    with_certificate: int
    never_requested: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One cluster that joins.

    ``own`` are the CAs (SHA-256) it came with, ``accepted`` those of them that are pinned for clusters alone, and not
    the hub's. ``unaccepted`` are those that no pin names, in words. ``issuing`` says that no takeover is declared.
    ``served_since`` is since when its own CA delivers the hub's roots, ``provided_since`` since when the hub provides
    istiod's certificate (None: not yet). ``longest`` is how long certificates of its own CA live, in seconds.
    ``distributors`` are the field managers that write its bundle.
    """

    name: str
    facts: ClusterFacts
    own: frozenset[str] = frozenset()
    accepted: frozenset[str] = frozenset()
    unaccepted: tuple[str, ...] = ()
    issuing: bool = True
    served_since: float | None = None
    provided_since: float | None = None
    longest: float = 0.0
    distributors: tuple[str, ...] = ()
    listeners: frozenset[str] = frozenset()
    trust_domain: str = ""  # of the hub
    istio: IstioSeen | None = None
    sidecars: SidecarsSeen | None = None
    dropping: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeen:
    """One step: done where every condition is met. Without conditions it is past."""

    step: JoinStep
    conditions: tuple[Condition, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it has been seen."""
        return all(condition.met for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class Position:
    """All steps of one cluster."""

    steps: tuple[StepSeen, ...]

    @property
    def current(self) -> JoinStep | None:
        """The step that has to be done now; None where it has joined."""
        return next((seen.step for seen in self.steps if not seen.done), None)

    @property
    def waits_for(self) -> tuple[Condition, ...]:
        """What the present step waits for."""
        for seen in self.steps:
            if not seen.done:
                return tuple(condition for condition in seen.conditions if not condition.met)
        return ()

    def past(self, step: JoinStep) -> bool:
        """Whether that step and all before it are done."""
        reached = self.current
        order = list(JoinStep)
        return reached is None or order.index(reached) > order.index(step)


def concerns(arrival: Arrival, world: World) -> bool:
    """Whether the cluster has such a way to go: a CA of its own that is not accepted, issues, or is in the bundle."""
    return bool(arrival.unaccepted) or (bool(arrival.own) and (arrival.issuing or _remains(arrival, world)))


def serves(facts: ClusterFacts, roots: frozenset[str]) -> bool | None:
    """Whether what distributes roots in the cluster distributes the hub's; None where this reading does not say.

    It begins with bytes that are the hub's own in every namespace: of anything else another writer may put back what
    it has. It ends where some namespace lacks one of the ``roots`` that the hub signs under; a bundle that has merely
    become an older one lacks none of them.
    """
    if facts.anchors is None:
        return None
    if roots - facts.anchors:
        return False
    return True if facts.current else None


def position(arrival: Arrival, world: World, roots: frozenset[str]) -> Position:
    """Which step the cluster is at; ``roots`` are those that the hub signs under."""
    rules = {
        JoinStep.ACCEPT: _accept,
        JoinStep.SERVE: _serve,
        JoinStep.RENEW: _renew,
        JoinStep.CONTROL_PLANE: _control_plane,
        JoinStep.MOVE: _move,
        JoinStep.SWITCH_OFF: _switch_off,
    }
    steps = [
        StepSeen(step=step, conditions=tuple(rule(arrival, world, roots)) if arrival.issuing else ())
        for step, rule in rules.items()
    ]
    declared = (
        [unmet("declared", "it is not declared yet that its own CA issues no more", arrival.name)]
        if arrival.issuing
        else [met("declared", "it is declared that nothing but the hub issues there", arrival.name)]
    )
    steps.append(StepSeen(step=JoinStep.TAKEOVER, conditions=tuple(declared)))
    steps.append(StepSeen(step=JoinStep.DROP, conditions=tuple(_drop(arrival, world))))
    return Position(tuple(steps))


def _remains(arrival: Arrival, world: World) -> bool:
    return bool(arrival.accepted & world.generations.get(world.in_force, frozenset()))


def _accept(arrival: Arrival, world: World, _: frozenset[str]) -> Iterator[Condition]:
    domains = arrival.istio.trust_domains if arrival.istio is not None else {}
    for name, domain in sorted(domains.items()):
        if domain != arrival.trust_domain:
            yield unmet(
                "trust_domain",
                f"{name} has the trust domain {domain}, and the hub signs for {arrival.trust_domain} alone",
                arrival.name,
            )
    for words in arrival.unaccepted:
        yield unmet("accepted", f"{words} is not accepted", arrival.name)
    if arrival.unaccepted:
        return
    missing = arrival.accepted - world.generations.get(world.in_force, frozenset())
    if missing and arrival.served_since is None:
        yield unmet("merged", f"generation {world.in_force} does not hold {shas(missing)} yet", arrival.name)
    elif not arrival.own:
        yield unmet("remembered", "it is not written down yet which CA it came with", arrival.name)
    else:
        yield met("accepted", f"the bundle in force holds {shas(arrival.own)}", arrival.name)


def _serve(arrival: Arrival, _: World, roots: frozenset[str]) -> Iterator[Condition]:
    since, facts = arrival.served_since, arrival.facts
    if since is not None:
        yield met("served", f"its own CA delivers {shas(roots)} since {time_of(since)}", arrival.name)
        return
    writers = ", ".join(arrival.distributors) or "another writer"
    if facts.anchors is None:
        yield unmet("served", f"what it trusts is not known: {facts.detail}", arrival.name)
    elif roots - facts.anchors:
        yield unmet(
            "served", f"{writers} distributes roots without {shas(roots - facts.anchors)}", arrival.name
        )
    else:
        yield unmet(
            "served", f"{writers} distributes other bytes than the hub's bundle: {facts.detail}", arrival.name
        )


def _renew(arrival: Arrival, world: World, _: frozenset[str]) -> Iterator[Condition]:
    if arrival.served_since is None:
        yield unmet("renewed", "its own CA does not deliver the bundle yet", arrival.name)
    else:
        until = arrival.served_since + arrival.longest + world.skew
        if until > world.now:
            detail = (
                f"certificates that its own CA delivered without the bundle may live until {time_of(until)}"
            )
            yield unmet("renewed", detail, arrival.name, until)
        else:
            yield met("renewed", "no certificate of its own CA lacks the bundle", arrival.name)
    own = arrival.accepted & world.generations.get(world.in_force, frozenset())
    for cluster, late in sorted(leaves_without(own, world).items()):
        until = max(late.values())
        detail = f"certificates of the hub without {shas(own)} may live until {time_of(until)}"
        yield unmet("renewed", detail, cluster, until)
    for cluster, facts in sorted(world.clusters.items()):
        if cluster == arrival.name or (facts.anchors is not None and own <= facts.anchors):
            continue
        why = facts.detail if facts.anchors is None else f"some namespace lacks {shas(own - facts.anchors)}"
        yield unmet("read_back", why or "it is not read back", cluster)


def _control_plane(arrival: Arrival, _: World, roots: frozenset[str]) -> Iterator[Condition]:
    found = arrival.istio
    if found is None or found.unread:
        yield _unread(arrival, "istiod")
        return
    if arrival.facts.webhooks is None:
        detail = f"webhooks cannot be read: {arrival.facts.webhooks_detail}; {GRANT}"
        yield unmet("webhooks", detail, arrival.name)
    for webhook in arrival.facts.webhooks or ():
        if roots - webhook.anchors:
            yield unmet(
                "webhooks",
                f"{webhook.name} does not verify {shas(roots - webhook.anchors)} yet",
                arrival.name,
            )
    if not found.istiods:
        yield met("control_plane", "no istiod runs there", arrival.name)
        return
    since = arrival.provided_since
    if since is None:
        planes = arrival.facts.control_planes
        why = next((plane.detail for plane in planes if plane.detail), "") if planes else NOT_WANTED
        yield unmet(
            "provided", f"the hub does not provide istiod's certificate yet{why and f': {why}'}", arrival.name
        )
        return
    yield met("provided", f"the hub provides istiod's certificate since {time_of(since)}", arrival.name)
    for istiod in found.istiods:
        # A rollout that goes on is enough: later settings restart istiod as well, which must not lead back here, and
        # agents verify either version by the merged roots. `switch_off` waits until its own version runs.
        if istiod.rolled_out + WHOLE_SECOND > since:
            done = "was restarted since" if istiod.settled else "is being restarted"
            yield met("restarted", f"{istiod.name} {done}", arrival.name)
        else:
            yield unmet("restarted", f"{istiod.name} was not restarted since", arrival.name)


def _move(arrival: Arrival, _: World, __: frozenset[str]) -> Iterator[Condition]:
    found = arrival.istio
    if found is None or found.unread:
        yield _unread(arrival, "the settings of its proxies")
    else:
        for name, address in sorted(found.addresses.items()):
            if address.rpartition(":")[0] in arrival.listeners:
                yield met("address", f"{name} sends proxies to {address}", arrival.name)
            else:
                yield unmet("address", f"{name} sends proxies to {address or 'istiod'}", arrival.name)
    seen = arrival.sidecars
    if seen is None:
        yield unmet(
            "requested", "it is not known which pods have requested certificates from the hub", arrival.name
        )
    elif seen.with_certificate < seen.pods:
        named = ", ".join(seen.never_requested[:MOST_NAMED])
        more = seen.pods - seen.with_certificate - min(len(seen.never_requested), MOST_NAMED)
        rest = f" and {more} more" if named and more > 0 else ""
        yield unmet(
            "requested",
            f"{seen.pods - seen.with_certificate} of {seen.pods} pods with a sidecar have no certificate of the hub yet"
            f"{f': {named}{rest}' if named else ''}",
            arrival.name,
        )
    else:
        yield met(
            "requested", f"all {seen.pods} pods with a sidecar have a certificate of the hub", arrival.name
        )


def _switch_off(arrival: Arrival, _: World, __: frozenset[str]) -> Iterator[Condition]:
    if any(writer != ISTIOD for writer in arrival.distributors):
        writers = ", ".join(arrival.distributors)
        yield unmet("silent", f"whether the CA behind {writers} still issues cannot be seen", arrival.name)
    found = arrival.istio
    if found is None or found.unread:
        yield _unread(arrival, "istiod's settings")
        return
    for istiod in found.istiods:
        if istiod.ca_server is None:
            yield unmet("silent", f"whether {istiod.name} has its CA on is not known", arrival.name)
        elif istiod.ca_server:
            yield unmet("silent", f"{istiod.name} has its CA on", arrival.name)
        elif not istiod.settled:
            yield unmet("silent", f"{istiod.name} is being restarted without its CA", arrival.name)
        else:
            yield met("silent", f"{istiod.name} runs without its CA", arrival.name)


def _drop(arrival: Arrival, world: World) -> Iterator[Condition]:
    if not _remains(arrival, world):
        yield met("dropped", "no CA of its own is in the bundle", arrival.name)
        return
    waits = [condition for condition in arrival.dropping if not condition.met]
    yield from waits
    if not waits:
        yield unmet("dropped", "its own root is in the bundle still", arrival.name)


def _unread(arrival: Arrival, what: str) -> Condition:
    found = arrival.istio
    why = "; ".join(found.unread[:MOST_NAMED]) if found is not None else "it was not read yet"
    missing = f"; {GRANT}" if found is not None else ""
    return unmet("read", f"{what} cannot be read: {why}{missing}", arrival.name)
