"""How a cluster fares, derived from what went wrong there: one state, one reason, one remedy.

``ready``: everything asked of it works. ``degraded``: it answers, but part of the job cannot be done there.
``unavailable``: nothing can be done there. The reason is the ``reason`` of the error, so that a cluster
that is down, slow, hung, forbidden or returning garbage is reported as exactly that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from federation.core.errors import (
    ClusterConflict,
    ClusterDenied,
    ClusterForbidden,
    ClusterGone,
    ClusterInvalid,
    ClusterNotFound,
    ClusterOverBudget,
    ClusterThrottled,
    FederationError,
)
from federation.core.problem import Health

State: TypeAlias = Literal["ready", "degraded", "unavailable"]

CLOCK_SKEW_WARNING: Final = 60.0
"""Seconds: half of what :data:`CLOCK_SKEW_LIMIT` leaves, so that it is seen before it hurts."""

CLOCK_SKEW_LIMIT: Final = 120.0
"""Seconds. Leaves begin up to two minutes in the past: a cluster whose clock is further behind refuses new ones."""

_ANSWERS: Final = (
    ClusterForbidden,
    ClusterDenied,
    ClusterNotFound,
    ClusterConflict,
    ClusterGone,
    ClusterInvalid,
    ClusterThrottled,
    ClusterOverBudget,
)
_RANK: Final[dict[State, int]] = {"ready": 0, "degraded": 1, "unavailable": 2}


class ClusterHealth(Health, frozen=True):
    """The health of a member cluster."""

    state: State = "ready"

    @classmethod
    def of_error(cls, error: FederationError) -> ClusterHealth:
        """The health that follows from one failure."""
        state: State = "degraded" if isinstance(error, _ANSWERS) else "unavailable"
        return cls(state, error.reason, error.what, error.remedy)

    @classmethod
    def of_clock(cls, skew: float) -> ClusterHealth:
        """The health that follows from a clock skew in seconds (ours ahead is positive)."""
        if abs(skew) < CLOCK_SKEW_WARNING:
            return READY
        side = "behind" if skew > 0 else "ahead of"
        return cls(
            "degraded",
            "clock_skew",
            f"its clock is {abs(skew):.0f} s {side} the hub's",
            "repair NTP on the side that is wrong: certificates and tokens are judged by the clock",
        )

    @classmethod
    def derive(cls, problems: Iterable[FederationError | None], *, clock_skew: float = 0.0) -> ClusterHealth:
        """The worst of what is wrong now; ready where nothing is. Of equals, the first."""
        found = [cls.of_error(problem) for problem in problems if problem is not None]
        return max((READY, *found, cls.of_clock(clock_skew)), key=lambda health: _RANK[health.state])


READY: Final = ClusterHealth()
