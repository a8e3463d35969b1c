"""HTTP/2 of one connection, as bytes in and events out: nghttp2, and a budget of frames before it. No I/O, no clock.

This is the one module that knows the binding of nghttp2 (docs/transport.md). What a session cannot go on with is raised
as :class:`Broken`, with the reason that is counted. Streams may go in the very moment in which they are answered, so an
answer to one that has gone is dropped silently.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

import ngh2

from federation.signer.listeners.frame_limits import Flood, FrameWatch
from federation.signer.listeners.grpc import (
    MAX_METADATA_BYTES,
    OK_TRAILERS,
    REPLY_HEADERS,
    Header,
    write_message,
)

MAX_STREAMS: Final = 16  # calls at once on one connection; an agent has one, a ztunnel eight
STREAMS_BEFORE_THE_END: Final = 64
"""Open at once: a stream past :data:`MAX_STREAMS` is refused, one past these ends the connection."""

_CONFIGURATION: Final = ngh2.Configuration(
    # What is between the two is read and refused with a status; past the second the connection ends.
    max_inbound_header_list_size=2 * MAX_METADATA_BYTES,
    max_inbound_header_count=256,
    max_outbound_ack=64,
)
_SETTINGS: Final = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: STREAMS_BEFORE_THE_END,  # announced as MAX_STREAMS, see _announced
    ngh2.Setting.MAX_HEADER_LIST_SIZE: MAX_METADATA_BYTES,
}
NO_ERROR: Final[int] = ngh2.ErrorCode.NO_ERROR
CALM: Final[int] = ngh2.ErrorCode.ENHANCE_YOUR_CALM
BROKEN: Final[int] = ngh2.ErrorCode.PROTOCOL_ERROR


class Began(NamedTuple):
    """A stream with its headers; ``ended`` where nothing follows."""

    stream: int
    headers: tuple[Header, ...]
    ended: bool


class Continued(NamedTuple):
    """A piece of a stream's body, or its end."""

    stream: int
    data: bytes
    ended: bool


class Gone(NamedTuple):
    """A stream has ended, by either side."""

    stream: int


class Malformed(NamedTuple):
    """A stream whose headers nghttp2 has refused, and has reset."""

    stream: int


Event: TypeAlias = Began | Continued | Gone | Malformed


class Broken(Exception):
    """The connection has to end: ``reason`` is a stable token, ``code`` what the other end is sent."""

    def __init__(self, reason: str, what: str, code: int) -> None:
        super().__init__(what)
        self.reason: Final = reason
        self.what: Final = what
        self.code: Final = code


class Http2Session:
    """The server's session on one connection, from the end of the TLS handshake on. Times are monotonic seconds.

    ``unsent`` are bytes that the connection has not written yet; it takes them out as it writes.
    """

    def __init__(self, now: float, *, ping_interval: float) -> None:
        """``ping_interval`` is the least number of seconds between two pings with no answer in between."""
        self._watch = FrameWatch(now, ping_interval=ping_interval)
        self._nghttp2 = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._nghttp2.initiate_connection(_SETTINGS)
        self._failed = False
        self.unsent = bytearray(_announced(self._nghttp2.data_to_send()))
        self._last_stream = 0
        self.greeted = False
        """Whether the client's first settings were read."""
        self.left = False
        """Whether the client has said that it will call no more."""

    @property
    def unfinished(self) -> float | None:
        """Since when a frame or a block of headers has been half sent; None where none is."""
        return self._watch.unfinished

    @property
    def over(self) -> bool:
        """Whether neither end has anything more to say."""
        return self._failed or not (self._nghttp2.want_read or self._nghttp2.want_write)

    @property
    def withholds(self) -> bool:
        """Whether a reply waits for the other end to grant it room (flow control)."""
        return not self._failed and self._nghttp2.queued_body_size() > 0

    @property
    def broken(self) -> str:
        """The reason of an end that breaks the protocol."""
        return "protocol_error" if self.greeted else "bad_preface"

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What these bytes mean. Raises Broken."""
        try:
            self._watch.feed(data, now)
            self._nghttp2.receive_data(data)
            return self._read(self._nghttp2.events())
        except Flood as flood:
            raise Broken(flood.reason, "it sends more frames than any caller has use for", CALM) from None
        except ngh2.DenialOfServiceError as error:
            reason = "metadata_too_large" if self._watch.in_headers else "frame_flood"
            raise Broken(reason, f"it sends too much: {error}", CALM) from None
        except ngh2.NGH2Error as error:
            raise Broken(self.broken, f"it does not speak HTTP/2: {error}", BROKEN) from None

    def collect(self) -> list[Event]:
        """Add to ``unsent`` what there is to send; the events of streams that ended by being answered."""
        if self._failed or not self._nghttp2.want_write:
            return []
        try:
            self.unsent += self._nghttp2.data_to_send()
            return self._read(self._nghttp2.events())
        except ngh2.NGH2Error:
            self._failed = True
            return []

    def _read(self, events: Iterable[ngh2.Event]) -> list[Event]:
        """What happened to streams; what is said of the session as a whole is kept."""
        found: list[Event] = []
        for event in events:
            match event:
                case ngh2.RequestReceived():
                    self._last_stream = max(self._last_stream, event.stream_id)
                    found.append(Began(event.stream_id, event.headers, event.end_stream))
                case ngh2.DataReceived():
                    found.append(Continued(event.stream_id, event.data, event.end_stream))
                case ngh2.TrailersReceived():
                    found.append(Continued(event.stream_id, b"", ended=True))
                case ngh2.StreamReset():
                    found.append(Gone(event.stream_id))
                case ngh2.StreamClosed():
                    if event.stream_id > self._last_stream:
                        self._last_stream = event.stream_id
                        found.append(Malformed(event.stream_id))
                    found.append(Gone(event.stream_id))
                case ngh2.SettingsReceived():
                    self.greeted = True
                case ngh2.GoAwayReceived():
                    self.left = True
                case _:
                    pass
        return found

    # --- answers ---------------------------------------------------------------------------------------------------

    def reply(self, stream: int, message: bytes) -> None:
        """The whole reply of a call: its caller reads, and may send on."""
        with contextlib.suppress(ngh2.NGH2Error):
            self._nghttp2.send_response(stream, REPLY_HEADERS)
            self._nghttp2.send_data(stream, write_message(message))
            self._nghttp2.send_trailers(stream, OK_TRAILERS)
        self._watch.answered()

    def respond(self, stream: int, headers: tuple[Header, ...], *, ended: bool) -> None:
        """Headers alone. Where the caller has not ``ended``, nothing more of it is wanted (RFC 9113, 8.1)."""
        with contextlib.suppress(ngh2.NGH2Error):
            self._nghttp2.send_response(stream, headers, end_stream=True)
        if ended:
            return
        with contextlib.suppress(ngh2.NGH2Error):
            self.unsent += self._nghttp2.data_to_send()  # a reset takes back what was not sent before it
            self._nghttp2.reset_stream(stream, NO_ERROR)

    def refuse_stream(self, stream: int) -> None:
        """End a stream in such a way that its caller may try again (RFC 9113, 5.1.2 and 8.7)."""
        with contextlib.suppress(ngh2.NGH2Error):
            self._nghttp2.reset_stream(stream, ngh2.ErrorCode.REFUSED_STREAM)

    # --- the end ---------------------------------------------------------------------------------------------------

    def announce_end(self) -> None:
        """Say that an end is near; streams that are on their way may still come."""
        with contextlib.suppress(ngh2.NGH2Error):
            self._nghttp2.send_shutdown_notice()

    def take_no_more(self) -> None:
        """Say that streams which begin from now on are not answered."""
        with contextlib.suppress(ngh2.NGH2Error):
            self._nghttp2.send_goaway(NO_ERROR)

    def end(self, code: int, words: bytes) -> None:
        """Add the last frame, for a session that can say nothing more."""
        self.unsent += goaway(self._last_stream, code, words)


def goaway(last_stream: int, code: int, words: bytes) -> bytes:
    """A GOAWAY frame (RFC 9113, 6.8)."""
    payload = struct.pack(">II", last_stream, code) + words
    return struct.pack(">I", len(payload))[1:] + b"\x07" + bytes(5) + payload


def _announced(first: bytes) -> bytes:
    """The first SETTINGS frame, with the streams at once that are allowed instead of those that nghttp2 tolerates.

    It ends a connection for one stream too many, where RFC 9113 (5.1.2) asks for an error of that stream.
    """
    end = 9 + int.from_bytes(first[:3])
    settings = [first[at : at + 6] for at in range(9, end, 6)]
    name = ngh2.Setting.MAX_CONCURRENT_STREAMS
    announced = [
        struct.pack(">HI", name, MAX_STREAMS) if int.from_bytes(each[:2]) == name else each
        for each in settings
    ]
    return first[:9] + b"".join(announced) + first[end:]
