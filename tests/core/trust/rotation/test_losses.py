"""What an emergency will cost, told before it is declared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.core.trust.horizons import UNKNOWN_ISSUER, Delivered
from federation.core.trust.rotation.losses import Loss, losses
from federation.core.trust.rotation.record import Rotation, State
from federation.core.trust.rotation.world import ClusterFacts, World
from tests.core.trust.rotation.certificates import ISSUER
from tests.core.trust.rotation.test_gates import HELD, NOW, OLD, WORLD, book

SOON = NOW + 20.0


def rotation(new: str = "b1") -> Rotation:
    held = book(State.ACTIVE, new=new).rotation
    assert held is not None
    return held


def found(world: World, *, at: float = SOON, new: str = "b1", leaving_new: bool = False) -> list[Loss]:
    return losses(rotation(new), world, at=at, leaving_new=leaving_new)


@pytest.mark.parametrize(
    "issuer", [ISSUER["a1"], ISSUER["a2"], UNKNOWN_ISSUER], ids=["old", "earlier", "unknown"]
)
def test_leaves_that_are_refused_once_the_old_root_is_gone(issuer: str) -> None:
    world = replace(WORLD, horizons={Delivered("one", issuer, 2): NOW + 60.0})
    (loss,) = found(world)
    assert (loss.cluster, loss.begins, loss.ends) == ("one", SOON, NOW + 65.0)
    assert "refused" in loss.what


def test_leaves_that_end_before_that_lose_nothing_by_the_slowest_clock() -> None:
    ending = {Delivered("one", ISSUER["a1"], 2): SOON - 5.0}
    assert found(replace(WORLD, horizons=ending)) == []
    assert len(found(replace(WORLD, horizons={key: until + 0.1 for key, until in ending.items()}))) == 1


def test_workloads_that_do_not_trust_the_new_root_refuse_it_at_once() -> None:
    (loss,) = found(replace(WORLD, horizons={Delivered("one", ISSUER["b1"], 1): NOW + 60.0}))
    assert (loss.begins, loss.ends) == (NOW, NOW + 65.0)


@pytest.mark.parametrize("held", [None, OLD])
def test_namespaces_that_do_not_hold_the_new_root(held: frozenset[str] | None) -> None:
    (loss,) = found(replace(WORLD, clusters={"one": ClusterFacts(held=held, read_back_at=NOW), "two": HELD}))
    assert (loss.cluster, loss.begins, loss.ends) == ("one", NOW, 0.0)


def test_leaves_from_before_the_hub_may_do_both() -> None:
    world = replace(WORLD, clusters={"one": replace(HELD, unknown_until=NOW + 60.0)})
    assert [loss.begins for loss in found(world)] == [SOON, NOW]
    assert [loss.begins for loss in found(world, at=NOW + 66.0)] == [NOW]


def test_leaving_the_new_side_is_the_same_the_other_way_round() -> None:
    world = replace(WORLD, horizons={Delivered("one", ISSUER["b1"], 2): NOW + 60.0})
    (loss,) = found(world, leaving_new=True)
    assert (loss.cluster, loss.begins) == ("one", SOON)
    assert found(world) == []


def test_another_intermediate_under_the_same_root_loses_nothing() -> None:
    world = replace(WORLD, horizons={Delivered("one", ISSUER["a1"], 1): NOW + 60.0})
    assert found(world, new="a2") == []
