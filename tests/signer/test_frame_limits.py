"""The limits on frames: pieces of any size, what is half sent, and every flood."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.signer.listeners import frame_limits
from federation.signer.listeners.frame_limits import Flood, FrameWatch, RecordWatch
from tests.bench.callers import DATA, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame

PRIORITY, CONTINUATION, UNKNOWN = 2, 9, 99
FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from([DATA, HEADERS, PRIORITY, WINDOW_UPDATE, UNKNOWN]),
        st.sampled_from([0, 1, 4, 5]),
        st.integers(0, 2**31 - 1),
        st.binary(max_size=40),
    ),
    max_size=30,
)


def watch(now: float = 0.0) -> FrameWatch:
    return FrameWatch(now, ping_interval=10.0)


def half_sent_since(seen: FrameWatch) -> float | None:
    return seen.unfinished


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, at = list[bytes](), 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


@given(FRAMES, st.lists(st.integers(1, 30), max_size=40), st.integers(0, 60))
def test_it_knows_at_any_byte_whether_something_is_half_sent(
    frames: list[bytes], sizes: list[int], missing: int
) -> None:
    """Against a reading of the whole at once, by lengths and flags alone."""
    whole = PREFACE + b"".join(frames)
    data = whole[: max(0, len(whole) - missing)]
    seen = watch()
    for piece in cut(data, sizes):
        seen.feed(piece, 1.0)
    at, block = len(PREFACE), False
    half = len(data) < at
    for each in frames:
        if half or at >= len(data):
            break
        half = at + len(each) > len(data)
        # A frame begins with its head; what opens or ends a block is known from then on.
        if len(data) - at >= 9 and each[3] in {HEADERS, CONTINUATION}:
            block = not each[4] & 4
        at += len(each)
    assert (seen.unfinished is not None) == (half or block)


def test_the_time_of_what_is_half_sent_is_that_of_its_first_byte() -> None:
    seen = watch()
    seen.feed(PREFACE + frame(SETTINGS, 0, 0, b""), 1.0)
    assert half_sent_since(seen) is None
    block = frame(HEADERS, 0, 1, b"abc")
    seen.feed(block[:4], 2.0)
    seen.feed(block[4:], 3.0)
    assert half_sent_since(seen) is not None
    seen.feed(frame(CONTINUATION, 0, 1, b"d"), 4.0)
    assert half_sent_since(seen) == 2.0, "CONTINUATION does not begin anew"
    assert seen.in_headers
    seen.feed(frame(CONTINUATION, 4, 1, b"d"), 5.0)
    assert half_sent_since(seen) is None
    seen.feed(frame(DATA, 0, 1, b"abc") + frame(DATA, 0, 1, b"abc")[:5], 6.0)
    assert half_sent_since(seen) == 6.0


@pytest.mark.parametrize(
    ("one", "reason", "allowed"),
    [
        (frame(RST_STREAM, 0, 1, bytes(4)), "reset_flood", frame_limits.RESETS[0]),
        (
            frame(HEADERS, 5, 1, b"") + frame(RST_STREAM, 0, 1, bytes(4)),
            "reset_flood",
            frame_limits.RESETS[0],
        ),
        (frame(SETTINGS, 0, 0, b""), "settings_flood", frame_limits.SETTINGS_FRAMES[0]),
        (frame(PING, 0, 0, bytes(8)), "ping_flood", frame_limits.PING_STRIKES + 1),
        (frame(CONTINUATION, 0, 1, b""), "continuation_flood", frame_limits.MOST_CONTINUATIONS),
        (frame(SETTINGS, 1, 0, b""), "frame_flood", frame_limits.FRAMES[0]),
        (frame(PING, 1, 0, bytes(8)), "frame_flood", frame_limits.FRAMES[0]),
        (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), "frame_flood", frame_limits.FRAMES[0]),
        (frame(PRIORITY, 0, 1, bytes(5)), "frame_flood", frame_limits.FRAMES[0]),
        (frame(DATA, 0, 1, b""), "frame_flood", frame_limits.FRAMES[0]),
        (frame(UNKNOWN, 0, 1, b""), "frame_flood", frame_limits.FRAMES[0]),
    ],
)
def test_every_flood_ends(one: bytes, reason: str, allowed: float) -> None:
    seen = watch()
    seen.feed(PREFACE, 0.0)
    for _ in range(int(allowed)):
        seen.feed(one, 0.0)
    with pytest.raises(Flood) as flood:
        seen.feed(one, 0.0)
    assert flood.value.reason == reason


def test_what_agents_and_ztunnels_send_is_no_flood() -> None:
    """A call each second for an hour, with its window updates, a ping, settings now and then and a call given up."""
    seen = watch()
    seen.feed(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), 0.0)
    for second in range(3600):
        now = float(second)
        call = frame(HEADERS, 4, 1, b"x") + frame(DATA, 0, 1, b"x") + frame(DATA, 1, 1, b"")
        seen.feed(call + frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 3 + frame(PING, 0, 0, bytes(8)), now)
        if second % 10 == 0:
            seen.feed(frame(SETTINGS, 0, 0, b""), now)
        if second % 5 == 0:
            seen.feed(frame(RST_STREAM, 0, 1, bytes(4)), now)
        else:
            seen.answered()
    assert (seen.unfinished, seen.in_headers) == (None, False)
    with pytest.raises(Flood):  # it still watches
        seen.feed(frame(RST_STREAM, 0, 1, bytes(4)) * (10 * int(frame_limits.RESETS[0])), 3600.0)


def test_idle_agents_may_ping_at_their_interval_and_no_faster() -> None:
    seen = watch()
    seen.feed(PREFACE, 0.0)
    for number in range(100):
        seen.feed(frame(PING, 0, 0, bytes(8)), number * 10.0)
    for number in range(1, 3):
        seen.feed(frame(PING, 0, 0, bytes(8)), 990.0 + number)
    with pytest.raises(Flood, match="ping_flood"):
        seen.feed(frame(PING, 0, 0, bytes(8)), 993.0)


# --- records of TLS ---


def record(payload: bytes) -> bytes:
    return b"\x17\x03\x03" + len(payload).to_bytes(2) + payload


@given(st.lists(st.binary(max_size=60), max_size=40), st.lists(st.integers(1, 50), max_size=60))
def test_records_are_counted_whatever_pieces_they_come_in(payloads: list[bytes], sizes: list[int]) -> None:
    """As many as are allowed beside these still pass, and not one more."""
    seen = RecordWatch(1.0)
    for piece in cut(b"".join(map(record, payloads)), sizes):
        seen.feed(piece, 1.0)
    seen.feed(record(b"") * (int(frame_limits.RECORDS[0]) - len(payloads)), 1.0)
    with pytest.raises(Flood) as flood:
        seen.feed(record(b""), 1.0)
    assert flood.value.reason == "record_flood"


def test_records_are_allowed_anew_by_time_and_by_answers() -> None:
    most, rate = map(int, frame_limits.RECORDS)
    seen = RecordWatch(1.0)
    seen.feed(record(b"x") * most, 1.0)
    seen.feed(record(b"x") * rate, 2.0)
    seen.answered()
    seen.feed(record(b"x") * int(frame_limits.RECORDS_FOR_AN_ANSWER), 2.0)
    with pytest.raises(Flood):
        seen.feed(record(b"x"), 2.0)
