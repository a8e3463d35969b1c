"""``federation trust remove``: what breaks is said beforehand, and nothing is removed without a word for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from federation.cli import trust
from federation.cli.mounted_operations import operations
from federation.core.config.types import Address
from federation.core.documents.controller import LossReport, Operation, RotationReport, UnpinnedReport
from federation.core.errors import FederationError
from federation.core.rotation.record import Condition, OperationRefused, RotationRecord, Unpinned
from federation.runtime.clock import SystemClock
from federation.status.app import create_app
from federation.status.server import serve
from tests.cli.asking import run_verb
from tests.status.rotations import deciding, hold, report_rotation
from tests.status.worlds import ROOT, CountingStore, FixedConfig, World
from tests.support.seals import SEAL

WAITS = Condition(
    name="own_issuers",
    met=False,
    detail="the last of its leaves ends at noon",
    cluster="",
    until=2_000_000_000.0,
)
LOSS = LossReport(
    side="",
    what="its leaves below it are refused by others",
    at_removal=True,
    clusters={"west": 2_000_000_000.0},
)


def world() -> World:
    """A root is published whose pin is gone."""
    shown = World(["east", "west"], time.time())
    known = Unpinned(since=shown.now - 60, generation=1, subject="CN=Root R0")
    hold(shown, RotationRecord(unpinned={ROOT: known}))
    report = UnpinnedReport(
        since=known.since, subject=known.subject, opens_at=WAITS.until, conditions=[WAITS], losses=[LOSS]
    )
    report_rotation(shown, RotationReport(computed=shown.now - 1, unpinned={ROOT: report}))
    return shown


@asynccontextmanager
async def hub(
    shown: World, directory: Path, answer: FederationError | None = None
) -> AsyncIterator[tuple[Callable[..., Awaitable[int]], list[Operation]]]:
    clock = SystemClock()
    store = CountingStore(directory / "state", clock)
    await store.put(shown.document_set())
    config = FixedConfig(shown.config)
    app = create_app(store=store, config=config, clock=clock, mounted=operations(store, config, clock, SEAL))
    async with (
        serve(app, listen=Address("127.0.0.1", 0), clock=clock) as address,
        deciding(store, lambda _: answer) as received,
    ):

        async def run(*arguments: str) -> int:
            return await asyncio.to_thread(
                run_verb, trust, "trust", "remove", *arguments, "--url", f"http://{address}"
            )

        yield run, received


async def test_what_breaks_is_said_and_nothing_is_done_without_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hub(world(), tmp_path) as (run, received):
        assert await run(ROOT) == 1
        said = capsys.readouterr().err
        assert "its leaves below it are refused by others" in said
        assert "west" in said
        assert "the last of its leaves ends at noon" in said
        assert "nothing was removed" in said
        assert received == []


async def test_removal_at_once_requires_confirmation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub(world(), tmp_path) as (run, received):
        monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        assert await run(ROOT, "--now") == 2
        assert "needs --yes" in capsys.readouterr().err
        assert received == []
        assert await run(ROOT, "--now", "--yes", "--reason", "its key was stolen") == 0
        (asked,) = received
        assert (asked.verb, asked.arguments["anchor"]) == ("remove", ROOT)
        assert "refused by others" in capsys.readouterr().err


async def test_a_refusal_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = OperationRefused("it is pinned", remedy="take its pin out first")
    async with hub(World(["east"], time.time()), tmp_path, refused) as (run, _):
        assert await run(ROOT, "--now", "--yes") == 1
        said = capsys.readouterr()
        assert "not known to be published without a pin" in said.err
        assert "take its pin out first" in said.out


async def test_losses_that_no_leader_reports_are_shown_as_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = world()
    report_rotation(shown, replace(RotationReport(), computed=shown.now - 300))
    async with hub(shown, tmp_path) as (run, _):
        assert await run(ROOT) == 1
        assert "WHAT WILL FAIL IS NOT KNOWN" in capsys.readouterr().err
