"""The order of requests: fair between clusters, by the nearest expiry within one, bounded."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from federation.signer.authorities.limiter import NO_CERTIFICATE, SPARE, QueueEntry, RequestQueue
from tests.support.memory import kept_by

CLUSTERS = st.sampled_from(["east", "west", "north"])
JOINS = st.lists(st.tuples(CLUSTERS, st.integers(0, 50)), max_size=60)


def drain(turns: RequestQueue[QueueEntry]) -> list[QueueEntry]:
    taken = []
    while (turn := turns.take()) is not None:
        taken.append(turn)
    return taken


def test_the_nearest_expiry_goes_first_and_who_has_none_before_all() -> None:
    turns = RequestQueue[QueueEntry](10)
    for urgency in (300.0, 100.0, NO_CERTIFICATE, 200.0):
        assert turns.join(QueueEntry("east", urgency)) is None
    assert [turn.urgency for turn in drain(turns)] == [NO_CERTIFICATE, 100.0, 200.0, 300.0]


def test_equal_ones_go_in_the_order_they_came() -> None:
    turns = RequestQueue[QueueEntry](10)
    joined = [QueueEntry("east", 5.0) for _ in range(5)]
    for turn in joined:
        turns.join(turn)
    assert drain(turns) == joined


def test_a_storm_in_one_cluster_costs_another_no_turn() -> None:
    turns = RequestQueue[QueueEntry](1000)
    for _ in range(500):
        turns.join(QueueEntry("east", NO_CERTIFICATE))
    turns.join(QueueEntry("west", 9e9))
    assert "west" in [turn.cluster for turn in drain(turns)[:2]]


def test_an_idle_cluster_saves_up_no_turns() -> None:
    turns = RequestQueue[QueueEntry](1000)
    for _ in range(100):
        turns.join(QueueEntry("east", 1.0))
    for _ in range(60):
        turns.take()
    for _ in range(40):
        turns.join(QueueEntry("west", 1.0))
    assert Counter(turn.cluster for turn in drain(turns)[:20]) == {"east": 10, "west": 10}


def test_without_room_the_longest_line_gives_way() -> None:
    turns = RequestQueue[QueueEntry](3)
    late, early, earliest = QueueEntry("east", 300.0), QueueEntry("east", 200.0), QueueEntry("east", 100.0)
    for turn in (late, early, earliest):
        assert turns.join(turn) is None
    assert turns.join(QueueEntry("west", 999.0)) is late
    assert late.gone
    refused = QueueEntry("east", 250.0)
    assert turns.join(refused) is refused, "the least urgent of the longest line, which is itself"
    assert turns.join(QueueEntry("east", 50.0)) is early


def test_who_is_gone_takes_no_room_although_the_line_never_ends() -> None:
    turns = RequestQueue[QueueEntry](1000)
    stays = QueueEntry("east", 1.0)
    turns.join(stays)
    for _ in range(5000):
        gone = QueueEntry("east", 2.0)
        turns.join(gone)
        turns.leave(gone)
    assert len(kept_by(turns, QueueEntry)) <= 2 * turns.waiting + SPARE
    for number in range(200):
        turns.join(QueueEntry("east", 3.0 + number % 7))
    assert turns.take() is stays
    urgencies = [turn.urgency for turn in drain(turns)]
    assert urgencies == sorted(urgencies)
    assert len(urgencies) == 200


@given(JOINS, st.integers(1, 40), st.sets(st.integers(0, 59), max_size=20))
def test_every_entry_is_either_served_once_or_sent_away(
    joins: list[tuple[str, int]], room: int, draining: set[int]
) -> None:
    turns = RequestQueue[QueueEntry](room)
    joined, sent_away = [], []
    for cluster, urgency in joins:
        turn = QueueEntry(cluster, float(urgency))
        joined.append(turn)
        victim = turns.join(turn)
        if victim is not None:
            sent_away.append(victim)
        assert turns.waiting <= room
    for place in draining:
        if place < len(joined) and not joined[place].gone:
            turns.leave(joined[place])
            sent_away.append(joined[place])
    served = drain(turns)
    assert sorted(map(id, served + sent_away)) == sorted(map(id, joined))
    assert turns.waiting == 0
    for cluster in ("east", "west", "north"):
        own = [turn.urgency for turn in served if turn.cluster == cluster]
        assert own == sorted(own)


@given(JOINS, CLUSTERS, st.integers(0, 50))
def test_what_is_said_to_be_ahead_is_ahead(joins: list[tuple[str, int]], cluster: str, urgency: int) -> None:
    turns = RequestQueue[QueueEntry](1000)
    for name, each in joins:
        turns.join(QueueEntry(name, float(each)))
    expected = turns.ahead(cluster, float(urgency))
    mine = QueueEntry(cluster, float(urgency))
    turns.join(mine)
    assert drain(turns).index(mine) <= expected


@given(JOINS)
def test_no_cluster_is_served_twice_while_another_waits_since_before(joins: list[tuple[str, int]]) -> None:
    turns = RequestQueue[QueueEntry](1000)
    for name, each in joins:
        turns.join(QueueEntry(name, float(each)))
    waiting = Counter(name for name, _ in joins)
    served: Counter[str] = Counter()
    for turn in drain(turns):
        waiting[turn.cluster] -= 1
        served[turn.cluster] += 1
        still = [served[name] for name, left in waiting.items() if left]
        assert not still or served[turn.cluster] - min(still) <= 1
