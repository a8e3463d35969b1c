"""The listening side: TLS, the port that may close and come back, and connections that can be cut."""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from federation.sandbox.apiserver.handler import MAX_BODY, Handler
from federation.sandbox.ports import free_port

_DRAIN = 0.5  # seconds that requests under way may take when the server stops for good


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=MAX_BODY
    )


class Server:
    """One TLS listener on loopback."""

    def __init__(self, handler: Handler, context: ssl.SSLContext) -> None:
        self._handler = handler
        self._context = context
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self.port = free_port()

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        return self._listener is not None

    async def open(self) -> None:
        """Listen, on the same port every time."""
        http = web.Server(
            self._handler, request_factory=_make_request, handler_cancellation=True, access_log=None
        )
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            http, "127.0.0.1", self.port, ssl=self._context, reuse_address=True, backlog=1024
        )
        self._http, self._listener = http, listener

    async def close(self) -> None:
        """Close the port and cut every connection, as when the machine goes away."""
        if self._listener is None or self._http is None:
            return
        self._listener.close()
        self._listener = None
        self.cut()
        await self._http.shutdown(_DRAIN)

    def cut(self) -> None:
        """Cut every connection; the port stays open."""
        for connection in list(self._http.connections) if self._http is not None else ():
            if connection.transport is not None:
                connection.transport.abort()
