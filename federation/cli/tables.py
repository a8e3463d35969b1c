"""Tables of verbs that list: rows chosen with ``--filter``, in the order of ``--sort``, for a person or as JSON.

A column is named as in the head of the table. A filter compares without regard to
case, and ``*`` and ``?`` stand for any text and any character; given several times, all of them have to hold. Numbers
in texts are sorted by their value: ``c9`` comes before ``c10``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from federation.status.text import table

_FILTER: Final = re.compile(r"(?P<column>[A-Za-z0-9_ -]+?)(?P<operator>!=|=)(?P<pattern>.*)", re.DOTALL)
DESCENDING: Final = ":desc"


@dataclass(frozen=True, slots=True)
class Filter:
    """One ``--filter``: a column whose text has to match a pattern, or must not."""

    column: str
    pattern: str
    matches: bool

    def takes(self, cell: str) -> bool:
        """Whether a row with that text is shown."""
        return fnmatchcase(cell.lower(), self.pattern.lower().replace("[", "[[]")) is self.matches


@dataclass(frozen=True, slots=True)
class Order:
    """A ``--sort``."""

    column: str
    descending: bool


def add_table_options(parser: argparse.ArgumentParser, columns: Sequence[str]) -> None:
    """``--sort``, ``--filter`` and ``--json`` for a table with these columns."""
    names = ", ".join(columns)
    parser.add_argument(
        "--sort",
        type=_order(columns),
        metavar="COLUMN",
        help=f"sort by that column, {DESCENDING} behind it for the reverse: {names}",
    )
    parser.add_argument(
        "--filter",
        type=_filter(columns),
        action="append",
        default=[],
        metavar="COLUMN=TEXT",
        help="show only rows whose column is that text, != for is not; * and ? stand for any; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


@dataclass(frozen=True)
class Rows:
    """What a table shows, and beside each row what JSON has for it."""

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    documents: Sequence[Any]

    def chosen(self, args: argparse.Namespace) -> Rows:
        """The rows that every ``--filter`` takes, in the order of ``--sort``.

        A column that is another table's takes no row of this one, and leaves the order as it is.
        """
        picked = [
            number
            for number, row in enumerate(self.cells)
            if all(
                each.column in self.columns and each.takes(row[self.columns.index(each.column)])
                for each in args.filter
            )
        ]
        order = args.sort
        if order is not None and order.column in self.columns:
            at = self.columns.index(order.column)
            picked.sort(key=lambda number: _natural(self.cells[number][at]), reverse=order.descending)
        return Rows(
            self.columns,
            [self.cells[number] for number in picked],
            [self.documents[number] for number in picked],
        )

    @property
    def lines(self) -> list[str]:
        """The table's lines."""
        return table([heading(column) for column in self.columns], self.cells)

    def print(self, args: argparse.Namespace, *, key: str, empty: str = "", **more: object) -> None:
        """Print it as it was asked for; with ``more`` beside the rows in JSON, and ``empty`` for no row at all."""
        if args.json:
            print(json.dumps({**more, key: list(self.documents)}, indent=2))
        elif self.cells or not empty:
            print("\n".join(self.lines))
        else:
            print(empty if not args.filter else "no row is as --filter says")


def heading(column: str) -> str:
    """A column's name in the head of its table."""
    return column.upper()


def _natural(text: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", text.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _order(columns: Sequence[str]) -> Callable[[str], Order]:
    def read(text: str) -> Order:
        column = text.removesuffix(DESCENDING)
        return Order(_column(column, columns), descending=text != column)

    return read


def _filter(columns: Sequence[str]) -> Callable[[str], Filter]:
    def read(text: str) -> Filter:
        found = _FILTER.fullmatch(text)
        if found is None:
            raise argparse.ArgumentTypeError(
                f"{text[:80]!r} is not COLUMN=TEXT, with a column of {_all(columns)}"
            )
        return Filter(_column(found["column"], columns), found["pattern"], found["operator"] == "=")

    return read


def _column(text: str, columns: Sequence[str]) -> str:
    from federation.core.config.mistakes import suggestion

    name = text.strip().lower().replace(" ", "_").replace("-", "_")
    if name not in columns:
        raise argparse.ArgumentTypeError(f"there is no column {text[:80]!r}: {suggestion(name, columns)}")
    return name


def _all(columns: Sequence[str]) -> str:
    return ", ".join(columns)
