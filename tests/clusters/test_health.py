"""One state, one reason, one remedy: the worst of what is wrong."""

from __future__ import annotations

import pytest

from federation.clusters.health import READY, ClusterHealth
from federation.core.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterServerError,
    ClusterThrottled,
    ClusterTimeout,
    ClusterUnauthorized,
    ClusterUnreachable,
    ConfigurationError,
    FederationError,
    Mistake,
)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ClusterUnreachable("x"), "unavailable", "unreachable"),
        (ClusterTimeout("x"), "unavailable", "timeout"),
        (ClusterUnauthorized("x"), "unavailable", "unauthorized"),
        (ClusterServerError("x"), "unavailable", "server_error"),
        (ClusterGarbage("x"), "unavailable", "garbage"),
        (ClusterForbidden("x"), "degraded", "forbidden"),
        (ClusterThrottled("x"), "degraded", "throttled"),
        (ConfigurationError([Mistake("f", "k", "p", "r")]), "unavailable", "configuration"),
    ],
)
def test_each_trouble_is_reported_as_exactly_that(error: FederationError, state: str, reason: str) -> None:
    health = ClusterHealth.derive([None, error])
    assert (health.state, health.reason) == (state, reason)
    assert health.detail == error.what
    assert health.remedy == error.remedy != ""


def test_nothing_wrong_is_ready() -> None:
    assert ClusterHealth.derive([None, None]) == READY
    assert ClusterHealth.derive([]).state == "ready"


def test_the_worst_is_reported_and_of_equals_the_first() -> None:
    forbidden, timeout, garbage = ClusterForbidden("a"), ClusterTimeout("b"), ClusterGarbage("c")
    assert ClusterHealth.derive([forbidden, timeout, garbage], clock_skew=500).reason == "timeout"
    assert ClusterHealth.derive([forbidden], clock_skew=500).reason == "forbidden"


@pytest.mark.parametrize(("skew", "words"), [(90.0, "90 s behind"), (-90.0, "90 s ahead of")])
def test_a_clock_that_is_off_degrades(skew: float, words: str) -> None:
    health = ClusterHealth.derive([], clock_skew=skew)
    assert (health.state, health.reason) == ("degraded", "clock_skew")
    assert words in health.detail
    assert ClusterHealth.derive([], clock_skew=skew / 2) == READY


def test_every_cluster_error_has_a_health() -> None:
    for kind in ClusterError.__subclasses__():
        health = ClusterHealth.of_error(kind("x", where="east"))
        assert health.state in {"degraded", "unavailable"}
        assert health.reason == kind.default_reason
