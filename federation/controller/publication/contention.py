"""Telling a slip from a fight: who keeps rewriting our object gets fewer answers, not more.

The first few restorations are immediate. Where the same object is changed again and again (an istiod that
still distributes roots, a GitOps controller), each further one waits twice as long: two writers that always
answer at once would keep an API server and every proxy of a cluster busy for nothing.

Another hub is a process that answers at once, in every namespace. What bears its mark is restored once; from then on
the whole cluster waits, longer each time.
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

ROUND: Final = 10.0
"""Seconds within which changes by one other hub are one and the same."""

RIVAL_WAIT: Final = 30.0
"""The first wait after another hub has answered a restoration; each further one is twice as long."""


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
        self._rival = ""
        self._rounds: _Strikes | None = None
        self._theirs: set[str] = set()

    def strike(self, namespace: str, now: float, *, rival: str = "") -> None:
        """What was already as it should be was changed or deleted: by the hub ``rival``, where one left its mark."""
        if rival:
            self._strike_by(rival, namespace, now)
            return
        self._theirs.discard(namespace)
        strikes = self._strikes.get(namespace)
        if strikes is None or now - strikes.last > QUIET:
            strikes = self._strikes[namespace] = _Strikes(0, now, now)
        strikes.count += 1
        strikes.last = now
        if strikes.count > IMMEDIATE:
            doublings = min(strikes.count - IMMEDIATE - 1, 20)
            strikes.hold_until = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0**doublings)

    def recall(self, contested: Iterable[str], writers: Iterable[str], rival: str, now: float) -> None:
        """Go on with what was known when the last controller was killed, as if it had happened now."""
        for namespace in contested:
            self._strikes.setdefault(namespace, _Strikes(IMMEDIATE + 1, now, now + FIRST_WAIT))
        self.seen(writers, now)
        if rival and self._rounds is None:
            self._rival, self._rounds = rival, _Strikes(1, now, now)

    def wait(self, namespace: str, now: float) -> float:
        """Seconds before the object may be written again."""
        strikes = self._rounds if namespace in self._theirs else self._strikes.get(namespace)
        return max(0.0, strikes.hold_until - now) if strikes else 0.0

    def rival(self, now: float) -> str:
        """The identity of another hub that wrote over this one's objects lately; empty where none did."""
        if self._rounds is not None and now - self._rounds.last > QUIET:
            self._rival, self._rounds = "", None
            self._theirs.clear()
        return self._rival

    def _strike_by(self, rival: str, namespace: str, now: float) -> None:
        self.rival(now)
        if self._rounds is None:
            self._rounds = _Strikes(1, now, now)
        elif now >= self._rounds.hold_until and (
            now - self._rounds.last > ROUND or namespace in self._theirs
        ):
            self._rounds.count += 1
            doublings = min(self._rounds.count - 2, 20)
            self._rounds.hold_until = now + min(LONGEST_WAIT, RIVAL_WAIT * 2.0**doublings)
            self._theirs.clear()
        self._rounds.last = now
        self._rival = rival
        self._theirs.add(namespace)

    def seen(self, writers: Iterable[str], now: float) -> None:
        """These field managers were seen to own the key."""
        for writer in writers:
            if writer in self._writers or len(self._writers) < MOST_WRITERS:
                self._writers[writer] = now

    def forget(self, namespace: str) -> None:
        """The namespace is gone."""
        self._strikes.pop(namespace, None)
        self._theirs.discard(namespace)

    def writers(self, now: float) -> list[str]:
        """Who else wrote the key lately."""
        self._writers = {name: at for name, at in self._writers.items() if now - at <= QUIET}
        return sorted(self._writers)

    def contested(self, now: float) -> list[str]:
        """The namespaces that are fought over now."""
        self._strikes = {n: s for n, s in self._strikes.items() if now - s.last <= QUIET}
        return sorted(n for n, s in self._strikes.items() if s.count > IMMEDIATE)
