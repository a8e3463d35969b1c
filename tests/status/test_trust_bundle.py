"""The ClusterTrustBundle in status: a warning where pods may trust something else, a notice where it is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.core.config.clusters import IstioConfig
from federation.core.documents.controller import TrustBundleReport
from federation.status.clusters import TRUST_BUNDLE_STATES
from federation.status.metrics import hub_metrics
from federation.status.model import FederationStatus
from federation.status.text import status_text
from tests.status.test_view import NAMES, T, codes, seen
from tests.status.worlds import World

NAME = "istio.io:istiod-ca:root-cert"


def status_of(
    state: str, *, counted: bool = False, detail: str = "why", remedy: str = ""
) -> FederationStatus:
    world = World(NAMES, T)
    report = TrustBundleReport(
        state=state, counted=counted, name=NAME, version="v1beta1", detail=detail, remedy=remedy
    )
    world.edit_seen("east", trust_bundle=report)
    return seen(world)


@pytest.mark.parametrize("state", TRUST_BUNDLE_STATES)
def test_what_counts_and_is_not_current_is_not_healthy(state: str) -> None:
    status = status_of(state, counted=True, remedy="do this")
    east = status.clusters[0]
    assert east.cluster_trust_bundle.state == state
    if state == "current":
        assert (status.verdict, east.health) == ("healthy", "healthy")
        return
    assert (status.verdict, east.health) == ("degraded", "degraded")
    assert east.summary == f"ClusterTrustBundle {NAME}: why"
    (item,) = status.attention
    assert (item.severity, item.code, item.where) == ("warning", f"cluster_trust_bundle_{state}", "east")
    assert item.remedy == "do this"


@pytest.mark.parametrize("state", [*TRUST_BUNDLE_STATES, "", "a state of a later release"])
def test_a_bundle_that_does_not_count_leaves_the_cluster_healthy(state: str) -> None:
    status = status_of(state, remedy="apply it, or switch it off")
    assert status.verdict == "healthy"
    assert status.clusters[0].health == "healthy"
    if state == "forbidden":
        (item,) = status.attention
        assert (item.severity, item.remedy) == ("notice", "apply it, or switch it off")
    else:
        assert status.attention == []
    shown = status.clusters[0].cluster_trust_bundle.state
    assert shown == (state if state in TRUST_BUNDLE_STATES else "unknown")


def test_without_a_recent_read_back_the_state_is_unknown_whatever_was_reported_last() -> None:
    world = World(NAMES, T)
    world.edit_seen("east", trust_bundle=TrustBundleReport(state="current", counted=True, name=NAME))
    world.edit_publication("east", read_back=T - 3600)
    assert seen(world).clusters[0].cluster_trust_bundle.state == "unknown"
    world.leader = None
    assert seen(world).clusters[0].cluster_trust_bundle.state == "unknown"


def test_switched_off_is_off_at_once() -> None:
    world = World(NAMES, T)
    world.edit_seen("east", trust_bundle=TrustBundleReport(state="contested", counted=True, name=NAME))
    east, *others = world.config.clusters
    off = replace(east, istio=IstioConfig(cluster_trust_bundle="off"))
    world.config = replace(world.config, clusters=(off, *others))
    status = seen(world)
    assert (status.verdict, status.clusters[0].cluster_trust_bundle.state) == ("healthy", "off")


def test_a_joining_cluster_is_reported_once() -> None:
    world = World(NAMES, T)
    report = TrustBundleReport(state="pending", counted=True, name=NAME, detail="it holds a CA of its own")
    world.edit_seen("east", trust_bundle=report, state="degraded", reason="joining", detail="it joins")
    assert codes(seen(world)) == {"cluster_degraded"}


def test_it_is_in_the_text_and_the_metrics_where_it_is_served() -> None:
    status = status_of("contested", counted=True)
    assert "\nClusterTrustBundle: contested in east; unknown in west, north\n" in status_text(status)
    world = World(NAMES, T)
    metrics = hub_metrics(status, world.document_set(), T).decode()
    assert 'federation_cluster_trust_bundle{cluster="east",state="contested"} 1.0' in metrics
    assert 'federation_cluster_trust_bundle{cluster="east",state="current"} 0.0' in metrics
    assert "ClusterTrustBundle" not in status_text(status_of("not_served"))
