"""A healthy mesh brought to a certain state of a rotation, for tests that begin there."""

from __future__ import annotations

from msgspec.structs import replace

from federation.core.rotation import transitions
from federation.core.rotation.gates import Verdict, gate
from federation.core.rotation.record import Rotation, State
from tests.core.trust.rotation import operators
from tests.core.trust.rotation.certificates import SIDES
from tests.core.trust.rotation.simulator import SOAK, Simulation


def started(
    sim: Simulation,
    new: str = "b1",
    *,
    canary: tuple[str, ...] = (),
    waves: tuple[tuple[str, ...], ...] = (),
    automatic: bool = True,
) -> Simulation:
    """With a rotation from ``a1`` in STAGED."""
    operators.rounds(sim, 1)
    sim.store.record = transitions.propose(
        sim.record,
        number=1,
        trust_domain="cluster.local",
        old=SIDES["a1"],
        new=SIDES[new],
        author="operator",
        reason="it is time",
        automatic=automatic,
        soak=SOAK,
        canary=canary,
        waves=waves,
        world=sim.observe(),
    )
    return sim


def at(
    state: State,
    new: str = "b1",
    *,
    canary: tuple[str, ...] = (),
    waves: tuple[tuple[str, ...], ...] = (),
    without: frozenset[str] = frozenset(),
) -> Simulation:
    """A mesh of two clusters whose rotation has just come to ``state``, and stays there until something happens."""
    sim = started(Simulation(clusters=2, without=without), new, canary=canary, waves=waves)
    return until(sim, state)


def until(sim: Simulation, state: State) -> Simulation:
    """Healthy rounds until the state is reached."""
    for _ in range(120):
        if sim.state is state:
            return sim
        operators.round_of(sim)
    raise AssertionError(f"it stays in {sim.state}: {verdict(sim).unmet}")


def rotation(sim: Simulation) -> Rotation:
    """The rotation, which there is."""
    assert sim.record.rotation is not None
    return sim.record.rotation


def verdict(sim: Simulation) -> Verdict:
    """What the gate says of what is observed now."""
    return gate(sim.record, sim.observe())


def unmet(sim: Simulation) -> set[str]:
    """The names of the conditions that are not met."""
    return {condition.name for condition in verdict(sim).unmet}


def manual(sim: Simulation) -> Simulation:
    """The same, advanced by hand only from now on."""
    sim.store.record = replace(sim.record, rotation=replace(rotation(sim), automatic=False))
    return sim
