"""Help texts in the README are the real ones.

A fenced block that follows ``<!-- help: federation hub -->`` is what ``federation hub --help`` prints. Line breaks
may differ: each Python wraps usage lines in its own way.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from federation.cli.main import main

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"<!-- help: federation ?([a-z ]*?) ?-->\s*```[a-z]*\n(.*?)\n```", re.DOTALL)

BLOCKS: list[tuple[str, str]] = BLOCK.findall(README.read_text("utf-8"))


def test_the_readme_shows_help_and_every_marker_has_a_block() -> None:
    assert BLOCKS
    assert README.read_text("utf-8").count("<!-- help:") == len(BLOCKS)


@pytest.mark.parametrize(("verb", "block"), BLOCKS, ids=[f"federation {verb}".strip() for verb, _ in BLOCKS])
def test_a_help_text_in_the_readme_is_the_real_one(
    verb: str, block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as caught:
        main([*verb.split(), "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.split() == block.split()
