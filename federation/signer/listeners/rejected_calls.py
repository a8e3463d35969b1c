"""Calls that ended before any cluster was answerable for them, and refusals in the log: both bounded.

Calls are counted since the start by reason, and of late by reason and address, so that status can say that the listener
is being flooded and by whom. What an attacker chooses (addresses) is bounded. Pure but for a clock.

Of refusals the first few of a kind are logged as they are, the flood that follows as a number: a caller that keeps
asking must not fill a disk, nor hide another caller's refusal behind its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Final

from federation.core.call_slots import address_of
from federation.core.clock import Clock
from federation.core.documents.signer import RejectedCallsReport
from federation.core.errors import AuthorityError, FederationError

_logger = logging.getLogger(__name__)

PERIOD: Final = 300.0
"""Seconds; of late means in this period and the one before it."""
MOST_ADDRESSES: Final = 1024  # in one period; further ones are counted without a name
SHOWN: Final = 3


class RejectedCalls:
    """The counts of one listener."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._total: Counter[str] = Counter()
        self._periods: list[tuple[Counter[str], Counter[str]]] = [
            (Counter(), Counter()),
            (Counter(), Counter()),
        ]

    def note(self, reason: str, peer: str) -> None:
        """One more. ``reason`` is a stable token of an error, ``peer`` the other end as gRPC writes it."""
        self._turn()
        reasons, addresses = self._periods[1]
        self._total[reason] += 1
        reasons[reason] += 1
        address = address_of(peer)
        if address in addresses or len(addresses) < MOST_ADDRESSES:
            addresses[address] += 1

    def report(self) -> RejectedCallsReport:
        """As they are now."""
        self._turn()
        (old_reasons, old_addresses), (reasons, addresses) = self._periods
        return RejectedCallsReport(
            total=dict(self._total),
            recent=dict(old_reasons + reasons),
            addresses=dict((old_addresses + addresses).most_common(SHOWN)),
        )

    def _turn(self) -> None:
        now = self._clock.monotonic()
        passed = int((now - self._since) / PERIOD)
        if passed:
            self._since += passed * PERIOD
            self._periods = [
                self._periods[1] if passed == 1 else (Counter(), Counter()),
                (Counter(), Counter()),
            ]


WINDOW: Final = 10.0  # seconds
IN_FULL: Final = 5  # of one kind in a window
KINDS: Final = 1024


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
