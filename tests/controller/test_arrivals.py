"""How clusters joined, as it is persisted: who has joined, whose own CA still issues, and since when it does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.controller.publication.joining import JoiningMemory, MemberFacts
from federation.controller.rotation.observer import joined, member_cas, own_of, with_unknown
from federation.controller.rotation.operations import taken_over
from federation.controller.rotation.store import Arrivals, RotationStore
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.documents.controller import Operation, Takeovers
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import TAKEOVERS
from federation.core.errors import StateUnavailable
from federation.core.rotation.gates import MemberCa
from federation.core.rotation.record import OperationRefused
from federation.core.rotation.world import ClusterFacts, World
from federation.state.files import FileStore
from tests.controller.world import World as Federation
from tests.controller.world import open_world, root
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

ROOT, OWN, OTHER = "a" * 64, "b" * 64, "c" * 64
CONFIG = f"""
trust_domain = "mesh.example"
[[trust.anchors]]
file = "root.pem"
sha256 = "{ROOT}"
[[trust.anchors]]
file = "own.pem"
sha256 = "{OWN}"
cluster = "west"
[listener]
server_names = ["hub.example"]
[signer.authority]
name = "test"
certificate_file = "chain.pem"
key_file = "key.pem"
[state]
directory = "state"
[[clusters]]
name = "east"
cluster_id = "east"
kubeconfig = "east"
[clusters.policy]
longest_ttl = 100
[[clusters]]
name = "west"
cluster_id = "west"
kubeconfig = "west"
earlier_longest_ttl = 500
[[clusters]]
name = "north"
cluster_id = "north"
kubeconfig = "north"
earlier_longest_ttl = 0
"""


@pytest.fixture(scope="module")
def config() -> HubConfig:
    return parse_config(CONFIG, file="clusters.toml")


def facts(**changes: object) -> MemberFacts:
    return MemberFacts(**({"anchors": frozenset({ROOT}), "current": True} | changes))  # type: ignore[arg-type]


async def test_what_is_seen_of_a_cluster_is_remembered(tmp_path: Path) -> None:
    store = FileStore(tmp_path, VirtualClock())
    rotation_store = RotationStore(store)
    assert rotation_store.remembered("west") is None, "nothing was read yet"
    await rotation_store.arrive(["east", "west"], 100.0, joined=["east"], own={"west": {OWN}, "east": set()})
    await rotation_store.arrive(["east", "west"], 200.0, own={"west": {OTHER}})
    assert rotation_store.remembered("east") == JoiningMemory(joined=True)
    assert rotation_store.remembered("west") == JoiningMemory(
        joined=False, own=frozenset({OWN, OTHER}), issuing=True
    )
    again = RotationStore(store)
    assert await again.meet() == rotation_store.arrivals
    await again.arrive(["west"], 300.0, joined=["west"])
    assert again.remembered("east") == JoiningMemory(), "it is no longer registered and may join again"
    assert again.remembered("west") == JoiningMemory(joined=True, own=frozenset({OWN, OTHER}), issuing=True)
    assert again.arrivals is not None
    assert again.arrivals.since == {"west": 100.0}, "its own CA may issue while it is not registered"
    await again.declare("west", 400.0)
    assert again.remembered("west") == JoiningMemory(joined=True, own=frozenset({OWN, OTHER}))


async def test_where_nothing_changes_nothing_is_written(tmp_path: Path) -> None:
    store = FileStore(tmp_path, VirtualClock())
    rotation_store = RotationStore(store)
    await rotation_store.arrive(["west"], 100.0, own={"west": {OWN}})
    before = await store.read(TAKEOVERS)
    await rotation_store.arrive(["west"], 200.0, own={"west": {OWN}})
    assert await store.read(TAKEOVERS) == before


async def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    store = FileStore(tmp_path, VirtualClock())
    await store.write(TAKEOVERS, encode(Takeovers(since={"east": 7.0})))
    assert await RotationStore(store).meet() == Arrivals(since={"east": 7.0})
    await store.write(TAKEOVERS, b"garbage")
    with pytest.raises(StateUnavailable):
        await RotationStore(store).meet()


async def test_a_takeover_counts_from_when_it_was_declared_last(tmp_path: Path) -> None:
    rotation_store = RotationStore(FileStore(tmp_path, VirtualClock()))
    arrivals = await rotation_store.arrive(["east", "west"], 100.0, own={"west": {OWN}})
    assert (arrivals.taken_over("east"), arrivals.taken_over("west")) == (100.0, None)
    for now in (200.0, 300.0):
        await rotation_store.declare("west", now)
        assert rotation_store.arrivals is not None
        assert rotation_store.arrivals.taken_over("west") == now
    assert rotation_store.arrivals is not None
    await rotation_store.arrive(["east", "west"], 350.0, own={"west": {OWN}})
    assert rotation_store.arrivals.taken_over("west") == 300.0, "nothing is new"
    await rotation_store.arrive(["east", "west"], 360.0, own={"west": {OTHER}})
    assert rotation_store.arrivals.taken_over("west") is None, "that this one does not issue was not declared"
    await rotation_store.declare("west", 370.0)
    await rotation_store.arrive(["east"], 380.0)
    await rotation_store.arrive(["east", "west"], 390.0)
    assert rotation_store.arrivals.taken_over("west") is None, (
        "nor that it did not while west was not registered"
    )
    await rotation_store.declare("east", 400.0)
    assert rotation_store.arrivals.taken_over("east") == 400.0


def test_a_cluster_has_joined_once_it_holds_what_is_meant_for_it() -> None:
    seen = {
        "east": facts(),
        "west": facts(anchors=None, joining=True),
        "north": facts(current=False),
        "empty": facts(anchors=frozenset()),
    }
    assert joined(seen) == {"east"}


def test_whose_own_an_accepted_anchor_is(config: HubConfig) -> None:
    seen = {
        "east": facts(own=frozenset({OTHER})),
        "west": facts(),
        "north": facts(own=frozenset({OWN, ROOT})),
    }
    own = own_of(config, seen)
    assert own == {"east": frozenset(), "west": {OWN}, "north": {OWN, ROOT}}, (
        "an intermediate under it issued there"
    )
    assert own_of(config, {"west": ClusterFacts(anchors=None)}) == {"west": {OWN}}
    assert member_cas(config, own) == [MemberCa(sha256=OWN, clusters=frozenset({"west", "north"}))]
    assert member_cas(config, {}) == [MemberCa(sha256=OWN, clusters=frozenset({"west"}))]


async def test_a_pin_of_two_clusters_holds_up_a_rotation_for_both_until_both_are_declared(
    tmp_path: Path,
) -> None:
    """Also where it was observed in neither: one could not be read, the other overwrites its former content."""
    text = CONFIG.replace('cluster = "west"', 'cluster = ["west", "east"]')
    config, names = parse_config(text, file="clusters.toml"), ["east", "north", "west"]
    seen = {name: facts() for name in names}
    rotation_store = RotationStore(FileStore(tmp_path, VirtualClock()))
    arrivals = await rotation_store.arrive(names, 100.0, own=own_of(config, seen))

    def issuing() -> set[str]:
        assert rotation_store.arrivals is not None
        reported = with_unknown(config, seen, rotation_store.arrivals, 1e6)
        return {name for name, found in reported.items() if found.own_issues}

    assert issuing() == {"east", "west"}
    assert member_cas(config, arrivals.own) == [MemberCa(sha256=OWN, clusters=frozenset({"east", "west"}))]
    await rotation_store.declare("west", 200.0)
    assert issuing() == {"east"}
    await rotation_store.declare("east", 300.0)
    assert issuing() == set()


def test_an_own_anchor_of_another_trust_domain_is_one_as_well() -> None:
    pin = f'sha256 = "{OWN}"'
    foreign = f'{pin}\ntrust_domain = "other.example"\nallow_foreign_trust_domain = true'
    config = parse_config(CONFIG.replace(pin, foreign), file="clusters.toml")
    assert [str(anchor.trust_domain) for anchor in config.trust.anchors] == ["mesh.example", "other.example"]
    assert own_of(config, {"west": facts()}) == {"west": {OWN}}
    assert member_cas(config, {}) == [MemberCa(sha256=OWN, clusters=frozenset({"west"}))]


def test_leaves_from_before_the_hub_count_until_the_takeover_plus_their_lifetime(
    config: HubConfig,
) -> None:
    arrivals = Arrivals(since={"east": 10.0, "west": 20.0, "north": 30.0}, own={"west": [OWN]})
    seen = {"east": facts(), "west": facts(), "north": facts(), "gone": facts()}

    def until(arrivals: Arrivals, now: float) -> dict[str, float]:
        found = with_unknown(config, seen, arrivals, now)
        return {name: facts.unknown_until for name, facts in found.items()}

    assert until(arrivals, 1000.0) == {"east": 110.0, "west": 1500.0, "north": 0.0, "gone": 0.0}
    assert until(arrivals, 9000.0)["west"] == 9500.0, "its own CA still issues"
    declared = Arrivals(since=arrivals.since, own={"west": [OWN], "north": [OWN]}, declared={"west": 2000.0})
    assert until(declared, 9000.0) == {"east": 110.0, "west": 2500.0, "north": 9001.0, "gone": 0.0}


def test_a_cluster_that_came_with_the_hubs_root_counts_as_issuing_until_its_takeover(
    config: HubConfig,
) -> None:
    own = {"east": [ROOT], "north": [ROOT]}  # north says of itself that it has no leaf from before the hub
    arrivals = Arrivals(since={"east": 10.0, "west": 20.0, "north": 30.0}, own=own)
    found = with_unknown(config, {"east": facts(), "north": facts()}, arrivals, 1000.0)
    assert {name: facts.own_issues for name, facts in found.items()} == {"east": True, "north": False}
    assert (found["east"].unknown_until, found["north"].unknown_until) == (1100.0, 0.0)
    declared = Arrivals(since=arrivals.since, own=own, declared={"east": 500.0})
    assert with_unknown(config, {"east": facts()}, declared, 1000.0)["east"].unknown_until == 600.0


@pytest.mark.parametrize(
    ("cluster", "reported"),
    [
        ("unregistered", "no cluster is registered"),
        ("", "no cluster"),
        ("west", "not accepted"),
        ("north", "not known now"),
    ],
)
def test_a_takeover_that_cannot_be(cluster: str, reported: str) -> None:
    world = World(
        now=0.0,
        clusters={
            "west": facts(anchors=None, joining=True),
            "east": facts(),
            "north": ClusterFacts(anchors=None, detail="its watches are silent"),
        },
        expiry_bounds={},
        generations={},
        in_force=0,
    )

    def asked(cluster: str) -> Operation:
        return Operation(id="1", verb="takeover", author="test", asked=0.0, arguments={"cluster": cluster})

    assert taken_over(asked("east"), world) == "east"
    assert taken_over(asked("north"), world, quarantined=["north"]) == "north", "it may never be read again"
    with pytest.raises(OperationRefused, match=reported) as refused:
        taken_over(asked(cluster), world)
    assert refused.value.remedy


async def arrivals_of(federation: Federation) -> Arrivals:
    stored = await federation.store.read(TAKEOVERS)
    return decode(stored.data, Arrivals, key=TAKEOVERS) if stored is not None else Arrivals()


async def test_every_cluster_that_came_with_the_accepted_ca_is_remembered(tmp_path: Path) -> None:
    from tests.controller.test_joining import give_own_ca, merged, serve

    own = root("own of west")
    async with open_world(tmp_path, "east", "west", "north") as federation:
        for name in ("west", "north"):
            give_own_ca(federation, name, own, "default")
        async with federation.controller():
            await federation.until(lambda r: {c.reason for c in r.clusters.values()} == {"", "joining"})
            async with asyncio.timeout(PATIENCE):
                while not (await arrivals_of(federation)).joined:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1.5)
            assert (await arrivals_of(federation)).joined == ["east"]
            federation.accept(own, "west")
            bundle = await merged(federation)
            for name in ("west", "north"):
                serve(federation, name, bundle)
            await federation.published()
            async with asyncio.timeout(PATIENCE):
                while (await arrivals_of(federation)).joined != ["east", "north", "west"]:
                    await asyncio.sleep(0.1)
    shared = [own.certificate.sha256]
    assert (await arrivals_of(federation)).own == {"west": shared, "north": shared}


async def test_a_cluster_that_trusted_the_hubs_root_before_it_joined_is_remembered(tmp_path: Path) -> None:
    from tests.controller.test_joining import give_own_ca, merged, serve

    async with open_world(tmp_path, "east", "west") as federation:
        federation.anchors.append(root("c"))
        federation.register()
        give_own_ca(federation, "west", root(), "default")
        async with federation.controller():
            await federation.until(lambda r: r.clusters["west"].reason == "other_writers")
            serve(federation, "west", await merged(federation))
            await federation.published()
            async with asyncio.timeout(PATIENCE):
                while (await arrivals_of(federation)).joined != ["east", "west"]:
                    await asyncio.sleep(0.1)
        arrivals = await arrivals_of(federation)
    assert arrivals.own == {"west": [root().certificate.sha256]}
    assert (arrivals.taken_over("west"), arrivals.taken_over("east")) == (None, arrivals.since["east"])


async def test_former_listener_names_are_remembered_with_the_time_of_their_removal(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path / "state", VirtualClock())
    await RotationStore(store).arrive(["east"], 100.0, names=["old.example", "new.example"])
    again = RotationStore(store)  # only a restart takes a name away
    assert (await again.arrive(["east"], 200.0, names=["new.example"])).names == {
        "old.example": 200.0,
        "new.example": 0.0,
    }
    assert (await again.arrive(["east"], 300.0)).names["old.example"] == 200.0, "nothing is said of them"
    assert (await again.arrive(["east"], 300.0, names=["new.example"])).names["old.example"] == 200.0
    assert (await again.arrive(["east"], 400.0, names=["old.example"])).names == {
        "old.example": 0.0,
        "new.example": 400.0,
    }
    later = 400.0 + 31 * 86400
    assert (await again.arrive(["east"], later, names=["old.example"])).names == {"old.example": 0.0}
