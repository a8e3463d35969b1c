"""Each transition, each command and its refusals, what is recorded, and that the record stays small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from msgspec.structs import replace as changed

from federation.core.rotation import transitions
from federation.core.rotation.effects import clusters_behind, signing_directives
from federation.core.rotation.record import (
    MOST_EVIDENCE,
    MOST_HISTORY,
    MOST_TEXT,
    WHOLE_HISTORY,
    Condition,
    OperationRefused,
    Rotation,
    RotationRecord,
    Side,
    State,
    Step,
    enter,
)
from federation.core.rotation.transitions import propose
from federation.core.rotation.world import World
from tests.core.trust.rotation import operators, scenes
from tests.core.trust.rotation.certificates import ISSUER, ROOT, SIDES
from tests.core.trust.rotation.scenes import at, rotation, started, until
from tests.core.trust.rotation.simulator import Simulation

BEFORE_UNPUBLISHING = [State.STAGED, State.PUBLISHING, State.SOAKED, State.CANARY, State.ACTIVE]


def states(sim: Simulation) -> list[State]:
    return [step.after for step in rotation(sim).history]


def proposal(
    sim: Simulation,
    *,
    old: str = "a1",
    new: str | Side = "b1",
    canary: tuple[str, ...] = (),
    reason: str = "it is time",
) -> Callable[[], RotationRecord]:
    side = SIDES[new] if isinstance(new, str) else new
    return lambda: propose(
        sim.record,
        number=2,
        trust_domain="cluster.local",
        old=SIDES[old],
        new=side,
        author="operator",
        reason=reason,
        automatic=True,
        soak=1.0,
        canary=canary,
        waves=[],
        world=sim.observe(),
    )


def rotation_of(record: RotationRecord) -> Rotation:
    assert record.rotation is not None
    return record.rotation


def aborted(sim: Simulation) -> RotationRecord:
    return transitions.abort(sim.record, sim.observe(), author="operator", reason="second thoughts")


def restored(sim: Simulation) -> RotationRecord:
    return transitions.restore(sim.record, sim.observe(), author="operator", reason="too early")


def refused(operation: Callable[[], object], words: str) -> None:
    with pytest.raises(OperationRefused, match=words) as error:
        operation()
    assert error.value.remedy
    assert error.value.reason == "operation_refused"


def test_a_new_root_with_canary_and_waves_goes_through_every_state() -> None:
    sim = at(State.RETIRED, canary=("one",), waves=(("one",), ("two",)))
    expected = [
        State.STAGED,
        State.PUBLISHING,
        State.SOAKED,
        State.CANARY,
        State.ACTIVE,
        State.UNPUBLISHING,
        State.UNPUBLISHING,
        State.RETIRED,
    ]
    assert states(sim) == expected
    assert all(step.evidence for step in rotation(sim).history[1:])
    assert all(condition.met for step in rotation(sim).history for condition in step.evidence)
    assert sim.record.retired == [ROOT["a"]]
    assert sim.record.admitted == [ROOT["b"]]
    assert sim.record.under_way is None


def test_a_new_intermediate_skips_publishing_and_unpublishing_and_only_these() -> None:
    sim = at(State.RETIRED, "a2", canary=("one",))
    assert states(sim) == [State.STAGED, State.SOAKED, State.CANARY, State.ACTIVE, State.RETIRED]
    assert sim.store.in_force == 1
    assert sim.record.retired == []
    assert signing_directives(sim.record).issuer == ISSUER["a2"]


def test_a_manual_rotation_advances_only_by_an_operator() -> None:
    sim = started(Simulation(clusters=2), automatic=False)
    operators.rounds(sim, 10)
    assert rotation(sim).state is State.STAGED
    operators.by_hand(sim)
    assert rotation(sim).state is State.PUBLISHING
    operators.by_hand(sim)  # its gate is closed, which an operator cannot override
    assert rotation(sim).state is State.PUBLISHING


def test_waves_lose_the_old_root_one_after_another() -> None:
    sim = at(State.UNPUBLISHING, waves=(("one",), ("two",)))
    assert clusters_behind(sim.record) == {"two"}
    operators.rounds(sim, 1)
    both, newest = sim.store.generations[2], sim.store.generations[3]
    operators.round_of(sim)
    assert ROOT["a"] in both - newest
    assert sim.member(0).targets == [3, 3]
    until(sim, State.RETIRED)
    operators.rounds(sim, 1)
    assert sim.member(1).targets == [3, 3]
    assert clusters_behind(sim.record) == frozenset()


@pytest.mark.parametrize("state", BEFORE_UNPUBLISHING)
def test_abort(state: State) -> None:
    sim = at(state, canary=("one",))
    operators.rounds(sim, 1)
    sim.store.record = aborted(sim)
    assert signing_directives(sim.record).issuer == ISSUER["a1"]
    assert signing_directives(sim.record).clusters == {}
    until(sim, State.STABLE)
    operators.rounds(sim, 1)
    assert sim.store.generations[sim.store.in_force] == {ROOT["a"], ROOT["w"]}
    assert sim.record.admitted == []
    assert rotation(sim).history[-1].author in {"operator", "the controller"}


@pytest.mark.parametrize(
    ("state", "instead"),
    [
        (State.UNPUBLISHING, "rotate restore"),
        (State.EMERGENCY, "a third authority"),
        (State.ABORTING, "being aborted already"),
    ],
)
def test_the_remedy_of_a_refused_abort_is_possible_in_that_state(state: State, instead: str) -> None:
    sim = at(State.ACTIVE)
    sim.store.record = changed(sim.record, rotation=changed(rotation(sim), state=state))
    with pytest.raises(OperationRefused) as error:
        aborted(sim)
    assert instead in error.value.remedy


def test_what_cannot_be_aborted() -> None:
    refused(lambda: aborted(Simulation()), "no rotation")
    sim = at(State.UNPUBLISHING)
    refused(lambda: aborted(sim), "UNPUBLISHING cannot")
    sim.store.record = restored(sim)
    refused(lambda: aborted(sim), "not trusted everywhere")
    refused(lambda: restored(sim), "nothing is being unpublished")
    assert rotation(sim).paused
    operators.rounds(sim, 25)
    assert rotation(sim).state is State.ACTIVE
    going_back = aborted(sim).rotation
    assert going_back is not None
    assert {condition.name for condition in going_back.history[-1].evidence} >= {
        "read_back",
        "leaves",
        "in_force",
    }


@pytest.mark.parametrize("state", [State.CANARY, State.ACTIVE])
def test_an_abort_that_a_signer_cannot_follow_is_refused(state: State) -> None:
    sim = scenes.manual(at(state, canary=("one",)))
    sim.signers[1].ready.discard(ISSUER["a1"])
    refused(lambda: aborted(sim), "signer-1 is not ready to sign with the old intermediate")
    for signer in sim.signers:
        signer.connected = False
    refused(lambda: aborted(sim), "no signer is live")
    sim.signers[0].connected = True
    record = aborted(sim)
    assert [c.name for c in rotation_of(record).history[-1].evidence] == ["signers"]


@pytest.mark.parametrize("state", [State.CANARY, State.ACTIVE])
def test_an_abort_to_an_authority_that_is_no_longer_configured_is_refused(
    state: State,
) -> None:
    sim = scenes.manual(at(state, canary=("one",)))
    seen = sim.observe()
    until_restart = replace(seen.signers["signer-1"], until_restart=frozenset({ISSUER["a1"]}))

    def abort(world: World) -> RotationRecord:
        return transitions.abort(sim.record, world, author="operator", reason="second thoughts")

    without = replace(seen, signers={**seen.signers, "signer-1": until_restart})
    with pytest.raises(OperationRefused, match="configured no longer on signer-1") as error:
        abort(without)
    assert "put it back" in error.value.remedy
    with pytest.raises(OperationRefused, match="no longer pins the old root") as error:
        abort(replace(seen, pins=seen.pins - {rotation(sim).old.root}))
    assert error.value.remedy == "pin it again, then abort"
    assert rotation_of(abort(seen)).state is State.ABORTING


def test_with_the_old_authority_sealed_an_abort_is_refused_and_issuing_goes_on() -> None:
    sim = at(State.ACTIVE)
    operators.rounds(sim, 2)
    for signer in sim.signers:
        signer.ready.discard(ISSUER["a1"])
    operators.abort(sim)
    operators.rounds(sim, 30)
    assert sim.leaves


@pytest.mark.parametrize("state", [State.STAGED, State.PUBLISHING, State.SOAKED])
def test_an_abort_that_changes_no_directive_requires_no_ready_signer(state: State) -> None:
    sim = scenes.manual(at(state))
    for signer in sim.signers:
        signer.ready.discard(ISSUER["a1"])
    assert rotation_of(aborted(sim)).state in {State.STABLE, State.ABORTING}


def test_a_canary_that_fails_falls_back_and_waits_for_a_person() -> None:
    sim = at(State.CANARY, canary=("one",))
    sim = scenes.manual(sim)
    operators.rounds(sim, 4)
    sim.store.record = changed(sim.record, rotation=changed(rotation(sim), automatic=True))
    sim.false_alarm(0, 1)
    sim.tick()
    failed = rotation(sim)
    assert (failed.state, failed.canary_failures) == (State.SOAKED, 1)
    assert "connection reset" in failed.paused
    assert [condition.name for condition in failed.history[-1].evidence] == ["canary_fallback"]
    operators.rounds(sim, 5)
    assert rotation(sim).state is State.SOAKED
    operators.by_hand(sim)
    assert rotation(sim).state is State.CANARY
    assert rotation(sim).paused == ""


@pytest.mark.parametrize("state", [State.SOAKED, State.CANARY])
@pytest.mark.parametrize("lost", ["quarantined", "unregistered"])
def test_a_rotation_whose_canary_is_gone_waits_for_an_operator(state: State, lost: str) -> None:
    sim = at(state, canary=("one",))
    if lost == "quarantined":
        operators.quarantine(sim, 0)
    else:
        operators.unregister(sim, 0)
    operators.rounds(sim, 20)
    fallen_back = rotation(sim)
    assert (fallen_back.state, "no canary is left" in fallen_back.paused) == (State.SOAKED, True)
    operators.by_hand(sim)
    assert rotation(sim).state is State.ACTIVE
    assert "no canary is left" in rotation(sim).history[-1].reason


def test_what_cannot_be_proposed() -> None:
    sim = Simulation(clusters=2)
    refused(proposal(sim, new="a1"), "signs already")
    refused(proposal(sim, canary=("missing",)), "no cluster is registered as missing")
    refused(proposal(started(Simulation())), "under way")
    after = at(State.RETIRED)
    refused(proposal(after, old="b1", new="a2"), "was retired")
    refused(proposal(after, old="a1", new="c1"), "retired already")
    assert proposal(after, old="b1", new="c1")().under_way is not None


def test_a_start_that_would_stop_a_signer_is_refused() -> None:
    sim = Simulation(clusters=2)
    sim.signers[1].ready = {ISSUER["a2"], ISSUER["b1"]}
    refused(proposal(sim), "signer-1 is ready with another intermediate")
    sim.signers[1].ready = {ISSUER["b1"]}  # it issues nothing anyway: a stolen key may be locked already
    assert proposal(sim)().under_way is not None


def test_a_quarantine_unblocks_the_rotation_and_ends_when_the_cluster_has_caught_up() -> None:
    sim = started(Simulation(clusters=3))
    sim.member(2).reachable = False
    operators.rounds(sim, 30)
    assert rotation(sim).state is State.PUBLISHING
    assert {c.cluster for c in scenes.verdict(sim).unmet if c.name == "read_back"} == {"three"}
    operators.quarantine(sim, 2)
    assert signing_directives(sim.record).stopped == {"three": "lost"}
    until(sim, State.ACTIVE)
    operators.release(sim, 2)
    operators.rounds(sim, 3)
    assert sim.record.quarantined["three"].returning
    sim.member(2).reachable = True
    operators.rounds(sim, 20)
    assert sim.record.quarantined == {}


def test_long_reasons_and_authors_are_truncated() -> None:
    sim = Simulation()
    record = transitions.quarantine(
        sim.record, "one", author="a" * 999, reason="r" * 999, world=sim.observe()
    )
    quarantine = record.quarantined["one"]
    assert (len(quarantine.author), len(quarantine.reason)) == (MOST_TEXT, MOST_TEXT)
    proposed = rotation_of(proposal(sim, reason="r" * 999)())
    assert len(proposed.reason) == len(proposed.history[0].reason) == MOST_TEXT


def test_a_quarantine_requires_a_reason_and_a_registered_cluster() -> None:
    sim = Simulation()
    world = sim.observe()
    refused(
        lambda: transitions.quarantine(sim.record, "one", author="operator", reason=" ", world=world),
        "a reason",
    )
    refused(
        lambda: transitions.quarantine(sim.record, "x", author="operator", reason="lost", world=world),
        "registered",
    )
    refused(lambda: transitions.release(sim.record, "one"), "not quarantined")


def test_a_cluster_that_joins_during_a_rotation_is_waited_for() -> None:
    sim = at(State.ACTIVE)
    operators.register(sim, 2, 1)
    joined = sim.now
    until(sim, State.UNPUBLISHING)
    assert sim.now - joined >= 60.0


def declared(sim: Simulation, fingerprint: str, *, within: float = 20.0) -> RotationRecord:
    world = sim.observe()
    return transitions.emergency(
        sim.record,
        world,
        compromised=fingerprint,
        deadline=world.now + within,
        ttl_cap=10.0,
        author="operator",
        reason="stolen",
    )


@pytest.mark.parametrize("fingerprint", [ROOT["a"], ISSUER["a1"]], ids=["root", "intermediate"])
def test_an_emergency_of_the_old_side_does_not_wait_beyond_its_deadline(fingerprint: str) -> None:
    sim = started(Simulation(clusters=2))
    sim.store.record = declared(sim, fingerprint)
    directives = signing_directives(sim.record)
    assert (sim.state, directives.issuer, directives.ttl_cap) == (State.EMERGENCY, ISSUER["b1"], 10.0)
    sim.tick()
    assert sim.store.generations[sim.store.in_force] == {ROOT["a"], ROOT["b"], ROOT["w"]}
    sim.wait(21.0)
    sim.tick()
    assert rotation(sim).state is State.UNPUBLISHING
    assert {condition.met for condition in rotation(sim).history[-1].evidence} == {True, False}
    sim.member(1).reachable = False
    operators.rounds(sim, 20)
    assert rotation(sim).state is State.UNPUBLISHING  # a deadline does not make it observed
    operators.quarantine(sim, 1)
    until(sim, State.RETIRED)


def test_an_emergency_of_the_new_side_returns_to_the_old_side() -> None:
    sim = at(State.ACTIVE)
    operators.rounds(sim, 2)
    sim.store.record = declared(sim, ISSUER["b1"])
    assert (sim.state, signing_directives(sim.record).issuer) == (State.ABORTING, ISSUER["a1"])
    sim.wait(21.0)
    sim.tick()
    assert rotation(sim).wave == 1
    assert "deadline" in rotation(sim).history[-1].reason
    until(sim, State.STABLE)
    staged = started(Simulation())
    assert declared(staged, ROOT["b"]).under_way is None


@pytest.mark.parametrize("state", [State.STAGED, State.ACTIVE])
@pytest.mark.parametrize("staged", ["bc", "c"], ids=["staged", "published before"])
def test_a_compromised_new_root_is_removed_from_the_bundle_even_if_pinned(state: State, staged: str) -> None:
    sim = scenes.manual(until(started(Simulation(clusters=2, staged=staged)), state))
    sim.store.record = declared(sim, ROOT["b"])
    published_before = state is State.ACTIVE or staged == "c"
    assert sim.state is (State.ABORTING if published_before else State.STABLE)
    until(sim, State.STABLE)
    operators.rounds(sim, 2)
    assert ROOT["b"] not in sim.store.generations[sim.store.in_force]
    assert ROOT["b"] in sim.record.retired
    assert ROOT["b"] not in sim.record.admitted
    assert not published_before or rotation(sim).history[-2].reason.endswith("is removed")


def test_an_abort_leaves_a_root_that_was_published_before_and_says_so() -> None:
    sim = until(started(Simulation(clusters=2, staged="c")), State.ACTIVE)
    sim.store.record = aborted(sim)
    until(sim, State.STABLE)
    assert ROOT["b"] in sim.store.generations[sim.store.in_force]
    removal, end = rotation(sim).history[-2:]
    assert removal.reason.endswith("stays published, for its pin is not staged")
    assert "gone" not in end.reason


def test_an_intermediate_that_is_left_by_a_deadline_says_so() -> None:
    sim = at(State.ACTIVE, "a2")
    operators.rounds(sim, 2)
    sim.store.record = declared(sim, ISSUER["a2"], within=0.0)
    sim.tick()
    assert (sim.state, rotation(sim).history[-1].reason) == (State.STABLE, "the deadline has passed")


def test_a_compromised_issuer_is_forbidden_permanently() -> None:
    sim = at(State.ACTIVE, "a2")
    sim.store.record = declared(sim, ISSUER["a1"])
    assert signing_directives(sim.record).forbidden == [ISSUER["a1"]]
    until(sim, State.RETIRED)
    directives = signing_directives(sim.record)
    assert (directives.issuer, directives.strict, directives.forbidden) == (
        ISSUER["a2"],
        False,
        [ISSUER["a1"]],
    )
    operators.rounds(sim, 30)
    for signer in sim.signers:
        signer.ready.discard(ISSUER["a2"])
    sim.wait(120.0)
    operators.rounds(sim, 2)
    assert not sim.leaves, "a compromised issuer signs nothing, even if no other can"
    operators.heal(sim)
    refused(proposal(sim, old="a2", new="a1"), "it is compromised")
    refused(proposal(sim, old="a1", new="c1"), "left in an emergency")
    sim.store.record = proposal(sim, old="a2", new="b1")()
    assert signing_directives(sim.record).forbidden == [ISSUER["a1"]]


@pytest.mark.parametrize("first", [ROOT["a"], ISSUER["a1"]], ids=["root", "intermediate"])
def test_a_compromised_old_side_never_signs_again(first: str) -> None:
    sim = at(State.ACTIVE)
    sim.store.record = declared(sim, first, within=0.0)
    refused(lambda: declared(sim, ROOT["b"]), "no way back")
    sim.tick()
    sim.store.record = restored(sim)
    assert sim.state is State.ACTIVE
    refused(lambda: aborted(sim), "does not sign again")
    refused(lambda: declared(sim, ISSUER["b1"]), "no way back")
    assert signing_directives(sim.record).forbidden == sorted({first, ISSUER["a1"]})


def test_a_compromised_new_side_never_signs_again() -> None:
    sim = scenes.manual(at(State.ACTIVE))
    sim.store.record = declared(sim, ISSUER["b1"])
    refused(lambda: declared(sim, ROOT["a"]), "against the new side before")
    refused(lambda: declared(sim, ROOT["b"]), "aborted already")


def test_what_is_no_emergency() -> None:
    refused(lambda: declared(Simulation(), ROOT["a"]), "no rotation is under way")
    sim = started(Simulation())
    refused(lambda: declared(sim, "00"), "neither side")
    sim.validated = "it does not sign"
    refused(lambda: declared(sim, ROOT["a"]), "it does not sign")
    removing = at(State.UNPUBLISHING)
    refused(lambda: declared(removing, ROOT["a"]), "removed already")
    refused(lambda: declared(removing, ROOT["b"]), "every leaf")


def test_an_emergency_depends_on_the_signers_readiness_and_not_on_the_next_successor() -> None:
    sim = scenes.manual(at(State.ACTIVE))
    sim.validated = "signer-1 reports another successor"  # what the next rotation would be to
    assert rotation_of(declared(sim, ROOT["a"])).state is State.EMERGENCY
    sim.validated = None
    sim.signers[1].ready.discard(ISSUER["b1"])
    for state in (State.STAGED, State.PUBLISHING, State.ACTIVE):
        sim.store.record = changed(sim.record, rotation=changed(rotation(sim), state=state))
        refused(lambda: declared(sim, ROOT["a"]), "signer-1 is not ready to sign with the new intermediate")
    sim.signers[1].connected = False
    evidence = rotation_of(declared(sim, ROOT["a"])).history[-1].evidence
    assert [(c.name, c.met) for c in evidence] == [("signers", True)]


def test_another_intermediate_does_not_leave_a_stolen_root() -> None:
    sim = started(Simulation(), "a2")
    refused(lambda: declared(sim, ROOT["a"]), "both sides")
    assert declared(sim, ISSUER["a1"]).rotation is not None


def test_a_restart_resets_only_since_when_the_conditions_are_met() -> None:
    sim = scenes.manual(at(State.PUBLISHING))
    operators.rounds(sim, 20)
    before = rotation(sim)
    assert before.conditions_met_since
    after = transitions.interrupted(msgspec.json.decode(msgspec.json.encode(sim.record), type=RotationRecord))
    assert after.rotation == changed(before, conditions_met_since=0.0)
    assert transitions.interrupted(after) is after


def test_the_record_stays_within_what_one_object_holds() -> None:
    sim = started(Simulation())
    evidence = [
        Condition(name=name, met=number % 50 > 0, detail="x" * 5000, cluster=f"cluster-{number}")
        for name in ("read_back", "leaves", "matrix")
        for number in range(200)
    ]
    record = sim.record
    for _ in range(300):
        record = enter(record, State.PUBLISHING, Step("operator", 1.0, "y" * 5000, evidence))
    ended: Rotation | None = record.rotation
    assert ended is not None
    assert len(ended.history) == MOST_HISTORY
    assert all(len(step.evidence) == MOST_EVIDENCE for step in ended.history[-WHOLE_HISTORY:])
    assert {len(step.evidence) for step in ended.history[:-WHOLE_HISTORY]} == {3}
    unmet = [c for c in ended.history[-1].evidence if not c.met]
    assert len(unmet) == 12
    assert {c.name for c in ended.history[-1].evidence} == {"read_back", "leaves", "matrix"}
    assert len(msgspec.json.encode(record)) < 900 * 1024
