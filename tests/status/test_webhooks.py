"""Istio's webhooks in status: whether kube-apiserver verifies what the hub provides, in a word for each cluster."""

from __future__ import annotations

from datetime import timedelta

import pytest

from federation.core.documents.controller import WebhookReport
from federation.status.model import FederationStatus
from federation.status.text import status_text
from federation.status.view import compose
from tests.status.test_view import NAMES, NOW, T, seen
from tests.status.worlds import World


def hook(state: str) -> WebhookReport:
    return WebhookReport(name="mutating/injector", istiod="istio-system/istiod", state=state)


def status_of(*states: str, **changes: object) -> FederationStatus:
    world = World(NAMES, T)
    world.edit_seen("east", webhooks=[hook(state) for state in states], **changes)
    return seen(world)


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ((), "none"),
        (("verifies", "verifies"), "verified"),
        (("verifies", "not_provided"), "verified"),
        (("verifies", "empty"), "not_served"),
        (("empty", "other_ca"), "other_ca"),
        (("a state of a later release",), "unknown"),
    ],
)
def test_the_worst_of_them_is_shown(states: tuple[str, ...], shown: str) -> None:
    status = status_of(*states)
    view = status.clusters[0].webhooks
    assert view.state == shown
    assert (view.found, view.others) == (len(states), states.count("not_provided"))
    assert bool(view.detail) == (shown in {"not_served", "other_ca", "unknown"})
    if shown in {"not_served", "other_ca"}:
        assert "istio-system/istiod" in view.detail
    assert (f"{shown} in east" in status_text(status)) == (shown != "none")


def test_what_was_not_read_is_unknown() -> None:
    status = status_of("verifies", webhooks_detail="forbidden; apply manifests/member")
    assert status.clusters[0].webhooks.state == "unknown"
    assert status.clusters[0].webhooks.detail == "forbidden; apply manifests/member"
    assert "Istio's webhooks: none in west" in status_text(status)


def test_what_was_read_long_ago_is_unknown() -> None:
    world = World(NAMES, T)
    world.edit_seen("east", webhooks=[hook("verifies")])
    later = compose(world.document_set(), world.config, NOW + timedelta(hours=1), ())
    assert later.clusters[0].webhooks.state == "unknown"
