"""How instants, ages and expiries are told; whether a report still counts is told by ``state/liveness.py``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from federation.status.model import Expiry

DAY: Final = 86400.0
_LAST_INSTANT: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

NOTICE_DAYS: Final = 90.0  # an offline root needs a ceremony: a quarter is what planning one takes
WARNING_DAYS: Final = 30.0
CRITICAL_DAYS: Final = 7.0


def instant(seconds: float) -> datetime | None:
    """Seconds since the epoch as an aware datetime; None for 0 (not known) and for what no calendar holds."""
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds <= _LAST_INSTANT else None


def days_left(not_after: float, now: float) -> float:
    """Days until ``not_after`` to a tenth, negative once it has passed; bounded to what JSON holds."""
    return round(min(max((not_after - now) / DAY, -1e6), 1e6), 1)


def expiry(not_after: float, now: float, *, not_before: float = 0.0) -> Expiry:
    """How near the end is. Where the whole lifetime is known and short, the thresholds shrink with it.

    Notice at 90 days or a third of the lifetime, warning at 30 days or a fifth, critical at 7 days or a
    twentieth, whichever is less.
    """
    if not_after <= 0:
        return "unknown"
    left = not_after - now
    if left <= 0:
        return "expired"
    lifetime = not_after - not_before if 0 < not_before < not_after else float("inf")
    if left <= min(CRITICAL_DAYS * DAY, lifetime / 20):
        return "critical"
    if left <= min(WARNING_DAYS * DAY, lifetime / 5):
        return "warning"
    if left <= min(NOTICE_DAYS * DAY, lifetime / 3):
        return "notice"
    return "ok"


def elapsed(seconds: float) -> str:
    """A duration in words, to the unit that matters: ``12 s``, ``4 min``, ``3 h``, ``2 days``."""
    seconds = abs(seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds / 3600:.0f} h"
    return f"{min(seconds / DAY, 1e6):.0f} days"


def clock_time(at: datetime, now: float) -> str:
    """An instant as a sentence has it: ``03:12 UTC``, and with the date where that is another day than today."""
    today = datetime.fromtimestamp(now, UTC).date()
    return f"{at:%H:%M} UTC" if at.date() == today else f"{at:%Y-%m-%d %H:%M} UTC"


def finite(seconds: float) -> float:
    """The number, or 0 where it is none that JSON could hold."""
    return seconds if abs(seconds) < 1e15 else 0.0
