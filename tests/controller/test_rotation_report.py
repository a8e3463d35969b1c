"""What the leader says of a rotation: what the machine would do, who may return, what would fail."""

from __future__ import annotations

from dataclasses import replace as with_changes

import msgspec
import pytest

from federation.controller.rotation.operations import Commands, Proposed
from federation.controller.rotation.report import MOST_CONDITIONS, report_of_rotation
from federation.core.documents.controller import Operation, RotationReport
from federation.core.documents.encoding import encode
from federation.core.rotation.gates import Verdict
from federation.core.rotation.record import Condition, Quarantine, RotationRecord, State
from federation.core.rotation.world import Capacity, ClusterFacts, ControlPlane, Webhook, World
from federation.core.trust.expiry_bounds import Delivered
from tests.status.rotations import NEW, NEW_INTERMEDIATE, NEW_ROOT, OLD, rotation
from tests.status.worlds import INTERMEDIATE, ROOT, hub_config

T = 1_800_000_000.0
NAMES = ["east", "north", "west"]
CONFIG = hub_config(NAMES)


def world(**changes: object) -> World:
    """Every cluster holds the old root, every leaf was delivered with it and lives for another hour."""
    facts = ClusterFacts(anchors=frozenset({ROOT}), current=True, read_back_at=T - 1)
    made = World(
        now=T,
        clusters=dict.fromkeys(NAMES, facts),
        expiry_bounds={Delivered(name, INTERMEDIATE, 1): T + 3600 for name in NAMES},
        generations={1: frozenset({ROOT}), 2: frozenset({ROOT, NEW_ROOT})},
        in_force=1,
        pins=frozenset({ROOT, NEW_ROOT}),
        validated=None,
    )
    return with_changes(made, **changes)  # type: ignore[arg-type]


def commands(**changes: object) -> Commands:
    proposed = Proposed(old=OLD, new=NEW, problem=None)
    return Commands(with_changes(proposed, **changes))  # type: ignore[arg-type]


def report_on(record: RotationRecord, seen: World, given: Commands | None = None) -> RotationReport:
    return report_of_rotation(record, seen, given or commands(), CONFIG)


def test_a_plan_is_what_a_start_then_does() -> None:
    plan = report_on(RotationRecord(), world()).plan
    assert plan is not None
    started = commands().apply(
        Operation(id="x", verb="start", author="a", asked=T), RotationRecord(), world(), CONFIG
    )
    assert started.rotation is not None
    assert (plan.canary, plan.waves, plan.problem) == (started.rotation.canary, started.rotation.waves, "")
    assert plan.new is not None
    assert plan.new.intermediate == NEW_INTERMEDIATE
    assert plan.longest_leaf == 3600 + world().skew
    first = {"configuration": True, "pinned": True, "validated": True, "capacity": True}
    assert {c.name: c.met for c in plan.conditions} == first


def test_a_cluster_whose_own_ca_still_issues_is_reported_with_and_without_a_rotation() -> None:
    seen = world()
    issuing = with_changes(seen.clusters["west"], own_issues=True)
    seen = with_changes(seen, clusters={**seen.clusters, "west": issuing})
    assert report_on(RotationRecord(), seen).undeclared == ["west"]
    assert report_on(RotationRecord(rotation=rotation(State.SOAKED, now=T)), seen).undeclared == ["west"]
    assert report_on(RotationRecord(), world()).undeclared == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (commands(new="no signer reports it"), "no signer reports it"),
        (commands(problem="it has the key of the old one"), "it has the key of the old one"),
        (commands(new=OLD), "signs already"),
    ],
)
def test_a_plan_that_would_be_refused_gives_the_reason_of_the_refusal(given: Commands, words: str) -> None:
    plan = report_on(RotationRecord(), world(), given).plan
    assert plan is not None
    assert words in plan.problem
    assert plan.remedy
    assert plan.conditions == []


def test_a_back_end_that_is_too_small_is_an_unmet_condition_of_the_plan() -> None:
    plan = report_on(RotationRecord(), world(capacity=Capacity(rate=40, quota=20))).plan
    assert plan is not None
    assert (plan.rate, plan.quota) == (40, 20)
    assert [c.name for c in plan.conditions if not c.met] == ["capacity"]


def test_while_a_rotation_is_under_way_there_is_no_plan_but_what_would_fail() -> None:
    report = report_on(RotationRecord(rotation=rotation(State.PUBLISHING, T)), world())
    assert report.plan is None
    assert (report.number, report.state, report.open) == (3, "PUBLISHING", False)
    by_side = {(loss.side, loss.at_removal): loss.clusters for loss in report.losses}
    assert by_side["old", True] == dict.fromkeys(NAMES, T + 3600 + 60), "their leaves, at the removal"
    assert ("new", True) not in by_side, "no leaf is of the new side"
    at_once = [loss for loss in report.losses if loss.side == "old" and not loss.at_removal]
    assert {name for loss in at_once for name in loss.clusters} == {*NAMES}


def test_a_deadline_spares_what_ends_before_it() -> None:
    emergency = rotation(State.EMERGENCY, T, deadline=T + 7200)
    report = report_on(RotationRecord(rotation=emergency), world())
    assert [loss for loss in report.losses if loss.side == "old" and loss.at_removal] == []


def test_a_returning_cluster_is_reported_with_its_unmet_conditions() -> None:
    out = Quarantine(reason="r", author="a", since=T - 60)
    record = RotationRecord(
        rotation=rotation(State.ACTIVE, T),
        quarantined={"east": msgspec.structs.replace(out, returning=True), "west": out},
    )
    report = report_on(record, world())
    assert set(report.returning) == {"east"}
    assert "return_read_back" in {c.name for c in report.returning["east"]}
    assert all(not c.met for c in report.returning["east"])


def test_two_hundred_clusters_stay_a_small_document() -> None:
    names = [f"edge-{number:03d}" for number in range(200)]
    facts = ClusterFacts(anchors=frozenset({ROOT}), read_back_at=T - 1, unknown_until=T + 86400)
    seen = world(
        clusters=dict.fromkeys(names, facts),
        expiry_bounds={Delivered(name, INTERMEDIATE, 1): T + 3600 for name in names},
    )
    report = report_on(RotationRecord(rotation=rotation(State.PUBLISHING, T)), seen)
    assert len(report.conditions) == MOST_CONDITIONS
    assert not report.conditions[0].met
    assert all(len(loss.clusters) == 200 for loss in report.losses)
    assert len(encode(report)) < 120_000


def test_conditions_for_dropping_a_member_ca_are_reported_until_it_is_retired() -> None:
    conditions = (
        Condition(name="own_matrix", met=False, detail="a pair", cluster="east"),
        Condition(name="own_read_back", met=True, detail="read back", cluster="west"),
        Condition(name="own_earlier", met=False, detail="say it", cluster="west"),
    )
    dropping = {"ab" * 32: Verdict(conditions), "cd" * 32: Verdict(())}
    report = report_of_rotation(RotationRecord(retired=["cd" * 32]), world(), commands(), CONFIG, dropping)
    assert {sha: [c.name for c in waits] for sha, waits in report.dropping.items()} == {
        "ab" * 32: ["own_earlier", "own_matrix"]
    }


def test_dependents_are_reported_within_bounds_and_with_every_pin() -> None:
    strange = frozenset(f"{number:064x}" for number in range(500))
    observed = frozenset({ROOT, NEW_ROOT}) | strange
    facts = ClusterFacts(
        anchors=frozenset({ROOT}),
        control_planes=(ControlPlane(name="istio-system/istiod-tls", anchors=observed),),
        webhooks=(Webhook(name="mutating/a", istiod="istio-system/istiod", anchors=observed),),
    )
    seen = world(clusters=dict.fromkeys(NAMES, facts), pins=frozenset({ROOT, NEW_ROOT}))
    plan = report_on(RotationRecord(), seen).plan
    assert plan is not None
    assert len(plan.dependents) == 2 * len(NAMES)
    for holder in plan.dependents:
        assert {ROOT, NEW_ROOT} < {*holder.anchors}
        assert len(holder.anchors) < 10
