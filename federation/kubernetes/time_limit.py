"""A limit for how long another side may take, which does not count how late this process was itself.

A timeout measures what passes until its process looks. Where the event loop is late, because there is much to do or
because others have the processor, an answer may have been there for long and is not read yet: that says nothing of who
was asked. So the clock of a limit is looked at several times, and what each look comes late by is not counted, up to
some times the limit.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

LOOK: Final = 0.1
"""Seconds between looks at the clock: what a look comes late by is not counted, and what is shorter is."""

ORDINARY: Final = 0.1
"""Seconds by which a look may be late without being counted: a busy machine is late by less at every look, and a server
that hangs has to be known as one there too."""

MOST_EXTENDED: Final = 3.0
"""Times the limit that are not counted at the most: a process that is late for ever gives up all the same."""


class TimeLimit:
    """As ``asyncio.timeout(seconds)``, but that seconds by which this process was late do not count.

    ``late`` are those seconds. Raises TimeoutError as that does.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._began = self._due = 0.0
        self.late = 0.0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        await self._timeout.__aenter__()
        self._set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        await self._timeout.__aexit__(kind, error, trace)

    @property
    def late_now(self) -> float:
        """The seconds by which this process was late so far, with those of a look that is due and was not made."""
        overdue = self._loop.time() - self._due if self._timer is not None else 0.0
        return self.late + _counted(overdue)

    @property
    def expired(self) -> bool:
        """Whether it ended what it limits."""
        return self._timeout.expired()

    def _set(self) -> None:
        end = self._began + self._seconds + min(self.late, MOST_EXTENDED * self._seconds)
        self._due = min(self._loop.time() + LOOK, end)
        self._timer = self._loop.call_at(self._due, self._check)

    def _stop(self) -> None:
        if self._timer is not None:
            self.late = self.late_now
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        now = self._loop.time()
        self.late += _counted(now - self._due)
        extended = min(self.late, MOST_EXTENDED * self._seconds)
        if now - self._began >= self._seconds + extended:
            self._timer = None
            self._timeout.reschedule(now)
            return
        self._set()


def _counted(overdue: float) -> float:
    """Of the seconds by which a look is late, those that do not count against the other side."""
    return overdue if overdue > ORDINARY else 0.0
