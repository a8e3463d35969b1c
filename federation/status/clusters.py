"""One cluster: connection, signing, publication and proof, merged into one health. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation.core.config.model import ClusterConfig
from federation.state.documents import ControllerClusterReport, Generation, PublicationReport
from federation.status.control_planes import (
    control_plane_trouble,
    control_plane_views,
    described,
)
from federation.status.freshness import finite, instant
from federation.status.joining import joining_text, joining_view
from federation.status.matrix import proof_view
from federation.status.model import (
    ClusterView,
    ConnectionView,
    ControlPlaneView,
    Health,
    JoiningView,
    MatrixView,
    PublicationState,
    PublicationView,
    SigningView,
    TrustBundleView,
    WorkloadsView,
)
from federation.status.quarantine import quarantine_summary, quarantine_views
from federation.status.scene import Scene
from federation.status.signing import known_state, signing_view
from federation.status.trust_bundle import trust_bundle_trouble, trust_bundle_view
from federation.status.webhooks import webhooks_view
from federation.status.workloads import workloads_view

JOINING_REMEDY: Final = "`federation trust list` names the CA: accept it, or set own_anchors for this cluster"


def connection_view(scene: Scene, name: str) -> ConnectionView:
    """How the controller reaches the cluster; unknown where no leader tells."""
    seen = scene.seen(name)
    if seen is None:
        detail = scene.no_leader or "the controller does not report this cluster yet"
        return ConnectionView(state="unknown", reason="not_reported", detail=detail)
    return ConnectionView(
        state=known_state(seen.state),
        reason=seen.reason,
        detail=seen.detail,
        remedy=seen.remedy,
        since=instant(seen.since),
        version=seen.version,
        clock_skew=finite(seen.clock_skew),
    )


def publication_state(scene: Scene, cluster: ClusterConfig) -> tuple[PublicationState, str]:
    """Whether every selected namespace was read back with the bundle meant for it, and if not, why not."""
    unread = scene.not_read_back(cluster)
    seen = scene.seen(cluster.name.value)
    if unread or seen is None:
        return "unknown", unread
    if scene.in_force is None:
        return "unknown", scene.nothing_in_force
    held = seen.publication
    meant = scene.meant_for(cluster.name.value)
    if meant is None:
        return "unknown", "the document of the generation that it is to hold cannot be read"
    if refused := max(0, held.failed) + max(0, held.forbidden):
        first = f": {held.problems[0]}" if held.problems else ""
        return "failed", f"{refused} of {held.selected} namespaces refuse the bundle{first}"
    if held.joining > 0:
        return (
            "joining",
            f"{held.joining} of {held.selected} namespaces keep a CA of the cluster's own for now",
        )
    pending = _pending(scene, held, meant, scene.in_force.number)
    return ("pending", pending) if pending else ("current", "")


def _pending(scene: Scene, held: PublicationReport, meant: Generation, in_force: int) -> str:
    """What publication still waits for; empty where every selected namespace holds what is meant for it."""
    if held.selected <= 0:
        return "the selector selects no namespace"
    if not scene.leader_follows:
        return f"the controller does not work with generation {in_force} yet"
    holding = min(held.current, held.contents.get(meant.sha256, 0))
    if holding < held.selected or held.pending > 0:
        return f"{max(holding, 0)} of {held.selected} namespaces hold generation {meant.number}"
    if held.generation != meant.number:
        return f"generation {meant.number} is not confirmed in every namespace"
    return ""


def publication_view(scene: Scene, cluster: ClusterConfig) -> PublicationView:
    """The counts of the last report with a state that holds now."""
    state, detail = publication_state(scene, cluster)
    name = cluster.name.value
    seen = scene.seen(name)
    if seen is None and scene.last_leader is not None:
        seen = scene.last_leader.clusters.get(name)
    held = (seen or ControllerClusterReport(state="unknown")).publication
    joins = seen is not None and seen.reason == "joining"
    return PublicationView(
        state=state,
        detail=detail,
        remedy="" if held.joining <= 0 else seen.remedy if seen and joins else JOINING_REMEDY,
        selected=held.selected,
        current=held.current,
        pending=held.pending,
        failed=held.failed,
        terminating=held.terminating,
        forbidden=held.forbidden,
        excluded=held.excluded,
        joining=held.joining,
        writes=held.writes,
        restored=held.restored,
        generation=held.generation,
        lag=finite(held.lag),
        read_back=instant(held.read_back),
        problems=held.problems,
        other_writers=held.other_writers,
    )


def cluster_view(scene: Scene, cluster: ClusterConfig, matrix: MatrixView) -> ClusterView:
    """Everything about one registered cluster."""
    name = cluster.name.value
    connection = connection_view(scene, name)
    signing = signing_view(scene, name)
    publication = publication_view(scene, cluster)
    seen = scene.seen(name)
    proof = proof_view(matrix, name, seen)
    quarantine = next((view for view in quarantine_views(scene) if view.cluster == name), None)
    bundle, workloads = trust_bundle_view(scene, cluster), workloads_view(scene, name)
    planes = control_plane_views(scene, cluster)
    joins = joining_view(scene, name)
    health, summary = _health(
        connection=connection,
        signing=signing,
        publication=publication,
        bundle=bundle,
        workloads=workloads,
        plane=control_plane_trouble(planes),
        joins=joins,
        pairs=blame(scene, name, matrix),
    )
    if quarantine is not None:
        health, summary = "quarantined", quarantine_summary(quarantine)
    return ClusterView(
        name=name,
        cluster_id=cluster.cluster_id.value,
        network=cluster.network,
        health=health,
        summary=summary,
        connection=connection,
        signing=signing,
        publication=publication,
        proof=proof,
        workloads=workloads,
        quarantine=quarantine,
        cluster_trust_bundle=bundle,
        control_planes=planes,
        webhooks=webhooks_view(scene, cluster),
        trusted_node_accounts=[str(account) for account in cluster.policy.trusted_node_accounts],
        joining=joins,
    )


@dataclass(frozen=True, slots=True)
class Blame:
    """The pairs of a cluster that are not valid: how many, and whether it is their likely cause."""

    pairs: int
    failed: int
    unknown: int  # without those whose peer is not read back: these are told where that peer is
    waiting: tuple[str, ...]  # peers that are not read back
    culprit: bool  # most pairs of one direction fail: the cause is here, not at the peers


def blame(scene: Scene, name: str, matrix: MatrixView) -> Blame:
    """What of the matrix speaks about this cluster rather than about its peers."""
    i = matrix.clusters.index(name)
    unread = {c.name.value for c in scene.config.clusters if scene.not_read_back(c)} - {name}
    calls = matrix.rows[i]
    answers = "".join(row[i] for row in matrix.rows)
    peers = [p for j, p in enumerate(matrix.clusters) if j != i and "?" in (calls[j], answers[j])]
    return Blame(
        pairs=2 * (len(calls) - 1),
        failed=calls.count("x") + answers.count("x"),
        unknown=sum(peer not in unread for peer in peers),
        waiting=tuple(peer for peer in peers if peer in unread),
        culprit=max(calls.count("x"), answers.count("x")) * 2 > len(calls) - 1,
    )


def _health(
    *,
    connection: ConnectionView,
    signing: SigningView,
    publication: PublicationView,
    bundle: TrustBundleView,
    workloads: WorkloadsView,
    plane: ControlPlaneView | None,
    joins: JoiningView | None,
    pairs: Blame,
) -> tuple[Health, str]:
    """The worst of them with the sentence that explains it; green only where each is in order."""
    reached = connection.detail or connection.reason or "the controller's view of it is not clear"
    signed = signing.detail or signing.reason or "the signers' view of it is not clear"
    trouble = trust_bundle_trouble(bundle)
    refused = workloads.refused.detail or workloads.refused.reason
    served = described(plane) if plane is not None else ""
    fail = f"{pairs.failed} of {pairs.pairs} pairs fail"
    rules: tuple[tuple[bool, Health, str], ...] = (
        (connection.state == "unavailable", "failing", f"not reachable: {reached}"),
        (signing.state == "unavailable", "failing", f"no certificates: {signed}"),
        (pairs.culprit, "failing", fail),
        (publication.state == "failed", "failing", publication.detail),
        (workloads.state == "stopped", "failing", f"its workloads do not renew: {workloads.detail}"),
        (workloads.refused.all and not workloads.fine, "failing", f"every caller is refused: {refused}"),
        (plane is not None and plane.state == "failed", "failing", served),
        (connection.state == "unknown", "unknown", reached),
        (signing.state == "unknown", "unknown", signed),
        (publication.state == "unknown", "unknown", publication.detail),
        (workloads.state == "unknown", "unknown", f"certificates of its workloads: {workloads.detail}"),
        (pairs.failed > 0, "degraded", fail),
        (not workloads.fine, "degraded", f"certificates of its workloads: {workloads.detail}"),
        (joins is not None and joins.step != "drop", "degraded", joining_text("it", joins) if joins else ""),
        (publication.state == "joining", "degraded", f"it joins: {publication.detail}"),
        (publication.state == "pending", "degraded", publication.detail),
        (bool(trouble), "degraded", trouble),
        (plane is not None, "degraded", served),
        (pairs.unknown > 0, "degraded", f"pairs with {pairs.unknown} clusters are not proved"),
        (signing.state == "degraded", "degraded", f"signing: {signed}"),
        (connection.state == "degraded", "degraded", reached),
    )
    for applies, health, summary in rules:
        if applies:
            return health, summary
    if pairs.waiting:
        more = f" and {len(pairs.waiting) - 3} more" if len(pairs.waiting) > 3 else ""
        return "healthy", f"in order itself; not proved with {', '.join(pairs.waiting[:3])}{more}"
    return "healthy", "every namespace holds the bundle in force and every pair validates"
