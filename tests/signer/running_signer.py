"""A signer of real parts: clusters in a box, a file store, a configuration file, and the listener over TLS.

The signer holds no more rights in the clusters than ``manifests/member`` grants. The controller's part
(writing generations) is done by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.types import Address
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import generation_key
from federation.core.documents.signer import SignerReport
from federation.core.documents.trust import Current, Generation
from federation.core.errors import StateUnavailable
from federation.core.identity import ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.istio.ca_protocol import METHOD, IstioCertificateRequest, decode_response, encode_request
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.kubernetes.budget import Budgets, CpuBudget
from federation.runtime.clock import SystemClock
from federation.runtime.config_source import ConfigSource
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.authorities.authority import AuthoritySettings, BackEndContext, ManagedAuthority
from federation.signer.authorities.authority_set import MakeAuthority
from federation.signer.authorities.back_ends import make_authority
from federation.signer.authorities.limiter import Limiter
from federation.signer.registry import connect
from federation.signer.role import SignerRole
from federation.signer.tracing import Tracing
from federation.state.files import FileStore
from federation.state.store import Stored
from federation_sandbox.box import MEMBER_MANIFESTS
from federation_sandbox.cluster import SandboxCluster, read_kustomization
from tests.support import pki
from tests.support.patience import PATIENCE

TRUST_DOMAIN = TrustDomain("cluster.local")
SERVER_NAME = "federation-hub.federation-system.svc"
SOON = PATIENCE


async def eventually(
    what: Callable[[], object], *, limit: float = SOON, describe: Callable[[], object] = str
) -> Any:
    """Poll until ``what`` is true and return it; fails with what was seen."""
    end = time.monotonic() + limit
    while not (seen := what()):
        assert time.monotonic() < end, f"not seen in {limit} s: {describe()}"
        await asyncio.sleep(0.02)
    return seen


def authority(name: str = "a", **options: Any) -> pki.Authority:
    """An intermediate that is valid by the system's clock, whatever the calendar says."""
    now = SystemClock().now().replace(microsecond=0)
    root = pki.root(f"{name} of signer", not_before=now - pki.DAY, not_after=now + 30 * pki.DAY)
    return pki.intermediate(
        f"{name}1 of signer", root, not_before=now - pki.DAY, not_after=now + 7 * pki.DAY, **options
    )


def identity_of(namespace: str, account: str) -> SpiffeId:
    return SpiffeId(TRUST_DOMAIN, ServiceAccountRef(namespace, account))


@dataclass
class Answer:
    """What the listener answered: a chain, or a status with its sentence."""

    elements: tuple[str, ...] = ()
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""

    @property
    def leaf(self) -> Certificate:
        assert self.code is grpc.StatusCode.OK, (self.code, self.details)
        (certificate,) = parse_certificates(self.elements[0].encode(), where="cert_chain")
        return certificate


class Store(FileStore):
    """The real store. ``read_last`` has the version of each document that was read last, however it was read.

    What is written below ``failing`` meets a full disk.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        super().__init__(directory, clock)
        self.read_last: dict[str, str] = {}
        self.failing = ""

    async def read(self, key: str) -> Stored | None:
        stored = await super().read(key)
        self.read_last[key] = stored.version if stored is not None else ""
        return stored

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        if self.failing and key.startswith(self.failing):
            raise StateUnavailable("the disk is full", where=key, remedy="make room")
        return await super().write(key, data, expected=expected, create=create)


@dataclass
class RunningSigner:
    """A signer in this process, with its clusters, configuration and state."""

    directory: Path
    clusters: dict[str, SandboxCluster]
    clock: Clock
    ca: pki.Authority
    store: Store
    pins: list[pki.Authority] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)  # more TOML lines for a cluster
    policies: dict[str, str] = field(default_factory=dict)  # TOML lines of a cluster's policy
    reserved: str = ""  # a TOML line at the top
    listener_options: str = ""
    authority_table: str = ""  # instead of the files of ``ca``
    successor_table: str = ""
    request_timeout: float = 5.0  # seconds that a member may take for an answer
    timeouts: str = ""  # more TOML lines of each cluster's timeouts
    listen: Address | None = None  # instead of any free port
    attestors: dict[str, ClusterAttestor] = field(default_factory=dict)  # of the clusters that are connected
    make_authority: MakeAuthority = make_authority
    back_ends: list[ManagedAuthority] = field(default_factory=list)  # all that were ever made
    budgets: dict[str, CpuBudget] = field(default_factory=dict)  # of every cluster that was ever connected
    cluster_ids: dict[str, str] = field(default_factory=dict)
    registered: list[str] = field(default_factory=list)
    generation: int = 0
    tracing: Tracing | None = None
    role: SignerRole = field(init=False)
    config: ConfigSource = field(init=False)
    _task: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def config_file(self) -> Path:
        return self.directory / "clusters.toml"

    def write_config(self) -> None:
        """The configuration with everything as it is now."""
        chain, key, _ = self.ca.write(self.directory / "authority")
        tables = [f'trust_domain = "{TRUST_DOMAIN}"\n{self.reserved}']
        for pin in {p.root.sha256: p for p in (self.ca, *self.pins)}.values():
            file = self.directory / f"{pin.root.sha256[:12]}.pem"
            file.write_bytes(pin.root.pem)
            tables.append(f'[[trust.anchors]]\nfile = "{file}"\nsha256 = "{pin.root.sha256}"')
        tables += [
            f'[listener]\nlisten = "127.0.0.1:0"\nserver_names = ["{SERVER_NAME}"]\n{self._listener_options()}',
            self.authority_table or local_table("authority", "local", chain, key),
            self.successor_table,
            '[status]\nlisten = "127.0.0.1:0"',
            f'[state]\ndirectory = "{self.directory / "state"}"',
        ]
        for name in self.registered:
            credentials = self.directory / f"{name}.kubeconfig"
            tables.append(
                f'[[clusters]]\nname = "{name}"\ncluster_id = "{self.cluster_ids.get(name, name)}"\n'
                f"{self.options.get(name, '')}\n"
                f'[clusters.signer]\nkubeconfig = "{credentials}"\n'
                f'[clusters.controller]\nkubeconfig = "{credentials}.controller"\n'
                f"[clusters.policy]\n{self.policies.get(name, '')}\n"
                f"[clusters.timeouts]\nconnect = 5\nrequest = {self.request_timeout}\n{self.timeouts}\n"
                "backoff_first = 0.1\nbackoff_longest = 1"
            )
        staged = self.config_file.with_suffix(".new")
        staged.write_text("\n\n".join(tables) + "\n", "utf-8")
        staged.rename(self.config_file)

    def _listener_options(self) -> str:
        """With deadlines that no call misses because the machine is busy, where the test sets none."""
        set_here = {line.partition("=")[0].strip() for line in self.listener_options.splitlines()}
        patient = {"receive_deadline": 60, "deadline": 60}
        more = [f"{name} = {value}" for name, value in patient.items() if name not in set_here]
        return "\n".join([self.listener_options, *more])

    async def reconfigure(self) -> None:
        """Write the configuration and have it taken up."""
        self.write_config()
        assert await self.config.reload(), self.config.problems
        await eventually(lambda: self.role.report().config_digest == self.config.current.digest)

    async def publish(
        self, *authorities: pki.Authority, behind: Mapping[str, int] | None = None, **wrong: Any
    ) -> None:
        """Write a generation with these roots, as the controller does; ``wrong`` overrides its fields."""
        self.generation += 1
        roots = authorities or (self.ca,)
        bundle = TrustBundle.merge(
            Anchor(certificate=a.root, origin="test", kind="root", trust_domain=TRUST_DOMAIN) for a in roots
        )
        fields: dict[str, Any] = {
            "number": self.generation,
            "created": self.clock.now().timestamp(),
            "reason": "test",
            "author": "test",
            "trust_domain": str(TRUST_DOMAIN),
            "sha256": bundle.sha256,
            "bundle_pem": bundle.pem.decode(),
            "anchors": [],
        } | wrong
        generation = Generation(**fields)
        await self.store.write(generation_key(generation.number), encode(generation))
        await self.put_in_force(generation, behind or {})

    async def put_in_force(self, generation: Generation, behind: Mapping[str, int]) -> None:
        """Have ``current`` name it, with the clusters that keep an older one."""
        current = Current(number=generation.number, sha256=generation.sha256, behind=dict(behind))
        await self.store.write("current", encode(current))

    async def direct(self, directives: SigningDirectives) -> None:
        """Write directives as the controller does, and wait until the signer has read them."""
        version = await self.store.write("orders", encode(directives))
        await eventually(lambda: self.store.read_last.get("orders") == version)

    async def follows(self, directives: SigningDirectives) -> None:
        """Wait until the signer reports that it follows these directives, its listener included."""
        expected = directives.rotation, directives.state
        await eventually(lambda: (self.role.report().rotation, self.role.report().directives) == expected)

    async def kill(self) -> None:
        """End the role at once, as a crash does: nothing is written any more."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def start(self) -> None:
        """Start the role without waiting for anything."""
        self.config = ConfigSource(self.config_file, self.clock)
        await self.config.load()
        self._stop = asyncio.Event()
        self.role = SignerRole(
            config=self.config,
            store=self.store,
            clock=self.clock,
            replica="signer-0",
            random_bytes=os.urandom,
            jitter=random.Random(1),
            listen=self.listen,
            connect=self._connect,
            make_authority=self._make_authority,
            tracing=self.tracing,
        )
        self._task = asyncio.create_task(self.role.run(self._stop))

    def _make_authority(
        self, settings: AuthoritySettings, context: BackEndContext, limiter: Limiter | None
    ) -> ManagedAuthority:
        self.back_ends.append(self.make_authority(settings, context, limiter))
        return self.back_ends[-1]

    @asynccontextmanager
    async def _connect(
        self, config: ClusterConfig, *, budgets: Budgets, **around: Any
    ) -> AsyncIterator[ClusterAttestor]:
        """The connection that the signer makes by itself, noted while it is there."""
        name = str(config.name)
        self.budgets[name] = budgets.of(config.name)
        async with connect(config, budgets=budgets, **around) as attestor:
            self.attestors[name] = attestor
            try:
                yield attestor
            finally:
                if self.attestors.get(name) is attestor:
                    del self.attestors[name]

    @property
    def serving(self) -> list[Certificate]:
        """The chain that the listener shows, by the signer's own report; empty where it has none."""
        return list(parse_certificates(self.role.report().serving_pem.encode(), where="the listener"))

    async def stop(self) -> None:
        """Ask the role to end and wait until it has."""
        if self._task is not None:
            self._stop.set()
            task, self._task = self._task, None
            await asyncio.wait_for(task, SOON)

    async def ready(self, *names: str) -> None:
        """Wait until the role is ready, and the clusters as well."""

        def good() -> bool:
            report = self.role.report()
            return report.ready and all(report.clusters[n].state == "ready" for n in names or self.registered)

        await eventually(good, describe=lambda: self.role.report())

    async def stored_report(self) -> SignerReport | None:
        stored = await self.store.read("signers/signer-0")
        return decode(stored.data, SignerReport, key="signers/signer-0") if stored is not None else None

    def pod(self, cluster: str, namespace: str = "foo", account: str = "bar", name: str = "bar-0") -> str:
        """A workload's pod with its service account; returns its token."""
        box = self.clusters[cluster]
        if box.get("namespaces", "", namespace) is None:
            box.create_namespace(namespace)
        if box.get("serviceaccounts", namespace, account) is None:
            box.create_service_account(namespace, account)
        if box.get("pods", namespace, name) is None:
            box.create_pod(namespace, name, account)
        return box.token(namespace, account, pod=name)

    async def ask(
        self,
        cluster_id: str | None,
        token: str | None,
        csr: str | None = None,
        *,
        seconds: int = 3600,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        fields: Mapping[str, object] | None = None,
        identity: SpiffeId | None = None,
        timeout: float = SOON,
        message: bytes | None = None,
        trust: bytes | None = None,
    ) -> Answer:
        """One call through the listener, over a TLS connection of its own."""
        if csr is None:
            csr = pki.csr_pem(identity or identity_of("foo", "bar"))
        if message is None:
            message = encode_request(
                IstioCertificateRequest(
                    csr=csr, validity_seconds=seconds, metadata=fields or {"CertSigner": ""}
                )
            )
        sent: list[tuple[str, str | bytes]] = []
        if token is not None:
            sent.append(("authorization", f"Bearer {token}"))
        if cluster_id is not None:
            sent.append(("clusterid", cluster_id))
        async with self.channel(trust) as channel:
            call = channel.unary_unary(METHOD)
            try:
                reply = await call(message, metadata=(*sent, *metadata), timeout=timeout)
            except grpc.aio.AioRpcError as error:
                return Answer(code=error.code(), details=error.details() or "")
        return Answer(decode_response(reply))

    @asynccontextmanager
    async def channel(self, trust: bytes | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """A connection to the listener that trusts the bundle's roots."""
        address = self.role.address
        assert isinstance(address, Address)
        credentials = grpc.ssl_channel_credentials(root_certificates=trust or self.ca.root.pem)
        options = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
            yield channel

    def refused(self, cluster: str) -> dict[str, int]:
        """Refusals of that cluster's callers by reason."""
        return dict(self.role.report().clusters[cluster].refused)


def local_table(section: str, name: str, chain: Path, key: Path) -> str:
    """``[signer.<section>]`` for an authority whose key is in a file."""
    return (
        f'[signer.{section}]\nkind = "local"\nname = "{name}"\npoll_seconds = 0.2\n'
        f'certificate_file = "{chain}"\nkey_file = "{key}"'
    )


@asynccontextmanager
async def running_signer(
    directory: Path,
    names: Iterable[str] = ("east",),
    *,
    ca: pki.Authority | None = None,
    clusters: Mapping[str, SandboxCluster] | None = None,
    setup: Callable[[RunningSigner], None] | None = None,
    start: bool = True,
) -> AsyncIterator[RunningSigner]:
    """A signer that is ready: a bundle with its authority's root, these clusters connected."""
    clock = SystemClock()
    boxes = dict(clusters or {name: SandboxCluster(name, clock=clock) for name in names})
    directory.mkdir(parents=True, exist_ok=True)
    built = RunningSigner(
        directory=directory,
        clusters=boxes,
        clock=clock,
        ca=ca or authority(),
        store=Store(directory / "state", clock),
        registered=list(boxes),
    )
    try:
        for name, box in boxes.items():
            await box.start()
            admit(box, directory / f"{name}.kubeconfig")
        if setup is not None:
            setup(built)
        built.write_config()
        if start:
            await built.publish()
            await built.start()
            await built.ready()
        yield built
    finally:
        await built.stop()
        for box in boxes.values():
            await box.stop()


def admit(box: SandboxCluster, kubeconfig: Path) -> None:
    """Grant the signer what ``manifests/member`` grants, and write a kubeconfig for it."""
    if box.get("namespaces", "", "istio-system") is None:
        box.create_namespace("istio-system")
    box.apply_manifest(read_kustomization(MEMBER_MANIFESTS))
    document = box.service_account_kubeconfig("federation-system", "federation-signer")
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(json.dumps(document), "utf-8")


def bundle_of(*authorities: pki.Authority) -> bytes:
    """The bytes of the bundle of these roots."""
    anchors = [
        Anchor(certificate=a.root, origin="test", kind="root", trust_domain=TRUST_DOMAIN) for a in authorities
    ]
    return TrustBundle.merge(anchors).pem


def digest_of(pem: bytes) -> str:
    return sha256(pem).hexdigest()


def document(data: bytes) -> Any:
    return msgspec.json.decode(data)
