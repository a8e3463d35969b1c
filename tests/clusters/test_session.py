"""One session: every failure is one typed error, everything is bounded, and nothing leaks."""

# ruff: noqa: SIM117  the server, the session and what is expected of them are each on a separate line

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import random
import socket
import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from federation.core.config.clusters import ClusterTimeouts
from federation.core.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterGone,
    ClusterInvalid,
    ClusterNotFound,
    ClusterServerError,
    ClusterThrottled,
    ClusterTimeout,
    ClusterUnauthorized,
    ClusterUnreachable,
    ClusterWithheld,
)
from federation.kubernetes.answers import LONGEST_RETRY_AFTER
from federation.kubernetes.objects import decode_metadata
from federation.kubernetes.reflector import Reflector
from federation.kubernetes.session import (
    MAX_ANSWER_BYTES,
    MAX_LINE_BYTES,
    OWN_DELAY,
    SMALL_ANSWER_BYTES,
    ClusterSession,
)
from federation.kubernetes.wire import UNACKNOWLEDGED
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.authentication import ClusterCa
from federation_sandbox.apiserver.faults import Answer, Cut, Delay, Garbage, Hang
from federation_sandbox.apiserver.store import encode
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock
from tests.support.clusters import FAST, Exchange, RawServer, connected, eventually
from tests.support.patience import PATIENCE

NAMESPACES = "/api/v1/namespaces"
ways = pytest.mark.parametrize("most", [MAX_ANSWER_BYTES, SMALL_ANSWER_BYTES], ids=["large", "small"])
"""Answers that may be large come by aiohttp, others by the hub's own connections: both fail alike."""

QUICK = ClusterTimeouts(connect=0.3, request=0.3, watch_silence=0.3)


# What an API server answers ---------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, ClusterInvalid),
        (401, ClusterUnauthorized),
        (403, ClusterForbidden),
        (404, ClusterNotFound),
        (405, ClusterInvalid),
        (409, ClusterConflict),
        (410, ClusterGone),
        (413, ClusterInvalid),
        (422, ClusterInvalid),
        (429, ClusterThrottled),
        (500, ClusterServerError),
        (503, ClusterServerError),
        (504, ClusterTimeout),
    ],
)
async def test_each_status_is_its_own_error(
    tmp_path: Path, code: int, kind: type[ClusterError], most: int
) -> None:
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        with cluster.faults.inject(Answer(code, "Because", "said by the server")):
            with pytest.raises(kind, match="said by the server") as caught:
                await session.get(NAMESPACES)
        assert type(caught.value) is kind
        assert caught.value.where == "east"
        assert b"kube-system" in await session.get(NAMESPACES)


@ways
@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0", 0.0), ("soon", 1.0), ("999999", LONGEST_RETRY_AFTER)]
)
async def test_a_throttled_request_says_how_long_to_wait(
    tmp_path: Path, header: str, seconds: float, most: int
) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(b"{}", status="429 Too Many Requests", Retry_After=header)

    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        with pytest.raises(ClusterThrottled) as caught:
            await session.get(NAMESPACES)
    assert caught.value.retry_after == seconds


@ways
async def test_what_the_server_says_is_made_harmless(tmp_path: Path, most: int) -> None:
    async def respond(exchange: Exchange) -> None:
        echo = exchange.headers["authorization"]
        text = f"\\u001b[31mred\\nline {echo} " + "x" * 2000
        body = f'{{"kind":"Status","message":"{text}"}}'
        await exchange.answer(body.encode(), status="403 Forbidden")

    async with RawServer(respond) as server:
        async with connected(
            server.kubeconfig(tmp_path / "kc", token="my-secret"), most_bytes=most
        ) as session:
            with pytest.raises(ClusterForbidden) as caught:
                await session.get(NAMESPACES)
    text = caught.value.diagnostics()
    assert "my-secret" not in text
    assert text.isprintable()
    assert len(text) < 700


async def test_what_an_event_says_is_freed_of_the_token_as_well(tmp_path: Path) -> None:
    async def respond(exchange: Exchange) -> None:
        if "watch=1" not in exchange.target:
            await exchange.answer(b'{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[]}')
            return
        text = f"no {exchange.headers['authorization']}"
        status = '{"kind":"Status","code":500,"message":"%s"}' % text  # noqa: UP031  braces
        await exchange.lines(f'{{"type":"ERROR","object":{status}}}'.encode())

    async with RawServer(respond) as server:
        async with connected(server.kubeconfig(tmp_path / "kc", token="my-secret")) as session:
            pods = Reflector(
                session,
                NAMESPACES,
                decode=decode_metadata,
                timeouts=FAST,
                clock=SystemClock(),
                jitter=random.Random(1),
            )
            running = asyncio.create_task(pods.run())
            await eventually(lambda: pods.problem)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert "no Bearer" in str(pods.problem)
    assert "my-secret" not in str(pods.problem)


# What no API server answers ---------------------------------------------------------------------------------------


@ways
async def test_a_server_that_is_down_is_unreachable_and_back_at_once(tmp_path: Path, most: int) -> None:
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        assert await session.get("/version")
        await cluster.down()
        for _ in range(2):
            with pytest.raises(ClusterUnreachable):
                await session.get("/version")
        await cluster.up()
        assert await session.get("/version")


async def timed_out(session: ClusterSession, timeout: float | None = None) -> str:
    """What is said of a request that is not answered, by a process that was not late itself."""
    while True:
        with pytest.raises(ClusterTimeout) as found:
            await session.get("/version", timeout=timeout)
        if found.value.reason != OWN_DELAY:
            return found.value.what


@ways
async def test_a_hung_server_is_a_timeout(tmp_path: Path, most: int) -> None:
    async with SandboxCluster("east") as cluster:
        async with connected(
            cluster.write_kubeconfig(tmp_path / "kc"), timeouts=QUICK, most_bytes=most
        ) as session:
            with cluster.faults.inject(Hang()):
                assert "0.3 s" in await timed_out(session)
            with cluster.faults.inject(Delay(5.0)):
                assert "0.1 s" in await timed_out(session, timeout=0.1)


@ways
async def test_a_port_that_never_shakes_hands_is_unreachable(tmp_path: Path, most: int) -> None:
    async with RawServer(_never) as server:
        kubeconfig, url = server.kubeconfig(tmp_path / "kc"), server.url

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    kubeconfig.write_text(kubeconfig.read_text().replace(url, f"https://127.0.0.1:{port}"))
    timeouts = ClusterTimeouts(connect=0.2, request=5.0)
    try:
        async with connected(kubeconfig, timeouts=timeouts, most_bytes=most) as session:
            with pytest.raises(ClusterUnreachable, match=r"0\.2 s"):
                await session.get("/version")
    finally:
        listener.close()


async def _never(_: Exchange) -> None:
    await asyncio.sleep(30)


@ways
async def test_a_certificate_of_another_ca_is_refused_with_the_remedy(tmp_path: Path, most: int) -> None:
    async with RawServer(_never) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kc")
        other = RawServer(_never, ca=ClusterCa("other"))
        document = kubeconfig.read_text()
        async with other:
            kubeconfig.write_text(document.replace(server.url, other.url))
            async with connected(kubeconfig, most_bytes=most) as session:
                with pytest.raises(ClusterUnreachable) as caught:
                    await session.get("/version")
    assert caught.value.reason == "tls"
    assert "certificate-authority" in caught.value.remedy
    assert other.requests == []


@ways
async def test_plain_http_on_the_port_is_unreachable(tmp_path: Path, most: int) -> None:
    server = RawServer(_never)
    server.tls = None
    timeouts = ClusterTimeouts(connect=0.2)
    async with (
        server,
        connected(server.kubeconfig(tmp_path / "kc"), timeouts=timeouts, most_bytes=most) as session,
    ):
        with pytest.raises(ClusterUnreachable):
            await session.get("/version")


async def raw_answer(tmp_path: Path, data: bytes, most: int) -> ClusterError:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(data)
        exchange.writer.close()

    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        with pytest.raises(ClusterError) as caught:
            await session.get("/version")
    return caught.value


@ways
@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 700 What\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_answer_are_garbage(tmp_path: Path, data: bytes, most: int) -> None:
    assert isinstance(await raw_answer(tmp_path, data, most), ClusterGarbage)


@ways
async def test_a_connection_that_only_closes_is_unreachable_after_a_second_try(
    tmp_path: Path, most: int
) -> None:
    async def respond(exchange: Exchange) -> None:
        exchange.writer.close()

    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        with pytest.raises(ClusterUnreachable):
            await session.request("PATCH", NAMESPACES, body=b"{}")
        assert server.requests == [f"PATCH {NAMESPACES}"] * 2


@ways
async def test_a_connection_closed_while_idle_costs_no_write(tmp_path: Path, most: int) -> None:
    closing = True

    async def respond(exchange: Exchange) -> None:
        nonlocal closing
        if closing:
            closing = False
            exchange.writer.close()
        else:
            await exchange.answer(b"written")

    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        assert await session.request("PATCH", NAMESPACES, body=b"{}") == b"written"


@ways
async def test_an_answer_cut_short_is_garbage(tmp_path: Path, most: int) -> None:
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        with cluster.faults.inject(Cut(after=20)), pytest.raises(ClusterGarbage, match="cut short"):
            await session.get(NAMESPACES)


@ways
async def test_the_error_page_of_a_proxy_is_a_server_error_without_its_text(
    tmp_path: Path, most: int
) -> None:
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        with cluster.faults.inject(Garbage()), pytest.raises(ClusterServerError) as caught:
            await session.get(NAMESPACES)
    assert "<html>" not in str(caught.value)


@ways
async def test_an_endless_answer_is_cut_off(tmp_path: Path, most: int) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20))
        for _ in range(MAX_ANSWER_BYTES // (1 << 20) + 3):
            await exchange.raw(chunk)

    timeouts = ClusterTimeouts(request=20.0)
    async with RawServer(respond) as server:
        async with connected(
            server.kubeconfig(tmp_path / "kc"), timeouts=timeouts, most_bytes=most
        ) as session:
            with pytest.raises(ClusterGarbage, match="larger"):
                await session.get("/version")


@ways
async def test_nothing_is_inflated(tmp_path: Path, most: int) -> None:
    async def respond(exchange: Exchange) -> None:
        assert exchange.headers["accept-encoding"] == "identity"
        await exchange.answer(gzip.compress(b"0" * 10_000_000), Content_Encoding="gzip")

    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        with pytest.raises(ClusterGarbage, match="compressed"):
            await session.get("/version")


# What leaves the hub ----------------------------------------------------------------------------------------------


@ways
async def test_a_token_goes_to_its_server_only(tmp_path: Path, most: int) -> None:
    seen: list[Mapping[str, str]] = []

    async def note(exchange: Exchange) -> None:
        seen.append(exchange.headers)
        await exchange.answer(b"{}")

    async with RawServer(note) as elsewhere:

        async def redirect(exchange: Exchange) -> None:
            await exchange.answer(b"", status="307 Temporary Redirect", Location=elsewhere.url + "/version")

        async with (
            RawServer(redirect) as server,
            connected(server.kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
        ):
            with pytest.raises(ClusterGarbage, match="307"):
                await session.get("/version")
    assert seen == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "version",
        "//host/x",
        "/api/v1/namespaces/../secrets",
        "/api/v1/namespaces/./x",
        "/api/v1/namespaces/..",
        "/api/v1/namespaces/a%2f..%2fb",
        "/api/v1/namespaces/a?watch=1",
        "/api/v1/namespaces/a#b",
        "/api/v1/namespaces/a b",
        "/api/v1/namespaces/a\r\nHost: evil",
        "/api/v1/namespaces/é",
    ],
)
async def test_a_name_out_of_a_broken_cluster_cannot_leave_its_path(tmp_path: Path, path: str) -> None:
    async with RawServer(_never) as server, connected(server.kubeconfig(tmp_path / "kc")) as session:
        with pytest.raises(ClusterInvalid):
            await session.get(path)
        with pytest.raises(ClusterInvalid):
            async with session.stream(path, silence=1.0):
                raise AssertionError
        assert server.requests == []


@ways
async def test_parameters_arrive_as_they_were_meant(tmp_path: Path, most: int) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(exchange.target.encode())

    async with RawServer(respond) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kc")
        kubeconfig.write_text(kubeconfig.read_text().replace(server.url, server.url + "/k8s/clusters/c-1"))
        async with connected(kubeconfig, most_bytes=most) as session:
            answer = await session.get(NAMESPACES, params={"labelSelector": "a=b,c in (d,e)", "limit": "5"})
    assert answer == b"/k8s/clusters/c-1/api/v1/namespaces?labelSelector=a%3Db,c+in+(d,e)&limit=5"


@ways
async def test_the_environment_chooses_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        assert await session.get("/version")


@ways
async def test_the_proxy_of_the_kubeconfig_is_used_end_to_end(tmp_path: Path, most: int) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0])
        host, port = head.split()[1].split(b":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host.decode(), int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            upstream_writer.close()

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    try:
        async with RawServer(lambda exchange: exchange.answer(b"through")) as server:
            port = listener.sockets[0].getsockname()[1]
            kubeconfig = server.kubeconfig(tmp_path / "kc", proxy_url=f"http://127.0.0.1:{port}")
            async with connected(kubeconfig, most_bytes=most) as session:
                assert await session.get("/version") == b"through"
            assert asked == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1".encode()]
            kubeconfig = server.kubeconfig(tmp_path / "kc", proxy_url="http://127.0.0.1:1")
            async with connected(kubeconfig, most_bytes=most) as session:
                with pytest.raises(ClusterUnreachable):
                    await session.get("/version")
    finally:
        listener.close()


@ways
async def test_requests_wait_for_slots_and_streams_need_none(tmp_path: Path, most: int) -> None:
    under_way = highest = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal under_way, highest
        if "watch" in exchange.target:
            await asyncio.sleep(30)
        under_way += 1
        highest = max(highest, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        await exchange.answer(b"{}")

    async with RawServer(respond) as server:
        async with connected(
            server.kubeconfig(tmp_path / "kc"), timeouts=ClusterTimeouts(), most_bytes=most
        ) as session:
            answers = await asyncio.gather(*(session.get("/version") for _ in range(40)))
    assert len(answers) == 40
    assert highest == 8


# Clock and streams ------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("skew", [-300, 0, 300])
async def test_the_clock_skew_is_read_from_any_answer(tmp_path: Path, skew: int, most: int) -> None:
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        cluster.skew = timedelta(seconds=-skew)
        await session.get("/version")
        assert abs(session.clock_skew - skew) < 3


@ways
async def test_a_date_that_is_none_changes_nothing(tmp_path: Path, most: int) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(b"{}", Date="yesterday")

    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), most_bytes=most) as session,
    ):
        await session.get("/version")
        assert session.clock_skew == 0.0


async def lines_of(tmp_path: Path, *lines: bytes, last: bytes = b"") -> list[bytes]:
    async def respond(exchange: Exchange) -> None:
        await exchange.lines(*lines, last=last)

    got: list[bytes] = []
    async with RawServer(respond) as server, connected(server.kubeconfig(tmp_path / "kc")) as session:
        async with session.stream(NAMESPACES, silence=2.0) as stream:
            async for line in stream:
                got.append(line)
    return got


async def test_a_stream_gives_whole_lines_however_they_come(tmp_path: Path) -> None:
    pieces = [b"one\ntw", b"o\n\n", b"three", b"\n"]

    async def respond(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await exchange.raw(b"%x\r\n%s\r\n" % (len(piece), piece))
            await asyncio.sleep(0.01)
        await exchange.raw(b"0\r\n\r\n")

    async with RawServer(respond) as server, connected(server.kubeconfig(tmp_path / "kc")) as session:
        async with session.stream(NAMESPACES, silence=2.0) as stream:
            assert [line async for line in stream] == [b"one", b"two", b"three"]


async def test_a_last_line_without_its_end_is_garbage(tmp_path: Path) -> None:
    with pytest.raises(ClusterGarbage, match="cut short"):
        await lines_of(tmp_path, b"whole", last=b"half")


async def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    with pytest.raises(ClusterGarbage, match="longer"):
        await lines_of(tmp_path, last=b"x" * (MAX_LINE_BYTES + 200_000))


async def test_a_silent_stream_is_a_timeout_by_the_clock_given(tmp_path: Path) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n")
        await asyncio.sleep(30)

    clock = VirtualClock()
    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), clock=clock) as session,
    ):
        async with session.stream(NAMESPACES, silence=90.0) as stream:
            assert await anext(stream) == b"a"
            waiting = asyncio.ensure_future(anext(stream))
            await clock.advance(89.0)
            assert not waiting.done()
            await clock.advance(2.0)
            with pytest.raises(ClusterTimeout, match="silent for 90 s"):
                await waiting
    assert clock.sleeping == 0


@pytest.mark.parametrize("sign", [b"\n", b"\n" * 500, b"x", b" "], ids=["line", "lines", "letter", "space"])
async def test_what_is_no_whole_line_is_no_sign_of_life(tmp_path: Path, sign: bytes) -> None:
    """Empty lines for ever, or a line of which one byte comes each minute, kept a watch that says nothing alive."""
    clock = VirtualClock()

    async def respond(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n")
        while True:
            await exchange.raw(b"%x\r\n%s\r\n" % (len(sign), sign))
            await clock.sleep(30.0)

    async with (
        RawServer(respond) as server,
        connected(server.kubeconfig(tmp_path / "kc"), clock=clock) as session,
        session.stream(NAMESPACES, silence=90.0) as stream,
    ):
        assert await anext(stream) == b"a"
        waiting = asyncio.ensure_future(anext(stream))
        while not waiting.done() and clock.monotonic() < 200.0:
            await clock.advance(10.0)
            await asyncio.sleep(0.01)
        with pytest.raises(ClusterTimeout, match="silent for 90 s"):
            await asyncio.wait_for(waiting, PATIENCE)


async def test_a_stream_that_never_begins_is_a_timeout(tmp_path: Path) -> None:
    async with RawServer(_never) as server:
        async with connected(server.kubeconfig(tmp_path / "kc"), timeouts=QUICK) as session:
            with pytest.raises(ClusterTimeout):
                async with session.stream(NAMESPACES, silence=90.0):
                    raise AssertionError


async def test_leaving_a_stream_early_leaves_nothing_behind(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc")) as session,
    ):
        for _ in range(3):
            params = {"watch": "1", "resourceVersion": "0"}
            async with session.stream(NAMESPACES, params=params, silence=5.0) as stream:
                assert await anext(stream)
        assert await session.get("/version")
    async with asyncio.timeout(PATIENCE):
        while asyncio.all_tasks() != before:
            await asyncio.sleep(0.01)


async def test_a_stream_under_way_ends_when_the_session_is_closed(tmp_path: Path) -> None:
    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), timeouts=FAST) as session,
    ):
        async with session.stream(NAMESPACES, params={"watch": "1"}, silence=5.0) as stream:
            await session.close()
            with pytest.raises(ClusterUnreachable):
                [line async for line in stream]
        with pytest.raises(ClusterUnreachable, match="closed"):
            await session.get("/version")


def test_tls_below_1_2_is_never_spoken(tmp_path: Path) -> None:
    from federation.kubernetes.credentials import client_context

    context = client_context(authority=ClusterCa("east").pem, where="kc")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_a_watch_does_not_go_over_the_connection_that_brought_a_list(tmp_path: Path) -> None:
    """It would keep the room that the list took for as long as it is open."""
    peers: dict[str, object] = {}

    async def respond(exchange: Exchange) -> None:
        peers[exchange.target] = exchange.writer.get_extra_info("peername")
        if "watch" in exchange.target:
            await exchange.lines(b"{}")
        else:
            await exchange.answer(bytes(200_000))

    async with RawServer(respond) as server, connected(server.kubeconfig(tmp_path / "kc")) as session:
        await session.get("/list")
        await session.get("/again")
        async with session.stream("/watch", silence=PATIENCE) as lines:
            assert [line async for line in lines] == [b"{}"]
    assert peers["/list"] == peers["/again"] != peers["/watch"]


# Writes that need permission ----------------------------------------------------------------------------------------


BUNDLE = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "bundle"},
    "data": {"key": "x" * 200_000},
}
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


@ways
async def test_a_write_is_withheld_where_permission_ends_while_it_waits(tmp_path: Path, most: int) -> None:
    permitted = True
    async with (
        SandboxCluster("east") as cluster,
        connected(
            cluster.write_kubeconfig(tmp_path / "kc"),
            most_bytes=most,
            connections=1,
            permitted=lambda: permitted,
        ) as session,
    ):
        with cluster.faults.inject(Hang(), path=NAMESPACES) as fault:
            reading = asyncio.create_task(session.get(NAMESPACES))
            await eventually(lambda: fault.hits)
            writing = asyncio.create_task(session.request("POST", CONFIG_MAPS, body=encode(BUNDLE)))
            await asyncio.sleep(0)
            permitted = False
        await asyncio.gather(reading, return_exceptions=True)
        with pytest.raises(ClusterWithheld, match="does not lead any more"):
            await writing
        assert cluster.requests.count(verb="create", resource="configmaps") == 0
        assert cluster.config_map("default", "bundle") is None
        assert b"kube-system" in await session.get(NAMESPACES), "reading needs none"


@ways
@pytest.mark.parametrize("looks", [0, 1, 2, 3])
async def test_a_write_that_is_stopped_in_the_middle_never_arrives(
    tmp_path: Path, looks: int, most: int
) -> None:
    """A body goes out in pieces, and permission ends after some of them."""
    left = looks

    def permitted() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    async with (
        SandboxCluster("east") as cluster,
        connected(cluster.write_kubeconfig(tmp_path / "kc"), most_bytes=most, permitted=permitted) as session,
    ):
        with pytest.raises(ClusterWithheld):
            await session.request("POST", CONFIG_MAPS, body=encode(BUNDLE))
        await session.get(NAMESPACES)
        assert cluster.config_map("default", "bundle") is None
        left = 100
        await session.request("POST", CONFIG_MAPS, body=encode(BUNDLE))
        assert cluster.config_map("default", "bundle") is not None


def user_timeouts(port: int) -> list[int]:
    """``TCP_USER_TIMEOUT`` of this process's connections to that port, in milliseconds."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as one:
            if one.family == socket.AF_INET and one.getpeername()[1] == port:
                found.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


def port_of(session: ClusterSession) -> int:
    return urlsplit(session.server).port or 0


@ways
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
async def test_what_a_leader_has_sent_arrives_soon_or_never(tmp_path: Path, most: int) -> None:
    async with SandboxCluster("east") as cluster:
        kubeconfig = cluster.write_kubeconfig(tmp_path / "kc")
        async with connected(kubeconfig, most_bytes=most, permitted=lambda: True) as session:
            await session.request("POST", CONFIG_MAPS, body=encode(BUNDLE | {"data": {}}))
            assert user_timeouts(port_of(session)) == [1000 * UNACKNOWLEDGED]
        async with connected(kubeconfig, most_bytes=most) as session:
            await session.get(NAMESPACES)
            assert user_timeouts(port_of(session))[-1:] == [0]
