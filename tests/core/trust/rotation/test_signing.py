"""Which authority is in force without a rotation: recorded once; only a rotation changes it to another root."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.core.rotation.conditions import needs_new, needs_old
from federation.core.rotation.effects import (
    SigningDirectives,
    note_renewal,
    note_signing,
    settled,
    signing_directives,
    signing_side,
)
from federation.core.rotation.record import Rotation, RotationRecord, Side, State
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


def note(record: RotationRecord, *signing: Side, alive: tuple[str, ...] = ()) -> RotationRecord:
    return note_signing(record, {f"signer-{n}": side for n, side in enumerate(signing)}, alive)[0]


def test_the_first_authority_that_all_signers_use_is_recorded() -> None:
    record = note(RotationRecord(), A1, A1, alive=("a1", UNKNOWN_ISSUER))
    assert record.signing == A1
    directives = signing_directives(record)
    assert (directives.issuer, directives.root, directives.strict, directives.rotation) == (
        "a1",
        "a",
        False,
        0,
    )
    assert note(record, A1) is record


@pytest.mark.parametrize(
    ("signing", "alive", "expected"),
    [((), (), ""), ((A1, B1), (), "CN=a1, CN=b1"), ((B1,), ("a1",), "leaves of a1 are alive")],
)
def test_what_signers_disagree_on_or_recently_exchanged_is_not_recorded(
    signing: tuple[Side, ...], alive: tuple[str, ...], expected: str
) -> None:
    """Otherwise an authority that was exchanged unnoticed would become the one in force."""
    found, problem = note_signing(RotationRecord(), dict(zip("xy", signing, strict=False)), alive)
    assert found.signing is None
    assert expected in problem
    assert bool(problem) == bool(expected)


def test_without_a_rotation_only_an_intermediate_under_the_same_root_is_recorded() -> None:
    record = note(RotationRecord(), A1)
    assert note(record, B1).signing == A1
    assert note(record, A1, A2).signing == A1, "not before all signers use it"
    assert note(record, A2, A2).signing == A2
    assert note(replace(record, left=["a2"]), A2).signing == A1
    assert note(replace(record, compromised=["a2"]), A2).signing == A1
    assert note(replace(record, rotation=rotation(State.SOAKED)), A2).signing == A1, "nor during a rotation"


@pytest.mark.parametrize(
    ("state", "old", "new", "signs", "left"),
    [
        (State.RETIRED, A1, B1, B1, ["a1"]),
        (State.STABLE, A1, B1, A1, ["b1"]),
        (State.RETIRED, A1, A2, A2, ["a1"]),
    ],
)
def test_the_side_that_a_rotation_ended_with_is_in_force(
    state: State, old: Side, new: Side, signs: Side, left: list[str]
) -> None:
    """An edit of the configuration does not bring back the side that was left."""
    record = settled(RotationRecord(signing=old, rotation=rotation(state, old, new)))
    assert (record.signing, record.left) == (signs, left)
    directives = signing_directives(record)
    assert (directives.issuer, directives.root, directives.left) == (signs.intermediate, signs.root, left)
    assert signing_side(replace(record, rotation=rotation(State.SOAKED, B2, A2))) == B2


def test_a_record_without_an_authority_binds_no_signer_until_one_is_observed() -> None:
    """An edit may have exchanged the authority since the last rotation: binding signers to that one would stop them."""
    earlier = RotationRecord(rotation=rotation(State.RETIRED))
    directives = signing_directives(earlier)
    assert (directives.issuer, directives.root, directives.binding) == ("b1", "", False)
    assert signing_side(earlier) is None
    assert note(earlier) is earlier
    recorded = note(earlier, B1, alive=("a1", "b1"))
    assert (recorded.signing, recorded.left) == (B1, ["a1"])
    assert note(earlier, A3, alive=("a3", "b1")) is earlier
    assert note(earlier, A3, alive=("a3",)).signing == A3


def test_authorities_that_were_left_stay_excluded_after_later_rotations() -> None:
    record = settled(RotationRecord(signing=A1, rotation=rotation(State.RETIRED, A1, A2)))
    record = settled(replace(record, rotation=rotation(State.RETIRED, A2, A3)))
    assert signing_directives(record).left == ["a1", "a2"]
    record = settled(replace(record, rotation=rotation(State.RETIRED, A3, A1)))  # a rotation brings one back
    assert signing_directives(record).left == ["a2", "a3"]


DIRECTIVES = st.builds(
    SigningDirectives,
    strict=st.booleans(),
    issuer=st.sampled_from(("", "a1", "b1")),
    root=st.sampled_from(("", "a", "b")),
    forbidden=st.lists(st.sampled_from(("a1", "a2", "b1", "a", "b")), max_size=2),
    left=st.lists(st.sampled_from(("a1", "a2", "b1")), max_size=2),
)


@given(DIRECTIVES, st.sampled_from(SIDES))
def test_directives_permit_nothing_under_another_root(directives: SigningDirectives, side: Side) -> None:
    named, strict = side.intermediate == directives.issuer, directives.strict
    forbidden = not {side.intermediate, side.root}.isdisjoint(directives.forbidden)
    if directives.permit(side.intermediate, side.root):
        assert not forbidden
        assert not strict or not directives.issuer or named
        if directives.root and not strict and not named:
            assert side.root == directives.root
            assert side.intermediate not in directives.left
    else:
        assert forbidden or not named, "what is in force is always permitted"


RENEWED = Side(root="a", intermediate="a9", subject="CN=a1")
NEW_RENEWED = Side(root="b", intermediate="b9", subject="CN=b1")
OLD_SIGNS = (State.STAGED, State.PUBLISHING, State.SOAKED, State.CANARY, State.ABORTING)
NEW_SIGNS = (State.CANARY, State.ACTIVE, State.UNPUBLISHING, State.EMERGENCY)


def renewed(record: RotationRecord, *offered: tuple[Side, ...]) -> RotationRecord:
    """The record after each signer has reported what it is ready to sign with."""
    sides = {f"signer-{n}": list(each) for n, each in enumerate(offered)}
    return note_renewal(record, sides, {side.intermediate for each in offered for side in each})


@pytest.mark.parametrize("state", OLD_SIGNS)
def test_a_renewed_intermediate_takes_the_place_of_one_that_no_signer_has(state: State) -> None:
    record = renewed(RotationRecord(rotation=rotation(state), signing=A1), (RENEWED, B1), (B1, RENEWED))
    assert record.rotation is not None
    assert (record.rotation.old, record.rotation.new, record.signing, record.left) == (
        RENEWED,
        B1,
        RENEWED,
        ["a1"],
    )
    directives = signing_directives(record)
    assert directives.permit("a9", "a")
    assert not directives.permit("a1", "a"), "it was left"
    assert not directives.permit("a2", "a"), "only recorded issuers sign during a rotation"
    for issuer in ("a1", "a9", UNKNOWN_ISSUER):
        assert needs_old(record.rotation, issuer), "the drain waits for the leaves of both"
    assert needs_new(record.rotation, "b1")
    assert not needs_new(record.rotation, "a9")


@pytest.mark.parametrize("state", NEW_SIGNS)
def test_a_renewed_intermediate_of_the_new_side_takes_its_place_where_that_signs(state: State) -> None:
    record = renewed(RotationRecord(rotation=rotation(state)), (A1, NEW_RENEWED))
    assert record.rotation is not None
    assert (record.rotation.old, record.rotation.new, record.left) == (A1, NEW_RENEWED, ["b1"])
    for issuer in ("b1", "b9", UNKNOWN_ISSUER):
        assert needs_new(record.rotation, issuer), "an abort waits for the leaves of both"
    assert needs_old(record.rotation, "b1"), "the last of its leaves end first"


@pytest.mark.parametrize(
    ("record", "offered"),
    [
        (RotationRecord(rotation=rotation(State.PUBLISHING)), ()),
        (RotationRecord(rotation=rotation(State.PUBLISHING)), ((),)),
        (
            RotationRecord(rotation=rotation(State.PUBLISHING)),
            ((RENEWED,), (A1,)),
        ),  # one can sign as directed
        (RotationRecord(rotation=rotation(State.PUBLISHING)), ((RENEWED,), (A2,))),  # the signers disagree
        (
            RotationRecord(rotation=rotation(State.PUBLISHING)),
            ((RENEWED, A2),),
        ),  # one signer has two candidates
        (RotationRecord(rotation=rotation(State.PUBLISHING)), ((RENEWED,), (B1,))),
        (RotationRecord(rotation=rotation(State.PUBLISHING)), ((B2,),)),  # under the new root
        (RotationRecord(rotation=rotation(State.PUBLISHING)), ((Side(root="c", intermediate="c1"),),)),
        (RotationRecord(rotation=rotation(State.PUBLISHING), left=["a9"]), ((RENEWED,),)),
        (RotationRecord(rotation=rotation(State.PUBLISHING), compromised=["a9"]), ((RENEWED,),)),
        (RotationRecord(rotation=rotation(State.ABORTING), compromised=["a"]), ((RENEWED,),)),
        (RotationRecord(rotation=rotation(State.ACTIVE)), ((RENEWED, B1),)),  # the old side signs no more
        (RotationRecord(rotation=rotation(State.PUBLISHING)), ((A1, NEW_RENEWED),)),  # the new one not yet
        (
            RotationRecord(rotation=rotation(State.PUBLISHING, new=A2)),
            ((A3,),),
        ),  # the subject fits neither side
        (RotationRecord(rotation=rotation(State.PUBLISHING, new=A2)), ((A2,),)),
        (RotationRecord(rotation=rotation(State.RETIRED)), ((NEW_RENEWED,),)),
    ],
)
def test_no_other_intermediate_takes_the_place(
    record: RotationRecord, offered: tuple[tuple[Side, ...], ...]
) -> None:
    assert renewed(record, *offered) == record


def test_a_signer_with_an_unreadable_report_may_still_have_the_former_intermediate() -> None:
    record = RotationRecord(rotation=rotation(State.PUBLISHING))
    assert note_renewal(record, {"x": [RENEWED]}, {"a9", UNKNOWN_ISSUER}) == record


def test_with_one_root_on_both_sides_the_subject_shows_which_side_was_renewed() -> None:
    record = renewed(RotationRecord(rotation=rotation(State.SOAKED, new=A2)), (RENEWED, A2))
    assert record.rotation is not None
    assert (record.rotation.old, record.rotation.new) == (RENEWED, A2)
    assert needs_old(record.rotation, "a1")
    ended = settled(replace(record, rotation=replace(record.rotation, state=State.RETIRED)))
    assert not {"a1", "a9"} - {*signing_directives(ended).left}, "neither signs again"
