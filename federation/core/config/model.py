"""``clusters.toml`` as frozen values: durations in seconds, sizes in bytes, a reason with each default.

Nothing here reads a file: paths are carried, not opened. ``parse.py`` makes these values and reports every
mistake at once. ``clusters.example.toml`` documents each key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal

from federation.core.config.access import ClusterTimeouts, Credentials
from federation.core.config.authority_model import AuthorityConfig, ConjurConfig, SpiffeConfig
from federation.core.identity import ClusterId, ClusterName, ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.pki.keys import KeyKind

DEFAULT_KEY_KINDS: Final = frozenset(
    {KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072, KeyKind.RSA_4096}
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can connect; of names only ``localhost`` is taken to mean that."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorPin:
    """An anchor the operator pins: the fingerprint is the pin, the file only where its bytes are read from.

    ``trust_domain`` differs from the hub's only with ``allow_foreign_trust_domain``: a merged root speaks for
    every trust domain, so that override is loud and status keeps showing it. ``clusters`` are the members whose
    own CA it is: rotations wait for what that issues in each of them. A ``staged`` anchor is published only once
    a rotation says so.
    """

    file: Path
    sha256: str
    trust_domain: TrustDomain
    clusters: tuple[ClusterName, ...] = ()
    allow_foreign_trust_domain: bool = False
    staged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustConfig:
    """Which anchors may ever be in a bundle. Both roles read it: pins are configuration, not state."""

    anchors: tuple[AnchorPin, ...]
    publish_intermediates: bool = False

    @property
    def pins(self) -> frozenset[str]:
        """SHA-256 fingerprints (lower-case hex of the DER) of every pinned anchor."""
        return frozenset(anchor.sha256 for anchor in self.anchors)

    @property
    def staged(self) -> frozenset[str]:
        """Fingerprints of those that only a rotation publishes."""
        return frozenset(anchor.sha256 for anchor in self.anchors if anchor.staged)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorConfig:
    """The gRPC door: one port for all clusters."""

    listen: Address = Address("0.0.0.0", 15443)  # noqa: S104 - workloads of every cluster must reach it
    server_names: tuple[str, ...]  # DNS names of the serving certificate: the hosts of the meshes' caAddress
    serving_lifetime: float = 3600.0  # as short as a workload's; replaced at two thirds of it
    max_message_bytes: int = 65536  # a CSR with an RSA-4096 key is under 4 KiB, a token under 8
    max_concurrent: int = 512  # per process: past that the door answers ResourceExhausted at once
    max_concurrent_per_cluster: int = 256  # half: one cluster's storm leaves room for the others
    receive_deadline: float = 5.0  # for a handshake; for a message after its headers, which come together
    deadline: float = 10.0  # from then on. Istio's agents set none, so the door sets one
    min_keepalive_interval: float = 10.0  # agents ping every 30 s, for as long as they live
    max_connections: int = 8192  # per process: an idle one costs 35 KiB and a file descriptor
    max_handshake_rate: float = 500.0  # a second and process; one costs up to a millisecond of CPU
    max_connection_idle: float = (
        300.0  # without a call; certificates are renewed hours apart, on a new connection
    )
    max_connection_age: float = 3600.0  # spreads callers over replicas again after one was restarted
    drain: float = 15.0  # how long calls under way may finish after SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerConfig:
    """The signer role."""

    processes: int = 0  # 0: one per core. Processes scale, threads do not: cryptography holds the GIL
    health_listen: Address | None = None  # process i of `federation hub` listens at this port + i
    authority: AuthorityConfig
    successor: AuthorityConfig | None = None  # what a rotation is to sign with in the end
    conjur: ConjurConfig | None = None
    spiffe: SpiffeConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusConfig:
    """The status API and page."""

    listen: Address = Address("127.0.0.1", 8080)
    read_token_file: Path | None = None  # for who may read
    operate_token_file: Path | None = None  # for who may operate, and read
    certificate_file: Path | None = None
    key_file: Path | None = None
    insecure_allow_unauthenticated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """Where the roles tell each other things: a directory that both can write, or objects in the hub's cluster.

    With ``kind`` "kubernetes" the objects are in ``namespace``, reached by ``credentials``.
    """

    kind: Literal["files", "kubernetes"] = "files"
    directory: Path | None = None
    namespace: str = ""
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationConfig:
    """How the bundle gets out. Names are Istio's own; change them only where the mesh was changed as well."""

    config_map: str = "istio-ca-root-cert"
    key: str = "root-cert.pem"
    excluded_namespaces: tuple[str, ...] = ("kube-public", "kube-node-lease", "local-path-storage")
    max_concurrent_per_cluster: int = 16  # leaves an API server's default priority level room for others
    resync: float = 600.0  # a full read-back even where the watch reported nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofConfig:
    """How often every ordered pair of clusters is proved by a handshake."""

    interval: float = 30.0
    leaf_ttl: float = 3600.0
    signer_address: Address | None = None  # where the controller reaches the door; None: door.listen
    signer_server_name: str = ""  # the name to verify there; empty: the first of door.server_names


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationConfig:
    """How rotations go on. Everything in seconds but ``waves``."""

    automatic: bool = True  # False: every step waits for `federation rotate advance`
    soak: float = 3600.0  # how long everybody has to trust both roots before anything is signed under the new
    waves: int = 3  # in how many waves of clusters the old root is removed
    skew: float = 60.0  # how far clocks may differ: every leaf counts as alive for so much longer
    fresh: float = 120.0  # how old a read-back or a proof may be to count


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """The controller role."""

    publication: PublicationConfig = field(default_factory=PublicationConfig)
    proof: ProofConfig = field(default_factory=ProofConfig)
    rotation: RotationConfig = field(default_factory=RotationConfig)
    adopt_hubs: frozenset[str] = frozenset()  # identities of hubs whose objects in members are this hub's own


DEFAULT_RESERVED: Final[tuple[str, ...]] = (
    "istio-system/istiod",
    "istio-system/istiod-*",
    "federation-system/federation-signer",
    "federation-system/federation-controller",
)
"""Identities that no member has by ``allow`` alone: of control planes, whom a mesh may believe everything (no istiod
asks for one), and of the hub's own roles. An identity does not say which cluster it is of."""

_EVERYTHING: Final = frozenset({"*", "*/*", "**"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPolicy:
    """What callers of one cluster may have from the shared CA.

    Patterns are ``namespace/name`` of service accounts: ``*`` stands for any characters, ``?`` for one. ``reserved``
    are those of the hub's reserved identities that this cluster may have, where ``allow`` matches them too.
    """

    allow: tuple[str, ...] = ("*/*",)
    deny: tuple[str, ...] = ()
    longest_ttl: float = 86400.0  # Istio's SECRET_TTL
    default_ttl: float = 86400.0  # what a request without a duration gets
    key_kinds: frozenset[KeyKind] = DEFAULT_KEY_KINDS
    require_pod: bool = True  # a token bound to no pod cannot be revoked by deleting the pod
    trusted_node_accounts: tuple[
        ServiceAccountRef, ...
    ] = ()  # of ztunnel: may ask for pods of their own node
    reserved: tuple[str, ...] = ()

    def allows(self, account: ServiceAccountRef) -> bool:
        """True where a pattern of ``allow`` matches and none of ``deny`` does."""
        return _matches(account, self.allow) and not _matches(account, self.deny)

    def is_reserved(self, account: ServiceAccountRef, reserved: tuple[str, ...]) -> bool:
        """True where it is among the hub's ``reserved`` identities, and not for this cluster."""
        return _matches(account, reserved) and not _matches(account, self.reserved)

    @property
    def is_open(self) -> bool:
        """True where it allows every identity that is not reserved, those of other clusters included."""
        return bool(_EVERYTHING & set(self.allow)) and not self.deny


def _matches(account: ServiceAccountRef, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(str(account), pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioConfig:
    """What the hub does for Istio's control plane in one cluster."""

    provide_certificate: bool = True  # keep the Secret with istiod's certificate in each of ``namespaces``
    namespaces: tuple[str, ...] = ("istio-system",)
    revisions: tuple[str, ...] = ()  # empty: those whose webhooks are found
    extra_names: tuple[str, ...] = ()  # further DNS names that istiod is reached by
    secret: str = "istiod-tls"  # noqa: S105 - the name of an object
    account: ServiceAccountRef = field(
        default_factory=lambda: ServiceAccountRef("federation-system", "federation-istiod")
    )
    mesh_id: str = ""  # Istio's global.meshID; empty: the trust domain
    cluster_trust_bundle: str = "auto"  # auto | off: published where it is served and permitted, or never


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """One member cluster."""

    name: ClusterName
    cluster_id: ClusterId
    signer: Credentials
    controller: Credentials
    network: str = ""
    policy: ClusterPolicy = field(default_factory=ClusterPolicy)
    namespace_selector: str = ""  # a Kubernetes label selector; empty selects every namespace
    attestation: str = "auto"  # auto | token-keys | token-review
    issuer: str = ""  # expected `iss` of its tokens; empty: what its discovery document says
    former_issuers: tuple[str, ...] = ()  # issuers it had before, whose tokens still live
    audience: str = "istio-ca"
    longest_token_life: float = 172800.0  # seconds from iat to exp: Istio's own projected tokens have 12 h
    probe: ServiceAccountRef = field(
        default_factory=lambda: ServiceAccountRef("federation-system", "federation-probe")
    )
    timeouts: ClusterTimeouts = field(default_factory=ClusterTimeouts)
    earlier_longest_ttl: float | None = None  # of leaves from before the hub; None: policy.longest_ttl
    own_anchors: str = "hold"  # hold | replace: what becomes of CAs of its own that its namespaces hold
    istio: IstioConfig = field(default_factory=IstioConfig)

    def is_own(self, account: ServiceAccountRef) -> bool:
        """True for the accounts that the hub itself asks with: the probe's, and that of istiod's certificate."""
        return account in {self.probe, self.istio.account}

    def probe_identity(self, trust_domain: TrustDomain) -> SpiffeId:
        """The identity of this cluster's probe, the only one that needs no pod."""
        return SpiffeId(trust_domain, self.probe)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """The whole of ``clusters.toml``."""

    file: str
    digest: str  # SHA-256 of the text: says which configuration a role runs
    trust_domain: TrustDomain
    trust: TrustConfig
    door: DoorConfig
    signer: SignerConfig
    status: StatusConfig
    state: StateConfig
    controller: ControllerConfig
    clusters: tuple[ClusterConfig, ...]
    reserved: tuple[str, ...] = DEFAULT_RESERVED  # identities that only clusters have whose policy names them
    warnings: tuple[str, ...] = ()  # insecure options in force: logged at start and shown in status

    @property
    def open_policies(self) -> tuple[str, ...]:
        """Clusters that may have every identity which is not reserved, and so those of the others as well."""
        if len(self.clusters) < 2:
            return ()
        return tuple(str(cluster.name) for cluster in self.clusters if cluster.policy.is_open)

    @property
    def has_ztunnel(self) -> bool:
        """Whether some cluster trusts a node proxy, so that ztunnel verifies certificates of the hub's."""
        return any(cluster.policy.trusted_node_accounts for cluster in self.clusters)

    def cluster(self, name: ClusterName) -> ClusterConfig | None:
        """The member of that name, if it is registered."""
        return next((c for c in self.clusters if c.name == name), None)
