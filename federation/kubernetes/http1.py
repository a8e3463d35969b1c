"""HTTP/1.1 (RFC 9112) for a request and its answer, as far as it is bytes: as API servers speak it, and stricter. Pure.

An answer is taken only where its framing can be read in one way: one length or whole chunks, lines that end in CRLF, no
folded lines, no length beside chunks, no characters that no field has. What is around a body costs its reader a hundred
times what its bytes do, so it has a bound of its own: chunks of one byte end there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MOST_AROUND: Final = 32 * 1024
"""Bytes of one answer that are not its body: heads, lines of chunks, trailers. API servers send less than one KiB."""

MOST_INTERIM: Final = 16
"""Interim answers (RFC 9110, 15.2) before the answer. API servers send none."""

LONGEST_LINE: Final = 1024
"""Bytes of one line between chunks, or in the trailer."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TEXT: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]*"
_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: %b)?\r\n((?:%b:%b\r\n)*)" % (_TEXT, _TOKEN, _TEXT)
)
_FIELD: Final = re.compile(rb"%b:%b" % (_TOKEN, _TEXT))
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;%b(?:=%b)?)*" % (_TOKEN, _TOKEN))
_TARGET: Final = re.compile(r"/[\x21-\x7e]*")
_FIELDS: Final = re.compile(r"(?:[A-Za-z-]+: [\x20-\x7e]*\r\n)*")
_LENGTH: Final = re.compile(rb"[0-9]{1,12}")

_READ: Final = frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"content-encoding", b"date", b"retry-after")
)
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))

_IN_HEAD: Final = 0
_OF_LENGTH: Final = 1
_TO_THE_END: Final = 2
_CHUNK_LINE: Final = 3
_IN_CHUNK: Final = 4
_AFTER_CHUNK: Final = 5
_IN_TRAILER: Final = 6


class NotHttp(Exception):
    """What came is no answer that can be read in one way only."""


class TooLarge(Exception):
    """The body is larger than ``most`` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__(f"larger than {most} bytes")
        self.most = most


class CutShort(Exception):
    """The connection ended within the answer."""


class Answer:
    """The answer to one request, fed as it comes.

    Its body has ``most`` bytes at the most, or ``most_of_error`` where its status is not 2xx.
    """

    __slots__ = (
        "_around",
        "_due",
        "_interim",
        "_left",
        "_most",
        "_most_of_error",
        "_parts",
        "_room",
        "_state",
        "complete",
        "fields",
        "received",
        "reusable",
        "status",
    )

    def __init__(self, *, most: int, most_of_error: int) -> None:
        self.status = 0
        """0 until the head is there."""
        self.fields: dict[bytes, bytes] = {}
        """Of the fields that decide something, each by its name in small letters."""
        self.received = 0
        """Bytes that were fed."""
        self.complete = False
        self.reusable = False
        """Whether the connection may carry the next request; known once it is complete."""
        self._most = self._room = most
        self._most_of_error = most_of_error
        self._state = _IN_HEAD
        self._left = b""
        self._parts: list[bytes] = []
        self._due = 0
        self._around = 0
        self._interim = 0

    @property
    def body(self) -> bytes:
        """What has come of the body."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def feed(self, data: bytes) -> None:
        """What came next. Raises NotHttp and TooLarge, after which nothing more may be fed."""
        self.received += len(data)
        if self._left:
            data, self._left = self._left + data, b""
        at = 0
        while not self.complete:
            done = self._step(data, at)
            if done < 0:
                self._left = data[at:]
                if len(self._left) + self._around > MOST_AROUND:
                    raise NotHttp("what is around its body is too large")
                return
            at = done
        if at < len(data):
            self.reusable = False  # more than was asked for

    def end(self) -> None:
        """The connection has ended. Raises CutShort where more should have come."""
        if self._state == _TO_THE_END:
            self.complete = True
        if not self.complete:
            raise CutShort

    def _step(self, data: bytes, at: int) -> int:
        """Take one element at ``at``; where the next one begins, -1 where this one is not whole yet."""
        state = self._state
        if state == _IN_HEAD:
            return self._head(data, at)
        if state in {_OF_LENGTH, _IN_CHUNK, _TO_THE_END}:
            return self._piece(data, at)
        if state == _AFTER_CHUNK and len(data) - at < 2:
            return -1
        if state == _AFTER_CHUNK:
            if data[at : at + 2] != b"\r\n":
                raise NotHttp("a chunk does not end where it should")
            self._around += 2
            self._state = _CHUNK_LINE
            return at + 2
        end = data.find(b"\r\n", at, at + LONGEST_LINE + 2)
        if end < 0:
            if len(data) - at > LONGEST_LINE:
                raise NotHttp("a line between chunks is too long")
            return -1
        self._count_around(end + 2 - at)
        self._line(data[at:end])
        return end + 2

    def _head(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return -1
        self._count_around(end + 4 - at)
        match = _HEAD.fullmatch(data, at, end + 2)
        if match is None:
            raise NotHttp("its head is none")
        minor, code, fields = match.groups()
        status = int(code)
        if status == 101:
            raise NotHttp("it changes the protocol, which was not asked for")
        if status < 200:
            self._interim += 1
            if self._interim > MOST_INTERIM:
                raise NotHttp("too many interim answers")
            return end + 4
        self.status = status
        self._read_fields(fields)
        self._frame(minor == b"1")
        return end + 4

    def _read_fields(self, lines: bytes) -> None:
        found = self.fields
        for line in lines.split(b"\r\n"):
            name, _, value = line.partition(b":")
            name = name.lower()
            if name not in _READ:
                continue
            # A tab at the end of a line is white space by RFC 9110 and not by llhttp: after a length it is refused.
            value = value.strip(b" " if name in _FRAMING else b" \t")
            if name in found:
                if name in _FRAMING:
                    raise NotHttp("its length is given twice")
                value = found[name] + b", " + value
            found[name] = value

    def _frame(self, persistent: bool) -> None:
        """How the body is delimited (RFC 9112, 6.3)."""
        found = self.fields
        coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
        if b"connection" in found:
            tokens = {token.strip(b" \t").lower() for token in found[b"connection"].split(b",")}
            persistent = persistent and b"close" not in tokens
        self.reusable = persistent
        if not 200 <= self.status <= 299:
            self._most = self._room = self._most_of_error
        if coding is not None and (length is not None or coding.lower() != b"chunked"):
            raise NotHttp("its length can be read in two ways")
        if length is not None and not _LENGTH.fullmatch(length):
            raise NotHttp("its length is no number")
        if self.status in {204, 304}:
            self.complete = True
        elif coding is not None:
            self._state = _CHUNK_LINE
        elif length is not None:
            self._state = _OF_LENGTH
            self._expect(int(length))
            self.complete = not self._due
        else:
            self._state = _TO_THE_END
            self.reusable = False

    def _line(self, line: bytes) -> None:
        """A line between chunks, or after the last one."""
        if self._state == _IN_TRAILER:
            if line and not _FIELD.fullmatch(line):
                raise NotHttp("its trailer is none")
            self.complete = not line
            return
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise NotHttp("the length of a chunk is none")
        self._expect(int(match[1], 16))
        self._state = _IN_CHUNK if self._due else _IN_TRAILER

    def _expect(self, size: int) -> None:
        if size > self._room:
            raise TooLarge(self._most)
        self._due = size

    def _piece(self, data: bytes, at: int) -> int:
        """What is there of a body or chunk."""
        if at == len(data):
            return -1
        if self._state == _TO_THE_END:
            self._expect(len(data) - at)
        part = data[at : at + self._due] if at or self._due < len(data) else data
        self._parts.append(part)
        self._room -= len(part)
        self._due -= len(part)
        if not self._due and self._state == _IN_CHUNK:
            self._state = _AFTER_CHUNK
        elif not self._due and self._state == _OF_LENGTH:
            self.complete = True
        return at + len(part)

    def _count_around(self, size: int) -> None:
        self._around += size
        if self._around > MOST_AROUND:
            raise NotHttp("what is around its body is too large")


def field_lines(fields: Mapping[str, str]) -> bytes:
    """The fields of a request, a line each. Raises ValueError where one would end its line or hold no plain ASCII."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    if not _FIELDS.fullmatch(lines) or lines.count("\n") != len(fields):
        raise ValueError("a field of the request holds characters that none may have")
    return lines.encode("ascii")


def request_bytes(method: str, target: str, lines: bytes, body: bytes | None) -> bytes:
    """A request; ``lines`` are those of :func:`field_lines`. Raises ValueError where ``target`` is no single word."""
    if not _TARGET.fullmatch(target):
        raise ValueError("the target of the request holds characters that none may have")
    begin = f"{method} {target} HTTP/1.1\r\n".encode("ascii")
    if body is None:
        return b"%b%b\r\n" % (begin, lines)
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (begin, lines, len(body), body)
