"""Which hub an object in a member cluster belongs to: an identity that each hub draws once, and writes on its objects.

A field manager's name says that *a* hub wrote an object, not which one. Two hubs with different roots that take each
other's objects for their own write over one another for ever, and workloads trust now the one and now the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from federation.core.errors import InvalidValue

ANNOTATION: Final = "federation-hub/hub"
"""On each object that a hub writes into a member cluster. Its value is the hub's identity."""

NUMBER: Final = "federation-hub/generation"
"""On each bundle's ConfigMap: the number of the generation that it was written for. What is published says by it that
a state that was set back is older, though nothing else remembers it.
"""

MOST_DIGITS: Final = 12  # of such a number: the keys of generations have room for no more
MOST_MARK: Final = 64  # characters that are kept of what an annotation holds: anybody may have written it
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def new_id(random_bytes: Callable[[int], bytes]) -> str:
    """An identity that no other hub has."""
    return random_bytes(16).hex()


def check_id(text: str) -> str:
    """The identity of a hub. Raises InvalidValue where it is none."""
    if not _ID.fullmatch(text):
        raise InvalidValue(
            f"{text[:80]!r} is not the identity of a hub",
            remedy="write the 32 hex digits that status shows, which are in the annotation federation-hub/hub as well",
        )
    return text


def mark_in(annotations: Mapping[str, object] | None) -> str:
    """The identity that is written on an object, bounded; empty where there is none."""
    value = (annotations or {}).get(ANNOTATION, "")
    return value[:MOST_MARK] if isinstance(value, str) else ""


def number_in(annotations: Mapping[str, object] | None) -> int:
    """The number of the generation that is written on an object; 0 where there is none."""
    value = (annotations or {}).get(NUMBER, "")
    known = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS
    return int(value) if isinstance(value, str) and known else 0


@dataclass(frozen=True, slots=True)
class HubIdentity:
    """Of this hub. ``adopts`` are identities whose objects are its own by an operator's word.

    An empty ``id`` stands for a hub without one: then the field manager's name has to do.
    """

    id: str = ""
    adopts: frozenset[str] = field(default_factory=frozenset)

    def owns(self, mark: str) -> bool:
        """Whether an object with that mark is this hub's, or was adopted."""
        return bool(mark) and (mark == self.id or mark in self.adopts)

    def is_other(self, mark: str) -> bool:
        """Whether it is another hub's."""
        return bool(self.id and mark) and not self.owns(mark)

    @property
    def annotations(self) -> dict[str, str]:
        """What every object that this hub writes carries."""
        return {ANNOTATION: self.id} if self.id else {}


NO_HUB: Final = HubIdentity()
