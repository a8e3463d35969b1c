"""Which authority is in force at rest: recorded once, and changed by rotations alone, but under one root."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.rotation.conditions import needs_new, needs_old
from federation.core.rotation.effects import (
    Orders,
    note_renewal,
    note_signing,
    orders_of,
    settled,
    signing_side,
)
from federation.core.rotation.record import Rotation, RotationBook, Side, State
from federation.core.trust.expiry_bounds import UNKNOWN_ISSUER

A1, A2, A3 = (Side(root="a", intermediate=f"a{n}", subject=f"CN=a{n}") for n in (1, 2, 3))
B1, B2 = (Side(root="b", intermediate=f"b{n}", subject=f"CN=b{n}") for n in (1, 2))
SIDES = (A1, A2, A3, B1, B2)


def rotation(state: State, old: Side = A1, new: Side = B1) -> Rotation:
    return Rotation(
        number=1,
        trust_domain="mesh.example",
        state=state,
        since=0.0,
        old=old,
        new=new,
        author="test",
        reason="test",
        automatic=True,
        soak=0.0,
    )


def note(book: RotationBook, *signing: Side, alive: tuple[str, ...] = ()) -> RotationBook:
    return note_signing(book, {f"signer-{n}": side for n, side in enumerate(signing)}, alive)[0]


def test_the_first_authority_that_all_sign_with_is_in_force() -> None:
    book = note(RotationBook(), A1, A1, alive=("a1", UNKNOWN_ISSUER))
    assert book.signing == A1
    orders = orders_of(book)
    assert (orders.issuer, orders.root, orders.strict, orders.rotation) == ("a1", "a", False, 0)
    assert note(book, A1) is book


@pytest.mark.parametrize(
    ("signing", "alive", "told"),
    [((), (), ""), ((A1, B1), (), "CN=a1, CN=b1"), ((B1,), ("a1",), "leaves of a1 are alive")],
)
def test_what_is_not_agreed_or_was_exchanged_lately_is_not_recorded(
    signing: tuple[Side, ...], alive: tuple[str, ...], told: str
) -> None:
    """An authority that was exchanged while nobody looked would become the one in force."""
    found, problem = note_signing(RotationBook(), dict(zip("xy", signing, strict=False)), alive)
    assert found.signing is None
    assert told in problem
    assert bool(problem) == bool(told)


def test_only_another_intermediate_under_the_same_root_is_noted_without_a_rotation() -> None:
    book = note(RotationBook(), A1)
    assert note(book, B1).signing == A1
    assert note(book, A1, A2).signing == A1, "not before all sign with it"
    assert note(book, A2, A2).signing == A2
    assert note(replace(book, left=["a2"]), A2).signing == A1
    assert note(replace(book, compromised=["a2"]), A2).signing == A1
    assert note(replace(book, rotation=rotation(State.SOAKED)), A2).signing == A1, (
        "nor in the middle of a rotation"
    )


@pytest.mark.parametrize(
    ("state", "old", "new", "signs", "left"),
    [
        (State.RETIRED, A1, B1, B1, ["a1"]),
        (State.STABLE, A1, B1, A1, ["b1"]),
        (State.RETIRED, A1, A2, A2, ["a1"]),
    ],
)
def test_what_a_rotation_ended_with_is_in_force(
    state: State, old: Side, new: Side, signs: Side, left: list[str]
) -> None:
    """What it led away from is not taken up by an edit."""
    book = settled(RotationBook(signing=old, rotation=rotation(state, old, new)))
    assert (book.signing, book.left) == (signs, left)
    orders = orders_of(book)
    assert (orders.issuer, orders.root, orders.left) == (signs.intermediate, signs.root, left)
    assert signing_side(replace(book, rotation=rotation(State.SOAKED, B2, A2))) == B2


def test_a_record_of_a_release_that_kept_none_binds_nobody_until_it_is_seen_what_signs() -> None:
    """An edit may have exchanged the authority since the last rotation: to hold signers to that would stop them."""
    earlier = RotationBook(rotation=rotation(State.RETIRED))
    orders = orders_of(earlier)
    assert (orders.issuer, orders.root, orders.binding) == ("b1", "", False)
    assert signing_side(earlier) is None
    assert note(earlier) is earlier
    recorded = note(earlier, B1, alive=("a1", "b1"))
    assert (recorded.signing, recorded.left) == (B1, ["a1"])
    assert note(earlier, A3, alive=("a3", "b1")) is earlier
    assert note(earlier, A3, alive=("a3",)).signing == A3


def test_what_was_left_stays_left_when_other_rotations_follow() -> None:
    book = settled(RotationBook(signing=A1, rotation=rotation(State.RETIRED, A1, A2)))
    book = settled(replace(book, rotation=rotation(State.RETIRED, A2, A3)))
    assert orders_of(book).left == ["a1", "a2"]
    book = settled(replace(book, rotation=rotation(State.RETIRED, A3, A1)))  # a rotation brings one back
    assert orders_of(book).left == ["a2", "a3"]


ORDERS = st.builds(
    Orders,
    strict=st.booleans(),
    issuer=st.sampled_from(("", "a1", "b1")),
    root=st.sampled_from(("", "a", "b")),
    forbidden=st.lists(st.sampled_from(("a1", "a2", "b1", "a", "b")), max_size=2),
    left=st.lists(st.sampled_from(("a1", "a2", "b1")), max_size=2),
)


@given(ORDERS, st.sampled_from(SIDES))
def test_orders_permit_nothing_under_another_root(orders: Orders, side: Side) -> None:
    named, strict = side.intermediate == orders.issuer, orders.strict
    forbidden = not {side.intermediate, side.root}.isdisjoint(orders.forbidden)
    if orders.permit(side.intermediate, side.root):
        assert not forbidden
        assert not strict or not orders.issuer or named
        if orders.root and not strict and not named:
            assert side.root == orders.root
            assert side.intermediate not in orders.left
    else:
        assert forbidden or not named, "what is in force always may"


RENEWED = Side(root="a", intermediate="a9", subject="CN=a1")
NEW_RENEWED = Side(root="b", intermediate="b9", subject="CN=b1")
OLD_SIGNS = (State.STAGED, State.PUBLISHING, State.SOAKED, State.CANARY, State.ABORTING)
NEW_SIGNS = (State.CANARY, State.ACTIVE, State.UNPUBLISHING, State.EMERGENCY)


def renewed(book: RotationBook, *offered: tuple[Side, ...]) -> RotationBook:
    """As after every signer reports that it is ready with these."""
    sides = {f"signer-{n}": list(each) for n, each in enumerate(offered)}
    return note_renewal(book, sides, {side.intermediate for each in offered for side in each})


@pytest.mark.parametrize("state", OLD_SIGNS)
def test_a_renewed_intermediate_takes_the_place_of_one_that_no_signer_has(state: State) -> None:
    book = renewed(RotationBook(rotation=rotation(state), signing=A1), (RENEWED, B1), (B1, RENEWED))
    assert book.rotation is not None
    assert (book.rotation.old, book.rotation.new, book.signing, book.left) == (RENEWED, B1, RENEWED, ["a1"])
    orders = orders_of(book)
    assert orders.permit("a9", "a")
    assert not orders.permit("a1", "a"), "it was left"
    assert not orders.permit("a2", "a"), "nothing but what is recorded signs during a rotation"
    for issuer in ("a1", "a9", UNKNOWN_ISSUER):
        assert needs_old(book.rotation, issuer), "the drain waits for the leaves of both"
    assert needs_new(book.rotation, "b1")
    assert not needs_new(book.rotation, "a9")


@pytest.mark.parametrize("state", NEW_SIGNS)
def test_so_does_one_of_the_new_side_where_that_signs(state: State) -> None:
    book = renewed(RotationBook(rotation=rotation(state)), (A1, NEW_RENEWED))
    assert book.rotation is not None
    assert (book.rotation.old, book.rotation.new, book.left) == (A1, NEW_RENEWED, ["b1"])
    for issuer in ("b1", "b9", UNKNOWN_ISSUER):
        assert needs_new(book.rotation, issuer), "an abort waits for the leaves of both"
    assert needs_old(book.rotation, "b1"), "the last of its leaves end first"


@pytest.mark.parametrize(
    ("book", "offered"),
    [
        (RotationBook(rotation=rotation(State.PUBLISHING)), ()),
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((),)),
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((RENEWED,), (A1,))),  # one can sign as ordered
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((RENEWED,), (A2,))),  # they do not agree
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((RENEWED, A2),)),  # nor does one with itself
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((RENEWED,), (B1,))),
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((B2,),)),  # under the root that is to come
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((Side(root="c", intermediate="c1"),),)),
        (RotationBook(rotation=rotation(State.PUBLISHING), left=["a9"]), ((RENEWED,),)),
        (RotationBook(rotation=rotation(State.PUBLISHING), compromised=["a9"]), ((RENEWED,),)),
        (RotationBook(rotation=rotation(State.ABORTING), compromised=["a"]), ((RENEWED,),)),
        (RotationBook(rotation=rotation(State.ACTIVE)), ((RENEWED, B1),)),  # the old side signs no more
        (RotationBook(rotation=rotation(State.PUBLISHING)), ((A1, NEW_RENEWED),)),  # the new one not yet
        (RotationBook(rotation=rotation(State.PUBLISHING, new=A2)), ((A3,),)),  # of which side is it?
        (RotationBook(rotation=rotation(State.PUBLISHING, new=A2)), ((A2,),)),
        (RotationBook(rotation=rotation(State.RETIRED)), ((NEW_RENEWED,),)),
    ],
)
def test_nothing_else_takes_its_place(book: RotationBook, offered: tuple[tuple[Side, ...], ...]) -> None:
    assert renewed(book, *offered) == book


def test_where_a_report_cannot_be_read_its_signer_may_have_the_former_one() -> None:
    book = RotationBook(rotation=rotation(State.PUBLISHING))
    assert note_renewal(book, {"x": [RENEWED]}, {"a9", UNKNOWN_ISSUER}) == book


def test_under_one_root_the_name_tells_which_side_was_renewed() -> None:
    book = renewed(RotationBook(rotation=rotation(State.SOAKED, new=A2)), (RENEWED, A2))
    assert book.rotation is not None
    assert (book.rotation.old, book.rotation.new) == (RENEWED, A2)
    assert needs_old(book.rotation, "a1")
    ended = settled(replace(book, rotation=replace(book.rotation, state=State.RETIRED)))
    assert not {"a1", "a9"} - {*orders_of(ended).left}, "neither signs again"
