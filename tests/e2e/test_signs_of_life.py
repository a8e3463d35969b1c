"""A mesh that gets no certificates is not green, even if the hub's own probes succeed: a whole hub in a box."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from federation.core.identity import SpiffeId, TrustDomain
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import Box, DevelopmentCa
from tests.e2e.conftest import members_of
from tests.e2e.verifying import verify_fails, verify_succeeds

LEAF = 20  # seconds


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """A hub with short leaves over two clusters that is proved and green."""
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 2) as members:
        ca = DevelopmentCa.create(tmp_path / "ca", name="signs of life", clock=clock)
        box = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=2.0)
        demo.prepare(box, life=timedelta(seconds=LEAF))
        await box.register()
        try:
            await box.start_hub()
            await box.wait_ready()
            await box.wait_proved()
            yield box
        finally:
            await box.stop_hub()


def finding(status: Any, code: str) -> Any:
    return next((item for item in status["attention"] if item["code"] == code), None)


async def test_a_mesh_of_another_trust_domain_is_critical_and_fails_verify(box: Box) -> None:
    workload = await box.workload("east", "shop", "frontend")
    workload.identity = SpiffeId(TrustDomain("other.example"), workload.identity.service_account)
    with pytest.raises(grpc.aio.AioRpcError):
        await workload.renew()
    status = await box.wait_for("/api/v1/status", lambda s: finding(s, "callers_refused"))
    item = finding(status, "callers_refused")
    assert (status["verdict"], item["severity"], item["where"]) == ("failing", "critical", "east")
    assert "csr_trust_domain" in item["detail"]
    assert "spiffe://other.example/ns/shop/sa/frontend" in item["detail"]
    assert f"set meshConfig.trustDomain to {box.trust_domain}" in item["remedy"]
    await box.wait_proved()
    await verify_fails(box, "csr_trust_domain")
    workload.identity = replace(workload.identity, trust_domain=box.trust_domain)
    await workload.renew()
    await box.wait_for("/api/v1/status", lambda s: not finding(s, "callers_refused"))
    await verify_succeeds(box)


async def test_a_mesh_whose_workloads_stop_renewing_is_not_green(box: Box) -> None:
    workloads = {name: [await box.workload(name, "shop", "frontend")] for name in box.members}
    for each in workloads.values():
        await each[0].renew()
    renewing = asyncio.create_task(demo.keep_renewing(workloads, box, print))
    try:

        def alive(status: Any) -> bool:
            return all(
                (c["workloads"]["state"], c["workloads"]["with_certificate"]) == ("alive", 1)
                for c in status["clusters"]
            )

        await box.wait_for("/api/v1/status", alive)
        await asyncio.sleep(1.5 * LEAF)
        await box.wait_for("/api/v1/status", alive)  # by later certificates: the first have ended
        await verify_succeeds(box)
    finally:
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
    status = await box.wait_for("/api/v1/status", lambda s: finding(s, "renewals_stopped"))
    assert status["verdict"] == "failing"
    assert "shop/frontend-0" in finding(status, "renewals_stopped")["detail"]
    matrix = await box.wait_proved()
    assert matrix["proven"], "the hub's own probes are as green as before"
    await verify_fails(box, "0 of 1 workloads hold a certificate")
    await workloads["east"][0].renew()
    await workloads["west"][0].renew()
    await box.wait_for("/api/v1/status", alive)
    await verify_succeeds(box)
