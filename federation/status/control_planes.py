"""istiod's certificates in a cluster: what its controller reports, as far as that is recent, and what to do. Pure.

Without a certificate istiod answers neither agents nor the injection webhook, and says that it is ready: a cluster in
which one is wanted and not provided is not healthy, however many workloads still have certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, get_args

from federation.core.config.model import ClusterConfig
from federation.state.documents import ControlPlaneReport
from federation.status.attention_pairs import names
from federation.status.freshness import instant
from federation.status.model import Attention, ClusterView, ControlPlaneState, ControlPlaneView, Severity
from federation.status.scene import Scene

REASON: Final = "control_plane"
"""The reason of a cluster that is degraded for nothing else, as its controller reports it."""

STATES: Final[tuple[ControlPlaneState, ...]] = get_args(ControlPlaneState)
_KNOWN: Final[dict[str, ControlPlaneState]] = {state: state for state in STATES}


def control_plane_views(scene: Scene, cluster: ClusterConfig) -> list[ControlPlaneView]:
    """Each Secret that the configuration wants, unknown where nothing was read back lately."""
    istio, name = cluster.istio, cluster.name.value
    if not istio.provide_certificate:
        return [ControlPlaneView(namespace=n, secret=istio.secret, state="off") for n in istio.namespaces]
    seen, unread = scene.seen(name), scene.not_read_back(cluster)
    reports = {} if seen is None or unread else {r.namespace: r for r in seen.control_planes}
    missing = unread or "the controller does not report it"
    return [
        _view(reports[namespace], scene.now)
        if namespace in reports
        else ControlPlaneView(
            namespace=namespace, secret=istio.secret, state="unknown", detail=missing, attention=not unread
        )
        for namespace in istio.namespaces
    ]


def _view(report: ControlPlaneReport, now: float) -> ControlPlaneView:
    state, detail, attention = _KNOWN.get(report.state, "unknown"), report.detail, report.attention
    if state == "provided" and report.not_after <= now:
        state, detail, attention = "failed", "the certificate has expired", True
    return ControlPlaneView(
        namespace=report.namespace,
        secret=report.secret,
        state=state,
        detail=detail,
        remedy=report.remedy,
        attention=attention or state == "unknown",
        names=report.names,
        issuer=report.issuer,
        not_after=instant(report.not_after),
        renew_at=instant(report.renew_at),
        current=report.current,
        read_back=instant(report.read_back),
        restored=report.restored,
    )


def control_plane_trouble(planes: Iterable[ControlPlaneView]) -> ControlPlaneView | None:
    """The worst of those that need attention; None where there is none."""
    return min((p for p in planes if p.attention), key=lambda p: p.state != "failed", default=None)


def described(plane: ControlPlaneView) -> str:
    """What is wrong with it, in a sentence."""
    return f"istiod's certificate {plane.namespace}/{plane.secret}: {plane.detail or plane.state}"


def control_plane_attention(view: ClusterView) -> Iterator[Attention]:
    """Critical where istiod has no certificate to serve with, a warning where one is not as it should be."""
    for plane in view.control_planes:
        if not plane.attention:
            continue
        severity: Severity = "critical" if plane.state == "failed" else "warning"
        yield Attention(
            severity=severity,
            code=f"control_plane_{plane.state}",
            what=described(plane),
            where=view.name,
            remedy=plane.remedy
            or "nothing, if it just changed; otherwise run `federation clusters check` for this cluster",
        )


def control_plane_line(clusters: Iterable[ClusterView]) -> str:
    """One line for a terminal: in which clusters istiod's certificate is in which state; empty without clusters."""
    found: dict[ControlPlaneState, list[str]] = {}
    for view in clusters:
        for state in dict.fromkeys(plane.state for plane in view.control_planes):
            found.setdefault(state, []).append(view.name)
    parts = [f"{state} in {names(found[state])}" for state in STATES if state in found]
    return f"istiod's certificate: {'; '.join(parts)}" if parts else ""
