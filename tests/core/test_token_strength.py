"""Random tokens of 16 bytes pass in any usual form; words, short ones and repeated parts do not."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.status.authorization import weakness

RANDOM = st.binary(min_size=16, max_size=64).filter(lambda data: len({*data.hex()}) >= 10)


@given(RANDOM, st.sampled_from(["hex", "base64", "base64url", "base32"]))
def test_random_bytes_are_strong_in_every_form(data: bytes, form: str) -> None:
    parts = {
        "hex": data.hex().encode(),
        "base64": base64.b64encode(data),
        "base64url": base64.urlsafe_b64encode(data).rstrip(b"="),
        "base32": base64.b32encode(data).rstrip(b"="),
    }[form]
    if len(set(parts)) >= 10 and parts not in (parts + parts)[1:-1]:
        assert weakness(parts) == ""


@pytest.mark.parametrize("token", [b"xQNKbQeAAwTzLmHcVrJpYd", b"MFRGGZDFMZTWQYTCMNSGKZTHNA"])
def test_random_bytes_that_happen_to_have_no_digit_are_strong(token: bytes) -> None:
    assert weakness(token) == ""


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"abc",
        b"changeme",
        b"open-sesame",
        b"s3cret-status-token",
        b"correcthorsebatterystaple",
        b"0123456789" * 5,
        b"password" * 8,
        b"a" * 64,
        b"0123456789abcdef" * 4,
        b"5f1c9a7e3b2d4f608192a3b4c5d6e7f",
        "ключ-ключ-ключ-ключ-ключ-ключ".encode(),
        b"two words 5f1c9a7e3b2d4f608192a3b4c5d6",
    ],
)
def test_what_can_be_guessed_is_weak_and_is_not_quoted(token: bytes) -> None:
    why = weakness(token)
    assert why
    assert not token or token.decode("utf-8") not in why


@given(st.binary(max_size=80))
def test_anything_is_judged(token: bytes) -> None:
    assert isinstance(weakness(token), str)
