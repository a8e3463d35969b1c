"""``federation status``: what it prints and how it exits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from federation.cli import status
from federation.status.encoding import decode_answer
from federation.status.model import FederationStatus
from tests.cli.asking import asked, run_verb
from tests.status.worlds import World
from tests.support.seals import READ_TOKEN, token_file

NAMES = ["east", "west", "north"]


async def test_a_healthy_federation_is_printed_and_exits_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asked(status, World(NAMES, time.time()), tmp_path) as (run, _):
        assert await run("status") == 0
    out = capsys.readouterr().out
    assert out.startswith("HEALTHY: All 6 ordered pairs of 3 clusters validate")
    assert "\x1b" not in out
    for name in NAMES:
        assert name in out


async def test_a_failing_one_exits_1_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(NAMES, time.time())
    world.set_cells({("east", "west"): "x"}, {"east>west": "the anchor is missing\x1b[2J\r\nHEALTHY"})
    async with asked(status, world, tmp_path) as (run, _):
        assert await run("status") == 1
    out = capsys.readouterr().out
    assert "CRITICAL  east to west: mutual TLS fails: the anchor is missing?[2J??HEALTHY" in out
    assert "do: correct what the reason names" in out


async def test_json_is_the_answer_of_the_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(status, World(NAMES, time.time()), tmp_path) as (run, _):
        assert await run("status", "--json") == 0
    answer = decode_answer(capsys.readouterr().out, FederationStatus)
    assert (answer.verdict, len(answer.clusters)) == ("healthy", 3)


def test_an_api_that_cannot_be_asked_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(status, "status", "--url", "http://127.0.0.1:1") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "UNKNOWN" in captured.err
    assert "check --url" in captured.err


def test_a_token_is_not_sent_in_the_clear_to_another_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("abc")
    arguments = ("--url", "http://hub.example.org:8080", "--token-file", str(tmp_path / "token"))
    assert run_verb(status, "status", *arguments) == 2
    assert "not sent over plain HTTP" in capsys.readouterr().err


async def test_the_environment_names_hub_and_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(NAMES, time.time())
    token_file(tmp_path / "token", READ_TOKEN + "\n")
    world.config = replace(
        world.config, status=replace(world.config.status, read_token_file=tmp_path / "token")
    )
    async with asked(status, world, tmp_path) as (run, _):
        assert await run("status") == 2
        assert "give the status token with --token-file" in capsys.readouterr().err
        monkeypatch.setenv("FEDERATION_TOKEN_FILE", str(tmp_path / "token"))
        assert await run("status") == 0
    monkeypatch.setenv("FEDERATION_URL", "http://127.0.0.1:1")
    assert await asyncio.to_thread(run_verb, status, "status") == 2
    assert "http://127.0.0.1:1/api/v1/status" in capsys.readouterr().err
