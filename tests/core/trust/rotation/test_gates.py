"""What a closed gate reports: what is missing, in which cluster, and the earliest time at which it can open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from federation.core.rotation import record, transitions
from federation.core.rotation.gates import gate, return_gate, trusts
from federation.core.rotation.record import Condition, Quarantine, Rotation, RotationRecord, State
from federation.core.rotation.world import Capacity, ClusterFacts, PairFacts, SignerFacts, World
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER, Delivered
from federation.core.trust.liveness import SignsOfLife
from tests.core.trust.rotation.certificates import ISSUER, ROOT, SIDES

NOW = 1_000_000.0
BOTH = frozenset({ROOT["a"], ROOT["b"]})
OLD = frozenset({ROOT["a"]})
ALIVE = SignsOfLife(workloads=3, with_certificate=3)
HEALTHY = ClusterFacts(anchors=BOTH, current=True, read_back_at=NOW, life=ALIVE)
GREEN = PairFacts(valid=True, computed=NOW, client_issuer=ISSUER["b1"], server_issuer=ISSUER["b1"])
WORLD = World(
    now=NOW,
    clusters={"one": HEALTHY, "two": HEALTHY},
    expiry_bounds={},
    generations={1: OLD, 2: BOTH},
    in_force=2,
    pins=BOTH,
    pairs={("one", "two"): GREEN, ("two", "one"): GREEN},
    validated=None,
    fresh=60.0,
    skew=5.0,
)

ANEW = replace(GREEN, client_generation=3, server_generation=3)
REMOVED = replace(
    WORLD,
    generations={**WORLD.generations, 3: frozenset({ROOT["b"]})},
    in_force=3,
    pairs=dict.fromkeys(WORLD.pairs, ANEW),
)
"""The old root is not published any more."""


def rotation_record(
    state: State,
    *,
    new: str = "b1",
    since: float = NOW - 10.0,
    wave: int = 0,
    withdrawn: frozenset[str] = frozenset(),
) -> RotationRecord:
    rotation = Rotation(
        number=1,
        trust_domain="cluster.local",
        state=state,
        since=since,
        old=SIDES["a1"],
        new=SIDES[new],
        author="operator",
        reason="it is time",
        automatic=True,
        soak=30.0,
        wave=wave,
        canary=["one"],
    )
    return RotationRecord(rotation=rotation, withdrawn=sorted(withdrawn))


def followed(state: State, world: World = WORLD) -> World:
    """The same with a signer that is ready and follows the directives of that state, and workloads that renew."""
    ready = frozenset(ISSUER.values())
    return replace(
        world,
        signers={
            "signer": SignerFacts(
                ready_with=ready,
                generation=2,
                rotation=1,
                state=state.value,
                listener_proved_at=NOW,
                listener_generation=world.in_force,
            )
        },
        clusters={name: replace(facts, life=facts.life or ALIVE) for name, facts in world.clusters.items()},
    )


def unmet(state: State, world: World, *, new: str = "b1") -> list[Condition]:
    return list(gate(rotation_record(state, new=new), followed(state, world)).unmet)


@pytest.mark.parametrize("state", [s for s in State if s is not State.PUBLISHING])
def test_every_gate_but_the_soak_is_open_when_all_conditions_are_met(state: State) -> None:
    assert unmet(state, REMOVED if state is State.UNPUBLISHING else WORLD) == []


@pytest.mark.parametrize(
    ("state", "wave", "world", "words"),
    [
        (
            State.UNPUBLISHING,
            1,
            WORLD,
            "holds",
        ),  # every cluster has the bundle in force, which still is the old one
        (State.UNPUBLISHING, 1, replace(REMOVED, in_force=9), "is not known"),
        (State.UNPUBLISHING, 1, replace(REMOVED, behind={"two": 2}), "its wave has come"),
        (State.UNPUBLISHING, 1, replace(REMOVED, pins=frozenset({ROOT["a"]})), "no longer pins"),
        (State.ABORTING, 1, replace(WORLD, staged=frozenset({ROOT["b"]})), "holds"),
        (State.ABORTING, 0, replace(WORLD, in_force=1), "lacks"),
        (State.ACTIVE, 0, REMOVED, "lacks"),  # restored, and not published yet
        (State.EMERGENCY, 0, replace(WORLD, in_force=1), "lacks"),
    ],
)
def test_the_next_step_waits_until_the_bundle_in_force_has_the_change(
    state: State, wave: int, world: World, words: str
) -> None:
    world = followed(state, replace(world, unwritten="root.pem cannot be read"))
    taken = world.staged if state is State.ABORTING and wave else frozenset[str]()
    of = rotation_record(state, wave=wave, withdrawn=taken)
    (condition,) = [c for c in gate(of, world).unmet if c.name == "enacted"]
    assert words in condition.detail
    assert condition.detail.endswith(": root.pem cannot be read")


@pytest.mark.parametrize("state", [State.ACTIVE, State.UNPUBLISHING, State.EMERGENCY])
def test_the_root_that_a_rotation_leaves_needs_no_pin(state: State) -> None:
    world = replace(REMOVED if state is State.UNPUBLISHING else WORLD, pins=frozenset({ROOT["b"]}))
    assert gate(rotation_record(state), followed(state, world)).open


@pytest.mark.parametrize("state", [State.STAGED, State.PUBLISHING, State.SOAKED, State.CANARY, State.ACTIVE])
def test_no_step_leads_to_a_root_whose_pin_is_gone(state: State) -> None:
    world = followed(state, replace(WORLD, pins=frozenset({ROOT["a"]})))
    (condition,) = [c for c in gate(rotation_record(state), world).unmet if c.name in {"pinned", "enacted"}]
    assert ROOT["b"][:12] in condition.detail


@pytest.mark.parametrize("state", [s for s in State if s not in {State.STABLE, State.RETIRED}])
def test_no_step_is_taken_while_the_newest_configuration_is_refused(state: State) -> None:
    world = REMOVED if state is State.UNPUBLISHING else WORLD
    world = followed(state, replace(world, refused=("signer-0: clusters.toml line 3: no such key",)))
    found = [c for c in gate(rotation_record(state), world).unmet if c.name == "configuration"]
    assert [c.detail for c in found] == ["signer-0: clusters.toml line 3: no such key"]


def test_no_rotation_starts_while_the_newest_configuration_is_refused() -> None:
    world = followed(State.STAGED, replace(WORLD, refused=("signer-0: line 3: no such key",)))
    with pytest.raises(record.OperationRefused, match="line 3") as refused:
        transitions.propose(
            RotationRecord(),
            number=1,
            trust_domain="cluster.local",
            old=SIDES["a1"],
            new=SIDES["b1"],
            author="operator",
            reason="it is time",
            automatic=True,
            soak=0.0,
            canary=(),
            waves=(),
            world=world,
        )
    assert refused.value.remedy


def test_an_emergency_and_an_abort_work_while_the_newest_configuration_is_refused() -> None:
    """A stolen key cannot wait for a good configuration; an abort leads back to what the running one signs with."""
    refused = followed(State.ACTIVE, replace(WORLD, refused=("signer-0: line 3: no such key",)))
    aborted = transitions.abort(
        rotation_record(State.ACTIVE), refused, author="operator", reason="second thoughts"
    )
    left = transitions.emergency(
        rotation_record(State.ACTIVE),
        refused,
        compromised=ROOT["a"],
        deadline=NOW,
        ttl_cap=0.0,
        author="operator",
        reason="stolen",
    )
    assert [b.rotation.state for b in (aborted, left) if b.rotation] == [State.ABORTING, State.EMERGENCY]
    overdue = transitions.advance(left, refused)
    assert overdue.rotation is not None
    assert overdue.rotation.state is State.UNPUBLISHING


def test_an_abort_may_keep_a_root_that_is_pinned_for_other_reasons() -> None:
    assert gate(rotation_record(State.ABORTING, wave=1), followed(State.ABORTING)).open


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (ClusterFacts(anchors=None, detail="the API server does not answer"), "does not answer"),
        (ClusterFacts(anchors=BOTH, read_back_at=NOW - 61.0), "61 s ago"),
        (ClusterFacts(anchors=BOTH, read_back_at=NOW - 11.0), "not read back since"),
        pytest.param(ClusterFacts(anchors=OLD, read_back_at=NOW), ROOT["b"][:12], id="lacks one"),
        pytest.param(
            ClusterFacts(anchors=OLD, read_back_at=NOW, detail="1 of 2 namespaces hold it, not shop"),
            ": 1 of 2 namespaces hold it, not shop",
            id="which namespace",
        ),
    ],
)
def test_a_cluster_that_is_not_known_to_hold_both(facts: ClusterFacts, words: str) -> None:
    (condition,) = unmet(State.SOAKED, replace(WORLD, clusters={"one": HEALTHY, "two": facts}))
    assert (condition.name, condition.cluster, condition.until) == ("read_back", "two", 0.0)
    assert words in condition.detail


def test_leaves_that_lack_a_root_say_until_when() -> None:
    expiry_bounds = {
        Delivered("two", ISSUER["a1"], 1): NOW + 40.0,
        Delivered("two", ISSUER["b1"], 1): NOW + 50.0,
        Delivered("two", ISSUER["a1"], 7): NOW + 20.0,  # of a generation that is not known any more
        Delivered("one", ISSUER["a1"], 1): NOW - 5.0,  # dead by every clock
    }
    verdict = gate(
        rotation_record(State.SOAKED), followed(State.SOAKED, replace(WORLD, expiry_bounds=expiry_bounds))
    )
    assert [(c.cluster, c.until) for c in verdict.unmet] == [("two", NOW + 55.0), ("two", NOW + 25.0)]
    assert verdict.opens_at == NOW + 55.0


def test_a_soak_begins_when_the_last_leaf_that_lacks_a_root_is_gone() -> None:
    expiry_bounds = {Delivered("two", ISSUER["a1"], 1): NOW + 40.0}
    verdict = gate(rotation_record(State.PUBLISHING), replace(WORLD, expiry_bounds=expiry_bounds))
    assert verdict.opens_at == NOW + 45.0 + 30.0
    facts = ClusterFacts(anchors=None)
    assert gate(rotation_record(State.PUBLISHING), replace(WORLD, clusters={"one": facts})).opens_at == 0.0


def test_leaves_from_before_the_hub() -> None:
    world = replace(WORLD, clusters={"one": HEALTHY, "two": replace(HEALTHY, unknown_until=NOW + 100.0)})
    for state in (
        State.PUBLISHING,
        State.SOAKED,
        State.CANARY,
        State.ACTIVE,
        State.ABORTING,
        State.EMERGENCY,
    ):
        earlier = [c for c in unmet(state, world) if c.name == "earlier"]
        assert [(c.cluster, c.until) for c in earlier] == [("two", NOW + 105.0)], state
    removed = rotation_record(State.ABORTING, wave=1)
    assert gate(removed, followed(State.ABORTING, world)).open


@pytest.mark.parametrize(
    ("issuer", "new", "needs"),
    [
        pytest.param(ISSUER["a1"], "b1", True, id="old"),
        pytest.param(
            ISSUER["a2"], "b1", True, id="earlier of old"
        ),  # an earlier intermediate of the old root
        (UNKNOWN_ISSUER, "b1", True),
        pytest.param(ISSUER["b1"], "b1", False, id="new"),
        pytest.param(ISSUER["a1"], "a2", True, id="old, same root"),
        (UNKNOWN_ISSUER, "a2", True),
        pytest.param(ISSUER["a2"], "a2", False, id="new, same root"),
    ],
)
def test_what_the_old_side_is_kept_for(issuer: str, new: str, needs: bool) -> None:
    expiry_bounds = {Delivered("gone", issuer, 2): NOW + 40.0}  # of a cluster that is not even registered
    world = replace(WORLD, expiry_bounds=expiry_bounds)
    drained = [c for c in unmet(State.ACTIVE, world, new=new) if c.name == "drained"]
    assert [(c.cluster, c.until) for c in drained] == ([("gone", NOW + 45.0)] if needs else [])


@pytest.mark.parametrize(("issuer", "needs"), [("b1", True), ("a1", False)])
def test_what_an_abort_waits_for(issuer: str, needs: bool) -> None:
    world = replace(WORLD, expiry_bounds={Delivered("one", ISSUER[issuer], 2): NOW + 40.0})
    assert [c.name for c in unmet(State.ABORTING, world)] == ["new_drained"] * needs


def test_what_is_in_force_must_hold_both() -> None:
    (condition,) = unmet(State.SOAKED, replace(WORLD, in_force=1))
    assert condition.name == "in_force"
    assert [c.name for c in trusts(RotationRecord(), replace(WORLD, in_force=1), BOTH).unmet] == ["in_force"]
    assert [c.name for c in trusts(RotationRecord(), replace(WORLD, in_force=9), OLD).unmet] == ["in_force"]
    assert trusts(RotationRecord(), WORLD, BOTH).open


class CountedName(str):
    """The name of a cluster that counts how often one is compared with another."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedName.compared += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


def test_a_gate_takes_each_pair_once_however_many_clusters_there_are() -> None:
    """Every second of a rotation: 200 clusters have 39,800 ordered pairs, and for each of them as many comparisons."""
    names = [CountedName(f"c{number}") for number in range(40)]
    pairs: dict[tuple[str, str], PairFacts] = {(a, b): GREEN for a in names for b in names if a is not b}
    world = replace(WORLD, clusters=dict.fromkeys(names, HEALTHY), pairs=pairs)
    world, rotating = followed(State.ACTIVE, world), rotation_record(State.ACTIVE)
    CountedName.compared = 0
    assert gate(rotating, world).open
    assert CountedName.compared < 3 * len(pairs)
    late = gate(rotating, replace(world, pairs={})).unmet
    assert [c.name for c in late].count("matrix") == 200


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (None, "not proved since"),
        (replace(GREEN, computed=NOW - 11.0), "not proved since"),
        (replace(GREEN, valid=False, reason="unknown authority"), "unknown authority"),
    ],
)
def test_every_ordered_pair_counts(pair: PairFacts | None, words: str) -> None:
    pairs = {("one", "two"): GREEN} | ({("two", "one"): pair} if pair else {})
    (condition,) = unmet(State.SOAKED, replace(WORLD, pairs=pairs))
    assert (condition.name, condition.cluster) == ("matrix", "two")
    assert words in condition.detail


@pytest.mark.parametrize("generations", [(2, 2), (3, 2), (2, 3), (0, 3), (3, 0)])
def test_a_proof_from_before_the_removal_reached_both_says_nothing_of_it(
    generations: tuple[int, int],
) -> None:
    pair = replace(ANEW, client_generation=generations[0], server_generation=generations[1])
    world = followed(State.UNPUBLISHING, replace(REMOVED, pairs={**REMOVED.pairs, ("one", "two"): pair}))
    assert [(c.name, c.cluster) for c in gate(rotation_record(State.UNPUBLISHING), world).unmet] == [
        ("matrix", "one")
    ]


def test_a_cluster_whose_wave_has_not_come_is_proved_with_what_it_keeps() -> None:
    first = rotation_record(State.UNPUBLISHING, wave=1)
    assert first.rotation is not None
    first = changed(first, rotation=changed(first.rotation, waves=[["one"], ["two"]]))
    pairs = {
        ("one", "two"): replace(ANEW, client_generation=3, server_generation=2),
        ("two", "one"): replace(ANEW, client_generation=2, server_generation=3),
    }
    behind = replace(REMOVED, behind={"two": 2}, pairs=pairs)
    assert gate(first, followed(State.UNPUBLISHING, behind)).open
    assert not gate(first, followed(State.UNPUBLISHING, replace(behind, pairs=REMOVED.pairs))).open


def test_an_old_proof_is_none() -> None:
    long_ago = rotation_record(State.SOAKED, since=NOW - 500.0)
    pairs = dict.fromkeys([("one", "two"), ("two", "one")], replace(GREEN, computed=NOW - 61.0))
    verdict = gate(long_ago, followed(State.SOAKED, replace(WORLD, pairs=pairs)))
    assert [c.name for c in verdict.unmet] == ["matrix", "matrix"]


def test_a_rate_that_was_not_measured_yet_fits_into_no_quota() -> None:
    early = replace(WORLD, capacity=Capacity(rate=0.0, quota=20.0, known_from=NOW + 60.0))
    (condition,) = unmet(State.STAGED, early)
    assert (condition.name, condition.until) == ("capacity", NOW + 60.0)
    assert unmet(State.STAGED, replace(early, now=NOW + 60.0)) == []
    assert unmet(State.STAGED, replace(early, capacity=Capacity(known_from=NOW + 60.0))) == [], (
        "there is no quota"
    )


def test_a_canary_that_is_quarantined_shows_nothing() -> None:
    quarantine = Quarantine(reason="lost", author="operator", since=NOW)
    quarantined = changed(rotation_record(State.CANARY), quarantined={"one": quarantine})
    verdict = gate(quarantined, followed(State.CANARY))
    assert [c.name for c in verdict.unmet] == ["new_in_use"]


@pytest.mark.parametrize("state", [State.SOAKED, State.CANARY, State.ACTIVE, State.ABORTING])
def test_no_signer_at_all_is_not_ready(state: State) -> None:
    names = {c.name for c in gate(rotation_record(state), WORLD).unmet}
    assert names & {"signers", "directives"}


def test_a_quarantined_cluster_is_waited_for_only_where_its_leaves_need_the_old_side() -> None:
    world = replace(WORLD, clusters={"one": HEALTHY, "two": ClusterFacts(anchors=None)})
    quarantine = Quarantine(reason="lost", author="operator", since=NOW)
    for state in (State.SOAKED, State.CANARY, State.ACTIVE, State.UNPUBLISHING):
        quarantined = changed(rotation_record(state), quarantined={"two": quarantine})
        in_force = replace(
            world, generations=REMOVED.generations, in_force=3 if state is State.UNPUBLISHING else 2
        )
        assert gate(quarantined, followed(state, in_force)).open, state
    leaf = {Delivered("two", ISSUER["a1"], 2): NOW + 40.0}
    active = changed(rotation_record(State.ACTIVE), quarantined={"two": quarantine})
    verdict = gate(active, followed(State.ACTIVE, replace(world, expiry_bounds=leaf)))
    assert [(c.name, c.cluster) for c in verdict.unmet] == [("drained", "two")]


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (None, "return_read_back"),
        (ClusterFacts(anchors=None), "return_read_back"),
        (ClusterFacts(anchors=OLD, current=True, read_back_at=NOW), "return_read_back"),
        (replace(HEALTHY, current=False), "return_read_back"),
        (replace(HEALTHY, unknown_until=NOW + 1.0), "return_earlier"),
    ],
)
def test_what_a_return_from_quarantine_waits_for(facts: ClusterFacts | None, name: str) -> None:
    world = replace(WORLD, clusters={"one": facts} if facts else {})
    assert [c.name for c in return_gate(rotation_record(State.ACTIVE), "one", world).unmet] == [name]
    assert return_gate(rotation_record(State.ACTIVE), "one", WORLD).open


def test_a_return_waits_for_leaves_without_the_root_in_use() -> None:
    world = replace(WORLD, expiry_bounds={Delivered("one", ISSUER["a1"], 1): NOW + 40.0})
    verdict = return_gate(rotation_record(State.ACTIVE), "one", world)
    assert [(c.name, c.until) for c in verdict.unmet] == [("return_leaves", NOW + 45.0)]
    assert return_gate(rotation_record(State.STAGED), "one", world).open


DEAD = SignsOfLife(workloads=4, lapsed=4, refusal="csr_trust_domain")


@pytest.mark.parametrize(
    "state",
    [State.SOAKED, State.CANARY, State.ACTIVE, State.UNPUBLISHING, State.ABORTING, State.EMERGENCY],
)
def test_a_cluster_whose_workloads_stopped_renewing_shuts_the_gate(state: State) -> None:
    """In a dead mesh, too, no leaf needs the old root and every namespace has the right bundle."""
    world = REMOVED if state is State.UNPUBLISHING else WORLD
    dead = replace(world, clusters={**world.clusters, "two": replace(HEALTHY, life=DEAD)})
    (condition,) = unmet(state, dead)
    assert (condition.name, condition.cluster) == ("alive", "two")
    assert "0 of 4 workloads hold a certificate (of 4 it has ended)" in condition.detail
    assert "csr_trust_domain" in condition.detail
    assert "quarantine" in condition.detail


def test_a_quarantined_cluster_and_one_without_workloads_shut_no_gate() -> None:
    empty = replace(
        WORLD, clusters={**WORLD.clusters, "two": replace(HEALTHY, life=SignsOfLife(workloads=0))}
    )
    assert unmet(State.ACTIVE, empty) == []
    dead = followed(
        State.ACTIVE, replace(WORLD, clusters={**WORLD.clusters, "two": replace(HEALTHY, life=DEAD)})
    )
    out = changed(
        rotation_record(State.ACTIVE),
        quarantined={"two": Quarantine(reason="dead", author="operator", since=0)},
    )
    assert gate(out, dead).open


def test_a_mesh_that_no_signer_reports_shuts_the_gate() -> None:
    silent = replace(followed(State.ACTIVE), clusters={"one": HEALTHY, "two": replace(HEALTHY, life=None)})
    (condition,) = gate(rotation_record(State.ACTIVE), silent).unmet
    assert "no signer reports" in condition.detail


def test_certificates_that_are_not_counted_yet_have_a_time_until_they_are() -> None:
    blind = SignsOfLife(workloads=4, with_certificate=1, known_from=NOW + 60)
    world = replace(WORLD, clusters={"one": HEALTHY, "two": replace(HEALTHY, life=blind)})
    (condition,) = unmet(State.ACTIVE, world)
    assert condition.until == NOW + 60


def test_an_abort_that_has_removed_its_root_waits_for_no_workload() -> None:
    dead = replace(WORLD, clusters={**WORLD.clusters, "two": replace(HEALTHY, life=DEAD)})
    aborting = followed(State.ABORTING, dead)
    assert "alive" not in {c.name for c in gate(rotation_record(State.ABORTING, wave=1), aborting).conditions}
