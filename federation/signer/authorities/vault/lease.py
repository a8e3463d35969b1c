"""A token and how long it lasts. Pure: times are seconds of a monotonic clock."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Final

RENEWED_AT: Final = (0.6, 0.72)
"""Of a lease: about two thirds, drawn anew each time so that many signers do not come together."""

CAPPED_BELOW: Final = 0.9
"""Of the first lease: a renewal that gives less has met the token's longest life."""

JUST_LOGGED_IN: Final = 10.0  # seconds in which a refusal is not blamed on the login


@dataclass(slots=True, eq=False)
class Lease:
    """A token. ``full`` is how many seconds the first lease had; 0 stands for a token without an end."""

    token: str = field(repr=False)
    full: float
    renewable: bool
    since: float
    due: float = math.inf
    ends: float = math.inf
    worked: bool = False
    """True once a request with it was accepted."""
    for_good: bool = False
    """True where it cannot be prolonged any more."""

    def is_over(self, now: float) -> bool:
        """True where it has ended."""
        return now >= self.ends

    def is_fresh(self, now: float) -> bool:
        """True where nothing but the login itself has shown that it works, a moment ago."""
        return not self.worked and now - self.since < JUST_LOGGED_IN


def granted(
    token: str,
    seconds: float,
    *,
    renewable: bool,
    now: float,
    jitter: random.Random,
    before: Lease | None = None,
    full: float = 0.0,
) -> Lease:
    """The lease of a token that lasts ``seconds`` from now; ``before`` is the one that it renews."""
    lease = Lease(token, full or (before.full if before is not None else seconds), renewable, now)
    if before is not None:
        lease.worked = before.worked
    if seconds > 0:
        lease.due = now + seconds * jitter.uniform(*RENEWED_AT)
        lease.ends = now + seconds
    return lease


def is_ending(lease: Lease, now: float) -> bool:
    """True where it ends for good, and less than a third of its life is left."""
    return lease.for_good and lease.ends - now < lease.full / 3


def is_capped(lease: Lease) -> bool:
    """True where a renewal gave noticeably less than the first lease had."""
    return lease.ends - lease.since < lease.full * CAPPED_BELOW
