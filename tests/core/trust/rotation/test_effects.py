"""What follows from a record, state by state: the bundle, the orders, and who keeps the generation before."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from federation.core.rotation.effects import kept_behind, orders_of, published
from federation.core.rotation.record import Quarantine, RotationBook, State
from tests.core.trust.rotation.certificates import ISSUER, ROOT
from tests.core.trust.rotation.test_gates import book

PINS = frozenset({ROOT["a"], ROOT["b"], ROOT["w"]})
STAGED = frozenset({ROOT["b"]})


def names(roots: frozenset[str]) -> str:
    return "".join(sorted(name for name, sha in ROOT.items() if sha in roots))


@pytest.mark.parametrize(
    ("state", "wave", "admitted", "expected"),
    [
        (State.STAGED, 0, False, "aw"),
        (State.PUBLISHING, 0, True, "abw"),
        (State.SOAKED, 0, True, "abw"),
        (State.CANARY, 0, True, "abw"),
        (State.ACTIVE, 0, True, "abw"),
        (State.UNPUBLISHING, 0, True, "bw"),
        (State.EMERGENCY, 0, True, "abw"),
        (State.ABORTING, 0, True, "abw"),
        (State.ABORTING, 0, False, "aw"),
        (State.ABORTING, 1, False, "aw"),
        (State.STABLE, 1, False, "aw"),
    ],
)
def test_what_is_published(state: State, wave: int, admitted: bool, expected: str) -> None:
    held = replace(book(state, wave=wave), admitted=[ROOT["b"]] if admitted else [])
    assert names(published(held, PINS, STAGED)) == expected


@pytest.mark.parametrize("state", [s for s in State if s not in {State.UNPUBLISHING, State.RETIRED}])
@pytest.mark.parametrize("wave", [0, 1])
def test_a_root_that_is_pinned_anyway_is_never_taken_away_by_an_abort(state: State, wave: int) -> None:
    assert names(published(book(state, wave=wave), PINS, frozenset())) == "abw"


def test_a_retired_root_is_pinned_and_not_published() -> None:
    retired = replace(book(State.RETIRED), retired=[ROOT["a"]], admitted=[ROOT["b"]])
    assert names(published(retired, PINS, STAGED)) == "bw"


def test_a_rotation_publishes_nothing_that_is_not_pinned() -> None:
    assert names(published(book(State.ACTIVE), frozenset({ROOT["a"]}), frozenset())) == "a"


@pytest.mark.parametrize("state", list(State))
def test_a_new_intermediate_changes_no_bundle(state: State) -> None:
    assert names(published(book(state, new="a2"), PINS, STAGED)) == "aw"


@pytest.mark.parametrize("state", list(State))
def test_the_orders(state: State) -> None:
    new = state in {State.ACTIVE, State.UNPUBLISHING, State.RETIRED, State.EMERGENCY}
    orders = orders_of(book(state))
    assert orders.issuer == ISSUER["b1" if new else "a1"]
    assert orders.issuer_for("one") == ISSUER["b1" if new or state is State.CANARY else "a1"]
    assert orders.issuer_for("two") == orders.issuer
    assert orders.strict == (state not in {State.STABLE, State.RETIRED})
    assert (orders.rotation, orders.state) == (1, state.value)


def test_without_a_rotation_only_quarantines_are_ordered() -> None:
    held = RotationBook(quarantined={"two": Quarantine(reason="lost", author="operator", since=1.0)})
    orders = orders_of(held)
    assert (orders.issuer_for("one"), orders.strict, orders.stopped) == ("", False, {"two": "lost"})
    assert published(held, PINS, STAGED) == PINS - STAGED
    assert orders_of(replace(held, compromised=[ISSUER["a1"]])).forbidden == [ISSUER["a1"]]
    assert kept_behind(held) == frozenset()


def test_waves() -> None:
    held = book(State.UNPUBLISHING)
    assert held.rotation is not None
    for wave, behind in enumerate(({"one", "two"}, {"two"}, set[str]())):
        waiting = replace(held.rotation, waves=[["one"], ["two"]], wave=wave)
        assert kept_behind(replace(held, rotation=waiting)) == behind
        elsewhere = replace(waiting, state=State.ACTIVE)
        assert kept_behind(replace(held, rotation=elsewhere)) == frozenset()
