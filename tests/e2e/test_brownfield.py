"""Clusters with a CA of their own join without one failed handshake, from istiod's self-signed CA and from ``cacerts``.

West is a mesh as Istio leaves it: every namespace's ``istio-ca-root-cert`` holds west's own root, written by
istiod, and its workloads hold leaves of west's CA and trust what it delivers. Handshakes go on all the time in
every direction. Whatever has worked once has to work ever after: through registration, hold, acceptance,
merge, the workloads' move to the hub one by one, takeover and drop.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from federation.controller.proof.handshake import Credential, handshake
from federation.core.errors import FederationError
from federation.core.identity import ServiceAccountRef, SpiffeId
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import load_private_key
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation.sandbox import rotation
from federation.sandbox.box import ROOT_CONFIG_MAP, SERVER_NAME, Box, DevelopmentCa, private_key_pem
from federation.sandbox.cluster import SandboxCluster
from federation.sandbox.mesh import Identity, Workload
from tests.e2e.conftest import members_of

LEAF = timedelta(seconds=16)
NAMESPACES = ("default", "kube-system", "federation-system", "shop")
ISTIOD = "pilot-discovery"


@dataclass
class OwnCa:
    """West's CA before the hub: istiod with a self-signed root, or with plugged-in ``cacerts``.

    ``trust`` is what it delivers with its leaves; an operator may add roots to it (``root-cert.pem``).
    """

    ca: DevelopmentCa
    plugged_in: bool
    trust: tuple[Certificate, ...]

    def issue(self, workload: Workload) -> None:
        """Give the workload a leaf, as istiod does at its renewal."""
        now, key = SystemClock().now(), ec.generate_private_key(ec.SECP256R1())
        issuer, issuer_key = self.ca.root, self.ca.root_key
        if self.plugged_in:
            issuer = self.ca.intermediate
            issuer_key = load_private_key((self.ca.directory / "key.pem").read_bytes(), where="own CA")
        both = [x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]
        uri = x509.UniformResourceIdentifier(str(workload.identity))
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.x509.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=2))
            .not_valid_after(now + LEAF)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        own = Certificate.from_der(leaf.public_bytes(Encoding.DER))
        chain = (own, issuer) if self.plugged_in else (own,)
        workload.held = Identity(chain=chain, key_pem=private_key_pem(key), trust=self.trust)


@dataclass
class Agent:
    """A workload's agent; ``own_ca`` is where it renews, None for the hub."""

    cluster: str
    workload: Workload
    own_ca: OwnCa | None
    renewed: float = 0.0

    async def renew(self) -> None:
        if self.own_ca is not None:
            self.own_ca.issue(self.workload)
        else:
            await self.workload.renew()
        self.renewed = time.monotonic()

    @property
    def trusts(self) -> frozenset[str]:
        held = self.workload.held
        return (
            frozenset(certificate.sha256 for certificate in held.trust) if held is not None else frozenset()
        )

    @property
    def credential(self) -> Credential:
        held = self.workload.held
        assert held is not None
        return Credential(held.chain, held.key_pem, held.trust, self.workload.identity)


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
            await asyncio.sleep(0.02)

    def _round(self) -> None:
        for client, server in permutations(range(len(self.agents)), 2):
            self.tried += 1
            try:
                handshake(client=self.agents[client].credential, server=self.agents[server].credential)
            except FederationError as error:
                if (client, server) in self.worked:
                    names = f"{self.agents[client].cluster} > {self.agents[server].cluster}"
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
            async with asyncio.timeout(30):
                while not wanted():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{what} did not come; {self.worked} {self.failures[:3]}") from None

    async def retried(self, agent: Agent) -> None:
        """Renew until it succeeds: signers may not know the cluster yet."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return await agent.renew()
                await asyncio.sleep(0.25)

    async def all_work(self) -> None:
        """Wait until every pair works."""
        count = len(self.agents) * (len(self.agents) - 1)
        await self.until(lambda: len(self.worked) == count, what="a handshake of every pair")


def held_in(cluster: SandboxCluster, namespace: str) -> str:
    found = cluster.config_map(namespace, ROOT_CONFIG_MAP)
    return "" if found is None else str(found["data"].get("root-cert.pem", ""))


def as_istiod_leaves_it(cluster: SandboxCluster, root: Certificate) -> None:
    """Every namespace with the own root, the hub's own namespace included."""
    for namespace in NAMESPACES:
        if cluster.get("namespaces", "", namespace) is None:
            cluster.create_namespace(namespace)
        meta = {"name": ROOT_CONFIG_MAP, "labels": {"istio.io/config": "true"}}
        cluster.create("configmaps", {"metadata": meta}, namespace=namespace)
    istiod_serves(cluster, root.pem.decode())


def istiod_serves(cluster: SandboxCluster, pem: str) -> None:
    """What its CA writes in every namespace."""
    for namespace in NAMESPACES:
        change = {"data": {"root-cert.pem": pem}}
        cluster.patch("configmaps", namespace, ROOT_CONFIG_MAP, change, manager=ISTIOD)


async def agent_of(box: Box, own_ca: OwnCa, account: str) -> Agent:
    """A workload of west with a leaf of west's own CA."""
    world, west = box.members["west"].world, box.members["west"].sandbox
    assert west is not None
    pod = await world.add_workload("shop", account)
    token = await world.token("shop", account, pod=pod, audience="istio-ca")
    workload = Workload(
        cluster_id=box.members["west"].cluster_id,
        identity=SpiffeId(box.trust_domain, ServiceAccountRef("shop", account)),
        door=box.door,
        server_name=SERVER_NAME,
        token=lambda: token,
        door_trust=lambda: held_in(west, "shop").encode(),
    )
    agent = Agent("west", workload, own_ca)
    await agent.renew()
    return agent


async def federation(*words: str) -> str:
    """The output of a command that succeeds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """A running hub with east, and west beside it, which it does not know."""
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 2) as members:
        ca = DevelopmentCa.create(tmp_path / "hub-ca", name="hub", clock=clock)
        made = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=1.0)
        rotation.prepare(made, life=LEAF)
        made.cluster_lines = f"earlier_longest_ttl = {LEAF.seconds}"
        await made.register(["east"])
        try:
            await made.start_hub()
            await made.wait_ready()
            yield made
        finally:
            await made.stop_hub()


@pytest.mark.parametrize("plugged_in", [False, True], ids=["self-signed", "cacerts"])
async def test_a_cluster_joins_without_an_interruption(box: Box, tmp_path: Path, plugged_in: bool) -> None:
    made = DevelopmentCa.create(tmp_path / "own-ca", name="own", clock=SystemClock())
    own_ca = OwnCa(made, plugged_in, (made.root,))
    own, hub = made.root.sha256, box.ca.root.sha256
    west, east_cluster = box.members["west"].sandbox, box.members["east"].sandbox
    assert west is not None
    assert east_cluster is not None
    as_istiod_leaves_it(west, made.root)
    before = held_in(west, "shop")
    mesh = Mesh([await agent_of(box, own_ca, name) for name in ("frontend", "ledger")])
    east = await box.workload("east", "shop", "frontend")
    mesh.agents.append(Agent("east", east, None))
    await mesh.agents[-1].renew()
    async with mesh.busy():
        await mesh.until(lambda: len(mesh.worked) == 2, what="handshakes inside west")

        mesh.stage = "hold"
        await box.register()
        seen = await box.wait_for(
            "/api/v1/clusters/west", lambda answer: answer["connection"]["reason"] == "joining"
        )
        assert own in str(seen["connection"])
        status = await box.wait_for("/api/v1/status", lambda answer: answer["proposals"])
        assert [(p["sha256"], p["cluster"]) for p in status["proposals"]] == [(own, "west")]
        assert {held_in(west, namespace) for namespace in NAMESPACES} == {before}

        mesh.stage = "accept and merge"
        await federation(
            *("trust", "accept", own, "--cluster", "west", "--yes"),
            *("--config", str(box.config_file), "--url", box.status_url),
        )
        await box.wait_for("/api/v1/bundle", lambda answer: len(answer["anchors"]) == 2)
        bundle = held_in(east_cluster, "shop").encode()
        assert bundle.count(b"BEGIN CERTIFICATE") == 2
        assert {held_in(west, namespace) for namespace in NAMESPACES} == {before}, "istiod would put it back"
        istiod_serves(west, bundle.decode())
        await box.wait_proved()
        own_ca.trust = parse_certificates(
            bundle, where="west"
        )  # the operator adds the hub's root to istiod's
        await mesh.all_work()
        await mesh.until(
            lambda: all({own, hub} <= agent.trusts for agent in mesh.agents),
            what="the merged bundle with every leaf",
        )

        mesh.stage = "one by one to the hub"
        for agent in mesh.agents:
            agent.own_ca = None
            await agent.renew()
            await asyncio.sleep(0.5)

        mesh.stage = "takeover"
        generation = (await box.get("/api/v1/bundle"))["generation"]
        declared = time.monotonic()
        await box.operate("takeover", cluster="west")

        mesh.stage = "drop"
        after = await box.wait_for(
            "/api/v1/bundle",
            lambda answer: answer["generation"] > generation,
            what="the drop of its own root",
        )
        assert time.monotonic() - declared >= LEAF.total_seconds()
        assert [anchor["sha256"] for anchor in after["anchors"]] == [hub]
        await mesh.until(
            lambda: all(agent.trusts == {hub} for agent in mesh.agents),
            what="every leaf without the own root",
        )
        await mesh.until(
            lambda: {held_in(west, n) for n in NAMESPACES} == {box.ca.root.pem.decode()},
            what="the hub's bundle alone in west",
        )
        await box.wait_proved()
        await asyncio.sleep(1)
    assert mesh.failures == []
    assert len(mesh.worked) == 6
    assert min(mesh.worked.values()) > 25
    print(f"{mesh.tried} handshakes, {len(mesh.failures)} failed")


async def test_the_same_move_without_acceptance_fails_handshakes(box: Box, tmp_path: Path) -> None:
    """The check can fail: what is replaced instead of accepted and merged is an interruption."""
    made = DevelopmentCa.create(tmp_path / "own-ca", name="own", clock=SystemClock())
    own_ca = OwnCa(made, plugged_in=False, trust=(made.root,))
    west = box.members["west"].sandbox
    assert west is not None
    as_istiod_leaves_it(west, made.root)
    mesh = Mesh([await agent_of(box, own_ca, name) for name in ("frontend", "ledger")])
    moved = Agent("west", (await agent_of(box, own_ca, "frontend")).workload, None)
    async with mesh.busy():
        await mesh.until(lambda: len(mesh.worked) == 2, what="handshakes inside west")
        box.cluster_lines += '\nown_anchors = "replace"'
        await box.register()
        await mesh.until(
            lambda: {held_in(west, n) for n in NAMESPACES} == {box.ca.root.pem.decode()},
            what="the hub's bundle in place of west's own",
        )
        moved.workload.held = None
        await mesh.retried(moved)
        assert mesh.failures == []
        mesh.agents[0] = moved
        await mesh.until(lambda: len(mesh.failures) > 10, what="a failure")
    assert all("certificate" in failure or "alert" in failure for failure in mesh.failures), mesh.failures[:5]
