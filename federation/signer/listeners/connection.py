"""One client connection: TLS on its descriptor, HTTP/2 on it, the calls on that, and a deadline for each of them.

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
from collections.abc import Callable
from functools import partial
from typing import Final

from federation.core.connections import Seat
from federation.core.errors import RequestRefused
from federation.signer.listeners.calls import MOST_REFUSED, Calls, ListenerContext
from federation.signer.listeners.frame_limits import Flood
from federation.signer.listeners.http2 import CALM, NO_ERROR, Broken, Http2Session
from federation.signer.listeners.tls import ALPN, TlsSocket

_logger = logging.getLogger(__name__)

MOST_UNSENT: Final = 65536  # bytes that wait for a slow reader before nothing more is read from it
NOTICE: Final = 0.5
"""Seconds between the notice of an end and the end of new calls: what is on its way comes in."""
CONNECTION_GRACE: Final = 30.0  # seconds for calls under way on a connection that has reached its age


class Connection:
    """One connection, from its acceptance on. Its seat is taken and left by the listener."""

    def __init__(
        self,
        context: ListenerContext,
        sock: socket.socket,
        peer: str,
        *,
        ended: Callable[[Connection], None],
    ) -> None:
        """``ended`` is called once, when it is closed."""
        self._context = context
        self._ended = ended
        self._socket = sock
        self._descriptor = sock.fileno()
        self._tls: TlsSocket | None = None
        self._session: Http2Session | None = None  # both of these two since the end of the handshake
        self._calls: Calls | None = None
        self._unsent_since: float | None = None
        self._reads = self._writes = False  # what the loop watches the descriptor for
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._accepted_at = context.loop.time()
        self._handshake_at = math.inf  # when the handshake began
        self._ending = False  # the end was announced
        self._goaway_at = self._grace_end = self._age_end = math.inf
        self._receiving = False  # what was received is being handled; what there is to send is sent after it
        self.peer: Final = peer
        self.seat: Seat | None = None
        self.closed = False

    # --- TLS -------------------------------------------------------------------------------------------------------

    def shake_hands(self, context: ssl.SSLContext, *, age: float) -> None:
        """Its turn has come: begin with the handshake. ``age`` is how many seconds it may live from now on."""
        self._guard(partial(self._begin, context, age))

    def _begin(self, context: ssl.SSLContext, age: float) -> None:
        now = self._context.loop.time()
        self._tls = TlsSocket(self._socket, context, now)
        self._handshake_at = now
        self._age_end = now + age
        self._watch_reading(on=True)
        self._readable()
        if not self.closed:
            self._arm(now)

    def _guard(self, step: Callable[[], None]) -> None:
        """Take a step; one that fails unexpectedly ends this connection, and nothing else."""
        try:
            step()
        except Exception:
            _logger.exception("a connection failed unexpectedly", extra={"peer": self.peer})
            self.close()

    def _readable(self) -> None:
        tls = self._tls
        if tls is None or self.closed:
            return
        try:
            tls.receive(self._context.loop.time())
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
            self._receive(data)
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
            if tls.silent:  # a load balancer's check whether the port is open
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
        interval = self._context.config.min_keepalive_interval
        self._session = Http2Session(self._context.loop.time(), ping_interval=interval)
        self._calls = Calls(
            self._context,
            self._session,
            self.seat,
            peer=self.peer,
            send=self._send,
            send_later=self._send_later,
            answered=tls.watch.answered,
            unproven=self._unproven,
        )
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
                self._context.loop.add_reader(self._descriptor, self._guard, self._readable)
            else:
                self._context.loop.remove_reader(self._descriptor)

    def _watch_writing(self, *, on: bool) -> None:
        if on is not self._writes:
            self._writes = on
            if on:
                self._context.loop.add_writer(self._descriptor, self._guard, self._writable)
            else:
                self._context.loop.remove_writer(self._descriptor)

    # --- HTTP/2 ----------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        session, calls = self._session, self._calls
        if session is None or calls is None:
            return
        self._receiving = True
        try:
            calls.see(session.receive(data, self._context.loop.time()))
        except Broken as broken:
            self._refuse(broken.reason, broken.what, broken.code)
        finally:
            self._receiving = False
        self._send()

    def _send(self) -> None:
        """Hand over what there is to send, and close what has come to its end."""
        session, tls, calls = self._session, self._tls, self._calls
        if self.closed or session is None or tls is None or calls is None:
            return
        calls.see(session.collect())
        if self._session is not session:
            return  # what was seen has ended it
        over, withholds = session.over, session.withholds
        if not self._write(tls, session):
            return
        now = self._context.loop.time()
        waiting = bool(session.unsent or tls.waiting)
        if not waiting and not withholds:
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since = now
        if over and not waiting:
            if not (self._ending or session.left):
                self._count(session.broken, "it breaks the rules of HTTP/2")
            self.close(orderly=True)
            return
        self._arm(now)

    def _send_later(self) -> None:
        """Send soon, unless that is done anyway once what was received is handled."""
        if not self._receiving:
            self._context.loop.call_soon(self._guard, self._send)

    def _write(self, tls: TlsSocket, session: Http2Session) -> bool:
        """As much as the other end takes; False where the connection is closed."""
        try:
            everything = tls.write(session.unsent)
        except (OSError, ValueError):
            self.close()
            return False
        self._watch_writing(on=not everything)
        self._watch_reading(on=len(session.unsent) + tls.waiting <= MOST_UNSENT)
        return True

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
        now = self._context.loop.time()
        self._ending = True
        self._goaway_at, self._grace_end = now + NOTICE, now + CONNECTION_GRACE
        session.announce_end()
        self._send()

    def _unproven(self) -> None:
        self._count("refused_calls", f"{MOST_REFUSED} calls in a row had no proven caller")
        self.retire()

    def refuse(self, reason: str) -> None:
        """It has to make room for another connection."""
        self._refuse(reason, "others have fewer connections, or have proved who they are")

    def _refuse(self, reason: str, what: str, code: int = NO_ERROR) -> None:
        """Count it and close it; the other end is sent the reason where it could read one."""
        if self.closed:
            return
        self._count(reason, what)
        if self._session is not None and self._tls is not None:
            # the text that gRPC's clients know
            self._session.end(code, b"too_many_pings" if reason == "ping_flood" else b"")
            with contextlib.suppress(OSError, ValueError):
                self._tls.write(self._session.unsent)
        self.close(orderly=True)

    def _count(self, reason: str, what: str) -> None:
        if self._calls is not None:
            self._calls.reject_unproven(reason, what)
        self._context.handler.connection_refused(RequestRefused(what, reason=reason), peer=self.peer)

    def close(self, *, orderly: bool = False) -> None:
        """End it now, and every call on it."""
        if self.closed:
            return
        self.closed = True
        self._watch_reading(on=False)
        self._watch_writing(on=False)
        if self._timer is not None:
            self._timer.cancel()
        if self._calls is not None:
            self._calls.close()
        if self._tls is not None:
            with contextlib.suppress(OSError, ValueError):
                if orderly and self._session is not None:
                    self._tls.say_goodbye()
                else:
                    self._tls.flush()  # why a handshake failed
        self._socket.close()
        self._session = self._calls = None
        self._ended(self)

    # --- deadlines -------------------------------------------------------------------------------------------------

    def _arm(self, now: float) -> None:
        """Set the timer to what is due first; one that is early is set again."""
        first = self._due()
        if first < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = first
            self._timer = self._context.loop.call_later(max(0.0, first - now), self._guard, self._enforce)

    @property
    def _idle_end(self) -> float:
        """When a connection without calls has to end; never where it has some."""
        if self._calls is None:
            return self._accepted_at + self._context.config.max_connection_idle
        return (
            self._calls.idle_since + self._context.config.max_connection_idle
            if self._calls.idle
            else math.inf
        )

    def _due(self) -> float:
        config, session = self._context.config, self._session
        first = min(self._goaway_at, self._grace_end)
        if session is None or not session.greeted:
            first = min(first, self._handshake_at + config.receive_deadline)
        elif (unfinished := session.unfinished) is not None:
            first = min(first, unfinished + config.receive_deadline)
        if self._unsent_since is not None:
            first = min(first, self._unsent_since + config.deadline)
        if not self._ending:
            first = min(first, self._age_end, self._idle_end)
        return first if self._calls is None else min(first, self._calls.due)

    def _refuse_late(self, now: float) -> bool:
        """Refuse it where what it has begun to send did not come to its end in time; whether it was."""
        session, allowed = self._session, self._context.config.receive_deadline
        if session is None:
            if now >= self._handshake_at + allowed:
                self._refuse("handshake_late", "its TLS handshake did not end in time")
        elif not session.greeted:
            if now >= self._handshake_at + allowed:
                self._refuse("preface_late", "its preface did not come in time")
        elif session.unfinished is not None and now >= session.unfinished + allowed:
            self._refuse("late_frame", "a frame or its headers did not come to an end in time", CALM)
        return self.closed

    def _enforce(self) -> None:
        """Something may be due."""
        self._timer, self._timer_at = None, math.inf
        now, config = self._context.loop.time(), self._context.config
        if self.closed:
            return
        if self._refuse_late(now):
            return
        if self._unsent_since is not None and now >= self._unsent_since + config.deadline:
            self._refuse("slow_reader", "it does not read what it is sent")
            return
        if now >= self._grace_end:
            self.close(orderly=True)
            return
        if self._calls is not None:
            self._calls.expire(now)
        if now >= self._goaway_at:
            self._goaway_at = math.inf
            if self._session is not None:
                self._session.take_no_more()
        elif not self._ending and (now >= self._age_end or now >= self._idle_end):
            self.retire()
            return
        if self._session is not None:
            self._send()
        else:
            self._arm(now)
