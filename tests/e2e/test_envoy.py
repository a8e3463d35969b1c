"""The real data plane: one Envoy for each cluster, mutual TLS in both directions with what the hub gives them."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from federation.core.pki.keys import KeyKind
from federation.runtime.clock import SystemClock
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.mesh import Identity, Workload
from tests.support.envoy import Envoy, call, running, write_identity
from tests.support.leaves import issue_leaf
from tests.support.patience import PATIENCE

TAKEN_UP = PATIENCE


def deliver(proxy: Envoy, issued: Identity) -> None:
    write_identity(proxy.identity, chain=issued.chain_pem, key=issued.key_pem, trust=issued.trust_pem)


async def wait_serial(caller: Envoy, target: str, serial: int) -> None:
    """Wait until the target sees the caller with that certificate."""
    async with asyncio.timeout(TAKEN_UP):
        while int((await call(caller, target)).peer_serial, 16) != serial:
            await asyncio.sleep(0.05)


def alien(ca: DevelopmentCa, workload: Workload, trust: bytes) -> Identity:
    """A workload of another CA that claims an identity of this mesh."""
    chain, key = issue_leaf(ca, str(workload.identity), clock=SystemClock())
    return Identity(chain=chain, key_pem=key, trust=workload.current.trust if workload.current else ())


async def refused(caller: Envoy, target: str) -> bool:
    try:
        await call(caller, target)
    except (aiohttp.ClientError, TimeoutError, ssl.SSLError):
        return True
    return False


@pytest.fixture
async def mesh(box: Box, namespace: str, tmp_path: Path):  # type: ignore[no-untyped-def]
    """The hub, one workload and one running Envoy in each cluster."""
    await box.start_hub()
    await box.wait_ready()
    workloads = {name: await box.workload(name, namespace, "frontend") for name in box.members}
    proxies = {name: Envoy(name, tmp_path / "envoy" / name, str(box.trust_domain)) for name in workloads}
    for name, workload in workloads.items():
        deliver(proxies[name], await workload.renew(lifetime=timedelta(hours=1)))
    plans = [
        (
            proxy,
            {other: (proxies[other], str(workloads[other].identity)) for other in proxies if other != name},
        )
        for name, proxy in proxies.items()
    ]
    async with running(plans):
        yield box, workloads, proxies


async def test_workloads_of_two_clusters_talk_both_ways(mesh) -> None:  # type: ignore[no-untyped-def]
    _, workloads, proxies = mesh
    for client in proxies:
        for server in proxies:
            if client != server:
                answer = await call(proxies[client], server)
                assert answer.body == server
                assert answer.peer == str(workloads[client].identity)
                assert answer.local == str(workloads[server].identity)


async def test_a_workload_of_an_unregistered_ca_is_refused(mesh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, workloads, proxies = mesh
    stranger = DevelopmentCa.create(tmp_path / "stranger-ca", name="stranger", clock=SystemClock())
    assert (await call(proxies["east"], "west")).body == "west"
    deliver(proxies["east"], alien(stranger, workloads["east"], b""))
    async with asyncio.timeout(TAKEN_UP):
        while not await refused(proxies["east"], "west"):
            await asyncio.sleep(0.05)
    failures = await proxies["west"].stats(r"listener.*ssl\.fail_verify_error")
    assert sum(failures.values()) >= 1
    assert await refused(proxies["west"], "east"), "a server of a stranger's CA must be refused as well"


async def test_a_renewed_certificate_is_taken_up_without_a_restart(mesh) -> None:  # type: ignore[no-untyped-def]
    _, workloads, proxies = mesh
    first = await call(proxies["east"], "west")
    renewed = await workloads["east"].renew(lifetime=timedelta(hours=1))
    deliver(proxies["east"], renewed)
    await wait_serial(proxies["east"], "west", renewed.leaf.serial)
    assert int(first.peer_serial, 16) != renewed.leaf.serial
    assert proxies["east"].process.returncode is None


async def test_a_changed_bundle_is_taken_up_without_a_restart(mesh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    box, workloads, proxies = mesh
    second = DevelopmentCa.create(
        tmp_path / "second-ca", name="second", clock=SystemClock(), kind=KeyKind.EC_P384
    )
    newcomer = alien(second, workloads["east"], b"")
    before = await box.get("/api/v1/bundle")
    box.extra_anchors.append(second.directory / "root.pem")
    box.write_config()
    after = await box.wait_for("/api/v1/bundle", lambda bundle: bundle["generation"] > before["generation"])
    assert len(after["anchors"]) == len(before["anchors"]) + 1

    async def delivered() -> Identity:
        async with asyncio.timeout(PATIENCE):
            while True:
                issued: Identity = await workloads["west"].renew(lifetime=timedelta(hours=1))
                if len(issued.trust) == 2:
                    return issued
                await asyncio.sleep(0.1)

    issued = await delivered()
    deliver(proxies["west"], issued)
    await wait_serial(proxies["west"], "east", issued.leaf.serial)
    deliver(proxies["east"], newcomer)
    await wait_serial(proxies["east"], "west", newcomer.leaf.serial)
    assert (await call(proxies["east"], "west")).peer == str(workloads["east"].identity)
