"""How status shows a cluster that joins: its present step and what it waits for, and only from a current report."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from federation.core.documents.controller import JoinStepReport, RotationReport
from federation.core.rotation.record import Condition
from federation.core.trust.joining import JoinStep
from federation.status.model import FederationStatus
from federation.status.text import status_text
from federation.status.view import compose
from tests.status.rotations import quarantine, report_rotation
from tests.status.worlds import World


def joins(present: JoinStep, *waits: Condition) -> World:
    world = World(["east", "west"], datetime.now(UTC).timestamp())
    order = list(JoinStep)
    steps = [
        JoinStepReport(
            step=step.value,
            done=order.index(step) < order.index(present),
            conditions=list(waits) if step is present else [],
        )
        for step in order
    ]
    report_rotation(
        world, RotationReport(computed=world.now - 1, joining={"west": steps}, undeclared=["west"])
    )
    return world


def seen(world: World) -> FederationStatus:
    return compose(world.document_set(), world.config, datetime.fromtimestamp(world.now, UTC), ())


def wait(detail: str, *, until: float = 0.0, cluster: str = "west") -> Condition:
    return Condition(name="x", met=False, detail=detail, cluster=cluster, until=until)


def test_the_present_step_is_shown_with_what_it_waits_for_and_what_to_do() -> None:
    world = joins(JoinStep.MOVE, wait("2 of 3 pods"), wait("unreachable", cluster="east"))
    status = seen(world)
    view = {cluster.name: cluster.joining for cluster in status.clusters}
    assert view["east"] is None
    west = view["west"]
    assert west is not None
    health = {cluster.name: (cluster.health, cluster.summary) for cluster in status.clusters}
    assert health["east"][0] == "healthy"
    assert health["west"] == ("degraded", f"it joins, step 5 of 8, move: {west.detail}")
    assert (west.step, west.number, west.of, west.until) == ("move", 5, 8, 0.0)
    assert west.detail == "2 of 3 pods; east: unreachable"
    assert "federation clusters join west" in west.remedy
    assert [step.done for step in west.steps] == [True] * 4 + [False] * 4
    findings = [(item.severity, item.where) for item in status.attention if item.code == "cluster_joins"]
    assert findings == [("warning", "west")]
    assert "takeover_undeclared" not in {item.code for item in status.attention}, "that is a later step"
    assert "west joins, step 5 of 8, move: 2 of 3 pods" in status_text(status)


def test_where_time_alone_has_to_pass_it_is_a_notice_with_the_time() -> None:
    until = datetime.now(UTC).timestamp() + 60
    status = seen(joins(JoinStep.RENEW, wait("may live", until=until)))
    (item,) = [item for item in status.attention if item.code == "cluster_joins"]
    assert (item.severity, item.remedy) == ("notice", "nothing: time has to pass")
    view = next(cluster.joining for cluster in status.clusters if cluster.name == "west")
    assert view is not None
    assert view.until > 0


def test_conditions_that_are_normal_while_a_cluster_joins_need_no_repair() -> None:
    world = joins(JoinStep.MOVE, wait("2 of 3 pods"))
    world.edit_publication("west", other_writers=["pilot-discovery"])
    reported = {item.code for item in seen(world).attention if item.where == "west"}
    assert reported == {"cluster_joins"}, "switching its CA off now would cut its pods off"


def test_a_cluster_whose_former_root_is_left_to_go_is_healthy() -> None:
    status = seen(joins(JoinStep.DROP, wait("leaves may live", until=datetime.now(UTC).timestamp() + 60)))
    assert [cluster.health for cluster in status.clusters] == ["healthy", "healthy"]


@pytest.mark.parametrize("spoiled", ["stale", "no leader", "quarantined"])
def test_without_a_current_report_no_joining_step_is_shown(spoiled: str) -> None:
    world = joins(JoinStep.MOVE, wait("2 of 3 pods"))
    if spoiled == "no leader":
        world.leader = None
    elif spoiled == "quarantined":
        quarantine(world, "west")
    else:
        assert world.leader is not None
        report_rotation(
            world, RotationReport(computed=world.now - 3600, joining=world.leader.rotation.joining)
        )
    status = seen(world)
    assert "cluster_joins" not in {item.code for item in status.attention}
    if spoiled != "quarantined":
        assert all(cluster.joining is None for cluster in status.clusters)
