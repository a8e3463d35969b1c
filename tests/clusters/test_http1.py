"""Answers taken apart by the hub's own reader of HTTP/1.1, with llhttp (aiohttp's parser) as the oracle."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.kubernetes.http1 import (
    MOST_AROUND,
    MOST_INTERIM,
    Answer,
    CutShort,
    NotHttp,
    TooLarge,
    field_lines,
    request_bytes,
)

MOST = 100_000
Outcome = tuple[int, bytes, bool] | str


def read(data: bytes, cuts: list[int], *, ended: bool = True) -> Outcome:
    """Status, body and whether another answer may follow, or why it is none; fed in pieces that end at ``cuts``."""
    answer = Answer(most=MOST, most_of_error=MOST)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    try:
        for begin, end in pairwise(places):
            if not answer.complete:
                answer.feed(data[begin:end])
            elif begin < end:
                return answer.status, answer.body, False  # more than was asked for
        if not answer.complete and ended:
            answer.end()
    except (NotHttp, TooLarge, CutShort) as error:
        return type(error).__name__
    return (answer.status, answer.body, answer.reusable) if answer.complete else "incomplete"


def whole(data: bytes) -> bytes:
    """As many of these bytes as the first answer has."""
    answer = Answer(most=MOST, most_of_error=MOST)
    for at in range(len(data)):
        answer.feed(data[at : at + 1])
        if answer.complete:
            return data[: at + 1]
    return data


@dataclass
class Oracle:
    """What llhttp makes of the same bytes."""

    status: int = 0
    body: bytes = b""
    whole: bool = False
    reusable: bool = False


async def by_llhttp(data: bytes) -> Oracle:
    loop = asyncio.get_running_loop()
    parser = HttpResponseParser(
        BaseProtocol(loop),
        loop,
        2**16,
        response_with_body=True,
        read_until_eof=True,
        max_field_size=MOST_AROUND,
    )
    found = Oracle()
    try:
        messages, upgraded, tail = parser.feed_data(data)
        answers = [(head, body) for head, body in messages if head.code >= 200]
        parser.feed_eof()
    except Exception:  # whatever it raises, it refuses
        return found
    if not answers:
        return found
    head, body = answers[0]
    found.status = head.code
    found.reusable = not (head.should_close or upgraded or tail or len(answers) > 1)
    found.whole = body.is_eof() and body.exception() is None
    found.body = body.read_nowait(-1)
    return found


STATUS = st.sampled_from([b"200 OK", b"201 Created", b"204 No Content", b"401 Unauthorized", b"500", b"304 "])
FIELDS = st.sampled_from(
    [
        b"Content-Type: application/json",
        b"Date: Mon, 30 Nov 2026 19:00:00 GMT",
        b"Audit-Id:6a3d1f0e",
        b"Connection: close",
        b"Connection: keep-alive",
        b"X-Latin: \xe9\t1",
        b"Retry-After: 7",
    ]
)
DAMAGE = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b";",
        b"0",
        b"ffffffff",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b" folded\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """An answer as a server may write it, with its status and body."""
    status = draw(STATUS)
    body = draw(st.binary(max_size=300))
    code = int(status[:3])
    lines = [b"HTTP/1.1 " + status, *draw(st.lists(FIELDS, max_size=4, unique=True))]
    if code in {204, 304}:
        return b"\r\n".join(lines) + b"\r\n\r\n", code, b""
    if draw(st.booleans()):
        lines.insert(draw(st.integers(1, len(lines))), b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body, code, body
    lines.insert(draw(st.integers(1, len(lines))), b"transfer-encoding:  Chunked ")
    size = draw(st.integers(1, 100))
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    extension = draw(st.sampled_from([b"", b";a=b"]))
    coded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    return b"\r\n".join(lines) + b"\r\n\r\n" + coded + b"0\r\n" + trailer + b"\r\n", code, body


CUTS = st.lists(st.integers(0, 2000), max_size=6)


@settings(max_examples=200)
@given(answers(), CUTS)
def test_an_answer_is_read_however_it_is_cut(answer: tuple[bytes, int, bytes], cuts: list[int]) -> None:
    data, status, body = answer
    found = read(data, cuts)
    assert found == (status, body, b"Connection: close" not in data)
    assert read(data, list(range(len(data)))) == found


@settings(max_examples=400)
@given(answers(), st.lists(st.tuples(st.integers(0, 2000), DAMAGE, st.booleans()), max_size=3), CUTS)
@example((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 200, b"x"), [], [])
@example((b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", 200, b"x"), [], [])
@example((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;\r\nx\r\n0\r\n\r\n", 200, b"x"), [], [])
@example((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n1\r\nx\r\n0\r\n\r\n", 200, b"x"), [], [])
@example((b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""), [], [])
@example((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n", 200, b"x"), [], [])
def test_nothing_is_taken_that_llhttp_reads_otherwise(
    answer: tuple[bytes, int, bytes], damage: list[tuple[int, bytes, bool]], cuts: list[int]
) -> None:
    data = answer[0]
    for place, piece, instead in damage:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + (len(piece) if instead else 0) :]
    found = read(data, cuts)
    at_once = read(data, [])
    if isinstance(found, str):
        assert isinstance(at_once, str), "it depends on how it was cut"
        return
    assert at_once == found, "it depends on how it was cut"
    oracle = asyncio.run(by_llhttp(whole(data)))
    assert oracle.whole
    assert found[:2] == (oracle.status, oracle.body)
    assert oracle.reusable or not found[2]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 600 What\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_framing_that_can_be_read_in_two_ways_is_none(head: bytes) -> None:
    assert read(head + b"{}", []) == "NotHttp"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", b"HTTP/1.1 100 \r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"y" * 900 + b"\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"y"),
    ],
    ids=["interim answers", "fields", "chunks of one byte", "long extensions", "trailers", "a line"],
)
def test_what_is_around_a_body_has_an_end(begin: bytes, more: bytes) -> None:
    answer = Answer(most=MOST, most_of_error=MOST)
    answer.feed(begin)

    def feed() -> None:
        for _ in range(MOST_AROUND):
            answer.feed(more)

    with pytest.raises(NotHttp):
        feed()
    assert answer.received <= len(begin) + 2 * MOST_AROUND


def test_a_few_interim_answers_are_passed_over() -> None:
    data = (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * MOST_INTERIM
        + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert read(data, []) == (200, b"{}", True)


@pytest.mark.parametrize(
    "framed",
    [b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\n", b"\r\nhello world"],
    ids=["length", "chunk", "until the end"],
)
@pytest.mark.parametrize(("status", "reason"), [(b"200", 10), (b"403", 5)])
def test_a_body_beyond_its_bound_is_refused_before_it_is_kept(
    framed: bytes, status: bytes, reason: int
) -> None:
    answer = Answer(most=10, most_of_error=5)
    with pytest.raises(TooLarge) as caught:
        answer.feed(b"HTTP/1.1 " + status + b" X\r\n" + framed)
    assert caught.value.most == reason
    assert answer.status == int(status)
    assert answer.body == b""


def test_no_field_of_a_request_becomes_another_one() -> None:
    rng = random.Random(1)
    fields = {"Accept": "a/b, c;d=1", "Authorization": "Bearer e.f"}
    lines = field_lines(fields)
    assert request_bytes("POST", "/x?y=1", lines, b"{}") == (
        b"POST /x?y=1 HTTP/1.1\r\nAccept: a/b, c;d=1\r\nAuthorization: Bearer e.f\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert request_bytes("GET", "/", lines, None).endswith(b"e.f\r\n\r\n")
    for _ in range(200):
        bad = "".join(rng.choice(["a", " ", "\r", "\n", "\0", "é", "\x7f", ": b"]) for _ in range(4))
        if all(" " <= character <= "~" for character in bad):
            continue
        with pytest.raises(ValueError, match="characters"):
            field_lines({"Accept": bad})
        with pytest.raises(ValueError, match="characters"):
            request_bytes("GET", f"/{bad}", lines, None)
    with pytest.raises(ValueError, match="characters"):
        request_bytes("GET", "/a b", lines, None)
