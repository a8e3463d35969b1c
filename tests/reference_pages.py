"""Pages of the site that are made of the code whenever it is built, and are not kept: commands, and metrics.

``python -m tests.reference_pages`` writes both below ``docs``; ``make docs`` does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from federation.cli.main import build_parser
from tests.last_version.names import metrics_in_code

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = DOCS / "commands.md"
METRICS = DOCS / "metrics.md"
SUFFIX = {"counter": "_total", "gauge": "", "histogram": ""}
COLUMNS = "100"


def children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and all below it, as help lists them."""
    yield parser
    for child in children(parser).values():
        yield from parsers(child)


def commands() -> str:
    """What ``--help`` of each verb prints."""
    os.environ |= {"COLUMNS": COLUMNS, "NO_COLOR": "1"}
    parts = ["# Commands\n\nWhat `--help` of each verb prints. Exit codes stand with each.\n"]
    for parser in parsers(build_parser()):
        level = "##" if len(parser.prog.split()) < 3 else "###"
        parts.append(f"{level} {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def metrics() -> str:
    """Every metric with its type, labels and text."""
    head = (
        "# Metrics\n\nWhat `/metrics` of the status address serves, and of each signer's health address for that "
        "signer. Each controller knows the\nfigures of all processes, so queries take `max by (...)` over those that "
        "answer. What is not known has no series.\n\n| metric | type | labels | is |\n|---|---|---|---|\n"
    )
    rows = [
        f"| `{name}{SUFFIX[each['type']]}` | {each['type']} | "
        f"{', '.join(f'`{label}`' for label in each['labels'])} | {each['text']} |\n"
        for name, each in sorted(metrics_in_code().items())
    ]
    return head + "".join(rows)


if __name__ == "__main__":
    COMMANDS.write_text(commands(), "utf-8")
    METRICS.write_text(metrics(), "utf-8")
