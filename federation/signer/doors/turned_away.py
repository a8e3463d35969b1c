"""Calls that ended before anyone was answerable for them: how many, why, and from where. Pure but for a clock.

They are counted since the start by reason, and of late by reason and address, so that status can say that the door is
being flooded and by whom. What an attacker chooses (addresses) is bounded.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from federation.core.clock import Clock
from federation.core.places import address_of
from federation.state.documents import TurnedAwayReport

PERIOD: Final = 300.0
"""Seconds; of late means in this period and the one before it."""
MOST_ADDRESSES: Final = 1024  # in one period; further ones are counted without a name
SHOWN: Final = 3


class TurnedAway:
    """The counts of one door."""

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

    def report(self) -> TurnedAwayReport:
        """As they are now."""
        self._turn()
        (old_reasons, old_addresses), (reasons, addresses) = self._periods
        return TurnedAwayReport(
            total=dict(self._total),
            lately=dict(old_reasons + reasons),
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
