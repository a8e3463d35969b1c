"""The hub's own part of ``clusters.toml`` as frozen values: seconds, bytes, and a reason for each default.

The sections are trust, listener, signer, status, ``[controller]`` (how trust gets out, how it is proved, and how
rotations go on) and ``[state]`` (a directory, or objects in the hub's own cluster; each kind has its own keys). Here
stand their values, what each key may be, and what must hold between sections; ``HubConfig`` is the whole.

Nothing here reads a file: paths are carried, not opened. ``load.py`` makes these values and reports every mistake at
once. ``clusters.example.toml`` documents each key. Member clusters are in ``clusters.py``, authorities in
``authorities/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from federation.core.config.authorities.common import AuthorityContext
from federation.core.config.authorities.credential_sources import read_conjur, read_spiffe
from federation.core.config.authorities.section import check_successor, read_authority
from federation.core.config.authorities.settings import AuthorityConfig, ConjurConfig, SpiffeConfig
from federation.core.config.clusters import (
    CREDENTIAL_KEYS,
    DEFAULT_RESERVED,
    ClusterConfig,
    Credentials,
    read_credentials,
)
from federation.core.config.mistakes import Findings, Table, suggested_cluster
from federation.core.config.types import (
    Address,
    address,
    boolean,
    config_map_key,
    dns_name,
    dns_name_or_empty,
    fingerprint,
    integer,
    label,
    made_by,
    object_name,
    one_of,
    relative_to,
    seconds,
)
from federation.core.identity import ClusterName, TrustDomain, check_id


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
class ListenerConfig:
    """The gRPC listener: one port for all clusters."""

    listen: Address = Address("0.0.0.0", 15443)  # noqa: S104 - workloads of every cluster must reach it
    server_names: tuple[str, ...]  # DNS names of the serving certificate: the hosts of the meshes' caAddress
    serving_lifetime: float = 3600.0  # as short as a workload's; replaced at two thirds of it
    max_message_bytes: int = 65536  # a CSR with an RSA-4096 key is under 4 KiB, a token under 8
    max_concurrent: int = 512  # per process: past that the listener answers ResourceExhausted at once
    max_concurrent_per_cluster: int = 256  # half: one cluster's storm leaves room for the others
    receive_deadline: float = 5.0  # for a handshake; for a message after its headers, which come together
    deadline: float = 10.0  # from then on. Istio's agents set none, so the listener sets one
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
    signer_address: Address | None = None  # where the controller reaches the listener; None: listener.listen
    signer_server_name: str = ""  # the name to verify there; empty: the first of listener.server_names


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


DAY: Final = 86400.0
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""gRPC's own default limit; anything near it is not a certificate request."""

_LISTENER: Final = ListenerConfig(server_names=())  # these stand for the model's defaults, and nothing else
_STATUS: Final = StatusConfig()


def read_trust(
    table: Table,
    directory: Path,
    trust_domain: TrustDomain | None,
    members: frozenset[ClusterName] | None,
) -> TrustConfig:
    """``[trust]`` with its ``[[trust.anchors]]``; at least one anchor has to be pinned.

    ``members`` are the registered clusters, None where not all of them could be read.
    """
    with table:
        publish = table.get("publish_intermediates", boolean, False)
        entries = table.tables("anchors")
        anchors: list[AnchorPin] = []
        for entry in entries:
            anchor = _anchor(entry, directory, trust_domain)
            if anchor is not None:
                _check_anchor(entry, anchor, anchors, members)
                anchors.append(anchor)
        if not entries:
            table.mistake(
                "anchors",
                "pins no anchor, so no certificate could be trusted",
                "add [[trust.anchors]] with the file and sha256 of your root; pins are never inferred",
            )
        if len(anchors) == len(entries) and anchors and all(anchor.staged for anchor in anchors):
            table.mistake(
                "anchors",
                "are all staged, and a staged anchor is published only once a rotation says so",
                "remove staged from the root that is in use",
            )
    return TrustConfig(anchors=tuple(anchors), publish_intermediates=publish)


def _check_anchor(
    entry: Table, anchor: AnchorPin, before: list[AnchorPin], members: frozenset[ClusterName] | None
) -> None:
    if any(anchor.sha256 == other.sha256 for other in before):
        entry.mistake("sha256", "pins the same anchor a second time", "keep it once")
    for cluster in anchor.clusters:
        if members is not None and cluster not in members:
            entry.mistake(
                "cluster",
                f"names {cluster}, which is not registered",
                f"{suggested_cluster(str(cluster), map(str, members))}; leave it out where it is the own CA of none",
            )


def _anchor(table: Table, directory: Path, own: TrustDomain | None) -> AnchorPin | None:
    with table:
        file = table.require("file", relative_to(directory), "name the PEM file that holds this root")
        pin = table.require(
            "sha256",
            fingerprint,
            "pin the root: `openssl x509 -noout -fingerprint -sha256 -in FILE`, compared with its owner",
        )
        domain = table.get("trust_domain", made_by(TrustDomain), own)
        clusters = table.one_or_more("cluster", made_by(ClusterName))
        allow_foreign = table.get("allow_foreign_trust_domain", boolean, False)
        staged = table.get("staged", boolean, False)
        if domain is not None and own is not None:
            _check_trust_domain(table, domain, own, allowed=allow_foreign)
    if file is None or pin is None or domain is None:
        return None
    return AnchorPin(
        file=file,
        sha256=pin,
        trust_domain=domain,
        clusters=clusters,
        allow_foreign_trust_domain=allow_foreign,
        staged=staged,
    )


def _check_trust_domain(table: Table, domain: TrustDomain, own: TrustDomain, *, allowed: bool) -> None:
    if domain == own and allowed:
        table.mistake(
            "allow_foreign_trust_domain",
            f"overrides nothing: this anchor is of the hub's own trust domain {own}",
            "remove it, or name the anchor's real trust_domain",
        )
    elif domain != own and allowed:
        table.warning(
            "allow_foreign_trust_domain",
            f"the CA of {domain} is merged into the bundle, so it can speak for {own} as well",
        )
    elif domain != own:
        table.mistake(
            "trust_domain",
            f"is {domain}, not the hub's {own}: merged into one bundle, this root could speak for {own} too",
            "leave this anchor out, or accept that with allow_foreign_trust_domain = true",
        )


def read_listener(table: Table) -> ListenerConfig:
    """``[listener]``: the gRPC server that workloads call."""
    with table:
        names = table.list_of("server_names", dns_name, ())
        if not table.has("server_names") or table.is_empty("server_names"):
            table.mistake(
                "server_names",
                "names no server, so no agent could verify the listener",
                "list the hosts of the meshes' caAddress, for example federation-hub.federation-system.svc",
            )
        limit = table.get("max_concurrent", integer(1, 100_000), _LISTENER.max_concurrent)
        share = min(_LISTENER.max_concurrent_per_cluster, limit)
        share = table.get("max_concurrent_per_cluster", integer(1, 100_000), share)
        if share > limit:
            table.mistake(
                "max_concurrent_per_cluster",
                f"is above max_concurrent ({limit}), so one cluster could take the whole listener",
                "lower it, or raise max_concurrent",
            )
        size = table.get("max_message_bytes", integer(16_384, MAX_MESSAGE_BYTES), _LISTENER.max_message_bytes)
        keepalive = table.get("min_keepalive_interval", seconds(1, 30), _LISTENER.min_keepalive_interval)
        return ListenerConfig(
            listen=table.get("listen", address, _LISTENER.listen),
            server_names=names,
            serving_lifetime=table.get("serving_lifetime", seconds(60, 90 * DAY), _LISTENER.serving_lifetime),
            max_message_bytes=size,
            max_concurrent=limit,
            max_concurrent_per_cluster=share,
            receive_deadline=table.get("receive_deadline", seconds(0.1, 60), _LISTENER.receive_deadline),
            deadline=table.get("deadline", seconds(0.1, 300), _LISTENER.deadline),
            min_keepalive_interval=keepalive,
            max_connections=table.get("max_connections", integer(16, 1_000_000), _LISTENER.max_connections),
            max_handshake_rate=float(
                table.get("max_handshake_rate", integer(1, 100_000), int(_LISTENER.max_handshake_rate))
            ),
            max_connection_idle=table.get(
                "max_connection_idle", seconds(10, 7 * DAY), _LISTENER.max_connection_idle
            ),
            max_connection_age=table.get(
                "max_connection_age", seconds(10, 7 * DAY), _LISTENER.max_connection_age
            ),
            drain=table.get("drain", seconds(0, 600), _LISTENER.drain),
        )


def read_signer(table: Table, directory: Path, listener: ListenerConfig) -> SignerConfig | None:
    """``[signer]`` with its authority and its successor, ``[signer.conjur]`` and ``[signer.spiffe]``."""
    with table:
        processes = table.get("processes", integer(0, 256), 0)
        health = table.get("health_listen", address, None)
        if health is not None and health.port and health.port + processes > 65535:
            table.mistake("health_listen", "leaves no port for the last process", "use a lower port")
        context = AuthorityContext(
            directory=directory,
            listener_deadline=listener.deadline,
            has_conjur=table.has("conjur"),
            has_spiffe=table.has("spiffe"),
            processes=processes,
        )
        conjur = read_conjur(table.table("conjur"), context) if context.has_conjur else None
        spiffe = read_spiffe(table.table("spiffe")) if context.has_spiffe else None
        successor = read_authority(table.table("successor"), context) if table.has("successor") else None
        if not table.has("authority"):
            table.mistake(
                "authority", "is missing, so nothing could be signed", f"add [{table.path('authority')}]"
            )
            return None
        authority = read_authority(table.table("authority"), context)
        if authority is not None and successor is not None:
            check_successor(table, authority, successor)
    if authority is None:
        return None
    return SignerConfig(
        processes=processes,
        health_listen=health,
        authority=authority,
        successor=successor,
        conjur=conjur,
        spiffe=spiffe,
    )


def read_status(table: Table, directory: Path) -> StatusConfig:
    """``[status]``: without a token only this machine may ask, unless the operator insists, loudly."""
    path = relative_to(directory)
    with table:
        status = StatusConfig(
            listen=table.get("listen", address, _STATUS.listen),
            read_token_file=_read_token_file(table, path),
            operate_token_file=table.get("operate_token_file", path, None),
            certificate_file=table.get("certificate_file", path, None),
            key_file=table.get("key_file", path, None),
            insecure_allow_unauthenticated=table.get("insecure_allow_unauthenticated", boolean, False),
        )
        for name, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
            if table.has(name) and not table.has(other):
                table.mistake(other, f"is missing beside {name}", "name both for TLS, or neither")
        _check_exposure(table, status)
    return status


def _read_token_file(table: Table, path: Callable[[object], Path]) -> Path | None:
    """``read_token_file``, or ``token_file``, as it was called when one token did both."""
    former = table.get("token_file", path, None)
    current = table.get("read_token_file", path, None)
    if former is not None and current is not None:
        table.mistake("token_file", "stands beside read_token_file, which it was renamed to", "remove it")
    elif former is not None:
        table.warning(
            "token_file",
            "it is called read_token_file now, and grants reading only: operations need a token of their own in "
            "operate_token_file",
        )
    return current or former


def _check_exposure(table: Table, status: StatusConfig) -> None:
    exposed = not status.listen.is_loopback
    if status.insecure_allow_unauthenticated and status.read_token_file is not None:
        table.mistake(
            "insecure_allow_unauthenticated", "contradicts read_token_file", "keep the token and remove this"
        )
    elif status.insecure_allow_unauthenticated and exposed:
        table.warning(
            "insecure_allow_unauthenticated",
            f"anyone who reaches {status.listen} can read the state of every cluster",
        )
    elif exposed and status.read_token_file is None:
        table.mistake(
            "read_token_file",
            f"is missing while {status.listen} can be reached from other machines",
            "set read_token_file, listen on 127.0.0.1, or accept it with insecure_allow_unauthenticated = true",
        )
    elif exposed and not table.has("certificate_file"):
        table.warning(
            "listen", f"bearer tokens reach {status.listen} without TLS: set certificate_file and key_file"
        )


MOST_WAVES: Final = 100

_PUBLICATION: Final = PublicationConfig()  # these stand for the model's defaults, and nothing else
_PROOF: Final = ProofConfig()
_ROTATION: Final = RotationConfig()


def read_controller(table: Table, listener: ListenerConfig) -> ControllerConfig:
    """``[controller]`` with publication, proof and rotation."""
    with table:
        published = _publication(table.table("publication"))
        proved = _proof(table.table("proof"), listener)
        rotated = _rotation(table.table("rotation"), proved)
        adopted = table.list_of("adopt_hubs", made_by(check_id), ())
    return ControllerConfig(
        publication=published, proof=proved, rotation=rotated, adopt_hubs=frozenset(adopted)
    )


def _publication(table: Table) -> PublicationConfig:
    with table:
        return PublicationConfig(
            config_map=table.get("config_map", object_name, _PUBLICATION.config_map),
            key=table.get("key", config_map_key, _PUBLICATION.key),
            excluded_namespaces=table.list_of(
                "excluded_namespaces", label("a namespace name"), _PUBLICATION.excluded_namespaces
            ),
            max_concurrent_per_cluster=table.get(
                "max_concurrent_per_cluster", integer(1, 1000), _PUBLICATION.max_concurrent_per_cluster
            ),
            resync=table.get("resync", seconds(1, DAY), _PUBLICATION.resync),
        )


def _proof(table: Table, listener: ListenerConfig) -> ProofConfig:
    with table:
        name = table.get("signer_server_name", dns_name_or_empty, _PROOF.signer_server_name)
        if name and listener.server_names and name not in listener.server_names:
            table.mistake(
                "signer_server_name",
                "is not one of listener.server_names, so the probe could never verify the listener",
                "use one of them, or leave it out",
            )
        return ProofConfig(
            interval=table.get("interval", seconds(0.1, DAY), _PROOF.interval),
            leaf_ttl=table.get("leaf_ttl", seconds(10, 30 * DAY), _PROOF.leaf_ttl),
            signer_address=_reachable(table, "signer_address"),
            signer_server_name=name,
        )


def _reachable(table: Table, name: str) -> Address | None:
    """An address to connect to, where port 0 means nothing."""
    found = table.get(name, address, None)
    if found is not None and found.port == 0:
        table.mistake(name, "has port 0, which nothing can connect to", "name the port that is listened on")
    return found


def _rotation(table: Table, proof: ProofConfig) -> RotationConfig:
    """The gates of a rotation stand on these, so what weakens or starves them is warned about."""
    with table:
        found = RotationConfig(
            automatic=table.get("automatic", boolean, _ROTATION.automatic),
            soak=table.get("soak", seconds(0, 30 * DAY), _ROTATION.soak),
            waves=table.get("waves", integer(1, MOST_WAVES), _ROTATION.waves),
            skew=table.get("skew", seconds(0, 3600), _ROTATION.skew),
            fresh=table.get("fresh", seconds(1, 3600), _ROTATION.fresh),
        )
        if found.soak == 0:
            table.warning(
                "soak",
                "0 leaves no time between the moment that everybody trusts both roots and the first "
                "certificate under the new one, so nobody can notice what read-back and proof do not see",
            )
        if found.fresh < proof.interval:
            table.warning(
                "fresh",
                f"{found.fresh:g} s is shorter than controller.proof.interval ({proof.interval:g} s), so a gate "
                "can be open only for that long after each proof: raise it, or prove more often",
            )
        return found


def check_freshness(
    controller: ControllerConfig, clusters: Iterable[ClusterConfig], findings: Findings
) -> None:
    """A quiet watch says nothing for ``watch_silence``: what it showed must not count as old before that."""
    fresh = controller.rotation.fresh
    quiet = [str(cluster.name) for cluster in clusters if cluster.timeouts.watch_silence > fresh]
    if quiet:
        findings.warning(
            "controller.rotation.fresh",
            f"{fresh:g} s is shorter than watch_silence of {', '.join(quiet)}: a rotation would wait for what"
            " nobody has changed",
        )


MOST_NAMESPACE: Final = 55
"""Characters: the signers' own namespace has the same name with ``-signers``, and a name has 63."""

_STATE: Final = StateConfig()  # for its defaults
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "files": ("directory",),
    "kubernetes": ("namespace", *CREDENTIAL_KEYS),
}


def read_state(table: Table, directory: Path) -> StateConfig | None:
    """Where state is kept; None, with findings, where that cannot be used."""
    kind: str | None = _STATE.kind
    if table.has("kind"):
        kind = table.require("kind", one_of(_READERS), "")
    if kind is None:
        return None  # its other keys are not judged: nobody knows whose they are
    with table:
        for other, keys in _KEYS.items():
            for key in keys:
                if other != kind and table.has(key):
                    table.mistake(key, f'is a key of kind = "{other}"', "set that kind, or remove this key")
        return _READERS[kind](table, directory)


def _files(table: Table, directory: Path) -> StateConfig | None:
    found = table.require(
        "directory",
        relative_to(directory),
        'name a directory that survives and that both roles can write, or set kind = "kubernetes"',
    )
    return None if found is None else StateConfig(kind="files", directory=found)


def _kubernetes(table: Table, directory: Path) -> StateConfig | None:
    namespace = table.require(
        "namespace",
        label("a namespace name"),
        "name the namespace of the objects: one where only the hub may write them",
    )
    credentials = read_credentials(
        table,
        directory,
        "set in_cluster = true where the hub runs in that cluster, or name a kubeconfig of it",
    )
    if namespace is not None and len(namespace) > MOST_NAMESPACE:
        table.mistake(
            "namespace",
            f"has {len(namespace)} characters: that of the signers adds to it",
            f"use at most {MOST_NAMESPACE}",
        )
        return None
    if namespace is None or credentials is None:
        return None
    return StateConfig(kind="kubernetes", namespace=namespace, credentials=credentials)


_READERS: Final[Mapping[str, Callable[[Table, Path], StateConfig | None]]] = {
    "files": _files,
    "kubernetes": _kubernetes,
}
