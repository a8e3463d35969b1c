"""The listener's transport by itself: every limit of a connection, met by clients that keep to no rules."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from federation.controller.proof.listener_check import Aim, ListenerCheck
from federation.core.call_slots import CallSlot
from federation.core.config.hub import ListenerConfig
from federation.core.config.types import Address
from federation.core.documents.signer import SignerReport
from federation.core.errors import FederationError
from federation.core.istio.ca_protocol import METHOD
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation.signer.listeners import calls, frame_limits, http2
from federation.signer.listeners.connection import Connection
from federation.signer.listeners.grpc import Answered, Code
from federation.signer.listeners.listener import Listener
from federation.signer.listeners.tls import ServingCredentials, ServingPair
from federation_sandbox.box import SERVER_NAME, DevelopmentCa
from tests.bench.callers import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Call,
    frame,
    header_block,
)
from tests.bench.signing import serving_pair_files
from tests.signer.running_signer import eventually
from tests.support.key_updates import key_updates
from tests.support.memory import kept_by
from tests.support.patience import PATIENCE
from tests.support.raw_http2 import RawConnection

CONTINUATION, PRIORITY = 9, 2
CALM, PROTOCOL_ERROR = 11, 1


class Recorder:
    """A listener that answers as a test says, and remembers what the transport reported."""

    method = METHOD

    def __init__(self) -> None:
        self.reply = b"reply"
        self.prove = True
        self.hold: asyncio.Event | None = None
        self.calls: list[tuple[bytes, dict[str, str | bytes]]] = []
        self.under_way = 0
        self.turned: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.peers: list[str] = []

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, slot: CallSlot
    ) -> bytes:
        self.calls.append((message, dict(metadata)))
        if self.prove:
            slot.proved()
        self.under_way += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.under_way -= 1
        if not self.prove:
            raise Answered(Code.UNAUTHENTICATED, "request authenticate failure")
        return self.reply

    def reject(self, error: FederationError, *, peer: str) -> None:
        self.turned[error.reason] += 1

    def connection_refused(self, error: FederationError, *, peer: str) -> None:
        self.refused[error.reason] += 1
        self.peers.append(peer)


@dataclass
class Gate:
    """A listening listener."""

    listener: Recorder
    server: Listener
    credentials: ServingCredentials
    address: Address
    ca: DevelopmentCa
    directory: Path
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def connections(self) -> int:
        """How many the listener keeps."""
        return len(kept_by(self.server, Connection, depth=3))

    async def raw(self, **options: Any) -> RawConnection:
        connection = RawConnection(self.address, self.ca.root.pem, SERVER_NAME, **options)
        return await self.stack.enter_async_context(connection)

    async def bare(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            self.address.host, self.address.port, local_addr=(source, 0)
        )
        self.stack.callback(writer.close)
        return reader, writer

    @contextlib.asynccontextmanager
    async def channel(self, **options: int) -> AsyncIterator[grpc.aio.Channel]:
        fixed = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
        credentials = grpc.ssl_channel_credentials(self.ca.root.pem)
        arguments = [*fixed, *options.items()]
        async with grpc.aio.secure_channel(str(self.address), credentials, options=arguments) as channel:
            yield channel

    async def ask(self, message: bytes = b"message", *, timeout: float = 30.0) -> bytes:
        async with self.channel() as channel:
            reply: bytes = await channel.unary_unary(METHOD)(message, timeout=timeout)
            return reply


@pytest.fixture
async def gates(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Opens listeners with options of their configuration."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(**options: Any) -> Gate:
            ca = DevelopmentCa.create(
                tmp_path / "ca", name="listener", clock=SystemClock(), lifetime=timedelta(days=1)
            )
            credentials = ServingCredentials(pair_of(ca, tmp_path))
            listen = Address("127.0.0.1", 0)
            config = ListenerConfig(listen=listen, server_names=(), **options)
            listener = Recorder()
            server = Listener(listener, config=config, listen=listen, credentials=credentials)
            address = await server.start()
            stack.push_async_callback(server.stop, 0)
            gate = Gate(listener, server, credentials, address, ca, tmp_path)
            await stack.enter_async_context(gate.stack)
            return gate

        yield opened


def pair_of(ca: DevelopmentCa, directory: Path) -> ServingPair:
    chain, key = serving_pair_files(ca, directory)
    return ServingPair(chain.read_bytes(), key.read_bytes())


def whole(stream: int, message: bytes = b"message", headers: dict[str, str] | None = None) -> bytes:
    block = header_block(METHOD, SERVER_NAME, headers or {})
    return Call(block, message).frames(stream)


# --- calls ---


async def test_a_call_is_answered_with_its_metadata_and_whatever_the_size(gates: Callable[..., Any]) -> None:
    gate = await gates()
    gate.listener.reply = os.urandom(300_000)
    message = os.urandom(65_000)
    async with gate.channel() as channel:
        sent = (("clusterid", "east"), ("x-bin", b"\x00\xff"))
        for _ in range(3):
            reply = await channel.unary_unary(METHOD)(message, metadata=sent, timeout=PATIENCE)
            assert reply == gate.listener.reply
    got, metadata = gate.listener.calls[0]
    assert got == message
    assert (metadata["clusterid"], metadata["x-bin"]) == ("east", b"\x00\xff")
    assert not gate.listener.refused
    assert not gate.listener.turned


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        (("/no.such/Method", None, b"x"), grpc.StatusCode.UNIMPLEMENTED, "unknown_method"),
        ((METHOD, grpc.Compression.Gzip, b"x" * 999), grpc.StatusCode.UNIMPLEMENTED, "message_compressed"),
        ((METHOD, None, b"x" * 70_000), grpc.StatusCode.RESOURCE_EXHAUSTED, "message_too_large"),
    ],
)
async def test_what_is_not_served_gets_a_status(
    gates: Callable[..., Any], asked: tuple[str, Any, bytes], code: grpc.StatusCode, reason: str
) -> None:
    path, compression, message = asked
    gate = await gates()
    async with gate.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(path)(message, timeout=PATIENCE, compression=compression)
        assert refused.value.code() is code
        assert await channel.unary_unary(METHOD)(b"x", timeout=PATIENCE) == b"reply", "the connection is open"
    assert gate.listener.turned == {reason: 1}


async def test_what_is_no_grpc_is_refused_without_grpc(gates: Callable[..., Any]) -> None:
    gate = await gates()
    connection = await gate.raw()
    connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x87\x84\x01\x01h"))  # GET /
    await eventually(lambda: 1 in connection.ended)
    assert gate.listener.turned == {"no_grpc": 1}
    assert not connection.closed.is_set()


async def test_metadata_over_the_limit_is_refused_and_far_over_it_ends_the_connection(
    gates: Callable[..., Any],
) -> None:
    gate = await gates()
    connection = await gate.raw()
    assert connection.headers({"x": "y" * 15_000}, end=False)
    big = header_block(METHOD, SERVER_NAME, {"x": "y" * 17_000})
    connection.send(frame(HEADERS, 0, 3, big[:16_000]) + frame(CONTINUATION, END_HEADERS, 3, big[16_000:]))
    await eventually(lambda: connection.ended.get(3) == Code.RESOURCE_EXHAUSTED.value)
    assert gate.listener.turned == {"metadata_too_large": 1}
    huge = header_block(METHOD, SERVER_NAME, {"x": "y" * 40_000})
    pieces = [huge[at : at + 16_000] for at in range(0, len(huge), 16_000)]
    connection.send(frame(HEADERS, 0, 5, pieces[0]) + frame(CONTINUATION, 0, 5, pieces[1]))
    connection.send(frame(CONTINUATION, END_HEADERS, 5, pieces[2]))
    await eventually(connection.closed.is_set)
    assert gate.listener.refused == {"metadata_too_large": 1}


async def test_a_callers_own_deadline_ends_its_call(gates: Callable[..., Any]) -> None:
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    connection.send(whole(1, headers={"grpc-timeout": "200m"}))
    await eventually(lambda: connection.ended.get(1) == Code.UNAVAILABLE.value)
    await eventually(lambda: gate.listener.under_way == 0)


@pytest.mark.parametrize("way", ["reset", "close"])
async def test_a_caller_that_goes_away_ends_its_call(gates: Callable[..., Any], way: str) -> None:
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    connection.send(whole(1))
    await eventually(lambda: gate.listener.under_way == 1)
    if way == "reset":
        connection.send(frame(RST_STREAM, 0, 1, struct.pack(">I", 8)))
    else:
        connection.abort()
    await eventually(lambda: gate.listener.under_way == 0 and gate.server.slots.taken == 0)


async def test_a_connection_without_a_proven_call_is_closed_gracefully(
    gates: Callable[..., Any],
) -> None:
    gate = await gates()
    gate.listener.prove = False
    connection = await gate.raw()
    for number in range(calls.MOST_REFUSED):
        connection.send(whole(1 + 2 * number))
        await eventually(partial(connection.ended.__contains__, 1 + 2 * number))
    await eventually(connection.closed.is_set)
    assert set(connection.ended.values()) <= {Code.UNAUTHENTICATED.value, None}
    assert set(connection.goaway) == {0}
    assert gate.listener.refused == {"refused_calls": 1}


# --- before HTTP/2 ---


async def test_failed_handshakes_are_counted_and_load_balancer_checks_are_not(
    gates: Callable[..., Any],
) -> None:
    gate = await gates()
    for _ in range(3):
        _, writer = await gate.bare()
        writer.close()
        await writer.wait_closed()
    for _ in range(2):
        reader, writer = await gate.bare()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
    untrusting = ssl.create_default_context()
    untrusting.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection(
            gate.address.host, gate.address.port, ssl=untrusting, server_hostname=SERVER_NAME
        )
    await eventually(lambda: gate.listener.refused.total() == 3)
    assert gate.listener.refused == {"handshake_failed": 3}
    await eventually(lambda: not gate.connections)


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
async def test_who_does_not_agree_on_http2_is_refused(
    gates: Callable[..., Any], protocols: list[str]
) -> None:
    gate = await gates()
    tls = ssl.create_default_context(cadata=gate.ca.root.pem.decode())
    if protocols:
        tls.set_alpn_protocols(protocols)
    reader, writer = await asyncio.open_connection(
        gate.address.host, gate.address.port, ssl=tls, server_hostname=SERVER_NAME
    )
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    assert gate.listener.refused == {"no_http2": 1}


async def test_a_client_that_has_a_certificate_is_let_in(gates: Callable[..., Any]) -> None:
    """By whichever CA: none is asked for."""
    gate = await gates()
    other = DevelopmentCa.create(
        gate.directory / "other", name="other", clock=SystemClock(), lifetime=timedelta(days=1)
    )
    pair = pair_of(other, gate.directory / "other")
    credentials = grpc.ssl_channel_credentials(gate.ca.root.pem, pair.key_pem, pair.chain_pem)
    options = [("grpc.ssl_target_name_override", SERVER_NAME)]
    async with grpc.aio.secure_channel(str(gate.address), credentials, options=options) as channel:
        assert await channel.unary_unary(METHOD)(b"x", timeout=PATIENCE) == b"reply"


@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"", "handshake_late"), (b"\x16\x03\x01\x02\x00\x01", "handshake_late")],
)
async def test_a_handshake_that_never_ends_is_ended(
    gates: Callable[..., Any], said: bytes, reason: str
) -> None:
    gate = await gates(receive_deadline=0.3)
    reader, writer = await gate.bare()
    writer.write(said)
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert gate.listener.refused == {reason: 1}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "preface_late"),
        (PREFACE[:10], "preface_late"),
        (PREFACE, "preface_late"),
        (PREFACE + frame(SETTINGS, 0, 0, b"")[:5], "preface_late"),
        (b"GET / HTTP/1.1\r\n\r\n\r\n\r\n\r\n\r\n", "bad_preface"),
        (PREFACE + frame(PING, 0, 0, bytes(8)), "bad_preface"),
    ],
)
async def test_a_preface_that_does_not_come_or_is_none(
    gates: Callable[..., Any], said: bytes, reason: str
) -> None:
    gate = await gates(receive_deadline=5.0)
    tls = ssl.create_default_context(cadata=gate.ca.root.pem.decode())
    tls.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        gate.address.host, gate.address.port, ssl=tls, server_hostname=SERVER_NAME
    )
    writer.write(said)
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    writer.close()
    assert gate.listener.refused == {reason: 1}


# --- who has a connection ---


async def test_one_address_keeps_out_no_other_and_has_all_that_no_other_wants(
    gates: Callable[..., Any],
) -> None:
    gate = await gates(max_connections=40, receive_deadline=3600)
    crowd = [await gate.bare("127.0.0.2") for _ in range(40)]
    await eventually(lambda: gate.connections == 40)
    assert not gate.listener.refused
    late = [await gate.bare("127.0.0.2") for _ in range(5)]
    await eventually(lambda: gate.listener.refused["connections_of_address"] == 5)
    for reader, _ in crowd[:5]:
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b"", "those that have been silent longest"
    assert await gate.ask() == b"reply"
    for number in range(3, 13):
        other = await gate.raw(source=f"127.0.0.{number}")
        other.send(whole(1))
        await eventually(partial(other.bodies.__contains__, 1))
    assert not any(reader.at_eof() for reader, _ in late)
    assert gate.connections <= 40
    assert set(gate.listener.refused) == {"connections_of_address"}
    assert {peer.split(":")[1] for peer in gate.listener.peers} == {"127.0.0.2"}


async def test_a_proven_connection_is_not_pushed_out_by_strangers(gates: Callable[..., Any]) -> None:
    gate = await gates(max_connections=16, receive_deadline=3600)
    honest = [await gate.raw() for _ in range(8)]
    for connection in honest:
        connection.send(whole(1))
    await eventually(lambda: all(1 in each.bodies for each in honest))
    await asyncio.gather(*(gate.bare("127.0.0.2") for _ in range(60)))
    await eventually(lambda: gate.listener.refused.total() >= 52)
    for connection in honest:
        connection.send(whole(3))
    await eventually(lambda: all(3 in each.bodies for each in honest))


async def test_handshakes_have_a_rate_and_addresses_take_turns(gates: Callable[..., Any]) -> None:
    gate = await gates(max_handshake_rate=1.0, receive_deadline=3600)
    await asyncio.gather(*(gate.bare("127.0.0.2") for _ in range(300)))
    await eventually(lambda: gate.connections == 300)
    assert await gate.ask() == b"reply"
    reader, writer = await gate.bare("127.0.0.2")
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(
            ssl.MemoryBIO(), hello, server_hostname=SERVER_NAME
        ).do_handshake()
    writer.write(hello.read())
    with pytest.raises(TimeoutError):  # the others still wait, and the new address did not wait for them
        async with asyncio.timeout(3):
            await reader.read(1)


async def test_the_certificate_is_replaced_without_a_connection_lost(gates: Callable[..., Any]) -> None:
    gate = await gates()
    async with gate.channel() as channel:
        call = channel.unary_unary(METHOD)
        assert await call(b"x", timeout=PATIENCE) == b"reply"
        before = await shown(gate)
        gate.credentials.replace(pair_of(gate.ca, gate.directory))
        assert await shown(gate) != before
        assert await call(b"x", timeout=PATIENCE) == b"reply"
    assert not gate.listener.refused


async def shown(gate: Gate) -> bytes:
    tls = ssl.create_default_context(cadata=gate.ca.root.pem.decode())
    tls.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(
        gate.address.host, gate.address.port, ssl=tls, server_hostname=SERVER_NAME
    )
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


# --- floods ---


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (frame(PING, 0, 0, bytes(8)), "ping_flood"),
        (frame(SETTINGS, 0, 0, b""), "settings_flood"),
        (frame(PRIORITY, 0, 1, bytes(5)), "frame_flood"),
        (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), "frame_flood"),
        (frame(200, 0, 0, b""), "frame_flood"),
    ],
    ids=["ping", "settings", "priority", "window", "unknown"],
)
async def test_floods_of_frames_end_their_connection(
    gates: Callable[..., Any], one: bytes, reason: str
) -> None:
    gate = await gates()
    connection = await gate.raw()
    connection.send(one * 400)
    await eventually(connection.closed.is_set)
    assert gate.listener.refused == {reason: 1}
    assert await gate.ask() == b"reply"


async def test_rapid_resets_end_their_connection_and_leave_nothing_behind(gates: Callable[..., Any]) -> None:
    """CVE-2023-44487."""
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    for number in range(200):
        stream = 1 + 2 * number
        connection.send(whole(stream) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
    await eventually(connection.closed.is_set)
    assert gate.listener.refused == {"reset_flood": 1}
    assert len(gate.listener.calls) <= frame_limits.RESETS[0]
    await eventually(lambda: gate.listener.under_way == 0 and gate.server.slots.taken == 0)


async def test_resets_that_the_server_is_led_to_make_count_as_well(gates: Callable[..., Any]) -> None:
    """CVE-2025-8671: a window update of zero has the server reset the stream, and its work would go on."""
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    for number in range(200):
        stream = 1 + 2 * number
        connection.send(whole(stream) + frame(WINDOW_UPDATE, 0, stream, bytes(4)))
    await eventually(connection.closed.is_set)
    assert gate.listener.refused.total() == 1
    await eventually(lambda: gate.listener.under_way == 0 and gate.server.slots.taken == 0)


async def test_endless_continuation_ends_its_connection(gates: Callable[..., Any]) -> None:
    """CVE-2024-27316."""
    gate = await gates()
    connection = await gate.raw()
    connection.send(frame(HEADERS, 0, 1, header_block(METHOD, SERVER_NAME, {})))
    connection.send(frame(CONTINUATION, 0, 1, b"") * 50)
    await eventually(connection.closed.is_set)
    assert gate.listener.refused == {"continuation_flood": 1}
    assert not gate.listener.calls


@pytest.mark.parametrize(
    "begun",
    [
        frame(HEADERS, 0, 1, header_block(METHOD, SERVER_NAME, {})),
        frame(HEADERS, END_HEADERS, 1, header_block(METHOD, SERVER_NAME, {}))[:20],
        frame(SETTINGS, 0, 0, b"")[:3],
    ],
    ids=["without-their-continuation", "half-a-frame", "half-a-head"],
)
async def test_headers_that_never_end_are_ended(gates: Callable[..., Any], begun: bytes) -> None:
    gate = await gates(receive_deadline=1.0)
    connection = await gate.raw()
    await eventually(connection.settled.is_set)  # an acknowledgement in the middle would break a rule
    connection.send(begun)
    await eventually(connection.closed.is_set)
    assert gate.listener.refused == {"late_frame": 1}


async def test_a_call_past_those_allowed_at_once_is_refused_and_the_others_go_on(
    gates: Callable[..., Any],
) -> None:
    """RFC 9113, 5.1.2: it is an error of the stream, and REFUSED_STREAM says that it may be tried again."""
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    await eventually(connection.settled.is_set)  # it has read how many, so that it breaks a rule
    for number in range(http2.MAX_STREAMS + 20):
        connection.send(whole(1 + 2 * number))
    await eventually(lambda: gate.listener.turned == {"too_many_streams": 20})
    await eventually(lambda: len(gate.listener.calls) == http2.MAX_STREAMS)
    assert not gate.listener.refused
    gate.listener.hold.set()
    await eventually(lambda: gate.server.slots.taken == 0)
    gate.listener.hold = None
    connection.send(whole(1 + 2 * 100))
    await eventually(lambda: len(gate.listener.calls) == http2.MAX_STREAMS + 1)
    assert not connection.closed.is_set()


async def test_calls_past_those_allowed_at_once_without_end_end_their_connection(
    gates: Callable[..., Any],
) -> None:
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    await eventually(connection.settled.is_set)
    for number in range(100):
        connection.send(whole(1 + 2 * number))
    await eventually(lambda: gate.listener.refused == {"refused_calls": 1})
    assert len(gate.listener.calls) <= http2.MAX_STREAMS
    gate.listener.hold.set()
    await eventually(connection.closed.is_set)
    await eventually(lambda: gate.server.slots.taken == 0)


async def test_what_fails_unexpectedly_ends_its_connection_and_nothing_else(
    gates: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await gates()
    connection = await gate.raw()
    await eventually(connection.settled.is_set)
    with monkeypatch.context() as patch:
        patch.setattr(frame_limits.FrameWatch, "feed", lambda *_: 1 // 0)
        connection.send(whole(1))
        await eventually(connection.closed.is_set)
    assert await gate.ask() == b"reply"


async def test_records_without_data_end_their_connection_and_delay_no_other(
    gates: Callable[..., Any],
) -> None:
    """KeyUpdate (RFC 8446, 4.6.3): OpenSSL takes as many as come before it gives the thread back."""
    gate = await gates()
    updates = await asyncio.to_thread(key_updates, gate.address, 20_000)
    with updates.socket as talking:
        talking.settimeout(10)

        def send() -> None:
            with contextlib.suppress(OSError):
                talking.sendall(updates.records)

        await asyncio.to_thread(send)
        await eventually(lambda: gate.listener.refused == {"record_flood": 1})
    assert await gate.ask() == b"reply"


@pytest.mark.parametrize(
    "broken",
    [
        frame(DATA, 0, 5, b"on a stream that was never begun"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff"),
        frame(WINDOW_UPDATE, 0, 0, bytes(4)),
        b"\xff\xff\xff" + frame(DATA, 0, 1, b"")[3:],
    ],
    ids=["idle-stream", "hpack", "window", "length"],
)
async def test_what_breaks_the_rules_ends_its_connection(gates: Callable[..., Any], broken: bytes) -> None:
    gate = await gates()
    connection = await gate.raw()
    await eventually(connection.settled.is_set)
    connection.send(broken)
    await eventually(connection.closed.is_set)
    assert gate.listener.refused == {"protocol_error": 1}
    assert connection.goaway


# --- readers that do not read ---


async def test_a_reader_that_gives_no_window_is_ended(gates: Callable[..., Any]) -> None:
    gate = await gates(deadline=1.0)
    gate.listener.reply = b"x" * 1000
    connection = await gate.raw(settings=struct.pack(">HIHI", 1, 0, 4, 0))
    for number in range(8):
        connection.send(whole(1 + 2 * number))
    await eventually(connection.closed.is_set)
    assert gate.listener.refused == {"slow_reader": 1}


async def test_nothing_more_is_read_from_who_does_not_read_and_in_time_it_is_ended(
    gates: Callable[..., Any],
) -> None:
    gate = await gates(deadline=2.0)
    gate.listener.reply = b"x" * 1_000_000
    tls = ssl.create_default_context(cadata=gate.ca.root.pem.decode())
    tls.set_alpn_protocols(["h2"])
    plain = socket.create_connection((gate.address.host, gate.address.port))
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def flood() -> None:
        with tls.wrap_socket(plain, server_hostname=SERVER_NAME) as talking:
            talking.settimeout(20)
            window = struct.pack(">I", 2**31 - 1 - 65535)
            talking.sendall(
                PREFACE
                + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1))
                + frame(WINDOW_UPDATE, 0, 0, window)
            )
            with contextlib.suppress(OSError):
                for number in range(100_000):  # it writes and never reads, until it cannot write any more
                    talking.sendall(whole(1 + 2 * number))
                    time.sleep(0.01)

    await asyncio.to_thread(flood)
    assert gate.listener.refused["slow_reader"] == 1
    assert len(gate.listener.calls) <= 40, "nothing more was read long before that"
    assert await gate.ask() == gate.listener.reply


# --- the end of a connection ---


async def test_an_idle_connection_is_closed_gracefully(gates: Callable[..., Any]) -> None:
    gate = await gates(max_connection_idle=0.5)
    connection = await gate.raw()
    connection.send(whole(1))
    await eventually(lambda: 1 in connection.ended)
    await eventually(connection.closed.is_set)
    assert connection.goaway == [0, 0], "a notice, then the end"
    assert not gate.listener.refused


async def test_at_its_age_a_connection_ends_and_the_call_under_way_does_not(
    gates: Callable[..., Any],
) -> None:
    gate = await gates(max_connection_age=0.5)
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    connection.send(whole(1))
    await eventually(lambda: len(connection.goaway) == 2)
    assert not connection.closed.is_set()
    gate.listener.hold.set()
    await eventually(connection.closed.is_set)
    assert connection.bodies[1].endswith(b"reply")
    assert not gate.listener.refused


async def test_callers_notice_nothing_of_connections_that_reach_their_age(gates: Callable[..., Any]) -> None:
    gate = await gates(max_connection_age=0.3)
    end = time.monotonic() + 4
    async with gate.channel() as channel:
        call = channel.unary_unary(METHOD)
        while time.monotonic() < end or len(gate.listener.calls) <= 20:
            assert await call(b"x", timeout=PATIENCE) == b"reply"
    assert len(gate.listener.calls) > 20
    assert not gate.listener.refused


async def test_a_drain_waits_for_calls_and_for_nothing_else(gates: Callable[..., Any]) -> None:
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    silent, half = await gate.bare(), await gate.raw()
    connection = await gate.raw()
    connection.send(whole(1))
    await eventually(lambda: gate.listener.under_way == 1)
    stopping = asyncio.create_task(gate.server.stop(10 * PATIENCE))
    await eventually(half.closed.is_set)
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            assert await silent[0].read() == b""
    assert not stopping.done()
    gate.listener.hold.set()
    await asyncio.wait_for(stopping, PATIENCE)
    await eventually(connection.closed.is_set)
    assert connection.bodies[1].endswith(b"reply")


async def test_a_drain_ends_in_time_despite_open_calls(gates: Callable[..., Any]) -> None:
    gate = await gates()
    gate.listener.hold = asyncio.Event()
    connection = await gate.raw()
    connection.send(whole(1))
    await eventually(lambda: gate.listener.under_way == 1)
    await asyncio.wait_for(gate.server.stop(0.3), PATIENCE)
    assert gate.listener.under_way == 0
    await eventually(connection.closed.is_set)


async def test_signers_share_a_port(gates: Callable[..., Any]) -> None:
    gate = await gates()
    config = ListenerConfig(listen=gate.address, server_names=())
    second = Recorder()
    server = Listener(second, config=config, listen=gate.address, credentials=gate.credentials)
    assert await server.start() == gate.address
    try:
        for _ in range(60):
            await gate.ask()
            if second.calls and gate.listener.calls:
                break
        assert second.calls
        assert gate.listener.calls
    finally:
        await server.stop(0)


async def test_fetching_the_certificate_is_no_failed_handshake(gates: Callable[..., Any]) -> None:
    """The controller's proof makes new connections all the time, only to see what they are shown."""
    gate = await gates()
    aim = Aim(gate.address, SERVER_NAME, (gate.ca.root,), 1)
    (leaf, *_) = parse_certificates(gate.credentials.pair.chain_pem, where="listener")
    pem = gate.credentials.pair.chain_pem.decode()
    signer = SignerReport(
        replica="one", started=0.0, updated=0.0, heartbeat=1.0, ready=True, address="here", serving_pem=pem
    )
    proof = ListenerCheck(SystemClock())
    for _ in range(20):
        (found,) = (await proof.prove(aim, [signer], interval=0.0)).signers
        assert (found.state, found.sha256, proof.report.connections) == ("proved", leaf.sha256, 1)
    await eventually(lambda: not gate.connections)
    assert not gate.listener.refused
