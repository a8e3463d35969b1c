"""istiod's certificate in status: a cluster in which it is wanted and not provided is not healthy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.core.config.clusters import IstioConfig
from federation.status.metrics import hub_metrics
from federation.status.model import FederationStatus
from federation.status.text import status_text
from tests.status.test_view import NAMES, T, codes, seen
from tests.status.worlds import World, control_plane


def status_of(state: str, *, attention: bool = True, **changes: object) -> FederationStatus:
    world = World(NAMES, T)
    fields = {"detail": "why", "remedy": "do this", "attention": attention, "not_after": 0.0} | changes
    world.edit_seen("east", control_planes=[control_plane(T, state=state, **fields)])
    return seen(world)


@pytest.mark.parametrize(
    ("state", "health", "severity"),
    [
        ("failed", "failing", "critical"),
        ("foreign", "degraded", "warning"),
        ("forbidden", "degraded", "warning"),
        ("waiting", "degraded", "warning"),
        ("a state of a later release", "degraded", "warning"),
    ],
)
def test_a_cluster_whose_istiod_is_not_served_is_not_healthy(state: str, health: str, severity: str) -> None:
    status = status_of(state)
    east = status.clusters[0]
    assert east.health == health
    assert status.verdict != "healthy"
    assert east.summary == "istiod's certificate istio-system/istiod-tls: why"
    (item,) = status.attention
    assert (item.severity, item.where, item.remedy) == (severity, "east", "do this")
    assert item.detail == east.summary


def test_what_is_provided_is_healthy_until_it_ends_by_the_clock_alone() -> None:
    status = status_of("provided", attention=False, not_after=T + 1)
    assert status.verdict == "healthy"
    assert status.clusters[0].control_planes[0].state == "provided"
    assert status_of("provided", attention=False, not_after=T).clusters[0].health == "failing"


def test_a_failing_renewal_is_reported_while_the_certificate_still_serves() -> None:
    status = status_of("provided", not_after=T + 100, detail="it is due to be renewed: refused")
    assert status.clusters[0].health == "degraded"
    (item,) = status.attention
    assert item.severity == "warning"


def test_a_missing_istiod_namespace_or_disabled_provision_is_healthy() -> None:
    assert status_of("waiting", attention=False).verdict == "healthy"
    world = World(NAMES, T)
    world.edit_seen("east", control_planes=[control_plane(T, state="failed", attention=True)])
    east, *others = world.config.clusters
    off = replace(east, istio=IstioConfig(provide_certificate=False))
    world.config = replace(world.config, clusters=(off, *others))
    status = seen(world)
    assert (status.verdict, status.clusters[0].control_planes[0].state) == ("healthy", "off")


def test_what_is_not_reported_is_unknown_and_not_green() -> None:
    """A controller of an earlier release, or one that has not taken up the configuration yet."""
    world = World(NAMES, T)
    world.edit_seen("east", control_planes=[])
    status = seen(world)
    assert status.clusters[0].control_planes[0].state == "unknown"
    assert status.clusters[0].health == "degraded"
    world.edit_publication("east", read_back=T - 3600)
    assert seen(world).clusters[0].control_planes[0].state == "unknown"


def test_a_cluster_degraded_by_its_control_plane_alone_is_reported_once() -> None:
    world = World(NAMES, T)
    plane = control_plane(T, state="foreign", attention=True, detail="another CA", remedy="do this")
    world.edit_seen(
        "east", control_planes=[plane], state="degraded", reason="control_plane", detail="another CA"
    )
    assert codes(seen(world)) == {"control_plane_foreign"}


def test_it_is_in_the_text_and_the_metrics() -> None:
    status = status_of("foreign", not_after=T + 100)
    assert "\nistiod's certificate: provided in west, north; foreign in east\n" in status_text(status)
    metrics = hub_metrics(status, World(NAMES, T).document_set(), T).decode()
    labels = 'cluster="east",namespace="istio-system"'
    assert f'federation_control_plane_certificate{{{labels},state="foreign"}} 1.0' in metrics
    assert f'federation_control_plane_certificate{{{labels},state="provided"}} 0.0' in metrics
    expiry = "federation_control_plane_certificate_not_after_timestamp_seconds"
    assert float(metrics.split(f"{expiry}{{{labels}}} ")[1].split()[0]) == T + 100
