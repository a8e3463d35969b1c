"""The matrix as status shows it: what the leader's rows come to, whatever they hold and whatever else is known."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.documents.controller import Matrix
from federation.core.rotation.record import Quarantine, RotationRecord
from federation.status import matrix as matrix_module
from federation.status.matrix import PairTable, matrix_view
from federation.status.snapshot import Snapshot
from tests.status.worlds import World

NOW = 1_795_000_000.0
NAMES = ["a", "b", "c", "d", "e"]


def expected_cell(snapshot: Snapshot, matrix: Matrix, general: bool, client: str, server: str) -> str:
    """One cell by the rules, one after another."""
    if client == server:
        return "-"
    if {client, server} & set(snapshot.quarantined):
        return "q"
    places = {name: i for i, name in enumerate(matrix.clusters)}
    cell = "?"
    if client in places and server in places and places[client] < len(matrix.rows):
        row = matrix.rows[places[client]]
        cell = row[places[server]] if places[server] < len(row) else "?"
    if cell == "v" and not general and not {client, server} & set(snapshot.unread):
        return "v"
    return "x" if cell == "x" else "?"


@given(
    registered=st.lists(st.sampled_from(NAMES), unique=True),
    reported=st.one_of(st.none(), st.permutations(NAMES), st.lists(st.sampled_from(NAMES), unique=True)),
    rows=st.lists(st.text("vvvvvx?-z", max_size=6), max_size=6),
    troubled=st.tuples(*[st.sets(st.sampled_from(NAMES), max_size=2)] * 2),
    old=st.booleans(),
)
def test_each_cell_follows_from_its_pair_alone(
    registered: list[str],
    reported: list[str] | None,
    rows: list[str],
    troubled: tuple[set[str], set[str]],
    old: bool,
) -> None:
    broken, out = troubled
    world = World(registered, NOW)
    for name in broken & set(registered):
        world.edit_publication(name, read_back=0.0)
    assert world.leader is not None
    matrix = world.leader.matrix
    if reported is not None:
        matrix = replace(matrix, clusters=list(reported), rows=rows)
    if old:
        matrix = replace(matrix, computed=1.0)
    world.edit_leader(matrix=matrix)
    world.record = RotationRecord(
        quarantined={name: Quarantine(reason="r", author="a", since=1.0) for name in out}
    )
    snapshot = Snapshot.of(world.document_set(), world.config, NOW)
    view = matrix_view(snapshot)
    assert view.rows == [
        "".join(expected_cell(snapshot, matrix, old, client, server) for server in registered)
        for client in registered
    ]
    counted = Counter("".join(view.rows))
    assert (view.valid, view.failed, view.unknown, view.quarantined) == tuple(counted[c] for c in "vx?q")
    letters = {"failed": "x", "unknown": "?", "quarantined": "q"}
    table = PairTable(view)
    for reason in view.reasons:
        assert table.calls(reason.client)[registered.index(reason.server)] == letters[reason.result]
        assert table.answers(reason.server)[registered.index(reason.client)] == letters[reason.result]
    assert len(view.reasons) == counted["x"] + counted["?"] + counted["q"]


def test_no_more_reasons_are_made_than_are_shown() -> None:
    names = [f"c{i}" for i in range(60)]
    world = World(names, NOW)
    assert world.leader is not None
    world.edit_leader(matrix=replace(world.leader.matrix, computed=1.0))
    view = matrix_view(Snapshot.of(world.document_set(), world.config, NOW))
    assert (len(view.reasons), view.reasons_omitted) == (matrix_module.MOST_REASONS, 60 * 59 - 1000)
