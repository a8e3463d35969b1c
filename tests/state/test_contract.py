"""What every state store does, regardless of where it keeps its documents."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator

import pytest

from federation.core.documents.encoding import decode
from federation.core.documents.keys import StateDamaged
from federation.core.documents.signer import ExpiryBoundTable
from federation.core.errors import InvalidValue, StateUnavailable
from federation.state.store import LeadershipLost, StateConflict, StateStore
from tests.state.places import Directory, Place, spawn
from tests.state.processes import content
from tests.support.patience import PATIENCE

KEY = "generations/000000000001"


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    async with place.opened() as opened:
        yield opened


async def data_of(store: StateStore, key: str) -> bytes:
    found = await store.read(key)
    assert found is not None
    return found.data


async def test_it_begins_empty(store: StateStore) -> None:
    assert await store.read("current") is None
    assert await store.read("signers/one") is None
    assert await store.keys("") == []
    assert await store.keys("signers/") == []


@pytest.mark.parametrize(
    "data", [b"", b'{"number":7}', "grün\n\u2028\0<&>".encode(), b"\0any bytes\n\xff", bytes(300_000)]
)
async def test_what_was_written_is_read_by_another_process_of_the_hub(
    store: StateStore, place: Place, data: bytes
) -> None:
    version = await store.write(KEY, data, create=True)
    async with place.opened() as other:
        found = await other.read(KEY)
    assert found is not None
    assert (found.data, found.version) == (data, version)


async def test_every_write_has_a_version_of_its_own(store: StateStore) -> None:
    versions = {await store.write("current", b"same") for _ in range(5)}
    assert len(versions) == 5


async def test_a_swap_needs_the_version_that_was_read(store: StateStore) -> None:
    first = await store.write("current", b"1", create=True)
    second = await store.write("current", b"2", expected=first)
    with pytest.raises(StateConflict):
        await store.write("current", b"3", expected=first)
    with pytest.raises(StateConflict):
        await store.write("current", b"3", create=True)
    found = await store.read("current")
    assert found is not None
    assert (found.data, found.version) == (b"2", second)


@pytest.mark.parametrize("version", ["", "0", "00", "-1", "x", "0" * 32, "٣"])
async def test_what_is_no_version_matches_nothing(store: StateStore, version: str) -> None:
    with pytest.raises(StateConflict):
        await store.write("current", b"2", expected=version)
    await store.write("current", b"1")
    with pytest.raises(StateConflict):
        await store.write("current", b"2", expected=version)
    assert await data_of(store, "current") == b"1"


async def test_a_swap_over_nothing_is_a_conflict(store: StateStore) -> None:
    version = await store.write("current", b"1")
    await store.delete("current")
    with pytest.raises(StateConflict):
        await store.write("current", b"2", expected=version)
    assert await store.read("current") is None


async def test_removed_and_written_again_is_not_unchanged(store: StateStore) -> None:
    version = await store.write("current", b"1")
    await store.delete("current")
    await store.write("current", b"1")
    with pytest.raises(StateConflict):
        await store.write("current", b"2", expected=version)
    assert await data_of(store, "current") == b"1"


async def test_new_and_of_a_version_is_a_contradiction(store: StateStore) -> None:
    version = await store.write("current", b"1")
    for key in ("current", "other"):
        with pytest.raises(StateConflict):
            await store.write(key, b"2", expected=version, create=True)


async def test_without_an_expected_version_the_last_writer_wins(store: StateStore, place: Place) -> None:
    async with place.opened() as other:
        for number in range(3):
            await store.write("signers/a", b"mine %d" % number)
            await other.write("signers/a", b"yours %d" % number)
        await other.delete("signers/a")
        await store.write("signers/a", b"again")
        assert await data_of(other, "signers/a") == b"again"


async def test_removing_what_is_not_there_is_no_error(store: StateStore) -> None:
    await store.delete("signers/gone")
    assert await store.keys("signers/") == []


async def test_a_removal_may_need_the_version_that_was_read(store: StateStore, place: Place) -> None:
    first = await store.write("horizons/a", b"1", create=True)
    async with place.opened() as other:
        second = await other.write("horizons/a", b"2", expected=first)
    for stale in (first, "", "0", "x", "0" * 32):
        with pytest.raises(StateConflict):
            await store.delete("horizons/a", expected=stale)
        assert await data_of(store, "horizons/a") == b"2"
    await store.delete("horizons/a", expected=second)
    assert await store.read("horizons/a") is None
    await store.delete("horizons/a", expected=second)  # gone is what was wanted
    await store.write("horizons/a", b"3", create=True)
    with pytest.raises(StateConflict):
        await store.delete("horizons/a", expected=second)


async def test_keys_are_sorted_and_below_the_prefix(store: StateStore, place: Place) -> None:
    signers = ["signers/a", "signers/b", "signers/node-1.example.com_y"]
    others = ["current", KEY, "generations/000000000002", "horizons/a"]
    for key in (*reversed(signers), *others):
        await store.write(key, b"x")
    await place.litter()
    assert await store.keys("signers/") == signers
    assert await store.keys("signers/a") == ["signers/a"]
    assert await store.keys("generations/") == [KEY, "generations/000000000002"]
    assert await store.keys("") == sorted((*signers, *others))
    await store.delete(KEY)
    assert await store.keys("generations/") == ["generations/000000000002"]


@pytest.mark.parametrize(
    "key",
    ["", "/", "a/", "/a", "a//b", "..", "a/..", "../a", ".next", "a/.b", "A", "a b", "a\0", "a@b", "x" * 201],
)
async def test_keys_that_lead_elsewhere_are_refused(store: StateStore, key: str) -> None:
    with pytest.raises(InvalidValue):
        await store.read(key)
    with pytest.raises(InvalidValue):
        await store.write(key, b"")
    with pytest.raises(InvalidValue):
        await store.delete(key)


@pytest.mark.parametrize("key", ["x" * 200, "-", "--a--/y", "_/-.y", "yy", "horizons/-_.y"])
async def test_every_key_has_a_place_of_its_own(store: StateStore, key: str) -> None:
    await store.write(key, b"here", create=True)
    assert await data_of(store, key) == b"here"
    assert await store.keys("") == [key]


async def test_a_document_above_the_limit_is_refused(store: StateStore) -> None:
    incompressible = random.Random(3).randbytes(16 * 1024 * 1024 + 1)
    with pytest.raises(StateUnavailable, match=r"larger|too large"):
        await store.write("current", incompressible)
    assert await store.read("current") is None


async def test_a_damaged_document_is_never_absent(store: StateStore, place: Place) -> None:
    await store.write("current", b"the payload")
    await place.damage("current")
    with pytest.raises(StateDamaged, match="damaged") as caught:
        await store.read("current")
    assert caught.value.where == place.where("current")
    assert "backup" in caught.value.remedy
    with pytest.raises(StateUnavailable, match="damaged"):
        await store.write("current", b"next", create=True)
    assert await store.keys("") == ["current"]
    await store.write("current", b"mended")
    assert await data_of(store, "current") == b"mended"


@pytest.mark.parametrize(
    ("key", "reported"),
    [
        ("rotation", "restore it from a backup"),
        ("generations/000000000001", "restore it from a backup"),
        ("signers/a", "remove it if its writer is gone"),
        ("horizons/a", "a backup are too early"),
    ],
)
async def test_the_remedy_for_a_damaged_document_depends_on_its_kind(
    store: StateStore, place: Place, key: str, reported: str
) -> None:
    await store.write(key, b"the payload")
    await place.damage(key)
    with pytest.raises(StateDamaged, match="damaged") as caught:
        await store.read(key)
    assert reported in caught.value.remedy
    with pytest.raises(StateDamaged) as caught:
        decode(b"garbage", ExpiryBoundTable, key=key)
    assert reported in caught.value.remedy


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"replica":"\xff"}', b'{"replica":' + b"[" * 100_000, b'{"replica":"a","rows":[[]]}'],
)
def test_bytes_that_are_no_document_are_reported_as_damaged(data: bytes) -> None:
    with pytest.raises(StateDamaged, match=r"is not an? ExpiryBoundTable"):
        decode(data, ExpiryBoundTable, key="horizons/a")


async def test_no_create_wins_twice(store: StateStore) -> None:
    outcomes = await asyncio.gather(
        *(store.write("current", b"%d" % n, create=True) for n in range(40)), return_exceptions=True
    )
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 39


async def test_no_swap_is_lost_between_processes(store: StateStore, place: Place) -> None:
    counters = [await spawn("count", place, 15) for _ in range(3)]
    for counter in counters:
        assert await asyncio.wait_for(counter.wait(), PATIENCE) == 0
        await counter.communicate()
    assert int(await data_of(store, "current")) == 45


@pytest.mark.parametrize(("verb", "key"), [("write", "current"), ("overwrite", "horizons/one")])
async def test_kill_at_any_moment_loses_and_damages_nothing(
    store: StateStore, place: Place, verb: str, key: str
) -> None:
    moments = random.Random(7)
    acknowledged, kills = 0, 12 if isinstance(place, Directory) else 6
    writer = await spawn(verb, place)
    for _ in range(kills):
        successor = await spawn(verb, place)  # started beforehand: starting Python is the slow part
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(b"go\n")
        first = await asyncio.wait_for(writer.stdout.readline(), PATIENCE)
        await asyncio.sleep(moments.uniform(0, 0.03))
        output = first + await kill(writer)
        acknowledged = int(output[: output.rindex(b"\n")].splitlines()[-1])
        found = await data_of(store, key)
        number = int(found.split()[0])
        assert acknowledged <= number <= acknowledged + 1
        assert found == content(number)
        writer = successor
    await kill(writer)
    assert acknowledged >= kills


async def kill(process: asyncio.subprocess.Process) -> bytes:
    process.send_signal(signal.SIGKILL)
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    return output


async def test_a_killed_leader_is_followed(store: StateStore, place: Place) -> None:
    other = await spawn("lead", place)
    assert other.stdout is not None
    assert await asyncio.wait_for(other.stdout.readline(), PATIENCE) == b"leading True\n"
    leading = asyncio.Event()

    async def follow() -> bool:
        async with store.lead("controller", identity="me") as leadership:
            leading.set()
            return leadership.leading

    follower = asyncio.create_task(follow())
    # A Lease is waited for longer than it lasts: it is renewed all the while.
    await asyncio.sleep(0.2 if isinstance(place, Directory) else 2.5)
    assert not leading.is_set()
    await kill(other)
    async with asyncio.timeout(PATIENCE):
        assert await follower


async def test_leadership_ends_with_the_context_and_one_leads_at_a_time(
    store: StateStore, place: Place
) -> None:
    async with place.opened() as other:
        async with store.lead("controller", identity="a") as first:
            assert first.leading
            async with store.lead("another", identity="a") as unrelated:
                assert unrelated.leading
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5), other.lead("controller", identity="a"):
                    pytest.fail("two leaders")
            assert first.leading
        ended = not first.leading
        assert ended
        async with asyncio.timeout(1), other.lead("controller", identity="b") as second:  # it was given back
            assert second.leading


async def test_a_follower_cancelled_at_any_moment_holds_nothing(store: StateStore) -> None:
    moments = random.Random(11)

    async def follow() -> None:
        async with store.lead("controller", identity="cancelled"):
            await asyncio.sleep(60)

    for _ in range(25):
        task = asyncio.create_task(follow())
        await asyncio.sleep(moments.uniform(0, 0.006))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(PATIENCE), store.lead("controller", identity="next") as leadership:
        assert leadership.leading


@pytest.mark.parametrize("name", ["", "a/b", "A", "..", "a b"])
async def test_a_leadership_has_a_name(store: StateStore, name: str) -> None:
    with pytest.raises(InvalidValue):
        async with store.lead(name, identity="me"):
            pytest.fail("there is no such leadership")


class Led:
    """A leadership that a test ends."""

    leading = True


async def test_what_the_leader_writes_is_not_written_once_it_leads_no_more(store: StateStore) -> None:
    led = Led()
    leaders = store.of_leader(led)
    version = await leaders.write("rotation", b"first")
    led.leading = False
    for attempt in (
        leaders.write("rotation", b"second", expected=version),
        leaders.write("rotation", b"second"),
        leaders.write("current", b"new", create=True),
        leaders.delete("rotation"),
        leaders.delete("rotation", expected=version),
    ):
        with pytest.raises(LeadershipLost):
            await attempt
    assert await data_of(leaders, "rotation") == b"first"
    assert await leaders.keys("current") == []
    await store.write("rotation", b"of the next leader", expected=version)
