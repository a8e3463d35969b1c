"""A caller of the listener who keeps to no rules: single frames of HTTP/2 over TLS (RFC 9113), sent as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from types import TracebackType
from typing import Self

from federation.core.config.types import Address
from federation.core.istio.ca_protocol import METHOD
from tests.bench.callers import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    GRPC_STATUS,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    header_block,
)
from tests.support.patience import PATIENCE

NO_INDEX = struct.pack(">HI", 1, 0)
"""SETTINGS_HEADER_TABLE_SIZE: no dynamic table, so that every block says all by itself."""


class RawConnection:
    """One connection. Streams that the server has ended are in ``ended``, with the gRPC status where there is one.

    ``settled`` once the server's settings are acknowledged: they count for what is sent after that.
    """

    def __init__(
        self,
        address: Address,
        trust_pem: bytes,
        server_name: str,
        *,
        source: str | None = None,
        settings: bytes = NO_INDEX,
    ) -> None:
        """``source`` is the address it comes from; ``settings`` the payload of its SETTINGS."""
        self._address = address
        self._server_name = server_name
        self._source = (source, 0) if source is not None else None
        self._settings = settings
        self._tls = ssl.create_default_context(cadata=trust_pem.decode())
        self._tls.set_alpn_protocols(["h2"])
        self._next = 1
        self.ended: dict[int, int | None] = {}
        self.bodies: dict[int, bytes] = {}
        self.goaway: list[int] = []
        """The error codes of the GOAWAY frames that came."""
        self.settled, self.closed = asyncio.Event(), asyncio.Event()
        self._pings = asyncio.Semaphore(0)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            self._address.host,
            self._address.port,
            ssl=self._tls,
            server_hostname=self._server_name,
            local_addr=self._source,
        )
        self._writer.write(PREFACE + frame(SETTINGS, 0, 0, self._settings))
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.cancel()
        await asyncio.wait([self._listening])
        self._writer.transport.abort()

    def headers(self, headers: dict[str, str] | None = None, *, end: bool = False) -> int:
        """Begin a call; its stream."""
        stream, self._next = self._next, self._next + 2
        block = header_block(METHOD, self._server_name, headers or {})
        self._writer.write(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))
        return stream

    def send(self, data: bytes) -> None:
        """Anything at all."""
        self._writer.write(data)

    async def answered_ping(self) -> None:
        """Return once the server has answered a PING, and so has read everything that was sent before."""
        self._writer.write(frame(PING, 0, 0, bytes(8)))
        async with asyncio.timeout(PATIENCE):
            await self._pings.acquire()

    def abort(self) -> None:
        """Go away without a word."""
        self._writer.transport.abort()

    async def drain(self) -> None:
        """Wait until the other end has taken what was sent, but for a little."""
        await self._writer.drain()

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """A piece of a message with gRPC's prefix."""
        self._writer.write(frame(DATA, END_STREAM if end else 0, stream, data))

    async def _listen(self) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                while True:
                    head = await self._reader.readexactly(9)
                    payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                    self._take(head[3], head[4], int.from_bytes(head[5:]), payload)
        finally:
            self.closed.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._writer.write(frame(SETTINGS, ACK, 0, b""))
            self.settled.set()
        elif kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, 0, payload))
        elif kind == PING:
            self._pings.release()
        elif kind == HEADERS and flags & END_STREAM:
            found = GRPC_STATUS.search(payload)
            self.ended[stream] = int(found[1]) if found else None
        elif kind == DATA:
            self.bodies[stream] = self.bodies.get(stream, b"") + payload
        elif kind == GOAWAY:
            self.goaway.append(int.from_bytes(payload[4:8]))
        elif kind == RST_STREAM:
            self.ended.setdefault(stream, None)
