"""The demo: three clusters in a box, the hub beside them, workloads that get certificates, the proof, and a rotation.

Everything takes its real way: the hub runs as its own processes from a ``clusters.toml``, connects by kubeconfigs
with the rights of ``manifests/member``, and workloads call its gRPC listener over TLS with tokens their clusters
issued.

A whole root rotation runs while every workload keeps shaking hands with every other. Workloads renew at half the life
of their certificates, as Istio's agents do, and nothing informs them of the rotation. Every handshake is a new one:
nothing is resumed. Every one that fails is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import grpc.aio

from federation.controller.proof.handshake import Credential, handshake
from federation.core.clock import Clock
from federation.core.errors import FederationError
from federation_sandbox.box import (
    ISTIO_SYSTEM,
    MEMBER_MANIFESTS,
    Box,
    DevelopmentCa,
    Member,
    open_members,
)
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.mesh import Workload

LEAF_LIFE: Final = timedelta(seconds=60)
LIMIT: Final = 600.0  # seconds for the whole rotation with leaves of a minute
RENEW_TICK: Final = 0.5
REST: Final = 0.2
"""Seconds between two rounds of handshakes. What fails in a rotation fails until a certificate is renewed, for seconds;
without a rest handshakes alone would fill a core, and take it from the hub that they are to judge."""
MOST_FAILURES: Final = 1000  # that are remembered
MOST_SHOWN: Final = 20

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
                    if client.current is None or server.current is None:
                        continue
                    self.tried += 1
                    try:
                        handshake(client=_credential(client), server=_credential(server))
                    except FederationError as error:
                        self.failed += 1
                        if len(self.failures) < MOST_FAILURES:
                            self.failures.append(f"{client_cluster} > {server_cluster}: {error}")


def _credential(workload: Workload) -> Credential:
    current = workload.current
    if current is None:
        raise AssertionError(f"{workload.identity} holds no certificate yet")
    return Credential(
        chain=current.chain, key_pem=current.key_pem, trust=current.trust, identity=workload.identity
    )


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


PLACES: Final = (
    ("shop", "frontend"),
    ("bank", "ledger"),
)  # a namespace and a service account in every cluster
READY_LIMIT: Final = 90.0  # seconds; a loaded two-core machine needs about ten


@dataclass(frozen=True)
class Outcome:
    """What the demo has shown, as one JSON-ready document, and whether every pair validated."""

    document: Mapping[str, Any]
    success: bool


def admin_kubeconfig(directory: Path, name: str) -> Path:
    """Where the kubeconfig of a cluster's administrator is."""
    return directory / f"{name}-admin.kubeconfig"


@contextlib.asynccontextmanager
async def sandbox_members(
    directory: Path, names: tuple[str, ...], *, clock: Clock
) -> AsyncIterator[dict[str, Member]]:
    """Clusters in a box, as members with an administrator's kubeconfig each."""
    async with contextlib.AsyncExitStack() as stack:
        kubeconfigs: dict[str, Path] = {}
        clusters: dict[str, SandboxCluster] = {}
        for name in names:
            clusters[name] = await stack.enter_async_context(SandboxCluster(name, clock=clock))
            kubeconfigs[name] = admin_kubeconfig(directory, name)
            clusters[name].write_kubeconfig(kubeconfigs[name])
        yield await stack.enter_async_context(open_members(kubeconfigs, clock=clock, sandboxes=clusters))


class Demo:
    """One run of the demo in its own directory; ``say`` gets a line for people at each step."""

    def __init__(self, box: Box, say: Callable[[str], None], *, rotates: bool = False) -> None:
        self.box = box
        self._say = say
        self._rotates = rotates
        self.workloads: dict[str, list[Workload]] = {}

    async def run(self) -> Outcome:
        """Register, start the hub, issue, publish, prove; returns what was observed."""
        box = self.box
        self._say(f"registering {len(box.members)} clusters with the rights of manifests/member")
        await box.register()
        await box.start_hub()
        self._say(f"the hub starts: signer at {box.listener}, status at {box.status_url}")
        await box.wait_ready(limit=READY_LIMIT)
        async with asyncio.TaskGroup() as group:
            for name in box.members:
                group.create_task(self._populate(name))
        count = sum(map(len, self.workloads.values()))
        self._say(
            f"{count} workloads hold certificates from the gRPC listener, each with a token of its own cluster"
        )
        await box.wait_proved(limit=READY_LIMIT)
        return await self._rotate() if self._rotates else await self.outcome()

    async def _rotate(self) -> Outcome:
        """The same outcome after a whole root rotation under traffic, and what that traffic saw."""
        self._say("the root is rotated while every workload keeps shaking hands with every other")
        async with busy(self.workloads, self.box, self._say) as traffic:
            rotated = await rotate(self.box, self._say)
            await self.box.wait_proved(limit=READY_LIMIT)
        outcome = await self.outcome()
        handshakes = {
            "tried": traffic.tried,
            "failed": traffic.failed,
            "failures": traffic.failures[:MOST_SHOWN],
        }
        document = {**outcome.document, "rotation": rotated, "handshakes": handshakes}
        success = (
            outcome.success and rotated["state"] == "RETIRED" and traffic.tried > 0 and not traffic.failed
        )
        return Outcome(document, success)

    async def _populate(self, name: str) -> None:
        workloads = self.workloads.setdefault(name, [])
        for namespace, service_account in PLACES:
            workload = await self.box.workload(name, namespace, service_account)
            await workload.renew()
            workloads.append(workload)

    async def renew_due(self) -> None:
        """Renew every workload that is past half of its certificate's life; a refusal is printed, not raised."""
        now = self.box.clock.now()
        for workload in (w for each in self.workloads.values() for w in each if w.due(now)):
            try:
                await workload.renew()
            except (grpc.aio.AioRpcError, FederationError) as error:
                self._say(f"{workload.identity} keeps its certificate: {type(error).__name__}")

    async def outcome(self) -> Outcome:
        """The document: what the status API says, and what the workloads' own handshakes showed."""
        workloads = sum(map(len, self.workloads.values()))
        status = await self.box.wait_for(
            "/api/v1/status",
            lambda answer: answer["certificates_issued"] >= workloads,  # signers report every few seconds
            limit=READY_LIMIT,
            what="every certificate in the signers' reports",
        )
        bundle = await self.box.get("/api/v1/bundle")
        matrix = await self.box.get("/api/v1/matrix")
        tried, failures = await asyncio.to_thread(self._handshakes)
        document = {
            "clusters": list(self.box.members),
            "certificates_issued": status["certificates_issued"],
            "bundle": {
                "generation": bundle["generation"],
                "sha256": bundle["sha256"],
                "anchors": len(bundle["anchors"]),
            },
            "matrix": {"pairs": matrix["pairs"], "valid": matrix["valid"], "rows": matrix["rows"]},
            "workload_handshakes": {"tried": tried, "failed": len(failures), "failures": failures},
            "status_url": self.box.status_url,
        }
        pairs = len(self.box.members) * (len(self.box.members) - 1)
        success = matrix["pairs"] == matrix["valid"] == pairs and tried > 0 and not failures
        return Outcome(document, success)

    def _handshakes(self) -> tuple[int, list[str]]:
        tried, failures = 0, []
        for client_cluster, server_cluster in permutations(self.workloads, 2):
            for client in self.workloads[client_cluster]:
                for server in self.workloads[server_cluster]:
                    tried += 1
                    try:
                        handshake(client=_credential(client), server=_credential(server))
                    except FederationError as error:
                        failures.append(f"{client_cluster} > {server_cluster}: {error}")
        return tried, failures


@contextlib.asynccontextmanager
async def open_demo(
    directory: Path,
    *,
    clusters: int,
    say: Callable[[str], None],
    clock: Clock,
    signers: int = 2,
    rotates: bool = False,
    spare: bool = False,
) -> AsyncIterator[Demo]:
    """A demo whose clusters run until the context ends, which also drains the hub.

    With ``rotates`` it has a second root with an intermediate, and leaves of a minute. With ``spare`` there is one more
    cluster, which the hub does not know yet.
    """
    names = (
        ("east", "west", "north", "south")[:clusters]
        if clusters <= 4
        else tuple(f"c{i:03}" for i in range(clusters))
    )
    async with contextlib.AsyncExitStack() as stack:
        members = await stack.enter_async_context(sandbox_members(directory, names, clock=clock))
        if spare:
            await _open_spare(stack, directory, clock)
        ca = DevelopmentCa.create(directory / "demo-ca", name="demo", clock=clock)
        box = Box(directory=directory, members=members, ca=ca, clock=clock, signers=signers)
        if rotates:
            box.successor = DevelopmentCa.create(directory / "next-ca", name="demo next", clock=clock)
            prepare(box)
        try:
            yield Demo(box, say, rotates=rotates)
        finally:
            await box.stop_hub()


SPARE: Final = "spare"
"""The demo's cluster that is not registered, to rehearse with."""


async def _open_spare(stack: contextlib.AsyncExitStack, directory: Path, clock: Clock) -> None:
    spare = await stack.enter_async_context(SandboxCluster(SPARE, clock=clock))
    spare.create_namespace(ISTIO_SYSTEM)
    spare.write_kubeconfig(admin_kubeconfig(directory, SPARE))


def rehearsal(box: Box, *, command: str) -> list[str]:
    """What to type in another terminal, line by line: the steps of README.md with the demo's own files in them.

    ``command`` is how the hub's command line is called there.
    """
    files = [str(admin_kubeconfig(box.directory, name)) for name in (*box.members, SPARE)]
    first, config = next(iter(box.members)), shlex.quote(str(box.config_file))
    kubeconfig = shlex.quote(files[-1])  # of kubectl's list of files the hub's commands read none
    spare = f"--kubeconfig {kubeconfig} --config {config}"
    return [
        f"export KUBECONFIG={shlex.quote(':'.join(files))}",
        f"kubectl --context {first} get configmaps --all-namespaces",
        f"kubectl --context {first} --namespace federation-system create token federation-signer",
        f"{command} clusters add {SPARE} {spare}",
        f"{command} verify --url {box.status_url} --wait 120",
        f"{command} clusters remove {SPARE} {spare}",
        f"kubectl --context {SPARE} diff -k {shlex.quote(str(MEMBER_MANIFESTS))}",
        f"kubectl --context {SPARE} apply -k {shlex.quote(str(MEMBER_MANIFESTS))}",
    ]


def matrix_table(matrix: Mapping[str, Any], clusters: list[str]) -> str:
    """The matrix for a terminal: rows are clients, columns servers, each cell a word."""
    words = {"v": "valid", "x": "FAILED", "?": "unknown", "-": "-"}
    width = max(7, *(len(name) for name in clusters))
    lines = [" " * (width + 2) + "  ".join(name.rjust(width) for name in clusters)]
    for name, row in zip(clusters, matrix["rows"], strict=True):
        lines.append(name.ljust(width + 2) + "  ".join(words[cell].rjust(width) for cell in row))
    return "\n".join(lines)
