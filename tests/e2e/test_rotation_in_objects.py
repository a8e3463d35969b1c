"""A whole rotation with the state in Kubernetes objects: each role a process with a service account of its own.

Two signers share one listener, and of two controllers one leads by the Lease. Under traffic the leading controller and
a signer are killed: the other controller takes the rotation over from what the objects say. Nothing is granted but what
``manifests/hub/state.yaml`` grants.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml

from federation.core.identity import ClusterName
from federation.runtime.clock import SystemClock
from federation_sandbox.box import Box
from federation_sandbox.cluster import MemberWorld, SandboxCluster
from federation_sandbox.ports import free_port
from tests.e2e.conftest import REAL
from tests.e2e.rotating import LIMIT, open_mesh
from tests.support.patience import PATIENCE

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests" / "hub"
NAMESPACE = "federation-state"
TARGETS = [
    "sandbox",
    pytest.param(
        "real",
        marks=pytest.mark.skipif(
            len(REAL) < 2, reason="FEDERATION_REAL_KUBECONFIGS names no two real API servers"
        ),
    ),
]


@dataclass
class Roles:
    """The hub's processes, each with the configuration of its role."""

    directory: Path
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    status_ports: dict[str, int] = field(default_factory=dict)

    async def start(self, role: str, name: str) -> None:
        options = ["--config", str(self.directory / role / "clusters.toml"), "--replica", name]
        if role == "controller":
            self.status_ports.setdefault(name, free_port())
            options += ["--status", f"127.0.0.1:{self.status_ports[name]}"]
        with (self.directory / "hub.log").open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "federation", role, *options),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def kill(self, name: str) -> None:
        """``kill -9``: it gives nothing up and says nothing."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            await process.wait()


@contextlib.asynccontextmanager
async def state_cluster(target: str, directory: Path) -> AsyncIterator[MemberWorld]:
    """The hub's own cluster, as its administrator sees it, with what the manifests put there."""
    async with contextlib.AsyncExitStack() as stack:
        if target == "sandbox":
            cluster = await stack.enter_async_context(SandboxCluster("hub"))
            kubeconfig = cluster.write_kubeconfig(directory / "hub-administrator.kubeconfig")
        else:
            kubeconfig = REAL[0]
        world = await MemberWorld.open(ClusterName("hub"), kubeconfig, clock=SystemClock())
        stack.push_async_callback(world.close)
        await world.add_namespace("federation-system")
        for name in ("accounts.yaml", "state.yaml"):
            await world.apply(
                item for item in yaml.safe_load_all((MANIFESTS / name).read_text("utf-8")) if item
            )
        if target == "real":  # what an earlier run has left there is another hub's
            for namespace in (NAMESPACE, f"{NAMESPACE}-signers"):
                await world.delete(f"/api/v1/namespaces/{namespace}/configmaps")
        yield world


async def configure(box: Box, world: MemberWorld, roles: Roles) -> None:
    """One configuration for both roles, beside which each finds its own credentials for the state."""
    box.state_lines = f'kind = "kubernetes"\nnamespace = "{NAMESPACE}"\nkubeconfig = "state.kubeconfig"'
    box.write_config()
    for role in ("signer", "controller"):
        place = roles.directory / role
        place.mkdir()
        (place / "clusters.toml").write_bytes(box.config_file.read_bytes())
        await world.write_role_kubeconfig(place / "state.kubeconfig", service_account=f"federation-{role}")


async def leader(roles: Roles, box: Box) -> str:
    """The controller that leads, which is asked from now on."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for name in roles.status_ports:
                if name not in roles.running:
                    continue
                box.status_port = roles.status_ports[name]
                with contextlib.suppress(aiohttp.ClientError):
                    seen = {
                        c["replica"] for c in (await box.get("/api/v1/status"))["controllers"] if c["leader"]
                    }
                    if seen == {name}:
                        return name
            await asyncio.sleep(0.1)


async def reasons_of_events(world: MemberWorld, last: str) -> set[str]:
    """Why Events were written on the record of the rotation, once one of that reason is there."""
    selector = {"fieldSelector": "involvedObject.kind=ConfigMap,involvedObject.name=federation.rotation"}
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await world.session.get(f"/api/v1/namespaces/{NAMESPACE}/events", params=selector)
            reasons = {item["reason"] for item in json.loads(answer)["items"]}
            if last in reasons:
                return reasons
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("target", TARGETS)
async def test_another_controller_takes_a_rotation_over(tmp_path: Path, target: str) -> None:
    roles = Roles(tmp_path)

    async def start(box: Box) -> None:
        await configure(box, world, roles)
        for name in ("signer-0", "signer-1"):
            await roles.start("signer", name)
        for name in ("controller-0", "controller-1"):
            await roles.start("controller", name)
        await leader(roles, box)

    async with state_cluster(target, tmp_path) as world:
        try:
            async with open_mesh(tmp_path, count=2, start=start, target=target) as mesh:
                box, killed = mesh.box, ""
                async with mesh.busy():
                    await box.operate("start", reason="under traffic, in objects")
                    state = ""
                    async with asyncio.timeout(LIMIT):
                        while state != "RETIRED":
                            with contextlib.suppress(aiohttp.ClientError, KeyError, TypeError):
                                state = (await box.get("/api/v1/rotation"))["state"]
                            if state == "ACTIVE" and not killed:
                                killed = await leader(roles, box)
                                await roles.kill(killed)
                                await roles.kill("signer-0")
                                await roles.start("signer", "signer-2")
                                box.status_port = next(
                                    roles.status_ports[name]
                                    for name in roles.running
                                    if name in roles.status_ports
                                )
                            await asyncio.sleep(0.1)
                    await box.wait_proved()
                reasons = await reasons_of_events(world, "RotationRetired")
                led = await leader(roles, box)
                anchors = (await box.get("/api/v1/bundle"))["anchors"]
        finally:
            await roles.stop()
    print(
        f"\n{len(mesh.failures)} of {mesh.tried} connections failed; {mesh.expired} were of expired certificates"
    )
    assert mesh.failures == []
    assert mesh.tried - mesh.expired > 200
    assert killed
    assert led != killed
    assert reasons >= {"RotationStarted", "RotationAdvanced"}  # by the leader that was killed
    assert box.successor is not None
    assert [anchor["sha256"] for anchor in anchors] == [box.successor.root.sha256]
