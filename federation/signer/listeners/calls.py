"""The calls on one connection: each is one message and one reply, from its headers until its caller has the answer.

A call has a slot from its headers on, and a task once its whole message is there: only then does it cost anything. A
call that has to give way to others, is late or is malformed gets a status without its handler. Calls in a row without
a proven caller end their connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from federation.core.call_slots import CallSlot, CallSlots
from federation.core.config.hub import ListenerConfig
from federation.core.connections import Seat
from federation.core.errors import FederationError, NotReady, Overloaded, RequestRefused
from federation.core.istio.ca_protocol import MAX_RESPONSE_BYTES
from federation.signer.listeners.grpc import (
    NO_GRPC,
    Answered,
    CallRefused,
    Head,
    Header,
    MessageReader,
    answer_to,
    is_grpc,
    read_head,
    refused_headers,
)
from federation.signer.listeners.http2 import (
    MAX_STREAMS,
    Began,
    Continued,
    Event,
    Gone,
    Http2Session,
    Malformed,
)

_logger = logging.getLogger(__name__)

MOST_REFUSED: Final = 64  # calls in a row without a proven caller, before their connection is closed


class CallHandler(Protocol):
    """A protocol that a listener carries."""

    @property
    def method(self) -> str:
        """The full name of its one method: ``/package.Service/Method``."""
        ...

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, slot: CallSlot
    ) -> bytes:
        """The reply's bytes; raises Answered instead. Says at ``slot`` when the caller is proven."""
        ...

    def reject(self, error: FederationError, *, peer: str) -> None:
        """A call was ended by the transport, and why."""
        ...

    def connection_refused(self, error: FederationError, *, peer: str) -> None:
        """A connection was ended by the transport, and why."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerContext:
    """What the connections of one listener share, and their calls.

    ``run`` makes a task that is ended with the listener. ``receive_deadline`` gives the seconds for a message after its
    headers: not the same for all, so that what begins together does not end together.
    """

    handler: CallHandler
    config: ListenerConfig
    slots: CallSlots
    loop: asyncio.AbstractEventLoop
    run: Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
    receive_deadline: Callable[[], float]


class _Call:
    """A call that came in, until its reply is handed over or its caller has gone."""

    __slots__ = ("begun", "deadline", "end", "ended", "head", "message", "slot", "stopped", "stream", "task")

    def __init__(self, stream: int, head: Head, message: MessageReader, now: float) -> None:
        self.stream: Final = stream
        self.head: Final = head
        self.message: Final = message
        self.end: Final = math.inf if head.timeout is None else now + head.timeout
        self.deadline = math.inf
        """When its message has to be there; once it is, when its handler has to be done."""
        self.slot: CallSlot | None = None
        self.ended = False
        """Whether the caller has said all that it will say."""
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """Whether its task has begun: one that is ended before that runs none of its lines."""
        self.stopped = False
        """Whether its handler has to end: its deadline has passed, or its slot went to another call."""


class Calls:
    """Those of one connection, whose seat it is.

    The connection writes when ``send`` is called, or soon after ``send_later``. ``answered`` is called with
    each reply, and ``unproven`` once too many calls in a row had no proven caller.
    """

    def __init__(
        self,
        context: ListenerContext,
        session: Http2Session,
        seat: Seat | None,
        *,
        peer: str,
        send: Callable[[], None],
        send_later: Callable[[], None],
        answered: Callable[[], None],
        unproven: Callable[[], None],
    ) -> None:
        self._context = context
        self._method = context.handler.method.encode("ascii")
        self._session = session
        self._seat = seat
        self._peer = peer
        self._send = send
        self._send_later = send_later
        self._answered = answered
        self._unproven = unproven
        self._open: dict[int, _Call] = {}
        self._working = 0  # calls that have a task
        self._refused = 0  # calls in a row without a proven caller
        self._closed = False
        self.idle_since = context.loop.time()

    @property
    def idle(self) -> bool:
        """Whether there is no call at present."""
        return not self._open

    @property
    def due(self) -> float:
        """When the first of them has to have its message, or its answer."""
        first = math.inf
        for call in self._open.values():
            first = min(first, call.deadline)
        return first

    def see(self, events: Iterable[Event]) -> None:
        """What the session has received."""
        for event in events:
            match event:
                case Began(stream, headers, ended):
                    self._begin(stream, headers, ended=ended)
                case Continued(stream, data, ended):
                    self._more(stream, data, ended=ended)
                case Gone(stream):
                    self._gone(stream)
                case Malformed():
                    self._reject_malformed()

    def expire(self, now: float) -> None:
        """Refuse those whose message is late, and end the handlers of those whose answer is."""
        for call in list(self._open.values()):
            if now < call.deadline:
                continue
            if call.task is not None:
                _stop(call)
                continue
            self._refuse(
                call,
                RequestRefused("its message did not follow its headers in time", reason="late_message"),
            )

    def reject_unproven(self, reason: str, what: str) -> None:
        """Their connection is refused, and with it every call whose caller is not known yet."""
        for call in self._open.values():
            if call.task is None:
                self._reject(RequestRefused(f"its connection is ended: {what}", reason=reason))

    def close(self) -> None:
        """End them all."""
        self._closed = True
        for call in list(self._open.values()):
            self._forget(call)

    # --- from headers to message -----------------------------------------------------------------------------------

    def _begin(self, stream: int, headers: tuple[Header, ...], *, ended: bool) -> None:
        if self._closed:
            return
        session, context = self._session, self._context
        if len(self._open) >= MAX_STREAMS:
            session.refuse_stream(stream)
            self._reject(RequestRefused(f"it has {MAX_STREAMS} calls already", reason="too_many_streams"))
            self._count_unproven()
            return
        if not is_grpc(headers):
            self._reject(RequestRefused("a request that is none of gRPC", reason="no_grpc"))
            session.respond(stream, NO_GRPC, ended=ended)
            return
        now = context.loop.time()
        reader = MessageReader(context.config.max_message_bytes)
        try:
            call = _Call(stream, read_head(headers, self._method), reader, now)
            call.slot = context.slots.enter(self._peer, give_way=partial(self._give_way, call))
        except (CallRefused, Overloaded) as refused:
            error, answer = _explained(refused)
            self._reject(error)
            self._respond(stream, answer, ended=ended)
            return
        call.deadline = min(call.end, now + context.receive_deadline())
        self._open[stream] = call
        if ended:
            self._more(stream, b"", ended=True)

    def _more(self, stream: int, data: bytes, *, ended: bool) -> None:
        """A piece of a call's message, or its end."""
        call = self._open.get(stream)
        if call is None or call.task is not None or call.slot is None:
            return
        call.ended = ended
        try:
            if data:
                call.message.feed(data)
            if not ended:
                return
            message = call.message.message()
            call.slot.received()
        except (CallRefused, Overloaded) as refused:
            error, answer = _explained(refused)
            self._refuse(call, error, answer)
            return
        self._working += 1
        if self._working == 1 and self._seat is not None:
            self._seat.works()
        context = self._context
        call.deadline = min(call.end, context.loop.time() + context.config.deadline)
        call.task = context.run(self._serve(call, call.slot, message))

    def _reject_malformed(self) -> None:
        """Count a call whose stream was reset for its headers."""
        what = "its headers break a rule of HTTP (RFC 9113, 8.2: white space around a value, a forbidden character)"
        self._reject(RequestRefused(what, reason="headers_malformed"))
        self._count_unproven()

    def _gone(self, stream: int) -> None:
        """The caller waits for this call no more."""
        call = self._open.get(stream)
        if call is not None:
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        if self._open.pop(call.stream, None) is None:
            return
        if not self._open:
            self.idle_since = self._context.loop.time()
        if call.task is not None:
            if call.task is not asyncio.current_task(self._context.loop):
                call.task.cancel()  # its end leaves the slot
                if not call.begun and call.slot is not None:
                    call.slot.leave()
                    self._rest(proven=False)
        elif call.slot is not None:
            call.slot.leave()
        call.slot = None  # it refers to the call: together they would be left to the collector of garbage

    def _give_way(self, call: _Call) -> None:
        """Its slot went to another call."""
        slot = call.slot
        if call.task is not None:
            _stop(call)
        elif slot is not None and slot.gone is not None:
            self._refuse(call, slot.gone)
            self._send_later()

    # --- from message to answer ------------------------------------------------------------------------------------

    async def _serve(self, call: _Call, slot: CallSlot, message: bytes) -> None:
        """Have the handler answer, and reply."""
        proven, call.begun = False, True
        try:
            try:
                reply = _bounded(await self._decide(call, slot, message))
            finally:
                proven = slot.proven
                slot.leave()
                self._rest(proven=proven)
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
            _logger.exception("a call waited for something that was ended", extra={"peer": self._peer})
            answer = answer_to(NotReady(str(error)))
        except Exception as error:
            _logger.exception("a call failed unexpectedly", extra={"peer": self._peer})
            answer = answer_to(error)
        else:
            self._reply(call, reply)
            return
        self._answer_refused(call, answer)
        if not proven:
            self._count_unproven()
        self._send()

    async def _decide(self, call: _Call, slot: CallSlot, message: bytes) -> bytes:
        """The handler's reply; the connection's timer ends the wait, since a timeout for each call costs as much."""
        if call.stopped:
            raise _why_stopped(slot)
        try:
            return await self._context.handler.handle(message, call.head.metadata, slot=slot)
        except asyncio.CancelledError:
            if not _was_stopped(call):
                raise
            raise _why_stopped(slot) from None

    def _rest(self, *, proven: bool) -> None:
        """A call's task has ended."""
        self._working -= 1
        if proven:
            self._refused = 0
        if self._seat is not None and not self._closed:
            if proven and not self._seat.proven:
                self._seat.proved()
            if not self._working:
                self._seat.rests()

    def _reply(self, call: _Call, reply: bytes) -> None:
        if call.stream not in self._open or self._closed:
            return
        self._session.reply(call.stream, reply)
        self._answered()
        self._forget(call)
        self._send()

    def _refuse(self, call: _Call, error: FederationError, answer: Answered | None = None) -> None:
        self._reject(error)
        self._answer_refused(call, answer or answer_to(error))

    def _answer_refused(self, call: _Call, answer: Answered) -> None:
        if call.stream in self._open:
            self._forget(call)
            self._respond(call.stream, answer, ended=call.ended)

    def _respond(self, stream: int, answer: Answered, *, ended: bool) -> None:
        if not self._closed:
            self._session.respond(stream, refused_headers(answer.code.value, answer.sentence), ended=ended)

    def _reject(self, error: FederationError) -> None:
        self._context.handler.reject(error, peer=self._peer)

    def _count_unproven(self) -> None:
        self._refused += 1
        if self._refused == MOST_REFUSED:
            self._unproven()


def _stop(call: _Call) -> None:
    """Have its handler end. One that has not begun finds it out."""
    call.deadline = math.inf
    if not call.stopped:
        call.stopped = True
        if call.begun and call.task is not None:
            call.task.cancel()


def _was_stopped(call: _Call) -> bool:
    """Whether the cancellation that arrives is that of :func:`_stop`, and its task is not to end otherwise."""
    task = asyncio.current_task()
    return call.stopped and task is not None and not task.uncancel()


def _why_stopped(slot: CallSlot) -> FederationError:
    return slot.gone or NotReady("it was not decided before the deadline", reason="deadline")


def _explained(refused: CallRefused | Overloaded) -> tuple[FederationError, Answered]:
    """The error for who runs the hub, and the answer for the caller."""
    if isinstance(refused, CallRefused):
        return refused.error, refused.answer
    return refused, answer_to(refused)


def _bounded(reply: bytes) -> bytes:
    if len(reply) > MAX_RESPONSE_BYTES:
        raise NotReady(f"a reply of {len(reply)} bytes, which no client takes", reason="reply_too_large")
    return reply
