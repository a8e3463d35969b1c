"""The Dockerfile, read: its stages with their instructions, and what .dockerignore lets through to the builder.

Only what this project's Dockerfile uses is understood; anything else raises ValueError.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

KNOWN = frozenset(
    {
        *("ARG", "FROM", "WORKDIR", "RUN", "COPY", "LABEL", "ENV"),
        *("USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
)


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined."""

    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The words of an exec form. Raises ValueError for a shell form."""
        words: list[str] = json.loads(self.value)
        return words

    def pairs(self, arguments: Mapping[str, str]) -> dict[str, str]:
        """What ENV or LABEL sets, with build arguments put in."""
        words = shlex.split(self.value)
        return {
            key: re.sub(r"\$\{(\w+)\}", lambda found: arguments.get(found[1], ""), value)
            for key, _, value in (word.partition("=") for word in words)
        }


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    name: str  # empty for the final one
    instructions: tuple[Instruction, ...]


def instructions(text: str) -> list[Instruction]:
    """Every instruction in its order. Raises ValueError for one that is not known here."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [Instruction(*line.split(None, 1)) for line in joined.splitlines()]
    if unknown := {instruction.name for instruction in found} - KNOWN:
        raise ValueError(f"Dockerfile: {', '.join(sorted(unknown))} is not understood here")
    return found


def stages(text: str) -> list[Stage]:
    """The stages in their order, each without its FROM."""
    found: list[tuple[str, list[Instruction]]] = []
    for instruction in instructions(text):
        if instruction.name == "FROM":
            found.append((instruction.value.partition(" AS ")[2], []))
        elif found:
            found[-1][1].append(instruction)
    return [Stage(name, tuple(each)) for name, each in found]


def ignored(path: str, rules: str) -> bool:
    """Whether .dockerignore, given as its text, keeps this path from the builder: the last match decides."""
    verdict = False
    for line in rules.splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!")
        places = [path, *map(str, PurePosixPath(path).parents)]
        deep = [PurePosixPath(place).name for place in places] if pattern.startswith("**/") else []
        if any(
            fnmatchcase(place, pattern.removeprefix("**/"))
            for place in (deep or places)
            if "/" not in place or deep
        ):
            verdict = not rule.startswith("!")
    return verdict
