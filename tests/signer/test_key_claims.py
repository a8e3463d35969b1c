"""Whose a token key is: proof before age, whatever a member publishes, in whatever order signers learn of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import StateDamaged
from federation.core.documents.signer import CallersTable, KeyClaim
from federation.signer.attestation.token_keys import (
    KEPT,
    MOST_CLAIMS,
    MOST_PERSISTED,
    SAME_START,
    KeyClaims,
    claims_in,
)

EAST, WEST, NORTH = MEMBERS = "east", "west", "north"
KEYS = ["aa" * 32, "bb" * 32, "cc" * 32]
K = KEYS[0]

steps = st.lists(
    st.tuples(st.sampled_from(["published", "prove"]), st.sampled_from(MEMBERS), st.sampled_from(KEYS)),
    max_size=20,
)


def apply(claims: KeyClaims, what: list[tuple[str, str, str]], *, at: float, without: str = "") -> None:
    """What members do; ``without`` proves nothing, as it cannot sign with a key that is another's."""
    for number, (step, member, key) in enumerate(what):
        if step == "published":
            claims.published(member, [key], at=at + number)
        elif member != without:
            claims.prove(member, key)


def persisted(claims: KeyClaims) -> CallersTable:
    return decode(encode(CallersTable(replica="x", keys=claims.document())), CallersTable, key="callers/x")


@given(steps, steps)
def test_who_proved_it_alone_holds_it(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]]
) -> None:
    claims = KeyClaims()
    others = [step for step in (*before, *after) if step[0] == "published" or step[2] != K]
    apply(claims, others[: len(before)], at=1000.0)
    claims.published(EAST, [K], at=5000.0)
    claims.prove(EAST, K)
    apply(claims, others[len(before) :], at=9000.0)
    holder = claims.holder((K,), MEMBERS)
    assert holder is not None
    assert (holder.cluster, holder.claim.proved) == (EAST, True)


@given(steps)
def test_the_first_publisher_holds_a_key_until_one_is_proved(after: list[tuple[str, str, str]]) -> None:
    claims = KeyClaims()
    claims.published(EAST, [K], at=1000.0)
    apply(claims, [step for step in after if step[0] == "published"], at=1000.0 + SAME_START)
    holder = claims.holder((K,), MEMBERS)
    assert holder is not None
    assert holder.cluster == EAST


def test_at_the_first_look_at_both_no_order_counts() -> None:
    claims = KeyClaims()
    claims.published(EAST, [K], at=1000.0)
    claims.published(WEST, [K], at=1000.2)
    assert claims.holder((K,), MEMBERS) is None
    later = KeyClaims()
    later.published(EAST, [K], at=1000.0)
    later.published(WEST, [KEYS[1]], at=1000.2)
    later.published(WEST, [KEYS[1], K], at=1010.0)
    holder = later.holder((K,), MEMBERS)
    assert holder is not None
    assert holder.cluster == EAST, "what it added later it did not have at first"


@given(st.lists(steps, min_size=1, max_size=4))
def test_signers_that_learn_in_any_order_agree(seen: list[list[tuple[str, str, str]]]) -> None:
    tables = []
    for number, what in enumerate(seen):
        signer = KeyClaims()
        apply(signer, what, at=1000.0 * (number + 1))
        tables.append(claims_in(persisted(signer), key="callers/x"))
    directives = [tables, [*reversed(tables)], sorted(tables, key=repr)]
    results = []
    for order in directives:
        claims = KeyClaims()
        for table in (*order, *order[:1]):
            claims.adopt(table)
        results.append([claims.holder((key,), MEMBERS) for key in KEYS])
    assert results[0] == results[1] == results[2]


@given(steps, st.integers(MOST_CLAIMS, 3 * MOST_CLAIMS))
def test_a_member_that_publishes_many_keys_takes_nothing_from_the_others(
    what: list[tuple[str, str, str]], count: int
) -> None:
    claims = KeyClaims()
    apply(claims, [step for step in what if step[1] != WEST], at=1000.0)
    before = {member: claims.document().get(member) for member in (EAST, NORTH)}
    claims.published(WEST, [f"{number:064x}" for number in range(count)], at=5000.0)
    document = claims.document()
    assert {member: document.get(member) for member in (EAST, NORTH)} == before
    assert len(document[WEST]) == MOST_PERSISTED


def test_a_claim_outlives_the_key_until_no_token_of_it_can_live() -> None:
    claims = KeyClaims()
    claims.published(EAST, [K], at=1000.0)
    claims.published(EAST, [KEYS[1]], at=1000.0 + KEPT - 1)
    assert claims.of(EAST, K) is not None
    claims.published(EAST, [KEYS[1]], at=1000.0 + KEPT + 1)
    assert claims.of(EAST, K) is None


def test_a_table_of_an_earlier_release_has_none() -> None:
    assert claims_in(decode(b'{"replica":"x"}', CallersTable, key="callers/x"), key="callers/x") == {}


@pytest.mark.parametrize(
    "keys",
    [
        {"../x": [KeyClaim(key=K, first=1, seen=1)]},
        {EAST: [KeyClaim(key="zz" * 32, first=1, seen=1)]},
        {EAST: [KeyClaim(key=K[:-1], first=1, seen=1)]},
        {EAST: [KeyClaim(key=K, first=2, seen=1)]},
        {EAST: [KeyClaim(key=K, first=-1, seen=1)]},
        {EAST: [KeyClaim(key=K, first=1, seen=float("inf"))]},
        {EAST: [KeyClaim(key=f"{n:064x}", first=1, seen=1) for n in range(MOST_PERSISTED + 1)]},
    ],
)
def test_what_cannot_be_a_claim_is_damaged(keys: dict[str, list[KeyClaim]]) -> None:
    with pytest.raises(StateDamaged):
        claims_in(CallersTable(replica="x", keys=keys), key="callers/x")
