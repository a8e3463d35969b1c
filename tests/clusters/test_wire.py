"""What never becomes a body, an object or a line: it is read within the member's budget all the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterError, ClusterGarbage
from federation.core.identity import ClusterName
from federation.kubernetes.budget import CpuBudget
from federation.kubernetes.objects import decode_metadata
from federation.kubernetes.reflector import Reflector
from federation.kubernetes.session import ClusterSession
from federation.kubernetes.wire import MemberConnection
from federation.runtime.clock import SystemClock
from tests.support.clock import VirtualClock
from tests.support.clusters import Exchange, RawServer
from tests.support.memory import kept_by
from tests.support.patience import PATIENCE
from tests.support.pauses import pauses

WEST = ClusterName("west")
LONGEST_READ = 2 * 2**20  # bytes: a few times what the transport reads at once
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 \r\n\r\n"
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "empty lines": (CHUNKED, b"10000\r\n" + b"\n" * 65536 + b"\r\n"),
    "a chunk extension without end": (CHUNKED + b"1;", b"a" * 65536),
    "chunks of one byte": (CHUNKED, b"1\r\n\n\r\n" * 8192),
    "chunks with long extensions": (CHUNKED, (b"1;" + b"a" * 4000 + b"\r\n\n\r\n") * 16),
}
"""What an answer begins with, and what follows for ever."""


class Counting(CpuBudget):
    """A budget that counts how often something was charged to it."""

    charged_times = 0

    def charge(self, seconds: float) -> None:
        self.charged_times += 1
        super().charge(seconds)


@asynccontextmanager
async def flooded(
    tmp_path: Path, begin: bytes, more: bytes, budget: CpuBudget
) -> AsyncIterator[tuple[ClusterSession, list[int]]]:
    """A session with a server that answers by a flood; the list counts what it has sent."""
    sent = [0]

    async def flood(exchange: Exchange) -> None:
        await exchange.raw(begin)
        while True:
            await exchange.raw(more)
            sent[0] += len(more)
            await asyncio.sleep(0)

    async with RawServer(flood) as server:
        credentials = Credentials(kubeconfig=server.kubeconfig(tmp_path / "kc"))
        async with await ClusterSession.open(
            credentials, cluster=WEST, timeouts=ClusterTimeouts(), clock=SystemClock(), budget=budget
        ) as session:
            yield session, sent


def bytes_kept(connection: MemberConnection) -> int:
    """The bytes that it has received and not passed on."""
    return sum(map(len, kept_by(connection, bytearray, depth=2)))


async def read(session: ClusterSession) -> None:
    async with session.stream("/api/v1/pods", params={"watch": "1"}, silence=10 * PATIENCE) as lines:
        async for _ in lines:
            pass


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_that_holds_nothing_is_read_within_the_budget(tmp_path: Path, kind: str) -> None:
    """Seen with empty lines: calls of another member took 550 ms instead of 9, and no finding named the flood."""
    waits = VirtualClock()
    budget = Counting("west", clock=waits, burst=0.02, share=0.001)
    async with flooded(tmp_path, *FLOODS[kind], budget) as (session, sent), pauses() as seen:
        reading = asyncio.create_task(read(session))
        most = 0
        async with asyncio.timeout(PATIENCE):
            while not waits.sleeping:
                await asyncio.sleep(0.01)
            connections = [each for each in gc.get_objects() if isinstance(each, MemberConnection)]
            for _ in range(4):
                charged = budget.charged_times
                while (
                    budget.charged_times == charged or not most
                ):  # it goes on where it was, once it has paid
                    await waits.advance(3.0)
                    await asyncio.sleep(0.01)
                    most = max(most, *map(bytes_kept, connections))
                before = -1
                # Until it pays, and buffers on the way are full.
                while not waits.sleeping or sent[0] != before:
                    before = sent[0]
                    await asyncio.sleep(0.1)
                    most = max(most, *map(bytes_kept, connections))
        assert 0 < most < LONGEST_READ
        assert not reading.done()
        assert seen.longest < 0.05
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], ids=["before", "after"]
)
@pytest.mark.parametrize(
    "more", [INTERIM, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], ids=["interim", "unasked"]
)
async def test_what_was_not_requested_is_not_read_for_ever(tmp_path: Path, begin: bytes, more: bytes) -> None:
    """On a connection that is kept for the next request they would be kept as well, without a bound."""
    budget = CpuBudget("west", clock=SystemClock())
    many = more * 320
    async with flooded(tmp_path, begin, many, budget) as (session, sent):
        with contextlib.suppress(ClusterError):
            await session.get("/version", timeout=PATIENCE)
        before = -1
        async with asyncio.timeout(60):  # raises where it is read on and on
            while sent[0] != before:
                before = sent[0]
                await asyncio.sleep(0.2)
        await asyncio.sleep(0.2)
        assert 0 < sent[0] == before


@pytest.mark.parametrize("size", [5_000, 60_000, 600_000])
async def test_an_answer_whose_connection_is_closed_behind_it_is_whole(tmp_path: Path, size: int) -> None:
    """What is not taken apart yet when the end comes is part of the answer."""
    body = b"x" * size

    async def answer(exchange: Exchange) -> None:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
        await exchange.raw(head + body)
        exchange.writer.close()

    async with RawServer(answer) as server:
        credentials = Credentials(kubeconfig=server.kubeconfig(tmp_path / "kc"))
        budget = CpuBudget("west", clock=SystemClock())
        async with await ClusterSession.open(
            credentials, cluster=WEST, timeouts=ClusterTimeouts(), clock=SystemClock(), budget=budget
        ) as session:
            for _ in range(5):
                assert await session.get("/version") == body


async def test_endless_interim_answers_are_no_answer(tmp_path: Path) -> None:
    """A thousand of them took the loop 50 ms, and went on until the request's time was over."""
    budget = CpuBudget("west", clock=SystemClock())
    async with flooded(tmp_path, b"", INTERIM * 1000, budget) as (session, _):
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ClusterGarbage, match="not HTTP"):
                await session.get("/version", timeout=2 * PATIENCE)


async def test_a_few_interim_answers_are_passed_over(tmp_path: Path) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.raw(INTERIM * 10 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with RawServer(answer) as server:
        credentials = Credentials(kubeconfig=server.kubeconfig(tmp_path / "kc"))
        async with await ClusterSession.open(
            credentials, cluster=WEST, timeouts=ClusterTimeouts(), clock=SystemClock()
        ) as session:
            for _ in range(3):
                assert await session.get("/version") == b"{}"


async def test_the_answers_of_requests_are_not_charged_as_long_as_they_are_small(tmp_path: Path) -> None:
    """The hub decides how many requests it makes, and token reviews must not use up what watches need."""
    body = b'{"gitVersion":"v1.36.2"}'

    async def answer(exchange: Exchange) -> None:
        await exchange.answer(body)

    async with RawServer(answer) as server:
        credentials = Credentials(kubeconfig=server.kubeconfig(tmp_path / "kc"))
        budget = Counting("west", clock=SystemClock())
        async with await ClusterSession.open(
            credentials, cluster=WEST, timeouts=ClusterTimeouts(), clock=SystemClock(), budget=budget
        ) as session:
            for _ in range(3):
                assert await session.get("/version") == body
    assert budget.charged_times == 0


async def listing(
    tmp_path: Path, page: Callable[[int], str], budget: CpuBudget, until: Callable[[Any], object]
) -> Any:
    """A reflector whose server answers each list by ``page``, until that says so; how many pages it asked for."""
    asked = [0]

    async def answer(exchange: Exchange) -> None:
        asked[0] += 1
        meta = {"resourceVersion": "1", "continue": page(asked[0])}
        await exchange.answer(json.dumps({"kind": "PodList", "metadata": meta, "items": []}).encode())

    async with RawServer(answer) as server:
        credentials = Credentials(kubeconfig=server.kubeconfig(tmp_path / "kc"))
        async with await ClusterSession.open(
            credentials, cluster=WEST, timeouts=ClusterTimeouts(), clock=SystemClock(), budget=budget
        ) as session:
            pods = Reflector(
                session,
                "/api/v1/pods",
                decode=decode_metadata,
                timeouts=ClusterTimeouts(),
                clock=SystemClock(),
                jitter=random.Random(1),
            )
            running = asyncio.create_task(pods.run())
            async with asyncio.timeout(PATIENCE):
                while not until(pods):
                    await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    return asked[0]


async def test_a_list_of_empty_pages_is_charged(tmp_path: Path) -> None:
    """They hold nothing that could be charged, and each takes a request."""
    waits = VirtualClock()
    budget = CpuBudget("west", clock=waits, cpu=lambda: 0.0, burst=0.02)
    assert await listing(tmp_path, str, budget, lambda _: waits.sleeping) < 100


async def test_a_page_does_not_continue_with_itself(tmp_path: Path) -> None:
    budget = CpuBudget("west", clock=SystemClock())

    def refused(pods: Any) -> bool:
        return isinstance(pods.problem, ClusterGarbage)

    assert await listing(tmp_path, lambda _: "again", budget, refused) < 5
