"""Bounds on how far leaves reach: merged to the latest, and never forgotten too early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.core.trust.expiry_bounds import (
    LONGEST_STEP,
    SHORTEST_STEP,
    Delivered,
    alive,
    merged,
    step_for,
)

TIMES = st.floats(0.0, 1e10)
TABLES = st.lists(
    st.dictionaries(
        st.builds(Delivered, st.sampled_from("xy"), st.sampled_from(["", "i"]), st.integers(1, 2)), TIMES
    ),
    max_size=4,
)


@given(lifetime=st.floats(0.0, 1e9))
def test_a_step_is_bounded_and_a_sixteenth_between(lifetime: float) -> None:
    step = step_for(lifetime)
    assert SHORTEST_STEP <= step <= LONGEST_STEP
    assert step in {SHORTEST_STEP, LONGEST_STEP, lifetime / 16.0}


@given(tables=TABLES)
def test_merging_keeps_the_latest_bounds_in_any_order(tables: list[dict[Delivered, float]]) -> None:
    together = merged(tables)
    assert together == merged(reversed(tables))
    assert together.keys() == {key for table in tables for key in table}
    for key, until in together.items():
        assert until == max(table[key] for table in tables if key in table)


@given(tables=TABLES, now=TIMES, skew=st.floats(0.0, 1e4))
def test_what_is_alive(tables: list[dict[Delivered, float]], now: float, skew: float) -> None:
    table = merged(tables)
    left = alive(table, now, skew=skew)
    assert left.items() <= table.items()
    assert all((key in left) == (until + skew > now) for key, until in table.items())
