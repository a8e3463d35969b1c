"""A mesh of real Envoys under traffic while the hub rotates, for the tests of whole rotations.

One Envoy for each cluster uses the certificates that the hub's listener issues to its workload, renewed at half their
life as Istio's agent does; it does not know of the rotation. Every connection is new and counted.
``FEDERATION_ROTATION_LEAF`` changes the life of the leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio

from federation.core.errors import FederationError
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.mesh import Identity, Workload
from tests.e2e.conftest import members_of
from tests.support.envoy import Envoy, call, running, write_identity
from tests.support.patience import PATIENCE

LEAF = int(os.environ.get("FEDERATION_ROTATION_LEAF", "36"))  # seconds
LATE = 0.7  # share of a certificate's life: the rest has to outlast a restart of a killed hub
TAKEN_UP = timedelta(seconds=10)
LIMIT = 600.0 + 8 * LEAF


@dataclass
class Mesh:
    """One workload and one Envoy for each cluster, and the results of their connections."""

    box: Box
    workloads: dict[str, Workload]
    proxies: dict[str, Envoy]
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    expired: int = 0  # connections that failed with a certificate that had expired
    renewed_late: dict[str, datetime] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)

    async def renew(self, name: str) -> None:
        before = self.workloads[name].current
        renewed = await self.workloads[name].renew()
        if before is not None and before.leaf.not_after <= SystemClock().now():
            self.renewed_late[name] = SystemClock().now()
        self._install(name, renewed)

    def _install(self, name: str, identity: Identity) -> None:
        write_identity(
            self.proxies[name].identity,
            chain=identity.chain_pem,
            key=identity.key_pem,
            trust=identity.trust_pem,
        )

    async def replace(self, name: str, *, issuer: str) -> None:
        """Put a new pod in that workload's place: it knows the bundle published by now, and has that issuer's leaf."""
        account = self.workloads[name].identity.service_account
        pod = await self.box.workload(name, account.namespace, account.name)
        async with asyncio.timeout(PATIENCE):
            while pod.current is None or pod.current.chain[1].sha256 != issuer:
                with contextlib.suppress(grpc.aio.AioRpcError, FederationError):
                    await pod.renew()
                await asyncio.sleep(0.1)
        self.workloads[name] = pod
        self._install(name, pod.current)

    async def keep_renewing(self) -> None:
        """Renew at half the life of each certificate, in one cluster later; retry what fails, as agents do.

        The late renewals make the test hard: that cluster's certificates and roots are old and still valid.
        """
        while True:
            for name, workload in self.workloads.items():
                if workload.due(SystemClock().now(), share=LATE if name == "west" else 0.5):
                    with contextlib.suppress(grpc.aio.AioRpcError, FederationError):
                        await self.renew(name)
            await asyncio.sleep(0.25)

    def was_late(self, name: str) -> bool:
        """Whether its Envoy may not yet have loaded the certificate that replaced an expired one."""
        late = self.renewed_late.get(name)
        return late is not None and SystemClock().now() - late < TAKEN_UP

    def ends(self, name: str) -> datetime:
        """Until when the certificate of that workload is valid."""
        current = self.workloads[name].current
        assert current is not None
        return current.leaf.not_after

    async def keep_calling(self, client: str, server: str) -> None:
        while True:
            self.tried += 1
            ends = min(self.ends(name) for name in (client, server))
            try:
                answer = await call(self.proxies[client], server)
                assert answer.body == server
            except (aiohttp.ClientError, TimeoutError) as error:
                # A busy machine renews too late: only failures with valid certificates say something about trust.
                if ends <= SystemClock().now() or self.was_late(client) or self.was_late(server):
                    self.expired += 1
                else:
                    after = [step.get("state") for step in self.states[-1:]]
                    self.failures.append(f"{client} > {server} in {after}: {type(error).__name__}: {error}")
            await asyncio.sleep(0.15)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Traffic in every direction, and renewals, while the context is entered."""
        pairs = [(a, b) for a in self.proxies for b in self.proxies if a != b]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.keep_calling(a, b)) for a, b in pairs]
            tasks.append(group.create_task(self.keep_renewing()))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()


@contextlib.asynccontextmanager
async def open_mesh(
    directory: Path,
    *,
    count: int,
    start: Callable[[Box], Any],
    target: str = "sandbox",
    same_root: bool = False,
    life: timedelta = timedelta(seconds=LEAF),
) -> AsyncIterator[Mesh]:
    """Clusters, a hub that can rotate, workloads and Envoys."""
    clock, unique = SystemClock(), uuid.uuid4().hex[:6]
    async with members_of(target, directory, count) as members:
        ca = DevelopmentCa.create(directory / "first-ca", name=f"first {unique}", clock=clock)
        box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=2.0)
        second = directory / "second-ca"
        box.successor = (
            ca.another(second, name=f"second {unique}")
            if same_root
            else DevelopmentCa.create(second, name=f"second {unique}", clock=clock)
        )
        demo.prepare(box, life=life)
        await box.register()
        try:
            await start(box)
            await box.wait_ready()
            workloads = {name: await box.workload(name, f"shop-{unique}", "frontend") for name in members}
            proxies = {
                name: Envoy(name, directory / "envoy" / name, str(box.trust_domain)) for name in workloads
            }
            mesh = Mesh(box, workloads, proxies)
            async with asyncio.timeout(PATIENCE):
                for name, workload in workloads.items():
                    while workload.current is None:  # agents ask until they are answered
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            await mesh.renew(name)
            plans = [
                (
                    proxy,
                    {o: (proxies[o], str(workloads[o].identity)) for o in proxies if o != name},
                )
                for name, proxy in proxies.items()
            ]
            async with running(plans):
                await box.wait_proved()
                yield mesh
        finally:
            await box.stop_hub()


async def kill_hub(box: Box) -> None:
    """kill -9 for the supervisor and everything it started."""
    pid = box.hub_pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    assert await box.hub_ended() == -signal.SIGKILL
