"""What needs attention in one cluster's Istio: ClusterTrustBundle, istiod's certificates, steps of joining. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from federation.status.clusters import PATIENCE, described, trust_bundle_problem
from federation.status.model import Attention, ClusterView, Severity


def trust_bundle_attention(view: ClusterView) -> Iterator[Attention]:
    """A warning where pods may trust something else than the bundle, a notice where it is only not published."""
    bundle = view.cluster_trust_bundle
    problem = trust_bundle_problem(bundle)
    if problem is not None and view.connection.reason != "joining":  # that one is its connection's
        yield Attention(
            severity="warning",
            code=f"cluster_trust_bundle_{bundle.state}",
            detail=f"ClusterTrustBundle {bundle.name}: {bundle.detail or bundle.state}",
            where=view.name,
            remedy=bundle.remedy
            or "nothing, if it just changed; otherwise run `federation clusters check` for this cluster",
        )
    elif bundle.state == "forbidden":
        yield Attention(
            severity="notice",
            code="cluster_trust_bundle_forbidden",
            detail=f"ClusterTrustBundle {bundle.name} is not published: {bundle.detail}",
            where=view.name,
            remedy=bundle.remedy,
        )


def control_plane_attention(view: ClusterView) -> Iterator[Attention]:
    """Critical where istiod has no certificate to serve with, a warning where one is not as it should be."""
    for plane in view.control_planes:
        if not plane.attention:
            continue
        severity: Severity = "critical" if plane.state == "failed" else "warning"
        yield Attention(
            severity=severity,
            code=f"control_plane_{plane.state}",
            detail=described(plane),
            where=view.name,
            remedy=plane.remedy
            or "nothing, if it just changed; otherwise run `federation clusters check` for this cluster",
        )


def joining_attention(views: list[ClusterView]) -> Iterator[Attention]:
    """What has to be done so that each goes on; where only time has to pass it is a notice."""
    for view in views:
        joins = view.joining
        if joins is None or view.quarantine is not None:
            continue
        waits = joins.until > 0 or joins.step in {"renew", "drop"}
        yield Attention(
            severity="notice" if waits else "warning",
            code="cluster_joins",
            detail=f"it joins, step {joins.number} of {joins.of} ({joins.step}): {joins.detail}",
            where=view.name,
            remedy=PATIENCE if waits else joins.remedy,
        )
