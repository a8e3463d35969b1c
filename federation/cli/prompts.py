"""What a person is asked at the terminal before something is done that cannot be taken back, or that others notice."""

from __future__ import annotations

import sys
from typing import Final

CONFIRMED_BY: Final = 8
"""Hex digits that a person types: enough to have compared, few enough to type."""
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
NO_TERMINAL: Final = "there is no terminal to ask at"


def agreed(question: str) -> bool:
    """Ask a person; False where they do not say yes, or where there is no terminal to ask at."""
    if not sys.stdin.isatty():
        print(f"{NO_TERMINAL}: it needs --yes", file=sys.stderr)
        return False
    return _answer(f"{question} [y/N] ").lower() in {"y", "yes"}


def typed_name(question: str, name: str) -> bool:
    """Whether a person types that name; False where there is no terminal to ask at."""
    return sys.stdin.isatty() and _answer(f"{question} ") == name


def typed_digits(sha256: str, question: str, *, verb: str, unchanged: str) -> int:
    """0 where a person types the first digits of a fingerprint; else the exit code, having said why.

    ``unchanged`` is what was not done with it: ``written``, ``removed``.
    """
    if not sys.stdin.isatty():
        print(f"{verb}: {NO_TERMINAL}, so it needs --yes; nothing was {unchanged}", file=sys.stderr)
        return EXIT_USAGE
    if _answer(question.format(digits=f"the first {CONFIRMED_BY} digits")).lower() != sha256[:CONFIRMED_BY]:
        print(f"{verb}: those are not its first digits; nothing was {unchanged}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _answer(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
