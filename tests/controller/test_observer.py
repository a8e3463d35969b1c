"""What is read for the gates: signers that are gone count, and what cannot be used counts as the worst."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.controller.rotation.driver import RotationDriver, Seen
from federation.controller.rotation.observer import Observer, Proved, signer_facts, worst_of
from federation.controller.rotation.operations import OperationDesk
from federation.core.config.clusters import LONGEST_TTL
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.documents.controller import Matrix, SignerListenerReport
from federation.core.documents.encoding import encode
from federation.core.documents.signer import ExpiryBound, ExpiryBoundTable, SignerReport
from federation.core.documents.trust import Current
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import ClusterName
from federation.core.rotation.cluster_conditions import time_of
from federation.core.rotation.effects import losses
from federation.core.rotation.gates import gate, trusts
from federation.core.rotation.record import Quarantine, Rotation, RotationRecord, Side, State
from federation.core.rotation.world import ClusterFacts, PairFacts, World
from federation.core.trust.expiry_bounds import ANY_REMOVED, UNKNOWN_ISSUER, Delivered
from federation.state.files import FileStore
from federation.state.store import Stored
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE
from tests.support.seals import OPERATOR, SEAL

CONFIG = """
trust_domain = "mesh.example"
[[trust.anchors]]
file = "root.pem"
sha256 = "{sha}"
[listener]
server_names = ["hub.example"]
[signer.authority]
name = "test"
certificate_file = "chain.pem"
key_file = "key.pem"
[state]
directory = "state"
[controller.rotation]
skew = 30
[[clusters]]
name = "east"
cluster_id = "east"
kubeconfig = "east"
[clusters.policy]
longest_ttl = 3600
[[clusters]]
name = "west"
cluster_id = "west"
kubeconfig = "west"
"""
NOW = 1_000_000.0
WORST = {Delivered("east", UNKNOWN_ISSUER, 0): NOW + 1000}


@pytest.fixture(scope="module")
def config() -> HubConfig:
    return parse_config(CONFIG.replace("{sha}", "a" * 64), file="clusters.toml")


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path, VirtualClock())


async def write_bounds(store: FileStore, replica: str, *rows: tuple[str, str, int, float]) -> str:
    made = [ExpiryBound(cluster=c, issuer=i, generation=g, until=u) for c, i, g, u in rows]
    return await store.write(f"horizons/{replica}", encode(ExpiryBoundTable(replica=replica, rows=made)))


async def write_report(store: FileStore, replica: str, **changes: object) -> None:
    fields = {"replica": replica, "started": NOW, "updated": NOW, "heartbeat": 2.0, "ready": True}
    await store.write(f"signers/{replica}", msgspec.json.encode(fields | changes))


async def test_bounds_of_signers_that_are_gone_count_and_each_change_is_seen(store: FileStore) -> None:
    observer = Observer(store)
    await write_bounds(store, "here", ("east", "1", 1, 10.0))
    await write_bounds(store, "gone", ("east", "1", 1, 20.0))
    for until in (20.0, 30.0, 30.5):
        await write_bounds(store, "here", ("east", "1", 1, until))
        assert await observer.expiry_bounds(WORST) == {Delivered("east", "1", 1): until}
    assert observer.problem == ""
    await store.delete("horizons/here")
    assert await observer.expiry_bounds(WORST) == {Delivered("east", "1", 1): 20.0}


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b'{"replica":"\xff"}',
        b'{"replica":' + b"[" * 100_000,
        b'{"replica":"bad","rows":[["east","1",1,1e300]]}',
        b'{"replica":"bad","rows":[["east","1",1,253402300800]]}',
        b'{"replica":"bad","rows":[["east","1",1,-1]]}',
        b'{"replica":"bad","rows":[["east","1",-1,1]]}',
        b'{"replica":"bad","rows":[["east","1",1' + b"0" * 300 + b",1]]}",
        b'{"replica":"bad","rows":[["east","\x1b[31m",1,1]]}',
        b'{"replica":"bad","rows":[["' + b"x" * 100_000 + b'","1",1,1]]}',
    ],
)
async def test_bounds_that_cannot_be_used_count_as_the_worst_until_they_are_gone(
    store: FileStore, data: bytes
) -> None:
    observer = Observer(store)
    await write_bounds(store, "good", ("west", "1", 1, 20.0))
    await store.write("horizons/bad", data)
    good = {Delivered("west", "1", 1): 20.0}
    for _ in range(2):
        assert await observer.expiry_bounds(WORST) == good | WORST
        assert "horizons/bad" in observer.problem
        assert "a backup are too early" in observer.problem
    await store.delete("horizons/bad")
    assert await observer.expiry_bounds(WORST) == good
    assert observer.problem == ""


async def test_a_document_that_is_damaged_on_disk_is_no_store_that_is_down(
    store: FileStore, tmp_path: Path
) -> None:
    await write_bounds(store, "bad", ("east", "1", 1, 10.0))
    (tmp_path / "documents" / "horizons@bad").write_bytes(b"cut")
    assert await Observer(store).expiry_bounds(WORST) == WORST
    (tmp_path / "documents").rename(tmp_path / "elsewhere")
    with pytest.raises(StateUnavailable):
        await Observer(store).expiry_bounds(WORST)


async def test_bounds_that_vanish_while_they_are_read_are_not_taken_for_none(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_bounds(store, "here", ("east", "1", 1, 10.0))

    async def vanished(_: str) -> Stored | None:
        return None

    monkeypatch.setattr(store, "read", vanished)
    with pytest.raises(StateUnavailable, match="listed"):
        await Observer(store).expiry_bounds(WORST)


async def test_unknown_bounds_reach_as_far_as_any_leaf_of_any_cluster(config: HubConfig) -> None:
    assert worst_of(config, NOW) == {
        Delivered("east", UNKNOWN_ISSUER, 0): NOW + 3600 + 900,
        Delivered("west", UNKNOWN_ISSUER, 0): NOW + 86400 + 900,
        Delivered(ANY_REMOVED, UNKNOWN_ISSUER, 0): NOW + LONGEST_TTL + 900,
    }
    assert worst_of(replace(config, clusters=()), NOW), "a hub without registered clusters opens no gate"


def test_unknown_bounds_count_for_clusters_that_are_no_longer_registered(config: HubConfig) -> None:
    """Promise 4: the rows of a removed cluster are lost with the table, and others still talk to its workloads."""
    with pytest.raises(InvalidValue):
        ClusterName(ANY_REMOVED)  # no registered one is taken for it
    counted = worst_of(config, NOW, gone=["north"])
    assert counted[Delivered("north", UNKNOWN_ISSUER, 0)] == NOW + LONGEST_TTL + 900, (
        "its policy is forgotten"
    )
    sides = Side(root="a" * 64, intermediate="1" * 64), Side(root="b" * 64, intermediate="2" * 64)
    rotation = Rotation(
        number=1, trust_domain="mesh.example", state=State.PUBLISHING, since=0.0, old=sides[0], new=sides[1],
        author="test", reason="test", automatic=True, soak=1.0,
    )  # fmt: skip
    taken_out = {name: Quarantine(reason="burnt", author="test", since=NOW) for name in ("east", "west")}
    record = RotationRecord(rotation=rotation, quarantined=taken_out)
    world = World(
        now=NOW, clusters={name: ClusterFacts(anchors=None) for name in taken_out}, expiry_bounds=counted, in_force=1,
        generations={1: frozenset({"a" * 64, "b" * 64})},
    )  # fmt: skip
    for verdict in (gate(record, world), trusts(record, world, frozenset({"a" * 64}))):
        late = {c.cluster for c in verdict.unmet if c.name == "leaves"}
        assert late == {"north", ANY_REMOVED}, "no gate opens while unknown leaves may live"
    assert {loss.cluster for loss in losses(rotation, world, at=NOW)} >= {"north", ANY_REMOVED}


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b'{"replica":"\xff"}',
        encode(SignerReport(replica="another", started=NOW, updated=NOW, heartbeat=2.0, ready=True)),
        encode(
            SignerReport(replica="bad", started=NOW, updated=NOW, heartbeat=2.0, ready=True, issued=10**400)
        ),
        encode(SignerReport(replica="bad", started=NOW, updated=NOW, heartbeat=2.0, ready=True, issued=-1)),
    ],
)
async def test_a_signer_whose_report_cannot_be_used_is_ready_with_nothing(
    store: FileStore, data: bytes
) -> None:
    await write_report(store, "good")
    await store.write("signers/bad", data)
    found = await Observer(store).signers(NOW)
    assert sorted(found) == ["bad", "good"], "no report speaks for another signer"
    facts = signer_facts(found["bad"], SignerListenerReport(replica="bad"))
    assert facts.ready_with == {UNKNOWN_ISSUER}
    assert "signers/bad" in facts.detail


@pytest.mark.parametrize(
    ("updated", "heartbeat", "skew", "counted"),
    [
        (NOW, 2.0, 0.0, True),
        (NOW - 6, 2.0, 0.0, True),
        (NOW - 7, 2.0, 0.0, False),
        (NOW - 7, 1e300, 0.0, True),
        (NOW - 181, 1e300, 0.0, False),
        (NOW + 5, 2.0, 0.0, True),
        (NOW + 16, 60.0, 0.0, False),
        (NOW + 50, 2.0, 60.0, True),
        (NOW + 61, 2.0, 60.0, False),
        (1e300, 2.0, 60.0, False),
    ],
)
async def test_a_report_cannot_extend_its_own_validity(
    store: FileStore, updated: float, heartbeat: float, skew: float, counted: bool
) -> None:
    await write_report(store, "one", updated=updated, heartbeat=heartbeat)
    assert bool(await Observer(store).signers(NOW, skew=skew)) is counted


@pytest.mark.parametrize("seconds", [1e300, -1e300, float("inf"), float("nan"), 253402300800.0])
def test_any_number_is_formatted_as_an_instant(seconds: float) -> None:
    assert "calendar" in time_of(seconds)


async def test_with_damaged_bounds_operations_are_carried_out_and_no_gate_opens(
    store: FileStore, config: HubConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="federation.controller.audit")
    clock = VirtualClock()
    sides = Side(root="a" * 64, intermediate="1" * 64), Side(root="b" * 64, intermediate="2" * 64)
    rotation = Rotation(
        number=1, trust_domain="mesh.example", state=State.ACTIVE, since=0.0, old=sides[0], new=sides[1],
        author="test", reason="test", automatic=True, soak=1.0,
    )  # fmt: skip
    await store.write("rotation", encode(RotationRecord(rotation=rotation)))
    await store.write("horizons/bad", b'{"replica":"bad","rows":[["east","1",1,1e300]]}')
    await store.write("signers/bad", b"garbage")
    driver = RotationDriver(store, clock, lambda: True, SEAL)

    def see() -> Seen:
        clusters = {name: ClusterFacts(anchors=None, detail="gone") for name in ("east", "west")}
        return Seen(
            clusters=clusters, proved=Proved(Matrix(), {}), roots=(), current=Current(number=1, sha256="x")
        )

    async def enact() -> None:
        pass

    desk = OperationDesk(store, clock=clock, random_bytes=os.urandom, mac=SEAL)
    asked = asyncio.create_task(
        desk.submit("quarantine", {"cluster": "west", "reason": "burnt"}, requester=OPERATOR)
    )
    await clock.until_sleeping()
    assert await driver.step(config, see, enact)
    assert "west" in driver.record.quarantined
    assert "horizons/bad" in driver.report.problem
    await until(lambda: asked.done(), clock)
    assert (await asked).outcome == "done"
    (decided,) = (r for r in caplog.records if getattr(r, "action", "") == "decide_operation")
    assert (getattr(decided, "before", ""), getattr(decided, "after", "")) == (
        "rotation 1 ACTIVE",
        "rotation 1 ACTIVE; quarantined west",
    )
    (changed,) = (r for r in caplog.records if getattr(r, "action", "") == "change_rotation")
    assert getattr(changed, "after", "") == "rotation 1 ACTIVE; quarantined west"
    assert not await driver.step(config, see, enact)
    unmet = {c.name: c.detail for c in driver.report.conditions if not c.met}
    assert "leaves that need it may live until" in unmet["drained"]


async def until(wanted: Callable[[], bool], clock: VirtualClock) -> None:
    async with asyncio.timeout(PATIENCE):
        while not wanted():
            await clock.advance(0.3)
            await asyncio.sleep(0.01)


def pair_facts_alive() -> int:
    gc.collect()
    return sum(isinstance(found, PairFacts) for found in gc.get_objects())


def test_pairs_are_read_from_the_proof_where_they_are_asked_for() -> None:
    """The world is put together every second, and at rest nothing asks: 200 clusters have 39,800 ordered pairs."""
    names = [f"c{number}" for number in range(200)]
    rows = ["".join("-" if a == b else "v" for b in names) for a in names]
    matrix = Matrix(computed=5.0, clusters=names, rows=rows)
    before = pair_facts_alive()
    pairs = Proved(matrix, dict.fromkeys(names, "issuer"), dict.fromkeys(names[1:], 3)).pairs()
    assert pair_facts_alive() == before
    assert len(pairs) == 39_800
    assert all(pair.valid and pair.client_issuer == "issuer" for pair in pairs.values())
    assert pair_facts_alive() - before == 3  # the first cluster has another generation, to and from


@given(st.data())
def test_pairs_say_what_the_matrix_says(data: st.DataObject) -> None:
    """By index, by iteration and by length, also where rows are too short or a name is not there."""
    names = data.draw(st.lists(st.sampled_from("abcdef"), unique=True))
    rows = data.draw(st.lists(st.text("vx?-", max_size=len(names)), max_size=len(names)))
    issuers = data.draw(st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from(("one", "two"))))
    generations = data.draw(st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 2)))
    reasons = {f"{a}>{b}": f"{a} refuses {b}" for a in names for b in names if (a + b) < "cc"}
    matrix = Matrix(computed=7.0, clusters=names, rows=rows, reasons=reasons)
    pairs = Proved(matrix, issuers, generations).pairs()
    wanted = {
        (client, server): PairFacts(
            valid=cell == "v",
            computed=7.0,
            client_issuer=issuers.get(client, ""),
            server_issuer=issuers.get(server, ""),
            client_generation=generations.get(client, 0),
            server_generation=generations.get(server, 0),
            reason=reasons.get(f"{client}>{server}", ""),
        )
        for client, row in zip(names, rows, strict=False)
        for server, cell in zip(names, row, strict=False)
        if client != server and cell in {"v", "x"}
    }
    assert dict(pairs) == wanted
    assert len(pairs) == len(wanted)
    for client, server in itertools.product("abcdefg", "abcdefg"):
        assert pairs.get((client, server)) == wanted.get((client, server))
