"""When the certificates end that callers hold: who renews one that ends soon goes before who has time.

A memory of this process, bounded and of no consequence for what is issued: what it forgot, or another signer
issued, counts as a caller that holds nothing, and goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

MOST: Final = 65_536
"""Callers remembered: some 10 MiB, and more than renew within an hour at the quotas of cloud CAs."""

SMOOTHING: Final = 64
"""Leaves that the shown lifetime is averaged over."""


class Renewals:
    """What was issued to whom, by any key that tells callers apart. ``usual`` is a lifetime to begin with."""

    def __init__(self, usual: timedelta) -> None:
        self._held: OrderedDict[tuple[str, str, str], datetime] = OrderedDict()
        self._lifetime = usual.total_seconds()

    @property
    def lifetime(self) -> float:
        """How long leaves live at present, in seconds: the mean of the last ones."""
        return self._lifetime

    def held(self, caller: tuple[str, str, str]) -> datetime | None:
        """When what this caller holds ends; None where nothing is known."""
        return self._held.get(caller)

    def issued(self, caller: tuple[str, str, str], *, at: datetime, not_after: datetime) -> None:
        """It has a new one."""
        self._held[caller] = not_after
        self._held.move_to_end(caller)
        if len(self._held) > MOST:
            self._held.popitem(last=False)
        self._lifetime += ((not_after - at).total_seconds() - self._lifetime) / SMOOTHING
