"""Istio's CA messages: the bytes on the wire, and what arrives from callers who send something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidValue, RequestRefused
from federation.core.istio.ca_protocol import (
    MAX_METADATA_FIELDS,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    METHOD,
    SERVICE,
    CertificateResponseMessage,
    IstioCertificateRequest,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

_texts = st.text(st.characters(codec="utf-8"), max_size=30)
_values = st.recursive(
    st.none() | st.booleans() | _texts | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)


def test_the_method_is_istios() -> None:
    assert SERVICE == "istio.v1.auth.IstioCertificateService"
    assert METHOD == "/istio.v1.auth.IstioCertificateService/CreateCertificate"


def test_field_numbers_on_the_wire() -> None:
    # csr is field 1, validity_duration 3 (int64, seconds), metadata 4; cert_chain is field 1 of the reply
    assert encode_request(IstioCertificateRequest("x", 300)) == b"\x0a\x01x\x18\xac\x02"
    with_metadata = encode_request(IstioCertificateRequest("", 0, {"CertSigner": ""}))
    assert with_metadata == b"\x22\x12\x0a\x10\x0a\x0aCertSigner\x12\x02\x1a\x00"
    assert encode_response(["a", "b"]) == b"\x0a\x01a\x0a\x01b"


@given(
    csr=_texts,
    seconds=st.integers(-(2**63), 2**63 - 1),
    metadata=st.dictionaries(_texts, _values, max_size=5),
)
def test_a_request_survives_the_wire(csr: str, seconds: int, metadata: dict[str, object]) -> None:
    request = IstioCertificateRequest(csr, seconds, metadata)
    assert decode_request(encode_request(request)) == request


@given(st.lists(_texts, max_size=6))
def test_a_reply_survives_the_wire(elements: list[str]) -> None:
    assert decode_response(encode_response(elements)) == tuple(elements)


@given(st.lists(_texts, max_size=6), st.sampled_from([0, 1, 127, 128, 16_383, 16_384, 2_097_152]))
def test_a_reply_is_what_the_library_writes(elements: list[str], length: int) -> None:
    elements.append("x" * length)
    written: bytes = CertificateResponseMessage(cert_chain=elements).SerializeToString()
    assert encode_response(elements) == written
    assert encode_response(element.encode() for element in elements) == written


@given(st.binary(max_size=200))
def test_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        request = decode_request(data)
    except RequestRefused:
        return
    assert isinstance(request.csr, str)


@given(st.binary(max_size=200))
def test_bytes_are_a_reply_or_invalid(data: bytes) -> None:
    try:
        elements = decode_response(data)
    except InvalidValue:
        return
    assert all(isinstance(element, str) for element in elements)


def test_unknown_fields_are_ignored() -> None:
    subject_id = b"\x12\x03abc"  # field 2 of long ago
    assert decode_request(subject_id + encode_request(IstioCertificateRequest("x", 1))).csr == "x"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\x02\xff\xfe", "request_undecodable"),  # not UTF-8
        (b"\x0a\x05ab", "request_undecodable"),  # cut short
        (b"\x0b", "request_undecodable"),
        (bytes(MAX_REQUEST_BYTES + 1), "request_too_large"),
        (
            encode_request(
                IstioCertificateRequest("", 0, {str(i): "" for i in range(MAX_METADATA_FIELDS + 1)})
            ),
            "metadata_too_large",
        ),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        decode_request(data)
    assert refused.value.reason == reason


def test_metadata_nested_without_end_is_refused() -> None:
    nested = b""
    for _ in range(200):  # Struct{fields{"": Value{struct_value}}}, one in the other
        value = b"\x2a" + _varint(len(nested)) + nested
        entry = b"\x0a\x00\x12" + _varint(len(value)) + value
        nested = b"\x0a" + _varint(len(entry)) + entry
    with pytest.raises(RequestRefused) as refused:
        decode_request(b"\x22" + _varint(len(nested)) + nested)
    assert refused.value.reason == "request_undecodable"


def test_a_reply_that_is_too_large_is_not_read() -> None:
    with pytest.raises(InvalidValue, match="at most"):
        decode_response(bytes(MAX_RESPONSE_BYTES + 1))


def test_what_cannot_be_sent_is_said_before_it_is_sent() -> None:
    with pytest.raises(InvalidValue):
        encode_request(IstioCertificateRequest("", 2**63))
    with pytest.raises(InvalidValue):
        encode_request(IstioCertificateRequest("", 0, {"a": object()}))


def test_metadata_cannot_be_changed_by_who_reads_it() -> None:
    request = decode_request(encode_request(IstioCertificateRequest("", 0, {"a": "b"})))
    with pytest.raises(TypeError):
        request.metadata["a"] = "c"  # type: ignore[index]
    assert request.metadata == {"a": "b"}


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
