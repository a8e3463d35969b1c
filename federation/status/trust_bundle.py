"""A cluster's ClusterTrustBundle: what its controller reports, as far as that is recent, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, get_args

from federation.core.config.model import ClusterConfig
from federation.status.attention_pairs import names
from federation.status.model import Attention, ClusterView, TrustBundleState, TrustBundleView
from federation.status.scene import Scene

STATES: Final[tuple[TrustBundleState, ...]] = get_args(TrustBundleState)
ABSENT: Final = frozenset({"off", "not_served"})
"""Where there is nothing to say: it is not wanted, or the cluster has no such API."""


def trust_bundle_view(scene: Scene, cluster: ClusterConfig) -> TrustBundleView:
    """What the leader reports, unknown where nothing was read back lately."""
    if cluster.istio.cluster_trust_bundle == "off":
        return TrustBundleView(state="off")
    seen, unread = scene.seen(cluster.name.value), scene.not_read_back(cluster)
    if seen is None or unread:
        return TrustBundleView(state="unknown", detail=unread)
    report = seen.trust_bundle
    known = {state: state for state in STATES}
    if report.state not in known:
        return TrustBundleView(state="unknown", detail="the controller does not report it")
    return TrustBundleView(
        state=known[report.state],
        counted=report.counted,
        name=report.name,
        version=report.version,
        detail=report.detail,
        remedy=report.remedy,
        writes=report.writes,
        restored=report.restored,
    )


def trust_bundle_trouble(bundle: TrustBundleView) -> str:
    """Why a cluster is not in order for it: pods may trust something else. Empty where none of them can."""
    if not bundle.counted or bundle.state == "current":
        return ""
    return f"ClusterTrustBundle {bundle.name}: {bundle.detail or bundle.state}"


def trust_bundle_attention(view: ClusterView) -> Iterator[Attention]:
    """A warning where pods may trust something else than the bundle, a notice where it is only not published."""
    bundle = view.cluster_trust_bundle
    trouble = trust_bundle_trouble(bundle)
    if trouble and view.connection.reason != "joining":  # that one is its connection's
        yield Attention(
            severity="warning",
            code=f"cluster_trust_bundle_{bundle.state}",
            what=trouble,
            where=view.name,
            remedy=bundle.remedy
            or "nothing, if it just changed; otherwise run `federation clusters check` for this cluster",
        )
    elif bundle.state == "forbidden":
        yield Attention(
            severity="notice",
            code="cluster_trust_bundle_forbidden",
            what=f"ClusterTrustBundle {bundle.name} is not published: {bundle.detail}",
            where=view.name,
            remedy=bundle.remedy,
        )


def trust_bundle_line(clusters: Iterable[ClusterView]) -> str:
    """One line for a terminal: which clusters are in which state; empty where no cluster serves the API."""
    found: dict[TrustBundleState, list[str]] = {}
    for view in clusters:
        if view.cluster_trust_bundle.state not in ABSENT:
            found.setdefault(view.cluster_trust_bundle.state, []).append(view.name)
    if not any(state != "unknown" for state in found):
        return ""
    parts = [f"{state} in {names(found[state])}" for state in STATES if state in found]
    return f"ClusterTrustBundle: {'; '.join(parts)}"
