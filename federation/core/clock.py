"""What the house may ask of time; the system's clock is in ``runtime.clock``, a virtual one in the tests."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec

DATE_TIME: Final = "date-time"

Instant: TypeAlias = Annotated[float, msgspec.Meta(extra_json_schema={"format": DATE_TIME})]
"""Seconds since the epoch (UTC) in a document; 0: not known. The status API says RFC 3339, and null for 0."""


class Clock(Protocol):
    """Wall time for certificates, monotonic time for deadlines, and a sleep that tests can make virtual."""

    def now(self) -> datetime:
        """The wall clock as an aware datetime in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; cancellation ends it at once."""
        ...
