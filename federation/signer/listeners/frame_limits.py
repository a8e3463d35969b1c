"""Limits on the frames of one HTTP/2 connection: how many, of which kinds, and how long one may stay incomplete. Pure.

The protocol itself is left to nghttp2. It cannot know which frames are too many for a client that needs one
certificate now and then, nor for how long a frame or a block of headers has been half sent. So frames are counted
here before nghttp2 reads them: each has a cost, and what a connection may spend grows with time and with the calls
that are answered on it. That covers rapid resets (CVE-2023-44487), resets that the server is led to make, endless
CONTINUATION (CVE-2024-27316), floods of pings, settings, priorities, window updates and empty data (CVE-2019-9511 to
9518), and frames of unknown types.
"""

from __future__ import annotations

from typing import Final

PREFACE_BYTES: Final = 24
HEAD_BYTES: Final = 9
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
_ACK: Final = 0x1
_END_HEADERS: Final = 0x4

FRAMES: Final = (256.0, 64.0)
"""Frames at once, and a second. A call is two or three, and the client's settings and window updates a few more."""
FOR_AN_ANSWER: Final = 16.0  # frames that every answered call allows beside that
RESETS: Final = (64.0, 8.0)  # an agent resets a stream when it has lost patience, once in seconds
SETTINGS_FRAMES: Final = (16.0, 1.0)
MOST_CONTINUATIONS: Final = 4  # 16 KiB each: more than all metadata that is read
RECORDS: Final = (384.0, 96.0)
"""Records of TLS at once, and a second: a frame may have one of its own, and Go begins with small ones."""
RECORDS_FOR_AN_ANSWER: Final = 32.0
RECORD_HEAD_BYTES: Final = 5
PING_STRIKES: Final = 2  # pings that come too early before the connection is closed, as in gRPC

PUNCTUAL: Final = 0.8  # of the interval: networks hold pings up and let them go together


class Flood(Exception):
    """A connection has to end for what it sends; ``reason`` is a stable token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class _Allowance:
    """What may be spent: so much at once, and so much a second. After a rest it may be twice as much, once."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, most: float, rate: float, now: float) -> None:
        self._most = most
        self._rate = rate
        self._left = most
        self._at = now

    def spend(self, now: float) -> bool:
        """One more; False where that is too many. What time has brought is added when nothing is left."""
        if self._left < 1.0:
            self._left = min(self._most, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1.0:
                return False
        self._left -= 1.0
        return True

    def grow(self, by: float) -> None:
        self._left = min(self._most, self._left + by)


class RecordWatch:
    """Of one connection's TLS records, from its first byte on, before anything is decrypted (RFC 8446, 5.1).

    A record that holds no data (KeyUpdate) costs as much to take as a frame and is not seen behind OpenSSL.
    """

    __slots__ = ("_head", "_left", "_records")

    def __init__(self, now: float) -> None:
        self._head = b""
        self._left = 0
        self._records = _Allowance(*RECORDS, now)

    def answered(self) -> None:
        """A call was answered."""
        self._records.grow(RECORDS_FOR_AN_ANSWER)

    def feed(self, data: bytes, now: float) -> None:
        """So many bytes have come. Raises Flood where they must not be read any further."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            missing = RECORD_HEAD_BYTES - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) < RECORD_HEAD_BYTES:
                return
            self._left = int.from_bytes(self._head[3:])
            self._head = b""
            if not self._records.spend(now):
                raise Flood("record_flood")


class FrameWatch:
    """Of one connection, from its first byte on. Times are seconds of one monotonic clock."""

    __slots__ = (
        "_block",
        "_continuations",
        "_frames",
        "_head",
        "_left",
        "_ping_at",
        "_ping_interval",
        "_preface",
        "_resets",
        "_settings",
        "_strikes",
        "kind",
        "unfinished",
    )

    def __init__(self, now: float, *, ping_interval: float) -> None:
        """``ping_interval`` is the least number of seconds between two pings with no answer in between."""
        self._preface = PREFACE_BYTES
        self._head = b""
        self._left = 0
        self._block = False
        self._continuations = 0
        self._ping_interval = ping_interval
        self._ping_at = float("-inf")
        self._strikes = 0
        self._frames = _Allowance(*FRAMES, now)
        self._resets = _Allowance(*RESETS, now)
        self._settings = _Allowance(*SETTINGS_FRAMES, now)
        self.kind = -1
        """The kind of the last frame that began; -1 before the first."""
        self.unfinished: float | None = now
        """Since when a frame or a block of headers has been half sent; None where none is."""

    @property
    def in_headers(self) -> bool:
        """Whether the last frame that began belongs to a block of headers."""
        return self.kind in {HEADERS, CONTINUATION}

    def answered(self) -> None:
        """A call was answered: its caller reads, and may send on."""
        self._frames.grow(FOR_AN_ANSWER)
        self._strikes = 0
        self._ping_at = float("-inf")

    def feed(self, data: bytes, now: float) -> None:
        """So many bytes have come. Raises Flood where they must not be read any further."""
        at, end = 0, len(data)
        if self._preface:
            at = min(self._preface, end)
            self._preface -= at
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            if not self._head and not self._block:
                self.unfinished = now  # a frame begins, and what came before it is whole
            missing = HEAD_BYTES - len(self._head)
            head = data[at : at + missing] if not self._head else self._head + data[at : at + missing]
            at += missing
            if len(head) < HEAD_BYTES:
                self._head = head
                break
            self._head = b""
            self._left = int.from_bytes(head[:3])
            self._begin(head[3], head[4], now)
        if not (self._preface or self._head or self._left or self._block):
            self.unfinished = None

    def _begin(self, kind: int, flags: int, now: float) -> None:
        """A frame begins."""
        self.kind = kind
        if kind == HEADERS:
            self._continuations = 0
            self._block = not flags & _END_HEADERS
        elif kind == CONTINUATION:
            self._continuations += 1
            self._block = not flags & _END_HEADERS
            if self._continuations > MOST_CONTINUATIONS:
                raise Flood("continuation_flood")
        elif kind == RST_STREAM:
            if not self._resets.spend(now):
                raise Flood("reset_flood")
        elif kind == SETTINGS and not flags & _ACK:
            if not self._settings.spend(now):
                raise Flood("settings_flood")
        elif kind == PING and not flags & _ACK:
            self._ping(now)
        if not self._frames.spend(now):
            raise Flood("frame_flood")

    def _ping(self, now: float) -> None:
        early = now - self._ping_at < self._ping_interval * PUNCTUAL
        self._ping_at = now
        if early:
            self._strikes += 1
            if self._strikes > PING_STRIKES:
                raise Flood("ping_flood")
