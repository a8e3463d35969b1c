"""A hub whose probes are all green is not, where workloads get no certificates: status, metrics and verify say so."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec.structs import replace

from federation.core.documents.controller import RotationReport
from federation.core.documents.signer import RefusalsReport, RejectedCallsReport, WorkloadsReport
from federation.status.metrics import hub_metrics
from federation.status.model import ClusterView, FederationStatus
from federation.status.text import status_text
from federation.status.view import compose
from tests.status.worlds import World

NAMES = ["east", "west", "north"]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
T = NOW.timestamp()
REFUSED = RefusalsReport(
    count=40,
    since=T - 300,
    last=T - 2,
    reason="csr_trust_domain",
    detail="it asks for 'spiffe://other/ns/a/sa/b', and this hub's trust domain is mesh.example.org",
    remedy="set meshConfig.trustDomain to mesh.example.org in that mesh",
)


def changed(world: World, **fields: object) -> None:
    """Change what both signers report of the workloads of ``east``."""
    for replica in world.signers:
        reported = world.signers[replica].clusters["east"].workloads
        world.edit_on_signer(replica, "east", workloads=replace(reported, **fields))


def refused(world: World, refusals: RefusalsReport = REFUSED) -> None:
    for replica in world.signers:
        world.edit_on_signer(replica, "east", refusals=refusals, workload_issued_at=T - 50000)


def seen(world: World) -> FederationStatus:
    return compose(world.document_set(), world.config, NOW)


def east(status: FederationStatus) -> ClusterView:
    return status.clusters[0]


def codes(status: FederationStatus) -> dict[str, str]:
    return {item.code: item.severity for item in status.attention}


def test_a_well_mesh_is_green_and_says_how_many_hold_a_certificate() -> None:
    status = seen(World(NAMES, T))
    assert (status.verdict, codes(status)) == ("healthy", {})
    assert east(status).workloads.fine
    assert "12/12 hold one; 10 sidecars, 10 have asked the hub" in status_text(status)


def test_renewals_that_stopped_are_critical_and_named() -> None:
    world = World(NAMES, T)
    changed(world, with_certificate=2, lapsed=10, ended=["shop/cart-0", "shop/web-1"])
    status = seen(world)
    assert status.matrix.proven, "the probes are as green as ever"
    assert (status.verdict, east(status).health) == ("failing", "failing")
    assert codes(status) == {"renewals_stopped": "critical"}
    (item,) = status.attention
    assert "2 of 12 workloads hold a certificate (of 10 it has ended)" in item.detail
    assert "shop/cart-0" in item.detail


def test_a_mesh_of_another_trust_domain_is_critical_with_reason_and_remedy() -> None:
    world = World(NAMES, T)
    changed(world, workloads=0, with_certificate=0, sidecars=0, asked=0)
    refused(world)
    status = seen(world)
    assert (status.verdict, east(status).health) == ("failing", "failing")
    (item,) = status.attention
    assert (item.severity, item.code, item.where) == ("critical", "callers_refused", "east")
    assert "csr_trust_domain" in item.detail
    assert "spiffe://other/ns/a/sa/b" in item.detail
    assert item.remedy == REFUSED.remedy
    assert not east(status).workloads.fine


def test_a_consequence_has_the_remedy_of_its_cause() -> None:
    world = World(NAMES, T)
    changed(world, with_certificate=0, lapsed=12)
    refused(world)
    status = seen(world)
    assert codes(status) == {"renewals_stopped": "critical", "callers_refused": "critical"}
    assert {item.remedy for item in status.attention} == {REFUSED.remedy}


def test_one_caller_that_is_refused_among_many_that_hold_certificates_is_a_notice() -> None:
    world = World(NAMES, T)
    refused(world)
    status = seen(world)
    assert (status.verdict, codes(status)) == ("healthy", {"some_callers_refused": "notice"})
    # Refused for half of their lives, all of them would have had to renew.
    refused(world, replace(REFUSED, since=T - 43201))
    assert codes(seen(world)) == {"callers_refused": "critical"}


@pytest.mark.parametrize(("workloads", "severity"), [(0, "warning"), (12, "notice")])
def test_refused_callers_that_only_name_a_cluster_do_not_degrade_it(workloads: int, severity: str) -> None:
    """Any client can do that, so such refusals do not change the health of the cluster."""
    world = World(NAMES, T)
    changed(world, workloads=workloads, with_certificate=workloads)
    for replica in world.signers:
        world.edit_on_signer(replica, "east", unproven=REFUSED, workload_issued_at=T - 50000)
    status = seen(world)
    assert codes(status) == {"unproven_callers_refused": severity}
    assert east(status).health == "healthy"
    assert east(status).workloads.fine
    assert status.attention[0].where == "signer"


def test_many_rejected_calls_are_reported_with_their_addresses() -> None:
    world = World(NAMES, T)
    for replica, signer in world.signers.items():
        few = RejectedCallsReport(recent={"late_message": 20}, addresses={"192.0.2.9": 20})
        world.signers[replica] = replace(signer, rejected_calls=few)
    assert codes(seen(world)) == {}, "a few are always"
    for replica, signer in world.signers.items():
        flood = RejectedCallsReport(
            total={"late_message": 900, "too_many_calls": 7},
            recent={"late_message": 300, "too_many_calls": 4},
            addresses={"192.0.2.1": 301, "192.0.2.9": 3},
        )
        world.signers[replica] = replace(signer, rejected_calls=flood)
    status = seen(world)
    assert codes(status) == {"calls_rejected": "warning"}
    (item,) = status.attention
    assert "608 calls" in item.detail
    assert "late_message 600, too_many_calls 8" in item.detail
    assert "192.0.2.1 (602)" in item.detail
    text = hub_metrics(status, world.document_set(), T).decode()
    counts = [line for line in text.splitlines() if line.startswith("federation_calls_rejected_total{")]
    assert sum('reason="late_message"' in line and line.endswith(" 900.0") for line in counts) == 2


def test_many_refused_connections_are_reported_apart_from_rejected_calls() -> None:
    world = World(NAMES, T)
    for replica, signer in world.signers.items():
        few = RejectedCallsReport(recent={"handshake_failed": 20}, addresses={"192.0.2.9": 20})
        world.signers[replica] = replace(signer, connections_refused=few)
    assert codes(seen(world)) == {}, "a few are always"
    for replica, signer in world.signers.items():
        flood = RejectedCallsReport(
            total={"handshake_failed": 900, "reset_flood": 7},
            recent={"handshake_failed": 300, "reset_flood": 4},
            addresses={"192.0.2.1": 301, "192.0.2.9": 3},
        )
        world.signers[replica] = replace(signer, connections_refused=flood)
    status = seen(world)
    assert codes(status) == {"connections_refused": "warning"}
    (item,) = status.attention
    assert "608 connections" in item.detail
    assert "handshake_failed 600, reset_flood 8" in item.detail
    assert "192.0.2.1 (602)" in item.detail
    text = hub_metrics(status, world.document_set(), T).decode()
    counts = [line for line in text.splitlines() if line.startswith("federation_connections_refused_total{")]
    assert sum('reason="handshake_failed"' in line and line.endswith(" 900.0") for line in counts) == 2


def test_refusals_of_long_ago_are_over() -> None:
    world = World(NAMES, T)
    refused(world, replace(REFUSED, since=T - 90000, last=T - 3600))
    assert codes(seen(world)) == {}


def test_pods_that_have_to_be_restarted_are_a_notice_with_their_names() -> None:
    world = World(NAMES, T)
    changed(world, workloads=15, sidecars=13, asked=10, never_requested=["old/a", "old/b", "old/c"])
    status = seen(world)
    assert (status.verdict, codes(status)) == ("healthy", {"sidecars_never_requested": "notice"})
    (item,) = status.attention
    assert item.detail == "3 of 13 pods with a sidecar have not asked the hub: old/a, old/b, old/c"
    assert "rollout restart" in item.remedy
    assert "13 sidecars, 10 have asked the hub" in status_text(status)


def test_a_mesh_that_never_asked_is_not_green_until_its_own_ca_is_known_to_issue() -> None:
    world = World(NAMES, T)
    changed(world, workloads=10, with_certificate=0, asked=0)
    status = seen(world)
    assert (status.verdict, east(status).health) == ("degraded", "degraded")
    assert codes(status)["workloads_without_certificate"] == "warning"
    assert not east(status).workloads.fine
    world.edit_leader(rotation=RotationReport(computed=T - 1, undeclared=["east"]))
    joining = seen(world)
    assert codes(joining)["workloads_without_certificate"] == "notice"
    assert east(joining).workloads.fine


@pytest.mark.parametrize(
    ("workloads", "words"),
    [
        (WorkloadsReport(), "it is not reported"),
        (WorkloadsReport(detail="its pods are not watched at present: 403"), "403"),
        (WorkloadsReport(watched=False, detail="attestation is token-review"), "token-review"),
        (
            WorkloadsReport(workloads=9, with_certificate=1, known_from=T + 3600, detail=""),
            "not accounted for",
        ),
        (WorkloadsReport(workloads=1, with_certificate=5, detail=""), "does not add up"),
        (WorkloadsReport(workloads=-1, with_certificate=-1, detail=""), "does not add up"),
    ],
)
def test_what_is_not_known_is_not_green(workloads: WorkloadsReport, words: str) -> None:
    world = World(NAMES, T)
    for replica in world.signers:
        world.edit_on_signer(replica, "east", workloads=workloads)
    status = seen(world)
    assert (status.verdict, east(status).health) == ("degraded", "unknown")
    assert codes(status) == {"workloads_unknown": "warning"}
    assert any(words.split(maxsplit=1)[0] in item.detail for item in status.attention)
    assert not east(status).workloads.fine


def test_one_signer_that_knows_is_enough() -> None:
    world = World(NAMES, T)
    world.edit_on_signer("signer-0", "east", workloads=WorkloadsReport())
    assert seen(world).verdict == "healthy"


def test_callers_of_no_registered_cluster_are_a_warning() -> None:
    world = World(NAMES, T)
    world.edit_signer(
        "signer-0",
        unattributed=replace(
            REFUSED, reason="unknown_cluster", detail="no cluster has the ID 'x'", remedy=""
        ),
    )
    status = seen(world)
    assert (status.verdict, codes(status)) == ("degraded", {"callers_of_no_cluster": "warning"})
    assert "unknown_cluster: no cluster has the ID 'x'" in status.attention[0].detail
    assert "clusterName" in status.attention[0].remedy


def test_callers_of_a_removed_cluster_degrade_nothing_and_hide_no_others() -> None:
    world = World(NAMES, T)
    removed = replace(REFUSED, reason="removed_cluster", detail="it was removed", last=T)
    world.edit_signer("signer-0", removed=removed)
    status = seen(world)
    assert (status.verdict, codes(status)) == ("healthy", {"callers_of_removed_cluster": "notice"})
    world.edit_signer("signer-1", unattributed=replace(REFUSED, reason="unknown_cluster", last=T - 5))
    status = seen(world)
    assert status.verdict == "degraded"
    assert codes(status) == {"callers_of_no_cluster": "warning", "callers_of_removed_cluster": "notice"}


def test_metrics_have_a_sample_for_each_cluster_where_the_number_is_known() -> None:
    world = World(NAMES, T)
    changed(world, with_certificate=2, lapsed=10)
    for replica in world.signers:
        world.edit_on_signer(replica, "west", workloads=WorkloadsReport())
    lines = hub_metrics(seen(world), world.document_set(), T).decode().splitlines()
    assert 'federation_workloads_served{cluster="east"} 0.0' in lines
    assert 'federation_workloads_ended{cluster="east"} 10.0' in lines
    assert 'federation_workloads_served{cluster="north"} 1.0' in lines
    assert 'federation_sidecars_requested{cluster="north"} 10.0' in lines
    assert 'federation_workloads_served{cluster="west"} 0.0' in lines
    assert not any(line.startswith('federation_workloads{cluster="west"}') for line in lines)


def test_a_document_of_an_earlier_release_is_read_and_not_green() -> None:
    world = World(NAMES, T)
    document = msgspec.json.decode(msgspec.json.encode(world.signers["signer-0"]))
    for name in NAMES:
        del document["clusters"][name]["workloads"]
        del document["clusters"][name]["refusals"]
    del document["unplaced"]
    old = msgspec.convert(document, type(world.signers["signer-0"]))
    world.signers = {"signer-0": old, "signer-1": replace(old, replica="signer-1")}
    assert seen(world).verdict == "degraded"
