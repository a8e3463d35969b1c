"""When the own anchor of a cluster that joined is dropped: never while something may depend on it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.rotation.gates import MOST_PAIRS, MemberCa, drop, drop_gates
from federation.core.rotation.record import Quarantine, Rotation, RotationRecord, Side, State
from federation.core.rotation.world import ClusterFacts, ControlPlane, PairFacts, SignerFacts, Webhook, World
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER, Delivered
from federation.core.trust.liveness import SignsOfLife

NOW, SKEW, FRESH = 1_000_000.0, 10.0, 60.0
HUB, OWN = "a" * 64, "c" * 64
SIGNS, ELSE = "1" * 64, "2" * 64
ROOTS = {SIGNS: HUB}
ANCHOR = MemberCa(sha256=OWN, clusters=frozenset({"west"}))
NAMES = ("east", "west", "north")


def facts(**changes: Any) -> ClusterFacts:
    return replace(
        ClusterFacts(
            anchors=frozenset({HUB, OWN}),
            current=True,
            read_back_at=NOW - 1,
            unknown_until=NOW - SKEW,
            life=SignsOfLife(workloads=2, with_certificate=2),
        ),
        **changes,
    )


def world(**changes: Any) -> World:
    pairs = {(c, s): PairFacts(valid=True, computed=NOW - 1) for c in NAMES for s in NAMES if c != s}
    base = World(
        now=NOW,
        clusters=dict.fromkeys(NAMES, facts()),
        expiry_bounds={Delivered("east", SIGNS, 1): NOW + 100},
        generations={1: frozenset({HUB, OWN})},
        in_force=1,
        signers={"one": SignerFacts(ready_with=frozenset({SIGNS}), generation=1)},
        pairs=pairs,
        fresh=FRESH,
        skew=SKEW,
    )
    return replace(base, **changes)


def with_cluster(name: str, seen: ClusterFacts) -> World:
    good = world()
    return replace(good, clusters={**good.clusters, name: seen})


def without_pair(**changes: Any) -> World:
    good = world()
    pair = replace(good.pairs["north", "east"], **changes)
    return replace(good, pairs={**good.pairs, ("north", "east"): pair})


HOOK = Webhook(name="injector", istiod="istio-system/istiod", anchors=frozenset({HUB, OWN}))


def with_istiod(
    issuer: str = SIGNS, anchors: Collection[str] | None = (HUB, OWN), bundle: Collection[str] = (HUB, OWN)
) -> World:
    plane = ControlPlane(
        name="istio-system/istiod-tls", issuer=issuer, anchors=None if anchors is None else frozenset(anchors)
    )
    hook = replace(HOOK, anchors=frozenset(bundle))
    return with_cluster("west", facts(control_planes=(plane,), webhooks=(hook,)))


def under_way(state: State = State.PUBLISHING) -> RotationRecord:
    side = Side(root=HUB, intermediate=SIGNS)
    return RotationRecord(
        rotation=Rotation(
            number=1,
            trust_domain="mesh.example",
            state=state,
            since=0.0,
            old=side,
            new=msgspec.structs.replace(side, intermediate=ELSE),
            author="test",
            reason="test",
            automatic=True,
            soak=0.0,
        )
    )


def quarantined(name: str) -> RotationRecord:
    return RotationRecord(quarantined={name: Quarantine(reason="test", author="test", since=0.0)})


REST = RotationRecord()
STAYS: dict[str, tuple[str, RotationRecord, World]] = {
    "a rotation is under way": ("at_rest", under_way(), world()),
    "it is not in force": ("own_in_force", REST, world(generations={1: frozenset({HUB})})),
    "what is in force is not known": ("own_in_force", REST, world(in_force=2)),
    "a signer signs below it": (
        "own_issuers",
        REST,
        world(signers={"one": SignerFacts(ready_with=frozenset({SIGNS, ELSE}), generation=1)}),
    ),
    "the authority in force is below it": (
        "own_issuers",
        RotationRecord(signing=Side(root=OWN, intermediate=ELSE)),
        world(),
    ),
    "no signer is live": ("own_issuers", REST, world(signers={})),
    "the listener of a signer is below it": (
        "own_listener",
        REST,
        world(signers={"one": SignerFacts(ready_with=frozenset({SIGNS}), generation=1, listener=ELSE)}),
    ),
    "a configuration is refused": ("configuration", REST, world(refused=("one: line 3",))),
    "a leaf from before the hub is alive in a cluster that was removed": (
        "own_earlier",
        REST,
        world(clusters={name: facts() for name in NAMES if name != "west"}, gone={"west": NOW - SKEW + 1}),
    ),
    "a leaf of an unknown issuer is alive": (
        "own_issuers",
        REST,
        world(expiry_bounds={Delivered("east", UNKNOWN_ISSUER, 1): NOW - SKEW + 1}),
    ),
    "its own CA may have issued": (
        "own_earlier",
        REST,
        with_cluster("west", facts(unknown_until=NOW - SKEW + 1)),
    ),
    "it is quarantined": ("own_earlier", quarantined("west"), world()),
    "it is not read back": ("own_read_back", REST, with_cluster("west", facts(anchors=None))),
    "it holds something else": ("own_read_back", REST, with_cluster("west", facts(current=False))),
    "it was read back long ago": (
        "own_read_back",
        REST,
        with_cluster("west", facts(read_back_at=NOW - FRESH - 1)),
    ),
    "its pods were not restarted": (
        "own_alive",
        REST,
        with_cluster("west", facts(life=SignsOfLife(workloads=9, with_certificate=1))),
    ),
    "no signer reports its workloads": ("own_alive", REST, with_cluster("west", facts(life=None))),
    "the certificate of istiod is below it": ("own_istiod", REST, with_istiod(issuer=ELSE)),
    "the certificate of istiod is of an issuer that is not known": (
        "own_istiod",
        REST,
        with_istiod(issuer=""),
    ),
    "the certificate of istiod is not read back": ("own_istiod", REST, with_istiod(anchors=None)),
    "webhooks are not read": (
        "own_webhooks",
        REST,
        with_cluster("west", facts(webhooks=None, webhooks_detail="forbidden")),
    ),
    "a webhook verifies by it alone": ("own_webhooks", REST, with_istiod(bundle={OWN})),
    "a webhook verifies an istiod by it that the hub does not serve": (
        "own_webhooks",
        REST,
        with_cluster("west", facts(webhooks=(HOOK,))),
    ),
    "a pair does not validate": ("own_matrix", REST, without_pair(valid=False)),
    "a pair was proved long ago": ("own_matrix", REST, without_pair(computed=NOW - FRESH - 1)),
    "a pair was never proved": ("own_matrix", REST, world(pairs={})),
}
CONDITIONS = (
    "at_rest",
    "own_in_force",
    "own_issuers",
    "own_listener",
    "configuration",
    "own_earlier",
    "own_read_back",
    "own_istiod",
    "own_webhooks",
    "own_alive",
    "own_matrix",
)


def dropped(record: RotationRecord, seen: World, *, roots: dict[str, str] = ROOTS, **options: Any) -> bool:
    verdicts = drop_gates([ANCHOR], record, seen, roots=roots, **options)
    return OWN in drop(record, verdicts).retired


def test_a_member_ca_is_dropped_once_nothing_depends_on_it() -> None:
    verdicts = drop_gates([ANCHOR], REST, world(), roots=ROOTS)
    assert {condition.name for condition in verdicts[OWN].conditions} == set(CONDITIONS)
    assert all(condition.detail for condition in verdicts[OWN].conditions)
    assert drop(REST, verdicts).retired == [OWN]
    assert dropped(under_way(State.RETIRED), world())
    assert dropped(REST, world(expiry_bounds={}))
    assert dropped(REST, with_istiod())
    assert dropped(REST, with_istiod(bundle={HUB}))
    assert dropped(REST, with_cluster("west", facts(webhooks=(replace(HOOK, anchors=frozenset({HUB})),))))
    assert dropped(REST, with_cluster("north", facts(webhooks=None))), "it did not come with it"


@pytest.mark.parametrize("name", STAYS)
def test_a_member_ca_stays_while_something_may_depend_on_it(name: str) -> None:
    condition, record, seen = STAYS[name]
    unmet = drop_gates([ANCHOR], record, seen, roots=ROOTS)[OWN].unmet
    assert {found.name for found in unmet} == {condition}
    assert all(found.detail for found in unmet)
    assert not dropped(record, seen)
    assert dropped(record, seen, without=frozenset({condition})), "the condition is what keeps it"


def test_every_condition_is_shown_to_be_needed() -> None:
    assert {condition for condition, _, _ in STAYS.values()} == set(CONDITIONS)


def test_a_root_that_the_hub_signs_under_is_never_dropped() -> None:
    assert not dropped(REST, world(), roots={SIGNS: OWN})
    late = world(expiry_bounds={Delivered("east", ELSE, 1): NOW + 5})
    (unmet,) = drop_gates([ANCHOR], REST, late, roots={SIGNS: HUB, ELSE: OWN})[OWN].unmet
    assert unmet.until == NOW + 5 + SKEW
    assert dropped(REST, late, roots={SIGNS: HUB, ELSE: HUB})


def test_a_member_ca_waits_for_every_cluster_that_brought_it_and_no_other() -> None:
    late = with_cluster("north", facts(unknown_until=NOW + 100))
    assert dropped(REST, late)
    shared = MemberCa(sha256=OWN, clusters=frozenset({"west", "north", "gone"}))
    (unmet,) = drop_gates([shared], REST, late, roots=ROOTS)[OWN].unmet
    assert (unmet.name, unmet.cluster, unmet.until) == ("own_earlier", "north", NOW + 100 + SKEW)


def test_a_quarantined_other_cluster_is_not_waited_for() -> None:
    assert dropped(quarantined("north"), replace(without_pair(valid=False), clusters={**world().clusters}))


def test_a_retired_member_ca_is_not_evaluated_again() -> None:
    record = RotationRecord(retired=["b" * 64, OWN])
    verdicts = drop_gates([ANCHOR], record, world(), roots=ROOTS)
    assert verdicts == {}
    assert drop(record, verdicts) is record


def test_only_the_first_of_many_failing_pairs_are_listed() -> None:
    names = [f"c{number:03}" for number in range(40)]
    many = world(clusters=dict.fromkeys(names, facts()), pairs={})
    unmet = drop_gates([ANCHOR], REST, many, roots=ROOTS)[OWN].unmet
    assert len([condition for condition in unmet if condition.name == "own_matrix"]) == MOST_PAIRS


@settings(max_examples=200, deadline=None)
@given(
    until=st.floats(NOW - 1000, NOW + 1000),
    issuer=st.sampled_from([SIGNS, ELSE, UNKNOWN_ISSUER]),
    end=st.floats(NOW - 1000, NOW + 1000),
    read_back=st.floats(NOW - 1000, NOW),
)
def test_a_member_ca_is_never_dropped_while_a_leaf_below_it_can_be_alive(
    until: float, issuer: str, end: float, read_back: float
) -> None:
    seen = replace(
        with_cluster("west", facts(unknown_until=until, read_back_at=read_back)),
        expiry_bounds={Delivered("north", issuer, 1): end},
    )
    if dropped(REST, seen):
        assert until + SKEW <= NOW
        assert issuer == SIGNS or end + SKEW <= NOW
        assert NOW - read_back <= FRESH
