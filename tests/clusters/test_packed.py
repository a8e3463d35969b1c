"""Objects kept as bytes are as those in a dict: which are there, and what they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.kubernetes.objects import ObjectKey, PodMeta, pack_uid
from federation.kubernetes.packed import FIRST, MEAN, PackedObjects

TEXT = st.text(
    "ab/\0", min_size=0, max_size=3
)  # few, so that keys repeat and parts of them move across the border
PODS = st.builds(
    PodMeta,
    TEXT,
    TEXT,
    st.one_of(st.uuids().map(str), st.text(max_size=20)).map(pack_uid),
    st.one_of(st.none(), st.floats(0, 2**33)),
    st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    created=st.floats(0, 2**33),
    sidecar=st.booleans(),
    ambient=st.booleans(),
)


def pod(number: int) -> PodMeta:
    return PodMeta(f"team-{number % 7}", f"cart-{number}", pack_uid(str(number)))


def key_of(value: PodMeta) -> ObjectKey:
    return ObjectKey(value.namespace, value.name)


@given(st.lists(st.tuples(PODS, st.booleans()), max_size=120))
def test_it_holds_what_a_dict_would(steps: list[tuple[PodMeta, bool]]) -> None:
    packed, plain = PackedObjects(PodMeta), dict[ObjectKey, PodMeta]()
    for value, stays in steps:
        key = key_of(value)
        if stays:
            packed[key] = plain[key] = value
        else:
            assert packed.pop(key, None) == plain.pop(key, None)
        assert packed.get(key) == plain.get(key)
        assert len(packed) == len(plain)
    assert dict(packed.items()) == plain
    assert set(packed) == set(plain)
    assert sorted(map(repr, packed.values())) == sorted(map(repr, plain.values()))


def test_thousands_are_found_and_removed_again() -> None:
    packed = PackedObjects(PodMeta)
    for number in range(3000):
        packed[key_of(pod(number))] = pod(number)
    assert all(packed[key_of(pod(number))] == pod(number) for number in range(3000))
    for number in range(0, 3000, 2):
        del packed[key_of(pod(number))]
    assert {int(value.name[5:]) for value in packed.values()} == set(range(1, 3000, 2))
    with pytest.raises(KeyError):
        del packed[key_of(pod(0))]


def test_the_groups_grow_in_number_one_at_a_time() -> None:
    packed = PackedObjects(PodMeta)
    for number in range(3000):
        before = packed.groups
        packed[key_of(pod(number))] = pod(number)
        assert packed.groups - before <= 1
        assert len(packed) <= max(FIRST, packed.groups) * MEAN


def test_what_changes_while_one_goes_through_them_does_not_show() -> None:
    packed = PackedObjects(PodMeta)
    for number in range(100):
        packed[key_of(pod(number))] = pod(number)
    seen = set[str]()
    for value in packed.values():
        seen.add(value.name)
        packed.pop(key_of(pod(99)), None)
        packed[key_of(pod(len(seen) + 100))] = pod(len(seen) + 100)
    assert seen == {pod(number).name for number in range(100)}


def test_an_object_is_kept_under_its_own_key_only() -> None:
    packed = PackedObjects(PodMeta)
    with pytest.raises(ValueError, match="cannot be kept as"):
        packed[ObjectKey("shop", "another")] = pod(1)
    assert not packed
