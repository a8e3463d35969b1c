"""The little DER: strict to read, and written as cryptography and the standard write it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidValue
from federation.core.pki import der
from tests.core.pki.strategies import elements


@given(st.lists(elements, max_size=5))
def test_elements_come_back_as_they_were_written(parts: list[bytes]) -> None:
    data = b"".join(parts)
    found = der.elements(data, 0, len(data))
    assert [data[start:stop] for _, start, _, stop in found] == parts
    assert all(tag == part[0] for (tag, _, _, _), part in zip(found, parts, strict=True))


@given(st.binary(max_size=40))
def test_bytes_are_elements_or_an_error(data: bytes) -> None:
    try:
        found = der.elements(data, 0, len(data))
    except InvalidValue:
        return
    # what was read is what would be written: there is one encoding of everything
    assert b"".join(der.encode(tag, data[content:stop]) for tag, _, content, stop in found) == data


@given(st.integers(0, 70_000))
def test_lengths_are_in_their_shortest_form(size: int) -> None:
    data = der.encode(der.OCTET_STRING, bytes(size))
    ((_, _, content, stop),) = der.elements(data, 0, len(data))
    assert stop - content == size
    assert content == 2 if size < 128 else content == 2 + (size.bit_length() + 7) // 8


@pytest.mark.parametrize(
    "data",
    [
        "30", "3080", "308000", "30800000", "308100", "30817f" + "00" * 127, "3082007f" + "00" * 127,
        "30850000000001", "30ff", "3001", "308201", "1f2000", "3f00", "bf2000", "30847fffffff",
    ],
)  # fmt: skip
def test_what_is_not_der(data: str) -> None:
    raw = bytes.fromhex(data)
    with pytest.raises(InvalidValue):
        der.elements(raw, 0, len(raw))


def test_an_inner_element_cannot_reach_beyond_what_holds_it() -> None:
    data = bytes.fromhex("3003040500" + "00" * 8)
    ((_, _, content, stop),) = der.elements(data[:5], 0, 5)
    with pytest.raises(InvalidValue, match="longer than what holds it"):
        der.elements(data, content, stop)


@given(st.integers(0, 1 << 160))
def test_integers_are_positive_and_minimal(value: int) -> None:
    data = der.integer(value)
    assert int.from_bytes(data[2:], "big", signed=True) == value
    assert len(data) == 3 or data[2] != 0 or data[3] & 0x80


@pytest.mark.parametrize(
    "dotted", ["1.2.840.113549.1.1.11", "2.5.29.17", "1.3.132.0.34", "2.999.3", "0.9.2342.19200300.100.1.1"]
)
def test_object_identifiers_are_cryptographys(dotted: str) -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"")
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(dotted)])
    assert der.sequence(der.object_identifier(dotted)) == usage.public_bytes()
    assert extension.oid.dotted_string == "1.2.3.4"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 11, 24, 12, 34, 56, 999999, tzinfo=UTC), b"\x17\x0d261124123456Z"),
        (datetime(1950, 1, 1, tzinfo=UTC), b"\x17\x0d500101000000Z"),
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x18\x0f99991231235959Z"),
        (datetime(1949, 12, 31, tzinfo=UTC), b"\x18\x0f19491231000000Z"),
    ],
)
def test_dates(value: datetime, expected: bytes) -> None:
    assert der.time(value) == expected


@pytest.mark.parametrize("zone", [None, timezone(timedelta(hours=1))])
def test_dates_of_another_zone_are_an_error(zone: timezone | None) -> None:
    with pytest.raises(InvalidValue):
        der.time(datetime(2026, 11, 24, tzinfo=zone))
