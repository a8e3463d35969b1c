"""One client connection: TLS on its descriptor, HTTP/2 by nghttp2, and calls of one message and one reply.

Everything happens in callbacks of the loop, a few KiB at a time, so that no connection delays another; only a call
whose message has arrived has a task. All that a connection waits for has a deadline, and one timer enforces them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Final, Protocol

import ngh2

from federation.core.call_slots import CallSlot, CallSlots
from federation.core.config.hub import ListenerConfig
from federation.core.connections import Seat
from federation.core.errors import FederationError, NotReady, Overloaded, RequestRefused
from federation.core.istio.ca_protocol import MAX_RESPONSE_BYTES
from federation.signer.listeners.frame_limits import Flood, FrameWatch
from federation.signer.listeners.grpc import (
    MAX_METADATA_BYTES,
    NO_GRPC,
    OK_TRAILERS,
    REPLY_HEADERS,
    Answered,
    CallRefused,
    Head,
    Header,
    MessageReader,
    answer_to,
    is_grpc,
    read_head,
    refused_headers,
    write_message,
)
from federation.signer.listeners.tls import ALPN, TlsSocket

_logger = logging.getLogger(__name__)

MAX_STREAMS: Final = 16  # calls at once on one connection; an agent has one, a ztunnel eight
STREAMS_BEFORE_THE_END: Final = (
    64  # open at once: what is past MAX_STREAMS is refused, what is past these ends it
)
MOST_UNSENT: Final = 65536  # bytes that wait for a slow reader before nothing more is read from it
NOTICE: Final = (
    0.5  # seconds between the notice of an end and the end of new calls: what is on its way comes in
)
CONNECTION_GRACE: Final = 30.0  # seconds for calls under way on a connection that has reached its age
MOST_REFUSED: Final = 64  # calls in a row without a proven caller, before their connection is closed

_CONFIGURATION: Final = ngh2.Configuration(
    # What is between the two is read and refused with a status; past the second the connection ends.
    max_inbound_header_list_size=2 * MAX_METADATA_BYTES,
    max_inbound_header_count=256,
    max_outbound_ack=64,
)
_SETTINGS: Final = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: STREAMS_BEFORE_THE_END,  # told as MAX_STREAMS, see _told
    ngh2.Setting.MAX_HEADER_LIST_SIZE: MAX_METADATA_BYTES,
}
CALM: Final = ngh2.ErrorCode.ENHANCE_YOUR_CALM
BROKEN: Final = ngh2.ErrorCode.PROTOCOL_ERROR


class CallHandler(Protocol):
    """A protocol that a shell carries."""

    @property
    def method(self) -> str:
        """The full name of its one method: ``/package.Service/Method``."""
        ...

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, place: CallSlot
    ) -> bytes:
        """The reply's bytes; raises Answered instead. Says at ``place`` when the caller is proven."""
        ...

    def reject(self, error: FederationError, *, peer: str) -> None:
        """A call was ended by the transport, and why."""
        ...

    def connection_refused(self, error: FederationError, *, peer: str) -> None:
        """A connection was ended by the transport, and why."""
        ...


class ListenerDependencies(Protocol):
    """What the connections of one listener share."""

    listener: CallHandler
    config: ListenerConfig
    places: CallSlots
    loop: asyncio.AbstractEventLoop
    method: bytes

    def run(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task that is ended with the listener."""
        ...

    def receive_deadline(self) -> float:
        """Seconds for a message after its headers."""
        ...

    def ended(self, connection: Connection) -> None:
        """It is closed."""
        ...


class _Call:
    """A call that came in, until its reply is handed over or its caller has gone."""

    __slots__ = ("allowed", "begun", "deadline", "end", "ended", "head", "message", "place", "stream", "task")

    def __init__(self, stream: int, head: Head, message: MessageReader, now: float) -> None:
        self.stream: Final = stream
        self.head: Final = head
        self.message: Final = message
        self.end: Final = math.inf if head.timeout is None else now + head.timeout
        self.deadline = math.inf
        """When its message has to be there."""
        self.place: CallSlot | None = None
        self.ended = False
        """Whether the caller has said all that it will say."""
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """Whether its task has begun: one that is ended before that runs none of its lines."""
        self.allowed: asyncio.Timeout | None = None


class Connection:
    """One connection, from its acceptance on. Its seat is taken and left by who accepts."""

    def __init__(self, around: ListenerDependencies, sock: socket.socket, peer: str, now: float) -> None:
        self._around = around
        self._socket = sock
        self._tls: TlsSocket | None = None
        self._descriptor = sock.fileno()
        self._session: ngh2.Connection | None = None
        self._watch: FrameWatch | None = None
        self._calls: dict[int, _Call] = {}
        self._working = 0  # calls that have a task
        self._last_stream = 0
        self._unsent = bytearray()
        self._unsent_since: float | None = None
        self._reads = self._writes = False  # what the loop watches the descriptor for
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._begun = math.inf  # when the handshake began
        self._greeted = False  # the client's first settings were read
        self._left = False  # the client has said that it will call no more
        self._ending = False  # and so have we, or at least that we shall
        self._goaway_at = self._grace_end = self._age_end = math.inf
        self._idle_since = now
        self._refused = 0  # calls in a row
        self._in_hand = False  # what was received is being looked at; what there is to send is sent after it
        self.peer: Final = peer
        self.seat: Seat | None = None
        self.closed = False

    # --- TLS -------------------------------------------------------------------------------------------------------

    def shake_hands(self, context: ssl.SSLContext, *, age: float) -> None:
        """Its turn has come: begin with the handshake. ``age`` is how many seconds it may live from now on."""
        self._guard(partial(self._begin, context, age))

    def _begin(self, context: ssl.SSLContext, age: float) -> None:
        now = self._around.loop.time()
        self._tls = TlsSocket(self._socket, context, now)
        self._begun = now
        self._age_end = now + age
        self._watch_reading(on=True)
        self._readable()
        if not self.closed:
            self._arm(now)

    def _guard(self, step: Callable[[], None]) -> None:
        """Take a step; one that fails for a reason nobody foresaw ends this connection, and nothing else."""
        try:
            step()
        except Exception:
            _logger.exception("a connection failed for a reason nobody foresaw", extra={"peer": self.peer})
            self.close()

    def _readable(self) -> None:
        tls = self._tls
        if tls is None or self.closed:
            return
        try:
            tls.receive(self._around.loop.time())
            if self._session is None and not self._shake(tls):
                return
            data = tls.read()
        except (BlockingIOError, InterruptedError):
            return
        except Flood as flood:
            self._refuse(flood.reason, "it sends more records of TLS than any caller has use for", CALM)
            return
        except (OSError, ValueError):
            self.close()
            return
        if data:
            self._take(data)
        if tls.ended:
            self.close()
        elif tls.waiting:
            self._send()

    def _shake(self, tls: TlsSocket) -> bool:
        """Whether the handshake is done, and HTTP/2 may begin."""
        try:
            done = tls.shake_hands()
            if not tls.flush():
                self._watch_writing(on=True)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
            if tls.silent:  # a load balancer looks whether anybody is here
                self.close()
            else:
                self._refuse("handshake_failed", "it left in the middle of its TLS handshake")
            return False
        except ssl.SSLError as error:
            self._refuse("handshake_failed", f"its TLS handshake failed: {error.reason or 'malformed'}")
            return False
        if not done:
            return False
        if tls.protocol != ALPN:
            self._refuse("no_http2", "it did not agree on HTTP/2 in its TLS handshake (ALPN)")
            return False
        now = self._around.loop.time()
        self._watch = FrameWatch(now, ping_interval=self._around.config.min_keepalive_interval)
        self._session = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._session.initiate_connection(_SETTINGS)
        self._unsent += _told(self._session.data_to_send())
        self._idle_since = now
        self._send()
        return not self.closed

    def _writable(self) -> None:
        tls = self._tls
        self._watch_writing(on=False)
        if tls is None:
            return
        if self._session is not None:
            self._send()
            return
        try:
            if not tls.flush():
                self._watch_writing(on=True)
        except OSError:
            self.close()

    def _watch_reading(self, *, on: bool) -> None:
        if on is not self._reads:
            self._reads = on
            if on:
                self._around.loop.add_reader(self._descriptor, self._guard, self._readable)
            else:
                self._around.loop.remove_reader(self._descriptor)

    def _watch_writing(self, *, on: bool) -> None:
        if on is not self._writes:
            self._writes = on
            if on:
                self._around.loop.add_writer(self._descriptor, self._guard, self._writable)
            else:
                self._around.loop.remove_writer(self._descriptor)

    # --- HTTP/2 ----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        session, watch = self._session, self._watch
        if session is None or watch is None:
            return
        self._in_hand = True
        try:
            watch.feed(data, self._around.loop.time())
            session.receive_data(data)
            self._see(session.events())
        except Flood as flood:
            self._refuse(flood.reason, "it sends more frames than any caller has use for", CALM)
        except ngh2.DenialOfServiceError as error:
            reason = "metadata_too_large" if watch.in_headers else "frame_flood"
            self._refuse(reason, f"it sends too much: {error}", CALM)
        except ngh2.NGH2Error as error:
            self._refuse(self._broken, f"it does not speak HTTP/2: {error}", BROKEN)
        finally:
            self._in_hand = False
        self._send()

    @property
    def _broken(self) -> str:
        return "protocol_error" if self._greeted else "bad_preface"

    def _see(self, events: Iterable[ngh2.Event]) -> None:
        for event in events:
            match event:
                case ngh2.RequestReceived():
                    self._called(event.stream_id, event.headers, ended=event.end_stream)
                case ngh2.DataReceived():
                    self._more(event.stream_id, event.data, ended=event.end_stream)
                case ngh2.TrailersReceived():
                    self._more(event.stream_id, b"", ended=True)
                case ngh2.StreamReset():
                    self._gone(event.stream_id)
                case ngh2.StreamClosed():
                    if event.stream_id > self._last_stream:
                        self._never_was(event.stream_id)
                    self._gone(event.stream_id)
                case ngh2.SettingsReceived():
                    self._greeted = True
                case ngh2.GoAwayReceived():
                    self._left = True
                case _:
                    pass

    def _send(self) -> None:
        """Hand over what there is to send, and close what has come to its end."""
        session, tls = self._session, self._tls
        if self.closed or session is None or tls is None:
            return
        try:
            self._unsent += session.data_to_send()
            self._see(session.events())  # of streams that ended by being answered
            over = not (session.want_read or session.want_write)
            withheld = session.queued_body_size() > 0
        except ngh2.NGH2Error:
            over, withheld = True, False
        if self._session is not session or not self._write(tls):  # what was seen may have ended it
            return
        now = self._around.loop.time()
        waiting = bool(self._unsent or tls.waiting)
        if not waiting and not withheld:
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since = now
        if over and not waiting:
            if not (self._ending or self._left):
                self._count(self._broken, "it breaks the rules of HTTP/2")
            self.close(orderly=True)
            return
        self._arm(now)

    def _write(self, tls: TlsSocket) -> bool:
        """As much as the other end takes; False where the connection is closed."""
        try:
            everything = tls.write(self._unsent)
        except (OSError, ValueError):
            self.close()
            return False
        self._watch_writing(on=not everything)
        self._watch_reading(on=len(self._unsent) + tls.waiting <= MOST_UNSENT)
        return True

    # --- calls -----------------------------------------------------------------------------------------------------

    def _called(self, stream: int, headers: tuple[Header, ...], *, ended: bool) -> None:
        """A call begins."""
        session = self._session
        if session is None or self.closed:
            return
        self._last_stream = max(self._last_stream, stream)
        around = self._around
        if len(self._calls) >= MAX_STREAMS:
            # RFC 9113, 5.1.2: an error of the stream, and one after which the caller may try again (8.7).
            with contextlib.suppress(ngh2.NGH2Error):
                session.reset_stream(stream, ngh2.ErrorCode.REFUSED_STREAM)
            self._reject(RequestRefused(f"it has {MAX_STREAMS} calls already", reason="too_many_streams"))
            self._counts_refused()
            return
        if not is_grpc(headers):
            with contextlib.suppress(ngh2.NGH2Error):
                session.send_response(stream, NO_GRPC, end_stream=True)
            self._reject(RequestRefused("a request that is none of gRPC", reason="no_grpc"))
            self._stop_receiving(stream, ended=ended)
            return
        now = around.loop.time()
        reader = MessageReader(around.config.max_message_bytes)
        try:
            call = _Call(stream, read_head(headers, around.method), reader, now)
            call.place = around.places.enter(self.peer, give_way=partial(self._give_way, call))
        except CallRefused as refused:
            self._reject(refused.error)
            self._reply_refused(stream, refused.answer, ended=ended)
            return
        except Overloaded as error:
            self._reject(error)
            self._reply_refused(stream, answer_to(error), ended=ended)
            return
        call.deadline = min(call.end, now + around.receive_deadline())
        self._calls[stream] = call
        if ended:
            self._more(stream, b"", ended=True)

    def _more(self, stream: int, data: bytes, *, ended: bool) -> None:
        """A piece of a call's message, or its end."""
        call = self._calls.get(stream)
        if call is None or call.task is not None or call.place is None:
            return
        call.ended = ended
        try:
            if data:
                call.message.feed(data)
            if not ended:
                return
            message = call.message.message()
            call.place.received()
        except CallRefused as refused:
            self._reject(refused.error)
            self._refuse_call(call, refused.answer)
            return
        except Overloaded as error:
            self._reject(error)
            self._refuse_call(call, answer_to(error))
            return
        self._working += 1
        if self._working == 1 and self.seat is not None:
            self.seat.works()
        call.task = self._around.run(self._serve(call, call.place, message))

    def _never_was(self, stream: int) -> None:
        """Its headers were refused by nghttp2, which has reset it."""
        self._last_stream = max(self._last_stream, stream)
        what = "its headers break a rule of HTTP (RFC 9113, 8.2: white space around a value, a forbidden character)"
        self._reject(RequestRefused(what, reason="headers_malformed"))
        self._counts_refused()

    def _gone(self, stream: int) -> None:
        """Nobody waits for this call any more."""
        call = self._calls.get(stream)
        if call is not None:
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        if self._calls.pop(call.stream, None) is None:
            return
        if not self._calls:
            self._idle_since = self._around.loop.time()
        if call.task is not None:
            if call.task is not asyncio.current_task(self._around.loop):
                call.task.cancel()  # its end leaves the place
                if not call.begun and call.place is not None:
                    call.place.leave()
                    self._rests(proven=False)
        elif call.place is not None:
            call.place.leave()

    def _give_way(self, call: _Call) -> None:
        """Its place went to another."""
        place = call.place
        if call.task is not None:
            if call.allowed is not None and not call.allowed.expired():
                call.allowed.reschedule(self._around.loop.time())
        elif place is not None and place.gone is not None:
            self._reject(place.gone)
            self._refuse_call(call, answer_to(place.gone))
            if not self._in_hand:
                self._around.loop.call_soon(self._guard, self._send)

    async def _serve(self, call: _Call, place: CallSlot, message: bytes) -> None:
        """Have the listener answer, and reply."""
        proven, call.begun = False, True
        try:
            try:
                reply = _bounded(await self._decide(call, place, message))
            finally:
                proven = place.proven
                place.leave()
                self._rests(proven=proven)
        except Answered as answered:
            answer = answered
        except FederationError as error:
            self._reject(error)
            answer = answer_to(error)
        except asyncio.CancelledError as error:
            # Of something that the call waited for, not of the call: its caller would wait for ever.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _logger.exception("a call waited for something that was ended", extra={"peer": self.peer})
            answer = answer_to(NotReady(str(error)))
        except Exception as error:
            _logger.exception("a call failed unexpectedly", extra={"peer": self.peer})
            answer = answer_to(error)
        else:
            self._reply(call, reply)
            return
        self._refuse_call(call, answer)
        if not proven:
            self._counts_refused()
        self._send()

    async def _decide(self, call: _Call, place: CallSlot, message: bytes) -> bytes:
        clock = self._around.loop.time
        try:
            async with asyncio.timeout_at(min(call.end, clock() + self._around.config.deadline)) as allowed:
                call.allowed = allowed
                if place.gone is not None:
                    raise place.gone
                return await self._around.listener.handle(message, call.head.metadata, place=place)
        except TimeoutError:
            if place.gone is not None:
                raise place.gone from None
            raise NotReady("it was not decided before the deadline", reason="deadline") from None

    def _rests(self, *, proven: bool) -> None:
        """A call's task has ended."""
        self._working -= 1
        if proven:
            self._refused = 0
        if self.seat is not None and not self.closed:
            if proven and not self.seat.proven:
                self.seat.proved()
            if not self._working:
                self.seat.rests()

    # --- replies ---------------------------------------------------------------------------------------------------

    def _reply(self, call: _Call, reply: bytes) -> None:
        session = self._session
        if call.stream not in self._calls or session is None or self.closed:
            return
        with contextlib.suppress(ngh2.NGH2Error):  # the stream has gone in this very moment
            session.send_response(call.stream, REPLY_HEADERS)
            session.send_data(call.stream, write_message(reply))
            session.send_trailers(call.stream, OK_TRAILERS)
        if self._watch is not None and self._tls is not None:
            self._watch.answered()
            self._tls.watch.answered()
        self._forget(call)
        self._send()

    def _refuse_call(self, call: _Call, answer: Answered) -> None:
        if call.stream in self._calls:
            self._forget(call)
            self._reply_refused(call.stream, answer, ended=call.ended)

    def _reply_refused(self, stream: int, answer: Answered, *, ended: bool) -> None:
        session = self._session
        if session is None or self.closed:
            return
        headers = refused_headers(answer.code.value, answer.sentence)
        with contextlib.suppress(ngh2.NGH2Error):
            session.send_response(stream, headers, end_stream=True)
        self._stop_receiving(stream, ended=ended)

    def _stop_receiving(self, stream: int, *, ended: bool) -> None:
        """It was answered before its caller had said all: nothing more of it is wanted (RFC 9113, 8.1)."""
        session = self._session
        if ended or session is None:
            return
        with contextlib.suppress(ngh2.NGH2Error):
            self._unsent += session.data_to_send()  # a reset takes back what was not sent before it
            session.reset_stream(stream, ngh2.ErrorCode.NO_ERROR)

    def _reject(self, error: FederationError) -> None:
        self._around.listener.reject(error, peer=self.peer)

    def _counts_refused(self) -> None:
        self._refused += 1
        if self._refused == MOST_REFUSED:
            self._count("refused_calls", f"{MOST_REFUSED} calls in a row had no proven caller")
            self.retire()

    # --- the end ---------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """End it in good order: calls under way are answered, those on their way may come in a little longer."""
        self._guard(self._retire)

    def _retire(self) -> None:
        session = self._session
        if self.closed or self._ending:
            return
        if session is None:
            self.close()
            return
        now = self._around.loop.time()
        self._ending = True
        self._goaway_at, self._grace_end = now + NOTICE, now + CONNECTION_GRACE
        with contextlib.suppress(ngh2.NGH2Error):
            session.send_shutdown_notice()
        self._send()

    def refuse(self, reason: str) -> None:
        """It has to make room for another connection."""
        self._refuse(reason, "others have fewer connections, or have proved who they are")

    def _refuse(self, reason: str, what: str, code: ngh2.ErrorCode = ngh2.ErrorCode.NO_ERROR) -> None:
        """Count it and close it, with a word to the other end where it could read one."""
        if self.closed:
            return
        self._count(reason, what)
        if self._session is not None and self._tls is not None:
            said = b"too_many_pings" if reason == "ping_flood" else b""  # the word that gRPC's clients know
            self._unsent += goaway(self._last_stream, code, said)
            with contextlib.suppress(OSError, ValueError):
                self._tls.write(self._unsent)
        self.close(orderly=True)

    def _count(self, reason: str, what: str) -> None:
        """It is refused, and with it every call whose caller is not known yet."""
        for call in self._calls.values():
            if call.task is None:
                self._reject(RequestRefused(f"its connection is ended: {what}", reason=reason))
        self._around.listener.connection_refused(RequestRefused(what, reason=reason), peer=self.peer)

    def close(self, *, orderly: bool = False) -> None:
        """End it now, and every call on it."""
        if self.closed:
            return
        self.closed = True
        self._watch_reading(on=False)
        self._watch_writing(on=False)
        if self._timer is not None:
            self._timer.cancel()
        for call in list(self._calls.values()):
            self._forget(call)
        if self._tls is not None:
            with contextlib.suppress(OSError, ValueError):
                if orderly and self._session is not None:
                    self._tls.say_goodbye()
                else:
                    self._tls.flush()  # why a handshake failed
        self._socket.close()
        self._session = None
        self._around.ended(self)

    def _arm(self, now: float) -> None:
        """Set the timer to what is due first; one that is early looks again."""
        first = self._due()
        if first < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = first
            self._timer = self._around.loop.call_later(max(0.0, first - now), self._guard, self._look)

    def _due(self) -> float:
        config, watch = self._around.config, self._watch
        first = min(self._goaway_at, self._grace_end)
        if not self._greeted:
            first = min(first, self._begun + config.receive_deadline)
        elif watch is not None and watch.unfinished is not None:
            first = min(first, watch.unfinished + config.receive_deadline)
        if self._unsent_since is not None:
            first = min(first, self._unsent_since + config.deadline)
        if not self._ending:
            first = min(first, self._age_end)
            if not self._calls:
                first = min(first, self._idle_since + config.max_connection_idle)
        for call in self._calls.values():
            if call.task is None:
                first = min(first, call.deadline)
        return first

    def _look(self) -> None:
        """Something may be due."""
        self._timer, self._timer_at = None, math.inf
        now, config, watch = self._around.loop.time(), self._around.config, self._watch
        if self.closed:
            return
        if not self._greeted and now >= self._begun + config.receive_deadline:
            if self._session is None:
                self._refuse("handshake_late", "its TLS handshake did not end in time")
            else:
                self._refuse("preface_late", "its preface did not come in time")
            return
        unfinished = watch.unfinished if watch is not None and self._greeted else None
        if unfinished is not None and now >= unfinished + config.receive_deadline:
            self._refuse("late_frame", "a frame or its headers did not come to an end in time", CALM)
            return
        if self._unsent_since is not None and now >= self._unsent_since + config.deadline:
            self._refuse("slow_reader", "it does not read what it is sent")
            return
        if now >= self._grace_end:
            self.close(orderly=True)
            return
        self._look_at_calls(now)
        if now >= self._goaway_at:
            self._goaway_at = math.inf
            if self._session is not None:
                with contextlib.suppress(ngh2.NGH2Error):
                    self._session.send_goaway(ngh2.ErrorCode.NO_ERROR)
        elif not self._ending and (
            now >= self._age_end or (not self._calls and now >= self._idle_since + config.max_connection_idle)
        ):
            self.retire()
            return
        if self._session is not None:
            self._send()
        else:
            self._arm(now)

    def _look_at_calls(self, now: float) -> None:
        for call in list(self._calls.values()):
            if call.task is None and now >= call.deadline:
                error = RequestRefused(
                    "its message did not follow its headers in time", reason="late_message"
                )
                self._reject(error)
                self._refuse_call(call, answer_to(error))


def _bounded(reply: bytes) -> bytes:
    if len(reply) > MAX_RESPONSE_BYTES:
        raise NotReady(f"a reply of {len(reply)} bytes, which no client takes", reason="reply_too_large")
    return reply


def goaway(last_stream: int, code: int, said: bytes) -> bytes:
    """A GOAWAY frame, for a session that can say nothing more (RFC 9113, 6.8)."""
    payload = struct.pack(">II", last_stream, code) + said
    return struct.pack(">I", len(payload))[1:] + b"\x07" + bytes(5) + payload


def _told(first: bytes) -> bytes:
    """The first SETTINGS frame, with the calls at once that are allowed instead of those that nghttp2 bears with.

    It ends a connection for one call too many, where RFC 9113 (5.1.2) asks for an error of that stream.
    """
    end = 9 + int.from_bytes(first[:3])
    settings = [first[at : at + 6] for at in range(9, end, 6)]
    name = ngh2.Setting.MAX_CONCURRENT_STREAMS
    told = [
        struct.pack(">HI", name, MAX_STREAMS) if int.from_bytes(each[:2]) == name else each
        for each in settings
    ]
    return first[:9] + b"".join(told) + first[end:]
