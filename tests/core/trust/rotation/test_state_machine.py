"""The rotation core under everything that goes wrong at once: after every event all invariants hold."""

from __future__ import annotations

from collections import Counter
from itertools import chain, repeat
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from federation.core.rotation.record import State
from tests.core.trust.rotation import operators
from tests.core.trust.rotation.invariants import Invariants
from tests.core.trust.rotation.simulator import Simulation
from tests.core.trust.rotation.walks import EMERGENCY, EVENTS, OF_AUTHORITIES, SETBACKS, event, walk
from tests.support.examples import examples

RUNS: Final = examples(500)
NAMES: Final = list(
    chain.from_iterable(
        repeat(name, weight) for name, (weight, _) in (EVENTS | OF_AUTHORITIES | SETBACKS).items()
    )
)
NUMBER: Final = st.integers(0, 255)
SEEDS: Final = 500
"""Walks of one part; four parts, so that they can run beside one another."""


class RotationMachine(RuleBasedStateMachine):
    """Clusters, signers, a controller and operators, one event at a time."""

    judge: Invariants
    begun = 0

    @initialize(clusters=st.integers(2, 4), replicas=st.integers(1, 3), staged=st.sampled_from(["bc", "c"]))
    def begin(self, clusters: int, replicas: int, staged: str) -> None:
        type(self).begun += 1
        self.judge = Invariants(Simulation(clusters=clusters, replicas=replicas, staged=staged))

    @rule(name=st.sampled_from(NAMES), x=NUMBER, y=NUMBER)
    def event(self, name: str, x: int, y: int) -> None:
        event(self.judge.sim, name, x, y)

    @invariant()
    def holds(self) -> None:
        self.judge.check()


def test_runs_of_the_state_machine() -> None:
    RotationMachine.begun = 0
    run_state_machine_as_test(
        RotationMachine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert RotationMachine.begun >= RUNS


@pytest.mark.parametrize("part", range(4))
def test_long_walks(part: int) -> None:
    """And all of it was walked through: no state is a place where nothing was checked."""
    seen: Counter[State] = Counter()
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        seen += walk(seed, 180, authorities=seed % 2 == 1, setbacks=seed % 4 < 2).seen
    assert seen.keys() == set(State) - {State.EMERGENCY}
    assert min(seen.values()) > SEEDS, seen


def test_an_emergency_breaks_nothing_that_was_not_predicted() -> None:
    seen: Counter[State] = Counter()
    predicted = 0
    for seed in range(700):
        walked = walk(seed, 120, emergencies=True)
        seen += walked.seen
        predicted += walked.sim.named is not None
    assert seen[State.EMERGENCY] > 500, seen
    assert predicted > 200


@pytest.mark.parametrize("emergencies", [False, True])
def test_once_all_is_well_every_rotation_ends(emergencies: bool) -> None:
    left = Counter[State]()
    for seed in range(1000, 1250):
        walked = walk(seed, 60, emergencies=emergencies, authorities=seed % 2 == 1, setbacks=seed % 4 < 2)
        sim = walked.sim
        left[sim.state] += 1
        assert operators.ends(sim, walked.check), f"walk {seed} is still in {sim.state} of {sim.record}"
        assert sim.state in {State.STABLE, State.RETIRED}
    assert len(left) >= 7, left


def test_the_walks_know_every_event() -> None:
    sim = Simulation()
    for name in (*EVENTS, *OF_AUTHORITIES, *SETBACKS, EMERGENCY):
        event(sim, name, 0, 0)
    Invariants(sim).check()
