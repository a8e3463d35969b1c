"""Help texts in pages are the real ones, and the README names the verbs that the gate calls.

A fenced block that follows ``<!-- help: federation hub -->`` is what ``federation hub --help`` prints. Line breaks
may differ: each Python wraps usage lines in its own way.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from federation.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- help: federation ?([a-z ]*?) ?-->\s*```[a-z]*\n(.*?)\n```", re.DOTALL)

TEXT = "\n".join(page.read_text("utf-8") for page in PAGES)
BLOCKS: list[tuple[str, str]] = BLOCK.findall(TEXT)


def test_a_page_shows_help_and_every_marker_has_a_block() -> None:
    assert BLOCKS
    assert TEXT.count("<!-- help:") == len(BLOCKS)


def test_the_readme_names_what_the_gate_calls() -> None:
    gate = (ROOT / ".ci" / "run").read_text("utf-8")
    verbs = {verb for line in re.findall(r"^make (.+)$", gate, re.MULTILINE) for verb in line.split()}
    shown = set(re.findall(r"^\$ make (\w+)", PAGES[0].read_text("utf-8"), re.MULTILINE))
    made = re.search(r"^check: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)

    assert "test" in verbs & shown
    assert "check" in shown
    assert made is not None
    assert verbs <= set(made[1].split())


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(PAGES[0].read_text("utf-8").splitlines()) < 100


@pytest.mark.parametrize(("verb", "block"), BLOCKS, ids=[f"federation {verb}".strip() for verb, _ in BLOCKS])
def test_a_help_text_in_a_page_is_the_real_one(
    verb: str, block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as caught:
        main([*verb.split(), "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.split() == block.split()
