"""What status says of edits that are not done yet, of clusters that were removed, and of state that was set back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from federation.core.documents.controller import LossReport, UnpinnedReport
from federation.core.rotation.record import Condition, Departure, RotationRecord, Setback, Unpinned
from federation.status.text import rotation_text
from tests.status.rotations import hold, plan, report_rotation, unmet
from tests.status.test_rotation import NAMES, T, codes, finding, seen
from tests.status.worlds import DAY, World

GONE = "ab" * 32
KNOWN = Unpinned(since=T - 60, generation=7, subject="CN=Root R0")
LEAVES = unmet("own_issuers", "", T + 3600, "the last of its leaves ends in an hour")
SIGNS = unmet("own_issuers", detail="signers can sign with 1234, which is below it")
LOSS = LossReport(side="", what="its leaves are refused", at_removal=True, clusters={"west": T + 3600})


def world(*waits: Condition, opens_at: float = 0.0) -> World:
    made = World(NAMES, T)
    hold(made, RotationRecord(unpinned={GONE: KNOWN}))
    report = UnpinnedReport(
        since=KNOWN.since, subject=KNOWN.subject, opens_at=opens_at, conditions=list(waits), losses=[LOSS]
    )
    report_rotation(made, replace(plan(T), unpinned={GONE: report}))
    return made


def test_an_anchor_whose_pin_is_gone_says_until_when_why_and_what_removes_it() -> None:
    status = seen(world(LEAVES, opens_at=T + 3600))
    item = finding(status, "pin_gone")
    assert (item.severity, item.where) == ("notice", f"bundle: {GONE[:16]}")
    assert "CN=Root R0" in item.detail
    assert "ends in an hour" in item.detail
    assert "UTC at the earliest" in item.detail
    assert f"federation trust remove {GONE} --now" in item.remedy
    (view,) = status.unpinned
    assert (view.known, view.leaves_at) == (True, T + 3600)
    assert [(loss.what, [lost.cluster for lost in loss.clusters]) for loss in view.losses] == [
        ("its leaves are refused", ["west"])
    ]
    assert "its pin is gone, it stays until" in rotation_text(status)


def test_an_anchor_that_time_alone_does_not_remove_is_a_warning() -> None:
    assert finding(seen(world(SIGNS)), "pin_gone").severity == "warning"


@pytest.mark.parametrize(
    "stale_reason",
    [
        lambda w: w.edit_leader(updated=T - 300),
        lambda w: w.edit_leader(rotation=replace(w.leader.rotation, computed=T - 300)),
    ],
    ids=["no leader", "not evaluated recently"],
)
def test_without_a_current_report_what_still_needs_the_anchor_is_unknown(
    stale_reason: Callable[[World], None],
) -> None:
    made = world(LEAVES, opens_at=T + 3600)
    stale_reason(made)
    (view,) = seen(made).unpinned
    assert (view.known, view.leaves_at, view.waits_for, view.losses) == (False, 0.0, [], [])
    assert "no leading controller reports" in finding(seen(made), "pin_gone").detail


def test_a_removed_cluster_is_reported_while_its_certificates_may_live() -> None:
    made = World(NAMES, T)
    report_rotation(made, replace(plan(T), removed={"south": T + 3600, NAMES[0]: T + 3600}))
    status = seen(made)
    item = finding(status, "cluster_removed")
    assert (item.severity, item.where, status.verdict) == ("notice", "south", "healthy")
    assert "UTC" in item.detail
    assert [view.cluster for view in status.removed_clusters] == ["south"]
    assert "south: it was removed" in rotation_text(status)


def test_departures_and_setbacks_are_kept_and_setbacks_are_reported_for_a_day() -> None:
    made = World(NAMES, T)
    left = Departure(sha256=GONE, at=T - 5, author="operator", reason="stolen")
    found = Setback(at=T - 10, what="generation 3 was found in force", done="a later one was made")
    hold(made, RotationRecord(departures=[left], setbacks=[found]))
    status = seen(made)
    (departure,) = status.departures
    assert (departure.sha256, departure.author, departure.reason) == (GONE, "operator", "stolen")
    item = finding(status, "state_set_back")
    assert (item.severity, "generation 3" in item.detail, "a later one was made" in item.detail) == (
        "warning",
        True,
        True,
    )
    hold(made, RotationRecord(setbacks=[replace(found, at=T - 2 * DAY)]))
    status = seen(made)
    assert "state_set_back" not in codes(status)
    assert len(status.setbacks) == 1
