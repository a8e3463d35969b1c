"""Which connections a listener keeps, and in what order it shakes hands, so that no address keeps others out. Pure.

A connection has a seat from the moment it is accepted, before a byte of it is read. Where all are taken, one of them
gives way. It is one on which no caller was ever proven, while those have more than an eighth of all seats
(:data:`NEWCOMERS`), and else a proven one: so neither can idle strangers push out workloads, nor can the pods of a
hostile cluster, who prove themselves easily, keep out all that is new. Of either kind it is one of the address with
most of them, there one on which nothing is called, and there the one that has been silent longest. A single address
may have every seat that no other asks for, because all workloads of a cluster may come through one gateway.

A handshake costs as much as several certificates, so handshakes have a rate, and addresses take turns in it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Generic, TypeVar

NEWCOMERS: Final = 8
"""One seat in this number is never withheld from connections that have proved nothing yet."""
EXAMINED: Final = 16  # addresses with equally many, for one on which nothing is called


class Seat:
    """One connection's seat. ``close`` is called at most once, with a reason, when it has to make room for another."""

    __slots__ = ("_close", "_seats", "address", "busy", "gone", "proven")

    def __init__(self, seats: Connections, address: str, close: Callable[[str], None]) -> None:
        self._seats = seats
        self._close = close
        self.address: Final = address
        self.proven = False
        self.busy = False
        self.gone = False

    def works(self) -> None:
        """A whole request came on it, and is being answered."""
        self._seats.move(self, busy=True, proven=self.proven)

    def rests(self) -> None:
        """Nothing is called on it from now on."""
        self._seats.move(self, busy=False, proven=self.proven)

    def proved(self) -> None:
        """A caller on it was proven to be of some cluster."""
        self._seats.move(self, busy=self.busy, proven=True)

    def leave(self) -> None:
        """The connection has ended."""
        self._seats.leave(self)

    def give_way(self, reason: str) -> None:
        """Have its connection closed."""
        self._close(reason)


@dataclass(slots=True)
class _Address:
    """The seats of one address and kind, silent longest first."""

    resting: dict[Seat, None] = field(default_factory=dict)
    working: dict[Seat, None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.resting) + len(self.working)


class _Kind:
    """Seats that are proven, or that are not, by address; the address with most is found without looking at all."""

    def __init__(self) -> None:
        self.count = 0
        self._addresses: dict[str, _Address] = {}
        self._by_count: dict[int, dict[str, None]] = {}
        self._most = 0

    def add(self, seat: Seat) -> None:
        address = self._addresses.setdefault(seat.address, _Address())
        before = address.count
        (address.working if seat.busy else address.resting)[seat] = None
        self.count += 1
        self._counted(seat.address, before, before + 1)

    def remove(self, seat: Seat) -> None:
        address = self._addresses[seat.address]
        before = address.count
        del (address.working if seat.busy else address.resting)[seat]
        self.count -= 1
        self._counted(seat.address, before, before - 1)
        if before == 1:
            del self._addresses[seat.address]

    def move(self, seat: Seat, *, busy: bool) -> None:
        """It begins to work, or to be silent: the last of its address, as that is of those with equally many."""
        address = self._addresses[seat.address]
        del (address.working if seat.busy else address.resting)[seat]
        (address.working if busy else address.resting)[seat] = None
        seat.busy = busy
        peers = self._by_count[address.count]
        del peers[seat.address]
        peers[seat.address] = None

    def victim(self, own: str) -> tuple[Seat, int]:
        """Who has to go, and how many its address has.

        Between equal addresses it is the newcomer's own, but where each has one only: then the newcomer stays, or
        those who hold a seat and do nothing would keep out all others.
        """
        most = self._by_count[self._most]
        if self._most > 1 and own in most:
            address = self._addresses[own]
        else:
            first = (self._addresses[each] for each in islice(most, EXAMINED))
            address = next((each for each in first if each.resting), self._addresses[next(iter(most))])
        if address.resting:
            return next(iter(address.resting)), self._most
        return next(reversed(address.working)), self._most

    def _counted(self, address: str, before: int, after: int) -> None:
        if before:
            peers = self._by_count[before]
            del peers[address]
            if not peers:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[address] = None
        self._most = max(self._most, after)
        while self._most and self._most not in self._by_count:
            self._most -= 1


class Connections:
    """At most ``limit`` connections at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._unknown_callers = _Kind()
        self._proven = _Kind()

    @property
    def taken(self) -> int:
        """How many there are."""
        return self._unknown_callers.count + self._proven.count

    def enter(self, address: str, close: Callable[[str], None]) -> Seat:
        """A seat for a connection from ``address``; the one that has to make room for it is closed.

        That may be the new one itself: then it is closed before this returns, and its seat is gone.
        """
        seat = Seat(self, address, close)
        self._unknown_callers.add(seat)
        if self.taken > self.limit:
            unknown_callers = (
                self._unknown_callers.count > max(1, self.limit // NEWCOMERS) or not self._proven.count
            )
            victim, has = (self._unknown_callers if unknown_callers else self._proven).victim(address)
            self.leave(victim)
            victim.give_way("connections_of_address" if has > 1 else "too_many_connections")
        return seat

    def move(self, seat: Seat, *, busy: bool, proven: bool) -> None:
        """What is known of it has changed, or it begins to be silent."""
        if seat.gone:
            return
        if proven is seat.proven:
            self._kind(seat).move(seat, busy=busy)
            return
        self._kind(seat).remove(seat)
        seat.busy, seat.proven = busy, proven
        self._kind(seat).add(seat)

    def leave(self, seat: Seat) -> None:
        """See :meth:`Seat.leave`."""
        if not seat.gone:
            self._kind(seat).remove(seat)
            seat.gone = True

    def _kind(self, seat: Seat) -> _Kind:
        return self._proven if seat.proven else self._unknown_callers


Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """What waits for its turn: ``rate`` a second, ``burst`` at once, and addresses one after the other.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._allowance = float(burst)
        self._counted = 0.0
        self._waiting: dict[str, dict[Item, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def wait(self, address: str, item: Item) -> None:
        """It wants a turn."""
        self._waiting.setdefault(address, {})[item] = None

    def forget(self, address: str, item: Item) -> None:
        """It wants none any more, if it ever did."""
        items = self._waiting.get(address)
        if items is not None and items.pop(item, self) is None and not items:
            del self._waiting[address]

    def next(self, now: float) -> Item | None:
        """Whose turn it is; None where it is no one's yet."""
        self._refill(now)
        if self._allowance < 1.0 or not self._waiting:
            return None
        self._allowance -= 1.0
        address = next(iter(self._waiting))
        items = self._waiting.pop(address)
        item = next(iter(items))
        del items[item]
        if items:
            self._waiting[address] = items  # behind all others
        return item

    def pause(self, now: float) -> float | None:
        """Seconds until the next turn; None where none waits."""
        if not self._waiting:
            return None
        self._refill(now)
        return max(0.0, (1.0 - self._allowance) / self._rate)

    def _refill(self, now: float) -> None:
        passed = max(0.0, now - self._counted)
        self._counted = max(now, self._counted)
        self._allowance = min(float(self._burst), self._allowance + passed * self._rate)
