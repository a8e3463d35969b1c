"""The verdict: healthy if everything was read back recently, and never if anything is unknown or stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as with_changes
from datetime import UTC, datetime
from typing import Annotated, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.config.hub import StatusConfig
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControllerReport,
    ListenerReport,
    Matrix,
    Operation,
    RotationReport,
    SignerListenerReport,
)
from federation.core.documents.signer import AuthorityReport, SignerReport
from federation.core.documents.trust import Current, Generation, Proposal
from federation.core.identity import ServiceAccountRef
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import RotationRecord, State
from federation.status.encoding import decode_answer, encode_answer
from federation.status.model import FederationStatus
from federation.status.snapshot import DocumentSet
from federation.status.view import compose
from tests.status.worlds import DAY, SHA, World, generation, hub_config, signer
from tests.support.examples import examples

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
T = NOW.timestamp()
NAMES = ["east", "west", "north"]


def seen(world: World, problems: tuple[str, ...] = ()) -> FederationStatus:
    return compose(world.document_set(), world.config, NOW, problems)


def codes(status: FederationStatus) -> set[str]:
    return {item.code for item in status.attention}


def test_a_federation_that_is_well_is_healthy_and_nothing_needs_attention() -> None:
    status = seen(World(NAMES, T))
    assert (status.verdict, status.attention) == ("healthy", [])
    assert status.matrix.proven
    assert (status.matrix.pairs, status.matrix.valid) == (6, 6)
    assert [cluster.health for cluster in status.clusters] == ["healthy"] * 3
    assert status.certificates_issued == 2 * 3 * 40
    assert status.refusals == {"attestation": 12, "policy": 6}


def test_one_cluster_is_healthy_with_no_pair_to_prove() -> None:
    status = seen(World(["only"], T))
    assert (status.verdict, status.matrix.pairs, status.matrix.proven) == ("healthy", 0, True)


def test_no_cluster_is_not_healthy() -> None:
    status = seen(World([], T))
    assert status.verdict == "degraded"
    assert not status.matrix.proven
    assert "no_clusters" in codes(status)


def edit_anchor(world: World, **changes: object) -> None:
    anchors = world.generations[7].anchors
    changed = [replace(anchor, **changes) for anchor in anchors[:1]]
    world.generations[7] = replace(world.generations[7], anchors=[*changed, *anchors[1:]])


def edit_authority(world: World, **changes: object) -> None:
    for replica, report in world.signers.items():
        assert report.authority is not None
        world.edit_signer(replica, authority=replace(report.authority, **changes))


def listeners(state: str, *, since: float = 0.0) -> ListenerReport:
    """What new connections to one signer's listener met."""
    found = SignerListenerReport(
        replica="signer-0", since=since or T, state=state, detail="certificate expired"
    )
    return ListenerReport(computed=T, connections=1, signers=[found])


def silence_leader(world: World) -> None:
    world.leader = None


def drop_current(world: World) -> None:
    world.current = None


def forge_current(world: World) -> None:
    world.current = Current(number=7, sha256="0" * 64)


def lose_generation(world: World) -> None:
    del world.generations[7]


def other_config(world: World) -> None:
    world.config = with_changes(world.config, digest="9" * 64)


def unregistered_everywhere(world: World) -> None:
    world.config = hub_config([*NAMES, "south"])


def old_matrix(world: World, **changes: object) -> None:
    assert world.leader is not None
    world.edit_leader(matrix=replace(world.leader.matrix, **changes))


def new_generation(world: World) -> None:
    world.generations[7] = replace(world.generations[7], created=T - 1)


def another_authority(world: World) -> AuthorityReport:
    """What a signer was restarted with, which is not what is in force."""
    authority = world.signers["signer-0"].authority
    assert authority is not None
    return replace(
        authority,
        sha256="d" * 64,
        name="another",
        state="unavailable",
        reason="authority_not_in_force",
        detail="CN=another is under the root CN=elsewhere",
        remedy="put the former authority back",
    )


def not_in_force_anywhere(world: World) -> None:
    for replica in world.signers:
        reasons = ["no authority may sign: CN=another is under the root CN=elsewhere"]
        world.edit_signer(replica, authority=another_authority(world), ready=False, reasons=reasons)


def another_mesh(world: World) -> None:
    world.generations[7] = replace(world.generations[7], trust_domain="elsewhere.example")
    world.edit_leader(leader=False)
    for replica in world.signers:
        world.edit_signer(replica, ready=False, reasons=["there is no bundle"])


FAULTS: dict[str, tuple[Callable[[World], None], str, str]] = {
    "no leader": (silence_leader, "failing", "no_leader"),
    "leader stale": (lambda w: w.edit_leader(updated=T - 6.1, heartbeat=2.0), "failing", "no_leader"),
    "leader from the future": (lambda w: w.edit_leader(updated=T + 60), "failing", "no_leader"),
    "leader grants itself a long life": (
        lambda w: w.edit_leader(updated=T - 600, heartbeat=1e9),
        "failing",
        "no_leader",
    ),
    "follower only": (lambda w: w.edit_leader(leader=False), "failing", "no_leader"),
    "leader not ready": (lambda w: w.edit_leader(ready=False), "degraded", "controller_not_ready"),
    "nothing in force": (drop_current, "failing", "no_generation"),
    "another digest in force": (forge_current, "failing", "no_generation"),
    "generation lost": (lose_generation, "failing", "no_generation"),
    "no anchor": (
        lambda w: w.generations.__setitem__(7, generation(7, T, anchors=[])),
        "failing",
        "no_anchor",
    ),
    "root expired": (lambda w: edit_anchor(w, not_after=T - 1), "failing", "anchor_expiry_expired"),
    "root near its end": (
        lambda w: edit_anchor(w, not_after=T + 6 * DAY),
        "failing",
        "anchor_expiry_critical",
    ),
    "root ends this month": (
        lambda w: edit_anchor(w, not_after=T + 25 * DAY),
        "degraded",
        "anchor_expiry_warning",
    ),
    "root not valid yet": (
        lambda w: edit_anchor(w, not_before=T + 60),
        "degraded",
        "anchor_not_yet_valid",
    ),
    "authority unavailable": (
        lambda w: edit_authority(w, state="unavailable"),
        "failing",
        "authority_unavailable",
    ),
    "authority state is garbage": (lambda w: edit_authority(w, state="🙂"), "failing", "authority_unknown"),
    "intermediate expired": (
        lambda w: edit_authority(w, not_after=T - 1),
        "failing",
        "authority_expiry_expired",
    ),
    "intermediate without an end": (
        lambda w: edit_authority(w, not_after=0.0),
        "degraded",
        "authority_expiry_unknown",
    ),
    "serving expired": (
        lambda w: w.edit_signer("signer-0", serving_not_after=T - 1),
        "failing",
        "serving_expiry",
    ),
    "serving not replaced": (
        lambda w: w.edit_signer("signer-0", serving_not_after=T + 500),
        "degraded",
        "serving_expiry",
    ),
    "new callers refuse the listener": (
        lambda w: w.edit_leader(listener=listeners("refused")),
        "failing",
        "listener_refused",
    ),
    "a listener that nothing meets": (
        lambda w: w.edit_leader(listener=listeners("not_met", since=T - 90)),
        "degraded",
        "listener_unproved",
    ),
    "no signer": (lambda w: w.signers.clear(), "failing", "no_signer"),
    "signer stale": (lambda w: w.edit_signer("signer-0", updated=T - 7), "degraded", "signer_stale"),
    "signer not ready": (lambda w: w.edit_signer("signer-0", ready=False), "degraded", "signer_not_ready"),
    "half of the open files": (
        lambda w: w.edit_leader(open_files=512, open_files_limit=1024),
        "degraded",
        "open_files",
    ),
    "hardly any more files": (
        lambda w: w.edit_signer("signer-0", open_files=960, open_files_limit=1024),
        "failing",
        "open_files",
    ),
    "signer behind": (lambda w: w.edit_signer("signer-0", generation=6), "degraded", "signer_behind"),
    "signer with other bytes": (
        lambda w: w.edit_signer("signer-0", bundle_sha256="0" * 64),
        "degraded",
        "signer_behind",
    ),
    "signer knows a cluster degraded": (
        lambda w: w.edit_on_signer("signer-1", "west", state="degraded"),
        "degraded",
        "signing_degraded",
    ),
    "one signer lacks a cluster": (
        lambda w: w.edit_on_signer("signer-1", "west", state="unavailable"),
        "degraded",
        "signing_degraded",
    ),
    "leader behind": (lambda w: w.edit_leader(generation=6), "degraded", "controller_behind"),
    "source fails": (
        lambda w: w.edit_leader(sources={"pinned": "file unreadable"}),
        "degraded",
        "source_degraded",
    ),
    "cluster unreachable": (
        lambda w: w.edit_seen("west", state="unavailable", reason="timeout"),
        "degraded",
        "cluster_unavailable",
    ),
    "cluster in no known state": (
        lambda w: w.edit_seen("west", state="splendid"),
        "degraded",
        "cluster_unknown",
    ),
    "cluster not in the report": (
        lambda w: w.edit_leader(clusters={}),
        "degraded",
        "cluster_unknown",
    ),
    "cluster registered a moment ago": (unregistered_everywhere, "degraded", "cluster_unknown"),
    "namespaces pending": (
        lambda w: w.edit_publication("west", pending=1),
        "degraded",
        "publication_pending",
    ),
    "a namespace failed": (lambda w: w.edit_publication("west", failed=1), "degraded", "publication_failed"),
    "a namespace lacks it": (
        lambda w: w.edit_publication("west", current=47),
        "degraded",
        "publication_pending",
    ),
    "other content observed": (
        lambda w: w.edit_publication("west", contents={"0" * 64: 48}),
        "degraded",
        "publication_pending",
    ),
    "older generation observed": (
        lambda w: w.edit_publication("west", generation=6),
        "degraded",
        "publication_pending",
    ),
    "selector selects nothing": (
        lambda w: w.edit_publication("west", selected=0, current=0),
        "degraded",
        "publication_pending",
    ),
    "never read back": (
        lambda w: w.edit_publication("west", read_back=0.0),
        "degraded",
        "publication_unknown",
    ),
    "read back long ago": (
        lambda w: w.edit_publication("west", read_back=T - 900),
        "degraded",
        "publication_unknown",
    ),
    "read back in the future": (
        lambda w: w.edit_publication("west", read_back=T + 9000),
        "degraded",
        "publication_unknown",
    ),
    "namespaces forbidden": (
        lambda w: w.edit_publication("west", forbidden=2),
        "degraded",
        "publication_forbidden",
    ),
    "another writer": (
        lambda w: w.edit_publication("west", other_writers=["pilot-discovery"]),
        "degraded",
        "other_writers",
    ),
    "no probe": (lambda w: w.edit_seen("west", probe_detail="refused"), "degraded", "probe_failed"),
    "clock skew": (lambda w: w.edit_seen("west", clock_skew=-90.0), "degraded", "clock_skew"),
    "a pair fails": (lambda w: w.set_cells({("east", "west"): "x"}), "failing", "pair_failed"),
    "a pair is unknown": (lambda w: w.set_cells({("east", "west"): "?"}), "degraded", "pairs_unknown"),
    "a cell is garbage": (lambda w: w.set_cells({("east", "west"): "V"}), "degraded", "pairs_unknown"),
    "nothing proved yet": (lambda w: old_matrix(w, computed=0.0), "degraded", "pairs_unknown"),
    "proved long ago": (lambda w: old_matrix(w, computed=T - 91), "degraded", "pairs_unknown"),
    "proved in the future": (lambda w: old_matrix(w, computed=T + 500), "degraded", "pairs_unknown"),
    "matrix too small": (lambda w: old_matrix(w, rows=["-v", "v-"]), "degraded", "pairs_unknown"),
    "matrix of others": (lambda w: old_matrix(w, clusters=["a", "b", "c"]), "degraded", "pairs_unknown"),
    "proved before the generation": (new_generation, "degraded", "pairs_unknown"),
    "another configuration": (other_config, "degraded", "config_differs"),
    "an authority that is not taken up": (
        lambda w: edit_authority(
            w,
            state="degraded",
            reason="authority_not_in_force",
            detail="it still signs",
            remedy="put it back",
        ),
        "degraded",
        "authority_not_in_force",
    ),
    "an authority that is not taken up by one signer alone": (
        lambda w: w.edit_signer("signer-0", authority=another_authority(w)),
        "degraded",
        "authority_not_in_force",
    ),
    "an authority that is not in force, and all there is": (
        not_in_force_anywhere,
        "failing",
        "authority_not_in_force",
    ),
    "what is in force is not recorded": (
        lambda w: w.edit_leader(rotation=RotationReport(computed=T, unsettled="signers differ")),
        "degraded",
        "authority_unsettled",
    ),
    "a signer that does not follow a state that was set back": (
        lambda w: w.edit_signer("signer-0", not_applied=["directives: of revision 3, and 7 was followed"]),
        "degraded",
        "signer_not_applied",
    ),
    "a state of another trust domain": (another_mesh, "failing", "another_mesh"),
    "a refused reload elsewhere": (
        lambda w: w.edit_signer("signer-0", config_problems=["line 3"]),
        "degraded",
        "config_problem",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_reported_with_a_remedy(name: str) -> None:
    break_it, verdict, code = FAULTS[name]
    world = World(NAMES, T)
    break_it(world)
    status = seen(world)
    assert status.verdict == verdict
    found = [item for item in status.attention if item.code == code]
    assert found
    assert all(item.detail and item.where and item.remedy for item in found)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=5))
def test_no_combination_of_faults_hides_one(names: list[str]) -> None:
    world = World(NAMES, T)
    for name in names:
        if world.leader is None or not world.signers or 7 not in world.generations:
            break
        if not world.leader.clusters:
            break
        FAULTS[name][0](world)
    assert seen(world).verdict != "healthy"


def test_a_just_renewed_listener_certificate_is_given_time_to_be_met() -> None:
    world = World(NAMES, T)
    world.edit_leader(listener=listeners("not_met", since=T - 10))
    status = seen(world)
    assert (status.verdict, codes(status)) == ("healthy", set())
    (view,) = (view for view in status.signers if view.replica == "signer-0")
    assert (view.listener, view.listener_detail) == ("not_met", "certificate expired")


def test_an_odd_anchor_leaves_the_verdict_healthy_and_a_refused_one_does_not() -> None:
    world = World(NAMES, T)
    edit_anchor(world, odd="CN=root has the serial number 0")
    assert (seen(world).verdict, codes(seen(world))) == ("healthy", {"anchor_odd"})
    edit_anchor(world, refused="EC on brainpoolP256r1")
    assert (seen(world).verdict, codes(seen(world))) == ("degraded", {"anchor_odd", "anchor_refused"})


def test_an_authority_that_is_not_in_force_is_reported_once_with_its_consequences() -> None:
    world = World(NAMES, T)
    not_in_force_anywhere(world)
    status = seen(world)
    (item,) = [item for item in status.attention if item.severity != "notice"]
    assert (item.code, item.severity, item.where) == (
        "authority_not_in_force",
        "critical",
        "another on signer-0, signer-1",
    )
    assert item.remedy == "put the former authority back"
    assert {"no_signer", "signer_not_ready", "signing_unavailable"} <= {c.code for c in item.consequences}


def test_a_state_of_another_trust_domain_is_reported_once_with_its_consequences() -> None:
    world = World(NAMES, T)
    another_mesh(world)
    (item,) = [item for item in seen(world).attention if item.severity != "notice"]
    assert (item.code, item.severity) == ("another_mesh", "critical")
    assert "'elsewhere.example' back" in item.remedy


def test_what_only_informs_leaves_the_verdict_healthy() -> None:
    world = World(NAMES, T)
    found = Proposal(sha256="f" * 64, subject="CN=other", cluster="west", origin="read", not_after=T + DAY)
    world.edit_leader(proposals=[found], warnings=["require_pod is off"])
    edit_anchor(world, foreign_override=True, trust_domain="other.example.org")
    status = seen(world)
    assert status.verdict == "healthy"
    assert codes(status) == {"anchor_proposed", "insecure_option"}
    assert len(status.insecure_options) == 2
    assert [proposal.sha256 for proposal in status.proposals] == ["f" * 64]


def test_a_signer_long_gone_does_not_degrade_those_that_serve() -> None:
    world = World(NAMES, T)
    world.signers["signer-old"] = replace(signer("signer-old", NAMES, T), updated=T - 3600)
    status = seen(world)
    assert status.verdict == "healthy"
    assert [item.severity for item in status.attention] == ["notice"]
    assert [(s.replica, s.stale) for s in status.signers if s.stale] == [("signer-old", True)]
    assert status.certificates_issued == 3 * 3 * 40


def test_what_was_known_before_the_leader_was_lost_is_not_shown_as_valid() -> None:
    world = World(NAMES, T)
    world.edit_leader(updated=T - 300)
    status = seen(world)
    assert status.matrix.rows == ["-??", "?-?", "??-"]
    assert {cluster.health for cluster in status.clusters} == {"unknown"}
    assert all(cluster.publication.selected == 48 for cluster in status.clusters)
    assert not any(controller.leader for controller in status.controllers)
    assert "5 min" in status.attention[0].detail


def test_the_failing_cluster_is_distinguished_from_those_affected_by_it() -> None:
    world = World([f"c{i}" for i in range(6)], T)
    world.set_cells({("c3", name): "x" for name in world.names if name != "c3"})
    status = seen(world)
    assert [cluster.name for cluster in status.clusters if cluster.health == "failing"] == ["c3"]
    assert [item.where for item in status.attention if item.code == "pair_failed"] == ["c3 to 5 clusters"]


def test_an_unreachable_cluster_leaves_other_clusters_healthy_but_its_pairs_unproven() -> None:
    world = World(NAMES, T)
    world.edit_seen("west", state="unavailable", reason="timeout", detail="no answer", since=T - 60)
    status = seen(world)
    assert {c.name: c.health for c in status.clusters} == {
        "east": "healthy",
        "west": "failing",
        "north": "healthy",
    }
    assert status.matrix.unknown == 4
    assert not status.matrix.proven
    assert codes(status) == {"cluster_unavailable"}


def test_many_similar_findings_are_reported_as_one() -> None:
    world = World([f"c{i:03d}" for i in range(100)], T)
    for name in world.names:
        world.edit_publication(name, current=0, pending=48, contents={})
    status = seen(world)
    assert len(status.attention) == 1
    assert "99 more" in status.attention[0].detail


words = st.text(max_size=12)
times = st.one_of(
    st.just(0.0), st.floats(T - 1000, T + 1000), st.floats(allow_nan=False, allow_infinity=False)
)
counts = st.integers(-5, 10**18)
states = st.sampled_from(["ready", "degraded", "unavailable", "", "READY", "unknown"])
overrides: dict[type, st.SearchStrategy[object]] = {}


def documents(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """Any document of that kind that the decoder would let through."""
    return st.builds(
        kind, **{field.name: values(field.name, field.type) for field in msgspec.structs.fields(kind)}
    )


def values(name: str, kind: object) -> st.SearchStrategy[object]:
    if get_origin(kind) is Annotated:
        kind = kind.__origin__  # type: ignore[attr-defined]
    text = str(kind)
    if name == "clusters" and text.startswith("dict"):
        inner = kind.__args__[1]  # type: ignore[attr-defined]
        return st.dictionaries(st.sampled_from([*NAMES, "stranger"]), values("", inner), max_size=4)
    if name == "state" and kind is str:
        return states
    if name == "rows":
        return st.lists(st.text(alphabet="vx?-z", max_size=4), max_size=4)
    if name in {"clusters", "names"}:
        return st.lists(st.sampled_from([*NAMES, "stranger"]), max_size=4)
    if kind is float:
        return times
    if kind is int:
        return counts
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.one_of(words, st.just(SHA))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return documents(kind)
    if text.startswith("dict[str, int]"):
        return st.dictionaries(st.one_of(words, st.just(SHA)), counts, max_size=3)
    if text.startswith("dict[str, str]"):
        return st.dictionaries(words, words, max_size=3)
    if text.startswith("list[str]"):
        return st.lists(words, max_size=3)
    if text.startswith("list[float]"):
        return st.lists(times, max_size=3)
    if text.startswith("list[int]"):
        return st.lists(counts, max_size=3)
    if text.startswith("dict[str, float]"):
        return st.dictionaries(words, times, max_size=3)
    if text.startswith("dict["):
        return st.dictionaries(st.sampled_from(NAMES), values("", kind.__args__[1]), max_size=3)  # type: ignore[attr-defined]
    if text.startswith("list["):
        return st.lists(values("", kind.__args__[0]), max_size=3)  # type: ignore[attr-defined]
    if isinstance(kind, type) and issubclass(kind, State):
        return st.sampled_from(list(State))
    inner = next(a for a in kind.__args__ if a is not type(None))  # type: ignore[attr-defined]
    return st.one_of(st.none(), values("", inner))


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("rotation", "restore it from a backup"),
        ("signers/a", "remove it if its writer is gone"),
        ("horizons/a", "leave it: until it is gone, leaves count as living on"),
    ],
)
def test_the_remedy_for_a_damaged_document_depends_on_its_kind(key: str, remedy: str) -> None:
    world = World(NAMES, T)
    status = compose(with_changes(world.document_set(), damaged={key: "it is cut short"}), world.config, NOW)
    (item,) = [item for item in status.attention if item.code == "state_damaged"]
    assert item.where == key
    assert remedy in item.remedy


snapshots = st.builds(
    DocumentSet,
    current=st.one_of(st.none(), st.builds(Current, number=st.integers(0, 3), sha256=st.just(SHA))),
    generations=st.dictionaries(st.integers(0, 3), documents(Generation), max_size=3),
    signers=st.dictionaries(words, documents(SignerReport), max_size=3),
    controllers=st.dictionaries(words, documents(ControllerReport), max_size=3),
    damaged=st.dictionaries(words, words, max_size=2),
    record=st.one_of(st.none(), documents(RotationRecord)),
    directives=st.one_of(st.none(), documents(SigningDirectives)),
    operations=st.lists(documents(Operation), max_size=2),
)


@settings(max_examples=examples(60), deadline=None)
@given(snapshots)
def test_for_any_documents_the_answer_is_well_formed_and_not_green_by_chance(
    document_set: DocumentSet,
) -> None:
    status = compose(document_set, hub_config(NAMES, StatusConfig()), NOW)
    written = encode_answer(status)
    assert encode_answer(decode_answer(written, FederationStatus)) == written
    assert status.matrix.pairs == 6
    counted = status.matrix.valid + status.matrix.failed + status.matrix.unknown + status.matrix.quarantined
    assert counted == status.matrix.pairs
    if status.verdict == "healthy":
        leaders = [c for c in document_set.controllers.values() if c.leader and abs(T - c.updated) <= 180]
        assert leaders
        assert status.matrix.proven
        assert status.bundle is not None
        assert not document_set.damaged
    for cluster in status.clusters:
        if cluster.health == "healthy":
            assert (cluster.connection.state, cluster.signing.state) == ("ready", "ready")
            assert cluster.publication.state == "current"
            assert cluster.proof.failed == 0
            assert cluster.workloads.fine
            assert cluster.workloads.with_certificate > 0 or cluster.workloads.workloads == 0


@settings(max_examples=100, deadline=None)
@given(age=st.floats(0, 1e6), heartbeat=st.floats(0.1, 30))
def test_a_leader_counts_for_three_heartbeats_and_no_longer(age: float, heartbeat: float) -> None:
    world = World(NAMES, T)
    world.edit_leader(updated=T - age, heartbeat=heartbeat)
    status = seen(world)
    assert (status.verdict == "healthy") == (T - (T - age) <= 3 * max(heartbeat, 1.0))


def test_two_leaders_are_reported_and_the_newer_one_counts() -> None:
    world = World(NAMES, T)
    assert world.leader is not None
    other = replace(world.leader, replica="controller-1", updated=T - 3, matrix=Matrix())
    document_set = replace_controllers(world, {"controller-0": world.leader, "controller-1": other})
    status = compose(document_set, world.config, NOW)
    assert status.verdict == "degraded"
    assert codes(status) == {"two_leaders"}
    assert status.matrix.proven


def replace_controllers(world: World, controllers: dict[str, ControllerReport]) -> DocumentSet:
    return with_changes(world.document_set(), controllers=controllers)


def test_a_failed_reload_of_the_servers_own_configuration_is_reported() -> None:
    status = seen(World(NAMES, T), ("clusters.toml: cluster[0].name: is missing",))
    assert status.verdict == "degraded"
    assert status.config_problems == ["clusters.toml: cluster[0].name: is missing"]


def test_a_cluster_report_of_a_leader_is_complete_enough_to_be_shown() -> None:
    world = World(NAMES, T)
    world.edit_seen("east", publication=ControllerClusterReport(state="ready").publication)
    (east, *_) = seen(world).clusters
    assert (east.health, east.publication.state) == ("unknown", "unknown")


def test_a_cluster_view_names_its_trusted_node_proxy_accounts() -> None:
    world = World(NAMES, T)
    east, *others = world.config.clusters
    trusted = (ServiceAccountRef("istio-system", "ztunnel"),)
    ambient = with_changes(east, policy=with_changes(east.policy, trusted_node_accounts=trusted))
    config = with_changes(world.config, clusters=(ambient, *others))
    status = compose(world.document_set(), config, NOW)
    trusted_accounts = {view.name: view.trusted_node_accounts for view in status.clusters}
    assert trusted_accounts == {"east": ["istio-system/ztunnel"], "west": [], "north": []}


def test_an_alarm_outlives_a_signer_that_is_replaced_under_another_name() -> None:
    """A killed pod does not come back under its name, and its alarm has not been answered yet."""
    hub = World(["east"], T)
    was = hub.signers["signer-0"]
    assert was.authority is not None
    alarmed = replace(
        was.authority,
        violations=2,
        last_violation="another key",
        last_violation_at=T - 900,
        sha256="9" * 64,
    )

    def alarms(ago: float) -> list[str]:
        hub.signers["killed"] = replace(was, replica="killed", updated=T - ago, authority=alarmed)
        found = seen(hub)
        (authority,) = found.authorities
        assert authority.signers == ["signer-0", "signer-1"], "nothing else of it counts"
        return [item.detail for item in found.attention if item.code == "authority_violation"]

    (what,) = alarms(600)
    assert "returned 2 times something else" in what
    assert "another key" in what
    assert alarms(DAY + 600) == []


@pytest.mark.parametrize(("count", "most"), [(511, 1024), (5000, 0), (0, 1024)])
def test_of_open_files_nothing_is_reported_while_there_is_room_or_no_limit(count: int, most: int) -> None:
    world = World(["east"], T)
    world.edit_leader(open_files=count, open_files_limit=most)
    status = compose(world.document_set(), world.config, NOW)
    assert "open_files" not in {item.code for item in status.attention}


def test_who_is_short_of_open_files_is_named_with_the_numbers() -> None:
    world = World(["east"], T)
    world.edit_leader(open_files=1_530, open_files_limit=2_048)
    status = compose(world.document_set(), world.config, NOW)
    (item,) = (item for item in status.attention if item.code == "open_files")
    assert item.severity == "warning"
    assert "1,530 of 2,048" in item.detail
    assert "LimitNOFILE" in item.remedy
