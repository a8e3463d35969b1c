"""A federation for the controller's tests: clusters in a box, a signer's listener, and the role in this process.

The controller has exactly the rights of ``manifests/member``, the listener is a real gRPC server over TLS that signs
with a real intermediate, and the state is the real file store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509

from federation.controller.member import Member
from federation.controller.member_readings import MemberDependencies
from federation.controller.role import ControllerRole
from federation.core.config.clusters import ClusterConfig
from federation.core.documents.controller import ControllerReport
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import generation_key
from federation.core.documents.signer import SignerReport
from federation.core.documents.trust import Current, Generation
from federation.core.istio.ca_protocol import SERVICE, decode_request, encode_response
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import private_key_pem
from federation.core.rotation.world import ClusterFacts
from federation.runtime.clock import SystemClock
from federation.runtime.config_source import ConfigSource
from federation.signer.listeners.tls import ServingPair
from federation.state.files import FileStore
from federation_sandbox.cluster import SandboxCluster, read_kustomization
from tests.support import pki
from tests.support.grpc_credentials import ReplacedCredentials
from tests.support.patience import PATIENCE
from tests.support.seals import SEAL

HUB = "hub.mesh.example"
TRUST_DOMAIN = "mesh.example"
NAME = "istio-ca-root-cert"
KEY = "root-cert.pem"
ISTIO_SYSTEM = "istio-system"
MANIFESTS = Path(__file__).resolve().parents[2] / "manifests" / "member"
START = datetime.now(UTC).replace(microsecond=0)
"""OpenSSL judges by the system's clock, so certificates of these tests begin before now."""


@cache
def root(name: str = "a") -> pki.Authority:
    return pki.root(f"controller {name}", not_before=START - pki.DAY, not_after=START + pki.YEAR)


@cache
def intermediate(name: str = "a", *, below: str = "") -> pki.Authority:
    return pki.intermediate(
        f"controller {name}", root(below or name), not_before=START - pki.DAY, not_after=START + 90 * pki.DAY
    )


def leaf_for(
    authority: pki.Authority,
    san: x509.SubjectAlternativeName,
    public_key: Any,
    *,
    lifetime: timedelta = timedelta(hours=1),
) -> Certificate:
    now = datetime.now(UTC)
    return pki.certificate(
        authority,
        [
            (pki.WORKLOAD_KEY_USAGE, True),
            (pki.BOTH_WAYS, False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (san, True),
        ],
        public_key=public_key,
        not_before=now - timedelta(minutes=2),
        not_after=now + lifetime,
        serial_number=x509.random_serial_number(),
    )


class ListenerStub:
    """A signer's listener that verifies nothing about its callers, but answers as the real one does."""

    def __init__(self, store: FileStore) -> None:
        self.store = store
        self.authority = intermediate()
        self.authorities: dict[str, pki.Authority] = {}  # cluster ID -> another authority
        self.refuse: dict[str, grpc.StatusCode] = {}  # cluster ID -> status
        self.calls: list[str] = []
        self.lifetime = timedelta(hours=1)
        self.port = 0
        self.shown: tuple[pki.Authority, tuple[str, ...]] | None = None
        self.credentials: ReplacedCredentials | None = None
        self.show(self.authority)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ListenerStub]:
        assert self.credentials is not None
        credentials = self.credentials.grpc()
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._create)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": handler}),)
        )
        self.port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def show(self, authority: pki.Authority, *names: str) -> None:
        """Show a certificate of that authority from the next handshake on, for these names instead of the right one."""
        if (authority, names) == self.shown:
            return
        self.shown = authority, names
        key = pki.key("listener")
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names or (HUB,)])
        serving = leaf_for(authority, san, key.public_key())
        self.chain_pem = (serving.pem + authority.chain_pem).decode()
        pair = ServingPair(self.chain_pem.encode(), private_key_pem(key))
        if self.credentials is not None:
            self.credentials.replace(pair)
        else:
            self.credentials = ReplacedCredentials(pair)

    async def _create(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        cluster = dict(context.invocation_metadata())["clusterid"]
        self.calls.append(cluster)
        if cluster in self.refuse:
            await context.abort(self.refuse[cluster], "request authenticate failure")
        request = decode_request(data)
        csr = x509.load_pem_x509_csr(request.csr.encode())
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        authority = self.authorities.get(cluster, self.authority)
        leaf = leaf_for(authority, san, csr.public_key(), lifetime=self.lifetime)
        chain = [certificate.pem.decode() for certificate in (leaf, *authority.chain)]
        generation = await in_force(self.store)
        assert generation is not None
        return encode_response([*chain, generation.bundle_pem])


async def in_force(store: FileStore) -> Generation | None:
    stored = await store.read("current")
    if stored is None:
        return None
    current = decode(stored.data, Current, key="current")
    document = await store.read(generation_key(current.number))
    assert document is not None
    return decode(document.data, Generation, key="generation")


class World:
    """The clusters, the configuration and the controllers of one test."""

    def __init__(
        self, directory: Path, clusters: dict[str, SandboxCluster], listener: ListenerStub, store: FileStore
    ) -> None:
        self.directory = directory
        self.clusters = clusters
        self.listener = listener
        self.store = store
        self.clock = SystemClock()
        self.anchors: list[pki.Authority] = [root()]
        self.registered = list(clusters)
        self.publication: dict[str, Any] = {}
        self.trust: dict[str, Any] = {}
        self.extra: dict[str, dict[str, Any]] = {}
        self.proof_interval = 1.0
        self.staged: list[pki.Authority] = []
        self.own: dict[str, str] = {}  # fingerprint of an anchor -> the cluster whose own CA it is
        self.successor: pki.Authority | None = None
        self.rotation: dict[str, Any] = {}
        self.stops: dict[str, asyncio.Event] = {}
        self.sources: dict[str, ConfigSource] = {}
        self.members: dict[str, Member] = {}
        """The members that a leader has open now."""
        self.dependencies: MemberDependencies | None = None
        """What the leader gave to the member that it opened last."""

    @property
    def config_file(self) -> Path:
        return self.directory / "clusters.toml"

    def anchor_file(self, authority: pki.Authority) -> Path:
        return self.directory / f"{authority.certificate.sha256[:12]}.pem"

    def register(self) -> None:
        """Grant the controller its rights in every cluster and write kubeconfigs, configuration and anchors."""
        for name, cluster in self.clusters.items():
            if cluster.get("namespaces", "", ISTIO_SYSTEM) is None:
                cluster.create_namespace(ISTIO_SYSTEM)
            cluster.apply_manifest(read_kustomization(MANIFESTS))
            config = cluster.service_account_kubeconfig("federation-system", "federation-controller")
            file = self.directory / f"{name}.kubeconfig"
            file.touch(mode=0o600)
            file.write_text(json.dumps(config))
        authority = self.listener.authority
        (self.directory / "chain.pem").write_bytes(authority.chain_pem)
        for anchor in self.anchors:
            self.anchor_file(anchor).write_bytes(anchor.pem)
        self.write_config()

    def accept(self, anchor: pki.Authority, cluster: str) -> None:
        """Pin it as the own CA of that cluster."""
        self.own[anchor.certificate.sha256] = cluster
        self.anchors.append(anchor)
        self.anchor_file(anchor).write_bytes(anchor.pem)
        self.write_config()

    def write_config(self) -> None:
        lines = [
            f'trust_domain = "{TRUST_DOMAIN}"',
            *(["[trust]", *_pairs(self.trust)] if self.trust else []),
        ]
        for anchor in (*self.anchors, *self.staged):
            lines += [
                "[[trust.anchors]]",
                f'file = "{self.anchor_file(anchor)}"',
                f'sha256 = "{anchor.certificate.sha256}"',
                *(["staged = true"] if anchor in self.staged else []),
                *([f'cluster = "{self.own[sha]}"'] if (sha := anchor.certificate.sha256) in self.own else []),
            ]
        lines += [
            f'[listener]\nlisten = "127.0.0.1:{self.listener.port}"\nserver_names = ["{HUB}"]',
            f'[signer.authority]\nkind = "local"\nname = "test"\ncertificate_file = "{self.directory / "chain.pem"}"',
            f'key_file = "{self.directory / "key.pem"}"',
            *self._successor_table(),
            *(["[controller.rotation]", *_pairs(self.rotation)] if self.rotation else []),
            "[controller.publication]",
            *_pairs(self.publication),
            f"[controller.proof]\ninterval = {self.proof_interval}",
            f'[state]\ndirectory = "{self.directory / "state"}"',
        ]
        for name in self.registered:
            lines += [
                f'[[clusters]]\nname = "{name}"\ncluster_id = "{name}"',
                f'kubeconfig = "{self.directory / f"{name}.kubeconfig"}"',
                *_pairs(self.extra.get(name, {})),
            ]
        staged = self.config_file.with_suffix(".new")
        staged.write_text("\n".join(lines) + "\n")
        staged.rename(self.config_file)

    def _successor_table(self) -> list[str]:
        if self.successor is None:
            return []
        return [
            f'[signer.successor]\nkind = "local"\nname = "next"\ncertificate_file = "{self.directory / "next.pem"}"',
            f'key_file = "{self.directory / "next-key.pem"}"',
        ]

    @contextlib.asynccontextmanager
    async def controller(self, replica: str = "one") -> AsyncIterator[ControllerRole]:
        """A controller that runs until the context ends, then stops cleanly."""
        source = ConfigSource(self.config_file, self.clock)
        await source.load()
        role = ControllerRole(
            config=source,
            store=self.store,
            clock=self.clock,
            replica=replica,
            jitter=random.Random(1),
            mac=SEAL,
            open_member=self._open_member,
        )
        stop = asyncio.Event()
        self.stops[replica], self.sources[replica] = stop, source
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(source.watch())
            running = group.create_task(role.run(stop))
            try:
                yield role
            finally:
                stop.set()
                async with asyncio.timeout(PATIENCE):
                    await running
                watching.cancel()

    @contextlib.asynccontextmanager
    async def _open_member(self, config: ClusterConfig, around: MemberDependencies) -> AsyncIterator[Member]:
        """The member that the leader opens by itself, noted while it is open."""
        name, self.dependencies = str(config.name), around
        async with Member.open(config, around) as member:
            self.members[name] = member
            try:
                yield member
            finally:
                if self.members.get(name) is member:
                    del self.members[name]

    def facts(self, cluster: str) -> ClusterFacts:
        """What the gates see of that member."""
        return self.members[cluster].readings.facts()

    async def report_signer(self) -> None:
        """Say for the listener what a signer would report of it."""
        now = self.clock.now().timestamp()
        report = SignerReport(
            replica="listener",
            started=now,
            updated=now,
            heartbeat=60.0,
            ready=True,
            address=f"127.0.0.1:{self.listener.port}",
            serving_pem=self.listener.chain_pem,
        )
        await self.store.write("signers/listener", encode(report))

    async def report(self, replica: str = "one") -> ControllerReport | None:
        """What the controller has written to the store."""
        stored = await self.store.read(f"controllers/{replica}")
        return None if stored is None else decode(stored.data, ControllerReport, key="report")

    async def until(
        self, wanted: Callable[[ControllerReport], bool], *, replica: str = "one", limit: float = PATIENCE
    ) -> ControllerReport:
        """The first written report for which ``wanted`` holds."""
        seen: ControllerReport | None = None
        try:
            async with asyncio.timeout(limit):
                while True:
                    seen = await self.report(replica)
                    with contextlib.suppress(KeyError):  # a cluster that is not in the report yet
                        if seen is not None and wanted(seen):
                            return seen
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not in {limit:g} s; last report: {seen}") from None

    async def published(self, *, replica: str = "one", limit: float = PATIENCE) -> Generation:
        """Wait until every registered cluster holds the generation in force in every namespace."""

        def everywhere(report: ControllerReport) -> bool:
            return report.generation > 0 and all(
                name in report.clusters
                and report.clusters[name].publication.generation == report.generation
                and report.clusters[name].publication.current == report.clusters[name].publication.selected
                for name in self.registered
            )

        await self.until(everywhere, replica=replica, limit=limit)
        generation = await in_force(self.store)
        assert generation is not None
        return generation

    def observed(self, cluster: str, namespace: str) -> str | None:
        """What that namespace really holds."""
        found = self.clusters[cluster].config_map(namespace, NAME)
        return None if found is None else found.get("data", {}).get(KEY)


async def eventually(wanted: Callable[[], object], *, limit: float = PATIENCE) -> None:
    """Return once ``wanted()`` is true; fails after ``limit`` seconds."""
    try:
        async with asyncio.timeout(limit):
            while not wanted():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not in {limit:g} s") from None


@contextlib.asynccontextmanager
async def open_world(directory: Path, *names: str) -> AsyncIterator[World]:
    """A registered world of these clusters; no controller runs yet."""
    async with contextlib.AsyncExitStack() as stack:
        clusters = {name: await stack.enter_async_context(SandboxCluster(name)) for name in names}
        store = FileStore(directory / "state", SystemClock())
        listener = ListenerStub(store)
        await stack.enter_async_context(listener.running())
        world = World(directory, clusters, listener, store)
        world.register()
        yield world


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(_pairs(value)) + "}"
    return json.dumps(value)
