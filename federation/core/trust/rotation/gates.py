"""The gates between the states of a rotation: which conditions each has, and when it will open. Pure.

A condition that holds says what it was seen by; one that does not says which cluster or signer is in the way
and, where only time has to pass, until when. Conditions are named, so that tests can take each of them away
in turn and show what breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from federation.core.trust.rotation import conditions
from federation.core.trust.rotation.alive import renewing
from federation.core.trust.rotation.conditions import waits_for_its_wave
from federation.core.trust.rotation.consumers import (
    consumers,
    delivered_in_removed,
    delivered_with,
    earlier,
    held,
    in_force,
    leaves_without,
    unmet,
)
from federation.core.trust.rotation.control_planes import (
    Wanted,
    istiod_trust,
    serving,
    webhooks,
    webhooks_settled,
)
from federation.core.trust.rotation.enacted import enacted
from federation.core.trust.rotation.record import Condition, Rotation, RotationBook, State
from federation.core.trust.rotation.world import World

__all__ = ["GATES", "Verdict", "gate", "return_gate", "signed_under", "trusts", "waits_for_its_wave"]

_Rule = Callable[[RotationBook, Rotation, World], Iterator[Condition]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says: open where every condition is met."""

    conditions: tuple[Condition, ...]

    @property
    def open(self) -> bool:
        """True where nothing stands in the way."""
        return all(condition.met for condition in self.conditions)

    @property
    def opens_at(self) -> float:
        """When it opens at the earliest (seconds since the epoch); 0 where that cannot be told."""
        unmet = [condition.until for condition in self.conditions if not condition.met]
        return max(unmet) if unmet and all(unmet) else 0.0

    @property
    def unmet(self) -> tuple[Condition, ...]:
        """Only what stands in the way."""
        return tuple(condition for condition in self.conditions if not condition.met)


def gate(book: RotationBook, world: World, *, without: frozenset[str] = frozenset()) -> Verdict:
    """The gate out of the present state. ``without`` names conditions to leave out: for tests alone."""
    rotation = book.rotation
    if rotation is None:
        return Verdict(())
    rules = [rule for name, rule in GATES.get(rotation.state, {}).items() if name not in without]
    found = [condition for rule in rules for condition in rule(book, rotation, world)]
    return Verdict(tuple(_with_soak_behind(found, rotation)))


def _with_soak_behind(found: list[Condition], rotation: Rotation) -> list[Condition]:
    """The soak begins when everything else holds: where that can be told, its end can be too."""
    others = [condition.until for condition in found if not condition.met and condition.name != "soak"]
    if not others or not all(others):
        return found
    ends = max(others) + rotation.soak
    return [replace(c, until=ends) if c.name == "soak" and not c.met else c for c in found]


def return_gate(
    book: RotationBook, cluster: str, world: World, *, without: frozenset[str] = frozenset()
) -> Verdict:
    """The gate out of a quarantine: caught up, and no leaf alive that lacks an anchor that is signed under."""
    rules: dict[str, Callable[[RotationBook, str, World], Iterator[Condition]]] = {
        "return_held": _return_held,
        "return_istiod_trust": _return_istiod_trust,
        "return_webhooks": _return_webhooks,
        "return_leaves": _return_leaves,
        "return_earlier": _return_earlier,
    }
    kept = [rule for name, rule in rules.items() if name not in without]
    return Verdict(tuple(condition for rule in kept for condition in rule(book, cluster, world)))


def trusts(
    book: RotationBook, world: World, roots: frozenset[str], *, without: frozenset[str] = frozenset()
) -> Verdict:
    """Whether every consumer of every cluster that is not quarantined trusts these roots (the gate G1)."""
    since = book.rotation.since if book.rotation is not None and "held_since" not in without else 0.0
    late = leaves_without(roots, world)
    found = [] if "in_force" in without else [in_force(roots, world)]
    for name, facts in consumers(book, world):
        found += [] if "held" in without else [held(name, facts, roots, world, since=since)]
        wanted = Wanted.signed_under(book.rotation, roots, since=since)
        found += [] if "istiod_trust" in without else istiod_trust(name, facts, wanted, world)
        found += [] if "webhooks" in without else webhooks(name, facts, wanted, world)
        found += [] if "webhooks_settled" in without else webhooks_settled(name, facts, world, since=since)
        found += [] if "leaves" in without else delivered_with(name, roots, late)
        found += [] if "earlier" in without else [earlier(name, facts, world)]
    if "leaves" not in without:
        found += delivered_in_removed(book, world, roots, late)
    return Verdict(tuple(found))


def _return_held(book: RotationBook, cluster: str, world: World) -> Iterator[Condition]:
    facts = world.clusters.get(cluster)
    roots = signed_under(book)
    if facts is None:
        yield unmet("return_held", "it is not registered any more", cluster)
    else:
        condition = held(cluster, facts, roots, world, since=0.0)
        current = facts.current or not condition.met
        detail = condition.detail if current else "it does not hold the generation in force yet"
        yield replace(condition, name="return_held", met=condition.met and current, detail=detail)


def _return_istiod_trust(book: RotationBook, cluster: str, world: World) -> Iterator[Condition]:
    facts, roots = world.clusters.get(cluster), signed_under(book)
    if facts is not None and roots:
        wanted = Wanted.signed_under(book.rotation, roots)
        for condition in istiod_trust(cluster, serving(facts, world), wanted, world):
            yield replace(condition, name="return_istiod_trust")


def _return_webhooks(book: RotationBook, cluster: str, world: World) -> Iterator[Condition]:
    facts, roots = world.clusters.get(cluster), signed_under(book)
    if facts is not None and roots:
        wanted = Wanted.signed_under(book.rotation, roots)
        for condition in webhooks(cluster, serving(facts, world), wanted, world):
            yield replace(condition, name="return_webhooks")


def _return_leaves(book: RotationBook, cluster: str, world: World) -> Iterator[Condition]:
    roots = signed_under(book)
    for condition in delivered_with(cluster, roots, leaves_without(roots, world)):
        yield replace(condition, name="return_leaves")


def _return_earlier(book: RotationBook, cluster: str, world: World) -> Iterator[Condition]:
    """Its leaves from before the hub cannot trust a root that a rotation has brought."""
    rotation, facts = book.rotation, world.clusters.get(cluster)
    if rotation is None or facts is None or not rotation.changes_root:
        return
    if rotation.new.root in signed_under(book):
        yield replace(earlier(cluster, facts, world), name="return_earlier")


def signed_under(book: RotationBook) -> frozenset[str]:
    """The roots that leaves may be signed under at present."""
    rotation = book.rotation
    if rotation is None:
        return frozenset()
    match rotation.state:
        case State.RETIRED | State.UNPUBLISHING:
            return frozenset({rotation.new.root})
        case State.STABLE | State.STAGED:
            return frozenset({rotation.old.root})
        case _:
            return frozenset({rotation.old.root, rotation.new.root})


GATES: Final[Mapping[State, Mapping[str, _Rule]]] = {
    State.STAGED: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "validated": conditions.validated,
        "capacity": conditions.capacity,
    },
    State.PUBLISHING: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "in_force": conditions.in_force_both,
        "held": conditions.held_both,
        "leaves": conditions.leaves_with_both,
        "earlier": conditions.none_earlier,
        "istiod_trust": conditions.istiods_trust_both,
        "webhooks": conditions.webhooks_with_both,
        "soak": conditions.soaked,
    },
    State.SOAKED: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "in_force": conditions.in_force_both,
        "held": conditions.held_both,
        "leaves": conditions.leaves_with_both,
        "earlier": conditions.none_earlier,
        "istiod_trust": conditions.istiods_trust_both,
        "webhooks": conditions.webhooks_with_both,
        "matrix": conditions.green,
        "signers": conditions.signers_ready,
        "alive": renewing,
    },
    State.CANARY: {
        "configuration": conditions.configuration,
        "pinned": conditions.pinned,
        "in_force": conditions.in_force_both,
        "held": conditions.held_both,
        "leaves": conditions.leaves_with_both,
        "earlier": conditions.none_earlier,
        "istiod_trust": conditions.istiods_trust_both,
        "webhooks": conditions.webhooks_with_both,
        "signers": conditions.signers_ready,
        "orders": conditions.orders_followed,
        "matrix": conditions.green,
        "new_in_use": conditions.new_in_use,
        "alive": renewing,
    },
    State.ACTIVE: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "drained": conditions.drained,
        "earlier": conditions.none_earlier_anywhere,
        "istiod_issuer": conditions.istiods_of_staying,
        "istiod_trust": conditions.istiods_trust_staying,
        "webhooks": conditions.webhooks_with_staying,
        "orders": conditions.orders_followed,
        "held": conditions.held_both,
        "leaves": conditions.leaves_with_both,
        "matrix": conditions.green,
        "door": conditions.doors_open,
        "new_in_use": conditions.new_in_use,
        "alive": renewing,
    },
    State.UNPUBLISHING: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "observed": conditions.observed,
        "matrix": conditions.green,
        "door": conditions.doors_open,
        "alive": renewing,
    },
    State.ABORTING: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "new_drained": conditions.new_drained,
        "earlier": conditions.none_earlier_before_removal,
        "istiod_issuer": conditions.istiods_of_staying,
        "istiod_trust": conditions.istiods_trust_staying,
        "webhooks": conditions.webhooks_with_staying,
        "orders": conditions.orders_followed,
        "observed": conditions.observed,
        "door": conditions.doors_open,
        "alive": renewing,
    },
    State.EMERGENCY: {
        "configuration": conditions.configuration,
        "enacted": enacted,
        "drained": conditions.drained,
        "earlier": conditions.none_earlier_anywhere,
        "istiod_issuer": conditions.istiods_of_staying,
        "istiod_trust": conditions.istiods_trust_staying,
        "webhooks": conditions.webhooks_with_staying,
        "leaves": conditions.leaves_with_both,
        "held": conditions.held_both,
        "alive": renewing,
    },
}
"""The gate out of each state: its conditions by name."""
