"""``federation bundle show``: the bundle for people, for programs, and as its very bytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from federation.cli import bundle
from federation.status.encoding import decode_answer
from federation.status.model import BundleView
from tests.cli.asking import asked, run_verb
from tests.status.worlds import PEM, ROOT, SHA, World


async def test_anchors_are_shown_with_what_they_have_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asked(bundle, World(["east"], time.time()), tmp_path) as (run, _):
        assert await run("bundle", "show") == 0
    out = capsys.readouterr().out
    assert f"generation 7 of mesh.example.org, sha256 {SHA}" in out
    assert "3285 days" in out
    assert ROOT in out


async def test_pem_is_the_very_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(bundle, World(["east"], time.time()), tmp_path) as (run, _):
        assert await run("bundle", "show", "--pem") == 0
    assert capsys.readouterr().out == PEM


async def test_json_is_the_answer_of_the_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(bundle, World(["east"], time.time()), tmp_path) as (run, _):
        assert await run("bundle", "show", "--json") == 0
    assert decode_answer(capsys.readouterr().out, BundleView).sha256 == SHA


async def test_no_bundle_in_force_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(["east"], time.time())
    world.current = None
    async with asked(bundle, world, tmp_path) as (run, _):
        assert await run("bundle", "show", "--pem") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no generation of trust is in force" in captured.err


def test_an_api_that_cannot_be_asked_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(bundle, "bundle", "show", "--url", "http://127.0.0.1:1") == 2
    assert "check --url" in capsys.readouterr().err
