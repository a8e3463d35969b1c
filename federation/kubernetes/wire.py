"""What a member sends, from its first byte: HTTP is taken apart in slices, and each is charged to that member.

A body is bounded where it is read. What never becomes a body is not: endless chunk extensions and interim
answers, or a body in pieces of one byte, each of which costs a hundred times its bytes. So a member is read no faster
than its budget allows.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from federation.kubernetes.budget import CpuBudget

PIECE: Final = 4 * 1024
"""Bytes that are taken apart before others may get their turn: milliseconds where they are interim answers."""

FREE: Final = 16 * 1024
"""Bytes of each answer that are not charged. The hub decides how many requests it makes, and callers with their token
reviews must not use up what the watches of their cluster need."""

MOST_MESSAGES: Final = 16
"""To one request: its answer, and interim ones before it (RFC 9110, 15.2). API servers send none of these, and aiohttp
passes over all that have come at once, without giving others their turn."""

SECONDS_PER_BYTE: Final = 4e-9
"""What socket and TLS take before the first byte gets here; they are not measured."""


class MemberConnection(ResponseHandler):
    """aiohttp's protocol of one connection, fed no faster than the budget allows.

    aiohttp has no public way in. What is overridden is asyncio's own interface, but for ``set_response_params``, which
    begins each answer, and for when the transport is read again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: CpuBudget) -> None:
        super().__init__(loop)
        self._budget = budget
        self._free = FREE
        self._messages = 0
        self._unfed = bytearray()
        self._feeding: asyncio.Task[None] | None = None

    @property
    def should_close(self) -> bool:
        """Whether it must not be used again: as aiohttp says, and where more was sent than was asked for."""
        return bool(self._unfed) or super().should_close

    def set_response_params(self, **params: object) -> None:
        """An answer begins."""
        self._free = FREE
        self._messages = 0
        super().set_response_params(**params)  # type: ignore[arg-type]  # passed on as they came

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A message's head has come; a connection with more of them than an answer takes is closed."""
        self._messages += 1
        if self._messages <= MOST_MESSAGES:
            super().feed_data(data, size)
            return
        if self.transport is not None:
            self.transport.close()
        self.set_exception(HttpProcessingError(message="too many interim or unasked answers"))

    def data_received(self, data: bytes) -> None:
        """Take it apart now, or as soon as the budget allows; empty where aiohttp goes on with what it holds."""
        if not data:
            self._feed(data)
            return
        self._unfed += data
        if self._feeding is None and (wait := self._feed_some()) is not None:
            self._pause_transport_reading()
            self._feeding = asyncio.get_running_loop().create_task(self._feed_rest(wait))

    def connection_lost(self, exc: BaseException | None) -> None:
        """What came before the end counts: it is no more than the transport reads at once."""
        if self._feeding is not None:
            self._feeding.cancel()
        while self._unfed:
            self._feed_piece()
        super().connection_lost(exc)

    def _resume_transport_reading(self) -> None:
        """Aiohttp goes on reading whenever a body was read; not before all that came is fed, or that would grow."""
        if self._feeding is None:
            super()._resume_transport_reading()

    def _feed_some(self) -> float | None:
        """Feed until it is the others' turn; the seconds until this goes on, None where all is fed."""
        while self._unfed:
            free = self._free > 0
            self._feed_piece()
            if free and self._unfed:
                return 0.0  # nothing is charged, and others get their turn all the same
            if not free and (wait := self._budget.due()) is not None:
                return wait
        return None

    def _feed_piece(self) -> None:
        piece = bytes(self._unfed[:PIECE])
        del self._unfed[:PIECE]
        if self._free > 0:
            self._free -= len(piece)
            self._feed(piece)
        else:
            with self._budget.charged(len(piece)):
                self._feed(piece)
            self._budget.charge(SECONDS_PER_BYTE * len(piece))
        if self.transport is None or self.exception() is not None:
            self._unfed.clear()  # it was given up; that the member has closed it takes nothing from what it sent

    def _feed(self, piece: bytes) -> None:
        super().data_received(piece)

    async def _feed_rest(self, wait: float | None) -> None:
        """Feed the rest in its turn; meanwhile nothing more is read."""
        try:
            while wait is not None:
                await self._budget.wait(wait)
                wait = self._feed_some()
        finally:
            self._feeding = None
            if not self._reading_paused and not self._buffer_paused:
                self._resume_transport_reading()


SENT_AT_ONCE: Final = 64 * 1024
"""Bytes of a body that go out without another look whether they may."""

UNACKNOWLEDGED: Final = 4.0
"""Seconds for which the kernel goes on sending what its receiver does not acknowledge, where writes need permission.

A leader's Lease ends five seconds before another process may take it: what left the leader until then arrives before
that, or never, also where the leader was stopped or has closed the connection meanwhile.
"""


class NotPermitted(OSError):
    """The process may not write any more; not all of the request was sent."""


class WhilePermitted(aiohttp.BytesPayload):
    """A body that is sent only as long as ``permitted`` says so: what is left of it then never is."""

    def __init__(self, body: bytes, permitted: Callable[[], bool]) -> None:
        super().__init__(body)
        self._permitted = permitted

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """As aiohttp's, piece by piece. Raises OSError where it may not go on, which ends the connection."""
        whole = self._value if content_length is None else self._value[:content_length]
        for begin in range(0, len(whole), SENT_AT_ONCE):
            if not self._permitted():
                raise NotPermitted
            await writer.write(whole[begin : begin + SENT_AT_ONCE])


def member_connector(
    budget: CpuBudget, *, keepalive: float, unacknowledged: float | None = None
) -> aiohttp.TCPConnector:
    """A connector whose connections are charged. Their number is not limited: open watches must starve no request.

    ``unacknowledged`` are the seconds for which the kernel sends again what is not acknowledged (default: its own).
    """
    connector = aiohttp.TCPConnector(
        limit=0,
        keepalive_timeout=keepalive,
        socket_factory=None if unacknowledged is None else partial(_socket, unacknowledged),
    )
    connector._factory = partial(MemberConnection, asyncio.get_running_loop(), budget)  # type: ignore[assignment]  # noqa: SLF001
    return connector


def _socket(unacknowledged: float, info: tuple[Any, ...]) -> socket.socket:
    """One for the address ``info`` (of ``getaddrinfo``)."""
    family, kind, protocol = info[:3]
    made = socket.socket(family, kind, protocol)
    limit_unacknowledged(made, unacknowledged)
    return made


class _HasOptions(Protocol):
    """A socket, or what an event loop shows of one."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def limit_unacknowledged(connection: _HasOptions, seconds: float) -> None:
    """Have the kernel give up after that time what is not acknowledged (``TCP_USER_TIMEOUT``, tcp(7), on Linux)."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
