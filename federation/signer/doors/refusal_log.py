"""Refusals in the log: the first few of a kind as they are, the flood that follows as a number.

A caller that keeps asking must not fill a disk, nor hide another caller's refusal behind its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import AuthorityError, FederationError

WINDOW: Final = 10.0  # seconds
IN_FULL: Final = 5  # of one kind in a window
KINDS: Final = 1024

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kind:
    since: float
    seen: int = 0


class RefusalLog:
    """Logs refusals by cluster and reason."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def note(self, error: FederationError, *, peer: str) -> None:
        """Log this one, or only count it."""
        now = self._clock.monotonic()
        key = (error.where, error.reason)
        kind = self._kinds.get(key)
        if kind is None or now - kind.since >= WINDOW:
            hidden = kind.seen - IN_FULL if kind is not None else 0
            if len(self._kinds) >= KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(now)
            if hidden > 0:
                _logger.warning(
                    "%d more certificate requests were refused for the same reason",
                    hidden,
                    extra={"cluster": error.where, "reason": error.reason},
                )
        kind.seen += 1
        if kind.seen <= IN_FULL:
            level = logging.ERROR if isinstance(error, AuthorityError) else logging.WARNING
            _logger.log(
                level,
                "no certificate: %s",
                error.diagnostics(),
                extra={"cluster": error.where, "reason": error.reason, "peer": peer},
            )
