"""Documents as a well federation writes them, to be broken by the test at hand, and a store to hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.clusters import ClusterConfig, Credentials
from federation.core.config.hub import (
    AnchorPin,
    ControllerConfig,
    HubConfig,
    ListenerConfig,
    SignerConfig,
    StateConfig,
    StatusConfig,
    TrustConfig,
)
from federation.core.config.types import Address
from federation.core.documents.controller import (
    ControllerClusterReport,
    ControllerReport,
    ControlPlaneReport,
    Matrix,
    Operation,
    PublicationReport,
)
from federation.core.documents.discovery import Discovery
from federation.core.documents.encoding import encode
from federation.core.documents.keys import generation_key
from federation.core.documents.signer import (
    AuthorityReport,
    Histogram,
    SignerClusterReport,
    SignerReport,
    WorkloadsReport,
)
from federation.core.documents.trust import AnchorRecord, Current, Generation
from federation.core.identity import ClusterId, ClusterName, TrustDomain
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import RotationRecord
from federation.state.files import FileStore
from federation.state.store import Stored
from federation.status.snapshot import DocumentSet

DAY = 86400.0
PEM = "-----BEGIN CERTIFICATE-----\nbm90IGEgcmVhbCBvbmU=\n-----END CERTIFICATE-----\n"
SHA = hashlib.sha256(PEM.encode()).hexdigest()
ROOT = "a1" * 32
INTERMEDIATE = "b2" * 32
DIGEST = "c3" * 32


class CountingStore(FileStore):
    """The real store, which counts its readings of a document."""

    readings = 0

    async def read(self, key: str) -> Stored | None:
        self.readings += 1
        return await super().read(key)

    async def put(self, document_set: DocumentSet) -> None:
        """Hold exactly this snapshot."""
        documents: dict[str, Struct] = {"current": document_set.current} if document_set.current else {}
        documents |= {generation_key(number): g for number, g in document_set.generations.items()}
        documents |= {f"signers/{replica}": signer for replica, signer in document_set.signers.items()}
        documents |= {f"controllers/{replica}": c for replica, c in document_set.controllers.items()}
        documents |= {f"operations/{operation.id}": operation for operation in document_set.operations}
        documents |= {"rotation": document_set.record} if document_set.record else {}
        documents |= {"orders": document_set.directives} if document_set.directives else {}
        documents |= {"discovered": document_set.discovery} if document_set.discovery else {}
        for prefix in (
            "current",
            "generations/",
            "signers/",
            "controllers/",
            "rotation",
            "orders",
            "discovered",
        ):
            for key in await self.keys(prefix):
                if key not in documents:
                    await self.delete(key)
        for key, document in documents.items():
            await self.write(key, encode(document))


@dataclass
class FixedConfig:
    """A ConfigView that stays as it is until a test changes it."""

    current: HubConfig
    problems: tuple[str, ...] = ()


def hub_config(names: list[str], status: StatusConfig | None = None) -> HubConfig:
    """A configuration with these clusters."""
    listen = Address("127.0.0.1", 0)
    domain = TrustDomain("mesh.example.org")
    credentials = Credentials(kubeconfig=Path("kubeconfig"))
    authority = LocalAuthorityConfig(name="shared", certificate_file=Path("ca.pem"), key_file=Path("ca.key"))
    return HubConfig(
        file="clusters.toml",
        digest=DIGEST,
        trust_domain=domain,
        trust=TrustConfig(anchors=(AnchorPin(file=Path("root.pem"), sha256=ROOT, trust_domain=domain),)),
        listener=ListenerConfig(listen=listen, server_names=("hub.example.org",)),
        signer=SignerConfig(authority=authority),
        status=status or StatusConfig(listen=listen),
        state=StateConfig(directory=Path("state")),
        controller=ControllerConfig(),
        clusters=tuple(
            ClusterConfig(
                name=ClusterName(name),
                cluster_id=ClusterId(f"id-{name}"),
                signer=credentials,
                controller=credentials,
                network=f"net-{i % 3}",
            )
            for i, name in enumerate(names)
        ),
    )


def control_plane(now: float, **changes: object) -> ControlPlaneReport:
    """istiod's certificate as a controller reports it that has provided one."""
    provided = ControlPlaneReport(
        namespace="istio-system",
        secret="istiod-tls",
        state="provided",
        names=["istiod.istio-system.svc"],
        issuer=INTERMEDIATE,
        not_after=now + 80000,
        renew_at=now + 50000,
        current=True,
        read_back=now - 2,
    )
    return replace(provided, **changes)


def square(names: list[str], cells: Mapping[tuple[str, str], str] | None = None) -> list[str]:
    """Rows of a matrix, valid but for ``cells``."""
    cells = cells or {}
    return ["".join("-" if a == b else cells.get((a, b), "v") for b in names) for a in names]


def generation(number: int, now: float, anchors: list[AnchorRecord] | None = None) -> Generation:
    """A generation created an hour before ``now``."""
    root = AnchorRecord(
        sha256=ROOT,
        subject="CN=Example Root R1,O=Example",
        kind="root",
        origin="pinned: root.pem",
        trust_domain="mesh.example.org",
        not_before=now - 365 * DAY,
        not_after=now + 3285 * DAY,
    )
    intermediate = replace(
        root,
        sha256=INTERMEDIATE,
        subject="CN=Example Mesh Intermediate M3,O=Example",
        kind="intermediate",
        origin="authority shared",
        not_before=now - 30 * DAY,
        not_after=now + 335 * DAY,
    )
    return Generation(
        number=number,
        created=now - 3600 * (1 + 24 * (7 - min(number, 7))),
        reason="the pinned anchors changed",
        author="controller",
        trust_domain="mesh.example.org",
        sha256=SHA,
        bundle_pem=PEM,
        anchors=[root, intermediate] if anchors is None else anchors,
    )


def signer(replica: str, names: list[str], now: float, *, issued: int = 40) -> SignerReport:
    """A signer that serves every cluster."""
    seen = SignerClusterReport(
        state="ready",
        issuer="https://kubernetes.default.svc",
        keys=2,
        attestation="token-keys",
        issued=issued,
        refused={"attestation": 2, "policy": 1},
        last_issued=now - 4,
        workload_issued_at=now - 4,
        workloads=WorkloadsReport(
            workloads=12, with_certificate=12, detail="", sidecars=10, asked=10, lifetime=86400.0
        ),
    )
    return SignerReport(
        replica=replica,
        started=now - 7200,
        updated=now - 1,
        heartbeat=2.0,
        ready=True,
        address="127.0.0.1:9443",
        config_digest=DIGEST,
        generation=7,
        bundle_sha256=SHA,
        authority=AuthorityReport(
            name="shared",
            kind="local",
            state="ready",
            subject="CN=Example Mesh Intermediate M3,O=Example",
            sha256=INTERMEDIATE,
            not_after=now + 335 * DAY,
        ),
        serving_not_after=now + 2400,
        issued=issued * len(names),
        clusters=dict.fromkeys(names, seen),
        latency=Histogram(bounds=[0.001, 0.01, 0.1], counts=[5, 30, 40], total=0.4, count=40),
    )


def controller(names: list[str], now: float) -> ControllerReport:
    """A leader that has published to and proved every cluster."""
    published = PublicationReport(
        selected=48,
        current=48,
        excluded=3,
        writes=96,
        restored=1,
        generation=7,
        lag=3.2,
        read_back=now - 2,
        contents={SHA: 48},
    )
    seen = ControllerClusterReport(
        state="ready",
        version="v1.36.0",
        publication=published,
        since=now - 7000,
        probe_not_after=now + 3000,
        control_planes=[control_plane(now)],
    )
    pairs = len(names) * (len(names) - 1)
    return ControllerReport(
        replica="controller-0",
        started=now - 7200,
        updated=now - 1,
        heartbeat=2.0,
        leader=True,
        ready=True,
        config_digest=DIGEST,
        generation=7,
        sources={"pinned": "ok"},
        clusters=dict.fromkeys(names, seen),
        matrix=Matrix(
            computed=now - 5, clusters=names, rows=square(names), pairs=pairs, valid=pairs, handshakes=2
        ),
    )


@dataclass
class World:
    """A federation that is well, at ``now``; change its parts and ask for the snapshot."""

    names: list[str]
    now: float
    config: HubConfig = field(init=False)
    current: Current | None = field(init=False)
    generations: dict[int, Generation] = field(init=False)
    signers: dict[str, SignerReport] = field(init=False)
    leader: ControllerReport | None = field(init=False)
    record: RotationRecord | None = None
    directives: SigningDirectives | None = None
    operations: tuple[Operation, ...] = ()
    discovery: Discovery | None = None

    def __post_init__(self) -> None:
        self.config = hub_config(self.names)
        self.current = Current(number=7, sha256=SHA)
        self.generations = {6: generation(6, self.now), 7: generation(7, self.now)}
        self.signers = {f"signer-{i}": signer(f"signer-{i}", self.names, self.now) for i in range(2)}
        self.leader = controller(self.names, self.now)

    def document_set(self) -> DocumentSet:
        """The documents as they stand."""
        return DocumentSet(
            current=self.current,
            generations=self.generations,
            signers=self.signers,
            controllers={"controller-0": self.leader} if self.leader else {},
            record=self.record,
            directives=self.directives,
            operations=self.operations,
            discovery=self.discovery,
        )

    def edit_leader(self, **changes: object) -> None:
        """Change fields of the leader's report."""
        assert self.leader is not None
        self.leader = replace(self.leader, **changes)

    def edit_signer(self, replica: str, **changes: object) -> None:
        """Change fields of a signer's report."""
        self.signers[replica] = replace(self.signers[replica], **changes)

    def edit_seen(self, name: str, **changes: object) -> None:
        """Change how the leader sees a cluster."""
        assert self.leader is not None
        seen = replace(self.leader.clusters[name], **changes)
        self.edit_leader(clusters={**self.leader.clusters, name: seen})

    def edit_publication(self, name: str, **changes: object) -> None:
        """Change what was read back from a cluster."""
        assert self.leader is not None
        self.edit_seen(name, publication=replace(self.leader.clusters[name].publication, **changes))

    def edit_on_signer(self, replica: str, name: str, **changes: object) -> None:
        """Change how a signer sees a cluster."""
        seen = replace(self.signers[replica].clusters[name], **changes)
        self.edit_signer(replica, clusters={**self.signers[replica].clusters, name: seen})

    def set_cells(
        self, cells: Mapping[tuple[str, str], str], reasons: Mapping[str, str] | None = None
    ) -> None:
        """Change cells of the leader's matrix."""
        assert self.leader is not None
        rows = square(self.names, cells)
        self.edit_leader(matrix=replace(self.leader.matrix, rows=rows, reasons=dict(reasons or {})))
