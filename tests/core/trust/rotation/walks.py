"""Random walks over a simulated mesh: the events with their weights, and the check after each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Final

from tests.core.trust.rotation import operators
from tests.core.trust.rotation.certificates import ISSUER
from tests.core.trust.rotation.invariants import Invariants, Violation
from tests.core.trust.rotation.simulator import Simulation

Event = Callable[[Simulation, int, int], object]


def _reach(sim: Simulation, which: int, up: bool) -> None:
    sim.member(which).reachable = up


def _connect(sim: Simulation, which: int, up: bool) -> None:
    sim.signer(which).connected = up


def _fail_bundle(sim: Simulation, fails: bool) -> None:
    sim.bundle_fails = fails


def _flip_ready(sim: Simulation, which: int, choice: int) -> None:
    sim.signer(which).ready ^= {ISSUER[("a1", "b1", "a2", "c1")[choice % 4]]}


def _issue(sim: Simulation, signer: int, cluster: int) -> None:
    sim.begin(signer, cluster)
    sim.finish(signer)


def _refuses(sim: Simulation, which: int, does: bool) -> None:
    sim.member(which).refuses = does


def _provides(sim: Simulation, which: int, does: bool) -> None:
    sim.member(which).istiod.unprovided = not does


def _forbids(sim: Simulation, which: int, does: bool) -> None:
    sim.member(which).istiod.forbidden = does


def _judge_new(sim: Simulation, good: int) -> None:
    sim.validated = None if good % 4 else "it does not sign"


EVENTS: Final[dict[str, tuple[int, Event]]] = {
    "wait": (10, lambda sim, x, _: sim.wait(operators.WAITS[x % 4])),
    "issue": (14, _issue),
    "begin": (4, lambda sim, x, y: sim.begin(x, y)),
    "finish": (4, lambda sim, x, _: sim.finish(x)),
    "poll": (6, lambda sim, x, _: sim.signer(x).poll(sim.store)),
    "publish": (10, lambda sim, x, y: sim.publish(x, y)),
    "provide": (6, lambda sim, x, y: sim.provide(x, y)),
    "write_ca": (4, lambda sim, x, _: sim.write_ca(x)),
    "take_up": (6, lambda sim, x, _: sim.member(x).istiod.take_up(sim.now)),
    "patch_webhooks": (4, lambda sim, x, _: sim.member(x).istiod.patch()),
    "refuse_bundle": (1, lambda sim, x, _: _refuses(sim, x, True)),
    "take_bundle": (3, lambda sim, x, _: _refuses(sim, x, False)),
    "stop_providing": (2, lambda sim, x, _: _provides(sim, x, False)),
    "go_on_providing": (3, lambda sim, x, _: _provides(sim, x, True)),
    "forbid_patching": (2, lambda sim, x, _: _forbids(sim, x, True)),
    "allow_patching": (3, lambda sim, x, _: _forbids(sim, x, False)),
    "certify_by_hand": (1, lambda sim, x, _: sim.certify_by_hand(x)),
    "restart_istiod": (2, lambda sim, x, _: sim.member(x).istiod.start(sim.now)),
    "read_back": (8, lambda sim, x, _: sim.read_back(x)),
    "prove": (4, lambda sim, *_: sim.prove()),
    "false_alarm": (1, lambda sim, x, y: sim.false_alarm(x, y)),
    "tick": (10, lambda sim, *_: sim.tick()),
    "ensure_generation": (2, lambda sim, *_: sim.ensure_generation()),
    "ensure_directives": (2, lambda sim, *_: sim.ensure_directives()),
    "decide": (2, lambda sim, *_: sim.decide()),
    "crash_controller": (1, lambda sim, *_: sim.crash_controller()),
    "restart_controller": (5, lambda sim, *_: sim.restart_controller()),
    "crash_signer": (1, lambda sim, x, _: sim.signer(x).crash()),
    "restart_signer": (4, lambda sim, x, _: sim.signer(x).restart(sim.store)),
    "disconnect": (2, lambda sim, x, _: _connect(sim, x, False)),
    "connect": (4, lambda sim, x, _: _connect(sim, x, True)),
    "cut_off": (2, lambda sim, x, _: _reach(sim, x, False)),
    "come_back": (4, lambda sim, x, _: _reach(sim, x, True)),
    "fail_bundle": (1, lambda sim, x, _: _fail_bundle(sim, x % 2 == 0)),
    "flip_ready": (1, _flip_ready),
    "judge_new": (1, lambda sim, x, _: _judge_new(sim, x)),
    "round": (14, lambda sim, x, _: operators.rounds(sim, 1 + x % 3)),
    "healthy": (3, lambda sim, x, _: operators.healthy(sim, 2 + x % 8)),
    "propose": (4, lambda sim, x, _: operators.propose(sim, x)),
    "abort": (2, lambda sim, *_: operators.abort(sim)),
    "restore": (2, lambda sim, *_: operators.restore(sim)),
    "by_hand": (3, lambda sim, *_: operators.by_hand(sim)),
    "quarantine": (2, lambda sim, x, _: operators.quarantine(sim, x)),
    "release": (3, lambda sim, x, _: operators.release(sim, x)),
    "register": (2, lambda sim, x, y: operators.register(sim, x, y)),
    "unregister": (1, lambda sim, x, _: operators.unregister(sim, x)),
    "unpin": (2, lambda sim, x, _: operators.unpin(sim, x)),
    "pin": (3, lambda sim, x, y: operators.pin(sim, x, y)),
    "replace_pin": (1, lambda sim, x, y: operators.replace_pin(sim, x, y)),
    "configure": (4, lambda sim, x, _: operators.configure(sim, x)),
    "refuse_configuration": (1, lambda sim, x, _: operators.refuse(sim, x)),
    "correct_configuration": (4, lambda sim, *_: operators.correct(sim)),
    "take_out_authorities": (1, lambda sim, *_: operators.take_out_authorities(sim)),
    "settle": (1, lambda sim, *_: sim.settle()),
    "drop": (2, lambda sim, *_: sim.drop()),
}
"""Each event by name, with its weight; it takes two small numbers."""

OF_AUTHORITIES: Final[dict[str, tuple[int, Event]]] = {
    "edit_authority": (4, operators.edit_authority),
    "put_back_authority": (4, lambda sim, x, _: operators.put_back_authority(sim, x)),
    "note": (2, lambda sim, *_: sim.note()),
}
"""Edits of what signers are to sign with, as :data:`EVENTS`."""

SETBACKS: Final[dict[str, tuple[int, Event]]] = {"set_back": (3, operators.set_back)}
"""State that goes backwards, as :data:`EVENTS`."""

EMERGENCY: Final = "emergency"
REMOVAL: Final = "remove_now"
FAVOUR: Final = 8


def event(sim: Simulation, name: str, x: int, y: int) -> None:
    """One event of :data:`EVENTS`, an emergency, or the removal of an anchor that may be needed."""
    if name == EMERGENCY:
        operators.emergency(sim, x)
    elif name == REMOVAL:
        operators.remove_now(sim, x)
    else:
        (EVENTS | OF_AUTHORITIES | SETBACKS)[name][1](sim, x, y)


def walk(
    seed: int,
    steps: int,
    *,
    without: frozenset[str] = frozenset(),
    favour: Collection[str] = (),
    emergencies: bool = False,
    authorities: bool = False,
    setbacks: bool = False,
) -> Invariants:
    """Run ``steps`` events, drawn by the seed; favoured ones come more often. Raises Violation with the last events."""
    random = Random(seed)
    sim = Simulation(
        clusters=random.randint(2, 4),
        replicas=random.randint(1, 3),
        staged=random.choice(("bc", "c")),
        without=without,
    )
    invariants = Invariants(sim)
    events = EVENTS | (OF_AUTHORITIES if authorities else {}) | (SETBACKS if setbacks else {})
    names = list(events)
    weights = [weight * (FAVOUR if name in favour else 1) for name, (weight, _) in events.items()]
    if emergencies:
        names, weights = [*names, EMERGENCY, REMOVAL], [*weights, 2, 2]
    trace: list[str] = []
    for name in random.choices(names, weights, k=steps):
        x, y = random.randrange(256), random.randrange(256)
        trace.append(f"{name}({x}, {y}) in {sim.state}")
        try:
            event(sim, name, x, y)
            invariants.check()
        except Violation as violation:
            raise Violation(f"{violation}; walk {seed}, {len(trace)} events, last: {trace[-8:]}") from None
    return invariants
