"""One cluster: connection, signing, publication and proof, merged into one health. Pure."""

from __future__ import annotations

from federation.core.config.model import ClusterConfig
from federation.state.documents import ControllerClusterReport
from federation.status.freshness import finite, instant
from federation.status.matrix import proof_view
from federation.status.model import (
    ClusterView,
    ConnectionView,
    Health,
    MatrixView,
    ProofView,
    PublicationState,
    PublicationView,
    SigningView,
)
from federation.status.scene import Scene
from federation.status.signing import known_state, signing_view


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
    """Whether every selected namespace was read back with the bundle in force, and if not, why not."""
    unread = scene.not_read_back(cluster)
    seen = scene.seen(cluster.name.value)
    if unread or seen is None:
        return "unknown", unread
    if scene.in_force is None:
        return "unknown", scene.nothing_in_force
    held = seen.publication
    number = scene.in_force.number
    if held.failed > 0:
        return "failed", held.problems[
            0
        ] if held.problems else f"{held.failed} namespaces could not be written"
    if held.selected <= 0:
        return "pending", "the selector selects no namespace"
    if not scene.leader_follows:
        return "pending", f"the controller does not work with generation {number} yet"
    holding = min(held.current, held.contents.get(scene.in_force.sha256, 0))
    if holding < held.selected or held.pending > 0:
        return "pending", f"{max(holding, 0)} of {held.selected} namespaces hold generation {number}"
    if held.generation != number:
        return "pending", f"generation {number} is not confirmed in every namespace"
    return "current", ""


def publication_view(scene: Scene, cluster: ClusterConfig) -> PublicationView:
    """The counts of the last report with a state that holds now."""
    state, detail = publication_state(scene, cluster)
    name = cluster.name.value
    seen = scene.seen(name)
    if seen is None and scene.last_leader is not None:
        seen = scene.last_leader.clusters.get(name)
    held = (seen or ControllerClusterReport(state="unknown")).publication
    return PublicationView(
        state=state,
        detail=detail,
        selected=held.selected,
        current=held.current,
        pending=held.pending,
        failed=held.failed,
        terminating=held.terminating,
        forbidden=held.forbidden,
        excluded=held.excluded,
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
    proof = proof_view(
        matrix,
        name,
        probe_not_after=seen.probe_not_after if seen else 0.0,
        probe_detail=seen.probe_detail if seen else "",
    )
    health, summary = _health(connection, signing, publication, proof)
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
    )


def _health(
    connection: ConnectionView, signing: SigningView, publication: PublicationView, proof: ProofView
) -> tuple[Health, str]:
    """The worst of the four with the sentence that explains it; green only where each is in order."""
    rules: tuple[tuple[bool, Health, str], ...] = (
        (
            connection.state == "unavailable",
            "failing",
            f"not reachable: {connection.detail or connection.reason}",
        ),
        (signing.state == "unavailable", "failing", f"no certificates: {signing.detail or signing.reason}"),
        (proof.failed > 0, "failing", f"{proof.failed} of {proof.pairs} pairs fail"),
        (publication.state == "failed", "failing", f"bundle not published: {publication.detail}"),
        (
            connection.state == "unknown",
            "unknown",
            connection.detail or "the controller's view of it is not clear",
        ),
        (signing.state == "unknown", "unknown", signing.detail or "the signers' view of it is not clear"),
        (publication.state == "unknown", "unknown", publication.detail),
        (publication.state == "pending", "degraded", publication.detail),
        (proof.unknown > 0, "degraded", f"{proof.unknown} of {proof.pairs} pairs are not proved"),
        (signing.state == "degraded", "degraded", f"signing: {signing.detail or signing.reason}"),
        (connection.state == "degraded", "degraded", connection.detail or connection.reason),
        (
            publication.forbidden > 0,
            "degraded",
            f"{publication.forbidden} namespaces are forbidden to the hub",
        ),
    )
    for applies, health, summary in rules:
        if applies:
            return health, summary
    return "healthy", "every namespace holds the bundle in force and every pair validates"
