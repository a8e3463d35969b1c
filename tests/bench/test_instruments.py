"""The benchmark's own instruments: what they send, what they count and how they judge it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from federation.core.config.hub import ListenerConfig
from federation.core.config.types import Address
from federation.core.istio.ca_protocol import METHOD
from federation.runtime.clock import SystemClock
from federation.signer.listeners.listener import Listener
from federation.signer.listeners.tls import ServingCredentials, ServingPair
from federation_sandbox.box import DevelopmentCa
from tests.bench.back_ends import Turns
from tests.bench.callers import Call, Crowd, cycle, header_block, hpack_string
from tests.bench.empty_listener import EmptyListener
from tests.bench.replay import Connection, Unexpected, connections, dechunked, request
from tests.bench.report import Line, Report, at_least, at_most
from tests.bench.signing import serving_pair_files

NAME = "federation-hub.federation-system.svc"


@given(st.binary(max_size=9000))
def test_a_literal_is_read_back_by_the_rules_of_rfc_7541(text: bytes) -> None:
    encoded = hpack_string(text)
    length, at = encoded[0], 1
    if length == 127:
        shift = 0
        while True:
            length += (encoded[at] & 127) << shift
            shift += 7
            at += 1
            if not encoded[at - 1] & 128:
                break

    assert encoded[at : at + length] == text
    assert len(encoded) == at + length


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (Line("g", "n", 2.0, "x", at_most(2)), "met"),
        (Line("g", "n", 2.1, "x", at_most(2)), "MISSED"),
        (Line("g", "n", 3.0, "x", at_least(3)), "met"),
        (Line("g", "n", 2.9, "x", at_least(3)), "MISSED"),
        (Line("g", "n", None, "x", at_least(3)), "not measured"),
        (Line("g", "n", 2.9, "x"), ""),
    ],
)
def test_a_line_is_judged_against_its_target(line: Line, verdict: str) -> None:
    assert line.verdict == verdict


def test_a_missed_target_is_in_the_printed_line_the_summary_and_the_json() -> None:
    said: list[str] = []
    report = Report(said.append, {"processor": "p"})
    report.add(Line("group", "handler over raw", 3.5, "x", at_most(2), "why"))

    assert "at most 2: MISSED  (why)" in said[-1]
    assert "MISSED: handler over raw: 3.50 x, wanted at most 2 (why)" in "\n".join(report.summary())
    (row,) = json.loads(report.as_json())["lines"]
    assert (row["value"], row["target"], row["verdict"]) == (3.5, "at most 2", "MISSED")


@asynccontextmanager
async def crowd(directory: Path, *, path: str = METHOD) -> AsyncIterator[Crowd]:
    """Callers of the signer's gRPC server around an empty listener."""
    ca = DevelopmentCa.create(directory / "ca", name="bench", clock=SystemClock(), lifetime=timedelta(days=1))
    chain, key = serving_pair_files(ca, directory)
    config = ListenerConfig(listen=Address("127.0.0.1", 0), server_names=())
    credentials = ServingCredentials(ServingPair(chain.read_bytes(), key.read_bytes()))
    server = Listener(EmptyListener(), config=config, listen=config.listen, credentials=credentials)
    address = await server.start()
    call = Call(header_block(path, NAME, {"authorization": "Bearer " + "x" * 900}), b"message")
    try:
        async with Crowd(
            address.host, address.port, trust=ca.root.pem, server_name=NAME, calls=cycle([call])
        ) as callers:
            yield callers
    finally:
        await server.stop(1)


async def test_callers_are_answered_by_the_signer_s_own_grpc_server(tmp_path: Path) -> None:
    async with crowd(tmp_path) as callers:
        await callers.grow(4)
        load = await callers.closed_loop(4, 0.3)

        assert load.failed == 0
        assert len(load.latencies) > 20
        assert [caller.first_reply for caller in callers.callers] == [b"\x00\x00\x00\x00\x01\x00"] * 4
        assert 0 < load.quantile(0.5) <= load.quantile(0.99) < 5


async def test_a_refused_call_counts_as_failed(tmp_path: Path) -> None:
    async with crowd(tmp_path, path="/no.such/Method") as callers:
        await callers.grow(1)
        load = await callers.closed_loop(1, 0.1)

        assert load.latencies == []
        assert load.failed > 0


async def test_a_steady_load_keeps_its_rate_and_ends_at_the_stop_event(tmp_path: Path) -> None:
    async with crowd(tmp_path) as callers:
        await callers.join(3)
        enough = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, enough.set)
        load = await callers.steady(40, 30.0, until=enough)

        assert load.failed == 0
        assert 15 <= len(load.latencies) <= 25


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.binary(max_size=20), st.data())
def test_a_chunked_body_is_read_once_it_is_complete(
    chunks: list[bytes], before: bytes, data: st.DataObject
) -> None:
    encoded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    part = data.draw(st.integers(0, len(encoded) - 1))

    assert dechunked(before + encoded, len(before)) == b"".join(chunks)
    assert dechunked(before + encoded[:part], len(before)) is None


@asynccontextmanager
async def echo() -> AsyncIterator[URL]:
    """A server that sends back what it was sent: whole, in chunks, or with the end of the connection."""

    async def answer(asked: web.Request) -> web.StreamResponse:
        body = await asked.read()
        match asked.path:
            case "/chunked":
                response = web.StreamResponse()
                response.enable_chunked_encoding()
                await response.prepare(asked)
                for at in range(0, len(body), 1000):
                    await response.write(body[at : at + 1000])
                return response
            case "/closing":
                closing = web.Response(body=body)
                closing.force_close()
                return closing
            case "/lost":
                assert asked.transport is not None
                asked.transport.abort()
                return web.Response()
            case _:
                return web.Response(body=body, status=200 if asked.method == "POST" else 405)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


async def test_one_connection_reads_bodies_of_every_framing_one_after_another() -> None:
    async with echo() as url, connections(2, url) as (first, second):
        for path, size in (("/", 10), ("/chunked", 3500), ("/closing", 70_000), ("/", 0), ("/chunked", 1)):
            body = bytes(size)
            encoded = request("POST", url.with_path(path), {"x-one": "1"}, body)
            assert list(await asyncio.gather(first.ask(encoded), second.ask(encoded))) == [body, body]


async def test_an_unexpected_status_and_a_lost_answer_raise_and_the_connection_recovers() -> None:
    async with echo() as url:
        connection = Connection(url, None)
        with pytest.raises(Unexpected, match="405 in place of 200"):
            await connection.ask(request("DELETE", url, {}))
        with pytest.raises(ConnectionError):
            await connection.ask(request("POST", url.with_path("/lost"), {}))
        assert await connection.ask(request("POST", url, {}, b"again")) == b"again"
        connection.close()


def test_a_back_end_is_compared_with_the_lower_limit_of_each_turn() -> None:
    turns = Turns(authority=[80.0, 50.0, 90.0], own=[100.0, 200.0, 90.0], hub=[400.0, 100.0, 300.0])

    assert turns.ratio == 0.8
