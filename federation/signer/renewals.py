"""When the certificates end that callers hold: who renews one that ends soon goes before who has time.

A memory of this process, bounded and of no consequence for what is issued: what it forgot, or another signer
issued, counts as a caller that holds nothing, and goes first. Each member has a part of its own, so that none can make
another's callers be forgotten, or have all leaves seem to live as its own do.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

MOST: Final = 65_536
"""Callers remembered: some 10 MiB, and more than renew within an hour at the quotas of cloud CAs."""

SMOOTHING: Final = 64
"""Leaves of one member that their shown lifetime is averaged over."""


@dataclass(slots=True)
class _Member:
    lifetime: float
    held: OrderedDict[tuple[str, str, str], datetime] = field(default_factory=OrderedDict)


class Renewals:
    """What was issued to whom, by any key that tells callers apart and begins with the member's name.

    ``usual`` is a lifetime to begin with. Of ``most`` callers in all each member has at least its equal part: where
    they are used up, the member with the most forgets the one that it has known longest.
    """

    def __init__(self, usual: timedelta, *, most: int = MOST) -> None:
        self._members: dict[str, _Member] = {}
        self._usual = usual.total_seconds()
        self._most = most
        self._count = 0

    @property
    def lifetime(self) -> float:
        """How long leaves live at present, in seconds: the mean over the members of the last ones of each.

        Each member counts once, however much it asks for.
        """
        each = [member.lifetime for member in self._members.values()]
        return sum(each) / len(each) if each else self._usual

    def held(self, caller: tuple[str, str, str]) -> datetime | None:
        """When what this caller holds ends; None where nothing is known."""
        member = self._members.get(caller[0])
        return member.held.get(caller) if member is not None else None

    def issued(self, caller: tuple[str, str, str], *, at: datetime, not_after: datetime) -> None:
        """It has a new one."""
        member = self._members.setdefault(caller[0], _Member(self._usual))
        self._count += caller not in member.held
        member.held[caller] = not_after
        member.held.move_to_end(caller)
        if self._count > self._most:
            largest = max(self._members.values(), key=lambda one: len(one.held))
            largest.held.popitem(last=False)
            self._count -= 1
        member.lifetime += ((not_after - at).total_seconds() - member.lifetime) / SMOOTHING
