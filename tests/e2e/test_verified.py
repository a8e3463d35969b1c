"""What clients would refuse is found before anything depends on it: unfit authorities, the listener's new leaf."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.errors import NotReady
from federation.core.istio.ca_protocol import METHOD
from federation.core.pki.keys import private_key_pem
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import SERVER_NAME, Box, DevelopmentCa
from tests.authorities.tcp_proxy import TcpProxy
from tests.support import pki
from tests.support.patience import PATIENCE


def as_files(authority: pki.Authority, directory: Path) -> DevelopmentCa:
    """The authority as an operator would mount it."""
    directory.mkdir()
    (directory / "root.pem").write_bytes(authority.root.pem)
    (directory / "chain.pem").write_bytes(authority.chain_pem)
    (directory / "key.pem").touch(mode=0o600)
    (directory / "key.pem").write_bytes(authority.key_pem)
    return DevelopmentCa(authority.root, authority.key, authority.certificate, directory)


def confined(directory: Path) -> DevelopmentCa:
    """An intermediate that may only name hosts of corp.example."""
    now = SystemClock().now().replace(microsecond=0)
    times: pki.Times = {"not_before": now - pki.DAY, "not_after": now + 300 * pki.DAY}
    above = pki.root("of a confined successor", **times)
    return as_files(pki.confined([x509.DNSName("corp.example")], issuer=above, **times), directory)


def on_brainpool(directory: Path) -> DevelopmentCa:
    """An intermediate of P-256 under a root that neither Go nor BoringSSL reads."""
    now = SystemClock().now().replace(microsecond=0)
    _, below = pki.root_of_curve(
        ec.BrainpoolP256R1(), not_before=now - pki.DAY, not_after=now + 300 * pki.DAY
    )
    return as_files(below, directory)


def finding(status: Any, code: str) -> Any:
    return next((item for item in status["attention"] if item["code"] == code), None)


@contextlib.asynccontextmanager
async def connected(port: int, trust: bytes) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the listener that verifies it as an agent does; no other channel shares its connection."""
    options = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(root_certificates=trust)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        yield channel


async def answered(channel: grpc.aio.Channel) -> bool:
    """Whether a call reaches the listener: refusing an unproven call is an answer, too."""
    try:
        await channel.unary_unary(METHOD)(b"", timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


async def test_a_successor_that_clients_would_refuse_starts_no_rotation(box: Box, tmp_path: Path) -> None:
    demo.prepare(box)
    for unfit, expected in (
        (confined(tmp_path / "confined"), ("CN=confined", SERVER_NAME, "corp.example")),
        (on_brainpool(tmp_path / "brainpool"), ("CN=Root on brainpoolP256r1", "BoringSSL", "Go")),
    ):
        box.successor = unfit
        box.write_config()
        if box.hub_pid is None:
            await box.start_hub()
            await box.wait_ready()

        def named(status: Any, expected: tuple[str, ...] = expected) -> bool:
            successor = next((a for a in status["authorities"] if a["use"] == "successor"), None)
            detail = successor["detail"] if successor is not None else ""
            return all(part in detail for part in expected)

        await box.wait_for("/api/v1/status", named, what="why the successor is unfit")
        with pytest.raises(NotReady) as refused:
            await box.operate("start")
        assert [part for part in expected if part not in str(refused.value)] == []
    assert await box.get("/api/v1/rotation") is None, "no rotation was ever started"


async def test_a_hub_whose_authority_clients_would_refuse_signs_nothing_and_says_why(
    box: Box, tmp_path: Path
) -> None:
    box.ca = on_brainpool(tmp_path / "brainpool")
    box.write_config()
    await box.start_hub()

    def explained(status: Any) -> bool:
        return any(
            item["severity"] == "critical" and "Root on brainpoolP256r1" in item["detail"] and item["remedy"]
            for item in status["attention"]
        )

    status = await box.wait_for("/api/v1/status", explained, what="why nothing is signed")
    assert status["verdict"] == "failing"
    assert status["certificates_issued"] == 0


@contextlib.asynccontextmanager
async def stranger(authority: pki.Authority) -> AsyncIterator[int]:
    """The port of a listener with a certificate of that authority, which answers like a signer's."""
    key = pki.key("listener of a stranger")
    now = SystemClock().now()
    san = x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)])
    leaf = pki.leaf(authority, san=san, private_key=key, not_before=now - pki.DAY, not_after=now + pki.DAY)
    pair = [(private_key_pem(key), leaf.pem + authority.chain_pem)]
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_a_listener_that_new_callers_refuse_is_reported_while_open_connections_still_work(
    box: Box,
) -> None:
    """The address now leads to a server with another certificate; established channels keep working."""
    box.signers = 2
    way = TcpProxy("127.0.0.1", box.listener_port)
    box.proof_lines = f'signer_address = "127.0.0.1:{way.own_port}"'
    box.write_config()
    await way.start()
    await box.start_hub()
    await box.wait_ready()

    def listeners(status: Any) -> list[str]:
        return [signer["listener"] for signer in status["signers"]]

    await box.wait_for(
        "/api/v1/status", lambda s: listeners(s) == ["proved", "proved"], what="each signer met"
    )
    now, trust = SystemClock().now().replace(microsecond=0), box.ca.root.pem
    times: pki.Times = {"not_before": now - pki.DAY, "not_after": now + pki.DAY}
    other = pki.intermediate("of a stranger", pki.root("of a stranger", **times), **times)
    async with stranger(other) as port, connected(way.own_port, trust) as before:
        assert await answered(before)
        way.port = port
        status = await box.wait_for(
            "/api/v1/status",
            lambda s: listeners(s) == ["refused", "refused"],
            what="that new callers are refused",
        )
        item = finding(status, "listener_refused")
        assert (item["severity"], status["verdict"]) == ("critical", "failing")
        assert "a new connection refuses it" in item["detail"]
        assert await answered(before), "an established connection keeps working"
        async with connected(way.own_port, trust) as after:
            assert not await answered(after), "gRPC's BoringSSL refuses it"
        way.port = box.listener_port
        await box.wait_for("/api/v1/status", lambda s: listeners(s) == ["proved", "proved"])
        async with connected(way.own_port, trust) as after:
            assert await answered(after)
    await box.stop_hub()
    await way.stop()
