"""How often one caller, or one address, may ask: token buckets, in bounded memory. Pure.

Who is let in is limited by name and address. Who is not is limited by address alone, and in what it is refused only: an
address that is a proxy's keeps no caller out who proves who they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MOST_KEYS: Final = 4096


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimiter:
    """``burst`` requests of each key at once, and ``rate`` more in each second."""

    def __init__(self, monotonic: Callable[[], float], *, rate: float, burst: int) -> None:
        self._monotonic = monotonic
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> int:
        """0 where one may go on now, else the whole seconds to wait."""
        bucket = self._filled(key)
        if bucket.tokens < 1:
            return self._seconds(bucket)
        bucket.tokens -= 1
        return 0

    def wait(self, key: str) -> int:
        """The same, and nothing is taken."""
        bucket = self._filled(key)
        return self._seconds(bucket) if bucket.tokens < 1 else 0

    def _seconds(self, bucket: _Bucket) -> int:
        return max(1, math.ceil((1 - bucket.tokens) / self._rate))

    def _filled(self, key: str) -> _Bucket:
        """Its bucket as it is now.

        Where there are too many keys the one that asked longest ago is forgotten, which is as good as full by then
        unless thousands of addresses ask at once.
        """
        now = self._monotonic()
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        self._buckets.move_to_end(key)
        while len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        return bucket
