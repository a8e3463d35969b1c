"""Each safeguard is left out in turn, and something has to break: every check is needed, and known to be.

Those of the first table are found by the state machine itself: the same walks that hold with the safeguard find a
violation without it. The second table has those that no invariant of handshakes covers, or that another safeguard
covers as well; a scenario for each shows what it is for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import pytest

from federation.core.rotation import transitions
from federation.core.rotation.gates import GATES
from federation.core.rotation.record import State
from federation.core.rotation.world import Capacity, World
from tests.core.trust.rotation import operators, scenes
from tests.core.trust.rotation.certificates import ISSUER, ROOT
from tests.core.trust.rotation.invariants import Invariants, Violation
from tests.core.trust.rotation.istiods import Istiod
from tests.core.trust.rotation.simulator import SOAK, Simulation
from tests.core.trust.rotation.walks import walk

STEPS: Final = 150
WALKS: Final = 1500


@dataclass(frozen=True, slots=True)
class Broken:
    """Which invariants break (their numbers), in walks from ``since`` on in which the favoured events are frequent.

    ``since`` is a walk that is known to find it; if an edit changes that walk, the search continues with the next.
    """

    invariants: str
    favour: str = ""
    since: int = 0


BY_THE_MACHINE: Final = {
    "read_back": Broken("16", "refuse_bundle round", 72),
    "leaves": Broken("1"),
    "earlier": Broken("13", "register", 63),
    "drained": Broken("3"),
    "new_drained": Broken("3", "abort", 357),
    "observed": Broken("6"),
    "alive": Broken("d", since=277),
    "enacted": Broken("6", "fail_bundle", 96),
    "return_read_back": Broken("1", "quarantine release refuse_bundle round", 89),
    "return_leaves": Broken("1", "quarantine release", 1411),
    "return_earlier": Broken("1", "quarantine release register", 1790),
    "istiod_issuer": Broken("8", "round stop_providing certify_by_hand", 96),
    "webhooks": Broken("8", "round forbid_patching", 30),
    "return_webhooks": Broken("8", "quarantine release round forbid_patching", 720),
    "abort_trusts": Broken("1", "restore abort healthy", 1082),
    "skew": Broken("3", "healthy"),
    "configuration": Broken("c", "refuse_configuration round"),
    "pinned": Broken("p", "unpin round", 17),
    "kept": Broken("35", "unpin replace_pin"),
    "gone": Broken("1", "register unregister round propose", 134),
    "pending_changes": Broken("s1", "edit_authority restart_signer crash_signer round"),
    "own_issuers": Broken("3", "unpin pin round", 25),
    "own_earlier": Broken("3", "unpin register round", 43),
    "revalidation": Broken("6", "quarantine"),
    "ahead": Broken("6", "quarantine"),
    "revalidated_bounds": Broken("6", "disconnect connect begin finish quarantine"),
    "directives, enacted, effects_first": Broken(
        "1356", "ensure_directives ensure_generation decide abort quarantine", 225
    ),
}
"""``revalidation``, ``ahead``, ``revalidated_bounds`` and ``effects_first`` are promises of signers and the controller.
``pending_changes``: an authority that was configured, or whose files were exchanged, signs only where a rotation leads
to it. ``kept``: what is published stays, even if the configuration no longer pins it. ``gone``: leaves from before the
hub in a removed cluster count. The other conditions of an anchor without a pin are in ``test_member_cas.py``."""

BY_A_SCENE: Final = frozenset({
    "validated", "capacity", "soak", "matrix", "signers",
    "directives", "new_in_use", "in_force", "conditions_met_since",
    "canary_fallback", "listener", "istiod_trust", "return_istiod_trust", "webhooks_settled", "remembered",
    "known",
})  # fmt: skip


def test_the_tables_name_every_condition() -> None:
    named = {name for entry in BY_THE_MACHINE for name in entry.split(", ")} | BY_A_SCENE
    conditions = {name for gate in GATES.values() for name in gate}
    assert conditions <= named
    assert {f"test_without_{name}" for name in BY_A_SCENE} <= set(globals())


@pytest.mark.parametrize("left_out", BY_THE_MACHINE)
def test_without_it_the_machine_finds_a_violation(left_out: str) -> None:
    broken = BY_THE_MACHINE[left_out]
    without, favour = frozenset(left_out.split(", ")), broken.favour.split()
    for seed in range(broken.since, broken.since + WALKS):
        try:
            walk(seed, STEPS, without=without, favour=favour, authorities="pending_changes" in without)
        except Violation as violation:
            if str(violation)[0] not in broken.invariants:
                continue
            walked = walk(seed, STEPS, favour=favour, authorities="pending_changes" in without)
            assert walked.sim.faults == []  # with it the same walk holds
            return
    pytest.fail(f"{WALKS} walks found no violation without {left_out}")


def settled(state: State, canary: tuple[str, ...] = ()) -> Simulation:
    """A manual rotation in that state, with every condition of its gate met."""
    sim = scenes.manual(scenes.at(state, canary=canary))
    operators.rounds(sim, 16)
    assert scenes.unmet(sim) == set()
    return sim


def only(sim: Simulation, world: World, name: str) -> None:
    """Checks that only this condition is unmet, and that without it the step would be taken."""
    before = scenes.rotation(sim)
    assert transitions.advance(sim.record, world, by_hand=True).rotation == before
    after = transitions.advance(sim.record, world, by_hand=True, without=frozenset({name})).rotation
    assert after is not None
    assert after.state is not before.state


def test_without_validated() -> None:
    """Otherwise an authority that cannot sign would be published and directed to sign, and issuing would stop."""
    sim = scenes.started(Simulation())
    only(sim, replace(sim.observe(), validated="the dry-run leaf does not verify"), "validated")


def test_without_capacity() -> None:
    """Otherwise a back end that is too slow would get every renewal."""
    sim = scenes.started(Simulation())
    only(sim, replace(sim.observe(), capacity=Capacity(rate=50.0, quota=20.0)), "capacity")


def test_without_soak() -> None:
    """Otherwise conditions met at a single observation would count as met throughout."""
    steps = {}
    for without in (frozenset[str](), frozenset({"soak"})):
        sim = scenes.at(State.SOAKED, without=without)
        published, soaked = scenes.rotation(sim).history[-2:]
        steps[bool(without)] = soaked.at - published.at
    assert steps[True] + SOAK <= steps[False]


def test_without_matrix() -> None:
    """Otherwise a pair that fails for another reason would be ignored: the other conditions do not see it."""
    sim = settled(State.SOAKED)
    sim.false_alarm(0, 1)
    only(sim, sim.observe(), "matrix")


def test_without_signers() -> None:
    """Otherwise a signer that cannot sign with the new intermediate would be directed to, and issue nothing."""
    sim = settled(State.SOAKED)
    sim.signers[0].ready.discard(ISSUER["b1"])
    only(sim, sim.observe(), "signers")
    sim.without = frozenset({"signers"})
    operators.by_hand(sim)
    sim.tick()
    sim.signers[0].poll(sim.store)
    sim.begin(0, 0)
    assert sim.state is State.ACTIVE
    assert sim.signers[0].begun is None


def test_without_directives() -> None:
    """Otherwise a live signer that does not follow would go unnoticed; revalidation alone would stop it."""
    sim = settled(State.ACTIVE)
    world = sim.observe()
    lagging = replace(world.signers["signer-0"], state="CANARY")
    only(sim, replace(world, signers={**world.signers, "signer-0": lagging}), "directives")


def test_without_new_in_use() -> None:
    """Otherwise the matrix would be green by leaves of the old authority, and the canary would prove nothing."""
    sim = settled(State.CANARY, canary=("one",))
    world = sim.observe()
    stale = {
        names: replace(pair, client_issuer=ISSUER["a1"], server_issuer=ISSUER["a1"])
        for names, pair in world.pairs.items()
    }
    only(sim, replace(world, pairs=stale), "new_in_use")


def test_an_abort_waits_for_the_listener_condition_too() -> None:
    """It removes the new root: the listener has to be back under the old one for new connections."""
    sim = scenes.manual(scenes.at(State.ACTIVE))
    operators.abort(sim)
    operators.rounds(sim, 16)
    assert sim.state is State.ABORTING
    sim.signers[0].listener_refused = True
    assert "listener" in scenes.unmet(sim)


@pytest.mark.parametrize("state", [State.ACTIVE, State.UNPUBLISHING])
def test_without_listener(state: State) -> None:
    """Otherwise connected callers would hide that new ones refuse the listener's certificate of the other side."""
    sim = settled(state)
    sim.signers[0].listener_refused = True
    assert scenes.unmet(sim) == {"listener"}
    only(sim, sim.observe(), "listener")
    sim.signers[0].listener_refused = False
    for stale in (
        {"listener_proved_at": scenes.rotation(sim).since},
        {"listener_generation": sim.store.in_force - 1},
    ):
        world = sim.observe()
        signers = {replica: replace(facts, **stale) for replica, facts in world.signers.items()}
        only(sim, replace(world, signers=signers), "listener")


def test_without_in_force() -> None:
    """Restored and aborted before the old root was published again: the next leaf would be delivered without it.

    Revalidation does not help, since what is in force has not changed. The order in which the controller writes does
    help while it runs; but an operator's command may come at any time.
    """
    for left_out in (frozenset[str](), frozenset({"in_force"})):
        without = left_out | {"webhooks_settled"}  # which would make the operator wait, and only that
        sim = scenes.at(State.UNPUBLISHING, waves=(("one",), ("two",)), without=without)
        sim.ensure_generation()
        sim.ensure_directives()
        sim.signers[0].poll(sim.store)
        checks = Invariants(sim)
        operators.restore(sim)
        sim.wait(1.0)
        for cluster in (0, 1):
            sim.read_back(cluster)  # nothing was written yet: both hold both roots
        operators.abort(sim)
        assert (sim.state is State.ABORTING) == bool(left_out)
        sim.begin(0, 0)
        sim.finish(0)
        if left_out:
            with pytest.raises(Violation, match=r"^1: "):
                _rounds(sim, checks)
        else:
            _rounds(sim, checks)


def test_without_conditions_met_since() -> None:
    """Restored, published again and aborted by a read-back from before the root was removed: it is gone by now."""
    for without in (frozenset[str](), frozenset({"conditions_met_since"})):
        sim = scenes.at(State.UNPUBLISHING, without=without)
        sim.ensure_generation()
        sim.read_back(0)  # both still hold both roots
        sim.read_back(1)
        for cluster, target in ((0, 0), (0, 1), (1, 0), (1, 1)):
            sim.publish(cluster, target)
        operators.restore(sim)
        checks = Invariants(sim)
        sim.wait(1.0)
        sim.tick()
        operators.abort(sim)
        assert (sim.state is State.ABORTING) == bool(without)
        sim.tick()
        sim.signers[0].poll(sim.store)
        sim.begin(0, 0)
        sim.finish(0)
        if without:
            with pytest.raises(Violation, match=r"^1: "):
                checks.check()
        else:
            _rounds(sim, checks)


def with_an_old_ca_file(sim: Simulation) -> Istiod:
    """The first cluster's istiod has loaded both roots; since then its Secret has the old one alone."""
    istiod = sim.member(0).istiod
    assert istiod.secret is not None
    istiod.secret, istiod.generation = replace(istiod.secret, roots=frozenset({ROOT["a"]})), 1
    istiod.unprovided = True
    sim.read_back(0)
    return istiod


def test_without_istiod_trust() -> None:
    """Otherwise istiod could restart with roots by which it refuses clients of the new authority."""
    sim = settled(State.SOAKED)
    istiod = with_an_old_ca_file(sim)
    only(sim, sim.observe(), "istiod_trust")
    sim.without = frozenset({"istiod_trust"})
    checks = Invariants(sim)
    operators.by_hand(sim)
    sim.tick()
    istiod.start(sim.now)
    sim.signers[0].poll(sim.store)
    sim.begin(0, 1)
    sim.finish(0)
    with pytest.raises(Violation, match=r"^1: "):
        checks.check()


def test_without_return_istiod_trust() -> None:
    """As above, in a cluster that returns from its quarantine."""
    for without in (frozenset[str](), frozenset({"return_istiod_trust"})):
        sim = settled(State.ACTIVE)
        sim.without = without
        with_an_old_ca_file(sim)
        operators.quarantine(sim, 0)
        operators.release(sim, 0)
        sim.tick()
        assert ("one" in sim.record.quarantined) is not bool(without)


def test_without_remembered() -> None:
    """Otherwise a signer started after the removal of a pin would refuse the bundle that still has its anchor."""
    for without in (frozenset[str](), frozenset({"remembered"})):
        sim = Simulation(clusters=2, without=without)
        operators.rounds(sim, 2)
        operators.unpin(sim, 0)
        operators.rounds(sim, 1)
        assert ROOT["a"] in sim.roots()
        for signer in sim.signers:
            signer.crash()
            signer.restart(sim.store)
        sim.leaves.clear()
        operators.rounds(sim, 1)
        assert bool(sim.leaves) is not bool(without)


@pytest.mark.parametrize("state", [State.ACTIVE, State.UNPUBLISHING])
def test_without_known(state: State) -> None:
    """After a rollback of the store the bundle in force may lack the new root: no cluster gets it, no gate uses it."""
    for without in (frozenset[str](), frozenset({"known"})):
        sim = scenes.at(state, waves=(("one",), ("two",)), without=without)
        sim.tick()
        checks = Invariants(sim)
        known = sim.in_force
        operators.set_back(sim, known - 2, 0)
        assert (sim.store.in_force, sim.in_force) == (1, known)
        if without and state is State.UNPUBLISHING:
            with pytest.raises(Violation, match=r"^1: "):
                _rounds(sim, checks)
        else:
            _rounds(sim, checks)
            assert sim.store.in_force > known
            assert sim.store.generations[sim.store.in_force] >= sim.store.generations[known]


def test_without_webhooks() -> None:
    """Otherwise istiod's certificate would be re-signed while kube-apiserver verifies it by the old root alone."""
    sim = settled(State.SOAKED)
    istiod = sim.member(0).istiod
    istiod.bundle = frozenset({ROOT["a"]})
    sim.read_back(0)
    only(sim, sim.observe(), "webhooks")
    sim.without = frozenset({"webhooks"})
    checks = Invariants(sim)
    operators.by_hand(sim)
    sim.tick()
    sim.signers[0].poll(sim.store)
    sim.provide(0, 0)
    istiod.take_up(sim.now)
    with pytest.raises(Violation, match=r"^8: istiod is refused by kube-apiserver"):
        checks.check()


def test_without_webhooks_settled() -> None:
    """Restored and aborted while istiod is about to patch its webhooks with the new root alone."""
    for without in (frozenset[str](), frozenset({"webhooks_settled"})):
        sim = scenes.at(State.UNPUBLISHING, without=without)
        istiod = sim.member(0).istiod
        sim.tick()
        sim.write_ca(0)
        istiod.take_up(sim.now)  # and does not patch them yet
        operators.restore(sim)
        sim.wait(1.0)
        sim.tick()
        checks = Invariants(sim)
        for cluster in (0, 1):
            sim.write_ca(cluster)
            for target in (0, 1):
                sim.publish(cluster, target)
            sim.read_back(cluster)
        operators.abort(sim)
        assert (sim.state is State.ABORTING) == bool(without)
        sim.tick()
        istiod.patch()
        sim.signers[0].poll(sim.store)
        sim.provide(0, 0)
        istiod.take_up(sim.now)
        if without:
            with pytest.raises(Violation, match=r"^8: istiod is refused by kube-apiserver"):
                checks.check()
        else:
            _rounds(sim, checks)


def _rounds(sim: Simulation, checks: Invariants) -> None:
    checks.check()
    for _ in range(3):
        operators.round_of(sim)
        checks.check()


def test_without_canary_fallback() -> None:
    """Otherwise a failing canary would stay and keep failing."""
    for without in (frozenset[str](), frozenset({"canary_fallback"})):
        sim = settled(State.CANARY, canary=("one",))
        sim.without = without
        sim.false_alarm(0, 1)
        sim.tick()
        assert sim.state is (State.CANARY if without else State.SOAKED)


def test_without_revalidation_a_leaf_outlives_its_root() -> None:
    """A signer that was disconnected for a while returns with old directives after the gate was computed."""
    for without in (frozenset[str](), frozenset({"revalidation"})):
        sim = scenes.at(State.SOAKED, without=without)
        late = sim.signers[1]
        late.connected, late.without = False, without
        scenes.until(sim, State.UNPUBLISHING)
        late.connected = True
        checks = Invariants(sim)
        sim.begin(1, 0)
        sim.finish(1)
        if without:
            with pytest.raises(Violation, match=r"^3: "):
                _rounds(sim, checks)
        else:
            _rounds(sim, checks)
            assert late.directives.state == State.UNPUBLISHING


def test_without_writing_ahead_a_crash_hides_a_leaf() -> None:
    """Delivered by the old directives, long after the last bound; the signer is gone before it writes the next one."""
    for without in (frozenset[str](), frozenset({"ahead"})):
        sim = settled(State.SOAKED)
        sim.wait(20.0)
        operators.by_hand(sim)
        assert sim.state is State.ACTIVE
        sim.signers[0].without = without
        sim.begin(0, 0)
        sim.signers[0].crash()
        sim.tick()
        checks = Invariants(sim)
        if without:
            with pytest.raises(Violation, match=r"^3: "):
                operators.ends(sim, checks.check)
        else:
            assert operators.ends(sim, checks.check)
