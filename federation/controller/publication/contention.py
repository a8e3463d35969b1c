"""Telling a slip from a fight: somebody who keeps rewriting our object gets fewer answers, not more.

The first few restorations are immediate. Where the same object is changed again and again (an istiod that
still distributes roots, a GitOps controller), each further one waits twice as long: two writers that always
answer at once would keep an API server and every proxy of a cluster busy for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

IMMEDIATE: Final = 3
"""Restorations without a wait: an operator who edits by hand tries it twice."""

FIRST_WAIT: Final = 2.0
LONGEST_WAIT: Final = 300.0
QUIET: Final = 600.0
"""Seconds without a change by others after which all is forgotten. Longer than the longest wait, or a fight
would look settled while it waits."""

MOST_WRITERS: Final = 16


@dataclass(slots=True)
class _Strikes:
    count: int
    last: float
    hold_until: float


class Contention:
    """What other writers did to the objects of one cluster. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._strikes: dict[str, _Strikes] = {}
        self._writers: dict[str, float] = {}

    def strike(self, namespace: str, now: float) -> None:
        """Somebody changed or deleted what was already as it should be."""
        strikes = self._strikes.get(namespace)
        if strikes is None or now - strikes.last > QUIET:
            strikes = self._strikes[namespace] = _Strikes(0, now, now)
        strikes.count += 1
        strikes.last = now
        if strikes.count > IMMEDIATE:
            doublings = min(strikes.count - IMMEDIATE - 1, 20)
            strikes.hold_until = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0**doublings)

    def wait(self, namespace: str, now: float) -> float:
        """Seconds before the object may be written again."""
        strikes = self._strikes.get(namespace)
        return max(0.0, strikes.hold_until - now) if strikes else 0.0

    def seen(self, writers: Iterable[str], now: float) -> None:
        """These field managers were seen to own the key."""
        for writer in writers:
            if writer in self._writers or len(self._writers) < MOST_WRITERS:
                self._writers[writer] = now

    def forget(self, namespace: str) -> None:
        """The namespace is gone."""
        self._strikes.pop(namespace, None)

    def writers(self, now: float) -> list[str]:
        """Who else wrote the key lately."""
        self._writers = {name: at for name, at in self._writers.items() if now - at <= QUIET}
        return sorted(self._writers)

    def contested(self, now: float) -> list[str]:
        """The namespaces that are fought over now."""
        self._strikes = {n: s for n, s in self._strikes.items() if now - s.last <= QUIET}
        return sorted(n for n, s in self._strikes.items() if s.count > IMMEDIATE)
