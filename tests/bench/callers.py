"""Callers of a gRPC listener that cost the machine little: HTTP/2 by hand, one TLS connection each.

A gRPC client library costs about as much CPU per call as the server that is measured, and on a machine with
two cores it would be what is measured. Here a caller writes a request that was encoded beforehand and reads no
more of the reply than frames and lengths (RFC 9113; HPACK literals without indexing, RFC 7541 section 6.2.2).
The first reply of every caller is kept, so that what was issued can be checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self, cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
GRPC_STATUS = re.compile(
    rb"(?:grpc-status|\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f)[\x01\x02](\d{1,2})", re.DOTALL
)
"""In a block without a dynamic table: the name in plain text or in HPACK's Huffman code; digits stay as they are."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def hpack_string(text: bytes) -> bytes:
    """A string literal without Huffman coding; its length as a 7-bit prefix integer."""
    length, out = len(text), bytearray()
    if length < 127:
        return bytes([length]) + text
    out.append(127)
    length -= 127
    while length >= 128:
        out.append(length % 128 + 128)
        length //= 128
    return bytes(out) + bytes([length]) + text


def header_block(path: str, authority: str, headers: dict[str, str]) -> bytes:
    """The header block of a gRPC request; every name but the pseudo-headers' is a literal."""
    block = b"\x83\x87\x04" + hpack_string(path.encode()) + b"\x01" + hpack_string(authority.encode())
    fixed = {"te": "trailers", "content-type": "application/grpc", "user-agent": "bench"}
    for name, value in (fixed | headers).items():
        block += b"\x00" + hpack_string(name.encode()) + hpack_string(value.encode())
    return block


@dataclass(frozen=True, slots=True)
class Call:
    """A unary call: header block and message."""

    block: bytes
    message: bytes

    @property
    def body(self) -> bytes:
        """The message with gRPC's prefix: not compressed, length."""
        return b"\x00" + struct.pack(">I", len(self.message)) + self.message

    def frames(self, stream: int) -> bytes:
        return frame(HEADERS, END_HEADERS, stream, self.block) + frame(DATA, END_STREAM, stream, self.body)


class Caller(asyncio.Protocol):
    """One connection, one call at a time. ``done`` gets the caller when a call has ended."""

    def __init__(self, done: Callable[[Caller], None]) -> None:
        self._done = done
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._stream = -1
        self._reply = bytearray()
        self.first_reply = b""
        self.answered = False  # did the last call bring a message, not only a status?
        self.failure: str = ""
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        settings = struct.pack(
            ">HI", 1, 0
        )  # SETTINGS_HEADER_TABLE_SIZE: no dynamic table, nothing is decoded here
        window = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, settings) + window)

    def connection_lost(self, exc: Exception | None) -> None:
        self.failure = self.failure or f"the connection ended: {exc}"
        if self.began:
            self._finish(answered=False)

    def call(self, call: Call) -> None:
        assert self._transport is not None
        self._stream += 2
        self._reply.clear()
        self.began = time.perf_counter()
        self._transport.write(call.frames(self._stream))

    def close(self) -> None:
        self.began = 0.0
        if self._transport is not None:
            self._transport.close()

    def _finish(self, *, answered: bool) -> None:
        self.answered = answered
        if answered and not self.first_reply:
            self.first_reply = bytes(self._reply)
        self._done(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at : at + 3])
            if len(buffer) - at - 9 < length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            payload = buffer[at + 9 : at + 9 + length]
            at += 9 + length
            self._take(kind, flags, payload)
        del buffer[:at]

    def _take(self, kind: int, flags: int, payload: bytearray) -> None:
        assert self._transport is not None
        if kind == DATA:
            self._reply += payload
        elif kind == HEADERS and flags & END_STREAM:
            self._finish(answered=len(self._reply) >= 5)
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, bytes(payload)))
        elif kind == RST_STREAM:
            self._finish(answered=False)
        elif kind == GOAWAY:
            self.failure = f"GOAWAY {bytes(payload[8:])!r}"


@dataclass(slots=True)
class Load:
    """What came of a load: seconds of each call that was answered, and how many were not."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Answered calls per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, q: float) -> float:
        """Seconds; 0 where nothing was answered."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


class Crowd:
    """Callers of one listener, connected. Use as a context manager."""

    def __init__(
        self, host: str, port: int, *, trust: bytes, server_name: str, calls: Iterator[Call]
    ) -> None:
        self._address = host, port
        self._server_name = server_name
        self._calls = calls
        self._tls = ssl.create_default_context(cadata=trust.decode())
        self._tls.set_alpn_protocols(["h2"])
        self.callers: list[Caller] = []
        self._began = self._end = 0.0
        self._busy = 0
        self._load = Load(0.0)
        self._again: Callable[[Caller], None] = lambda _: None

    async def grow(self, count: int) -> None:
        """Open connections until there are ``count`` callers."""
        loop = asyncio.get_running_loop()
        while len(self.callers) < count:
            batch = min(32, count - len(self.callers))
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._connect(loop)) for _ in range(batch)]
            self.callers += [task.result() for task in tasks]

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Caller:
        _, caller = await loop.create_connection(
            lambda: Caller(self._ended), *self._address, ssl=self._tls, server_hostname=self._server_name
        )
        return caller

    async def closed_loop(self, callers: int, seconds: float) -> Load:
        """Run this many callers, each of which calls again as soon as it is answered."""
        self._begin(seconds)
        self._again = self._ask
        for caller in self.callers[:callers]:
            self._busy += 1
            self._ask(caller)
        return await self._wait()

    async def join(self, count: int) -> None:
        """Open connections until there are ``count``, a few at a time; each new one makes one call."""

        def rest(caller: Caller) -> None:
            caller.began = 0.0
            self._busy -= 1

        while (have := len(self.callers)) < count:
            await self.grow(min(count, have + 8))
            self._begin(10.0)
            self._again = rest
            for caller in self.callers[have:]:
                self._busy += 1
                caller.call(next(self._calls))
            await self._wait()

    async def steady(self, per_second: float, seconds: float, *, until: asyncio.Event | None = None) -> Load:
        """Make calls at a fixed rate by any free caller; the latency of a call includes its wait for one.

        Ends after ``seconds``, or sooner where ``until`` is set.
        """
        self._begin(seconds)
        free = list(self.callers)
        due: list[float] = []

        def again(caller: Caller) -> None:
            if due:
                caller.call(next(self._calls))
                caller.began = due.pop(0)
            else:
                self._busy -= 1
                caller.began = 0.0
                free.append(caller)

        self._again = again
        start, number = time.perf_counter(), 0
        while (now := time.perf_counter()) < self._end and not (until is not None and until.is_set()):
            free = [caller for caller in (*free, *await self._replace_closed()) if not caller.failure]
            while (planned := start + number / per_second) <= now:
                number += 1
                if free:
                    caller = free.pop()
                    self._busy += 1
                    caller.call(next(self._calls))
                    caller.began = planned
                else:
                    due.append(planned)
            await asyncio.sleep(max(0.0, start + number / per_second - time.perf_counter()))
        return await self._wait()

    async def _replace_closed(self) -> list[Caller]:
        """New connections for those that the listener has closed, as it does with idle and old ones."""
        closed = [caller for caller in self.callers if caller.failure and not caller.began]
        loop, new = asyncio.get_running_loop(), []
        for caller in closed:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(10):
                    new.append(await self._connect(loop))
                self.callers.remove(caller)
                caller.close()
        self.callers += new
        return new

    def _begin(self, seconds: float) -> None:
        self._load = Load(seconds)
        self._began = time.perf_counter()
        self._end = self._began + seconds
        self._busy = 0

    async def _wait(self) -> Load:
        """Until the last answer; the load took from its first call to that."""
        async with asyncio.timeout(max(0.0, self._end - time.perf_counter()) + 30):
            while self._busy > 0:
                await asyncio.sleep(0.005)
        self._load.seconds = time.perf_counter() - self._began
        return self._load

    def _ask(self, caller: Caller) -> None:
        call = next(self._calls, None) if time.perf_counter() < self._end else None
        if call is not None:
            caller.call(call)
        else:
            caller.began = 0.0
            self._busy -= 1

    def _ended(self, caller: Caller) -> None:
        if caller.answered:
            self._load.latencies.append(time.perf_counter() - caller.began)
        else:
            self._load.failed += 1
            if caller.failure:
                self._busy -= 1
                caller.began = 0.0
                return
        self._again(caller)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self.callers:
            caller.close()
        await asyncio.sleep(0.05)


def cycle(calls: Sequence[Call]) -> Iterator[Call]:
    """The calls over and over."""
    while True:
        yield from calls
