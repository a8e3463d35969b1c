"""Istio's webhooks in a cluster, as far as what its controller reports of them still holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, get_args

from federation.core.config.model import ClusterConfig
from federation.state.documents import WebhookReport
from federation.status.attention_pairs import names
from federation.status.model import ClusterView, WebhooksState, WebhooksView
from federation.status.scene import Scene

STATES: Final[tuple[WebhooksState, ...]] = get_args(WebhooksState)
NOT_VERIFIED: Final[tuple[tuple[str, WebhooksState, str], ...]] = (
    ("other_ca", "other_ca", "does not verify the certificate that the hub provides to"),
    ("empty", "not_served", "has no caBundle, so nothing was served yet by"),
)


def webhooks_view(scene: Scene, cluster: ClusterConfig) -> WebhooksView:
    """What was read lately; unknown where nothing was."""
    seen, unread = scene.seen(cluster.name.value), scene.not_read_back(cluster)
    if seen is None or unread:
        return WebhooksView(state="unknown", detail=unread or "the controller does not report them")
    if seen.webhooks_detail:
        return WebhooksView(state="unknown", detail=seen.webhooks_detail)
    if not seen.webhooks:
        return WebhooksView(state="none")
    others = sum(webhook.state == "not_provided" for webhook in seen.webhooks)
    state, detail = _judged(seen.webhooks)
    return WebhooksView(state=state, found=len(seen.webhooks), others=others, detail=detail)


def _judged(webhooks: Iterable[WebhookReport]) -> tuple[WebhooksState, str]:
    webhooks = list(webhooks)
    for reported, state, what in NOT_VERIFIED:
        first = next((webhook for webhook in webhooks if webhook.state == reported), None)
        if first is not None:
            return state, f"{first.name} {what} {first.istiod}"
    if any(webhook.state not in {"verifies", "not_provided"} for webhook in webhooks):
        return "unknown", "the controller reports a state that this version does not know"
    return "verified", ""


def webhooks_line(clusters: Iterable[ClusterView]) -> str:
    """One line for a terminal: in which clusters kube-apiserver verifies istiod; empty where none has a webhook."""
    found: dict[WebhooksState, list[str]] = {}
    for view in clusters:
        found.setdefault(view.webhooks.state, []).append(view.name)
    if not found.keys() - {"none"}:
        return ""
    parts = [f"{state} in {names(found[state])}" for state in STATES if state in found]
    return f"Istio's webhooks: {'; '.join(parts)}"
