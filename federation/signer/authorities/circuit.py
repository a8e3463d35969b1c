"""A circuit around one authority: after some failures in a row it is left alone, and probed with backoff.

While it is open, requests are answered at once with why, in place of waiting for a timeout each. A probe is
a look at the back end first; when that goes well, one request is let through, and what becomes of it decides.
Pure but for the clock and the jitter that it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, Literal

from federation.clusters.backoff import Backoff
from federation.core.clock import Clock
from federation.core.errors import AuthorityUnavailable, FederationError

FAILURES: Final = 5  # in a row: one lost connection of many is no outage
FIRST_PROBE: Final = 1.0
LONGEST_PROBE: Final = 30.0  # seconds; half of the shortest useful life of a certificate

State = Literal["closed", "open", "half-open"]


class Circuit:
    """Counts failures in a row, opens, and lets one request through after a good probe.

    ``on_open`` is told when it opens: whoever waits to look at the back end has to look sooner.
    """

    def __init__(
        self, *, clock: Clock, jitter: random.Random, where: str, on_open: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._where = where
        self._on_open = on_open
        self._backoff = Backoff(first=FIRST_PROBE, longest=LONGEST_PROBE, jitter=jitter)
        self._failures = 0
        self._probing = False
        self._retry_at = 0.0
        self.state: State = "closed"
        self.cause: FederationError | None = None

    @property
    def until_probe(self) -> float:
        """Seconds until the next probe; 0 where it is due, or where there is nothing to probe."""
        return max(0.0, self._retry_at - self._clock.monotonic()) if self.state == "open" else 0.0

    def enter(self) -> None:
        """Let one request through; what becomes of it has to be told. Raises as :meth:`check` does."""
        self.check()
        self._probing = self.state == "half-open"

    def check(self) -> None:
        """Raise AuthorityUnavailable where no request may pass now. After a good probe, one may."""
        if self.state == "closed" or (self.state == "half-open" and not self._probing):
            return
        cause = self.cause
        raise AuthorityUnavailable(
            f"left alone after {self._failures} failures in a row: {cause.what if cause else 'no answer'}",
            where=self._where,
            reason=cause.reason if cause else "",
            remedy=cause.remedy if cause else "",
        )

    def succeeded(self) -> None:
        """A request was answered as it should be."""
        self._failures = 0
        self._probing = False
        self.state, self.cause = "closed", None
        self._backoff.reset()

    def failed(self, cause: FederationError) -> None:
        """A request, or a probe, has failed."""
        self._failures += 1
        self.cause = cause
        if self.state == "closed" and self._failures < FAILURES:
            return
        if self.state != "open" or not self.until_probe:
            self._retry_at = self._clock.monotonic() + self._backoff.next()
        opens, self.state, self._probing = self.state != "open", "open", False
        if opens:
            self._on_open()

    def abandoned(self) -> None:
        """The request that was let through ended without saying anything: another may try."""
        self._probing = False

    def probed(self) -> None:
        """A look at the back end went well: the next request will tell."""
        if self.state == "open":
            self.state, self._probing = "half-open", False
