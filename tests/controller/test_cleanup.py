"""What is left of processes that are gone is removed, and nothing that a leaf may still depend on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from federation.controller.rotation.cleanup import EVERY, GONE, MOST_AT_ONCE, SIGNERS_KEEP, Leftovers
from federation.controller.rotation.observer import Observer
from federation.core.config.hub import HubConfig
from federation.core.documents.controller import ControllerReport
from federation.core.documents.encoding import encode
from federation.core.documents.signer import ExpiryBound, ExpiryBoundTable, SignerReport
from federation.core.documents.trust import Current, Proposal
from federation.core.errors import StateUnavailable
from federation.core.identity import ClusterName
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.expiry_bounds import Delivered
from federation.signer import expiry_bounds as signer_bounds
from federation.signer.expiry_bounds import PersistedExpiryBounds
from federation.signer.revalidation import Delivery
from federation.state.files import FileStore
from tests.status.worlds import ROOT, hub_config
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

CONFIG = hub_config(["east", "west"])
SKEW = CONFIG.controller.rotation.skew
ENDED = SIGNERS_KEEP + SKEW + EVERY + 10


@dataclass
class Hub:
    directory: Path
    clock: VirtualClock = field(default_factory=VirtualClock)
    leads: bool = True

    def __post_init__(self) -> None:
        self.store = FileStore(self.directory, self.clock)
        self.leftovers = Leftovers(self.store, self.clock, lambda: self.leads)

    @property
    def now(self) -> float:
        return self.clock.now().timestamp()

    async def signer(self, replica: str, age: float) -> None:
        report = SignerReport(replica=replica, started=0.0, updated=self.now - age, heartbeat=2.0, ready=True)
        await self.store.write(f"signers/{replica}", encode(report))

    async def controller(self, replica: str, age: float, *proposals: Proposal) -> None:
        report = ControllerReport(
            replica=replica, started=0.0, updated=self.now - age, heartbeat=5.0, leader=False, ready=True,
            proposals=list(proposals),
        )  # fmt: skip
        await self.store.write(f"controllers/{replica}", encode(report))

    async def expiry_bounds(self, replica: str, *ended: float) -> None:
        """Write a table with one row for each age; a row expired that many seconds ago."""
        rows = [
            ExpiryBound(cluster="east", issuer="1", generation=number, until=self.now - age)
            for number, age in enumerate(ended, 1)
        ]
        await self.store.write(f"horizons/{replica}", encode(ExpiryBoundTable(replica=replica, rows=rows)))

    async def look(self, config: HubConfig = CONFIG) -> list[str]:
        """The keys that remain after one run, while a signer is alive."""
        await self.clock.advance(EVERY)
        await self.signer("alive", 0.0)
        await self.leftovers.remove(config)
        return [key for key in await self.store.keys("") if key != "signers/alive"]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_both_roles_keep_a_bound_for_as_long() -> None:
    assert signer_bounds.KEPT == SIGNERS_KEEP


@pytest.mark.parametrize(
    ("ended", "report_age", "goes"),
    [
        ((ENDED,), None, True),
        ((), None, True),
        ((ENDED, ENDED + 5), GONE + 10, True),
        ((ENDED, SIGNERS_KEEP + SKEW - EVERY - 10), None, False),
        ((ENDED, -1.0), None, False),
        ((ENDED,), GONE - EVERY - 10, False),
        ((ENDED,), 0.0, False),
        ((ENDED,), -1e9, False),
    ],
)
async def test_bounds_go_once_all_have_ended_long_ago_and_their_signer_is_gone(
    hub: Hub, ended: tuple[float, ...], report_age: float | None, goes: bool
) -> None:
    await hub.expiry_bounds("gone", *ended)
    if report_age is not None:
        await hub.signer("gone", report_age)
    assert ("horizons/gone" not in await hub.look()) is goes
    left = await hub.look()
    assert ("signers/gone" in left) is (report_age is not None and not goes), (
        "the report goes after the bounds"
    )


@pytest.mark.parametrize("data", [b"garbage", b'{"replica":"bad","rows":[["east","1",1,1e300]]}'])
async def test_what_cannot_be_read_stays(hub: Hub, data: bytes) -> None:
    await hub.expiry_bounds("gone", ENDED)
    await hub.store.write("horizons/bad", data)
    await hub.store.write("signers/gone", b"garbage")
    await hub.store.write("controllers/bad", b"garbage")
    for _ in range(2):
        assert await hub.look() == ["controllers/bad", "horizons/bad", "horizons/gone", "signers/gone"]


@pytest.mark.parametrize(
    "others", [[], [("late", 7.0)], [("ahead", -16.0)], [("a", 40_000.0), ("b", -40_000.0)]]
)
async def test_nothing_is_removed_while_no_other_replica_confirms_the_clock(
    hub: Hub, others: list[tuple[str, float]]
) -> None:
    await hub.expiry_bounds("gone", ENDED)
    await hub.clock.advance(EVERY)
    for replica, age in others:
        await hub.signer(replica, age)
    await hub.leftovers.remove(CONFIG)
    assert "horizons/gone" in await hub.store.keys("")


async def test_a_document_written_during_the_check_is_not_removed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hub.expiry_bounds("gone", ENDED)
    delete = hub.store.delete

    async def written_before(key: str, *, expected: str | None = None) -> None:
        await hub.expiry_bounds("gone", -60.0)
        await delete(key, expected=expected)

    monkeypatch.setattr(hub.store, "delete", written_before)
    assert await hub.look() == ["horizons/gone"]


async def test_which_pods_a_signer_had_issued_to_goes_with_the_last_of_its_leaves(hub: Hub) -> None:
    for name in ("gone", "ended", "alive"):
        await hub.store.write(f"callers/{name}", b"{}")
    await hub.expiry_bounds("gone", -3600)
    await hub.signer("alive", 0)
    await hub.signer("ended", GONE + 10)
    assert await hub.look() == ["callers/alive", "callers/gone", "horizons/gone"]


async def test_it_looks_now_and_then_and_removes_a_few(hub: Hub) -> None:
    for number in range(MOST_AT_ONCE + 2):
        await hub.expiry_bounds(f"gone-{number}", ENDED)
    assert len(await hub.look()) == 2
    await hub.leftovers.remove(CONFIG)
    assert len(await hub.store.keys("horizons/")) == 2, "not so soon again"
    hub.leads = False
    assert len(await hub.look()) == 2, "a controller that does not lead removes nothing"
    hub.leads = True
    assert await hub.look() == []


async def test_a_store_failure_does_not_end_the_cleanup(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    await hub.expiry_bounds("gone", ENDED)

    async def forbidden(key: str, *, expected: str | None = None) -> None:
        raise StateUnavailable("403", where=key)

    monkeypatch.setattr(hub.store, "delete", forbidden)
    assert await hub.look() == ["horizons/gone"]


def proposal(sha256: str, cluster: str = "east") -> Proposal:
    return Proposal(sha256=sha256, subject="x", cluster=cluster, origin="shop", not_after=1.0)


async def test_a_stale_controller_report_is_removed_once_live_ones_list_its_open_proposals(hub: Hub) -> None:
    await hub.controller("gone", GONE + 10, proposal("b" * 64))
    await hub.controller("plain", GONE + 10, proposal(ROOT), proposal("c" * 64, "deregistered"))
    await hub.controller("late", GONE - EVERY - 10)
    assert await hub.look() == ["controllers/gone", "controllers/late"]
    await hub.clock.advance(EVERY)
    await hub.controller("alive", -EVERY, proposal("b" * 64))
    assert "controllers/gone" not in await hub.look()


async def test_a_signer_that_is_alive_after_all_accounts_anew_for_what_it_delivers(hub: Hub) -> None:
    """Its report did not arrive for a day, and nothing was asked of it: then its bounds are removed."""

    async def look() -> tuple[Current | None, SigningDirectives]:
        return Current(number=1, sha256=""), SigningDirectives()

    def delivery(life: float) -> Delivery:
        not_after = hub.clock.now() + timedelta(seconds=life)
        return Delivery(ClusterName("east"), "a" * 64, 1, not_after, SigningDirectives())

    expiry_bounds = PersistedExpiryBounds(hub.store, replica="signer-0", clock=hub.clock, read_in_force=look)
    running = asyncio.create_task(expiry_bounds.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while expiry_bounds.problem is not None:
                await hub.clock.advance(0.01)
                await asyncio.sleep(0.005)
            await expiry_bounds.cover(delivery(3600))
            await hub.clock.advance(3600 + 3600 / 16 + ENDED)
            assert "horizons/signer-0" not in await hub.look()
            await expiry_bounds.cover(delivery(3600))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    found = await Observer(hub.store).expiry_bounds({})
    assert found[Delivered("east", "a" * 64, 1)] >= hub.now + 3600
