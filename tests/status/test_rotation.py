"""The rotation in status: what the record says always, what the gate says only where a leader has just looked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as with_changes
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from federation.core.config.hub import AnchorPin
from federation.core.documents.controller import RotationReport
from federation.core.documents.trust import Current, Proposal
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import Condition, RotationRecord, State
from federation.status.metrics import hub_metrics
from federation.status.model import Attention, FederationStatus
from federation.status.rotation import rotation_view
from federation.status.snapshot import Snapshot
from federation.status.text import plan_text, rotation_text, status_text
from federation.status.view import compose
from tests.status.rotations import (
    LOSSES,
    NEW_INTERMEDIATE,
    NEW_ROOT,
    OLD,
    hold,
    met,
    plan,
    quarantine,
    report_rotation,
    rotate,
    unmet,
)
from tests.status.worlds import ROOT, World, generation

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
T = NOW.timestamp()
NAMES = ["east", "west", "north"]


def seen(world: World) -> FederationStatus:
    return compose(world.document_set(), world.config, NOW)


def finding(status: FederationStatus, code: str) -> Attention:
    """The entry of that code; a consequence gets the remedy of its cause unless it has one of its own."""
    entries = [
        *status.attention,
        *(
            replace(item, severity=each.severity, code=each.code, detail=each.detail, where=each.where)
            if not each.remedy
            else replace(item, code=each.code, detail=each.detail, where=each.where, remedy=each.remedy)
            for item in status.attention
            for each in item.consequences
        ),
    ]
    (item,) = [item for item in entries if item.code == code]
    assert item.detail
    assert item.where
    assert item.remedy
    return item


def codes(status: FederationStatus) -> set[str]:
    followed = {each.code for item in status.attention for each in item.consequences}
    return {item.code for item in status.attention} | followed


def world_in(state: State, *conditions: object, **changes: object) -> World:
    world = World(NAMES, T)
    rotate(world, state, *conditions, **changes)  # type: ignore[arg-type]
    return world


def test_where_none_ever_was_there_is_none() -> None:
    status = seen(World(NAMES, T))
    assert (status.rotation, status.rotation_plan, status.directives, status.quarantined) == (
        None,
        None,
        None,
        [],
    )
    assert status.verdict == "healthy"


def test_a_rotation_that_goes_well_is_shown_with_its_gate_and_degrades_nothing() -> None:
    until = T + 1800
    world = world_in(
        State.PUBLISHING,
        met("read_back"),
        unmet("leaves", "west", until, "leaves may live on"),
        opens_at=until,
    )
    status = seen(world)
    assert (status.verdict, codes(status)) == ("healthy", set())
    rotation = status.rotation
    assert rotation is not None
    assert rotation.gate is not None
    assert (rotation.kind, rotation.state, rotation.under_way) == ("root", "PUBLISHING", True)
    assert (rotation.gate.known, rotation.gate.open, rotation.gate.waits_for) == (True, False, ["west"])
    assert rotation.gate.opens_at == (NOW + timedelta(seconds=1800)).timestamp()
    assert [(s.state, s.mark) for s in rotation.steps] == [
        ("STAGED", "done"),
        ("PUBLISHING", "current"),
        ("SOAKED", "ahead"),
        ("CANARY", "ahead"),
        ("ACTIVE", "ahead"),
        ("UNPUBLISHING", "ahead"),
        ("RETIRED", "ahead"),
    ]
    assert [t.after for t in rotation.history] == ["PUBLISHING", "STAGED"]
    assert status.directives is not None
    assert (status.directives.issuer, status.directives.strict) == (OLD.intermediate, True)


def test_an_intermediate_skips_what_it_may_and_has_no_waves() -> None:
    world = world_in(State.SOAKED, new=replace(OLD, intermediate=NEW_INTERMEDIATE), canary=[])
    rotation = seen(world).rotation
    assert rotation is not None
    assert (rotation.kind, rotation.waves) == ("intermediate", [])
    assert [s.state for s in rotation.steps] == ["STAGED", "SOAKED", "ACTIVE", "RETIRED"]


def test_waves_say_which_have_lost_the_old_root() -> None:
    for state, wave, expected in (
        (State.ACTIVE, 0, ["waiting", "waiting"]),
        (State.UNPUBLISHING, 1, ["removing", "waiting"]),
        (State.UNPUBLISHING, 2, ["removed", "removing"]),
        (State.RETIRED, 2, ["removed", "removed"]),
    ):
        rotation = seen(world_in(state, wave=wave)).rotation
        assert rotation is not None
        assert [w.state for w in rotation.waves] == expected


def test_an_aborted_rotation_shows_the_way_it_really_went() -> None:
    world = world_in(State.ABORTING)
    rotation = seen(world).rotation
    assert rotation is not None
    assert [(s.state, s.mark) for s in rotation.steps] == [
        ("STAGED", "done"),
        ("PUBLISHING", "done"),
        ("SOAKED", "done"),
        ("CANARY", "done"),
        ("ACTIVE", "done"),
        ("ABORTING", "current"),
        ("STABLE", "ahead"),
    ]
    assert finding(seen(world), "rotation_aborting").severity == "warning"


UNKNOWN: dict[str, Callable[[World], None]] = {
    "no leader": lambda w: setattr(w, "leader", None),
    "a stale leader": lambda w: w.edit_leader(updated=T - 60),
    "a leader that has not looked": lambda w: report_rotation(w, RotationReport()),
    "a leader that looked long ago": lambda w: w.edit_leader(
        rotation=replace(w.leader.rotation, computed=T - 31) if w.leader else RotationReport()
    ),
    "a leader that looked at another state": lambda w: w.edit_leader(
        rotation=replace(w.leader.rotation, state="SOAKED") if w.leader else RotationReport()
    ),
    "a leader that looked at another rotation": lambda w: w.edit_leader(
        rotation=replace(w.leader.rotation, number=2) if w.leader else RotationReport()
    ),
    "a leader that cannot work": lambda w: report_rotation(
        w, RotationReport(computed=T, open=True, problem="garbage")
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_without_a_current_report_a_gate_is_unknown_and_never_open(name: str) -> None:
    world = world_in(State.PUBLISHING, met("read_back"))
    before = seen(world).rotation
    assert before is not None
    assert before.gate is not None
    assert (before.gate.known, before.gate.open) == (True, True)
    UNKNOWN[name](world)
    status = seen(world)
    assert status.rotation is not None
    assert status.rotation.gate is not None
    assert (status.rotation.gate.known, status.rotation.gate.open) == (False, False)
    assert status.rotation.gate.detail
    assert status.rotation.gate.conditions == []
    assert status.rotation_plan is None
    assert "federation_rotation_gate_open 0.0" in metrics(world)


def test_a_leader_that_says_open_beside_an_unmet_condition_is_not_believed() -> None:
    world = world_in(State.PUBLISHING, met("read_back"))
    assert world.leader is not None
    world.edit_leader(rotation=replace(world.leader.rotation, open=True, conditions=[unmet("leaves")]))
    rotation = seen(world).rotation
    assert rotation is not None
    assert rotation.gate is not None
    assert not rotation.gate.open


def long_since(state: State, *conditions: object, **changes: object) -> World:
    world = world_in(state, *conditions, **changes)
    assert world.record is not None
    assert world.record.rotation is not None
    hold(world, RotationRecord(rotation=replace(world.record.rotation, since=T - 30 * 86400)))
    return world


def cut_off(state: State) -> World:
    world = world_in(state, unmet("read_back", "west", detail="it was not read back"))
    world.edit_seen("west", state="unavailable", reason="timeout")
    return world


def staged(world: World) -> World:
    pin = AnchorPin(
        file=Path("next.pem"), sha256=NEW_ROOT, trust_domain=world.config.trust_domain, staged=True
    )
    trust = with_changes(world.config.trust, anchors=(*world.config.trust.anchors, pin))
    world.config = with_changes(world.config, trust=trust)
    return world


def broken_successor(world: World) -> World:
    for replica, signer in world.signers.items():
        assert signer.successor is not None
        world.edit_signer(replica, successor=replace(signer.successor, state="unavailable", detail="sealed"))
    return world


def edited(world: World, replica: str, **changes: object) -> World:
    world.edit_signer(replica, **changes)
    return world


def with_problem(problem: str) -> World:
    world = World(NAMES, T)
    report_rotation(world, RotationReport(computed=T, problem=problem))
    return world


def looked_at(ago: float) -> World:
    """The leader looked at the gate out of PUBLISHING that many seconds ago, and reports as ever."""
    world = world_in(State.PUBLISHING, met("read_back"))
    assert world.leader is not None
    report_rotation(world, replace(world.leader.rotation, computed=T - ago))
    return world


ATTENTION: dict[str, tuple[Callable[[], World], str, str, str]] = {
    "paused": (
        lambda: world_in(State.SOAKED, met("read_back"), paused="the canary failed"),
        "rotation_paused",
        "degraded",
        "the canary failed",
    ),
    "unreachable": (lambda: cut_off(State.PUBLISHING), "rotation_waits_for_cluster", "degraded", "west"),
    "stuck": (
        lambda: long_since(State.PUBLISHING, unmet("read_back", "west", detail="some namespace lacks it")),
        "rotation_stuck",
        "degraded",
        "some namespace lacks it",
    ),
    "overlooked": (
        lambda: looked_at(600.0),
        "rotation_overlooked",
        "degraded",
        "last looked at its gate 10 min ago",
    ),
    "step by step": (
        lambda: world_in(State.SOAKED, met("matrix"), automatic=False),
        "rotation_advance_due",
        "healthy",
        "step by step",
    ),
    "aborting": (lambda: world_in(State.ABORTING), "rotation_aborting", "degraded", "gate is open"),
    "emergency": (
        lambda: world_in(State.EMERGENCY, unmet("drained", "west"), deadline=T + 1800),
        "rotation_emergency",
        "failing",
        "2026-11-24 12:30:00 UTC",
    ),
    "a record that cannot be worked on": (
        lambda: with_problem("rotation: garbage"),
        "rotation_problem",
        "degraded",
        "garbage",
    ),
    "a successor that cannot sign": (
        lambda: broken_successor(world_in(State.STAGED, unmet("validated"))),
        "successor_not_ready",
        "degraded",
        "sealed",
    ),
    "a signer that follows other directives": (
        lambda: edited(world_in(State.ACTIVE), "signer-0", directives="CANARY"),
        "signer_directives",
        "degraded",
        "CANARY",
    ),
    "a retired pin": (lambda: world_in(State.RETIRED), "pin_retired", "healthy", "CN=Root R1"),
    "a successor that signs": (lambda: world_in(State.RETIRED), "successor_signs", "healthy", "since"),
    "a staged pin that was published": (
        lambda: staged(world_in(State.RETIRED)),
        "pin_admitted",
        "healthy",
        "CN=Root R2",
    ),
    "a staged pin without a rotation": (
        lambda: staged(World(NAMES, T)),
        "pin_staged",
        "healthy",
        NEW_ROOT,
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_each_finding_of_a_rotation_has_its_verdict_detail_and_remedy(name: str) -> None:
    make, code, verdict, words = ATTENTION[name]
    status = seen(make())
    assert words in finding(status, code).detail
    assert status.verdict == verdict


def test_a_staged_pin_of_the_rotation_under_way_is_no_news() -> None:
    assert "pin_staged" not in codes(seen(staged(world_in(State.STAGED))))


def test_a_gate_that_was_looked_at_a_minute_ago_is_not_overlooked() -> None:
    assert "rotation_overlooked" not in codes(seen(looked_at(60.0)))


def test_a_rotation_that_takes_its_time_is_not_stuck() -> None:
    world = world_in(State.ACTIVE, unmet("drained", "west", T + 100), opens_at=T + 100)
    rotation = seen(world).rotation
    assert rotation is not None
    assert 86400 < rotation.expected < 2 * 86400
    assert "rotation_stuck" not in codes(seen(world))


def test_an_emergency_names_the_clusters_and_what_fails_there() -> None:
    world = world_in(State.EMERGENCY, unmet("drained", "west"), deadline=T + 1800)
    assert world.leader is not None
    report_rotation(world, replace(world.leader.rotation, losses=LOSSES))
    status = seen(world)
    assert "east, west" in finding(status, "rotation_emergency").detail
    assert status.rotation is not None
    assert [
        (loss.side, loss.at_removal, [c.cluster for c in loss.clusters]) for loss in status.rotation.losses
    ] == [
        ("old", True, ["west"]),
        ("old", False, ["east"]),
        ("new", True, ["north"]),
    ]
    world.edit_leader(updated=T - 300)
    stale = seen(world).rotation
    assert stale is not None
    assert stale.losses == []


def test_the_authority_that_signs_decides_whether_an_authority_matters() -> None:
    world = broken_successor(world_in(State.ACTIVE))
    status = seen(world)
    assert status.verdict == "failing", "nothing is issued: the directives name it and no other may sign"
    assert finding(status, "authority_unavailable").where == "next"
    assert [(a.name, a.use, a.signs) for a in status.authorities] == [
        ("shared", "authority", False),
        ("next", "successor", True),
    ]
    world = world_in(State.ACTIVE)
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        gone = replace(signer.authority, state="unavailable", detail="gone", not_after=T - 1)
        world.edit_signer(replica, authority=gone)
    status = seen(world)
    assert status.verdict == "degraded", "it does not sign any more"
    assert codes(status) == {"authority_unavailable"}


def test_the_authority_whose_root_is_being_removed_is_not_to_be_pinned_again() -> None:
    """In UNPUBLISHING the remedy was to pin the root that the rotation removes."""
    world = world_in(State.UNPUBLISHING)
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        gone = replace(
            signer.authority,
            state="unavailable",
            reason="no_anchor",
            detail="no path",
            remedy="pin the root above it",
        )
        world.edit_signer(replica, authority=gone)
    item = finding(seen(world), "authority_leaves")
    assert item.severity == "notice"
    assert "pin" not in item.remedy
    assert "RETIRED" in item.remedy


def test_a_retired_authoritys_problem_is_a_notice_with_another_remedy() -> None:
    world = world_in(State.RETIRED)
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        gone = replace(
            signer.authority, state="unavailable", sha256="", detail="no path", remedy="pin the root above it"
        )
        world.edit_signer(replica, authority=gone)
    status = seen(world)
    item = finding(status, "authority_retired")
    assert (item.severity, status.verdict) == ("notice", "healthy")
    assert "[signer.successor]" in item.remedy
    assert "authority_unavailable" not in codes(status)


def test_without_a_rotation_the_first_authority_signs_if_the_directed_one_is_gone() -> None:
    world = world_in(State.RETIRED)
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        moved = replace(signer.authority, sha256="77" * 32)
        world.edit_signer(replica, authority=moved, successor=None)
    assert [(a.use, a.signs) for a in seen(world).authorities] == [("authority", True)]


def test_a_quarantined_cluster_is_shown_as_that_and_does_not_fail_the_others() -> None:
    world = World(NAMES, T)
    world.edit_seen("west", state="unavailable", reason="timeout")
    for replica in world.signers:
        world.edit_on_signer(replica, "west", state="unavailable", reason="quarantined")
    world.set_cells({("east", "west"): "x", ("west", "east"): "?", ("north", "west"): "v"})
    assert seen(world).verdict == "failing"
    quarantine(world, "west")
    status = seen(world)
    assert (status.verdict, codes(status)) == ("degraded", {"quarantined"})
    assert status.matrix.rows == ["-qv", "q-q", "vq-"]
    assert (status.matrix.quarantined, status.matrix.valid, status.matrix.proven) == (4, 2, False)
    assert "4 are with quarantined clusters" in status.summary
    (west,) = [cluster for cluster in status.clusters if cluster.name == "west"]
    assert (west.health, west.proof.quarantined) == ("quarantined", 4)
    assert "burnt down" in west.summary
    assert west.quarantine is not None
    assert west.quarantine.author == "no token, from 127.0.0.1"
    assert {c.name: c.health for c in status.clusters if c.name != "west"} == {
        "east": "healthy",
        "north": "healthy",
    }
    assert "rotate release west" in finding(status, "quarantined").remedy


@settings(max_examples=60, deadline=None)
@given(
    out=st.sets(st.sampled_from(NAMES)),
    cells=st.dictionaries(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda p: p[0] != p[1]),
        st.sampled_from("vx?"),
    ),
)
def test_pairs_are_counted_once_and_a_quarantine_is_never_green(
    out: set[str], cells: dict[tuple[str, str], str]
) -> None:
    world = World(NAMES, T)
    world.set_cells(cells)
    quarantine(world, *out)
    status = seen(world)
    matrix = status.matrix
    assert matrix.valid + matrix.failed + matrix.unknown + matrix.quarantined == matrix.pairs == 6
    for client, row in zip(matrix.clusters, matrix.rows, strict=True):
        for server, cell in zip(matrix.clusters, row, strict=True):
            if client != server:
                assert (cell == "q") == bool({client, server} & out)
    assert not out or status.verdict != "healthy"
    failing = {pair for pair, cell in cells.items() if cell == "x" and not {*pair} & out}
    assert (status.verdict == "failing") == bool(failing)


def test_a_cluster_that_returns_says_what_it_waits_for() -> None:
    world = World(NAMES, T)
    quarantine(world, "west", returning=True)
    waits = unmet("return_leaves", "west", T + 60, "leaves lack the new root")
    report_rotation(world, RotationReport(computed=T, returning={"west": [waits]}))
    status = seen(world)
    (view,) = status.quarantined
    assert (view.returning, [c.name for c in view.waits_for]) == (True, ["return_leaves"])
    assert "leaves lack the new root" in finding(status, "quarantined").detail


def test_a_quarantine_of_a_cluster_that_is_not_registered_any_more_only_informs() -> None:
    world = World(NAMES, T)
    quarantine(world, "south")
    status = seen(world)
    assert (status.verdict, finding(status, "quarantined").severity) == ("healthy", "notice")


def test_a_cluster_whose_wave_has_not_come_is_current_with_the_generation_meant_for_it() -> None:
    world = world_in(State.UNPUBLISHING)
    world.generations[8] = replace(generation(8, T), created=T - 30)
    world.current = Current(number=8, sha256=world.generations[8].sha256, behind={"west": 7})
    world.edit_leader(generation=8)
    for name in NAMES:
        world.edit_publication(name, generation=7 if name == "west" else 8)
    for replica in world.signers:
        world.edit_signer(replica, generation=8)
    assert {c.name: c.publication.state for c in seen(world).clusters} == dict.fromkeys(NAMES, "current")
    world.edit_publication("east", generation=7)
    assert {c.name: c.publication.state for c in seen(world).clusters}["east"] == "pending"
    del world.generations[7]
    west = {c.name: c.publication for c in seen(world).clusters}["west"]
    assert (west.state, west.detail) == (
        "unknown",
        "the document of the generation that it is to hold cannot be read",
    )


def test_the_plan_is_what_the_leader_says_a_start_would_do() -> None:
    world = World(NAMES, T)
    report_rotation(world, plan(T))
    shown = seen(world).rotation_plan
    assert shown is not None
    assert (shown.ready, shown.kind, shown.takes) == (True, "root", 2 * 7200 + 3600)
    report_rotation(world, plan(T, conditions=[unmet("capacity")]))
    assert not (seen(world).rotation_plan or shown).ready
    report_rotation(world, plan(T, problem="its chain is not known", remedy="mend it", new=None))
    refused = seen(world).rotation_plan
    assert refused is not None
    assert (refused.ready, refused.kind, refused.problem) == (False, None, "its chain is not known")


def test_status_has_part_of_the_record_and_the_rotation_view_can_have_all_of_it() -> None:
    world = world_in(State.RETIRED)
    part = seen(world).rotation
    whole = rotation_view(Snapshot.of(world.document_set(), world.config, T), whole=True)
    assert part is not None
    assert whole is not None
    assert [len(step.evidence) for step in whole.history] == [2] * 7
    assert [(len(step.evidence), step.evidence_omitted) for step in part.history] == [(1, 1)] * 7


def test_proposals_of_a_successor_are_shown_with_the_certificate() -> None:
    world = world_in(State.STAGED)
    found = Proposal(sha256="f" * 64, subject="CN=x", cluster="", origin="next", not_after=T + 1, pem="PEM")
    signer = world.signers["signer-0"]
    assert signer.successor is not None
    world.edit_signer("signer-0", successor=replace(signer.successor, proposals=[found]))
    assert [(p.sha256, p.pem) for p in seen(world).proposals] == [("f" * 64, "PEM")]


UNREADABLE: dict[str, dict[str, Any]] = {
    "damaged": {"record": None, "damaged": {"rotation": "it is cut short"}},
    "gone, with directives": {"record": None},
    "gone, with directives that are damaged": {
        "record": None,
        "directives": None,
        "damaged": {"orders": "it is cut short"},
    },
}


@pytest.mark.parametrize("how", UNREADABLE)
def test_an_unreadable_record_is_not_taken_for_no_rotation(how: str) -> None:
    world = staged(world_in(State.ACTIVE))
    quarantine(world, "north")
    document_set = with_changes(world.document_set(), **UNREADABLE[how])
    status = compose(document_set, world.config, NOW)
    assert (status.rotation, status.rotation_plan, status.quarantined) == (None, None, [])
    assert status.rotation_problem
    assert status.verdict == "failing"
    assert finding(status, "rotation_unknown").severity == "critical"
    assert not codes(status) & {"successor_signs", "pin_staged", "pin_admitted", "quarantined"}
    assert "NOT KNOWN" in rotation_text(status)
    assert "never" not in rotation_text(status)
    assert "NOT KNOWN" in status_text(status)
    families = {f.name for f in text_string_to_metric_families(hub_metrics(status, document_set, T).decode())}
    assert not families & {"federation_rotation_state", "federation_cluster_quarantined"}
    assert "federation_rotation_gate_open" not in families
    assert "federation_signer_follows_directives" in families


def test_directives_that_say_of_clusters_alone_are_no_sign_of_a_lost_record() -> None:
    """An authority that is refused at the very first start: it is not known yet what signs, and nothing was rotated."""
    world = World(["north"], T)
    directives = SigningDirectives(met=["north"], ahead={"north": 2}, others={"north": "ab" * 16})
    document_set = with_changes(world.document_set(), record=None, directives=directives)
    assert "rotation_unknown" not in codes(compose(document_set, world.config, NOW))
    restored = with_changes(document_set, directives=replace(directives, revision=3))
    assert "rotation_unknown" in codes(compose(restored, world.config, NOW))


def metrics(world: World) -> str:
    document_set = world.document_set()
    return hub_metrics(compose(document_set, world.config, NOW), document_set, T).decode()


def samples(world: World) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics(world))
        for sample in family.samples
    }


def test_metrics_name_the_state_the_gate_and_who_is_out() -> None:
    world = world_in(
        State.PUBLISHING,
        met("read_back"),
        unmet("leaves", "west", T + 60),
        unmet("leaves", "east", T + 50),
        opens_at=T + 60,
    )
    quarantine(world, "north")
    found = samples(world)
    assert found["federation_rotation_state", "PUBLISHING"] == 1
    assert sum(value for key, value in found.items() if key[0] == "federation_rotation_state") == 1
    assert found["federation_rotation_gate_open",] == 0
    assert found["federation_rotation_gate_opens_timestamp_seconds",] == T + 60
    assert found["federation_rotation_unmet_conditions", "leaves"] == 2
    assert found["federation_rotation_unmet_conditions", "read_back"] == 0
    assert found["federation_cluster_quarantined", "north"] == 1
    assert found["federation_cluster_quarantined", "east"] == 0
    assert found["federation_successor_ready", NEW_INTERMEDIATE, "next"] == 1
    assert found["federation_signer_follows_directives", "signer-0"] == 1
    assert found["federation_matrix_result", "quarantined"] == 4


def test_metrics_of_a_federation_that_never_rotated_are_at_rest() -> None:
    found = samples(World(NAMES, T))
    assert found["federation_rotation_state", "STABLE"] == 1
    assert found["federation_rotation_gate_open",] == 0
    assert not any(key[0] == "federation_rotation_unmet_conditions" for key in found)


def test_the_retired_root_is_named_by_its_pin_even_after_the_next_rotation() -> None:
    world = world_in(State.RETIRED)
    assert world.record is not None
    world.record = replace(world.record, rotation=None)
    assert finding(seen(world), "pin_retired").where == f"pin {ROOT[:16]}"


OWN = "ab" * 32
UNDECLARED = unmet("own_earlier", "west", detail="its own CA issues there until its takeover is declared")


def own_anchor(world: World, *waits: Condition) -> None:
    """West came with a CA of its own, which is accepted and published."""
    made = world.generations[7].anchors
    own = replace(made[0], sha256=OWN, subject="CN=West", cluster="west")
    world.generations[7] = replace(world.generations[7], anchors=[*made, own])
    report_rotation(world, replace(plan(T), dropping={OWN: list(waits)}))


def test_an_undeclared_takeover_is_a_warning_that_names_the_command() -> None:
    world = World(NAMES, T)
    own_anchor(world, UNDECLARED, unmet("own_matrix", "east"))
    status = seen(world)
    item = finding(status, "takeover_undeclared")
    assert (item.severity, item.where, status.verdict) == ("warning", "west", "degraded")
    assert "federation rotate takeover west" in item.remedy
    assert "member_ca_waits" not in codes(status), "a cause is reported once"
    (view,) = status.member_cas
    assert (view.subject, view.undeclared) == ("CN=West", ["west"])
    assert [c.name for c in view.waits_for] == ["own_earlier", "own_matrix"]


def test_a_takeover_is_asked_for_under_the_hubs_own_root_as_well() -> None:
    """An intermediate of the cluster's own under a root that is pinned as the hub's: no anchor shows it."""
    world = World(NAMES, T)
    report_rotation(world, replace(plan(T), undeclared=["west"]))
    status = seen(world)
    item = finding(status, "takeover_undeclared")
    assert (item.severity, item.where) == ("warning", "west")
    assert "federation rotate takeover west" in item.remedy
    assert "anchor" not in item.detail
    quarantine(world, "west")
    assert "takeover_undeclared" not in codes(seen(world)), "it has to be let back first"


def test_an_own_anchor_that_waits_for_time_alone_is_a_notice() -> None:
    world = World(NAMES, T)
    own_anchor(world, unmet("own_earlier", "west", T + 60, "leaves from before the hub may live"))
    status = seen(world)
    assert status.verdict == "healthy"
    assert "leaves from before the hub may live" in finding(status, "member_ca_waits").detail
    assert "takeover_undeclared" not in codes(status)


def test_no_takeover_is_asked_for_of_a_quarantined_cluster() -> None:
    world = World(NAMES, T)
    own_anchor(world, UNDECLARED)
    quarantine(world, "west")
    assert "takeover_undeclared" not in codes(seen(world))


@pytest.mark.parametrize(
    "stale_reason",
    [
        lambda w: w.edit_leader(updated=T - 300),
        lambda w: w.edit_leader(rotation=replace(w.leader.rotation, computed=T - 300)),
        lambda w: w.edit_leader(rotation=replace(w.leader.rotation, dropping={"cd" * 32: [UNDECLARED]})),
    ],
    ids=["no leader", "not evaluated recently", "not in the bundle"],
)
def test_member_cas_without_a_current_report_are_not_shown(
    stale_reason: Callable[[World], None],
) -> None:
    world = World(NAMES, T)
    own_anchor(world, UNDECLARED)
    stale_reason(world)
    assert seen(world).member_cas == []


def test_a_joining_cluster_says_so_in_its_publication_and_is_reported_once() -> None:
    world = World(NAMES, T)
    world.edit_publication("west", current=40, pending=8, joining=8, other_writers=["pilot-discovery"])
    world.edit_seen("west", state="degraded", reason="joining", detail="it keeps CN=West", remedy="accept it")
    status = seen(world)
    west = next(c for c in status.clusters if c.name == "west")
    assert (west.health, west.publication.state, west.publication.joining) == ("degraded", "joining", 8)
    assert west.publication.remedy == "accept it"
    of_west = [item.code for item in status.attention if item.where == "west"]
    assert of_west == ["cluster_degraded"], "istiod's CA must not be switched off yet"


def test_a_joining_cluster_is_reported_also_when_it_has_another_fault() -> None:
    world = World(NAMES, T)
    world.edit_publication("west", current=40, pending=8, joining=8, forbidden=1)
    world.edit_seen("west", state="degraded", reason="forbidden", detail="1 namespace may not be written")
    status = seen(world)
    assert "federation trust list" in finding(status, "publication_joining").remedy


def test_after_a_rotation_the_remaining_steps_are_named_instead_of_a_plans_problem() -> None:
    world = staged(world_in(State.RETIRED))
    problem = "the authority in use is not known, or of no use: its chain is not known"
    report_rotation(world, plan(T, problem=problem, remedy="configure [signer.successor]"))
    assert world.leader is not None
    world.edit_leader(rotation=replace(world.leader.rotation, number=3, state="RETIRED"))
    status = seen(world)
    assert status.rotation_plan is not None
    for text in (rotation_text(status), plan_text(status)):
        assert "make it [signer.authority]" in text
        assert f"pin {ROOT[:16]}: take its pin out" in text
        assert f"pin {NEW_ROOT[:16]}: remove `staged = true`" in text
        assert problem not in text
    hold(world, RotationRecord())
    report_rotation(world, plan(T, problem=problem))
    for replica in world.signers:
        world.edit_signer(replica, successor=None)
    assert problem in rotation_text(seen(world))


def test_a_quarantine_is_not_advised_where_it_would_not_help() -> None:
    """Leaves already issued live on despite a quarantine; the signers may still reach a cluster that is cut off."""
    for condition in (unmet("drained", "west", T + 60), unmet("earlier", "west")):
        world = world_in(State.ACTIVE, condition)
        world.edit_seen("west", state="unavailable", reason="timeout")
        assert "rotation_waits_for_cluster" not in codes(seen(world))
    world = world_in(State.ACTIVE, unmet("drained", "west", T + 60), unmet("read_back", "west"))
    world.edit_seen("west", state="unavailable", reason="timeout")
    assert "west" in finding(seen(world), "rotation_waits_for_cluster").detail


@pytest.mark.parametrize(
    ("state", "way_out"),
    [
        (State.ACTIVE, "rotate abort"),
        (State.UNPUBLISHING, "rotate restore"),
        (State.ABORTING, "rotate advance`"),
    ],
)
def test_a_paused_rotation_is_advised_only_what_its_state_allows(state: State, way_out: str) -> None:
    remedy = finding(seen(world_in(state, paused="it failed")), "rotation_paused").remedy
    assert way_out in remedy
    assert ("abort" in remedy) is (state is State.ACTIVE)
