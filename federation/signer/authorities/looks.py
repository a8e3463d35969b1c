"""What becomes of looks at a service that fail: how long an earlier good one still counts, and when to look again.

One lost answer says little: requests may pass all the while, and whoever stops them all makes an outage of it.
So a failure that may pass is borne a few times in a row while requests pass. Anything that somebody has to mend
counts at once. Pure but for the jitter that it is given.
"""

from __future__ import annotations

import random
from typing import Final

from federation.clusters.backoff import Backoff
from federation.core.errors import AuthorityError, AuthorityThrottled, AuthorityUnavailable

SOON: Final = 2.0  # seconds at most until the look after the first that failed; doubled up to the usual pause
BORNE: Final = 2  # failures in a row that an earlier good look outlasts
BORNE_THROTTLED: Final = (
    6  # as many where it answers, and only asks for fewer: stopping requests is no answer to that
)

PASSING: Final = frozenset({"timeout", "unreachable", "cut_off", "server_error", "throttled"})
"""Reasons that a back end gives where nothing is known but that no answer came, or none that says anything."""


class Looks:
    """Counts looks that failed in a row; ``poll_seconds`` is the usual pause between two."""

    def __init__(self, *, poll_seconds: float, jitter: random.Random) -> None:
        self._poll_seconds = poll_seconds
        self._backoff = Backoff(first=SOON, longest=max(SOON, poll_seconds), jitter=jitter)
        self.pause = poll_seconds
        self.doubt: AuthorityUnavailable | None = None
        """Why the last look failed, while an earlier one still counts."""

    def went_well(self) -> None:
        """A look was answered."""
        self._backoff.reset()
        self.pause, self.doubt = self._poll_seconds, None

    def failed(self, error: AuthorityError | AuthorityUnavailable) -> None:
        """A look failed. It is repeated soon, but for what asking again cannot mend: logins may be counted."""
        self.doubt = None
        if not isinstance(error, AuthorityUnavailable):
            self.pause = self._poll_seconds
            return
        throttled, at_least = False, 0.0
        if isinstance(error, AuthorityThrottled):
            throttled, at_least = True, min(error.retry_after, self._poll_seconds)
        self.pause = self._backoff.next(at_least=at_least)
        borne = BORNE_THROTTLED if throttled else BORNE
        if (throttled or error.reason in PASSING) and self._backoff.failures <= borne:
            self.doubt = error
