"""The listener: limits, words of our own for requests that cannot be read, and TLS files that may be replaced."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.config.types import Address
from federation.core.errors import ConfigurationError
from federation.status import server
from federation.status.app import healthz
from federation.status.server import ReloadedTls, serve
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

LOOPBACK = Address("127.0.0.1", 0)


def health_app() -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/healthz", healthz)])
    return app


@asynccontextmanager
async def plain() -> AsyncIterator[Address]:
    async with serve(health_app(), listen=LOOPBACK, clock=VirtualClock()) as address:
        yield address


async def say(address: Address, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
        b"GET /" + b"y" * 20000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
    ],
)
async def test_what_cannot_be_read_gets_a_problem_that_names_no_software(request_bytes: bytes) -> None:
    async with plain() as address:
        answer = await say(address, request_bytes)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"application/problem+json" in answer
    assert b"aiohttp" not in answer.lower()
    assert b"python" not in answer.lower()


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes soon, so that what closes a connection is what the test is about."""
    for limit in ("FIRST_REQUEST", "KEEPALIVE", "NEXT_REQUEST", "HANDSHAKE"):
        monkeypatch.setattr(server, limit, 3600.0)


async def test_a_caller_that_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    monkeypatch.setattr(server, "FIRST_REQUEST", 0.05)
    async with plain() as address:
        assert await say(address, b"GET /healthz HTTP/1.1\r\nHost:") == b""


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def test_too_many_connections_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has been idle longest is closed, and the newcomer is answered."""
    patient(monkeypatch)
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 2)
    async with plain() as address:
        connections = [await asyncio.open_connection(address.host, address.port) for _ in range(2)]
        connections[0][1].write(REQUEST)  # it waits for its next request later than the other for its first
        async with asyncio.timeout(PATIENCE):
            assert b'{"ready":true' in await connections[0][0].readuntil(b"}")
            assert b'{"ready":true' in await say(address, LAST)
            assert await connections[1][0].read() == b""
        connections[0][1].write(LAST)
        async with asyncio.timeout(PATIENCE):
            assert b'{"ready":true' in await connections[0][0].read()
        for _, writer in connections:
            writer.close()
        await asyncio.sleep(0.05)
        assert b'{"ready":true' in await say(address, LAST)


async def test_what_is_being_answered_does_not_give_way_to_what_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient(monkeypatch)
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 2)
    app, asked, answered = health_app(), asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        asked.set()
        await answered.wait()
        return web.Response(text="at last")

    app.router.add_get("/slow", slow)
    async with serve(app, listen=LOOPBACK, clock=VirtualClock()) as address, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(LAST.replace(b"/healthz", b"/slow"))
        await asked.wait()
        idle, unused = await asyncio.open_connection(address.host, address.port)
        assert b'{"ready":true' in await say(address, LAST)
        assert await idle.read() == b"", "though it came later"
        answered.set()
        assert b"at last" in await reader.read()
        writer.close()
        unused.close()


@pytest.mark.parametrize("limit", ["KEEPALIVE", "NEXT_REQUEST"])
async def test_a_connection_without_a_next_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    patient(monkeypatch)
    monkeypatch.setattr(server, limit, 0.1)
    async with plain() as address:
        assert b'{"ready":true' in await say(address, REQUEST)


async def test_a_connection_without_a_handshake_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    patient(monkeypatch)
    monkeypatch.setattr(server, "HANDSHAKE", 0.1)
    certificate, key = write_pair(tmp_path, "first")
    async with serve(
        health_app(), listen=LOOPBACK, clock=VirtualClock(), certificate_file=certificate, key_file=key
    ) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        async with asyncio.timeout(50):  # asyncio itself would wait for 60
            assert await reader.read() == b""
        writer.close()


async def test_idle_keep_alive_connections_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    async with plain() as address, contextlib.AsyncExitStack() as stack:
        for _ in range(server.MOST_CONNECTIONS + 20):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            stack.callback(writer.close)
            writer.write(REQUEST)
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"}")
        for _ in range(5):
            assert b'{"ready":true' in await say(address, LAST)


async def test_an_answer_that_is_not_read_does_not_block_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "NEXT_REQUEST", 0.2)
    app = health_app()

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 50_000_000)

    app.router.add_get("/large", large)
    async with serve(app, listen=LOOPBACK, clock=VirtualClock()) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=1024)
        writer.write(REQUEST.replace(b"/healthz", b"/large"))
        await asyncio.sleep(1)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                assert len(await reader.read(-1)) < 50_000_000
        writer.close()


def write_pair(directory: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = directory / "tls.crt", directory / "tls.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


async def served_name(address: Address) -> str:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()
    finally:
        writer.close()


async def until(clock: VirtualClock, address: Address, name: str) -> str:
    for _ in range(15_000):
        await clock.until_sleeping()
        await clock.advance(5)
        if (seen := await served_name(address)) == name:
            break
        await asyncio.sleep(0.01)
    return seen


async def test_replaced_tls_files_are_taken_up_and_a_pair_that_does_not_fit_is_not(tmp_path: Path) -> None:
    clock = VirtualClock()
    certificate, key = write_pair(tmp_path, "first")
    async with serve(
        health_app(), listen=LOOPBACK, clock=clock, certificate_file=certificate, key_file=key
    ) as address:
        assert await served_name(address) == "CN=first"
        write_pair(tmp_path, "second")
        assert await until(clock, address, "CN=second") == "CN=second"
        (tmp_path / "other").mkdir()
        other, _ = write_pair(tmp_path / "other", "third")
        certificate.write_bytes(other.read_bytes())
        for _ in range(5):
            await clock.until_sleeping()
            await clock.advance(5)
        assert await served_name(address) == "CN=second"


async def taken_up(tls: ReloadedTls, clock: VirtualClock, name: str) -> None:
    """Watch the files until that certificate is shown."""
    watching = asyncio.create_task(tls.watch())
    listening = await asyncio.start_server(lambda _, writer: writer.close(), LOOPBACK.host, 0, ssl=tls.outer)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        assert await until(clock, Address(LOOPBACK.host, port), name) == name
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_files_that_are_replaced_before_the_first_look_at_them_are_taken_up(tmp_path: Path) -> None:
    """The first look took them for those that had been loaded, and the old certificate was served until it ended."""
    clock = VirtualClock()
    tls = await ReloadedTls.load(*write_pair(tmp_path, "first"), clock=clock)
    write_pair(tmp_path, "second")
    await taken_up(tls, clock, "CN=second")


async def test_files_that_could_not_be_read_once_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a volume that hung: they have not changed since, and are to be served all the same."""
    clock, attempts = VirtualClock(), count()
    tls = await ReloadedTls.load(*write_pair(tmp_path, "first"), clock=clock)
    load = ssl.SSLContext.load_cert_chain

    def once_in_vain(context: ssl.SSLContext, *files: Any, **options: Any) -> None:
        if next(attempts) == 0:
            raise OSError("it hangs")
        load(context, *files, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", once_in_vain)
    write_pair(tmp_path, "second")
    await taken_up(tls, clock, "CN=second")
    assert next(attempts) > 1


async def test_tls_files_that_cannot_be_used_are_a_configuration_error(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, "first")
    key.write_text("not a key")
    with pytest.raises(ConfigurationError, match=r"tls\.crt"):
        async with serve(
            health_app(), listen=LOOPBACK, clock=VirtualClock(), certificate_file=certificate, key_file=key
        ):
            pass
