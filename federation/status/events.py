"""Says when the status changes, as Server-Sent Events (WHATWG HTML, section 9.2): which kinds, never the content.

One task reads the status once a second while there are streams, and compares digests by kind. A stream holds no queue:
it remembers what it sent last, and what was missed meanwhile is one event. A caller that comes back with
``Last-Event-ID`` is sent what changed since. Where this process does not know that identifier, everything may have.

Events:

- ``status``: ``{"revision", "changed", "verdict"}``. ``revision`` is the event's ``id``; ``changed`` names kinds
  (:data:`KINDS`), and a caller asks for those it shows. Signs of life alone are no change.
- ``unavailable``: the state cannot be read, so nothing is known. It has no ``id``.

Between events comments keep proxies from closing the connection. A stream ends when its caller may read no more, after
:data:`LONGEST` seconds, when its caller does not read, and when the process ends: the caller connects again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from hashlib import sha256
from typing import Final

import msgspec
from aiohttp import web

from federation.core.clock import Clock
from federation.core.errors import Overloaded, StateUnavailable
from federation.status.answers import problem
from federation.status.model import FederationStatus, Verdict
from federation.status.revision import without_signs_of_life
from federation.status.snapshot import DocumentSet
from federation.status.view import StatusSource

_logger = logging.getLogger(__name__)

POLL: Final = 1.0  # seconds between two looks: an event is on a screen within two
HEARTBEAT: Final = 15.0  # seconds without anything sent; proxies close what is silent for 30 to 60
WRITE_TIMEOUT: Final = 10.0  # seconds for what was sent before to be taken by a caller
LONGEST: Final = 900.0  # seconds: callers spread over replicas again, and what was forgotten ends
RECONNECT: Final = 2000  # milliseconds that a caller waits before it comes back
SEND_BUFFER: Final = 16 * 1024  # bytes that the system keeps for a caller that does not read
MOST_STREAMS: Final = 64  # of the 256 connections of the listener
MOST_PER_CALLER: Final = 16  # one token may be a team's, behind one proxy
COMMENT: Final = ":\n\n"
MOST_REMEMBERED: Final = 128  # revisions: two minutes of a hub in which something happens every second
MOST_ID: Final = 64  # characters of an identifier that is looked up

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "verdict": ("verdict", "summary"),
    "attention": ("attention", "setbacks"),
    "clusters": ("clusters",),
    "matrix": ("matrix",),
    "bundle": ("bundle", "proposals", "member_cas", "unpinned", "removed_clusters", "departures"),
    "generations": ("generations",),
    "authorities": ("authorities",),
    "signers": ("signers",),
    "controllers": ("controllers",),
    "rotation": ("rotation", "rotation_problem", "rotation_plan", "directives", "quarantined"),
    "configuration": ("trust_domain", "insecure_options", "open_policies", "config_problems"),
    "issuance": ("certificates_issued", "refusals"),
    "operations": (),  # of the documents
}
"""The fields of a status that each kind stands for."""


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an event ``status``: the kinds that changed since the event before it on this stream."""

    revision: str
    changed: list[str]
    verdict: Verdict


def digests(documents: DocumentSet, status: FederationStatus) -> dict[str, bytes]:
    """The digest of each kind. Pure."""
    content = without_signs_of_life(status)
    found = {
        kind: _digest([getattr(content, name) for name in names]) for kind, names in KINDS.items() if names
    }
    return found | {"operations": _digest(list(documents.operations))}


def _digest(content: object) -> bytes:
    return sha256(msgspec.json.encode(content)).digest()


class StatusFeed:
    """The revisions of the status while anyone listens; ``follow`` while a stream is open."""

    def __init__(self, source: StatusSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._followers = 0
        self._task: asyncio.Task[None] | None = None
        self._ticked = asyncio.Event()
        self._composed: FederationStatus | None = None
        self._digests: dict[str, bytes] = {}
        self._history: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self.revision = ""
        """The newest one; empty before the first look."""
        self.verdict: Verdict = "degraded"
        self.available = True
        self.closing = False

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Look once a second while the context is open."""
        self._followers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._task.cancel()
                self._task = None
                self.revision, self._composed = "", None  # no one looked since

    def close(self) -> None:
        """Let every stream end."""
        self.closing = True
        self._tick()

    async def tick(self) -> None:
        """Wait for the next look."""
        await self._ticked.wait()

    def changed_since(self, known: str) -> list[str]:
        """The kinds that differ from a revision; all of them where this process does not remember it."""
        before = self._history.get(known)
        if before is None:
            return list(KINDS)
        return [kind for kind in KINDS if before[kind] != self._digests[kind]]

    async def _run(self) -> None:
        while True:
            await self._look()
            self._tick()
            await self._clock.sleep(POLL)

    def _tick(self) -> None:
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    async def _look(self) -> None:
        try:
            documents, status = await self._source.read()
            if status is not self._composed:
                # 200 clusters are megabytes: in a thread, as metrics are
                found = await asyncio.to_thread(digests, documents, status)
                self._take(found)
                self._composed = status
            self.verdict, self.available = status.verdict, True
        except StateUnavailable:  # the source has logged it
            self.available = False
        except Exception:
            if self.available:
                _logger.exception("the event stream cannot read the status")
            self.available = False

    def _take(self, found: dict[str, bytes]) -> None:
        self._digests = found
        self.revision = sha256(b"".join(found[kind] for kind in KINDS)).hexdigest()[:32]
        self._history[self.revision] = found
        self._history.move_to_end(self.revision)
        while len(self._history) > MOST_REMEMBERED:
            self._history.popitem(last=False)


class _Streams:
    """How many streams there are, of each caller and in all."""

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()

    @contextmanager
    def enter(self, caller: str) -> Iterator[None]:
        """Raises Overloaded where there are too many."""
        if self._of[caller] >= MOST_PER_CALLER:
            raise Overloaded(
                "this caller has as many event streams as one may have", reason="streams_of_caller"
            )
        if self._of.total() >= MOST_STREAMS:
            raise Overloaded("there are as many event streams as this hub takes", reason="streams")
        self._of[caller] += 1
        try:
            yield
        finally:
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]


class EventStreams:
    """The handler of ``/api/v1/events``.

    ``caller_of`` says who shares limits with the caller of a request; ``may_read`` whether it still may read, which
    is asked again before anything is sent.
    """

    def __init__(
        self,
        source: StatusSource,
        clock: Clock,
        *,
        caller_of: Callable[[web.Request], str],
        may_read: Callable[[web.Request], Awaitable[bool]],
    ) -> None:
        self._feed = StatusFeed(source, clock)
        self._clock = clock
        self._caller_of = caller_of
        self._may_read = may_read
        self._streams = _Streams()

    async def close(self, _: web.Application) -> None:
        """Signal handler of ``on_shutdown``: streams end at once, so that a process that ends waits for none."""
        self._feed.close()

    async def get(self, request: web.Request) -> web.StreamResponse:
        """The stream. HEAD is answered by its headers alone."""
        try:
            with self._streams.enter(self._caller_of(request)):
                response = web.StreamResponse(
                    headers={
                        "Content-Type": "text/event-stream",
                        "X-Accel-Buffering": "no",  # nginx would keep events until its buffer is full
                    }
                )
                await response.prepare(request)
                if request.method != "HEAD":
                    with self._feed.follow():
                        await self._send_events(request, response)
                return response
        except Overloaded as error:
            return problem(
                429,
                "Too many streams",
                error.what,
                remedy="close one, or ask for /api/v1/status with If-None-Match instead",
                headers={"Retry-After": "10"},
            )

    async def _send_events(self, request: web.Request, response: web.StreamResponse) -> None:
        _notice_what_is_not_read(request.transport)
        try:
            async with aclosing(self._events(request)) as events:
                async for text in events:
                    async with asyncio.timeout(WRITE_TIMEOUT):
                        await response.write(text.encode())
            async with asyncio.timeout(WRITE_TIMEOUT):
                await response.write_eof()
        except (ConnectionError, TimeoutError):
            response.force_close()
            if request.transport is not None:
                request.transport.abort()

    async def _events(self, request: web.Request) -> AsyncGenerator[str]:
        """What to send, in order; ends where the stream does."""
        sent = request.headers.get("Last-Event-ID", "")[:MOST_ID]
        shows_unavailable = False
        began = spoke = self._clock.monotonic()
        yield f"retry: {RECONNECT}\n\n"
        while not self._is_over(request, began):
            text = ""
            if not self._feed.available:
                text = "" if shows_unavailable else "event: unavailable\ndata: {}\n\n"
                shows_unavailable = True
            elif self._feed.revision and (self._feed.revision != sent or shows_unavailable):
                changed = self._feed.changed_since("" if shows_unavailable else sent)
                text = self._event(changed)
                sent, shows_unavailable = self._feed.revision, False
            elif self._clock.monotonic() - spoke >= HEARTBEAT:
                text = COMMENT
            if not text:
                await self._feed.tick()
                continue
            if not await self._may_read(request):
                return
            spoke = self._clock.monotonic()
            yield text

    def _event(self, changed: list[str]) -> str:
        revision = self._feed.revision
        data = msgspec.json.encode(
            StatusEvent(revision=revision, changed=changed, verdict=self._feed.verdict)
        ).decode()
        return f"event: status\nid: {revision}\ndata: {data}\n\n"

    def _is_over(self, request: web.Request, began: float) -> bool:
        gone = request.transport is None or request.transport.is_closing()
        return gone or self._feed.closing or self._clock.monotonic() - began >= LONGEST


def _notice_what_is_not_read(transport: asyncio.Transport | None) -> None:
    """Keep little for a caller that does not read, so that a write soon has to wait for it."""
    if transport is None:
        return
    transport.set_write_buffer_limits(high=0)
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
