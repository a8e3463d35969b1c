"""Two meshes with CAs of their own join by ``federation clusters join`` and what it writes, without a failed handshake.

East has istiod's self-signed CA, west one that is plugged in by ``cacerts``. Both have an istiod that behaves as a real
one does (``tests/support/istiod.py``): it distributes its roots, puts them back, and looks for its own certificate at
its start only. Handshakes run all the time in every direction. A pair that has worked once has to keep working
through registration, acceptance, merge, istiod's new certificate, the move of the workloads one by one, the end of both
CAs and the drop of their roots. Every write of the bundle is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.controller.proof.handshake import Credential, handshake
from federation.core.errors import FederationError
from federation.core.identity import ServiceAccountRef, SpiffeId
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import ROOT_CONFIG_MAP, SERVER_NAME, Box, DevelopmentCa, private_key_pem
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.mesh import Identity, Workload
from tests.e2e.conftest import members_of
from tests.support import istio_objects
from tests.support.istiod import Istiod, encoded
from tests.support.patience import PATIENCE

LEAF = timedelta(seconds=20)
ROOT = Path(__file__).resolve().parents[2]


class OwnMesh:
    """One cluster as Istio's chart leaves it, with its istiod, and what its Deployment's controller does."""

    def __init__(self, cluster: SandboxCluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.name = cluster.name
        self.restarts = 0
        self._deployed: Any = None

    @contextlib.asynccontextmanager
    async def running(self, ca: DevelopmentCa | None) -> AsyncIterator[OwnMesh]:
        """With istiod's self-signed CA, or with that one plugged in."""
        self.istiod = Istiod(self.cluster, ca=True)
        if ca is not None:
            chain = ca.intermediate.pem + ca.root.pem
            key = (ca.directory / "key.pem").read_bytes()
            data = {
                "ca-cert.pem": ca.intermediate.pem,
                "ca-key.pem": key,
                "cert-chain.pem": chain,
                "root-cert.pem": ca.root.pem,
            }
            meta = {"metadata": {"name": "cacerts"}, "data": encoded(data)}
            self.cluster.create("secrets", meta, namespace="istio-system")
        self.cluster.create_namespace("shop")
        self._create("deployments", istio_objects.istiod(self.name, ENABLE_CA_SERVER="true"))
        self._create("configmaps", istio_objects.mesh("mesh.example"))
        self._create("configmaps", istio_objects.injection(self.name, ca_address=""))
        self.cluster.write_kubeconfig(self.directory / f"{self.name}.admin")
        async with self.istiod:
            (self.root,) = parse_certificates(self.istiod.roots_pem, where=self.name)
            self._settle()
            task = asyncio.create_task(self._play_deployment())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @property
    def environment(self) -> dict[str, str]:
        """For the scripts."""
        kubectl = f"{sys.executable} -m tests.support.kubectl --kubeconfig {self.directory / self.name}.admin"
        return {**os.environ, "KUBECTL": kubectl, "PYTHONPATH": str(ROOT)}

    def _create(self, plural: str, made: dict[str, Any]) -> None:
        self.cluster.create(plural, made, namespace=made["metadata"]["namespace"])

    def _deployment(self) -> dict[str, Any]:
        found = self.cluster.get("deployments", "istio-system", "istiod")
        assert found is not None
        return found

    async def _play_deployment(self) -> None:
        while True:
            if self._deployment()["spec"] != self._deployed:
                (container,) = self._deployment()["spec"]["template"]["spec"]["containers"]
                values = {variable["name"]: variable.get("value") for variable in container["env"]}
                self.istiod.ca = values["ENABLE_CA_SERVER"] == "true"
                await self.istiod.restart()
                self.restarts += 1
                self._settle()
            await asyncio.sleep(0.05)

    def _settle(self) -> None:
        self._deployed = self._deployment()["spec"]
        at = SystemClock().now().strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {
            "observedGeneration": self._deployment()["metadata"].get("generation", 0),
            **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 1),
            "conditions": [{"type": "Progressing", "status": "True", "lastUpdateTime": at}],
        }
        self.cluster.patch("deployments", "istio-system", "istiod", {"status": status}, subresource="status")

    def install(self, operator: str) -> None:
        """What ``istioctl install -f`` does of it: where proxies ask, and whether the CA is on."""
        spec = next(yaml.safe_load_all(operator))["spec"]
        values = spec["values"]
        injection = istio_objects.injection(self.name, ca_address=values["global"]["caAddress"])
        change = {"data": injection["data"]}
        self.cluster.patch("configmaps", "istio-system", "istio-sidecar-injector", change)
        deployment = self._deployment()
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]:
            if variable["name"] == "ENABLE_CA_SERVER":
                variable["value"] = values["pilot"]["env"]["ENABLE_CA_SERVER"]
        self.cluster.patch("deployments", "istio-system", "istiod", {"spec": deployment["spec"]})


_NOT_KNOWN = re.compile("watches are silent|not read back|not known|cannot be read")


@dataclass
class Agent:
    """A workload's agent; it asks istiod until it has ``moved``."""

    mesh: OwnMesh
    workload: Workload
    moved: bool = False
    renewed: float = 0.0

    async def renew(self) -> None:
        if self.moved:
            await self.workload.renew()
        else:
            self._ask_istiod()
        self.renewed = time.monotonic()

    def _ask_istiod(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        ca = self.mesh.istiod.own_ca
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(self.workload.identity))])
        leaf = ca.leaf(key.public_key(), san, life=LEAF)
        above = parse_certificates(ca.chain_pem, where="chain")[:1] if ca.chain_pem else ()
        chain = (leaf, *(c for c in above if not c.is_self_signed))
        trust = parse_certificates(ca.roots_pem, where="roots")
        self.workload.current = Identity(chain=chain, key_pem=private_key_pem(key), trust=tuple(trust))

    @property
    def trusts(self) -> frozenset[str]:
        current = self.workload.current
        return frozenset(c.sha256 for c in current.trust) if current is not None else frozenset()

    @property
    def credential(self) -> Credential:
        current = self.workload.current
        assert current is not None
        return Credential(current.chain, current.key_pem, current.trust, self.workload.identity)


@dataclass
class Mesh:
    """All agents, and what their handshakes came to."""

    agents: list[Agent]
    tried: int = 0
    worked: dict[tuple[int, int], int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    stage: str = "before the hub"

    async def keep_shaking_hands(self) -> None:
        while True:
            await asyncio.to_thread(self._round)
            await asyncio.sleep(demo.REST)

    def _round(self) -> None:
        for client, server in permutations(range(len(self.agents)), 2):
            each = self.agents[client].credential, self.agents[server].credential
            ends = min(credential.chain[0].not_after for credential in each)
            if ends < SystemClock().now():
                continue  # a busy machine renews too late, which says nothing about trust
            self.tried += 1
            try:
                handshake(client=each[0], server=each[1])
            except FederationError as error:
                if (client, server) in self.worked and SystemClock().now() < ends:
                    names = f"{self.agents[client].mesh.name} > {self.agents[server].mesh.name}"
                    self.failures.append(f"{self.stage}: {names}: {error}")
            else:
                self.worked[client, server] = self.worked.get((client, server), 0) + 1

    async def keep_renewing(self) -> None:
        """At half the life of each leaf; what fails is tried again, as agents do."""
        while True:
            for agent in self.agents:
                if time.monotonic() - agent.renewed > LEAF.total_seconds() / 2:
                    with contextlib.suppress(grpc.aio.AioRpcError, FederationError):
                        await agent.renew()
            await asyncio.sleep(0.25)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.keep_shaking_hands()), group.create_task(self.keep_renewing())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def until(self, wanted: Any, *, what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not wanted():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{what} did not come; {self.worked} {self.failures[:3]}") from None

    async def all_work(self) -> None:
        """Wait until every pair works."""
        count = len(self.agents) * (len(self.agents) - 1)
        await self.until(lambda: len(self.worked) == count, what="a handshake of every pair")


def observed_in(cluster: SandboxCluster, namespace: str) -> str:
    found = cluster.config_map(namespace, ROOT_CONFIG_MAP)
    return "" if found is None else str(found["data"].get("root-cert.pem", ""))


async def agent_of(box: Box, mesh: OwnMesh, account: str) -> Agent:
    """A workload with a sidecar, and a certificate of its cluster's own CA."""
    member = box.members[mesh.name]
    pod = await member.world.add_workload("shop", account)
    note = {"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}}}
    mesh.cluster.patch("pods", "shop", pod, note)
    token = await member.world.token("shop", account, pod=pod, audience="istio-ca")
    workload = Workload(
        cluster_id=member.cluster_id,
        identity=SpiffeId(box.trust_domain, ServiceAccountRef("shop", account)),
        listener=box.listener,
        server_name=SERVER_NAME,
        token=lambda: token,
        listener_trust=lambda: observed_in(mesh.cluster, "shop").encode(),
    )
    agent = Agent(mesh, workload)
    await agent.renew()
    return agent


@dataclass
class Operator:
    """Runs the command until a cluster has joined, and applies what it writes."""

    box: Box
    mesh: Mesh
    own: OwnMesh
    all_accepted: asyncio.Barrier
    """A CA that is accepted later changes the bundle, and what has to be renewed, for clusters further on."""
    steps: list[str] = field(default_factory=list)
    applied: dict[str, str] = field(default_factory=dict)

    async def look(self) -> tuple[int, str]:
        """Run the command once: its exit code, and what it says."""
        directory = self.box.directory / f"join-{self.own.name}"
        return await self._run(
            *(sys.executable, "-m", "federation", "clusters", "join", self.own.name),
            *("--accept", self.own.root.sha256, "--yes"),
            *("--config", str(self.box.config_file), "--url", self.box.status_url),
            *("--directory", str(directory)),
        )

    async def join(self) -> None:
        directory = self.box.directory / f"join-{self.own.name}"
        end, said, accepted = time.monotonic() + 1200, "", False
        while time.monotonic() < end:
            before = await self._steps_done()
            code, said = await self.look()
            assert code in {0, 1, 2}, said
            if code == 0:
                return
            if step := re.search(r"NOW +(\w+)", said):
                assert not (self.own.istiod.ca and hub_writes(self.own.cluster)), "istiod writes there"
                if step[1] != "accept" and not accepted:
                    accepted = True
                    await self.all_accepted.wait()
                # What is not known for a moment, on a busy machine, is waited for; it undoes no step.
                back = step[1] in self.steps and _NOT_KNOWN.search(said)
                if self.steps[-1:] != [step[1]] and not back:
                    self.steps.append(step[1])
                    self.mesh.stage = f"{self.own.name}: {step[1]}"
                for file in re.findall(rf"^  ({re.escape(str(directory))}/\S+)", said, re.MULTILINE):
                    await self._apply(Path(file))
            await self._next_step(before)
        raise AssertionError(f"{self.own.name} has not joined after {self.steps}; {said}")

    async def _steps_done(self) -> list[Any]:
        """The steps as the status has them, each with whether it is done."""
        cluster = await self.box.get(f"/api/v1/clusters/{self.own.name}")
        steps = (cluster["joining"] or {"steps": []})["steps"]
        return [(step["step"], step["done"]) for step in steps]

    async def _next_step(self, before: list[Any]) -> None:
        """Wait until the status has other steps done, 8 s at most: each run of the command costs a second of CPU."""
        for _ in range(8):
            await asyncio.sleep(1)
            if await self._steps_done() != before:
                return

    async def _apply(self, file: Path) -> None:
        text = file.read_text()
        if self.applied.get(file.name) == text or file.name.startswith("5-"):
            return
        self.applied[file.name] = text
        if file.name == "restart-pods.sh":
            for agent in self.mesh.agents:
                if agent.mesh is self.own:
                    agent.moved = True
                    await agent.renew()
                    await asyncio.sleep(0.5)
        elif file.suffix == ".sh":
            code, said = await self._run("sh", str(file))
            assert code == 0, said
        elif file.name == "istioctl.yaml":
            self.own.install(text)

    async def _run(self, *words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.own.environment,
        )
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, out.decode()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """Two clusters, which no hub knows yet."""
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 2) as members:
        ca = DevelopmentCa.create(tmp_path / "hub-ca", name="hub", clock=clock)
        made = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=2.0)
        demo.prepare(made, life=LEAF)
        made.cluster_lines = f"earlier_longest_ttl = {LEAF.seconds}"
        try:
            yield made
        finally:
            await made.stop_hub()


def hub_writes(cluster: SandboxCluster) -> int:
    """How often the hub has written the bundle: the tests' istiod writes without API requests."""
    return cluster.requests.count(verb="patch", resource="configmaps")


async def test_two_meshes_join_without_an_interruption_and_without_competing_writers(
    box: Box, tmp_path: Path
) -> None:
    clusters = {name: member.sandbox for name, member in box.members.items()}
    plugged_in = DevelopmentCa.create(tmp_path / "own-ca", name="west", clock=SystemClock())
    async with contextlib.AsyncExitStack() as stack:
        meshes = []
        for name, ca in (("east", None), ("west", plugged_in)):
            cluster = clusters[name]
            assert cluster is not None
            meshes.append(await stack.enter_async_context(OwnMesh(cluster, tmp_path).running(ca)))
        for own in meshes:
            await eventually_served(own)
        before = {own.name: own.istiod.writes.copy() for own in meshes}
        roots = {own.root.sha256 for own in meshes}
        mesh = Mesh([await agent_of(box, own, name) for own in meshes for name in ("frontend", "ledger")])
        async with mesh.busy():
            await mesh.until(lambda: len(mesh.worked) == 4, what="handshakes inside each cluster")
            await box.register()
            await box.start_hub()
            await box.wait_ready()
            barrier = asyncio.Barrier(len(meshes))
            operators = [Operator(box, mesh, own, barrier) for own in meshes]
            async with asyncio.TaskGroup() as group:
                for operator in operators:
                    group.create_task(operator.join())
            await box.wait_proved()
            await mesh.until(
                lambda: all(agent.trusts == {box.ca.root.sha256} for agent in mesh.agents),
                what="every certificate without the roots of former CAs",
            )
            mesh.worked.clear()
            await mesh.all_work()
    assert mesh.failures == []
    assert len(mesh.worked) == 12
    print(
        f"{mesh.tried} handshakes, {len(mesh.failures)} failed, fewest of a pair {min(mesh.worked.values())}"
    )
    bundle = await box.get("/api/v1/bundle")
    anchors = {anchor["sha256"] for anchor in bundle["anchors"]}
    assert anchors == {box.ca.root.sha256}
    assert not anchors & roots
    for own, operator in zip(meshes, operators, strict=True):
        assert operator.steps == [
            step
            for step in (
                "accept",
                "serve",
                "renew",
                "control_plane",
                "move",
                "switch_off",
                "takeover",
                "drop",
            )
            if step in operator.steps
        ], "the steps came in order, each once"
        assert {"serve", "control_plane", "move", "switch_off"} <= {*operator.steps}
        assert own.istiod.ca is False
        for namespace, written in own.istiod.writes.items():
            more = written - before[own.name][namespace]
            assert 1 <= more < bundle["generation"], "at most once for each bundle"
        assert hub_writes(own.cluster) < bundle["generation"] * len(own.istiod.writes), "the same"


async def test_a_workload_that_moves_before_its_ca_delivers_the_bundle_is_cut_off(box: Box) -> None:
    """The check above can fail: what it mounts is istiod's root alone, and the hub writes over none."""
    cluster = box.members["east"].sandbox
    assert cluster is not None
    async with OwnMesh(cluster, box.directory).running(None) as own:
        await eventually_served(own)
        agents = [await agent_of(box, own, name) for name in ("frontend", "ledger")]
        handshake(client=agents[0].credential, server=agents[1].credential)
        await box.register(["east"])
        await box.start_hub()
        await box.wait_ready()
        operator = Operator(box, Mesh(agents), own, asyncio.Barrier(1))
        code, said = await operator.look()
        while "NOW   serve" not in said:
            assert code in {1, 2}, said
            await asyncio.sleep(0.5)
            code, said = await operator.look()
        agents[0].moved = True
        with pytest.raises(grpc.aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
            await agents[0].renew()
        assert hub_writes(cluster) == 0


async def eventually_served(own: OwnMesh) -> None:
    """Until istiod has written its roots everywhere."""
    async with asyncio.timeout(PATIENCE):
        while not all(
            observed_in(own.cluster, n) for n in ("default", "kube-system", "shop", "istio-system")
        ):
            await asyncio.sleep(0.05)
