"""gRPC over HTTP/2 for calls of one message and one reply, as far as it is bytes, and the status of every error. Pure.

Source: gRPC's "gRPC over HTTP2" (PROTOCOL-HTTP2.md) and its list of status codes.

A client learns of an error one status code and one fixed sentence, by the error's class. The sentences of refusals
and of signing failures are istio-csr's own, word for word. An outage is ``UNAVAILABLE``, because Istio's agents retry
that and do not retry ``UNAUTHENTICATED``.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec

from federation.core.errors import (
    AuthorityViolation,
    FederationError,
    Overloaded,
    Refused,
    RequestRefused,
    Unavailable,
)


class Code(Enum):
    """The status codes of gRPC that a listener answers with, by their numbers."""

    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


NOT_AUTHENTICATED: Final = "request authenticate failure"
SIGN_FAILED: Final = "failed to sign certificate request"
BAD_CHAIN: Final = "failed to parse and verify signed certificate from issuer"
UNAVAILABLE_NOW: Final = "certificate signing is temporarily unavailable"
OVERLOADED: Final = "too many requests, try again later"


class Answered(Exception):
    """The answer to give instead of a certificate."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(f"{code.name}: {sentence}")
        self.code = code
        self.sentence = sentence


def answer_to(error: BaseException) -> Answered:
    """The answer that an error becomes; its text is not part of it."""
    match error:
        case Refused():
            return Answered(Code.UNAUTHENTICATED, NOT_AUTHENTICATED)
        case Overloaded():
            return Answered(Code.RESOURCE_EXHAUSTED, OVERLOADED)
        case AuthorityViolation():
            return Answered(Code.INTERNAL, BAD_CHAIN)
        case Unavailable() | TimeoutError():
            return Answered(Code.UNAVAILABLE, UNAVAILABLE_NOW)
        case _:
            return Answered(Code.INTERNAL, SIGN_FAILED)


Header = tuple[bytes, bytes]
PREFIX_BYTES: Final = 5
MAX_METADATA_BYTES: Final = 16 * 1024
FIELD_OVERHEAD: Final = 32
"""What a field counts beside its name and value (RFC 9113, 10.5.1)."""

CONTENT_TYPE: Final = b"application/grpc"
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

REPLY_HEADERS: Final[tuple[Header, ...]] = ((b":status", b"200"), (b"content-type", CONTENT_TYPE))
OK_TRAILERS: Final[tuple[Header, ...]] = ((b"grpc-status", b"0"),)
NO_GRPC: Final[tuple[Header, ...]] = ((b":status", b"415"),)
"""For what is no gRPC at all: a proxy or a browser that went astray."""


class CallRefused(Exception):
    """A call ends without its listener: ``answer`` for the caller, ``error`` for who runs the hub."""

    def __init__(self, answer: Answered, error: FederationError) -> None:
        super().__init__(str(error))
        self.answer: Final = answer
        self.error: Final = error


def refusal(code: Code, sentence: str, what: str, reason: str) -> CallRefused:
    """With a sentence for the caller; ``what`` and ``reason`` are for who runs the hub."""
    return CallRefused(Answered(code, sentence), RequestRefused(what, reason=reason))


class Head(msgspec.Struct, frozen=True):
    """What a call's headers say. ``timeout`` in seconds; None where the caller sets none."""

    metadata: tuple[tuple[str, str | bytes], ...]
    timeout: float | None


def is_grpc(headers: Iterable[Header]) -> bool:
    """Whether it is a call of gRPC by method and content type."""
    method = content_type = b""
    for name, value in headers:
        if name == b":method":
            method = value
        elif name == b"content-type":
            content_type = value.lower()
    return method == b"POST" and (
        content_type == CONTENT_TYPE or content_type.startswith((CONTENT_TYPE + b"+", CONTENT_TYPE + b";"))
    )


def read_head(headers: Iterable[Header], method: bytes) -> Head:
    """Metadata and timeout of a call of ``method``. Raises CallRefused."""
    metadata: list[tuple[str, str | bytes]] = []
    timeout: float | None = None
    size = 0
    for name, value in headers:
        size += len(name) + len(value) + FIELD_OVERHEAD
        if size > MAX_METADATA_BYTES:
            raise refusal(
                Code.RESOURCE_EXHAUSTED,
                "metadata too large",
                f"metadata of more than {MAX_METADATA_BYTES} bytes",
                "metadata_too_large",
            )
        if name.startswith(b":"):
            if name == b":path" and value != method:
                raise refusal(
                    Code.UNIMPLEMENTED, "unknown method", "a method that is not served", "unknown_method"
                )
        elif name == b"grpc-timeout":
            timeout = read_timeout(value)
        elif name == b"grpc-encoding":
            if value != b"identity":
                raise compressed()
        else:
            metadata += _values(name, value)
    return Head(tuple(metadata), timeout)


def read_timeout(value: bytes) -> float:
    """Seconds. Raises CallRefused where it is none."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise refusal(Code.INTERNAL, "malformed grpc-timeout", "a timeout that is none", "timeout_malformed")
    return int(found[1]) * _UNITS[found[2]]


def _values(name: bytes, value: bytes) -> Iterable[tuple[str, str | bytes]]:
    try:
        text = name.decode("ascii")
        if not text.endswith("-bin"):
            return ((text, value.decode("ascii")),)
        # One field may hold several values, and their padding is optional.
        parts = [part.strip() for part in value.split(b",")]
        return [(text, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)) for part in parts]
    except (UnicodeDecodeError, binascii.Error):
        raise refusal(
            Code.INTERNAL, "malformed metadata", "metadata that cannot be read", "metadata_malformed"
        ) from None


def compressed() -> CallRefused:
    """For a message in an encoding other than none; the answer names what is taken (``grpc-accept-encoding``)."""
    return refusal(
        Code.UNIMPLEMENTED, "compression is not supported", "a compressed message", "message_compressed"
    )


class MessageReader:
    """Takes the pieces of a call's body; one message of at most ``limit`` bytes has to be in it."""

    __slots__ = ("_data", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """One more piece. Raises CallRefused as soon as it is known that it will not do."""
        self._data += data
        if len(self._data) < PREFIX_BYTES:
            return
        flag, length = struct.unpack_from(">BI", self._data)
        if flag == 1:
            raise compressed()
        if flag:
            raise refusal(
                Code.INTERNAL, "malformed message", "a prefix that is none of gRPC's", "message_malformed"
            )
        if length > self._limit:
            raise refusal(
                Code.RESOURCE_EXHAUSTED,
                "message too large",
                f"a message of more than {self._limit} bytes",
                "message_too_large",
            )
        if len(self._data) > PREFIX_BYTES + length:
            raise refusal(
                Code.INTERNAL, "more than one message", "more than one message in a call", "message_malformed"
            )

    def message(self) -> bytes:
        """The whole message, now that the caller has ended. Raises CallRefused where it is not whole."""
        data = self._data
        if len(data) < PREFIX_BYTES or len(data) != PREFIX_BYTES + int.from_bytes(data[1:PREFIX_BYTES]):
            raise refusal(Code.INTERNAL, "no whole message", "it ended without a whole message", "no_message")
        return bytes(data[PREFIX_BYTES:])


def write_message(message: bytes) -> bytes:
    """A message with gRPC's prefix, not compressed."""
    return struct.pack(">BI", 0, len(message)) + message


def refused_headers(code: int, sentence: str) -> tuple[Header, ...]:
    """A whole reply that is only a status ("Trailers-Only")."""
    return (
        *REPLY_HEADERS,
        (b"grpc-status", str(code).encode("ascii")),
        (b"grpc-message", percent_encode(sentence)),
        (b"grpc-accept-encoding", b"identity"),
    )


def percent_encode(sentence: str) -> bytes:
    """For ``grpc-message``: printable ASCII without "%" as it is, every other byte of UTF-8 as %XX."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in sentence.encode("utf-8")
    )
