"""Anchors without a pin: recorded, still published, and removed by their gate or by an operator who was warned."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.rotation.effects import losses_without, published
from federation.core.rotation.gates import (
    MOST_DEPARTURES,
    NOTHING_NEEDS_IT,
    MemberCa,
    depart,
    drop_gates,
    drop_unpinned,
    remove_now,
    settle,
    unpinned_anchors,
)
from federation.core.rotation.record import OperationRefused, RotationRecord, Unpinned
from federation.core.rotation.world import ControlPlane, SignerFacts
from federation.core.trust.expiry_bounds import Delivered
from tests.core.trust.rotation.test_member_cas import (
    ELSE,
    HUB,
    NOW,
    OWN,
    SIGNS,
    SKEW,
    facts,
    quarantined,
    under_way,
    with_cluster,
    world,
)

NONE = frozenset[str]()
SEEN = {sha: Unpinned(since=NOW, generation=1, subject=sha[:4]) for sha in (HUB, OWN)}
GONE = RotationRecord(unpinned={OWN: SEEN[OWN]})
"""The second anchor's pin is gone; it was a root of the hub's."""


def settled(
    record: RotationRecord,
    *pins: str,
    staged: frozenset[str] = NONE,
    found: frozenset[str] = frozenset({HUB, OWN}),
) -> RotationRecord:
    return settle(
        record, pins=frozenset(pins), staged=staged, found={sha: SEEN[sha] for sha in SEEN if sha in found}
    )


def test_removing_a_pin_removes_no_published_anchor() -> None:
    record = settled(RotationRecord(), HUB)
    assert record == GONE
    assert settled(record, HUB) is record
    assert published(record, frozenset({HUB}), NONE, NONE) == {HUB, OWN}, "nor where the state was set back"
    assert published(RotationRecord(), frozenset({HUB}), NONE, frozenset({HUB, OWN})) == {HUB, OWN}, (
        "nor before"
    )
    assert settled(record, HUB, OWN) == RotationRecord(), "it is pinned again"


def test_staging_a_published_root_keeps_it_published() -> None:
    record = settled(RotationRecord(), HUB, OWN, staged=frozenset({OWN}))
    assert record.admitted == [OWN]
    assert OWN in published(record, frozenset({HUB, OWN}), frozenset({OWN}), frozenset({HUB, OWN}))


def test_a_removed_anchor_returns_only_with_a_pin_that_is_not_staged() -> None:
    left = depart(GONE, {OWN: []}, at=NOW, author="test", reason="test")
    both = frozenset({HUB, OWN})
    assert (left.unpinned, left.withdrawn) == ({}, [OWN])
    assert published(left, both, NONE, both) == {HUB}, (
        "neither because a cluster still has it, nor by the pin alone"
    )
    assert settled(left, HUB) is left
    assert settled(left, HUB, OWN, staged=frozenset({OWN})) is left
    assert OWN in published(settled(left, HUB, OWN), both, NONE, NONE)


def test_what_a_rotation_retired_is_not_noted() -> None:
    record = RotationRecord(retired=[OWN])
    assert settled(record, HUB) is record


def test_a_root_of_the_hub_waits_for_every_cluster_and_for_those_that_were_removed() -> None:
    (anchor,) = unpinned_anchors(GONE, {"west": [OWN]})
    assert anchor == MemberCa(sha256=OWN, clusters=frozenset({"west"}), everywhere=True)
    roots = {SIGNS: HUB}

    def unmet(seen: object, record: RotationRecord = GONE) -> set[tuple[str, str]]:
        verdict = drop_gates([anchor], record, seen, roots=roots)[OWN]  # type: ignore[arg-type]
        return {(c.name, c.cluster) for c in verdict.unmet}

    assert unmet(world()) == set()
    assert unmet(with_cluster("north", facts(current=False))) == {("own_read_back", "north")}
    assert unmet(with_cluster("north", facts(unknown_until=NOW))) == {("own_earlier", "north")}
    assert unmet(world(gone={"south": NOW})) == {("own_earlier", "south")}
    lost = quarantined("north")
    assert unmet(with_cluster("north", facts(anchors=None)), replace(lost, unpinned=GONE.unpinned)) == set()
    assert unmet(world(refused=("one: line 3",))) == {("configuration", "")}


def test_an_unpinned_root_is_removed_with_evidence_once_its_gate_is_open() -> None:
    verdicts = drop_gates(unpinned_anchors(GONE, {}), GONE, world(), roots={SIGNS: HUB})
    record = drop_unpinned(GONE, verdicts, at=NOW)
    (left,) = record.departures
    assert (left.sha256, left.at, left.reason, left.subject) == (OWN, NOW, NOTHING_NEEDS_IT, OWN[:4])
    assert {c.name for c in left.evidence} >= {"own_issuers", "own_read_back", "own_alive", "own_matrix"}
    waiting = drop_gates(unpinned_anchors(GONE, {}), GONE, world(), roots={SIGNS: OWN})
    assert drop_unpinned(GONE, waiting, at=NOW) is GONE


def test_departures_are_bounded() -> None:
    record = RotationRecord()
    for number in range(MOST_DEPARTURES + 5):
        sha = f"{number:064x}"
        record = replace(record, unpinned={sha: SEEN[OWN]})
        record = depart(record, {sha: []}, at=NOW, author="test", reason="test")
    assert len(record.departures) == MOST_DEPARTURES


def test_only_an_anchor_without_a_pin_can_be_removed_at_once() -> None:
    seen = world(pins=frozenset({HUB}))
    record = remove_now(GONE, seen, OWN, author="operator", reason="stolen")
    (left,) = record.departures
    assert (left.author, left.reason, record.withdrawn) == ("operator", "stolen", [OWN])
    assert HUB in published(record, frozenset({HUB}), NONE, frozenset({HUB, OWN}))
    assert OWN not in published(record, frozenset({HUB}), NONE, frozenset({HUB, OWN}))


@pytest.mark.parametrize(
    ("record", "sha256", "pins", "words"),
    [
        (GONE, HUB, {HUB}, "it is pinned"),
        (GONE, "f" * 64, {HUB}, "no published anchor"),
        (replace(under_way(), unpinned={HUB: SEEN[HUB]}), HUB, {OWN}, "is from or to that root"),
        (GONE, OWN, set(), "none would be left"),
    ],
)
def test_every_other_removal_is_refused(
    record: RotationRecord, sha256: str, pins: set[str], words: str
) -> None:
    with pytest.raises(OperationRefused, match=words) as refused:
        remove_now(record, world(pins=frozenset(pins)), sha256, author="operator", reason="")
    assert refused.value.remedy


def test_the_losses_of_a_removal_are_predicted() -> None:
    plane = ControlPlane(name="istio-system/istiod-tls", issuer=ELSE, anchors=frozenset({HUB, OWN}))
    seen = changed(
        with_cluster("west", facts(control_planes=(plane,))),
        expiry_bounds={Delivered("east", ELSE, 1): NOW + 100, Delivered("north", SIGNS, 1): NOW + 100},
        signers={"one": SignerFacts(ready_with=frozenset({ELSE}), generation=1, listener=ELSE)},
        gone={"south": NOW + 50},
    )
    lost = losses_without(OWN, seen, {SIGNS: HUB, ELSE: OWN}, clusters=NONE)
    found = {(loss.cluster, loss.what.partition(":")[0]): loss.ends for loss in lost}
    assert found["east", "its leaves below it are refused by others"] == NOW + 100 + SKEW
    assert ("north", "its leaves below it are refused by others") not in found
    assert found["south", "its leaves from before the hub may be refused by others"] == NOW + 50 + SKEW
    assert any(cluster == "west" and "istiod" in what for cluster, what in found)
    assert any("nothing is issued any more" in what for _, what in found)
    assert losses_without(OWN, world(), {SIGNS: HUB}, clusters=NONE) == []
    both = changed(seen, signers={"one": SignerFacts(ready_with=frozenset({ELSE, SIGNS}), generation=1)})
    roots = {SIGNS: HUB, ELSE: OWN}
    for signing, stops in ((ELSE, True), (SIGNS, False)):
        lost = losses_without(OWN, both, roots, clusters=NONE, signing=signing)
        assert any("nothing is issued any more" in loss.what for loss in lost) is stops


SHAS = st.sampled_from(["a" * 64, "b" * 64, "c" * 64])
SETS = st.frozensets(SHAS)


@settings(max_examples=300, deadline=None)
@given(pins=st.lists(SETS, min_size=1, max_size=6), staged=SETS, start=SETS)
def test_no_sequence_of_edits_removes_a_published_anchor(
    pins: list[frozenset[str]], staged: frozenset[str], start: frozenset[str]
) -> None:
    record, in_force = RotationRecord(), start
    for wanted in pins:
        after = published(record, wanted, staged & wanted, in_force)
        assert in_force <= after, "nor where the record could not be written before the generation"
        in_force = after
        found = {sha: Unpinned(since=NOW, generation=1) for sha in in_force}
        record = settle(record, pins=wanted, staged=staged & wanted, found=found)
        assert record.unpinned.keys() == in_force - wanted
        assert published(record, wanted, staged & wanted, NONE) >= in_force - (wanted & staged)
