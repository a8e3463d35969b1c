"""Long lists in pages: at most ``limit`` items, and a token by which the next page continues. Pure.

A token names the last item that was given, so that a list that grows or shrinks meanwhile repeats and skips nothing;
where that item is gone the caller has to start again (410, as of Kubernetes' lists).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from federation.core.errors import InvalidValue

T = TypeVar("T")

MOST_ITEMS: Final = 500
MOST_TOKEN: Final = 400  # characters


class UnusableQuery(InvalidValue):
    """What a caller asks for is no page of any list."""


class ItemGone(Exception):
    """The item to continue after is not in the list any more."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, the token of those after them (empty at the end), and how many those are."""

    items: list[T]
    token: str
    remaining: int


def page_of(items: Sequence[T], query: Mapping[str, str], *, name: str, key: Callable[[T], str]) -> Page[T]:
    """The page of the list ``name`` that a query asks for, items known by ``key``.

    Raises UnusableQuery where the query is none, ItemGone where it continues after what is not there.
    """
    limit = _limit(query)
    first = 0
    if "continue" in query:
        last = _decode(query["continue"], name)
        first = 1 + next((i for i, item in enumerate(items) if key(item) == last), len(items))
        if first > len(items):
            raise ItemGone
    shown = items[first : first + limit] if limit else items[first:]
    remaining = len(items) - first - len(shown)
    return Page(list(shown), _encode(name, key(shown[-1])) if remaining and shown else "", remaining)


def _limit(query: Mapping[str, str]) -> int:
    """How many items; 0: all."""
    text = query.get("limit")
    if text is None:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not 1 <= int(text) <= MOST_ITEMS:
        raise UnusableQuery("limit is out of range", remedy=f"use a whole number, 1 to {MOST_ITEMS}")
    return int(text)


def _encode(name: str, last: str) -> str:
    return base64.urlsafe_b64encode(f"{name}:{last}".encode()).decode().rstrip("=")


def _decode(token: str, name: str) -> str:
    unusable = UnusableQuery(
        "the continue token is not one of this list",
        remedy="give continue_token of the answer before, or none",
    )
    if not token or len(token) > MOST_TOKEN or not token.isascii():
        raise unusable
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise unusable from None
    listed, colon, last = text.partition(":")
    if listed != name or not colon:
        raise unusable
    return last
