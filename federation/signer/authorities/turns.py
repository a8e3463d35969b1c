"""Whose turn it is where a back end allows only so many requests a second. Pure: no clock, no waiting.

Clusters take turns, so that a storm in one costs the others nothing. Within a cluster the next is whose
certificate ends first; who holds none that is known comes before all. Where there is no room, the least
urgent of the cluster that waits most has to go.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

NOTHING_HELD = 0.0
"""The urgency of a caller of whom no certificate is known."""

SPARE = 64
"""Of requests that are gone so many stay in a line, beside as many as wait, until they are cleared away."""


@dataclass(slots=True, eq=False)
class Turn:
    """One request that waits. ``urgency`` is when what it replaces ends, in seconds since the epoch."""

    cluster: str
    urgency: float
    gone: bool = False


@dataclass(slots=True)
class _Line:
    """The requests of one cluster. ``served`` is a virtual time: the cluster with the least is next."""

    served: float
    heap: list[tuple[float, int, Turn]] = field(default_factory=list)
    waiting: int = 0


class Turns:
    """The requests that wait, at most ``room`` of them."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._lines: dict[str, _Line] = {}
        self._order = count()
        self._now = 0.0
        self.waiting = 0

    def ahead(self, cluster: str, urgency: float) -> int:
        """How many would be served before a request that joined now, if no more came."""
        own = self._lines.get(cluster)
        before = sum(u <= urgency and not turn.gone for u, _, turn in own.heap) if own else 0
        others = (line.waiting for name, line in self._lines.items() if name != cluster)
        return before + sum(min(waiting, before + 1) for waiting in others)

    def join(self, turn: Turn) -> Turn | None:
        """Have it wait; the one that must go instead where there is no room, which may be itself."""
        line = self._lines.get(turn.cluster)
        if line is None:
            # A cluster that was idle starts level with the others: it can save up no turns.
            line = self._lines[turn.cluster] = _Line(self._now)
        heapq.heappush(line.heap, (turn.urgency, next(self._order), turn))
        line.waiting += 1
        self.waiting += 1
        if self.waiting <= self._room:
            return None
        # Of clusters that wait equally the newcomer's gives way, or one at the limit could push out another.
        longest = max(self._lines.values(), key=lambda each: (each.waiting, each is line))
        victim = max(entry for entry in longest.heap if not entry[2].gone)[2]
        self.leave(victim)
        return victim

    def leave(self, turn: Turn) -> None:
        """It waits no more; nothing where it waits no more already."""
        if turn.gone:
            return
        turn.gone = True
        line = self._lines[turn.cluster]
        line.waiting -= 1
        self.waiting -= 1
        if not line.waiting:
            del self._lines[turn.cluster]
        elif len(line.heap) > 2 * line.waiting + SPARE:
            line.heap = [entry for entry in line.heap if not entry[2].gone]
            heapq.heapify(line.heap)

    def take(self) -> Turn | None:
        """The next one, which waits no more; None where nobody waits."""
        if not self.waiting:
            return None
        line = min(self._lines.values(), key=lambda each: each.served)
        while True:
            _, _, turn = heapq.heappop(line.heap)
            if not turn.gone:
                break
        self._now = line.served
        line.served += 1
        self.leave(turn)
        return turn
