"""Serves a status application: a listener with limits, and TLS whose files may be replaced while it runs.

Where a listener has as many connections as it takes, one gives way to the next, fairly between addresses
(:mod:`federation.core.call_slots`): one that no request is made on before one that is being answered. So idle
connections keep no caller out, from however many addresses they come.

Health and metrics of one role's process are served here as well: of signers, which serve no status API, and what a
kubelet asks.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeAlias, TypeVar, cast

from aiohttp import web

from federation.core.call_slots import CallSlot, CallSlots
from federation.core.clock import Clock
from federation.core.config.types import Address
from federation.core.documents.controller import ControllerReport
from federation.core.documents.signer import SignerReport
from federation.core.errors import ConfigurationError, Mistake, Overloaded
from federation.files import read_in_time
from federation.status.answers import (
    HEADERS,
    Handler,
    add_headers,
    answer,
    errors_into_problems,
    peer_of,
    refusal,
)
from federation.status.app import healthz, readiness
from federation.status.authorization import Guard
from federation.status.exposition import CONTENT_TYPE, hub_version
from federation.status.metrics import role_metrics
from federation.status.view import ConfigStatus

_logger = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 256
FIRST_REQUEST: Final = 10.0  # a caller that connects and says nothing is in the way of others
KEEPALIVE: Final = 15.0
NEXT_REQUEST: Final = 30.0  # from the end of a handler on: an answer that is not read is in the way as well
HANDSHAKE: Final = 5.0
SHUTDOWN: Final = 5.0
POLL: Final = 5.0  # mounted Secrets change by a symlink swap, which no portable notification reports
MOST_HEADER_BYTES: Final = 8190
PROBES: Final = frozenset({"/healthz", "/readyz"})  # what a kubelet asks without a token


class _Connection(web.RequestHandler):
    """One connection: closed when there are too many or it stays silent, and quiet about what it runs on."""

    def __init__(self, server: web.Server, slots: CallSlots) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE,
            lingering_time=1.0,
            access_log=None,  # type: ignore[arg-type]  # None is "none"; AppRunner passes it as well
            max_line_size=MOST_HEADER_BYTES,
            max_field_size=MOST_HEADER_BYTES,
        )
        self._slots = slots
        self._connected: asyncio.Transport | None = None
        self._slot: CallSlot | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connected = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        try:
            self._slot = self._slots.enter(peer_of(transport), give_way=self._drop)
        except Overloaded:
            self._drop()
            return
        self._wait(FIRST_REQUEST)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wait(None)
        if self._slot is not None:
            self._slot.leave()
        super().connection_lost(exc)

    def begin(self) -> None:
        """The caller has sent a whole request. Raises Overloaded where its connection had to give way just now."""
        self._wait(None)
        if self._slot is not None:
            self._slot.received()

    def end(self) -> None:
        """The request is answered but for the sending; another one has to follow, or the connection is closed."""
        if self._slot is not None:
            self._slot.waits()
            self._wait(NEXT_REQUEST)

    def _drop(self) -> None:
        """Close it at once: an orderly end would first wait until what is sent was read."""
        self.force_close()
        if self._connected is not None:
            self._connected.abort()

    def _wait(self, seconds: float | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None
        if seconds is not None:
            self._patience = asyncio.get_running_loop().call_later(seconds, self._drop)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # its words name the parser and quote the caller
    ) -> web.StreamResponse:
        """A request that cannot be read gets an answer of our own words."""
        _logger.info("a request could not be read", extra={"status": status, "error": type(exc).__name__})
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was already begun")
        response = refusal(status, headers=dict(HEADERS))
        response.force_close()
        return response


@web.middleware
async def _counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    connection = request.protocol
    if not isinstance(connection, _Connection):
        return await handler(request)
    connection.begin()
    try:
        return await handler(request)
    finally:
        connection.end()


def _full() -> Overloaded:
    return Overloaded("the listener has as many connections as it takes", reason="too_many_connections")


@asynccontextmanager
async def serve(
    app: web.Application,
    *,
    listen: Address,
    clock: Clock,
    certificate_file: Path | None = None,
    key_file: Path | None = None,
) -> AsyncIterator[Address]:
    """Serve ``app`` while the context is open; yields the address that was bound.

    Raises ConfigurationError where certificate and key cannot be used, OSError where nothing can be bound.
    """
    files = (certificate_file, key_file) if certificate_file and key_file else None
    tls = await ReloadedTls.load(*files, clock=clock) if files else None
    app.middlewares.insert(0, _counted)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN)
    await runner.setup()
    try:
        server = runner.server
        if server is None:
            raise RuntimeError("the runner made no server")
        slots = CallSlots(MOST_CONNECTIONS, _full)
        listener = await asyncio.get_running_loop().create_server(
            lambda: _Connection(server, slots),
            listen.host,
            listen.port,
            ssl=tls.outer if tls else None,
            ssl_handshake_timeout=HANDSHAKE if tls else None,
        )
        try:
            bound = Address(listen.host, int(listener.sockets[0].getsockname()[1]))
            _logger.info("status is served", extra={"address": str(bound), "tls": tls is not None})
            watcher = asyncio.create_task(tls.watch()) if tls else None
            try:
                yield bound
            finally:
                if watcher is not None:
                    watcher.cancel()
                    await asyncio.wait([watcher])
        finally:
            listener.close()
    finally:
        await runner.cleanup()


T = TypeVar("T")
_Mark: TypeAlias = tuple[tuple[int, int, int], ...]
"""Inode, time of change and size of each file."""


class ReloadedTls:
    """A server context that hands each handshake the newest certificate that could be loaded with its key."""

    def __init__(
        self, certificate_file: Path, key_file: Path, clock: Clock, mark: _Mark, inner: ssl.SSLContext
    ) -> None:
        """``mark`` is of the files that ``inner`` was loaded from."""
        self._files = (certificate_file, key_file)
        self._clock = clock
        self._mark = mark
        self._inner = inner
        self.outer = inner

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._inner

        self.outer.sni_callback = choose

    @classmethod
    async def load(cls, certificate_file: Path, key_file: Path, *, clock: Clock) -> Self:
        """Load both files; raises ConfigurationError where they cannot be used."""
        try:
            mark, context = await read_in_time(
                f"{certificate_file} and {key_file}", partial(_load, (certificate_file, key_file))
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                [
                    Mistake(
                        file=str(certificate_file),
                        key="status.certificate_file",
                        problem=f"it cannot be used with {key_file}: {getattr(error, 'strerror', None) or error}",
                        remedy="give a PEM certificate chain, leaf first, and the key that belongs to it",
                    )
                ]
            ) from error
        return cls(certificate_file, key_file, clock, mark, context)

    async def watch(self) -> None:
        """Take up changed files until cancelled; a pair that does not fit keeps the one before it."""
        logged = ""
        while True:
            try:
                if await self._in_time(_mark) != self._mark:
                    self._mark, self._inner = await self._in_time(_load)
                    _logger.info("the status certificate was replaced")
                    logged = ""
            except (OSError, ValueError) as error:
                if str(error) != logged:
                    logged = str(error)
                    _logger.warning("the status certificate was not taken up: %s", error)
            await self._clock.sleep(POLL)

    async def _in_time(self, read: Callable[[tuple[Path, Path]], T]) -> T:
        return await read_in_time(" and ".join(map(str, self._files)), partial(read, self._files))


def _load(files: tuple[Path, Path]) -> tuple[_Mark, ssl.SSLContext]:
    """A context, and the mark from before it was read: whatever changes from then on is seen as a change."""
    return _mark(files), _context(*files)


def _context(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate_file, key_file, password=_no_password)
    return context


def _no_password() -> str:
    """Called where OpenSSL would otherwise ask on the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted")


def _mark(files: tuple[Path, ...]) -> _Mark:
    marks: list[tuple[int, int, int]] = []
    for file in files:
        try:
            found = file.stat()
            marks.append((found.st_ino, found.st_mtime_ns, found.st_size))
        except OSError:
            marks.append((0, 0, 0))
    return tuple(marks)


def create_probes_app(ready: Callable[[], Awaitable[bool]]) -> web.Application:
    """``/healthz`` and ``/readyz`` alone, for a listener that only a kubelet has to reach.

    It needs no token and says no more than what a probe asks.
    """

    async def readyz(_: web.Request) -> web.StreamResponse:
        return readiness([] if await ready() else ["the role is not ready: its log and status say why"])

    app = web.Application(middlewares=[errors_into_problems({})], client_max_size=1)
    app.on_response_prepare.append(add_headers)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


def create_health_app(
    report: Callable[[], SignerReport | ControllerReport], *, config: ConfigStatus, clock: Clock
) -> web.Application:
    """``/healthz``, ``/readyz`` and ``/metrics``; the status token guards the last as it does on the hub."""

    async def readyz(_: web.Request) -> web.StreamResponse:
        now = report()
        return readiness([] if now.ready else now.reasons or ["the role is not ready"])

    async def metrics(request: web.Request) -> web.StreamResponse:
        made = role_metrics(report(), clock.now().timestamp(), version=hub_version())
        response = answer(request, made, content_type="text/plain")
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    guard = Guard(config, clock, unguarded=PROBES)
    app = web.Application(middlewares=[errors_into_problems({}), guard.middleware], client_max_size=1)
    app.on_response_prepare.append(add_headers)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app
