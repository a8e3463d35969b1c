"""How far leaves reach: persisted before they leave, whatever crashes, and fenced against what changes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from federation.core.documents.encoding import decode, encode
from federation.core.documents.signer import ExpiryBoundTable
from federation.core.documents.trust import Current
from federation.core.errors import StateUnavailable
from federation.core.identity import ClusterName
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER, Delivered, step_for
from federation.signer.expiry_bounds import (
    KEPT,
    MOST_ROWS,
    RETRY,
    REVALIDATE_AFTER,
    UNKNOWN_GENERATION,
    PersistedExpiryBounds,
    bounded,
)
from federation.signer.revalidation import Delivery, Superseded
from federation.state.files import FileStore
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

KEY = "horizons/signer-0"
HOUR = 3600.0
NEVER = SigningDirectives()
OLD = SigningDirectives(rotation=1, state="PUBLISHING", issuer="a" * 64, strict=True)
NEW = SigningDirectives(rotation=1, state="ACTIVE", issuer="b" * 64, strict=True)


class Store(FileStore):
    """The real store, in which writes can be counted, fail, and have something happen right after them."""

    def __init__(self, directory: Path, clock: VirtualClock) -> None:
        super().__init__(directory, clock)
        self.written = 0
        self.failing = False
        self.blocked: asyncio.Event | None = None
        self.after: Callable[[], object] = lambda: None

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        if self.blocked is not None:
            await self.blocked.wait()
        if self.failing:
            raise StateUnavailable("the disk is full", where=key, remedy="make room")
        version = await super().write(key, data, expected=expected, create=create)
        self.written += 1
        self.after()
        return version


class World:
    """A store, what is to hold by it, and a signer's expiry bounds."""

    def __init__(self, directory: Path) -> None:
        self.clock = VirtualClock(pki.NOW)
        self.store = Store(directory, self.clock)
        self.current: Current | None = Current(number=1, sha256="")
        self.directives = NEVER
        self.looked = 0
        self.blind = False
        self.expiry_bounds = self.make()

    def make(self) -> PersistedExpiryBounds:
        return PersistedExpiryBounds(
            self.store, replica="signer-0", clock=self.clock, read_in_force=self.look
        )

    async def look(self) -> tuple[Current | None, SigningDirectives]:
        self.looked += 1
        if self.blind:
            raise StateUnavailable("no answer", where="current")
        return self.current, self.directives

    @asynccontextmanager
    async def running(self) -> AsyncIterator[PersistedExpiryBounds]:
        """The expiry bounds of a process that runs; at the end it is killed."""
        self.expiry_bounds = self.make()
        task = asyncio.create_task(self.expiry_bounds.run())
        try:
            yield self.expiry_bounds
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.expiry_bounds.problem is not None:
                await self.clock.advance(RETRY)
                await asyncio.sleep(0.005)

    def leaf(
        self,
        lifetime: float = HOUR,
        *,
        cluster: str = "east",
        issuer: str = "a" * 64,
        generation: int = 1,
        directives: SigningDirectives = NEVER,
    ) -> Delivery:
        ends = self.clock.now() + timedelta(seconds=lifetime)
        return Delivery(ClusterName(cluster), issuer, generation, ends, directives)

    async def persisted(self) -> dict[Delivered, float]:
        stored = await self.store.read(KEY)
        if stored is None:
            return {}
        rows = decode(stored.data, ExpiryBoundTable, key=KEY).rows
        return {Delivered(row.cluster, row.issuer, row.generation): row.until for row in rows}


async def test_a_bound_is_persisted_ahead_before_a_leaf_leaves(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        leaf = world.leaf()
        await expiry_bounds.cover(leaf)
        ends = leaf.not_after.timestamp()
        assert await world.persisted() == {Delivered("east", "a" * 64, 1): ends + step_for(HOUR)}
        await expiry_bounds.cover(world.leaf())
        assert (world.store.written, world.looked) == (1, 1), "what is covered reads nothing"
        await world.clock.advance(step_for(HOUR))
        await expiry_bounds.cover(world.leaf())
        assert (world.store.written, world.looked) == (1, 2), "but what holds, when that was asked long ago"
        await world.clock.advance(1)
        await expiry_bounds.cover(world.leaf())
        assert (world.store.written, world.looked) == (2, 3)
        await expiry_bounds.cover(world.leaf(60))
        assert world.store.written == 2, "a shorter life is covered by a longer one's"


async def test_deliveries_at_once_share_a_write(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        leaves = [world.leaf(HOUR + n, cluster=f"c{n % 7}", issuer=f"{n % 3}" * 64) for n in range(60)]
        world.store.blocked = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(expiry_bounds.cover(leaves[0]))
            await asyncio.sleep(0.01)
            for leaf in leaves[1:]:
                group.create_task(expiry_bounds.cover(leaf))
            await asyncio.sleep(0.01)
            assert not first.done()
            world.store.blocked.set()
        assert world.store.written == 2, "the first, and all that came meanwhile"
        persisted = await world.persisted()
        for leaf in leaves:
            row = Delivered(leaf.cluster.value, leaf.authority, leaf.generation)
            assert persisted[row] >= leaf.not_after.timestamp()


async def test_a_failed_write_fails_every_waiting_call(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        await expiry_bounds.cover(world.leaf())
        world.store.failing, world.store.blocked = True, asyncio.Event()
        waiting = [
            asyncio.create_task(expiry_bounds.cover(world.leaf(2 * HOUR, cluster=f"c{n}"))) for n in range(9)
        ]
        await asyncio.sleep(0.01)
        waiting += [asyncio.create_task(expiry_bounds.cover(world.leaf(3 * HOUR)))]
        await asyncio.sleep(0.01)
        world.store.blocked.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {StateUnavailable}
        assert len({id(result) for result in results}) == len(results), "each gets an error of its own"
        assert expiry_bounds.problem is not None
        assert "disk is full" in str(expiry_bounds.problem)
        await expiry_bounds.cover(world.leaf(60))
        with pytest.raises(StateUnavailable):
            await expiry_bounds.cover(world.leaf(2 * HOUR))
        world.store.failing = False
        await world.ready()
        await expiry_bounds.cover(world.leaf(2 * HOUR))


async def test_a_caller_that_is_gone_takes_nothing_with_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        world.store.blocked = asyncio.Event()
        gone = asyncio.create_task(expiry_bounds.cover(world.leaf()))
        await asyncio.sleep(0.01)
        stays = asyncio.create_task(expiry_bounds.cover(world.leaf(2 * HOUR)))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        world.store.blocked.set()
        await stays
        assert max((await world.persisted()).values()) >= world.leaf(2 * HOUR).not_after.timestamp()


async def test_nothing_is_covered_before_the_earlier_table_was_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.store.write(KEY, b"damaged")
    async with world.running() as expiry_bounds:
        refusals: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while sum("ExpiryBoundTable" in each for each in refusals) < 3:
                await world.clock.advance(RETRY)
                await asyncio.sleep(0.01)
                with pytest.raises(StateUnavailable) as refused:
                    await expiry_bounds.cover(world.leaf())
                refusals.append(str(refused.value))
        stored = await world.store.read(KEY)
        assert stored is not None
        assert stored.data == b"damaged", "it is never overwritten"
        await world.store.delete(KEY)
        await world.ready()
        await expiry_bounds.cover(world.leaf())


async def test_a_restart_forgets_nothing_and_reads_before_it_relies_on_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        await expiry_bounds.cover(world.leaf())
        before = await world.persisted()
    async with world.running() as expiry_bounds:
        await world.ready()
        written, looked = world.store.written, world.looked
        await expiry_bounds.cover(world.leaf())
        assert (world.store.written, world.looked) == (written, looked + 1)
        world.current = Current(number=2, sha256="")
        await expiry_bounds.cover(world.leaf(60, cluster="west", generation=2))
        assert before.items() <= (await world.persisted()).items()


async def test_two_processes_of_one_name_lose_nothing_of_each_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as first:
        await world.ready()
        async with world.running() as second:
            await world.ready()
            for number in range(1, 4):
                await first.cover(world.leaf(number * HOUR, cluster="east"))
                await second.cover(world.leaf(number * HOUR, cluster="west"))
        persisted = await world.persisted()
        ends = world.leaf(3 * HOUR).not_after.timestamp()
        assert {row.cluster for row, until in persisted.items() if until >= ends} == {"east", "west"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda world: setattr(world, "current", Current(number=2, sha256="")), "and 2 is in force"),
        (
            lambda world: setattr(world, "current", Current(number=1, sha256="", behind={"east": 0})),
            "and 0 is",
        ),
        (lambda world: setattr(world, "current", None), "names no generation"),
        (lambda world: setattr(world, "directives", NEW), "and b{16}"),
        (
            lambda world: setattr(world, "directives", SigningDirectives(stopped={"east": "broken into"})),
            "quarantined",
        ),
        (
            lambda world: setattr(world, "directives", SigningDirectives(rotation=1, issuer="a" * 64)),
            "directives of rotation 0",
        ),
        (
            lambda world: setattr(world, "directives", SigningDirectives(ttl_cap=60)),
            "directives of rotation 0",
        ),
        (
            lambda world: setattr(world, "directives", SigningDirectives(clusters={"east": "b" * 64})),
            "directives of rotation 0",
        ),
    ],
)
async def test_what_changes_while_a_bound_is_written_is_seen(
    tmp_path: Path, change: Callable[[World], None], reason: str
) -> None:
    """The controller may have read the expiry bounds just before: it knows nothing of this leaf."""
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        world.store.after = lambda: change(world)
        for _ in range(3):
            with pytest.raises(Superseded, match=reason):
                await expiry_bounds.cover(world.leaf())
        with pytest.raises(Superseded, match=reason):
            await expiry_bounds.cover(world.leaf(60))


@pytest.mark.parametrize(
    "change",
    [
        lambda world: setattr(world, "current", Current(number=1, sha256="", behind={"west": 0})),
        lambda world: setattr(world, "directives", SigningDirectives(stopped={"west": "broken into"})),
        lambda world: setattr(world, "directives", SigningDirectives(clusters={"west": "b" * 64})),
    ],
)
async def test_a_change_for_other_clusters_does_not_affect_this_one(
    tmp_path: Path, change: Callable[[World], None]
) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        world.store.after = lambda: change(world)
        await expiry_bounds.cover(world.leaf())
        assert world.looked == 1


async def test_a_revalidation_that_cannot_read_refuses_everything(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        world.blind = True
        with pytest.raises(StateUnavailable, match="no answer"):
            await expiry_bounds.cover(world.leaf())
        assert await world.persisted() != {}
        world.blind = False
        await world.ready()
        await expiry_bounds.cover(world.leaf())


async def test_a_signer_that_is_cut_off_does_not_go_on_for_as_long_as_its_longest_leaf_lives(
    tmp_path: Path,
) -> None:
    """It would learn of no quarantine, and short leaves lie within the bound of one that lives for a day."""
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        await expiry_bounds.cover(world.leaf(24 * HOUR))
        world.blind = True
        await world.clock.advance(REVALIDATE_AFTER - 1)
        await expiry_bounds.cover(world.leaf())
        await world.clock.advance(1)
        with pytest.raises(StateUnavailable, match="no answer"):
            await expiry_bounds.cover(world.leaf())
        world.blind, world.directives = False, SigningDirectives(stopped={"east": "broken into"})
        await world.ready()
        with pytest.raises(Superseded, match="quarantined"):
            await expiry_bounds.cover(world.leaf(25 * HOUR))


async def test_one_read_serves_all_concurrent_revalidations(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        await expiry_bounds.cover(world.leaf(24 * HOUR))
        await world.clock.advance(REVALIDATE_AFTER)
        looked = world.looked
        await asyncio.gather(*(expiry_bounds.cover(world.leaf()) for _ in range(50)))
        assert world.looked == looked + 1
        assert world.store.written == 1


async def test_a_leaf_of_another_issuer_than_the_one_ordered_is_fenced_off(tmp_path: Path) -> None:
    """It was signed by what the back end has now, and made by the directives that hold."""
    world = World(tmp_path)
    world.directives = OLD
    async with world.running() as expiry_bounds:
        await world.ready()
        with pytest.raises(Superseded, match="is ordered"):
            await expiry_bounds.cover(world.leaf(issuer="c" * 64, directives=OLD))
        await expiry_bounds.cover(world.leaf(issuer=UNKNOWN_ISSUER, directives=OLD))
        await expiry_bounds.cover(world.leaf(directives=OLD))


def test_a_table_stays_small_and_every_leaf_stays_covered() -> None:
    now = pki.NOW.timestamp()
    table = {
        Delivered(f"{'cluster' * 8}-{c:03}", f"{i}" * 64, g): now + c + 10 * i + 100 * g
        for c in range(200)
        for i in range(3)
        for g in range(1, 30)
    }
    kept = bounded(table, now)
    assert len(kept) <= MOST_ROWS
    for row, until in table.items():
        worst = Delivered(row.cluster, UNKNOWN_ISSUER, UNKNOWN_GENERATION)
        assert max(kept.get(row, 0.0), kept.get(worst, 0.0)) >= until
    newest = max(table, key=lambda row: table[row])
    assert newest in kept, "what ends last, and is in use, stays as it is"
    rows = [[row.cluster, row.issuer, row.generation, until] for row, until in kept.items()]
    assert len(encode_rows(rows)) < 750 * 1024


def encode_rows(rows: list[list[object]]) -> bytes:
    import msgspec

    return msgspec.json.encode({"replica": "signer-0", "rows": rows})


def test_rows_are_dropped_a_day_after_their_end() -> None:
    now = pki.NOW.timestamp()
    old, older = Delivered("east", "a", 1), Delivered("east", "a", 2)
    assert bounded({old: now - KEPT + 1, older: now - KEPT}, now) == {old: now - KEPT + 1}


async def test_what_is_covered_costs_a_look_up(tmp_path: Path) -> None:
    """Nothing is awaited: the coroutine ends in its first step."""
    world = World(tmp_path)
    async with world.running() as expiry_bounds:
        await world.ready()
        await expiry_bounds.cover(world.leaf())
        with pytest.raises(StopIteration):
            expiry_bounds.cover(world.leaf()).send(None)


def test_the_document_is_what_controllers_read() -> None:
    data = encode(ExpiryBoundTable(replica="signer-0"))
    assert decode(data, ExpiryBoundTable, key=KEY).rows == []
