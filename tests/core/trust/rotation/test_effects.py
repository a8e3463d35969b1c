"""What follows from a record, state by state: the bundle, the directives, and who keeps the generation before."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from federation.core.rotation.effects import clusters_behind, published, signing_directives
from federation.core.rotation.record import Quarantine, RotationRecord, State
from tests.core.trust.rotation.certificates import ISSUER, ROOT
from tests.core.trust.rotation.test_gates import rotation_record

PINS = frozenset({ROOT["a"], ROOT["b"], ROOT["w"]})
STAGED = frozenset({ROOT["b"]})


def names(roots: frozenset[str]) -> str:
    return "".join(sorted(name for name, sha in ROOT.items() if sha in roots))


@pytest.mark.parametrize(
    ("state", "wave", "admitted", "expected"),
    [
        (State.STAGED, 0, False, "aw"),
        (State.PUBLISHING, 0, True, "abw"),
        (State.SOAKED, 0, True, "abw"),
        (State.CANARY, 0, True, "abw"),
        (State.ACTIVE, 0, True, "abw"),
        (State.UNPUBLISHING, 0, True, "bw"),
        (State.EMERGENCY, 0, True, "abw"),
        (State.ABORTING, 0, True, "abw"),
        (State.ABORTING, 0, False, "aw"),
        (State.ABORTING, 1, False, "aw"),
        (State.STABLE, 1, False, "aw"),
    ],
)
def test_what_is_published(state: State, wave: int, admitted: bool, expected: str) -> None:
    record = replace(rotation_record(state, wave=wave), admitted=[ROOT["b"]] if admitted else [])
    assert names(published(record, PINS, STAGED)) == expected


@pytest.mark.parametrize("state", [s for s in State if s not in {State.UNPUBLISHING, State.RETIRED}])
@pytest.mark.parametrize("wave", [0, 1])
def test_an_abort_keeps_a_root_that_is_pinned_and_not_staged(state: State, wave: int) -> None:
    assert names(published(rotation_record(state, wave=wave), PINS, frozenset())) == "abw"


def test_a_retired_root_is_pinned_and_not_published() -> None:
    retired = replace(rotation_record(State.RETIRED), retired=[ROOT["a"]], admitted=[ROOT["b"]])
    assert names(published(retired, PINS, STAGED)) == "bw"


def test_a_rotation_publishes_nothing_that_is_not_pinned() -> None:
    assert names(published(rotation_record(State.ACTIVE), frozenset({ROOT["a"]}), frozenset())) == "a"


@pytest.mark.parametrize("state", list(State))
def test_a_new_intermediate_changes_no_bundle(state: State) -> None:
    assert names(published(rotation_record(state, new="a2"), PINS, STAGED)) == "aw"


@pytest.mark.parametrize("state", list(State))
def test_the_directives_of_every_state(state: State) -> None:
    new = state in {State.ACTIVE, State.UNPUBLISHING, State.RETIRED, State.EMERGENCY}
    directives = signing_directives(rotation_record(state))
    assert directives.issuer == ISSUER["b1" if new else "a1"]
    assert directives.issuer_for("one") == ISSUER["b1" if new or state is State.CANARY else "a1"]
    assert directives.issuer_for("two") == directives.issuer
    assert directives.strict == (state not in {State.STABLE, State.RETIRED})
    assert (directives.rotation, directives.state) == (1, state.value)


def test_without_a_rotation_directives_stop_only_quarantined_clusters() -> None:
    record = RotationRecord(quarantined={"two": Quarantine(reason="lost", author="operator", since=1.0)})
    directives = signing_directives(record)
    assert (directives.issuer_for("one"), directives.strict, directives.stopped) == (
        "",
        False,
        {"two": "lost"},
    )
    assert published(record, PINS, STAGED) == PINS - STAGED
    assert signing_directives(replace(record, compromised=[ISSUER["a1"]])).forbidden == [ISSUER["a1"]]
    assert clusters_behind(record) == frozenset()


def test_clusters_of_later_waves_stay_behind() -> None:
    record = rotation_record(State.UNPUBLISHING)
    assert record.rotation is not None
    for wave, behind in enumerate(({"one", "two"}, {"two"}, set[str]())):
        waiting = replace(record.rotation, waves=[["one"], ["two"]], wave=wave)
        assert clusters_behind(replace(record, rotation=waiting)) == behind
        elsewhere = replace(waiting, state=State.ACTIVE)
        assert clusters_behind(replace(record, rotation=elsewhere)) == frozenset()
