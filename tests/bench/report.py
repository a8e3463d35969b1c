"""What was measured, beside what was promised."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

Verdict = Literal["met", "MISSED", "not measured", ""]


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a value: at most or at least."""

    relation: Literal["at most", "at least"]
    bound: float

    def verdict(self, value: float) -> Verdict:
        met = value <= self.bound if self.relation == "at most" else value >= self.bound
        return "met" if met else "MISSED"

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Line:
    """One measured value. ``note`` says under which conditions, or why there is no value."""

    group: str
    name: str
    value: float | None
    unit: str = ""
    target: Target | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.target is None:
            return ""
        return self.target.verdict(self.value) if self.value is not None else "not measured"


def at_most(bound: float) -> Target:
    return Target("at most", bound)


def at_least(bound: float) -> Target:
    return Target("at least", bound)


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def facts() -> dict[str, str]:
    """What the numbers depend on."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ("cryptography", "ngh2", "grpcio", "aiohttp", "uvloop", "kubernetes-asyncio")
    return {
        "processor": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


class Report:
    """Collects lines, prints each as it is added, and has all of them in ``file`` by then, where one is given."""

    def __init__(self, say: Callable[[str], None], facts: dict[str, str], file: Path | None = None) -> None:
        self._file = file
        self.lines: list[Line] = []
        self.facts = facts
        self._say = say
        self._group = ""

    def add(self, line: Line) -> None:
        self.lines.append(line)
        if line.group != self._group:
            self._group = line.group
            self._say(f"\n{line.group}")
        self._say(self._row(line))
        self.write()

    def write(self) -> None:
        """Write what there is by now to the file, where one is given; a reader never finds half of it."""
        if self._file is not None:
            staged = self._file.with_name(f"{self._file.name}.new")
            staged.write_text(self.as_json())
            staged.replace(self._file)

    def _row(self, line: Line) -> str:
        promise = f"{line.target}: {line.verdict}" if line.target else ""
        note = f"  ({line.note})" if line.note else ""
        return f"  {line.name:<58}{number(line.value):>10} {line.unit:<9} {promise}{note}".rstrip()

    @property
    def missed(self) -> list[Line]:
        return [line for line in self.lines if line.verdict == "MISSED"]

    def summary(self) -> Iterator[str]:
        judged = [line for line in self.lines if line.target is not None]
        yield f"\n{len(judged)} targets: " + ", ".join(
            f"{count} {verdict}"
            for verdict in ("met", "MISSED", "not measured")
            if (count := sum(line.verdict == verdict for line in judged))
        )
        for line in judged:
            if line.verdict != "met":
                what = f"{number(line.value)} {line.unit}".strip() + f", wanted {line.target}"
                yield f"  {line.verdict}: {line.name}: {what}{f' ({line.note})' if line.note else ''}"

    def as_json(self) -> str:
        rows = [
            asdict(line) | {"target": str(line.target) if line.target else None, "verdict": line.verdict}
            for line in self.lines
        ]
        return json.dumps({"machine": self.facts, "lines": rows}, indent=2) + "\n"
