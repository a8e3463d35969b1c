"""Documents, configuration and an instant in; the whole status out. Pure.

The verdict follows from ``attention`` alone: failing with anything critical, degraded with a warning, else
healthy. As a second line of defence it is never healthy unless each registered cluster is and the matrix is
proven: a state that no rule of attention thought of can be amber, not green.
"""

from __future__ import annotations

from datetime import UTC, datetime

from federation.core.config.model import HubConfig
from federation.state.liveness import is_heard_of
from federation.status.attention import attention, config_problems, insecure_options
from federation.status.authorities import authority_views
from federation.status.causes import placed
from federation.status.clusters import cluster_view
from federation.status.freshness import finite, instant
from federation.status.matrix import matrix_view
from federation.status.model import (
    Attention,
    ClusterView,
    ControllerView,
    FederationStatus,
    MatrixView,
    Verdict,
)
from federation.status.operations import orders_view
from federation.status.own_anchors import own_anchor_views
from federation.status.plan import plan_view
from federation.status.quarantine import quarantine_views
from federation.status.rotation import rotation_view
from federation.status.scene import Scene, Snapshot
from federation.status.signing import refusals, signer_view
from federation.status.trust import bundle_view, generation_views, proposal_views
from federation.status.unpinned import departure_views, removed_cluster_views, setback_views, unpinned_views


def compose(
    snapshot: Snapshot, config: HubConfig, now: datetime, config_problems_here: tuple[str, ...] = ()
) -> FederationStatus:
    """The status at ``now``; ``config_problems_here`` are those of this process' own last reload."""
    scene = Scene.of(snapshot, config, now.timestamp(), config_problems_here)
    matrix = matrix_view(scene)
    clusters = [cluster_view(scene, cluster, matrix) for cluster in config.clusters]
    items = attention(scene, clusters, matrix)
    verdict = _verdict(items, clusters, matrix)
    signers = snapshot.signers.values()
    return FederationStatus(
        verdict=verdict,
        summary=_summary(verdict, scene, items, clusters, matrix),
        generated=now.astimezone(UTC),
        trust_domain=config.trust_domain.name,
        attention=items,
        clusters=clusters,
        matrix=matrix,
        bundle=bundle_view(scene),
        generations=generation_views(scene),
        authorities=authority_views(scene),
        signers=[signer_view(scene, replica, report) for replica, report in sorted(snapshot.signers.items())],
        controllers=_controllers(scene),
        proposals=proposal_views(scene),
        rotation=rotation_view(scene),
        rotation_problem=scene.rotation_doubt,
        rotation_plan=plan_view(scene),
        orders=orders_view(snapshot.orders),
        quarantined=quarantine_views(scene),
        own_anchors=own_anchor_views(scene),
        unpinned=unpinned_views(scene),
        removed_clusters=removed_cluster_views(scene),
        departures=departure_views(scene),
        setbacks=setback_views(scene),
        insecure_options=insecure_options(scene),
        open_policies=list(config.open_policies),
        config_problems=config_problems(scene),
        certificates_issued=sum(signer.issued for signer in signers),
        refusals=refusals(cluster for signer in signers for cluster in signer.clusters.values()),
    )


def _verdict(items: list[Attention], clusters: list[ClusterView], matrix: MatrixView) -> Verdict:
    severities = {item.severity for item in items}
    if "critical" in severities:
        return "failing"
    green = matrix.proven and all(cluster.health == "healthy" for cluster in clusters)
    return "healthy" if green and "warning" not in severities else "degraded"


def _summary(
    verdict: Verdict, scene: Scene, items: list[Attention], clusters: list[ClusterView], matrix: MatrixView
) -> str:
    if verdict == "healthy":
        number = scene.in_force.number if scene.in_force else 0
        if matrix.pairs == 0:
            return f"The one registered cluster holds generation {number}; there is no pair to prove."
        return (
            f"All {matrix.pairs:,} ordered pairs of {len(clusters)} clusters validate, "
            f"and every selected namespace holds generation {number}."
        )
    parts = [f"{matrix.valid:,} of {matrix.pairs:,} ordered pairs validate"]
    if matrix.failed:
        parts.append(f"{matrix.failed:,} fail")
    if matrix.unknown:
        parts.append(f"{matrix.unknown:,} are unknown")
    if matrix.quarantined:
        parts.append(f"{matrix.quarantined:,} are with quarantined clusters")
    return f"{_headline(items)}{', '.join(parts)}."


def _headline(items: list[Attention]) -> str:
    """The plain fact of the severest cause, and how many others there are."""
    causes = [item for item in items if item.severity != "notice"]
    if not causes:
        return ""
    fact = causes[0].fact or placed(causes[0].where, causes[0].what)
    others = len(causes) - 1
    more = f" ({others} more {'cause needs' if others == 1 else 'causes need'} attention)" if others else ""
    return f"{fact[:1].upper()}{fact[1:]}{more}. "


def _controllers(scene: Scene) -> list[ControllerView]:
    views: list[ControllerView] = []
    for replica, report in sorted(scene.snapshot.controllers.items()):
        age = scene.now - report.updated
        fresh = is_heard_of(report, scene.now)
        views.append(
            ControllerView(
                replica=replica,
                leader=fresh and report.leader,
                ready=fresh and report.ready,
                stale=not fresh,
                reasons=report.reasons,
                started=instant(report.started),
                updated=instant(report.updated),
                age=finite(age),
                generation=report.generation,
                runs_current_configuration=fresh and report.config_digest == scene.config.digest,
                sources=report.sources,
                hub=report.hub,
            )
        )
    return views
