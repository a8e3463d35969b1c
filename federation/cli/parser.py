"""The parser of the command line: argparse, with the nearest word where one is mistyped, and completions for shells."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from federation.core.config.mistakes import nearest

SHOWN: Final = 100  # characters of a mistyped word that are repeated


@dataclass
class Completions:
    """What may stand where the cursor is: words with what each means, and perhaps the name of a file."""

    words: list[tuple[str, str]] = field(default_factory=list)
    files: bool = False


Names = Callable[[str], Iterable[str]]
"""The names of a kind: ``clusters``, ``contexts``."""


class Parser(argparse.ArgumentParser):
    """As argparse's. Unknown arguments are an error of the verb that they were written behind, with its usage."""

    def parse_known_args(  # type: ignore[override]  # the overloads of typeshed are for namespaces of other classes
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, and nothing is left over: what would be is an error."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = next((word for word in unknown if word.startswith("-")), "")
            near = nearest(option.partition("=")[0], self._options()) if option else ""
            meant = f"; did you mean {near}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)[:SHOWN]}{meant}")
        return known, unknown

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError:
            near = nearest(str(value), [str(choice) for choice in action.choices or ()])
            if not near:
                raise
            problem = f"invalid choice: {str(value)[:SHOWN]!r}; did you mean {near}?"
            raise argparse.ArgumentError(action, problem) from None

    def completions(self, words: Sequence[str], names: Names) -> Completions:
        """What may stand in the place of the last of ``words``, which begins with it."""
        *before, current = words or [""]
        verbs = self._verbs()
        waiting: argparse.Action | None = None
        used: set[str] = set()
        place = 0
        for number, word in enumerate(before, start=1):
            if waiting is not None:
                waiting = None
            elif word.startswith("-"):
                option, given, _ = word.partition("=")
                action = self._option_string_actions.get(option)
                if action is not None:
                    used.update(() if isinstance(action, argparse._AppendAction) else action.option_strings)  # noqa: SLF001
                    waiting = action if action.nargs is None and not given else None
            elif verbs is not None:
                found = verbs.choices.get(word)
                return (
                    found.completions(words[number:], names) if isinstance(found, Parser) else Completions()
                )
            else:
                place += 1
        if waiting is not None:
            offered = _values(waiting, names)
        elif current.startswith("-"):
            offered = Completions([each for each in self._described() if each[0] not in used])
        elif verbs is not None:
            offered = Completions([(each.dest, each.help or "") for each in verbs._choices_actions])  # noqa: SLF001
        else:
            positionals = [action for action in self._actions if not action.option_strings]
            offered = _values(positionals[place], names) if place < len(positionals) else Completions()
        return Completions([each for each in offered.words if each[0].startswith(current)], offered.files)

    def _verbs(self) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
        return next((a for a in self._actions if isinstance(a, argparse._SubParsersAction)), None)  # noqa: SLF001

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def _described(self) -> list[tuple[str, str]]:
        """The long form of every option, with what it does."""
        return [
            (option, action.help or "")
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--")
        ]


def _values(action: argparse.Action, names: Names) -> Completions:
    kind = getattr(action, "completes", "")
    if action.choices is not None:
        return Completions([(str(choice), "") for choice in action.choices])
    if kind:
        return Completions([(name, "") for name in names(kind)])
    return Completions(files=action.type is Path)
