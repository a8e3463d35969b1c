"""Whether the writer of a report can be taken to be alive, by what the report itself says: so within bounds.

A report older than three heartbeats is stale: whoever wrote it is gone, so nothing in it is current. One from the
future counts as stale as well, because it would otherwise stay young for as long as its clock runs ahead.
"""

from __future__ import annotations

from typing import Final, Protocol

HEARTBEATS: Final = 3  # that may be missed
SHORTEST_HEARTBEAT: Final = 1.0
LONGEST_HEARTBEAT: Final = 60.0  # a report may not grant itself a longer life than this
MOST_AHEAD: Final = 15.0  # seconds that a writer's clock may run ahead, whatever heartbeat its report claims


class Report(Protocol):
    """What reports of both roles have in common. Both in seconds, ``updated`` since the epoch."""

    @property
    def updated(self) -> float:
        """When it was written."""
        ...

    @property
    def heartbeat(self) -> float:
        """How often its writer promises to write it."""
        ...


def is_heard_of(report: Report, now: float, *, skew: float = 0.0) -> bool:
    """True where the report is fresh, and not from the future, where it would stay fresh for who knows how long.

    ``skew`` is how far ahead clocks may be where that is more than is allowed anyway.
    """
    heartbeat = min(max(report.heartbeat, SHORTEST_HEARTBEAT), LONGEST_HEARTBEAT)
    ahead = max(min(HEARTBEATS * heartbeat, MOST_AHEAD), skew)
    return -ahead <= now - report.updated <= HEARTBEATS * heartbeat
