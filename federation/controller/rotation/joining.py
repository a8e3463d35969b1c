"""The clusters that join, put together for ``core/trust/joining`` from what members and signers report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from federation.clusters.istio_found import IstioFound
from federation.controller.publication.joining import MemberFacts
from federation.controller.rotation.books import Arrivals
from federation.core.config.model import HubConfig
from federation.core.trust.joining import (
    Arrival,
    IstiodSeen,
    IstioSeen,
    JoinStep,
    Position,
    SidecarsSeen,
    concerns,
    position,
    serves,
)
from federation.core.trust.rotation.gates import Verdict
from federation.core.trust.rotation.world import ClusterFacts, World
from federation.state.documents import ConditionReport, JoinStepReport, SignerReport
from federation.state.workloads import workloads_of

MOST_CONDITIONS: Final = 20  # of one step
MOST_TEXT: Final = 600  # characters of one: it may repeat content of the cluster
DEFAULT_TRUST_DOMAIN: Final = "cluster.local"  # of Istio, where none is set


def istio_seen(found: IstioFound) -> IstioSeen:
    """What matters of a cluster's Istio to how it joins."""
    addresses = {str(injection): injection.ca_address for injection in found.injections}
    addresses |= {str(z): z.environment.get("CA_ADDRESS") or "" for z in found.ztunnels}
    return IstioSeen(
        istiods=tuple(
            IstiodSeen(
                name=str(istiod),
                ca_server=istiod.ca_server,
                settled=istiod.settled,
                rolled_out=istiod.rolled_out,
            )
            for istiod in found.istiods
        ),
        addresses=addresses,
        trust_domains={
            str(mesh): mesh.trust_domain or DEFAULT_TRUST_DOMAIN for mesh in found.meshes if not mesh.problem
        },
        unread=tuple(f"{unread.what}: {unread.why}" for unread in found.unread),
    )


def hub_roots(config: HubConfig, in_force: frozenset[str]) -> frozenset[str]:
    """The anchors in force that are not merely a cluster's own: what the hub signs under."""
    accepted = {pin.sha256 for pin in config.trust.anchors if pin.clusters}
    return in_force & config.trust.pins - accepted


def served(clusters: Mapping[str, ClusterFacts], roots: frozenset[str]) -> dict[str, bool | None]:
    """Whether each cluster distributes the hub's roots now."""
    return {name: serves(facts, roots) if roots else None for name, facts in clusters.items()}


def provided(clusters: Mapping[str, ClusterFacts]) -> dict[str, bool | None]:
    """Whether the hub provides the certificate of every istiod of each cluster now, read back."""
    found: dict[str, bool | None] = {}
    for name, facts in clusters.items():
        planes = facts.control_planes
        found[name] = bool(planes) if not planes or all(p.current and p.issuer for p in planes) else None
    return found


def sidecars_of(signers: Collection[SignerReport], clusters: Iterable[str]) -> dict[str, SidecarsSeen]:
    """Of each cluster whose pods are watched, which of those with a sidecar have a certificate of the hub."""
    found: dict[str, SidecarsSeen] = {}
    for name in clusters:
        report = workloads_of(signers, name)
        if report is not None and report.sidecars is not None and report.watched:
            found[name] = SidecarsSeen(
                pods=report.sidecars, asked=report.asked, never_asked=tuple(report.never_asked)
            )
    return found


def positions(
    config: HubConfig,
    world: World,
    arrivals: Arrivals,
    sidecars: Mapping[str, SidecarsSeen],
    dropping: Mapping[str, Verdict],
) -> dict[str, Position]:
    """The step of each cluster that has a CA of its own."""
    accepted = {pin.sha256 for pin in config.trust.anchors if pin.clusters}
    doors = frozenset(config.door.server_names)
    roots = hub_roots(config, world.generations.get(world.in_force, frozenset()))
    found: dict[str, Position] = {}
    for cluster in config.clusters:
        name = str(cluster.name)
        facts = world.clusters.get(name)
        if not isinstance(facts, MemberFacts):
            continue
        own = frozenset(arrivals.own.get(name, ()))
        longest = cluster.earlier_longest_ttl
        arrival = Arrival(
            name=name,
            facts=facts,
            own=own,
            accepted=own & accepted,
            unaccepted=facts.unaccepted,
            issuing=facts.own_issues or bool(facts.unaccepted),
            served_since=arrivals.served.get(name),
            provided_since=arrivals.provided.get(name),
            longest=cluster.policy.longest_ttl if longest is None else longest,
            distributors=facts.distributors,
            doors=doors,
            trust_domain=str(config.trust_domain),
            istio=facts.istio,
            sidecars=sidecars.get(name),
            dropping=tuple(c for sha in sorted(own) if sha in dropping for c in dropping[sha].conditions),
        )
        if concerns(arrival, world):
            found[name] = position(arrival, world, roots)
    return found


def step_reports(found: Position) -> list[JoinStepReport]:
    """A position as it is reported; of each step what is not met first."""
    return [
        JoinStepReport(
            step=seen.step.value,
            done=seen.done,
            conditions=[
                ConditionReport(
                    name=c.name, met=c.met, detail=c.detail[:MOST_TEXT], cluster=c.cluster, until=c.until
                )
                for c in sorted(seen.conditions, key=lambda condition: condition.met)[:MOST_CONDITIONS]
            ],
        )
        for seen in found.steps
    ]


def awaited(found: Mapping[str, Position] | None, cluster: str) -> str | None:
    """Why istiod's certificate is not to be provided there yet; empty where it may, None where it does not join."""
    if found is None:
        return "it is not known yet whether the cluster joins"
    if cluster not in found:
        return None
    if found[cluster].past(JoinStep.RENEW):
        return ""
    return f"the cluster joins: {next((c.detail for c in found[cluster].waits_for), '')}"


def not_joining(_: str) -> str | None:
    """For where it is known that no cluster joins."""
    return None
