"""How far leaves reach: for each cluster, issuer and generation, until when one delivered so can be valid.

Single leaves are not recorded. What is recorded is an upper bound, written ahead of issuing in coarse
steps: a crash, a lost answer or a signer that is gone can only make it too late, never too early. All that a
rotation waits for is computed from these bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

UNKNOWN_ISSUER: Final = ""
"""The issuer of a leaf whose issuer could not be known before it was issued; every gate counts it as the worst case."""

ANY_REMOVED: Final = "(any removed cluster)"
"""The name of clusters that were removed and whose own names cannot be read any more; no cluster can have this name."""

SHORTEST_STEP: Final = 5.0
LONGEST_STEP: Final = 900.0  # seconds: with leaves of a day a bound is written four times an hour
STEPS_IN_A_LIFE: Final = 16.0


@dataclass(frozen=True, slots=True, order=True)
class Delivered:
    """How a leaf was delivered: to whom, signed by which issuer (SHA-256), with which generation of trust."""

    cluster: str
    issuer: str
    generation: int


def step_for(lifetime: float) -> float:
    """How far ahead a bound is written for leaves of that lifetime, in seconds: a sixteenth of it."""
    return min(LONGEST_STEP, max(SHORTEST_STEP, lifetime / STEPS_IN_A_LIFE))


def merged(tables: Iterable[Mapping[Delivered, float]]) -> dict[Delivered, float]:
    """The bounds of all signers together: the latest of each."""
    remaining = iter(tables)
    latest = dict(next(remaining, {}))
    for table in remaining:
        for delivered, until in table.items():
            known = latest.get(delivered)
            if known is None or until > known:
                latest[delivered] = until
    return latest


def alive(table: Mapping[Delivered, float], now: float, *, skew: float) -> dict[Delivered, float]:
    """The bounds that some leaf may still be within, by the slowest clock that is allowed for."""
    return {delivered: until for delivered, until in table.items() if until + skew > now}
