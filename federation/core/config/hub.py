"""The hub's own part of ``clusters.toml`` as frozen values: seconds, bytes, and a reason for each default.

The sections are trust, listener, signer, status, ``[controller]`` (how trust gets out, how it is proved, and how
rotations go on) and ``[state]`` (a directory, or objects in the hub's own cluster; each kind has its own keys). Here
are their values, and what each key may be; ``HubConfig`` is the whole.

A class below ``Section`` is a table of the file as it is written. Where the hub needs the values in another shape, the
table is named ``...Table`` and its ``build`` makes the values, once nothing in the file is wrong.

Nothing here reads a file: paths are carried, not opened. ``load.py`` makes these values and reports every mistake at
once, those between keys by ``rules.py``. Member clusters are in ``clusters.py``, authorities in ``authorities/``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from federation.core.config.authorities.section import AUTHORITIES, AuthorityTable, build_authority
from federation.core.config.authorities.settings import AuthorityConfig, ConjurConfig, SpiffeConfig
from federation.core.config.clusters import (
    DEFAULT_RESERVED,
    ClusterConfig,
    ClusterTable,
    Credentials,
    CredentialsTable,
)
from federation.core.config.discovery import DiscoveryConfig
from federation.core.config.mistakes import Place
from federation.core.config.tables import Forms, Needed, Section, Tables
from federation.core.config.types import (
    Address,
    Array,
    ArraySet,
    account_pattern,
    address,
    boolean,
    config_map_key,
    dns_name,
    filled,
    fingerprint,
    integer,
    issuer_url,
    label,
    made_by,
    nonempty,
    object_name,
    one_of,
    or_empty,
    path,
    seconds,
    token_digest,
)
from federation.core.identity import ClusterName, TrustDomain, check_id

DAY: Final = 86400.0
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""gRPC's own default limit; anything near it is not a certificate request."""
MOST_WAVES: Final = 100
MOST_NAMESPACE: Final = 55
"""Characters: the signers' own namespace has the same name with ``-signers``, and a name has 63."""


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


_NO_NAMES: Final = (
    "names no server, so no agent could verify the listener",
    "list the hosts of the meshes' caAddress, for example federation-hub.federation-system.svc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig(Section):
    """The gRPC listener: one port for the workloads of all clusters (Istio's caAddress)."""

    listen: Annotated[Address, address] = Address("0.0.0.0", 15443)  # noqa: S104 - workloads of every cluster must reach it
    """Where it listens: workloads of every cluster have to reach it. Changes need a restart."""
    server_names: Annotated[
        tuple[str, ...], Array(dns_name, empty=_NO_NAMES), Needed(_NO_NAMES[1], _NO_NAMES[0])
    ]
    """The DNS names in the listener's certificate: every host that a mesh's caAddress uses."""
    serving_lifetime: Annotated[float, seconds(60, 90 * DAY)] = 3600.0
    """The life of the listener's own certificate; it is replaced at two thirds of it."""
    max_message_bytes: Annotated[int, integer(16_384, MAX_MESSAGE_BYTES)] = 65536
    """The longest message. A CSR with an RSA-4096 key is under 4 KiB, a token under 8."""
    max_concurrent: Annotated[int, integer(1, 100_000)] = 512
    """Calls at once for each signer process: past that the listener answers ResourceExhausted, which agents retry."""
    max_concurrent_per_cluster: Annotated[int, integer(1, 100_000)] = 256
    """How much of that one cluster gets at most; half leaves room for the others. Unset it follows max_concurrent
    down.
    """
    receive_deadline: Annotated[float, seconds(0.1, 60)] = 5.0
    """How long a handshake may take, and the message of a call after its headers, which agents send together."""
    deadline: Annotated[float, seconds(0.1, 300)] = 10.0
    """How long one call may take from then on; Istio's agents set no limit of their own."""
    min_keepalive_interval: Annotated[float, seconds(1, 30)] = 10.0
    """Agents ping every 30 s, for as long as they live; a longer interval cuts them off."""
    max_connections: Annotated[int, integer(16, 1_000_000)] = 8192
    """Connections for each signer process: an idle one costs 35 KiB and a file descriptor."""
    max_handshake_rate: Annotated[float, integer(1, 100_000).then(float)] = 500.0
    """TLS handshakes that each signer process begins in a second; one costs up to a millisecond of CPU."""
    max_connection_idle: Annotated[float, seconds(10, 7 * DAY)] = 300.0
    """A connection without a call for so long is closed in good order; certificates are renewed hours apart."""
    max_connection_age: Annotated[float, seconds(10, 7 * DAY)] = 3600.0
    """After this long a connection is closed in good order, so that callers spread over replicas."""
    drain: Annotated[float, seconds(0, 600)] = 15.0
    """How long calls under way may finish after SIGTERM."""


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
class CallerToken(Section):
    """``[[status.tokens]]``: a caller of the status API, known by the digest of its bearer token."""

    name: Annotated[str, filled, Needed("name who holds it: the audit says so")]
    """Who holds the token, as the audit shows it."""
    sha256: Annotated[str, token_digest, Needed("write the digest: `printf %s TOKEN | sha256sum`")]
    """The SHA-256 of the token in hex. The token has to be random, as of `openssl rand -hex 32`: a digest does not
    protect one that can be guessed.
    """
    right: Annotated[Literal["read", "operate"], one_of(("read", "operate"))] = "read"
    """What its bearer may do; who operates reads as well."""


@dataclass(frozen=True, kw_only=True)
class KubernetesCallersConfig(CredentialsTable):
    """``[status.kubernetes]``: callers with tokens of the hub's own cluster, by TokenReview and SubjectAccessReview.

    The account needs the ClusterRole ``system:auth-delegator``. Callers need ``get`` of ``/federation-hub/status`` to
    read, and ``post`` of ``/federation-hub/operations`` to operate.
    """

    audience: Annotated[str, filled] = "federation-hub"
    """The audience that tokens have to be for: `kubectl create token NAME --audience federation-hub`. Not that of an
    API server, where who sees the token could use it.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcCallersConfig(Section):
    """``[status.oidc]``: callers with tokens of an OpenID Connect issuer."""

    issuer: Annotated[str, issuer_url, Needed("name the issuer, as its tokens do under iss")]
    """The issuer, exactly as its tokens name it. Its keys are found by /.well-known/openid-configuration below it."""
    audience: Annotated[str, filled, Needed("name the audience that the issuer gives tokens for this hub")]
    """The audience that tokens have to be for."""
    name_claim: Annotated[str, filled] = "sub"
    """The claim that names the caller, as the audit shows it."""
    rights_claim: Annotated[str, filled] = "groups"
    """The claim, a text or an array of them, that read and operate are compared with."""
    read: Annotated[tuple[str, ...], Array(nonempty)] = ()
    """Who has one of these in rights_claim reads."""
    operate: Annotated[tuple[str, ...], Array(nonempty)] = ()
    """Who has one of these in rights_claim operates, and reads as well."""
    ca_file: Annotated[Path | None, path] = None
    """CA certificates to verify the issuer by. Unset: the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusConfig(Section):
    """The status API and page, served by each controller."""

    listen: Annotated[Address, address] = Address("127.0.0.1", 8080)
    """Where it listens."""
    read_token_file: Annotated[Path | None, path] = None
    """The file of a bearer token that reads everything. Required beyond loopback. Unset: anyone may read."""
    operate_token_file: Annotated[Path | None, path] = None
    """The file of a bearer token that operates (rotations, quarantines, emergencies), and reads as well. Unset: with
    a read_token_file no operation is taken.
    """
    certificate_file: Annotated[Path | None, path] = None
    """Serve TLS with this certificate chain; with key_file. Unset: no TLS."""
    key_file: Annotated[Path | None, path] = None
    """The key of certificate_file. Unset: no TLS."""
    insecure_allow_unauthenticated: Annotated[bool, boolean] = False
    """Serve beyond loopback without a token all the same. Status keeps warning about it."""
    tokens: Annotated[tuple[CallerToken, ...], Tables("status.tokens")] = ()
    """Callers with bearer tokens of their own, one table each."""
    kubernetes: KubernetesCallersConfig | None = None
    """Callers with Kubernetes tokens. How the cluster is reached changes with a restart only. Unset: none, at once;
    setting it needs a restart.
    """
    oidc: OidcCallersConfig | None = None
    """Callers with tokens of an OIDC issuer. Unset: none, at once; setting it needs a restart."""

    @property
    def lets_readers_in(self) -> bool:
        """Whether any credential that reads is configured: then no caller is let in without one."""
        return bool(self.read_token_file or self.tokens or self.kubernetes or self.oidc)

    @property
    def lets_operators_in(self) -> bool:
        """Whether a credential that operates may be had."""
        named = any(token.right == "operate" for token in self.tokens)
        return bool(self.operate_token_file or named or self.kubernetes or (self.oidc and self.oidc.operate))


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """Where the roles leave each other messages: a directory that both can write, or objects in the hub's cluster.

    With ``kind`` "kubernetes" the objects are in ``namespace``, reached by ``credentials``.
    """

    kind: Literal["files", "kubernetes"] = "files"
    directory: Path | None = None
    namespace: str = ""
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeconfigSecretsConfig:
    """The Secrets that each role's kubeconfigs are mounted from, in the hub's cluster, reached by ``credentials``."""

    namespace: str
    signer: str
    controller: str
    credentials: Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationConfig(Section):
    """How the bundle gets out. Names are Istio's own; change them only where the mesh was changed as well."""

    config_map: Annotated[str, object_name] = "istio-ca-root-cert"
    """The ConfigMap in each namespace (PILOT_CA_CERT_CONFIGMAP)."""
    key: Annotated[str, config_map_key] = "root-cert.pem"
    """The key in it."""
    excluded_namespaces: Annotated[tuple[str, ...], Array(label("a namespace name"))] = (
        "kube-public",
        "kube-node-lease",
        "local-path-storage",
    )
    """Namespaces that never get the bundle. kube-system does get it: ztunnel lives there."""
    max_concurrent_per_cluster: Annotated[int, integer(1, 1000)] = 16
    """Writes at once in one cluster; leaves its API server's default priority level room for others."""
    max_concurrent: Annotated[int, integer(1, 4096)] = 64
    """Concurrent writes in all clusters together, which take turns. Raise it where API servers are far away: with round
    trips of 100 ms, 64 concurrent writes are 640 a second."""
    resync: Annotated[float, seconds(1, DAY)] = 600.0
    """How often everything is read back even if no change was reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofConfig(Section):
    """How often every ordered pair of clusters is proved by a handshake."""

    interval: Annotated[float, seconds(0.1, DAY)] = 30.0
    """How often every ordered pair is proved; a change of trust is proved at once."""
    leaf_ttl: Annotated[float, seconds(10, 30 * DAY)] = 3600.0
    """The life of the probe's certificates."""
    signer_address: Annotated[Address | None, address] = None
    """Where the controller reaches the listener; it has to lead to every signer. Unset: listener.listen."""
    signer_server_name: Annotated[str, or_empty(dns_name)] = ""
    """The name to verify there: one of listener.server_names; empty means the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationConfig(Section):
    """How rotations go on. A rotation keeps the automatic, soak and waves it was started with."""

    automatic: Annotated[bool, boolean] = True
    """Go on as soon as a gate opens; false waits for `federation rotate advance` at every step."""
    soak: Annotated[float, seconds(0, 30 * DAY)] = 3600.0
    """How long every cluster has to trust both roots, without a break, before anything is signed under the new one."""
    waves: Annotated[int, integer(1, MOST_WAVES)] = 3
    """In how many waves of clusters the old root is removed."""
    skew: Annotated[float, seconds(0, 3600)] = 60.0
    """How far the clocks of the hub and of the clusters may differ: every certificate counts as alive for so much
    longer.
    """
    fresh: Annotated[float, seconds(1, 3600)] = 120.0
    """How old a read-back or a proof may be to count for a gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig(Section):
    """The controller role: publishes the bundle and proves it; holds no key."""

    publication: PublicationConfig = field(default_factory=PublicationConfig)
    """How the bundle gets out."""
    proof: ProofConfig = field(default_factory=ProofConfig)
    """How every pair of clusters is proved."""
    rotation: RotationConfig = field(default_factory=RotationConfig)
    """How rotations go on."""
    adopt_hubs: Annotated[frozenset[str], ArraySet(made_by(check_id, "identity of a hub"))] = frozenset()
    """Identities of other hubs whose objects in member clusters are to be taken over. Stop those hubs first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """The whole of ``clusters.toml``."""

    file: str
    digest: str  # SHA-256 of the text: says which configuration a role runs
    trust_domain: TrustDomain
    trust: TrustConfig
    listener: ListenerConfig
    signer: SignerConfig
    status: StatusConfig
    state: StateConfig
    controller: ControllerConfig
    clusters: tuple[ClusterConfig, ...]
    kubeconfig_secrets: KubeconfigSecretsConfig | None = None  # None: kubeconfigs are files
    discovery: DiscoveryConfig | None = None  # None: no clusters are looked for
    reserved: tuple[str, ...] = DEFAULT_RESERVED  # identities that only clusters have whose policy names them
    warnings: tuple[str, ...] = ()  # insecure options in force: logged at start and shown in status
    notices: tuple[str, ...] = ()  # keys under their former names: logged at start

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorTable(Section):
    """``[[trust.anchors]]``: one root that may be in the bundle."""

    file: Annotated[Path, path, Needed("name the PEM file that holds this root")]
    """A PEM file that holds this root. Only the certificate with the fingerprint below is taken from it."""
    sha256: Annotated[
        str,
        fingerprint,
        Needed("pin the root: `openssl x509 -noout -fingerprint -sha256 -in FILE`, compared with its owner"),
    ]
    """The pin. Compare it with the root's owner by another way than the one the file came by."""
    cluster: Annotated[
        tuple[ClusterName, ...],
        Array(
            made_by(ClusterName, "name of a cluster"),
            empty=("is empty", "name one or more, or leave the key out"),
            or_one=True,
        ),
    ] = ()
    """The members whose own CA this is. Rotations wait for what that CA issues in each of them, until its takeover
    is declared. Unset: no member's own.
    """
    trust_domain: Annotated[TrustDomain | None, made_by(TrustDomain, "trust domain")] = None
    """The anchor's trust domain. In one merged bundle every root speaks for every trust domain. Unset: the hub's
    own.
    """
    allow_foreign_trust_domain: Annotated[bool, boolean] = False
    """Take a root of another trust domain all the same. Status keeps showing it."""
    staged: Annotated[bool, boolean] = False
    """Pin the root, and publish it only once a rotation says so: for the root that a rotation leads to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustTable(Section):
    """``[trust]``: which roots may ever be in the bundle."""

    publish_intermediates: Annotated[bool, boolean] = False
    """Also publish the intermediates. Peers that send a bare leaf then validate, but an intermediate stays trusted
    after its root is gone.
    """
    anchors: Annotated[tuple[AnchorTable, ...], Tables("trust.anchors")] = ()
    """The roots, each with its pin."""

    def build(self, own: TrustDomain) -> TrustConfig:
        """The pins, once nothing in the file is wrong; ``own`` is the hub's trust domain."""
        pins = [
            AnchorPin(
                file=anchor.file,
                sha256=anchor.sha256,
                trust_domain=anchor.trust_domain or own,
                clusters=anchor.cluster,
                allow_foreign_trust_domain=anchor.allow_foreign_trust_domain,
                staged=anchor.staged,
            )
            for anchor in self.anchors
        ]
        return TrustConfig(anchors=tuple(pins), publish_intermediates=self.publish_intermediates)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerTable(Section):
    """``[signer]``: holds the key, reads tokens, pods and service accounts, writes nothing in a cluster."""

    processes: Annotated[int, integer(0, 256)] = 0
    """How many processes `federation hub` starts; 0 is one for each core."""
    health_listen: Annotated[Address | None, address] = None
    """Where /healthz, /readyz and /metrics of a signer are served. Process i of `federation hub` takes this port +
    i. Unset: not served.
    """
    authority: Annotated[
        AuthorityTable, AUTHORITIES, Needed("add [{table}]", "is missing, so nothing could be signed")
    ]
    """Where signatures come from; kind says which keys this table has."""
    successor: Annotated[AuthorityTable | None, AUTHORITIES] = None
    """What a rotation leads to: another intermediate, of the same root or of a new one. Unset: no rotation is
    prepared.
    """
    conjur: ConjurConfig | None = None
    """CyberArk Conjur. Unset: not used."""
    spiffe: SpiffeConfig | None = None
    """The SPIFFE Workload API. Unset: not used."""

    def build(self) -> SignerConfig:
        """The role's values, once nothing in the file is wrong."""
        return SignerConfig(
            processes=self.processes,
            health_listen=self.health_listen,
            authority=build_authority(self.authority),
            successor=None if self.successor is None else build_authority(self.successor),
            conjur=self.conjur,
            spiffe=self.spiffe,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesTable(Section):
    """``[state]`` in a directory of one machine or of one shared volume."""

    kind: Literal["files"] = "files"
    """A directory."""
    directory: Annotated[
        Path,
        path,
        Needed('name a directory that survives and that both roles can write, or set kind = "kubernetes"'),
    ]
    """A directory that all roles can write. Losing it means starting with a new generation of trust: keep it."""


@dataclass(frozen=True, kw_only=True)
class ObjectsTable(CredentialsTable):
    """``[state]`` in objects in the hub's own cluster, for replicas without a shared volume."""

    kind: Literal["kubernetes"] = "kubernetes"
    """Objects in the hub's own cluster."""
    namespace: Annotated[
        str,
        label("a namespace name"),
        Needed("name the namespace of the objects: one where only the hub may write them"),
    ]
    """The namespace of the objects: one where only the hub may write them."""


@dataclass(frozen=True, kw_only=True)
class KubeconfigSecretsTable(CredentialsTable):
    """``[kubeconfig_secrets]``: where the hub runs in a cluster, the Secrets that its kubeconfigs are mounted from.

    Each role writes the tokens that it renews into its own one.
    """

    namespace: Annotated[
        str,
        label("a namespace name"),
        Needed("name the namespace that the hub runs in, where the Secrets are"),
    ]
    """The namespace of both Secrets."""
    signer: Annotated[str, object_name] = "federation-signer-kubeconfigs"
    """The signer's Secret. The files that are mounted from it have the names of its keys."""
    controller: Annotated[str, object_name] = "federation-controller-kubeconfigs"
    """The controller's Secret."""

    def build(self) -> KubeconfigSecretsConfig:
        """The values, once nothing in the file is wrong."""
        return KubeconfigSecretsConfig(
            namespace=self.namespace,
            signer=self.signer,
            controller=self.controller,
            credentials=self.credentials,
        )


StateTable: TypeAlias = FilesTable | ObjectsTable
_STATE_KINDS: Final = Forms(
    "kind",
    {"files": FilesTable, "kubernetes": ObjectsTable},
    default="files",
    of_others=lambda _, takers: (f'is a key of kind = "{takers[0]}"', "set that kind, or remove this key"),
)


def _build_state(table: StateTable) -> StateConfig:
    if isinstance(table, FilesTable):
        return StateConfig(kind="files", directory=table.directory)
    return StateConfig(kind="kubernetes", namespace=table.namespace, credentials=table.credentials)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTable(Section):
    """``clusters.toml``."""

    trust_domain: Annotated[
        TrustDomain,
        made_by(TrustDomain, "trust domain"),
        Needed("use the meshes' own, for example mesh.example.org"),
    ]
    """The SPIFFE trust domain of the meshes (Istio's meshConfig.trustDomain), the same in all of them."""
    reserved: Annotated[tuple[str, ...], Array(account_pattern)] = DEFAULT_RESERVED
    """Identities that only those clusters may have whose own policy names them under reserved: by default control
    planes and the hub's own roles.
    """
    trust: TrustTable
    """Which roots may ever be in the bundle."""
    listener: ListenerConfig
    """The gRPC listener."""
    signer: SignerTable
    """The signer role."""
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    """The controller role."""
    status: StatusConfig = field(default_factory=StatusConfig)
    """The status API and page."""
    state: Annotated[StateTable, _STATE_KINDS]
    """What survives, and where the roles leave each other messages: in files or in objects."""
    kubeconfig_secrets: KubeconfigSecretsTable | None = None
    """The Secrets that the kubeconfigs are mounted from. Unset: kubeconfigs are files, and tokens are renewed in those
    that the hub may write.
    """
    discovery: DiscoveryConfig | None = None
    """Where clusters are looked for that could be registered. Unset: nowhere."""
    clusters: Annotated[tuple[ClusterTable, ...], Tables("clusters")] = ()
    """The member clusters, one table each."""

    def build(self, place: Place, *, file: str, digest: str) -> HubConfig:
        """The whole configuration, once nothing in the file is wrong."""
        listener = self.listener
        if not place.below("listener").has("max_concurrent_per_cluster"):
            share = min(listener.max_concurrent_per_cluster, listener.max_concurrent)
            listener = replace(listener, max_concurrent_per_cluster=share)
        return HubConfig(
            file=file,
            digest=digest,
            trust_domain=self.trust_domain,
            trust=self.trust.build(self.trust_domain),
            listener=listener,
            signer=self.signer.build(),
            status=self.status,
            state=_build_state(self.state),
            kubeconfig_secrets=None if self.kubeconfig_secrets is None else self.kubeconfig_secrets.build(),
            discovery=self.discovery,
            controller=self.controller,
            clusters=tuple(
                table.build(at) for table, at in zip(self.clusters, place.each("clusters"), strict=True)
            ),
            reserved=self.reserved,
            warnings=tuple(place.findings.warnings),
            notices=tuple(place.findings.notices),
        )
