"""A whole root rotation in which the control planes stay alive, over the hub's own processes.

Each cluster has an istiod without a CA of its own, which serves with what the hub provides. In every state webhooks are
called as kube-apiserver does, agents are started as after a restart of their pod, and each istiod is killed and comes
back. For a while one istiod may not patch its webhooks: the rotation waits for it, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from federation.core.errors import NotReady
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.cluster import SandboxCluster
from tests.e2e.conftest import members_of
from tests.support.istiod import Istiod
from tests.support.patience import PATIENCE
from tests.support.unsafe import VARIABLE

LEAF = int(os.environ.get("FEDERATION_ROTATION_LEAF", "36"))  # seconds
LIMIT = 600.0 + 10 * LEAF
STATES = ("PUBLISHING", "SOAKED", "CANARY", "ACTIVE", "UNPUBLISHING")
ROUNDS = 20  # at least, for each istiod in each state, also on a busy machine
BLOCKED = 6.0  # seconds for which one istiod may not patch its webhooks: longer than a gate takes to open


def unmet(view: Any) -> list[tuple[str, str]]:
    """The conditions that a rotation waits for, each with its cluster."""
    gate = view["gate"] if view else None
    return [(c["name"], c["cluster"]) for c in gate["conditions"] if not c["met"]] if gate else []


@dataclass
class ControlPlanes:
    """The istiod of each cluster, what was tried of them, and what failed in which state."""

    box: Box
    istiods: dict[str, Istiod]
    namespace: str
    state: str = ""
    tried: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    rounds: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Those that were ended, by the state they began in and the istiod."""
    failures: list[str] = field(default_factory=list)
    expired: int = (
        0  # rounds that met a certificate of istiod which had expired: the machine is too busy for its life
    )
    waited_for: set[str] = field(default_factory=set)

    async def keep_trying(self, name: str) -> None:
        """Webhooks and restarted agents all the time; once in each state istiod is killed and started before."""
        istiod, seen = self.istiods[name], ""
        while True:
            if self.state != seen:
                seen = self.state
                await istiod.restart()
                self.killed[seen] += 1
                async with asyncio.timeout(PATIENCE):  # until its first patch has kube-apiserver follow
                    while istiod.patches_webhooks and not istiod.is_patched():
                        await asyncio.sleep(0.01)
            before, certificate = self.state, istiod.certificate
            self.tried += 1
            problems = await istiod.problems(self.namespace, "istio-system")
            if problems and certificate is not None and certificate.not_after <= SystemClock().now():
                self.expired += 1  # says nothing about trust; a certificate that is valid does
            else:
                self.failures += [f"{name} in {before}: {problem}" for problem in problems]
                self.rounds[before, name] += 1
            await asyncio.sleep(0.25)

    def is_tried(self, state: str) -> bool:
        """Whether each istiod has been killed in that state, and was reached often enough."""
        enough = all(self.rounds[state, name] >= ROUNDS for name in self.istiods)
        return enough and self.killed[state] >= len(self.istiods)

    async def go_on_to(self, wanted: str) -> None:
        """Advance through every open gate, once each istiod has been tried in the state, until that state."""
        async with asyncio.timeout(LIMIT):
            while self.state != wanted:
                with contextlib.suppress(aiohttp.ClientError, NotReady):
                    view = await self.box.get("/api/v1/rotation")
                    self.state = view["state"] if view else ""
                    self.waited_for |= {f"{name} {cluster}" for name, cluster in unmet(view)}
                    tried = self.is_tried(self.state)
                    if tried and self.state != wanted and view["gate"] and view["gate"]["open"]:
                        await self.box.operate("advance", reason="every istiod was killed and came back")
                await asyncio.sleep(0.3)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.keep_trying(name)) for name in self.istiods]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()


@contextlib.asynccontextmanager
async def open_control_planes(
    directory: Path, start: Callable[[Box], Awaitable[Any]], *, automatic: bool = False
) -> AsyncIterator[ControlPlanes]:
    """Two clusters with a workload and an istiod each, under a hub that can rotate."""
    clock, unique = SystemClock(), uuid.uuid4().hex[:6]
    async with members_of("sandbox", directory, 2) as members, contextlib.AsyncExitStack() as stack:
        clusters: dict[str, SandboxCluster] = {}
        for name, member in members.items():
            assert member.sandbox is not None
            clusters[name] = member.sandbox
        ca = DevelopmentCa.create(directory / "first-ca", name=f"first {unique}", clock=clock)
        box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=2.0)
        box.successor = DevelopmentCa.create(directory / "second-ca", name=f"second {unique}", clock=clock)
        demo.prepare(box, life=timedelta(seconds=LEAF))
        box.rotation_lines += f"\nautomatic = {str(automatic).lower()}"
        istiods = {name: Istiod(cluster) for name, cluster in clusters.items()}  # its namespace and webhooks
        await box.register()
        try:
            await start(box)
            await box.wait_ready()
            workloads = {name: [await box.workload(name, f"shop-{unique}", "frontend")] for name in members}
            for istiod in istiods.values():
                await _provided(istiod)
                await stack.enter_async_context(istiod)
            for each in workloads.values():
                await each[0].renew()
            await box.wait_for(
                "/api/v1/status",
                lambda status: all(c["health"] == "healthy" for c in status["clusters"]),
                what="two healthy clusters, istiod included",
            )
            async with demo.busy(workloads, box, print):
                yield ControlPlanes(box, istiods, f"shop-{unique}")
        finally:
            await box.stop_hub()


async def _provided(istiod: Istiod) -> None:
    async with asyncio.timeout(PATIENCE):
        while istiod.cluster.get("secrets", istiod.namespace, istiod.secret) is None:
            await asyncio.sleep(0.1)


async def test_every_istiod_is_reached_in_every_state_of_a_rotation(tmp_path: Path) -> None:
    async with open_control_planes(tmp_path, lambda box: box.start_hub()) as planes:
        box, west = planes.box, planes.istiods["west"]
        async with planes.busy():
            await asyncio.sleep(1)
            west.patches_webhooks = False
            await box.operate("start", reason="the control planes stay")
            await planes.go_on_to("PUBLISHING")
            await box.wait_for(
                "/api/v1/rotation",
                # Each of its webhook configurations is named: a set, however many there are.
                lambda view: set(unmet(view)) == {("webhooks", "west"), ("soak", "")},
                limit=LIMIT,
                what="a rotation that waits for the webhooks of west alone",
            )
            await asyncio.sleep(BLOCKED)
            assert (await box.get("/api/v1/rotation"))["state"] == "PUBLISHING"
            west.patches_webhooks = True
            await planes.go_on_to("RETIRED")
            await asyncio.sleep(2)
            status = await box.wait_for(
                "/api/v1/status",
                lambda status: all(c["health"] == "healthy" for c in status["clusters"]),
                what="two healthy clusters",
            )
    print(f"\n{planes.tried} rounds tried, {len(planes.failures)} failed; killed {dict(planes.killed)}")
    print(f"{planes.expired} met a certificate that had expired")
    assert planes.failures == []
    assert planes.tried - planes.expired > 200
    assert all(planes.killed[state] >= len(planes.istiods) for state in STATES), planes.killed
    assert "webhooks west" in planes.waited_for
    assert {cluster["health"] for cluster in status["clusters"]} == {"healthy"}, status["attention"]
    successor = box.successor
    assert successor is not None
    for istiod in planes.istiods.values():
        assert istiod.certificate is not None
        assert istiod.certificate.is_signed_by(successor.intermediate)
        assert istiod.roots_pem == successor.root.pem


@pytest.mark.parametrize("removed", ["webhooks"])
async def test_without_the_condition_the_same_rotation_breaks_injection(tmp_path: Path, removed: str) -> None:
    """Shows that the check can fail: istiod's certificate is re-signed without waiting for the webhooks."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(box: Box) -> None:
        with (box.directory / "hub.log").open("ab") as log:
            for module in (
                ("federation", "signer", "--replica", "unsafe-signer"),
                ("tests.support.unsafe",),
            ):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", *module, "--config", str(box.config_file)),
                    stdout=log,
                    stderr=log,
                    env=os.environ | {VARIABLE: removed},
                    start_new_session=True,
                )
                processes.append(process)

    try:
        async with open_control_planes(tmp_path, start, automatic=True) as planes, planes.busy():
            planes.istiods["west"].patches_webhooks = False
            await planes.box.operate("start", reason="carelessly")
            await planes.go_on_to("ACTIVE")
            async with asyncio.timeout(LIMIT):
                while not planes.failures:
                    await asyncio.sleep(0.1)
        assert "west" in planes.failures[0]
        assert "failed calling webhook" in planes.failures[0]
        assert "certificate verify failed" in planes.failures[0]
    finally:
        for process in processes:
            process.terminate()
            await process.wait()
