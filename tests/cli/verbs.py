"""Every verb of the command line, as its parser has it."""

from __future__ import annotations

from federation.cli.main import build_parser
from federation.cli.parser import Parser


def verbs() -> dict[str, Parser]:
    """Every verb that runs, by what is written for it (``clusters add``), with its parser."""
    return _leaves(build_parser(), "")


def _leaves(parser: Parser, path: str) -> dict[str, Parser]:
    below = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    if not below:
        return {path: parser}
    found: dict[str, Parser] = {}
    for name, child in below[0].items():
        assert isinstance(child, Parser), name
        found |= _leaves(child, f"{path} {name}".strip())
    return found
