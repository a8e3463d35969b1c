"""Edits at the edge of a leader: what is persisted of clusters that are removed, and what a refused file stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from federation.controller.rotation.observer import with_unknown
from federation.controller.rotation.store import FORGOTTEN, UNKNOWN_LIFE, Arrivals, RotationStore
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.documents.encoding import encode
from federation.core.documents.signer import SignerReport
from federation.core.rotation.record import Unpinned
from federation.core.rotation.world import ClusterFacts
from tests.controller.test_arrivals import CONFIG
from tests.controller.test_rotation_driver import FailingStore, Leading, recorded
from tests.support.clock import VirtualClock

LIFE = {"east": 100.0, "west": 100.0}
OWN = "f" * 64


@pytest.fixture
def config() -> HubConfig:
    return parse_config(CONFIG, file="clusters.toml")


async def test_what_lives_in_a_removed_cluster_counts_to_its_end(tmp_path: Path) -> None:
    rotation_store = RotationStore(FailingStore(tmp_path, VirtualClock()))
    first = await rotation_store.arrive(["east", "west"], 1000.0, own={"west": [OWN]}, longest=LIFE)
    assert first.gone == {}
    removed = await rotation_store.arrive(["east"], 1500.0, longest=LIFE)
    assert removed.gone == {"west": 1600.0}, "its own CA issued until then"
    assert removed.own == {"west": [OWN]}, "and is remembered"
    later = RotationStore(FailingStore(tmp_path, VirtualClock()))
    assert (await later.arrive(["east"], 1510.0, longest=LIFE)).gone == {"west": 1600.0}
    again = await later.arrive(["east", "west"], 1520.0, longest=LIFE)
    assert again.gone == {"west": 1600.0}, "it starts over, and what was alive still counts"
    assert (await later.arrive(["east", "west"], 1600.0 + FORGOTTEN, longest=LIFE)).gone == {}


async def test_where_the_hub_alone_has_issued_for_long_nothing_earlier_counts(tmp_path: Path) -> None:
    rotation_store = RotationStore(FailingStore(tmp_path, VirtualClock()))
    await rotation_store.arrive(["east", "west"], 1000.0, longest=LIFE)
    assert (await rotation_store.arrive(["west"], 1050.0, longest=LIFE)).gone == {"east": 1100.0}
    assert (await rotation_store.arrive([], 1200.0, longest=LIFE)).gone == {"east": 1100.0}


async def test_what_an_earlier_release_did_not_record_counts_as_the_longest(tmp_path: Path) -> None:
    rotation_store = RotationStore(FailingStore(tmp_path, VirtualClock()))
    await rotation_store.arrive(["west"], 1000.0)
    assert (await rotation_store.arrive([], 1001.0)).gone == {"west": 1000.0 + UNKNOWN_LIFE}


def test_a_ca_whose_pin_is_gone_is_still_one_that_issues(config: HubConfig) -> None:
    """Taking its pin out does not say that nothing from before the hub lives."""
    clusters = tuple(replace(cluster, earlier_longest_ttl=0.0) for cluster in config.clusters)
    config = replace(config, clusters=clusters)
    name = str(clusters[0].name)
    facts = {name: ClusterFacts(anchors=frozenset({OWN}))}
    arrivals = Arrivals(since={name: 1000.0}, own={name: [OWN]})
    assert not with_unknown(config, facts, arrivals, 2000.0)[name].own_issues
    kept = with_unknown(config, facts, arrivals, 2000.0, unpinned=frozenset({OWN}))[name]
    assert (kept.own_issues, kept.unknown_until > 2000.0) == (True, True)


async def test_no_step_is_taken_while_a_configuration_is_refused(tmp_path: Path, config: HubConfig) -> None:
    """The report names each replica that refuses it, with the first of its mistakes."""
    clock = VirtualClock()
    store, _ = await recorded(tmp_path)
    leading = Leading(store, clock, config)
    leading.seen = replace(leading.seen, refused=("line 3: no such key",))
    signer = SignerReport(
        replica="one",
        started=0.0,
        updated=clock.now().timestamp(),
        heartbeat=60.0,
        ready=True,
        config_problems=["line 4: no such cluster", "line 9: no such cluster"],
    )
    await store.write("signers/one", encode(signer))
    await leading.step()
    found = [c.detail for c in leading.driver.report.conditions if c.name == "configuration"]
    assert found == [
        "the leading controller refuses its newest configuration: line 3: no such key",
        "one refuses its newest configuration: line 4: no such cluster (and 1 more)",
    ]


async def test_a_pin_that_goes_is_noted_and_survives_a_change_of_leader(
    tmp_path: Path, config: HubConfig
) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading = Leading(store, clock, config)
    await leading.step()
    noted = {OWN: Unpinned(since=1.0, generation=1, subject="CN=other")}
    leading.seen = replace(leading.seen, published=noted)
    await leading.step()
    assert leading.driver.record.unpinned == noted
    later = Leading(store, clock, config)
    await later.step()
    assert later.driver.record.unpinned == noted
    assert "own_in_force" in {c.name for c in later.driver.report.unpinned[OWN].conditions}
