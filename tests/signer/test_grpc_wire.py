"""gRPC's framing, metadata, timeouts and messages: as bytes, in any pieces, and what is refused of them."""

from __future__ import annotations

import base64
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.signer.listeners.grpc import (
    MAX_METADATA_BYTES,
    CallRefused,
    Code,
    MessageReader,
    is_grpc,
    percent_encode,
    read_head,
    read_timeout,
    refused_headers,
    write_message,
)
from tests.support.memory import kept_by

METHOD = b"/a.B/C"
UNITS = {b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0}  # gRPC over HTTP2, "TimeoutUnit"
HEAD = ((b":method", b"POST"), (b":path", METHOD), (b"content-type", b"application/grpc"))


def write_timeout(seconds: float) -> bytes:
    """As clients write it: to the microsecond where it is short enough."""
    for unit, length in UNITS.items():
        count = max(0, round(seconds / length))
        if count < 10**8:
            return b"%d%s" % (count, unit)
    return b"99999999H"


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=30))
def test_a_message_comes_out_as_it_went_in_whatever_its_pieces(message: bytes, sizes: list[int]) -> None:
    data, reader = write_message(message), MessageReader(200)
    for size in sizes:
        piece, data = data[:size], data[size:]
        reader.feed(piece)
        if data:
            with pytest.raises(CallRefused, match="without a whole message"):
                reader.message()
    reader.feed(data)
    assert reader.message() == message


@given(st.binary(max_size=60), st.lists(st.integers(1, 9), max_size=60))
def test_any_other_bytes_are_refused_with_a_status_and_never_kept_beyond_the_limit(
    data: bytes, sizes: list[int]
) -> None:
    reader, rest = MessageReader(20), data
    try:
        for size in sizes:
            reader.feed(rest[:size])
            rest = rest[size:]
            assert sum(map(len, kept_by(reader, bytearray))) <= 25
        reader.feed(rest)
        message = reader.message()
    except CallRefused as refused:
        assert refused.answer.code in {Code.INTERNAL, Code.UNIMPLEMENTED, Code.RESOURCE_EXHAUSTED}
        assert not (len(data) >= 5 and data[0] == 0 and int.from_bytes(data[1:5]) == len(data) - 5 <= 20)
    else:
        assert data == write_message(message)


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"\x01\x00\x00\x00\x00", Code.UNIMPLEMENTED, "message_compressed"),
        (b"\x02\x00\x00\x00\x00", Code.INTERNAL, "message_malformed"),
        (b"\x00\x00\x00\x00\x15", Code.RESOURCE_EXHAUSTED, "message_too_large"),
        (b"\x00\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED, "message_too_large"),
        (write_message(b"one") + b"\x00", Code.INTERNAL, "message_malformed"),
    ],
)
def test_what_will_not_do_is_refused_at_its_prefix(data: bytes, code: Code, reason: str) -> None:
    with pytest.raises(CallRefused) as refused:
        MessageReader(20).feed(data)
    assert (refused.value.answer.code, refused.value.error.reason) == (code, reason)


@given(st.text(max_size=50))
def test_a_sentence_survives_its_encoding(sentence: str) -> None:
    encoded = percent_encode(sentence)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert urllib.parse.unquote(encoded.decode("ascii"), "utf-8") == sentence


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"99999999S", 99999999), (b"250m", 0.25), (b"5u", 5e-6), (b"7n", 7e-9)],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert read_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"-1S", b"123456789S", b"1.5S", b"1s", b"1S ", "１S".encode()]
)
def test_what_is_no_timeout_is_refused(value: bytes) -> None:
    with pytest.raises(CallRefused) as refused:
        read_timeout(value)
    assert refused.value.answer.code is Code.INTERNAL


@given(st.floats(0, 1e9))
def test_a_timeout_is_read_as_it_was_written(seconds: float) -> None:
    assert read_timeout(write_timeout(seconds)) == pytest.approx(seconds, rel=1e-3, abs=1e-6)


def test_metadata_is_what_is_left_of_the_headers() -> None:
    secret = base64.b64encode(b"\x00\xff").rstrip(b"=")
    headers = (
        *HEAD,
        (b"te", b"trailers"),
        (b"grpc-timeout", b"1S"),
        (b"grpc-encoding", b"identity"),
        (b"a", b"one"),
        (b"a", b"two"),
        (b"b-bin", secret + b", " + base64.b64encode(b"more")),
    )
    head = read_head(headers, METHOD)
    assert head.timeout == 1.0
    found = [each for each in head.metadata if each[0] in {"a", "b-bin"}]
    assert found == [("a", "one"), ("a", "two"), ("b-bin", b"\x00\xff"), ("b-bin", b"more")]


@pytest.mark.parametrize(
    ("extra", "code", "reason"),
    [
        ((b":path", b"/a.B/D"), Code.UNIMPLEMENTED, "unknown_method"),
        ((b"grpc-encoding", b"gzip"), Code.UNIMPLEMENTED, "message_compressed"),
        ((b"x-bin", b"%%"), Code.INTERNAL, "metadata_malformed"),
        ((b"x", b"\xff"), Code.INTERNAL, "metadata_malformed"),
        ((b"x", b"y" * MAX_METADATA_BYTES), Code.RESOURCE_EXHAUSTED, "metadata_too_large"),
    ],
)
def test_heads_that_are_refused(extra: tuple[bytes, bytes], code: Code, reason: str) -> None:
    with pytest.raises(CallRefused) as refused:
        read_head((*HEAD, extra), METHOD)
    assert (refused.value.answer.code, refused.value.error.reason) == (code, reason)


@pytest.mark.parametrize(
    ("method", "content_type", "good"),
    [
        (b"POST", b"application/grpc", True),
        (b"POST", b"application/grpc+proto", True),
        (b"POST", b"application/grpc;charset=utf-8", True),
        (b"POST", b"application/grpc-web", False),
        (b"POST", b"text/html", False),
        (b"POST", b"", False),
        (b"GET", b"application/grpc", False),
    ],
)
def test_what_counts_as_grpc(method: bytes, content_type: bytes, *, good: bool) -> None:
    assert is_grpc(((b":method", method), (b"content-type", content_type))) is good


def test_a_status_says_what_encodings_are_taken() -> None:
    headers = dict(refused_headers(12, "no % here"))
    assert headers[b"grpc-status"] == b"12"
    assert headers[b"grpc-message"] == b"no %25 here"
    assert headers[b"grpc-accept-encoding"] == b"identity"
