"""Exponential backoff with jitter, so that a hundred failed watches do not come back in one instant."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from ``first`` to ``longest`` seconds, each drawn from its upper half.

    The lower half is left out so that a failure that lasts never spins ("equal jitter").
    """

    def __init__(self, *, first: float, longest: float, jitter: random.Random) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many delays were taken since the last :meth:`reset`."""
        return self._failures

    def next(self, *, at_least: float = 0.0) -> float:
        """The next delay in seconds; ``at_least`` is what the other side asked for."""
        ceiling = min(self._longest, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return max(at_least, ceiling / 2 + self._jitter.random() * ceiling / 2)

    def reset(self) -> None:
        """Start over: things went well."""
        self._failures = 0
