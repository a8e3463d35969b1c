"""What is found wrong in a file: every mistake at once, each with its dotted key and a remedy.

``tables.py`` reports what is wrong with single keys. Rules between keys are functions of a table's values and of its
:class:`Place` in the file; they run for whatever could be read, also where other keys are wrong. A configuration with
any mistake is never used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Final, TypeVar

from federation.core.errors import Mistake

T = TypeVar("T")
Convert = Callable[[object], T]
"""Turns what TOML holds into a value; raises InvalidValue, with a remedy."""

MAX_SHOWN: Final = 60


class Findings:
    """What was found in one file: mistakes refuse it, warnings are shown in status, notices are logged."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []
        self.notices: list[str] = []
        self.former: dict[str, str] = {}
        """Keys by the names of today that are in the file under a former one."""

    def mistake(self, key: str, problem: str, remedy: str) -> None:
        """Record what refuses the file, under the name that is in it."""
        key = self.former.get(key, key)
        self.mistakes.append(Mistake(self.file, key, problem, remedy))

    def warning(self, key: str, meaning: str) -> None:
        """Record an option in force that an operator should keep seeing."""
        self.warnings.append(f"{key}: {meaning}")

    def notice(self, key: str, meaning: str) -> None:
        """Record what is read as it is and will be written otherwise one day: a key under its former name."""
        self.notices.append(f"{key} {meaning}")


class DependsOnMistake(Exception):
    """A rule needs a value that is missing or wrong: that mistake is known, and the rule has nothing to add."""


class Place:
    """One table as it is in the file, under its dotted key: which keys it sets, and where rules report mistakes."""

    def __init__(self, values: object, *, key: str, findings: Findings) -> None:
        self.key = key
        self.findings = findings
        self._values: Mapping[str, object] = values if isinstance(values, dict) else {}

    def path(self, name: str = "") -> str:
        """The dotted key of ``name`` in this table, or of the table itself."""
        return ".".join(part for part in (self.key, name) if part)

    def has(self, name: str) -> bool:
        """True where the file sets that key."""
        return name in self._values

    def set_among(self, names: Iterable[str]) -> list[str]:
        """Those of the keys that the file sets."""
        return [name for name in names if name in self._values]

    def below(self, name: str) -> Place:
        """The table of that name; an empty one where there is none."""
        return Place(self._values.get(name), key=self.path(name), findings=self.findings)

    def each(self, name: str) -> list[Place]:
        """The tables of the array of that name."""
        values = self._values.get(name)
        return [
            Place(value, key=f"{self.path(name)}[{index}]", findings=self.findings)
            for index, value in enumerate(values if isinstance(values, list) else ())
        ]

    def mistake(self, name: str, problem: str, remedy: str) -> None:
        """Record a mistake at ``name`` of this table."""
        self.findings.mistake(self.path(name), problem, remedy)

    def warning(self, name: str, meaning: str) -> None:
        """Record an insecure or questionable option at ``name`` of this table."""
        self.findings.warning(self.path(name), meaning)

    def check(self, table: T, *rules: Callable[[Place, T], None]) -> None:
        """Hold a table to rules between its values. A rule says nothing where a value that it needs cannot be used."""
        for rule in rules:
            with suppress(DependsOnMistake):
                rule(self, table)


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
