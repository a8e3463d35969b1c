"""How many certificates a second all signers issue, from their counters: what a new authority will have to carry."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

SMOOTHING: Final = 30.0  # seconds over which the rate is averaged
MEASURED: Final = 2 * SMOOTHING
"""Seconds after which the average says something: it begins at nothing."""

REMEMBERED: Final = 3600.0
"""Seconds for which the largest average counts: a lull is not what a rotation will ask for."""


@dataclass(slots=True)
class IssuingRate:
    """Fed with the sum of the counters at each look; times are in seconds since the epoch."""

    _since: float = 0.0
    _at: float = 0.0
    _total: int = 0
    _average: float = 0.0
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)

    def note(self, now: float, total: int) -> float:
        """The largest average of late. Counters that went back (a signer ended) are taken up where they are."""
        elapsed = now - self._at
        if not self._at:
            self._since = now
        elif elapsed > 0 and total >= self._total:
            weight = min(1.0, elapsed / SMOOTHING)
            self._average += ((total - self._total) / elapsed - self._average) * weight
        self._at, self._total = now, total
        while self._peaks and self._peaks[-1][1] <= self._average:
            self._peaks.pop()
        self._peaks.append((now, self._average))
        while self._peaks[0][0] < now - REMEMBERED:
            self._peaks.popleft()
        return self._peaks[0][1]

    @property
    def known_from(self) -> float:
        """From when on the rate is known."""
        return self._since + MEASURED
