"""Unproven callers on a running hub: honest callers are served meanwhile, and status reports the unproven ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from federation.core.config.types import Address
from federation.runtime.clock import SystemClock
from federation.status.server import MOST_CONNECTIONS
from federation_sandbox.box import SERVER_NAME, Box, DevelopmentCa
from federation_sandbox.ports import free_port
from tests.e2e.conftest import members_of
from tests.signer.tokens import b64
from tests.support.patience import PATIENCE
from tests.support.raw_http2 import RawConnection

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """A hub over two clusters, one of which has no workloads, with a health listener of its signer."""
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 2) as members:
        ca = DevelopmentCa.create(tmp_path / "ca", name="unknown callers", clock=clock)
        box = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=1.0)
        box.signer_lines = f'health_listen = "127.0.0.1:{free_port()}"'
        await box.register()
        try:
            await box.start_hub()
            await box.wait_ready()
            yield box
        finally:
            await box.stop_hub()


def raw(box: Box) -> RawConnection:
    return RawConnection(Address("127.0.0.1", box.listener_port), box.ca.root.pem, SERVER_NAME)


def codes(status: Any) -> dict[str, str]:
    return {item["code"]: item["severity"] for item in status["attention"]}


async def test_unproven_calls_keep_no_honest_caller_out_and_do_not_count_against_a_cluster(box: Box) -> None:
    """Headers without a body, bodies sent byte by byte, and garbage tokens that name a cluster, all at once."""
    workload = await box.workload("east", "shop", "frontend")
    await workload.renew()
    async with contextlib.AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(raw(box)) for _ in range(32)]
        for number, connection in enumerate(flood):
            for _ in range(100):
                stream = connection.headers()
                if number % 2:
                    connection.data(stream, b"\x00\x00\x00\xff\xff")
        garbage = await stack.enter_async_context(raw(box))
        head = b64(json.dumps({"alg": "RS256", "kid": "no such key"}).encode())
        claims = workload.token().split(".")[1]
        for _ in range(10):
            sent = {"authorization": f"Bearer {head}.{claims}.{b64(bytes(256))}", "clusterid": "west"}
            garbage.data(garbage.headers(sent), b"\x00\x00\x00\x00\x00", end=True)
        for _ in range(20):
            async with asyncio.timeout(PATIENCE):
                await workload.renew()
        status = await box.wait_for(
            "/api/v1/status",
            lambda s: {"calls_rejected", "unproven_callers_refused"} <= codes(s).keys(),
            what="findings about the callers",
        )
    (flooded,) = [item for item in status["attention"] if item["code"] == "calls_rejected"]
    assert "127.0.0.1" in flooded["detail"]
    # West has no workloads: unproven calls in its name must not look as if all its callers were refused.
    assert "callers_refused" not in codes(status)
    (west,) = [cluster for cluster in status["clusters"] if cluster["name"] == "west"]
    assert west["workloads"]["fine"]


async def test_idle_connections_do_not_silence_health(box: Box) -> None:
    listeners = [box.status_port, int(box.signer_lines.rsplit(":", 1)[1].strip('"'))]
    async with contextlib.AsyncExitStack() as stack:
        for port in listeners:
            for _ in range(MOST_CONNECTIONS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                writer.write(HEALTH)
                async with asyncio.timeout(PATIENCE):
                    assert await reader.readuntil(b"}")
        for port in listeners * 5:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(HEALTH)
            async with asyncio.timeout(PATIENCE):
                assert b'{"ready":true' in await reader.readuntil(b"}")
