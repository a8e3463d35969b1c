"""Slots for calls under way, assigned so that callers without proof displace none that proved who they are. Pure.

A call has a slot from its headers on, and proves nothing until a cluster attests its caller. Where all slots are
taken, one call that is not proven gives way: of the address with most of them, there of the connection with most, and
there the one that has waited longest for its message, for an honest caller sends it with its headers. So one address
may have every slot that no other asks for (all workloads of a cluster may come through one gateway), and none that
another does. What is proven gives way to nothing; that is limited for each cluster (``registry.Slots``).

Calls that name one cluster and are not proven have slots of their own beside these, so that those which wait for its
API server keep out neither its proven callers nor other clusters' callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

from federation.core.errors import Overloaded

IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that identify one caller: a host may have the rest as it likes (RFC 4291, 2.5.4)."""


class CallSlot:
    """One call's slot. ``peer`` says where it comes from, for logs; ``address`` who shares its limits."""

    __slots__ = ("_give_way", "_slots", "address", "gone", "peer", "proven")

    def __init__(self, slots: CallSlots, peer: str, give_way: Callable[[], None]) -> None:
        self._slots = slots
        self._give_way = give_way
        self.peer: Final = peer
        self.address: Final = address_of(peer)
        self.proven = False
        self.gone: Overloaded | None = None
        """Why it had to give way; None where it did not."""

    def received(self) -> None:
        """Its message is there. Raises Overloaded where it had to give way at that very moment."""
        if self.gone is not None:
            raise self.gone.without_frames()
        self._slots.received(self)

    def waits(self) -> None:
        """It was answered, and its next message is awaited: for connections that have a slot, and not calls."""
        self._slots.waits(self)

    def proved(self) -> None:
        """Its caller is proven: from now on it gives way to no other."""
        self._slots.proved(self)

    def leave(self) -> None:
        """The call has ended."""
        self._slots.leave(self)

    def give_way(self, why: Overloaded) -> None:
        """End the call, unless it ends already."""
        if self.gone is None:
            self.gone = why
            self._give_way()

    @contextmanager
    def beside(self, slots: CallSlots) -> Iterator[None]:
        """A second slot in ``slots`` for this call, whose message is there. Raises Overloaded as ``enter`` does."""
        second: CallSlot = slots.enter(self.peer, give_way=lambda: self.give_way(slots.refusal()))
        try:
            slots.received(second)
            yield
        finally:
            second.leave()


@dataclass(slots=True)
class _Connection:
    """Its calls that are not proven, oldest first: those whose message is awaited, and those that are being judged."""

    reading: dict[CallSlot, None] = field(default_factory=dict)
    judged: dict[CallSlot, None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.reading) + len(self.judged)


@dataclass(slots=True)
class _Address:
    """The connections of one address that have calls which are not proven."""

    count: int = 0
    reading: int = 0
    connections: dict[str, _Connection] = field(default_factory=dict)


class CallSlots:
    """At most ``limit`` calls at once; ``refusal`` makes what a call that has no slot is refused with."""

    def __init__(self, limit: int, refusal: Callable[[], Overloaded]) -> None:
        self.limit = limit
        self.refusal: Final = refusal
        self._addresses: dict[str, _Address] = {}
        self.taken = 0
        self.unproven = 0

    def enter(self, peer: str, *, give_way: Callable[[], None]) -> CallSlot:
        """A slot for a call from ``peer``, as gRPC writes it (``ipv4:192.0.2.1:4711``).

        ``give_way`` is called at most once, when it has to make room for another. Raises Overloaded where this call
        is the one that would have to.
        """
        slot = CallSlot(self, peer, give_way)
        address = self._addresses.setdefault(slot.address, _Address())
        connection = address.connections.setdefault(peer, _Connection())
        connection.reading[slot] = None
        address.count += 1
        address.reading += 1
        self.taken += 1
        self.unproven += 1
        if self.taken > self.limit:
            victim = self._victim(slot)
            self.leave(victim)
            if victim is slot:
                raise self.refusal()
            victim.give_way(self.refusal())
        return slot

    def received(self, slot: CallSlot) -> None:
        """See :meth:`CallSlot.received`."""
        address = self._addresses.get(slot.address)
        connection = address.connections.get(slot.peer) if address is not None else None
        if address is not None and connection is not None and slot in connection.reading:
            del connection.reading[slot]
            connection.judged[slot] = None
            address.reading -= 1

    def waits(self, slot: CallSlot) -> None:
        """See :meth:`CallSlot.waits`. It waits from now on, so that those that wait longer give way before it."""
        address = self._addresses.get(slot.address)
        connection = address.connections.pop(slot.peer, None) if address is not None else None
        if address is None or connection is None:
            return
        address.connections[slot.peer] = connection
        if slot in connection.judged:
            del connection.judged[slot]
            connection.reading[slot] = None
            address.reading += 1

    def proved(self, slot: CallSlot) -> None:
        """See :meth:`CallSlot.proved`."""
        if self._forget(slot):
            slot.proven = True

    def leave(self, slot: CallSlot) -> None:
        """See :meth:`CallSlot.leave`."""
        if slot.proven:
            slot.proven = False
            self.taken -= 1
        elif self._forget(slot):
            self.taken -= 1

    def _victim(self, newcomer: CallSlot) -> CallSlot:
        """Who has to go. Between equal addresses it is of one whose messages are awaited, else of the newcomer's."""
        own = self._addresses[newcomer.address]
        address = max(self._addresses.values(), key=lambda each: (each.count, each.reading > 0, each is own))
        connection = max(address.connections.values(), key=lambda each: (each.count, len(each.reading)))
        if connection.reading:
            return next(iter(connection.reading))
        return next(reversed(connection.judged))

    def _forget(self, slot: CallSlot) -> bool:
        """Take it from those that are not proven; False where it is not among them."""
        address = self._addresses.get(slot.address)
        connection = address.connections.get(slot.peer) if address is not None else None
        if address is None or connection is None:
            return False
        if slot in connection.reading:
            del connection.reading[slot]
            address.reading -= 1
        elif slot in connection.judged:
            del connection.judged[slot]
        else:
            return False
        self.unproven -= 1
        address.count -= 1
        if not connection.count:
            del address.connections[slot.peer]
        if not address.count:
            del self._addresses[slot.address]
        return True


def address_of(peer: str) -> str:
    """Who shares limits with this peer: its address without the port, of IPv6 the network of a host."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    if family != "ipv6" or not host:
        return host or peer
    try:
        address = IPv6Address(host.replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX))}/{IPV6_PREFIX}"
