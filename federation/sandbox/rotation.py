"""A whole root rotation in the box, while every workload keeps shaking hands with every other.

Workloads renew at half the life of their certificates, as Istio's agents do, and nothing tells them of the
rotation. Every handshake is a new one: nothing is resumed. Every one that fails is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import permutations
from typing import Any, Final

import grpc.aio

from federation.controller.proof.handshake import Credential, handshake
from federation.core.errors import FederationError
from federation.sandbox.box import Box
from federation.sandbox.mesh import Workload

LEAF_LIFE: Final = timedelta(seconds=60)
LIMIT: Final = 600.0  # seconds for the whole rotation with leaves of a minute
RENEW_TICK: Final = 0.5
REST: Final = 0.2
"""Seconds between two rounds of handshakes. What fails in a rotation fails until a certificate is renewed, for seconds;
without a rest handshakes alone would fill a core, and take it from the hub that they are to judge."""
MOST_FAILURES: Final = 20  # told one by one

ROTATION: Final = 'soak = "3s"\nskew = "2s"\nfresh = "30s"\nwaves = 2'
TIMEOUTS: Final = 'watch_silence = "5s"'
"""A quiet watch is listed anew so often, so that what was read back stays fresh enough for the gates."""

CLUSTER: Final = "earlier_longest_ttl = 0"
"""What the demo's clusters had before the hub: nothing."""


def prepare(box: Box, *, life: timedelta = LEAF_LIFE) -> None:
    """Have the box run with short leaves, so that a rotation takes minutes."""
    seconds = life.seconds
    box.cluster_lines, box.rotation_lines, box.timeout_lines = CLUSTER, ROTATION, TIMEOUTS
    box.policy_lines = f"longest_ttl = {seconds}\ndefault_ttl = {seconds}"
    box.proof_lines = f"leaf_ttl = {seconds}"


@dataclass
class Traffic:
    """Handshakes between the workloads of every ordered pair of clusters, again and again."""

    workloads: Mapping[str, list[Workload]]
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    failed: int = 0

    async def run(self) -> None:
        """Keep trying until cancelled."""
        while True:
            await asyncio.to_thread(self._round)
            await asyncio.sleep(REST)

    def _round(self) -> None:
        for client_cluster, server_cluster in permutations(self.workloads, 2):
            for client in self.workloads[client_cluster]:
                for server in self.workloads[server_cluster]:
                    if client.held is None or server.held is None:
                        continue
                    self.tried += 1
                    try:
                        handshake(client=_credential(client), server=_credential(server))
                    except FederationError as error:
                        self.failed += 1
                        if len(self.failures) < MOST_FAILURES:
                            self.failures.append(f"{client_cluster} > {server_cluster}: {error}")


def _credential(workload: Workload) -> Credential:
    held = workload.held
    if held is None:
        raise AssertionError(f"{workload.identity} holds no certificate yet")
    return Credential(chain=held.chain, key_pem=held.key_pem, trust=held.trust, identity=workload.identity)


async def keep_renewing(
    workloads: Mapping[str, list[Workload]], box: Box, say: Callable[[str], None]
) -> None:
    """What every workload's agent does, until cancelled."""
    while True:
        now = box.clock.now()
        for workload in (w for each in workloads.values() for w in each if w.due(now)):
            try:
                await workload.renew()
            except (grpc.aio.AioRpcError, FederationError) as error:
                say(f"{workload.identity} keeps its certificate: {type(error).__name__}")
        await asyncio.sleep(RENEW_TICK)


@contextlib.asynccontextmanager
async def busy(
    workloads: Mapping[str, list[Workload]], box: Box, say: Callable[[str], None]
) -> AsyncIterator[Traffic]:
    """Traffic and renewals while the context is entered."""
    traffic = Traffic(workloads)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(traffic.run()), group.create_task(keep_renewing(workloads, box, say))]
        try:
            yield traffic
        finally:
            for task in tasks:
                task.cancel()


async def rotate(box: Box, say: Callable[[str], None], *, limit: float = LIMIT) -> dict[str, Any]:
    """Start the rotation to the box's successor and wait until it has ended; its states with their times."""
    began = time.monotonic()
    await box.operate("start", reason="the demo rotates its root")
    seen: list[dict[str, Any]] = []

    def ended(rotation: Any) -> bool:
        if rotation and (not seen or seen[-1]["state"] != rotation["state"]):
            seen.append({"state": rotation["state"], "after": round(time.monotonic() - began, 1)})
            say(f"rotation: {rotation['state']} after {seen[-1]['after']} s")
        return bool(rotation) and rotation["state"] == "RETIRED"

    final = await box.wait_for("/api/v1/rotation", ended, limit=limit, what="the end of the rotation")
    return {"state": final["state"], "seconds": round(time.monotonic() - began, 1), "states": seen}
