"""How long a leaf lives: as requested, within policy, within every issuer; however absurd the question."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidValue, NotReady
from federation.core.pki.leaf import (
    BACKDATED_PART,
    LEAST_USEFUL_LIFE,
    LONGEST_BACKDATING,
    Validity,
    leaf_validity,
)
from tests.support.pki import DAY, NOW, YEAR, intermediate, root

HOUR = timedelta(hours=1)
ISSUERS = (intermediate().certificate, root().certificate)
REACH = ISSUERS[0].not_after - ISSUERS[0].not_before - timedelta(seconds=1)
"""As far back from the issuer's end as it was valid for a second already, fractions of it included."""
INT64 = st.integers(-(2**63), 2**63 - 1)


def given_for(
    requested: timedelta | int | None, *, longest: timedelta = DAY, default: timedelta = DAY
) -> timedelta:
    validity = leaf_validity(NOW, requested, longest, ISSUERS, default)
    return validity.not_after - NOW


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (3600, HOUR),
        (timedelta(hours=1), HOUR),
        (1, timedelta(seconds=1)),
        (86400, DAY),
        (86401, DAY),
        (2**63 - 1, DAY),
        (9223372037, DAY),
        (timedelta.max, DAY),
        (0, HOUR),
        (None, HOUR),
        (-1, HOUR),
        (-(2**63), HOUR),
        (timedelta(0), HOUR),
        (timedelta.min, HOUR),
        (timedelta(microseconds=1), HOUR),
    ],
)
def test_what_is_given_for_what_is_asked(requested: timedelta | int | None, expected: timedelta) -> None:
    assert given_for(requested, default=HOUR) == expected


@pytest.mark.parametrize(
    ("life", "back"),
    [(86400, 120), (3600, 120), (1200, 120), (1199, 119), (600, 60), (60, 6), (19, 1), (9, 0), (1, 0)],
)
def test_a_leaf_begins_two_minutes_back_or_a_tenth_of_its_life(life: int, back: int) -> None:
    validity = leaf_validity(NOW, life, DAY, ISSUERS, DAY)
    assert validity == Validity(NOW - timedelta(seconds=back), NOW + timedelta(seconds=life))


def test_a_life_cut_short_by_its_issuer_is_backdated_by_what_is_left_of_it() -> None:
    ending = intermediate("ends in a minute", not_after=NOW + timedelta(minutes=1)).certificate
    assert leaf_validity(NOW, DAY, DAY, (ending,), DAY).not_before == NOW - timedelta(seconds=6)


def test_the_default_is_capped_as_well() -> None:
    assert given_for(None, longest=HOUR, default=DAY) == HOUR


@pytest.mark.parametrize(("longest", "default"), [(timedelta(0), DAY), (DAY, timedelta(0)), (-DAY, DAY)])
def test_policies_that_cannot_be(longest: timedelta, default: timedelta) -> None:
    with pytest.raises(InvalidValue):
        given_for(None, longest=longest, default=default)


@given(
    requested=st.one_of(st.none(), INT64, st.timedeltas()),
    longest=st.timedeltas(timedelta(seconds=1), timedelta(days=3650)),
    default=st.timedeltas(timedelta(seconds=1), timedelta(days=3650)),
    left=st.timedeltas(timedelta(seconds=-100), REACH),
    micro=st.integers(0, 999_999),
)
def test_never_beyond_policy_or_issuer(
    requested: timedelta | int | None, longest: timedelta, default: timedelta, left: timedelta, micro: int
) -> None:
    now = (ISSUERS[0].not_after - left).replace(microsecond=micro)
    try:
        validity = leaf_validity(now, requested, longest, ISSUERS, default)
    except NotReady:
        assert ISSUERS[0].not_after - now < LEAST_USEFUL_LIFE
        return
    assert now - LONGEST_BACKDATING - timedelta(seconds=1) < validity.not_before <= now
    life = validity.not_after - now.replace(microsecond=0)
    assert (now.replace(microsecond=0) - validity.not_before) * BACKDATED_PART <= life
    assert validity.not_after > now - timedelta(seconds=1)
    assert validity.not_after - now <= longest
    assert all(issuer.not_before <= validity.not_before for issuer in ISSUERS)
    assert all(validity.not_after <= issuer.not_after for issuer in ISSUERS)


def test_clamped_to_the_root_where_the_root_ends_first() -> None:
    old = root("old", not_after=NOW + HOUR)
    issuers = (intermediate("under old", old, not_after=NOW + YEAR).certificate, old.certificate)
    assert leaf_validity(NOW, DAY, DAY, issuers, DAY).not_after == old.certificate.not_after


def test_not_before_a_new_issuer_began() -> None:
    fresh = intermediate("fresh", not_before=NOW - timedelta(seconds=10)).certificate
    assert leaf_validity(NOW, HOUR, DAY, (fresh,), DAY).not_before == fresh.not_before


@pytest.mark.parametrize(
    ("after_begin", "before_end", "reason"),
    [
        (timedelta(seconds=-1), DAY, "issuer_not_yet_valid"),
        (DAY, timedelta(seconds=59), "issuer_expires"),
        (DAY, timedelta(0), "issuer_expired"),
        (DAY, timedelta(seconds=-1), "issuer_expired"),
    ],
)
def test_an_issuer_outside_its_own_time(after_begin: timedelta, before_end: timedelta, reason: str) -> None:
    issuer = intermediate(
        f"timed {reason} {before_end}", not_before=NOW - after_begin, not_after=NOW + before_end
    ).certificate
    with pytest.raises(NotReady) as error:
        leaf_validity(NOW, HOUR, DAY, (issuer, root().certificate), DAY)
    assert error.value.reason == reason
    assert issuer.subject in str(error.value)
    assert error.value.remedy


def test_a_short_leaf_under_an_issuer_that_outlasts_it_is_fine() -> None:
    issuer = intermediate("nearly gone", not_after=NOW + timedelta(seconds=30)).certificate
    assert leaf_validity(NOW, 10, DAY, (issuer,), DAY).not_after == NOW + timedelta(seconds=10)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (NOW, NOW),
        (NOW, NOW - DAY),
        (NOW.replace(tzinfo=None), NOW),
        (NOW, datetime(2030, 1, 1, 0, 0, 0, 5, tzinfo=UTC)),
    ],
)
def test_validities_that_cannot_be(begin: datetime, end: datetime) -> None:
    with pytest.raises(InvalidValue):
        Validity(begin, end)
