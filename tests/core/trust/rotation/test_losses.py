"""What an emergency will cost, predicted before it is declared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.core.rotation.effects import Loss, losses
from federation.core.rotation.record import Rotation, State
from federation.core.rotation.world import ClusterFacts, SignerFacts, World
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER, Delivered
from tests.core.trust.rotation.certificates import ISSUER
from tests.core.trust.rotation.test_gates import HEALTHY, NOW, OLD, WORLD, rotation_record

SOON = NOW + 20.0


def rotation(new: str = "b1") -> Rotation:
    anchors = rotation_record(State.ACTIVE, new=new).rotation
    assert anchors is not None
    return anchors


def found(world: World, *, at: float = SOON, new: str = "b1", leaving_new: bool = False) -> list[Loss]:
    return losses(rotation(new), world, at=at, leaving_new=leaving_new)


@pytest.mark.parametrize(
    "issuer", [ISSUER["a1"], ISSUER["a2"], UNKNOWN_ISSUER], ids=["old", "earlier", "unknown"]
)
def test_leaves_that_are_refused_once_the_old_root_is_gone(issuer: str) -> None:
    world = replace(WORLD, expiry_bounds={Delivered("one", issuer, 2): NOW + 60.0})
    (loss,) = found(world)
    assert (loss.cluster, loss.begins, loss.ends) == ("one", SOON, NOW + 65.0)
    assert "refused" in loss.what


def test_leaves_that_expire_before_the_removal_by_the_slowest_clock_lose_nothing() -> None:
    ending = {Delivered("one", ISSUER["a1"], 2): SOON - 5.0}
    assert found(replace(WORLD, expiry_bounds=ending)) == []
    assert len(found(replace(WORLD, expiry_bounds={key: until + 0.1 for key, until in ending.items()}))) == 1


def test_workloads_that_do_not_trust_the_new_root_refuse_it_at_once() -> None:
    (loss,) = found(replace(WORLD, expiry_bounds={Delivered("one", ISSUER["b1"], 1): NOW + 60.0}))
    assert (loss.begins, loss.ends) == (NOW, NOW + 65.0)


@pytest.mark.parametrize("anchors", [None, OLD])
def test_namespaces_that_do_not_hold_the_new_root(anchors: frozenset[str] | None) -> None:
    (loss,) = found(
        replace(WORLD, clusters={"one": ClusterFacts(anchors=anchors, read_back_at=NOW), "two": HEALTHY})
    )
    assert (loss.cluster, loss.begins, loss.ends) == ("one", NOW, 0.0)


def test_leaves_from_before_the_hub_may_do_both() -> None:
    world = replace(WORLD, clusters={"one": replace(HEALTHY, unknown_until=NOW + 60.0)})
    assert [loss.begins for loss in found(world)] == [SOON, NOW]
    assert [loss.begins for loss in found(world, at=NOW + 66.0)] == [NOW]


def test_leaving_the_new_side_has_the_mirrored_losses() -> None:
    world = replace(WORLD, expiry_bounds={Delivered("one", ISSUER["b1"], 2): NOW + 60.0})
    (loss,) = found(world, leaving_new=True)
    assert (loss.cluster, loss.begins) == ("one", SOON)
    assert found(world) == []


def test_another_intermediate_under_the_same_root_loses_nothing() -> None:
    world = replace(WORLD, expiry_bounds={Delivered("one", ISSUER["a1"], 1): NOW + 60.0})
    assert found(world, new="a2") == []


@pytest.mark.parametrize("new", ["b1", "a2"])
def test_a_signer_that_lacks_the_other_authority_issues_nothing_in_any_cluster(new: str) -> None:
    able, other = (SignerFacts(ready_with=frozenset({ISSUER[name]}), generation=2) for name in ("a1", new))
    world = replace(WORLD, signers={"signer-0": able, "signer-1": other})
    lost = found(world, new=new, leaving_new=True)
    assert [(loss.cluster, loss.begins, loss.ends) for loss in lost] == [("one", NOW, 0.0), ("two", NOW, 0.0)]
    assert all("issues nothing: signer-1" in loss.what for loss in lost)
    assert all("issues nothing: signer-0" in loss.what for loss in found(world, new=new))


def test_many_unable_signers_are_one_loss_for_each_cluster() -> None:
    unable = SignerFacts(ready_with=frozenset(), generation=2)
    lost = found(replace(WORLD, signers={f"signer-{number}": unable for number in range(9)}))
    assert [loss.cluster for loss in lost] == ["one", "two"]
    assert lost[0].what.endswith("signer-0, signer-1, signer-2 and 6 more")


def test_losses_by_a_ca_that_keeps_issuing_have_no_end() -> None:
    own = replace(HEALTHY, unknown_until=NOW + 60.0, own_issues=True)
    world = replace(WORLD, clusters={"one": own})
    assert [(loss.begins, loss.ends) for loss in found(world)] == [(SOON, 0.0), (NOW, 0.0)]
    later = found(world, at=NOW + 3600.0)
    assert [loss.begins for loss in later] == [NOW + 3600.0, NOW], "what it issues later fares no better"
    assert [loss.begins for loss in found(world, at=float("inf"))] == [NOW], "what fails at once"
