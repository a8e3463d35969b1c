"""The listening side and a request's way through the server; what was asked is kept for tests that count.

The listener has TLS, a port that may close and come back, and connections that can be cut. A request meets faults,
authentication, authorization, then the answer: the same order as in kube-apiserver, so that a caller without
permission learns 403 and not whether an object exists. The journal has one record for each request, and totals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from federation_sandbox.apiserver import port_forward, requests
from federation_sandbox.apiserver.authentication import ANONYMOUS, Authenticator, KeyRing, User
from federation_sandbox.apiserver.discovery import Discovery
from federation_sandbox.apiserver.faults import Answer, Cut, Delay, Faults, Garbage, Gone, Hang
from federation_sandbox.apiserver.lists import Selection
from federation_sandbox.apiserver.rbac import Rbac
from federation_sandbox.apiserver.requests import RequestInfo, read_request
from federation_sandbox.apiserver.resources import PODS, ResourceTable
from federation_sandbox.apiserver.rest import Call, Rest
from federation_sandbox.apiserver.reviews import Reviews
from federation_sandbox.apiserver.status import (
    ApiError,
    expired,
    method_not_allowed,
    no_such_resource,
    not_found,
    too_large,
)
from federation_sandbox.apiserver.store import Store, encode
from federation_sandbox.apiserver.tables import Tables
from federation_sandbox.apiserver.watches import TOO_OLD, Watch, WatchOptions
from federation_sandbox.ports import free_port

_logger = logging.getLogger(__name__)

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_KEPT = 10_000
_REVIEWS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})


@dataclass(frozen=True, slots=True)
class Record:
    """One answered request. ``status`` is the HTTP code, 0 where the connection was cut or hung instead.

    ``source`` is the address that it came from.
    """

    user: str
    info: RequestInfo
    status: int
    source: str = ""

    @property
    def writes(self) -> bool:
        """Whether it could change an object: reviews and token requests are POSTs that do not."""
        return (
            self.info.verb in WRITES and self.info.group not in _REVIEWS and self.info.subresource != "token"
        )


class Journal:
    """All requests since the start or the last :meth:`reset`. Watches are recorded when they begin."""

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, str, int]] = Counter()
        self.recent: deque[Record] = deque(maxlen=_KEPT)
        self.on_record: Callable[[Record], None] = lambda _: None

    def add(self, record: Record) -> None:
        """Count a request."""
        resource = record.info.full_resource or record.info.path
        self.totals[record.info.verb, resource, record.status] += 1
        self.recent.append(record)
        self.on_record(record)

    def count(self, *, verb: str = "", resource: str = "", status: int | None = None) -> int:
        """How many requests match; ``resource`` is ``pods``, ``pods/status`` or a path like ``/version``."""
        return sum(
            number
            for (one_verb, one_resource, one_status), number in self.totals.items()
            if verb in {"", one_verb} and resource in {"", one_resource} and status in {None, one_status}
        )

    @property
    def writes(self) -> int:
        """Successful requests that could change an object."""
        return sum(record.writes and 200 <= record.status < 300 for record in self.recent)

    def by(self, user: str) -> list[Record]:
        """The recent requests of one user."""
        return [record for record in self.recent if record.user == user]

    def reset(self) -> None:
        """Start counting anew."""
        self.totals.clear()
        self.recent.clear()


MAX_BODY = 3 * 1024 * 1024  # kube-apiserver's MaxRequestBodyBytes
_KEYS = "/openid/v1/jwks"
_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a request may meet on its way."""

    store: Store
    table: ResourceTable
    keys: KeyRing
    authenticator: Authenticator
    rbac: Rbac
    reviews: Reviews
    discovery: Discovery
    rest: Rest
    tables: Tables
    faults: Faults
    journal: Journal
    now: Callable[[], datetime]
    pod_ports: Mapping[tuple[str, str, int], int]
    """Where on this machine it is that listens at a port of a pod: by namespace, pod and port."""
    issuer: Callable[[], str]
    address: Callable[[], str]  # host:port, known once the server listens


@dataclass(slots=True)
class _Reply:
    code: int
    body: bytes
    content_type: str = requests.JSON
    headers: Mapping[str, str] | None = None


class _DroppedError(Exception):
    """The connection is to be cut without an answer."""


class Handler:
    """Answers HTTP requests for one cluster."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        info = read_request(request.method, request.path, request.query)
        user = ANONYMOUS
        try:
            await self._strike_before(info)
            user = self._caller(request)
            self._parts.rbac.check(user, info)
            if info.verb == "watch":
                return await self._watch(request, info, user)
            if (info.resource, info.subresource) == ("pods", "portforward"):
                return await self._forward(request, info, user)
            reply = await self._answer(request, info, user)
        except ApiError as error:
            reply = _Reply(error.code, encode(error.status()), headers=error.headers)
        except _DroppedError:
            self._record(request, user, info, 0)
            return _drop(request)
        except _GarbledError as garbled:
            reply = garbled.reply
        self._record(request, user, info, reply.code)
        return await self._send(request, info, reply)

    def _record(self, request: web.BaseRequest, user: User, info: RequestInfo, status: int) -> None:
        self._parts.journal.add(Record(user.name, info, status, request.remote or ""))

    async def _strike_before(self, info: RequestInfo) -> None:
        """Let the faults that replace or delay an answer do so, in the order they were injected."""
        for fault in self._parts.faults.matching(info):
            effect = fault.effect
            if isinstance(effect, Delay):
                fault.strike()
                await asyncio.sleep(effect.seconds)
            elif isinstance(effect, Hang):
                fault.hits += 1
                await fault.lifted.wait()
                raise _DroppedError
            elif isinstance(effect, Answer):
                fault.strike()
                headers = {} if effect.retry_after is None else {"Retry-After": str(effect.retry_after)}
                raise ApiError(effect.code, effect.reason, effect.message, headers=headers)
            elif isinstance(effect, Garbage):
                fault.strike()
                raise _GarbledError(_Reply(effect.code, effect.body, effect.content_type))
            elif isinstance(effect, Gone) and info.verb == "watch" and not effect.as_event:
                fault.strike()
                raise expired(TOO_OLD)

    def _caller(self, request: web.BaseRequest) -> User:
        transport = request.transport
        tls: Any = transport.get_extra_info("ssl_object") if transport is not None else None
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        return self._parts.authenticator.caller(request.headers.get("Authorization"), certificate)

    async def _answer(self, request: web.BaseRequest, info: RequestInfo, user: User) -> _Reply:
        if not info.resource:
            return self._other(request)
        body = await self._body(request)
        reviewed = info.verb == "create" and self._parts.reviews.kinds.get((info.group, info.resource))
        if reviewed:
            asked = requests.read_object(body, request.headers.get("Content-Type", ""), reviewed[0])
            answer = self._parts.reviews.answer(info.group, info.resource, info.namespace, asked, user)
            return _Reply(201, encode(answer))
        resource = self._parts.table.find(info.group, info.version, info.resource)
        if resource is None:
            return self._nothing_there(info)
        call = Call(
            info=info,
            query=request.query,
            user=user,
            view=requests.view(request.headers.get("Accept", "")),
            content_type=request.headers.get("Content-Type", ""),
            user_agent=request.headers.get("User-Agent", ""),
            body=body,
        )
        return _Reply(*self._parts.rest.answer(resource, call))

    async def _forward(self, request: web.BaseRequest, info: RequestInfo, user: User) -> web.StreamResponse:
        self._parts.rbac.check(user, replace(info, verb="create"))
        port = port_forward.wanted_port(request)
        if self._parts.store.get(PODS, info.namespace, info.name) is None:
            raise not_found(PODS, info.name)
        self._record(request, user, info, 101)
        return await port_forward.forward(
            request, port, self._parts.pod_ports.get((info.namespace, info.name, port))
        )

    async def _body(self, request: web.BaseRequest) -> bytes:
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(MAX_BODY) from None

    def _other(self, request: web.BaseRequest) -> _Reply:
        """Discovery, health and the token issuer's documents."""
        path, parts = request.path, self._parts
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed()
        if path in _HEALTH:
            return _Reply(200, b"ok", "text/plain; charset=utf-8")
        accept = request.headers.get("Accept", "")
        requests.check_document(accept, requests.JWK_SET if path == _KEYS else requests.JSON)
        published = {"Cache-Control": "public, max-age=3600"}
        if path == "/.well-known/openid-configuration":
            address = f"https://{parts.address()}{_KEYS}"
            return _Reply(200, encode(parts.keys.discovery(parts.issuer(), address)), headers=published)
        if path == _KEYS:
            return _Reply(200, encode(parts.keys.jwks()), requests.JWK_SET, published)
        found = parts.discovery.answer(path, parts.address())
        return _Reply(200, encode(found)) if found is not None else _page_not_found()

    def _nothing_there(self, info: RequestInfo) -> _Reply:
        if self._parts.discovery.serves(info.group):
            raise no_such_resource()
        return _page_not_found()

    async def _watch(self, request: web.BaseRequest, info: RequestInfo, user: User) -> web.StreamResponse:
        parts = self._parts
        resource = parts.table.find(info.group, info.version, info.resource)
        if resource is None or info.subresource:
            raise no_such_resource()
        options = WatchOptions.read(request.query, requests.view(request.headers.get("Accept", "")))
        selection = Selection.read(resource, info.namespace if resource.namespaced else "", request.query)
        watch = Watch(parts.store, parts.faults, info, selection, options, tables=parts.tables)
        cut = parts.faults.find(Cut, info)
        response = web.StreamResponse(headers=self._headers(requests.JSON))
        response.enable_chunked_encoding()
        await response.prepare(request)
        self._record(request, user, info, 200)
        sent = 0
        try:
            async with aclosing(watch.lines()) as stream:
                async for lines in stream:
                    if cut is not None and sent + len(lines) > cut[1].after:
                        cut[0].strike()
                        await response.write(lines[: max(0, cut[1].after - sent)])
                        return _drop(request)
                    await response.write(lines)
                    sent += len(lines)
            await response.write_eof()
        except (ConnectionError, OSError):
            _logger.debug("watch ended by its client", extra={"path": info.path})
        return response

    async def _send(self, request: web.BaseRequest, info: RequestInfo, reply: _Reply) -> web.StreamResponse:
        headers = self._headers(reply.content_type) | dict(reply.headers or {})
        cut = self._parts.faults.find(Cut, info)
        if cut is None:
            return web.Response(status=reply.code, body=reply.body, headers=headers)
        cut[0].strike()
        response = web.StreamResponse(status=reply.code, headers=headers)
        response.content_length = len(reply.body)
        await response.prepare(request)
        await response.write(reply.body[: min(cut[1].after, len(reply.body) - 1)])
        return _drop(request)

    def _headers(self, content_type: str) -> dict[str, str]:
        return {
            "Content-Type": content_type,
            "Date": format_datetime(self._parts.now(), usegmt=True),
            "Cache-Control": "no-cache, private",
            "Audit-Id": str(uuid.uuid4()),
        }


class _GarbledError(Exception):
    """An answer that a fault put in place of the right one."""

    def __init__(self, reply: _Reply) -> None:
        super().__init__(reply.code)
        self.reply = reply


def _page_not_found() -> _Reply:
    return _Reply(404, b"404 page not found\n", "text/plain; charset=utf-8")


def _drop(request: web.BaseRequest) -> web.StreamResponse:
    """Cut the connection; what was written stays unfinished."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


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
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
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
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        listener.setblocking(False)
        self._http, self._listener = http, listener
        self._accepting = asyncio.create_task(self._accept(http, listener))

    async def _accept(self, http: web.Server, listener: socket.socket) -> None:
        """Accept until cancelled. asyncio's own servers forget connections whose handshake is not over yet."""
        loop = asyncio.get_running_loop()
        new: set[socket.socket] = set()

        async def shake_hands(accepted: socket.socket) -> None:
            new.discard(accepted)
            with contextlib.suppress(OSError):  # ssl.SSLError is one
                await loop.connect_accepted_socket(http, accepted, ssl=self._context)

        def accept() -> None:
            with contextlib.suppress(OSError):  # none waits any more, or it has gone away
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                new.add(accepted)
                handshakes.create_task(shake_hands(accepted))

        try:
            async with asyncio.TaskGroup() as handshakes:
                # Not loop.sock_accept: cancelled in the moment in which it has accepted one, it forgets that.
                loop.add_reader(listener, accept)
                try:
                    await loop.create_future()
                finally:
                    loop.remove_reader(listener)
        finally:
            for accepted in new:  # a task that was cancelled before it began has closed nothing
                accepted.close()

    async def close(self) -> None:
        """Close the port and cut every connection, as when the machine goes away."""
        if self._listener is None or self._http is None or self._accepting is None:
            return
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._listener.close()
        self._listener = self._accepting = None
        self.cut()
        await self._http.shutdown(_DRAIN)

    def cut(self) -> None:
        """Cut every connection; the port stays open."""
        for connection in list(self._http.connections) if self._http is not None else ():
            if connection.transport is not None:
                connection.transport.abort()
