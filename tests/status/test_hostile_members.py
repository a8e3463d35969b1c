"""What status says of a member that is hostile: which one it is, whose key it counts as, and what is not affected."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from federation.clusters.health import ClusterHealth
from federation.core.documents.signer import SharedTokenKey
from federation.core.errors import ClusterOverBudget
from federation.status.model import FederationStatus
from federation.status.view import compose
from tests.status.worlds import World

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAMES = ["east", "west", "north"]
KEY = "ab" * 32


def seen(world: World) -> FederationStatus:
    return compose(world.document_set(), world.config, NOW)


@pytest.mark.parametrize(
    ("holder", "proved", "words"),
    [
        ("east", True, "it counts as the key of east, which signs the probe's tokens with it"),
        ("east", False, "it counts as the key of east, which published it first"),
        ("", False, "which of them signs with it is not known yet"),
    ],
)
def test_a_key_that_two_publish_is_critical_and_names_both(holder: str, proved: bool, words: str) -> None:
    world = World(NAMES, NOW.timestamp())
    shared = SharedTokenKey(key=KEY, clusters=["east", "west"], holder=holder, proved=proved)
    for replica in world.signers:
        world.signers[replica] = replace(world.signers[replica], shared_keys=[shared])
    status = seen(world)
    (item,) = [item for item in status.attention if item.code == "token_key_shared"]
    assert (item.severity, item.where, status.verdict) == ("critical", "east, west", "failing")
    assert words in item.detail
    assert ("those of west (" if holder else "those of east, west (") in item.remedy


def test_one_that_publishes_the_keys_of_all_is_a_few_findings() -> None:
    world = World(NAMES, NOW.timestamp())
    shared = [
        SharedTokenKey(key=f"{n:064x}", clusters=sorted(["west", f"c{n}"]), holder=f"c{n}") for n in range(64)
    ]
    for replica in world.signers:
        world.signers[replica] = replace(world.signers[replica], shared_keys=shared)
    assert len([item for item in seen(world).attention if item.code == "token_key_shared"]) <= 8


def test_a_member_over_its_budget_is_degraded_with_the_limit_that_it_exceeds() -> None:
    health = ClusterHealth.derive([None, ClusterOverBudget("more than 300000 objects", where="west")])
    assert (health.state, health.reason) == ("degraded", "over_budget")
    assert "300000" in health.detail
    assert "no other cluster is affected" in health.remedy


def test_clusters_whose_policy_is_open_are_listed() -> None:
    assert seen(World(NAMES, NOW.timestamp())).open_policies == NAMES
