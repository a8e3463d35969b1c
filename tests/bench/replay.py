"""HTTP/1.1 requests that were encoded beforehand, over connections that cost little.

An HTTP client library takes about as much CPU as a small server does, and what is asked for here is the server's
limit. A connection makes one request at a time and reads no more of the answer than its status and its body
(RFC 9112: framed by Content-Length, chunked, or ended with the connection, which is then opened again).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import cast

from yarl import URL

ANSWER_LIMIT = 30.0  # seconds
_END = b"\r\n\r\n"


def request(method: str, url: URL, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {url.raw_path_qs} HTTP/1.1", f"host: {url.host}:{url.port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + _END + body


class Unexpected(Exception):
    """Another status than a client of that server wants."""


class _Answers(asyncio.Protocol):
    """Reads one answer after another; ``answer`` is that of now."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.reusable = True
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._look(ended=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._look(ended=True)
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError(f"the connection ended: {exc}"))

    def _look(self, *, ended: bool) -> None:
        split = self._buffer.find(_END)
        if split < 0 or self.answer is None or self.answer.done():
            return
        status, *lines = bytes(self._buffer[:split]).lower().split(b"\r\n")
        headers = dict(line.split(b":", 1) for line in lines)
        body = self._body(headers, split + len(_END), ended=ended)
        if body is None:
            return
        if headers.get(b"connection", b"").strip() == b"close" or status.startswith(b"http/1.0"):
            self.reusable = False
        self._buffer.clear()
        self.answer.set_result((int(status.split()[1]), body))

    def _body(self, headers: Mapping[bytes, bytes], start: int, *, ended: bool) -> bytes | None:
        """The whole body, or None while more is to come."""
        length = headers.get(b"content-length")
        if length is not None:
            end = start + int(length)
            return bytes(self._buffer[start:end]) if len(self._buffer) >= end else None
        if b"chunked" not in headers.get(b"transfer-encoding", b""):
            return bytes(self._buffer[start:]) if ended else None
        return dechunked(self._buffer, start)


def dechunked(buffer: bytes | bytearray, start: int) -> bytes | None:
    """The chunked body that starts there, without trailers; None while more is to come."""
    body = bytearray()
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(bytes(buffer[start:line]).split(b";")[0], 16)
        start, end = line + 2, line + 2 + size
        if len(buffer) < end + 2:
            return None
        if size == 0:
            return bytes(body)
        body += buffer[start:end]
        start = end + 2
    return None


class Connection:
    """One connection, opened when it is needed."""

    def __init__(self, url: URL, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._tls = tls
        self._answers: _Answers | None = None

    async def ask(self, encoded: bytes, *, expected: int = 200) -> bytes:
        """The body of the answer. Raises Unexpected where its status is another."""
        async with asyncio.timeout(ANSWER_LIMIT):
            answers = await self._open()
            assert answers.transport is not None
            answers.answer = asyncio.get_running_loop().create_future()
            answers.transport.write(encoded)
            status, body = await answers.answer
        if status != expected:
            raise Unexpected(f"{status} in place of {expected}: {body[:200]!r}")
        return body

    def close(self) -> None:
        """Let go of it."""
        if self._answers is not None and self._answers.transport is not None:
            self._answers.transport.close()
        self._answers = None

    async def _open(self) -> _Answers:
        if self._answers is not None and not self._answers.reusable:
            self.close()
        if self._answers is None:
            assert self._url.host is not None
            assert self._url.port is not None
            _, self._answers = await asyncio.get_running_loop().create_connection(
                _Answers, self._url.host, self._url.port, ssl=self._tls
            )
        return self._answers


@asynccontextmanager
async def connections(
    count: int, url: URL, tls: ssl.SSLContext | None = None
) -> AsyncIterator[list[Connection]]:
    """``count`` connections to the server of that URL."""
    made = [Connection(url, tls) for _ in range(count)]
    try:
        yield made
    finally:
        for connection in made:
            connection.close()
        await asyncio.sleep(0.05)
