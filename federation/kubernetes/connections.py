"""Connections to one API server for requests with small answers: opened, kept for the next request, and bounded.

aiohttp takes more than half of what a token review costs, and one may be asked for each certificate
(docs/decisions/0060). Watches, large lists and whatever goes through a proxy stay with it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final, cast

from yarl import URL

from federation.kubernetes.budget import CpuBudget
from federation.kubernetes.http1 import Answer, CutShort, NotHttp, TooLarge, field_lines, request_bytes
from federation.kubernetes.wire import FREE, SECONDS_PER_BYTE, NotPermitted, limit_unacknowledged

MOST_ADDRESSES: Final = 8
"""Of one name that are tried, one after another; each gets its share of the time (as Go's ``net.Dialer`` does)."""


MOST_KINDS: Final = 16
"""Of requests whose fields are remembered; a new token makes new ones."""

AGENT: Final = "federation-hub"


class Disconnected(Exception):
    """The connection ended before a byte of the answer came."""


class ConnectTimeout(TimeoutError):
    """There was no connection in time, TLS included."""


class NoConnection(Exception):
    """It could not be opened, as ``os_error`` says."""

    def __init__(self, os_error: OSError, host: str, port: int) -> None:
        super().__init__(str(os_error))
        self.os_error = os_error
        self.host = host
        self.port = port


class _Connection(asyncio.Protocol):
    """One request at a time. What comes while none is under way was not asked for, and ends it."""

    def __init__(self, budget: CpuBudget, tls: ssl.SSLContext) -> None:
        self.tls: Final = tls
        self.idle_since = 0.0
        self._budget = budget
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether the next request may go out on it."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    async def ask(self, request: bytes, answer: Answer, permitted: Callable[[], bool] | None = None) -> None:
        """Send it and wait until the answer is whole. Raises Disconnected, CutShort, NotHttp and TooLarge.

        NotPermitted where ``permitted`` says at last that it must not be sent.
        """
        if self._transport is None or self._transport.is_closing():
            raise Disconnected
        if permitted is not None and not permitted():
            self.abort()  # no one keeps it from here on
            raise NotPermitted
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._answer = answer
        try:
            self._transport.write(request)
            await waiter
        finally:
            self._answer = self._waiter = None
            if not (answer.complete and answer.reusable):
                self.abort()

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Of the answer under way."""
        answer = self._answer
        if answer is None or self._waiter is None or self._waiter.done():
            self.abort()
            return
        try:
            if answer.received + len(data) <= FREE:
                answer.feed(data)
            else:
                with self._budget.charged(len(data)):
                    answer.feed(data)
                self._budget.charge(SECONDS_PER_BYTE * len(data))
        except (NotHttp, TooLarge) as error:
            self._finish(error)
        else:
            if answer.complete:
                self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's own signature
        """Whole or not, nothing more comes."""
        answer, self._transport = self._answer, None
        if answer is None or answer.complete:
            return
        try:
            answer.end()
        except CutShort as error:
            self._finish(error if answer.received else Disconnected())
        else:
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            self.abort()
            waiter.set_exception(error)


class ServerConnections:
    """Those to one server, ``https`` and no proxy. How many there are at once is for the caller to bound."""

    def __init__(
        self,
        server: str,
        *,
        server_name: str | None,
        connect: float,
        idle: float,
        budget: CpuBudget,
        unacknowledged: float | None = None,
    ) -> None:
        """``connect`` are the seconds that opening one may take, and ``idle`` for how many it is kept unused.

        ``server_name`` is that of the server's certificate, None where it is the host of its URL. ``unacknowledged``
        are the seconds for which the kernel sends again what is not acknowledged (default: its own).
        """
        url = URL(server, encoded=True)
        self._host = url.host or ""
        self._port = url.port or 443
        self._server_name = server_name or self._host
        self._fixed = {
            "Host": url.host_port_subcomponent or "",
            "User-Agent": AGENT,
            "Accept-Encoding": "identity",
        }
        self._lines: dict[tuple[tuple[str, str], ...], bytes] = {}
        self._connect = connect
        self._idle_seconds = idle
        self._budget = budget
        self._unacknowledged = unacknowledged
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self.closed = False

    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        answer: Answer,
        *,
        tls: ssl.SSLContext,
        anew: bool = False,
        permitted: Callable[[], bool] | None = None,
    ) -> None:
        """Send a request and wait for the whole answer; by a connection that was not used before where ``anew``.

        Raises what ends it: ConnectTimeout and NoConnection before anything was sent, Disconnected where no byte came,
        CutShort, NotHttp and TooLarge, and NotPermitted where ``permitted`` says so. It has no limit of time but for
        connecting: that is for the caller to set.
        """
        request = request_bytes(method, target, self._field_lines(headers), body)
        connection = (None if anew else self._take(tls)) or await self._connected(tls)
        self._open.add(connection)
        try:
            await connection.ask(request, answer, permitted)
        finally:
            self._open.discard(connection)
        if connection.usable:
            self._keep(connection)

    def close(self) -> None:
        """Close every connection; requests under way end with Disconnected or CutShort."""
        self.closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in (*self._idle, *self._open):
            connection.abort()
        self._idle.clear()

    def _field_lines(self, headers: Mapping[str, str]) -> bytes:
        """Put together once for requests that differ in target and body alone."""
        key = tuple(headers.items())
        lines = self._lines.get(key)
        if lines is None:
            if len(self._lines) >= MOST_KINDS:
                self._lines.clear()
            lines = self._lines[key] = field_lines({**self._fixed, **headers})
        return lines

    def _take(self, tls: ssl.SSLContext) -> _Connection | None:
        """The one that was used last, so that those which are not needed grow old."""
        oldest = asyncio.get_running_loop().time() - self._idle_seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.tls is tls and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        if self.closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_seconds, self._close_old)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._idle_seconds
        kept = []
        for connection in self._idle:
            if connection.usable and connection.idle_since > oldest:
                kept.append(connection)
            else:
                connection.abort()
        self._idle = kept
        self._sweep = loop.call_later(self._idle_seconds, self._close_old) if kept else None

    async def _connected(self, tls: ssl.SSLContext) -> _Connection:
        try:
            async with asyncio.timeout(self._connect):
                return await self._try_addresses(tls)
        except TimeoutError:
            raise ConnectTimeout from None
        except OSError as error:
            raise NoConnection(error, self._host, self._port) from error

    async def _try_addresses(self, tls: ssl.SSLContext) -> _Connection:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._connect
        addresses = await self._addresses()
        for left in range(len(addresses), 1, -1):
            try:
                async with asyncio.timeout((end - loop.time()) / left):
                    return await self._open_one(addresses[-left], tls)
            except ssl.SSLError:
                raise  # the same server by another address is as untrusted
            except OSError:  # TimeoutError is one
                continue
        return await self._open_one(addresses[-1], tls)

    async def _addresses(self) -> list[str]:
        try:
            return [str(ip_address(self._host))]
        except ValueError:
            found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=1)
        return list(dict.fromkeys(str(each[4][0]) for each in found))[:MOST_ADDRESSES]

    async def _open_one(self, address: str, tls: ssl.SSLContext) -> _Connection:
        connection = _Connection(self._budget, tls)
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: connection, address, self._port, ssl=tls, server_hostname=self._server_name
        )
        if self._unacknowledged is not None and connection.usable:  # it may have ended since
            limit_unacknowledged(transport.get_extra_info("socket"), self._unacknowledged)
        return connection
