"""Reading TOML tables so that every mistake is found in one pass, each with its dotted key and a remedy.

A :class:`Table` hands out values key by key and remembers which keys were asked for; what is left when its
``with`` block ends is a key that nobody knows, which is a mistake with a suggestion. A value that cannot be
used is recorded and replaced by the default or by None, so that reading goes on; a configuration with any
mistake is never used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import Final, Self, TypeVar

from federation.core.errors import Finding, InvalidValue

T = TypeVar("T")
Convert = Callable[[object], T]
"""Turns what TOML holds into a value; raises InvalidValue, with a remedy."""

MAX_SHOWN: Final = 60
_PLACE: Final = re.compile(r"\[\d+\]")


class Findings:
    """What was found in one file: mistakes refuse it, warnings are shown in status, notices are logged."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.mistakes: list[Finding] = []
        self.warnings: list[str] = []
        self.notices: list[str] = []

    def mistake(self, key: str, problem: str, remedy: str) -> None:
        """Record what refuses the file."""
        self.mistakes.append(Finding(self.file, key, problem, remedy))

    def warning(self, key: str, meaning: str) -> None:
        """Record an option in force that an operator should keep seeing."""
        self.warnings.append(f"{key}: {meaning}")

    def notice(self, key: str, meaning: str) -> None:
        """Record what is read as it is and will be written otherwise one day: a key under its former name."""
        self.notices.append(f"{key} {meaning}")


class Table:
    """One TOML table under its dotted key. Leaving the ``with`` block reports the keys nobody asked for."""

    def __init__(self, values: Mapping[str, object], *, key: str, findings: Findings) -> None:
        self.key = key
        self.findings = findings
        self._values = values
        self._asked: dict[str, None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._report_unknown()

    def path(self, name: str = "") -> str:
        """The dotted key of ``name`` in this table, or of the table itself."""
        return ".".join(part for part in (self.key, name) if part)

    def header(self, name: str) -> str:
        """The name of the table below ``name`` as a header has it, which counts no elements of arrays."""
        return _PLACE.sub("", self.path(name))

    def has(self, name: str) -> bool:
        """True where the file sets that key."""
        self._asked[name] = None
        return name in self._values

    def is_empty(self, name: str) -> bool:
        """True where the file sets that key to an empty array."""
        return self.has(name) and self._values[name] == []

    def mistake(self, name: str, problem: str, remedy: str) -> None:
        """Record a mistake at ``name`` of this table."""
        self.findings.mistake(self.path(name), problem, remedy)

    def warning(self, name: str, meaning: str) -> None:
        """Record an insecure or doubtful option at ``name`` of this table."""
        self.findings.warning(self.path(name), meaning)

    def get(self, name: str, convert: Convert[T], default: T) -> T:
        """The value of an optional key; the default where it is missing or, with a finding, unusable."""
        if not self.has(name):
            return default
        value = self._convert(name, convert, self._values[name])
        return default if value is None else value

    def require(self, name: str, convert: Convert[T], remedy: str) -> T | None:
        """The value of a key that has no default; None, with a finding, where there is none to be used."""
        if not self.has(name):
            self.mistake(name, "is missing", remedy)
            return None
        return self._convert(name, convert, self._values[name])

    def list_of(self, name: str, convert: Convert[T], default: tuple[T, ...]) -> tuple[T, ...]:
        """The values of an optional array, each converted; findings name the element."""
        if not self.has(name):
            return default
        values = self._values[name]
        if not isinstance(values, list):
            self.mistake(name, f"must be an array, not {describe(values)}", 'write it as ["...", "..."]')
            return default
        converted = [self._convert(f"{name}[{place}]", convert, value) for place, value in enumerate(values)]
        found = tuple(value for value in converted if value is not None)
        for place, value in enumerate(found):
            if value in found[:place]:
                self.mistake(f"{name}[{place}]", "is there twice", "keep it once")
        return found

    def one_or_more(self, name: str, convert: Convert[T]) -> tuple[T, ...]:
        """The values of an optional key that takes one value or an array of them; empty where it is missing."""
        if self.is_empty(name):
            self.mistake(name, "is empty", "name one or more, or leave the key out")
        if self.has(name) and isinstance(self._values[name], list):
            return self.list_of(name, convert, ())
        value = self.get(name, convert, None)
        return () if value is None else (value,)

    def table(self, name: str) -> Table:
        """The table below ``name``; an empty one where there is none."""
        values = self._values[name] if self.has(name) else {}
        if not isinstance(values, dict):
            self.mistake(name, f"must be a table, not {describe(values)}", f"write [{self.header(name)}]")
            values = {}
        return Table(values, key=self.path(name), findings=self.findings)

    def tables(self, name: str) -> list[Table]:
        """The array of tables below ``name``, empty where there is none."""
        values = self._values[name] if self.has(name) else []
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            self.mistake(name, "must be an array of tables", f"write [[{self.header(name)}]] above each")
            return []
        return [
            Table(value, key=f"{self.path(name)}[{place}]", findings=self.findings)
            for place, value in enumerate(values)
        ]

    def _convert(self, name: str, convert: Convert[T], value: object) -> T | None:
        try:
            return convert(value)
        except InvalidValue as error:
            self.mistake(name, error.what, error.remedy)
            return None

    def _report_unknown(self) -> None:
        for name in self._values:
            if name not in self._asked:
                near = nearest(name, self._asked)
                known = f"did you mean {self._written(near, like=self._values[name])}?" if near else ""
                self.mistake(
                    printable(name), "is not a key the hub knows", known or suggestion(name, self._asked)
                )

    def _written(self, name: str, *, like: object) -> str:
        """A known key as it stands in the file, where the unknown one holds a value ``like`` this."""
        if isinstance(like, dict):
            return f"[{self.header(name)}]"
        if isinstance(like, list) and like and all(isinstance(value, dict) for value in like):
            return f"[[{self.header(name)}]]"
        return name


def suggestion(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown word: the nearest known one, or all of them."""
    known = sorted(known)
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"known here: {', '.join(known)}"


def suggested_cluster(name: str, registered: Iterable[str]) -> str:
    """A remedy for the name of a cluster that is not registered."""
    near = nearest(name, registered)
    return (
        f"did you mean {near}?"
        if near
        else "name a registered cluster: `federation clusters list` shows them"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """The known word that is nearest to this one, whatever its case and with - for _; empty where none is near."""
    plain = {word.lower().replace("-", "_"): word for word in known}
    near = get_close_matches(name.lower().replace("-", "_"), plain, n=1)
    return plain[near[0]] if near else ""


def describe(value: object) -> str:
    """A TOML value's type in TOML's own words."""
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def printable(text: str) -> str:
    """A bounded form of what a file holds that can do no harm in a terminal or a log line."""
    shown = text[:MAX_SHOWN] + ("..." if len(text) > MAX_SHOWN else "")
    return shown if shown.isprintable() else ascii(shown)
