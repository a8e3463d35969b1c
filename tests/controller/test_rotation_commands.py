"""What an operator asks of a rotation, as the controller answers it."""

from __future__ import annotations

import pytest

from federation.controller.rotation.operations import Commands
from federation.core.documents.controller import Operation
from federation.core.rotation.record import (
    MOST_HISTORY,
    Condition,
    OperationRefused,
    RotationRecord,
    State,
    Step,
    enter,
)
from tests.core.trust.rotation import operators, scenes
from tests.core.trust.rotation.simulator import Simulation
from tests.status.worlds import hub_config

CONFIG = hub_config(["one", "two"])


def asked(sim: Simulation, verb: str) -> RotationRecord:
    operation = Operation(id=verb, verb=verb, author="operator", asked=sim.clock)
    return Commands().apply(operation, sim.record, sim.observe(), CONFIG)


def refused(sim: Simulation, verb: str) -> OperationRefused:
    with pytest.raises(OperationRefused) as error:
        asked(sim, verb)
    assert error.value.remedy
    return error.value


def settled(state: State, canary: tuple[str, ...] = ()) -> Simulation:
    """In that state by hand, and its gate is open."""
    sim = scenes.manual(scenes.at(state, canary=canary))
    operators.rounds(sim, 16)
    assert scenes.unmet(sim) == set()
    return sim


def test_an_advance_through_an_open_gate_is_accepted_however_long_the_history_is() -> None:
    sim = settled(State.SOAKED)
    began = scenes.rotation(sim).since
    evidence = [Condition(name="matrix", met=True, detail="")]
    record = sim.record
    for _ in range(2 * MOST_HISTORY):
        record = enter(record, State.SOAKED, Step("the controller", began, "again", evidence))
    sim.store.record = record
    assert len(scenes.rotation(sim).history) == MOST_HISTORY
    after = asked(sim, "advance").rotation
    assert after is not None
    assert (after.state, after.history[-1].author) == (State.ACTIVE, "operator")


def test_an_advance_before_its_time_names_the_cluster_that_is_in_the_way() -> None:
    sim = settled(State.SOAKED)
    sim.wait(300.0)
    sim.read_back(0)
    assert "cannot leave SOAKED yet: two: it was last read back" in refused(sim, "advance").what


def test_an_advance_that_would_fall_back_says_so_and_leaves_that_to_the_machine() -> None:
    sim = settled(State.CANARY, canary=("one",))
    sim.false_alarm(0, 1)
    error = refused(sim, "advance")
    assert "falls back to SOAKED" in error.what
    assert "one to two" in error.what
    operators.by_hand(sim)
    assert sim.state is State.SOAKED


def test_an_abort_that_is_not_safe_names_the_cluster() -> None:
    sim = scenes.at(State.UNPUBLISHING)
    operators.restore(sim)
    sim.ensure_generation()
    sim.member(0).reachable = sim.member(1).reachable = False
    assert ": one: " in refused(sim, "abort").what
