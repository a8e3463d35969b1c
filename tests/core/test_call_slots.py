"""Call slots of the listener: which call gives way, as a property of any order of calls."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.call_slots import CallSlot, CallSlots, address_of
from federation.core.errors import Overloaded
from tests.support.memory import kept_by

LIMIT = 6


def full() -> Overloaded:
    return Overloaded("full")


PEERS = [f"ipv4:192.0.2.{host}:{port}" for host in range(4) for port in range(1000, 1003)]
STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "enter", "enter", "receive", "prove", "leave"]), st.integers(0, 11)),
    max_size=80,
)


@given(STEPS)
def test_only_an_unproven_call_of_the_busiest_address_gives_way(steps: list[tuple[str, int]]) -> None:
    slots, taken = CallSlots(LIMIT, full), list[CallSlot]()
    for step, number in steps:
        if step == "enter":
            lost: list[CallSlot | None] = []
            mine: list[CallSlot] = []
            before = Counter(slot.address for slot in taken if not slot.proven)

            def give_way(lost: list[CallSlot | None] = lost) -> None:
                lost.append(None)

            try:
                mine.append(slots.enter(PEERS[number], give_way=give_way))
            except Overloaded:
                lost.append(None)
            address = address_of(PEERS[number])
            gone = [slot for slot in taken if slot.gone is not None]
            assert not any(slot.proven for slot in gone)
            assert len(gone) + (not mine) <= 1, "at most one call gives way to a new one"
            if gone or not mine:
                assert len(taken) == LIMIT
                loser = gone[0].address if gone else address
                counted = before + Counter([address])
                assert counted[loser] == max(counted.values())
            taken = [slot for slot in taken if slot.gone is None] + mine
        elif taken:
            slot = taken[number % len(taken)]
            if step == "receive":
                slot.received()
            elif step == "prove":
                slot.proved()
            else:
                slot.leave()
                taken.remove(slot)
        assert slots.taken == len(taken) <= LIMIT
        assert slots.unproven == sum(not slot.proven for slot in taken)
    for slot in taken:
        slot.leave()
        slot.leave()  # a second leave changes nothing
    assert slots.taken == slots.unproven == 0
    assert not [text for text in kept_by(slots, str) if "192.0.2." in text], "no address is kept"


def test_the_call_that_keeps_the_hub_waiting_longest_gives_way() -> None:
    ended: list[str] = []
    slots = CallSlots(3, full)
    first = slots.enter("ipv4:192.0.2.1:1", give_way=lambda: ended.append("judged"))
    first.received()
    slots.enter("ipv4:192.0.2.1:1", give_way=lambda: ended.append("old"))
    slots.enter("ipv4:192.0.2.1:1", give_way=lambda: ended.append("new"))
    slots.enter("ipv4:192.0.2.1:2", give_way=lambda: ended.append("another connection"))
    slots.enter("ipv4:192.0.2.3:1", give_way=lambda: ended.append("another address"))
    assert ended == ["old", "new"]


def test_a_new_call_is_refused_when_all_calls_are_proven() -> None:
    slots = CallSlots(1, full)
    slots.enter("ipv4:192.0.2.1:1", give_way=lambda: None).proved()
    with pytest.raises(Overloaded):
        slots.enter("ipv4:192.0.2.2:1", give_way=lambda: None)
    assert slots.taken == 1


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:9::4]:4711", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:4711", "192.0.2.1"),
        ("unix:/run/listener", "unix:/run/listener"),
        ("", ""),
    ],
)
def test_the_address_that_limits_count_for_a_peer(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_a_call_without_a_slot_of_its_cluster_ends_with_that_reason() -> None:
    ended: list[str] = []
    listener, cluster = CallSlots(9, full), CallSlots(1, lambda: Overloaded("of one cluster", where="east"))
    crowd = listener.enter("ipv4:192.0.2.1:1", give_way=lambda: ended.append("crowd"))
    other = listener.enter("ipv4:192.0.2.2:1", give_way=lambda: ended.append("other"))
    more = listener.enter("ipv4:192.0.2.1:1", give_way=lambda: ended.append("more"))
    with crowd.beside(cluster):
        with pytest.raises(Overloaded), more.beside(cluster):
            raise AssertionError
        with pytest.raises(Overloaded), other.beside(cluster):  # one slot each: the later call gets none
            raise AssertionError
        assert cluster.taken == 1
        cluster.limit = 2
        with more.beside(cluster), other.beside(cluster):
            assert crowd.gone is None or more.gone is not None
            assert cluster.taken == 2
    assert cluster.taken == 0
    assert ended == ["more"]
    assert (more.gone and more.gone.where) == "east"
    assert listener.taken == 3, "it keeps its slot at the listener until it has ended"
