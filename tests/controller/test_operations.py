"""The leader's queue: requests made without a leader are not done hours later, and no operation blocks another."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from federation.controller.rotation.operations import (
    MOST_RECORDED,
    MOST_REFUSED,
    OLDEST,
    UNSEALED,
    OperationQueue,
)
from federation.core.documents.controller import Operation
from federation.core.documents.encoding import decode, encode
from federation.core.errors import StateUnavailable
from federation.state.files import FileStore
from tests.support.clock import VirtualClock
from tests.support.seals import SEAL


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def store(tmp_path: Path, clock: VirtualClock) -> FileStore:
    return FileStore(tmp_path, clock)


async def ask(store: FileStore, name: str, asked: float) -> str:
    operation = Operation(id=name, verb="advance", author="test", asked=asked)
    await store.write(f"operations/{name}", encode(await SEAL.set(operation)))
    return name


async def test_an_operation_without_a_valid_mac_is_refused_and_changes_nothing(
    store: FileStore, clock: VirtualClock
) -> None:
    now = clock.now().timestamp()
    true = await SEAL.set(Operation(id="1", verb="advance", author="operate token", asked=now))
    forged = {
        "2": Operation(
            id="2", verb="quarantine", author="operate token", asked=now, arguments={"cluster": "east"}
        ),
        "3": replace(true, id="3"),
        "4": replace(true, id="4", author="another"),
        "5": replace(true, id="5", mac="ü"),
    }
    await store.write("operations/1", encode(true))
    for name, operation in forged.items():
        await store.write(f"operations/{name}", encode(operation))
    queue = OperationQueue(store, clock=clock, mac=SEAL)
    assert [operation.id for operation, _ in await queue.pending()] == ["1"]
    for name in forged:
        refused = await outcome(store, name)
        assert (refused.outcome, refused.reason) == ("refused", UNSEALED)
        assert "find out who can write" in refused.remedy


async def test_an_operation_done_before_a_restart_is_reported_as_done_without_a_new_mac(
    store: FileStore, clock: VirtualClock
) -> None:
    now = clock.now().timestamp()
    await store.write(
        "operations/1", encode(Operation(id="1", verb="advance", author="x", asked=now, mac="old"))
    )
    assert await OperationQueue(store, clock=clock, mac=SEAL).pending(applied=["1"]) == []
    reported = await outcome(store, "1")
    assert reported.outcome == "done"
    assert not await SEAL.is_on(reported)


async def test_a_decided_operation_bears_a_mac_over_its_outcome(
    store: FileStore, clock: VirtualClock
) -> None:
    name = await ask(store, "1", clock.now().timestamp())
    queue = OperationQueue(store, clock=clock, mac=SEAL)
    ((operation, version),) = await queue.pending()
    await queue.decide(operation, version, None)
    decided = await outcome(store, name)
    assert await SEAL.is_on(decided)
    assert not await SEAL.is_on(replace(decided, author="another"))
    assert not await SEAL.is_on(replace(decided, outcome="refused"))


async def outcome(store: FileStore, name: str) -> Operation:
    stored = await store.read(f"operations/{name}")
    assert stored is not None
    return decode(stored.data, Operation, key=name)


async def test_old_requests_made_without_a_leader_are_refused_and_a_new_one_is_due_at_once(
    store: FileStore, clock: VirtualClock
) -> None:
    now = clock.now().timestamp()
    count = MOST_REFUSED + 10
    for number in range(count):  # a script that asked every five seconds
        await ask(store, f"0{number:03}", now - 3600 + 5 * number)
    await ask(store, "1", now - 1)
    queue = OperationQueue(store, clock=clock, mac=SEAL)
    for refused in (MOST_REFUSED, count):
        assert [operation.id for operation, _ in await queue.pending()] == ["1"]
        reported = [await outcome(store, f"0{number:03}") for number in range(count)]
        assert [o.outcome for o in reported].count("refused") == refused
    assert "no controller led then" in reported[0].detail
    assert "request it again" in reported[0].remedy


@pytest.mark.parametrize(
    ("age", "skew", "applied_ids"),
    [
        (OLDEST, 0.0, True),
        (OLDEST + 1, 0.0, False),
        (OLDEST + 29, 30.0, True),
        (OLDEST + 31, 30.0, False),
        (-OLDEST - 29, 30.0, True),
        (-OLDEST - 31, 30.0, False),
        (-1e300, 30.0, False),
        (1e300, 30.0, False),
    ],
)
async def test_clocks_may_differ_as_far_as_is_reckoned_with(
    store: FileStore, clock: VirtualClock, age: float, skew: float, applied_ids: bool
) -> None:
    await ask(store, "1", clock.now().timestamp() - age)
    found = await OperationQueue(store, clock=clock, mac=SEAL).pending(skew=skew)
    assert bool(found) is applied_ids
    assert (await outcome(store, "1")).outcome == ("" if applied_ids else "refused")


@pytest.mark.parametrize("on_disk", [b"cut", None])
async def test_a_damaged_one_stops_no_other_and_a_store_that_is_down_stops_all(
    store: FileStore, clock: VirtualClock, tmp_path: Path, on_disk: bytes | None
) -> None:
    await ask(store, "0", clock.now().timestamp())
    if on_disk is None:
        await store.write("operations/0", encode(await outcome(store, await ask(store, "9", 0.0))))
    else:
        (tmp_path / "documents" / "operations@0").write_bytes(on_disk)
    await ask(store, "1", clock.now().timestamp())
    queue = OperationQueue(store, clock=clock, mac=SEAL)
    assert [operation.id for operation, _ in await queue.pending()] == ["1"]
    assert await store.keys("operations/0") == ["operations/0"], "it is left where it is"
    (tmp_path / "documents").rename(tmp_path / "elsewhere")
    with pytest.raises(StateUnavailable):
        await queue.pending()


async def test_the_oldest_that_are_decided_are_trimmed(store: FileStore, clock: VirtualClock) -> None:
    for number in range(MOST_RECORDED + 5):
        await store.write(
            f"operations/{number:04}",
            encode(Operation(id=f"{number:04}", verb="abort", author="a", asked=0.0, outcome="done")),
        )
    assert await OperationQueue(store, clock=clock, mac=SEAL).pending() == []
    assert len(await store.keys("operations/")) == MOST_RECORDED
