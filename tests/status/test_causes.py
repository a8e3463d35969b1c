"""Each cause is reported once: its consequences are attached to it, and none is lost."""

from __future__ import annotations

import sys
from dataclasses import replace as dataclass_replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.documents.signer import WorkloadsReport
from federation.core.rotation.record import State
from federation.status.findings.causes import Causes, Finding, Need, finding
from federation.status.model import Attention, FederationStatus, Severity
from federation.status.text import status_text
from federation.status.view import compose
from tests.status.rotations import rotate, unmet
from tests.status.worlds import World

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
T = NOW.timestamp()
NAMES = ["east", "west", "north"]
REFUSED = "no connection to 10.0.0.7:6443: Connection refused"


def seen(world: World) -> FederationStatus:
    return compose(world.document_set(), world.config, NOW)


def kill(world: World, name: str) -> None:
    """Its API server is gone: neither role reaches it, its pods are not watched, and nothing is read back."""
    trouble = {
        "state": "unavailable",
        "reason": "unreachable",
        "detail": REFUSED,
        "remedy": "check the network",
    }
    world.edit_seen(
        name,
        **trouble,
        since=(NOW - timedelta(hours=8, minutes=48)).timestamp(),
        probe_detail="west: GET /api: no connection",
        trust_bundle=replace(world.leader.clusters[name].trust_bundle, state="unknown")
        if world.leader
        else None,
    )
    last = WorkloadsReport(
        detail="its pods are not watched at present",
        first_end=T + 3600,
        last_end=(NOW + timedelta(hours=3, minutes=10)).timestamp(),
    )
    for replica in world.signers:
        world.edit_on_signer(replica, name, **trouble, workloads=last)


def test_one_dead_cluster_of_three_is_one_critical_entry() -> None:
    world = World(NAMES, T)
    kill(world, "west")
    status = seen(world)
    assert [(item.severity, item.code, item.where) for item in status.attention] == [
        ("critical", "cluster_unavailable", "west")
    ]
    (cause,) = status.attention
    fact = "west is unreachable since 03:12 UTC; certificates there last until 15:10 UTC, the first ends at 13:00 UTC"
    assert cause.detail == f"{fact}: {REFUSED}"
    assert (cause.fact, cause.remedy, cause.clusters) == (fact, "check the network", ["west"])
    assert status.summary.startswith(
        "West is unreachable since 03:12 UTC; certificates there last until 15:10 UTC"
    )
    followed = {each.code: each.count for each in cause.consequences}
    assert followed == {"signing_unavailable": 1, "pairs_unknown": 4}
    assert len(status.matrix.reasons) == 4  # the API keeps every pair
    assert status_text(status).count("west is unreachable since") == 1


def test_a_rotation_waiting_for_a_dead_cluster_is_its_consequence_with_a_remedy() -> None:
    world = World(NAMES, T)
    rotate(world, State.PUBLISHING, unmet("read_back", "west"))
    kill(world, "west")
    status = seen(world)
    (cause,) = [item for item in status.attention if item.severity != "notice"]
    waits = [each for each in cause.consequences if each.code == "rotation_waits_for_cluster"]
    assert [each.where for each in waits] == ["rotation 3"]
    assert "federation rotate quarantine" in waits[0].remedy
    assert waits[0].remedy in status_text(status)


@pytest.mark.parametrize(
    ("key", "follows"),
    [
        ("current", "no_generation"),
        ("generations/000000000007", "no_generation"),
        ("rotation", "rotation_unknown"),
    ],
)
def test_a_damaged_document_is_the_cause_of_what_is_read_from_it(key: str, follows: str) -> None:
    world = World(NAMES, T)
    if follows == "no_generation":
        world.current = None
    document_set = dataclass_replace(world.document_set(), damaged={key: "it is cut short"})
    status = compose(document_set, world.config, NOW)
    (cause,) = [item for item in status.attention if item.severity != "notice"]
    assert (cause.code, cause.where, cause.severity) == ("state_damaged", key, "critical")
    assert follows in {each.code for each in cause.consequences}


@pytest.mark.parametrize(
    "place",
    ["/var/lib/hub/documents/current", "ConfigMap hub/federation.current", "ConfigMap hub/f.cyurrent"],
)
def test_what_each_process_says_of_a_damaged_document_follows_from_it(place: str) -> None:
    """Seen on a running hub: three entries, and three lines of ``verify``, for one damaged document."""
    world = World(NAMES, T)
    said = f"{place}: the document is damaged: its header cannot be read (restore it from a backup)"
    world.edit_leader(ready=False, reasons=[said])
    for replica in world.signers:
        world.edit_signer(replica, not_applied=[f"generation 7 stays in force here: {said}"])
    document_set = dataclass_replace(world.document_set(), damaged={"current": "it is cut short"})
    status = compose(document_set, world.config, NOW)
    (cause,) = [item for item in status.attention if item.severity != "notice"]
    assert (cause.code, cause.where) == ("state_damaged", "current")
    assert {"controller_not_ready", "signer_not_applied"} <= {each.code for each in cause.consequences}


def test_what_is_not_about_the_damaged_document_is_a_cause_of_its_own() -> None:
    world = World(NAMES, T)
    world.edit_leader(ready=False, reasons=["disk full"])
    world.edit_signer("signer-0", not_applied=["a/b/orders: the document is damaged: it is cut short"])
    document_set = dataclass_replace(
        world.document_set(), damaged={"current": "cut short", "callers/x": "cut short"}
    )
    codes = {item.code for item in compose(document_set, world.config, NOW).attention}
    assert {"controller_not_ready", "signer_not_applied", "state_damaged"} <= codes


def test_that_an_authority_which_cannot_be_asked_has_no_known_end_follows_from_that() -> None:
    """It is no intermediate that runs out: to issue its successor would mend nothing."""
    world = World(NAMES, T)
    for replica, report in world.signers.items():
        assert report.authority is not None
        gone = replace(report.authority, state="unavailable", detail="the vault is sealed", not_after=0.0)
        world.edit_signer(replica, authority=gone)
    found = {item.code: item for item in seen(world).attention}
    assert "authority_expiry_unknown" not in found
    follows = {each.code: each.remedy for each in found["authority_unavailable"].consequences}
    assert follows["authority_expiry_unknown"] == ""


def test_a_removed_listener_name_is_reported_while_certificates_may_live() -> None:
    world = World(NAMES, T)
    assert world.leader is not None
    longest = max(cluster.policy.longest_ttl for cluster in world.config.clusters)
    for at, reported in ((T - longest + 60, True), (T - longest - 60, False)):
        world.edit_leader(rotation=replace(world.leader.rotation, names_gone={"old.example": at}))
        found = [item for item in seen(world).attention if item.code == "listener_name_gone"]
        assert [("old.example" in item.detail, item.severity) for item in found] == (
            [(True, "warning")] * reported
        )


def test_two_dead_clusters_of_forty_are_two_entries() -> None:
    world = World([f"c{i:02d}" for i in range(40)], T)
    kill(world, "c07")
    kill(world, "c31")
    status = seen(world)
    assert [item.where for item in status.attention] == ["c07", "c31"]
    assert all(
        "78 of 1,560 ordered pairs cannot be proved" in str(item.consequences) for item in status.attention
    )
    assert status.matrix.unknown == 154


def test_many_dead_clusters_are_one_entry_that_counts_each_pair_once() -> None:
    world = World([f"c{i:02d}" for i in range(40)], T)
    dead = [f"c{i:02d}" for i in range(6)]
    for name in dead:
        world.edit_seen(name, state="unavailable", reason="unreachable", detail=REFUSED)
    (cause,) = seen(world).attention
    assert cause.where == ", ".join(dead)
    assert "(and 5 more of this kind)" in cause.detail
    assert "federation clusters check NAME" in cause.remedy
    (follows,) = cause.consequences
    assert (follows.count, follows.detail) == (438, "438 of 1,560 ordered pairs cannot be proved")


def test_a_missing_root_file_is_the_cause_of_all_that_follows() -> None:
    """It was once a warning below five critical entries that all followed from it."""
    world = World(NAMES, T)
    why = "it cannot be read: No such file or directory; this anchor has never been read"
    world.current, world.generations = None, {}
    waits = f"the first generation waits until every pinned anchor was read: root.pem: {why}"
    world.edit_leader(
        generation=0,
        ready=False,
        reasons=[f"no generation of trust is in force: {waits}"],
        sources={"root.pem": why, "bundle": waits},
    )
    for replica in list(world.signers):
        world.edit_signer(
            replica, ready=False, reasons=["no bundle is in force"], generation=0, bundle_sha256=""
        )
    status = seen(world)
    assert status.verdict == "failing"
    assert [(item.severity, item.code, item.where) for item in status.attention] == [
        ("critical", "source_unread", "root.pem")
    ]
    assert "last known good" not in status.attention[0].detail
    assert {each.code for each in status.attention[0].consequences} >= {"no_generation", "no_signer"}


def test_a_failing_handshake_is_not_hidden_behind_a_cluster_that_is_merely_late() -> None:
    world = World(NAMES, T)
    world.edit_publication("west", current=40, pending=8)
    world.set_cells({("east", "west"): "x"}, {"east>west": "the anchor R1 is missing in east"})
    codes = {item.code: item.severity for item in seen(world).attention}
    assert codes == {"publication_pending": "warning", "pair_failed": "critical"}


def test_a_refused_listener_certificate_is_one_critical_cause_with_its_remedy() -> None:
    """It was once a warning for each cluster, with the remedy to create the probe's service account."""
    world = World(NAMES, T)
    for name in NAMES:
        world.edit_seen(
            name,
            probe_detail="the certificate does not verify",
            probe_reason="listener_certificate",
            probe_remedy="check",
        )
    world.set_cells({(a, b): "?" for a in NAMES for b in NAMES if a != b})
    (item,) = seen(world).attention
    assert (item.severity, item.code, item.where, item.remedy) == (
        "critical",
        "listener_certificate",
        "listener",
        "check",
    )
    assert [(each.code, each.count) for each in item.consequences] == [("pairs_unknown", 6)]


def test_a_refused_probe_is_reported_with_the_signers_reason() -> None:
    world = World(NAMES, T)
    world.edit_seen(
        "west",
        probe_detail="the listener refused it",
        probe_reason="listener_refused",
        probe_remedy="see the log",
    )
    for replica in world.signers:
        world.edit_on_signer(replica, "west", own_refused={"policy": 3})
    (item,) = seen(world).attention
    assert (item.code, item.remedy) == ("probe_failed", "see the log")
    assert "policy" in item.detail


def test_failing_pairs_are_grouped_by_the_cluster_they_share() -> None:
    world = World(NAMES, T)
    world.set_cells({(a, b): "x" for a in NAMES for b in NAMES if a != b and "west" in (a, b)})
    (item,) = seen(world).attention
    assert (item.code, item.where) == ("pair_failed", "between west and 2 clusters")


SEVERITIES: list[Severity] = ["critical", "warning", "notice"]


@st.composite
def findings(draw: st.DrawFn) -> list[Finding]:
    """Findings that rest on one another in any way, circles included."""
    facts = [(need, "") for need in list(Need)[:5]]
    some = st.lists(st.sampled_from(facts), max_size=3)
    return [
        Finding(
            Attention(
                severity=draw(st.sampled_from(SEVERITIES)), code=f"code_{i}", detail="w", where=f"p{i}"
            ),
            frozenset(draw(some)),
            tuple(draw(some)),
        )
        for i in range(draw(st.integers(0, 8)))
    ]


@settings(max_examples=300, deadline=None)
@given(findings())
def test_grouping_by_cause_loses_no_finding_and_no_severity(found: list[Finding]) -> None:
    items = [item for _, item in Causes(found).items()]
    reported = [item.code for item in items] + [each.code for item in items for each in item.consequences]
    assert sorted(reported) == sorted(each.item.code for each in found)
    worst = [SEVERITIES.index(each.item.severity) for each in found]
    assert min((SEVERITIES.index(item.severity) for item in items), default=0) == min(worst, default=0)


def test_the_causes_of_a_large_federation_cost_little_more_than_the_rest_of_status() -> None:
    """200 clusters have 39,800 pairs."""

    def cost(dead: int) -> int:
        """Calls of functions."""
        world = World([f"c{i:03d}" for i in range(200)], T)
        for name in world.names[:dead]:
            kill(world, name)
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            status = seen(world)
        finally:
            sys.setprofile(before)
        assert len(status.attention) == min(dead, 1 if dead > 4 else dead)
        return calls

    cost(0)  # what is made once
    at_rest = cost(0)
    assert all(cost(dead) < 8 * at_rest for dead in (1, 20, 200))


def test_a_code_that_declares_nothing_stands_by_itself() -> None:
    item = Attention(severity="warning", code="new_code", detail="w", where="here")
    ((_, only),) = Causes([finding(item)]).items()
    assert only == item


def test_an_expired_intermediate_is_one_cause_with_all_that_it_stops() -> None:
    world = World(NAMES, T)
    for replica, report in world.signers.items():
        assert report.authority is not None
        gone = replace(
            report.authority, state="unavailable", reason="expired", detail="it expired", not_after=T - 60
        )
        world.edit_signer(replica, authority=gone, serving_not_after=T - 1)
    for name in NAMES:
        world.edit_seen(name, probe_detail="the listener did not answer", probe_reason="listener_unavailable")
    world.set_cells({(a, b): "?" for a in NAMES for b in NAMES if a != b})
    (cause,) = [item for item in seen(world).attention if item.severity != "notice"]
    assert (cause.severity, cause.code) == ("critical", "authority_expiry_expired")
    assert {each.code for each in cause.consequences} >= {
        "authority_unavailable",
        "listener_unavailable",
        "pairs_unknown",
    }
    assert "[signer.successor]" in cause.remedy


def test_an_expired_root_is_the_cause_of_every_failing_pair() -> None:
    world = World(NAMES, T)
    root, *below = world.generations[7].anchors
    world.generations[7] = replace(world.generations[7], anchors=[replace(root, not_after=T - 60), *below])
    world.set_cells({(a, b): "x" for a in NAMES for b in NAMES if a != b})
    (cause,) = [item for item in seen(world).attention if item.severity != "notice"]
    assert (cause.code, cause.severity) == ("anchor_expiry_expired", "critical")
    assert [(each.code, each.count) for each in cause.consequences] == [("pairs_failed", 6)]


def test_an_intermediate_in_the_bundle_that_ends_is_reported_with_its_authority_alone() -> None:
    world = World(NAMES, T)
    root, intermediate = world.generations[7].anchors
    ended = replace(intermediate, not_after=T - 60)
    world.generations[7] = replace(world.generations[7], anchors=[root, ended])
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        world.edit_signer(replica, authority=replace(signer.authority, not_after=T - 60))
    assert [item.code for item in seen(world).attention] == ["authority_expiry_expired"]
    for replica, signer in world.signers.items():
        assert signer.authority is not None
        world.edit_signer(replica, authority=replace(signer.authority, sha256="ff" * 32, not_after=T + 9e7))
    codes = [item.code for item in seen(world).attention]
    assert "anchor_expiry_expired" in codes, "nothing signs with it, and it is in the bundle"


def test_unproven_pairs_follow_from_namespaces_that_refuse_the_bundle() -> None:
    """A pair is unproven while a namespace has no bundle; that is not a cause of its own."""
    world = World(NAMES, T)
    world.edit_publication("west", forbidden=1, current=2)
    assert world.leader is not None
    reasons = dict.fromkeys(
        ("east>west", "west>east", "north>west", "west>north"), "west: 1 of 3 hold no bundle"
    )
    matrix = replace(world.leader.matrix, rows=["-?v", "?-?", "v?-"], valid=2, reasons=reasons)
    world.leader = replace(world.leader, matrix=matrix)
    status = seen(world)
    assert status.verdict != "healthy"
    assert [(item.code, item.where) for item in status.attention] == [("publication_forbidden", "west")]
    assert any(one.code == "pairs_unknown" for one in status.attention[0].consequences)
