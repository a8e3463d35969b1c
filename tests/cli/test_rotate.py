"""``federation rotate``: what it prints, what it asks for, and how it exits."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from federation.cli import rotate
from federation.cli.mounted_operations import operations
from federation.controller.publication.joining import MemberFacts
from federation.controller.rotation.operations import taken_over
from federation.core.config.types import Address
from federation.core.documents.controller import Operation
from federation.core.errors import FederationError
from federation.core.rotation.record import OperationRefused, State
from federation.core.rotation.world import World as TrustWorld
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.status.app import create_app
from federation.status.encoding import decode_answer
from federation.status.rotation_model import OperationView, PlanView, RotationView
from federation.status.server import serve
from tests.cli.asking import run_verb
from tests.status.rotations import (
    LOSSES,
    NEW_INTERMEDIATE,
    deciding,
    met,
    plan,
    quarantine,
    report_rotation,
    unmet,
)
from tests.status.rotations import rotate as have_rotate
from tests.status.worlds import ROOT, CountingStore, FixedConfig, World
from tests.support.patience import PATIENCE
from tests.support.seals import SEAL

NAMES = ["east", "west", "north"]
Run = Callable[..., Awaitable[int]]


def world() -> World:
    return World(NAMES, time.time())


def done(_: Operation) -> FederationError | None:
    return None


@asynccontextmanager
async def hub(
    shown: World, directory: Path, decide: Callable[[Operation], FederationError | None] = done
) -> AsyncIterator[tuple[Run, list[Operation]]]:
    """Yields what runs the verb against a hub that shows a world, and what its leader was asked for."""
    clock = SystemClock()
    store = CountingStore(directory / "state", clock)
    await store.put(shown.document_set())
    config = FixedConfig(shown.config)
    app = create_app(store=store, config=config, clock=clock, mounted=operations(store, config, clock, SEAL))
    async with (
        serve(app, listen=Address("127.0.0.1", 0), clock=clock) as address,
        deciding(store, decide) as received,
    ):

        async def run(*arguments: str) -> int:
            return await asyncio.to_thread(
                run_verb, rotate, "rotate", *arguments, "--url", f"http://{address}"
            )

        yield run, received


async def test_status_at_rest_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with hub(world(), tmp_path) as (run, _):
        assert await run("status") == 0
        assert "no rotation was ever started" in capsys.readouterr().out
        assert await run("status", "--json") == 0
    assert capsys.readouterr().out == "null\n"


async def test_a_record_that_cannot_be_read_is_not_known_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hub(world(), tmp_path) as (run, _):
        await FileStore(tmp_path / "state", SystemClock()).write("rotation", b"{")
        assert await run("status") == 1
        assert capsys.readouterr().out.startswith("NOT KNOWN: the record of rotations cannot be used: ")
        assert await run("status", "--json") == 1
        said = capsys.readouterr()
        assert (said.out, said.err[:29]) == ("null\n", "federation rotate: NOT KNOWN:")
        assert await run("plan") == 1
        assert "not known: the record of rotations" in capsys.readouterr().out
        assert await run("emergency", "--compromised", ROOT, "--yes") == 0
        assert "WHAT WILL FAIL IS NOT KNOWN" in capsys.readouterr().err


async def test_status_shows_steps_gate_and_when_it_opens_and_exits_1_while_it_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = world()
    until = shown.now + 1800
    waits = unmet("leaves", "west", until, "leaves delivered with generation 6\x1b[2J may live on")
    have_rotate(
        shown, State.PUBLISHING, met("read_back", "every namespace holds both"), waits, opens_at=until
    )
    quarantine(shown, "north")
    async with hub(shown, tmp_path) as (run, _):
        assert await run("status") == 1
        out = capsys.readouterr().out
        assert await run("status", "--json") == 1
        view = decode_answer(capsys.readouterr().out, RotationView)
    assert "\x1b" not in out
    for line in (
        "rotation 3 of the root: PUBLISHING for 6",
        "[x] STAGED",
        "[>] PUBLISHING",
        "[ ] RETIRED",
        "canary: east",
        "wave 2: waiting: north, west",
        "gate out of PUBLISHING: closed, opens at 20",
        "NO   leaves     west     leaves delivered with generation 6?[2J may live on (until 20",
        "yes  read_back  -        every namespace holds both",
        "north: out since",
        "STAGED -> PUBLISHING",
    ):
        assert line in out
    assert view.gate is not None
    assert [c.name for c in view.gate.conditions if not c.met] == ["leaves"]


async def test_status_exits_0_where_the_gate_is_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = world()
    have_rotate(shown, State.SOAKED, met("matrix"), paused="the canary failed", automatic=False)
    async with hub(shown, tmp_path) as (run, _):
        assert await run("status") == 0
    out = capsys.readouterr().out
    assert "gate out of SOAKED: OPEN" in out
    assert "PAUSED: the canary failed" in out


async def test_a_gate_that_no_leader_attests_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = world()
    have_rotate(shown, State.SOAKED, met("matrix"))
    shown.edit_leader(updated=shown.now - 300)
    async with hub(shown, tmp_path) as (run, _):
        assert await run("status") == 1
        assert "NOT KNOWN: the leading controller was last seen 5 min ago" in capsys.readouterr().out
        assert await run("plan") == 1
    assert "rotation 3 is under way" in capsys.readouterr().out


async def test_plan_shows_sides_capacity_waves_and_the_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = world()
    report_rotation(shown, plan(shown.now))
    async with hub(shown, tmp_path) as (run, _):
        assert await run("plan") == 0
        out = capsys.readouterr().out
        assert await run("plan", "--json") == 0
        view = decode_answer(capsys.readouterr().out, PlanView)
    for words in (
        "a rotation of the root",
        "CN=Mesh M4",
        NEW_INTERMEDIATE,
        "1.5 certificates a second are asked for, 20 are allowed",
        "canary:   east",
        "wave 2:   north, west",
        "takes:    5 h at least",
    ):
        assert words in out
    assert view.ready


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"problem": "it has the key of M3", "remedy": "repair that"},
            "REFUSED: it has the key of M3\ndo: repair that",
        ),
        ({"conditions": [unmet("capacity", detail="40 are asked for, 20 are allowed")]}, "NO   capacity"),
    ],
)
async def test_a_plan_that_would_not_go_through_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: str
) -> None:
    shown = world()
    report_rotation(shown, plan(shown.now, **changes))
    async with hub(shown, tmp_path) as (run, _):
        assert await run("plan") == 1
    assert words in capsys.readouterr().out


ASKED: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "start": (("start",), "start", {}),
    "start with all": (
        ("start", "--canary", "east,west", "--reason", "yearly"),
        "start",
        {"canary": "east,west", "reason": "yearly"},
    ),
    "start without canary": (("start", "--canary", ""), "start", {"canary": ""}),
    "advance": (("advance",), "advance", {}),
    "abort": (("abort", "--reason", "wrong name"), "abort", {"reason": "wrong name"}),
    "restore": (("restore",), "restore", {}),
    "quarantine": (
        ("quarantine", "west", "--reason", "burnt down"),
        "quarantine",
        {"cluster": "west", "reason": "burnt down"},
    ),
    "release": (("release", "west"), "release", {"cluster": "west"}),
    "takeover": (("takeover", "west"), "takeover", {"cluster": "west"}),
}


@pytest.mark.parametrize("name", ASKED)
async def test_each_action_asks_for_its_operation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arguments, verb, given = ASKED[name]
    async with hub(world(), tmp_path) as (run, received):
        assert await run(*arguments) == 0
    assert [(operation.verb, operation.arguments) for operation in received] == [(verb, given)]
    assert capsys.readouterr().out == f"{verb}: done\n"


async def test_a_refused_operation_exits_1_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Operation) -> FederationError | None:
        return OperationRefused("no rotation is under way", remedy="start one")

    async with hub(world(), tmp_path, refuse) as (run, _):
        assert await run("advance") == 1
        assert capsys.readouterr().out == "advance: REFUSED: no rotation is under way\ndo: start one\n"
        assert await run("advance", "--json") == 1
        decided = decode_answer(capsys.readouterr().out, OperationView)
    assert (decided.outcome, decided.remedy) == ("refused", "start one")


async def test_a_takeover_that_comes_too_early_exits_1_with_what_to_do_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(operation: Operation) -> FederationError | None:
        facts = MemberFacts(anchors=None, joining=True)
        seen = TrustWorld(now=1.0, clusters={"west": facts}, expiry_bounds={}, generations={}, in_force=1)
        with pytest.raises(OperationRefused) as refused:
            taken_over(operation, seen)
        return refused.value

    async with hub(world(), tmp_path, refuse) as (run, received):
        assert await run("takeover", "west") == 1
        early = capsys.readouterr().out
        assert await run("takeover", "wset") == 1
        unknown = capsys.readouterr().out
    assert [operation.arguments["cluster"] for operation in received] == ["west", "wset"]
    assert "takeover: REFUSED: west still keeps a CA that is not accepted" in early
    assert "do: accept it first: `federation trust list` names it" in early
    assert "no cluster is registered as 'wset'\ndo: did you mean west?" in unknown


def test_the_help_of_a_takeover_says_what_it_declares_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as shown:
        run_verb(rotate, "rotate", "takeover", "--help")
    assert shown.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "nothing but the hub issues certificates in the cluster" in words
    assert "once its workloads have moved to the hub and its own CA is switched off" in words
    assert "earlier_longest_ttl" in words


async def test_an_operation_that_is_none_exits_2_in_the_hub_s_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hub(world(), tmp_path) as (run, received):
        assert await run("abort", "--reason", "a\x07b") == 2
        assert received == []
    assert "control characters (write plain text on one line)" in capsys.readouterr().err


def test_an_api_that_cannot_be_asked_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("status", "plan", "advance"):
        assert run_verb(rotate, "rotate", action, "--url", "http://127.0.0.1:1") == 2
        assert "UNKNOWN" in capsys.readouterr().err


async def test_an_emergency_shows_what_fails_and_goes_on_with_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = world()
    have_rotate(shown, State.ACTIVE, unmet("drained", "west"))
    assert shown.leader is not None
    report_rotation(shown, msgspec.structs.replace(shown.leader.rotation, losses=LOSSES))
    colons = ":".join(ROOT[i : i + 2] for i in range(0, len(ROOT), 2)).upper()
    arguments = ("emergency", "--compromised", colons, "--deadline", "30m", "--ttl-cap", "900", "--yes")
    async with hub(shown, tmp_path) as (run, received):
        assert await run(*arguments) == 0
    captured = capsys.readouterr()
    assert "west     at the removal" in captured.err
    assert "east     at once" in captured.err
    assert "north" not in captured.err, "that is of the other side"
    assert received[0].arguments == {"compromised": ROOT, "deadline": "1800.0", "ttl_cap": "900.0"}


async def test_what_ends_before_the_deadline_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = world()
    have_rotate(shown, State.ACTIVE, unmet("drained", "west"))
    assert shown.leader is not None
    loss = msgspec.structs.replace(LOSSES[0], clusters={"west": shown.now + 600, "east": shown.now + 6000})
    report_rotation(shown, msgspec.structs.replace(shown.leader.rotation, losses=[loss]))
    async with hub(shown, tmp_path) as (run, _):
        assert await run("emergency", "--compromised", ROOT, "--yes") == 0
        default = capsys.readouterr().err
        assert await run("emergency", "--compromised", ROOT, "--yes", "--deadline", "2h") == 0
        late = capsys.readouterr().err
    assert "east" in default
    assert "west" not in default
    assert late == "nothing is known to fail if the old side is left\n"


@pytest.mark.parametrize(("typed", "code"), [(ROOT[:8], 0), ("a1a1", 1), ("", 1), ("yes", 1)])
async def test_an_emergency_wants_the_fingerprint_typed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    code: int,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(typed + "\n"))
    shown = world()
    have_rotate(shown, State.ACTIVE, unmet("drained", "west"))
    async with hub(shown, tmp_path) as (run, received):
        assert await run("emergency", "--compromised", ROOT) == code
    assert len(received) == (code == 0)
    assert ("nothing was done" in capsys.readouterr().err) == bool(code)


async def test_an_emergency_without_a_terminal_needs_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    shown = world()
    have_rotate(shown, State.ACTIVE, unmet("drained", "west"))
    shown.edit_leader(updated=shown.now - 300)
    async with hub(shown, tmp_path) as (run, received):
        assert await run("emergency", "--compromised", ROOT) == 2
        assert received == []
    err = capsys.readouterr().err
    assert "needs --yes" in err
    assert "NOT KNOWN TO BE COMPLETE" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("emergency",),
        ("emergency", "--compromised", "a1a1"),
        ("emergency", "--compromised", ROOT, "--deadline", "soon"),
        ("emergency", "--compromised", ROOT, "--ttl-cap", "-5"),
        ("quarantine", "west"),
        ("release",),
        ("takeover",),
        (),
    ],
)
def test_a_command_line_that_cannot_be_used_is_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        run_verb(rotate, "rotate", *arguments)
    assert refused.value.code == 2
    assert "usage: federation rotate" in capsys.readouterr().err


async def test_an_answer_that_is_lost_is_not_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """A request that was sent may be done; one that found no listener cannot be."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    asked = ("advance", "--url", f"http://{host}:{port}")
    async with server, asyncio.timeout(PATIENCE):
        assert await asyncio.to_thread(run_verb, rotate, "rotate", *asked) == 2
    said = capsys.readouterr().err
    assert "UNKNOWN" in said
    assert "may still be done: look at `federation rotate status` before asking again" in said
    assert await asyncio.to_thread(run_verb, rotate, "rotate", *asked) == 2
    assert "may still be done" not in capsys.readouterr().err
