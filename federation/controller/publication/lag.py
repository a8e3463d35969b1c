"""How long a generation took until the last namespace of a cluster held it."""

from __future__ import annotations

from federation.state.documents import Generation


class Lag:
    """The lag of one cluster, which was taken up at ``since`` (seconds since the epoch)."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._reached: tuple[int, float] = (0, 0.0)

    def of(self, generation: Generation | None, *, complete: bool, now: float) -> float:
        """Seconds from the generation's creation until every namespace held it; still growing until then.

        A cluster that was taken up later is measured from then, and a namespace that comes after all others
        were reached once does not count again.
        """
        if generation is None:
            return 0.0
        number, lag = self._reached
        if number == generation.number:
            return lag
        waiting = max(0.0, now - max(generation.created, self._since))
        if complete:
            self._reached = generation.number, waiting
        return waiting
