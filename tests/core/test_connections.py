"""Connections of a listener: which one gives way, and whose turn is next, as properties of any order of events."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from federation.core.connections import NEWCOMERS, Connections, FairQueue, Seat

LIMIT = 16
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "enter", "works", "rests", "proved", "leave"]), st.integers(0, 5)
    ),
    max_size=150,
)


class OpenConnection:
    """One connection of the test, and what can be known of it without the bookkeeping under test."""

    def __init__(self, seats: Connections, address: str) -> None:
        self.address = address
        self.reasons: list[str] = []
        self.proven = False
        self.seat: Seat = seats.enter(address, self.reasons.append)

    @property
    def closed(self) -> bool:
        return bool(self.reasons)


@given(STEPS)
def test_the_connection_that_gives_way_is_of_the_busiest_address_and_unproven_first(
    steps: list[tuple[str, int]],
) -> None:
    seats, open_ = Connections(LIMIT), list[OpenConnection]()
    for step, number in steps:
        if step == "enter":
            unproven = Counter(each.address for each in open_ if not each.proven)
            proven = Counter(each.address for each in open_ if each.proven)
            new = OpenConnection(seats, f"192.0.2.{number}")
            closed = [each for each in [*open_, new] if each.closed]
            assert len(closed) == (len(open_) == LIMIT), "at the limit, a new connection closes exactly one"
            unproven[new.address] += 1
            for victim in closed:
                assert victim.seat.gone
                kind = proven if victim.proven else unproven
                assert kind[victim.address] == max(kind.values())
                several = kind[victim.address] > 1
                assert victim.reasons == ["connections_of_address" if several else "too_many_connections"]
                if victim.proven:
                    assert unproven.total() <= LIMIT // NEWCOMERS, (
                        "unproven ones give way first while they are many"
                    )
                else:
                    assert unproven.total() > LIMIT // NEWCOMERS or not proven
                resting = [
                    e for e in [*open_, new] if e.address == victim.address and e.proven is victim.proven
                ]
                if victim.seat.busy:
                    assert all(each.seat.busy for each in resting), "one without a call gives way first"
                if victim is new:
                    assert several, (
                        "a first connection does not give way to addresses that have no more than one either"
                    )
            open_ = [each for each in [*open_, new] if not each.closed]
        elif open_:
            one = open_[number % len(open_)]
            if step == "works":
                one.seat.works()
            elif step == "rests":
                one.seat.rests()
            elif step == "proved":
                one.seat.proved()
                one.proven = True
            else:
                one.seat.leave()
                one.seat.leave()
                open_.remove(one)
        assert seats.taken == len(open_) <= LIMIT


def test_one_address_may_use_all_seats_until_others_ask() -> None:
    seats = Connections(LIMIT)
    crowd = [OpenConnection(seats, "192.0.2.1") for _ in range(LIMIT)]
    assert not any(each.closed for each in crowd)
    late = OpenConnection(seats, "192.0.2.1")
    assert crowd[0].closed, "the one that has been idle longest"
    others = [OpenConnection(seats, f"192.0.2.{number}") for number in range(2, 10)]
    assert not any(each.closed for each in [late, *others])
    assert sum(each.closed for each in crowd) == 9


def test_unproven_connections_displace_workloads_only_down_to_the_newcomers_share() -> None:
    seats = Connections(LIMIT)
    pods = [OpenConnection(seats, "192.0.2.1") for _ in range(LIMIT)]
    for each in pods:
        each.seat.proved()
    unproven = [OpenConnection(seats, f"198.51.100.{number}") for number in range(100)]
    assert sum(each.closed for each in pods) == LIMIT // NEWCOMERS
    assert not unproven[-1].closed
    assert seats.taken == LIMIT


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=60),
    st.floats(1, 50),
    st.integers(1, 5),
)
def test_addresses_take_turns_at_the_given_rate(
    waiting: list[tuple[int, int]], rate: float, burst: int
) -> None:
    turns: FairQueue[tuple[int, int]] = FairQueue(rate, burst)
    for address, number in waiting:
        turns.wait(str(address), (address, number))
    left = set(waiting)
    assert len(turns) == len(left)
    now, came, order = 100.0, 0, list[tuple[int, int]]()
    while left:
        item = turns.next(now)
        if item is None:
            pause = turns.pause(now)
            assert pause is not None
            now += max(pause, 1e-9)
            continue
        came += 1
        assert came <= burst + (now - 100.0) * rate + 1e-6
        left.remove(item)
        order.append(item)
    assert turns.next(now + 1000) is None
    assert turns.pause(now) is None
    # Between two turns of an address, every other one that waits has one.
    for at, (address, _) in enumerate(order):
        others = {a for a, _ in order[at:]}
        again = next((i for i in range(at + 1, len(order)) if order[i][0] == address), None)
        if again is not None:
            assert {a for a, _ in order[at:again]} == others


def test_a_forgotten_waiter_gets_no_turn() -> None:
    turns: FairQueue[int] = FairQueue(10.0, 10)
    for number in range(4):
        turns.wait("a", number)
    turns.forget("a", 0)
    turns.forget("a", 7)
    turns.forget("b", 1)
    assert [turns.next(0.0) for _ in range(4)] == [1, 2, 3, None]
    turns.wait("a", 5)
    turns.forget("a", 5)
    assert turns.next(0.0) is None
    assert len(turns) == 0
