"""``[[clusters]]``: how a role reaches a member cluster, its policy, its Istio, and what must hold between members.

To reach an API server is to know with which credentials, and how long to wait; a member's table and cert-manager's
share those keys. ``[clusters.istio]`` says what the hub does for Istio's control plane in that cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from federation.core.config.mistakes import Findings, Table
from federation.core.config.types import (
    account_pattern,
    boolean,
    check_label_selector,
    check_label_value,
    dns_name,
    filled,
    label,
    made_by,
    member_of,
    nonempty,
    object_name,
    one_of,
    relative_to,
    seconds,
    service_account,
    string,
)
from federation.core.identity import ClusterId, ClusterName, ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.pki.keys import KeyKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How one role reaches one cluster: a kubeconfig and a context in it, or the pod's service account."""

    kubeconfig: Path | None
    context: str | None = None
    in_cluster: bool = False
    allowed_exec: tuple[str, ...] = ()  # commands an exec plugin may run; empty: none


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTimeouts:
    """Every wait for one cluster's API server."""

    connect: float = 5.0
    request: float = 15.0
    watch: float = 270.0  # what the server is asked for; real ones pick 5 to 10 minutes when not asked
    watch_silence: float = 90.0  # bookmarks come about once a minute: past this the watch is taken for dead
    backoff_first: float = 0.5
    backoff_longest: float = 60.0


DEFAULT_KEY_KINDS: Final = frozenset(
    {KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072, KeyKind.RSA_4096}
)


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
    member_cas: str = "hold"  # hold | replace: what becomes of CAs of its own that its namespaces hold
    istio: IstioConfig = field(default_factory=IstioConfig)

    def is_own(self, account: ServiceAccountRef) -> bool:
        """True for the accounts that the hub itself asks with: the probe's, and that of istiod's certificate."""
        return account in {self.probe, self.istio.account}

    def probe_identity(self, trust_domain: TrustDomain) -> SpiffeId:
        """The identity of this cluster's probe, the only one that needs no pod."""
        return SpiffeId(trust_domain, self.probe)


CREDENTIAL_KEYS: Final = ("kubeconfig", "context", "in_cluster", "allowed_exec")
_NO_CREDENTIALS: Final = Credentials(kubeconfig=None)  # for its defaults


def read_credentials(table: Table, directory: Path, where_to_say: str) -> Credentials | None:
    """A kubeconfig or the pod's own service account; None, with findings, where neither can be used.

    ``where_to_say`` is the remedy for a table that names neither.
    """
    in_cluster = table.get("in_cluster", boolean, _NO_CREDENTIALS.in_cluster)
    context = table.get("context", nonempty, _NO_CREDENTIALS.context)
    commands = table.list_of("allowed_exec", nonempty, _NO_CREDENTIALS.allowed_exec)
    kubeconfig = table.get("kubeconfig", relative_to(directory), None)
    if not in_cluster:
        if not table.has("kubeconfig"):
            table.mistake("kubeconfig", "is missing: the hub cannot connect", where_to_say)
        return (
            None
            if kubeconfig is None
            else Credentials(kubeconfig=kubeconfig, context=context, allowed_exec=commands)
        )
    for name in ("kubeconfig", "context", "allowed_exec"):
        if table.has(name):
            table.mistake(name, "contradicts in_cluster = true", "keep one of the two")
    return Credentials(kubeconfig=None, in_cluster=True)


CLUSTER_TRUST_BUNDLE: Final = ("auto", "off")
_ISTIO: Final = IstioConfig()  # for its defaults


def read_istio(table: Table) -> IstioConfig:
    """The section; every key has a default, so that a cluster without it gets a control plane's certificate."""
    with table:
        namespaces = table.list_of("namespaces", label("a namespace name"), _ISTIO.namespaces)
        if table.is_empty("namespaces"):
            table.mistake(
                "namespaces",
                "names no namespace of istiod",
                "name at least one, or set provide_certificate = false",
            )
        return IstioConfig(
            provide_certificate=table.get("provide_certificate", boolean, _ISTIO.provide_certificate),
            namespaces=namespaces,
            revisions=table.list_of("revisions", label("a revision of Istio"), _ISTIO.revisions),
            extra_names=table.list_of("extra_names", dns_name, _ISTIO.extra_names),
            secret=table.get("secret", object_name, _ISTIO.secret),
            account=table.get("account", service_account, _ISTIO.account),
            mesh_id=table.get("mesh_id", made_by(check_label_value), _ISTIO.mesh_id),
            cluster_trust_bundle=table.get(
                "cluster_trust_bundle", one_of(CLUSTER_TRUST_BUNDLE), _ISTIO.cluster_trust_bundle
            ),
        )


ATTESTATIONS: Final = ("auto", "token-keys", "token-review")
OWN_ANCHORS: Final = ("hold", "replace")
LONGEST_TTL: Final = 90 * 86400.0
"""Seconds; the most istiod's own CA gives a workload."""
EARLIER_LONGEST_TTL: Final = 365 * 86400.0
"""Seconds; a CA from before the hub may have been set to give more than istiod does by default."""
LONGEST_TOKEN_LIFE: Final = 366 * 86400.0
"""Seconds; kube-apiserver makes none longer: it extends the tokens of pods that name no audience to a year."""
LONG_TOKEN_LIFE: Final = 7 * 86400.0  # seconds beyond which it is warned about

_POLICY: Final = ClusterPolicy()
_TIMEOUTS: Final = ClusterTimeouts()
_CLUSTER: Final = ClusterConfig(  # for its defaults
    name=ClusterName("x"), cluster_id=ClusterId("x"), signer=_NO_CREDENTIALS, controller=_NO_CREDENTIALS
)
_NO_KUBECONFIG: Final = "name a kubeconfig, here or for each role, or set in_cluster = true in the hub's own"


def read_cluster(table: Table, directory: Path) -> ClusterConfig | None:
    """One member; None, with findings, where it cannot be used."""
    with table:
        name = table.require("name", made_by(ClusterName), "give the cluster a name of your own")
        cluster_id = table.require(
            "cluster_id", made_by(ClusterId), "use the value of global.multiCluster.clusterName of its mesh"
        )
        signer, controller = _both_credentials(table, directory)
        policy = _policy(table.table("policy"))
        istio = read_istio(table.table("istio"))
        timeouts = _timeouts(table.table("timeouts"))
        network = table.get("network", made_by(check_label_value), _CLUSTER.network)
        selector = table.get("namespace_selector", made_by(check_label_selector), _CLUSTER.namespace_selector)
        attestation = table.get("attestation", one_of(ATTESTATIONS), _CLUSTER.attestation)
        issuer = table.get("issuer", _issuer, _CLUSTER.issuer)
        former = table.list_of("former_issuers", filled, _CLUSTER.former_issuers)
        audience = table.get("audience", filled, _CLUSTER.audience)
        token_life = table.get(
            "longest_token_life", seconds(600, LONGEST_TOKEN_LIFE), _CLUSTER.longest_token_life
        )
        if token_life > LONG_TOKEN_LIFE:
            table.warning(
                "longest_token_life",
                f"a token that is stolen here is worth certificates for up to {token_life / 86400:.0f} days, "
                "unless its pod ends before",
            )
        probe = table.get("probe", service_account, _CLUSTER.probe)
        if probe == istio.account:
            table.mistake(
                "istio.account",
                f"is the probe's account as well ({probe})",
                "give istiod's certificate an account of its own: what an account may have is decided by its name",
            )
        earlier = table.get("earlier_longest_ttl", seconds(0, EARLIER_LONGEST_TTL), None)
        member_cas = table.get("member_cas", one_of(OWN_ANCHORS), _CLUSTER.member_cas)
    if name is None or cluster_id is None or signer is None or controller is None:
        return None
    return ClusterConfig(
        name=name,
        cluster_id=cluster_id,
        signer=signer,
        controller=controller,
        network=network,
        policy=policy,
        namespace_selector=selector,
        attestation=attestation,
        issuer=issuer,
        former_issuers=former,
        audience=audience,
        longest_token_life=token_life,
        probe=probe,
        timeouts=timeouts,
        earlier_longest_ttl=earlier,
        member_cas=member_cas,
        istio=istio,
    )


def _issuer(value: object) -> str:
    return filled(value) if string(value) else ""


def _both_credentials(table: Table, directory: Path) -> tuple[Credentials | None, Credentials | None]:
    """The roles' own tables, with the cluster's own keys standing in for a table that is not there."""
    own = {role: table.table(role) for role in ("signer", "controller") if table.has(role)}
    shared = [key for key in CREDENTIAL_KEYS if table.has(key)]
    if len(own) == 2 and shared:
        table.mistake(
            shared[0],
            "is never used: both roles have credentials of their own",
            f"remove it, or one of {table.path('signer')} and {table.path('controller')}",
        )
    simple = read_credentials(table, directory, _NO_KUBECONFIG) if len(own) < 2 else None
    found: dict[str, Credentials | None] = {}
    for role in ("signer", "controller"):
        if role in own:
            with own[role] as role_table:
                found[role] = read_credentials(role_table, directory, _NO_KUBECONFIG)
        else:
            found[role] = simple
    signer, controller = found["signer"], found["controller"]
    if signer is not None and signer == controller and not signer.in_cluster:
        table.warning(
            "kubeconfig",
            "both roles share one credential here, so it is not true that who can sign cannot publish: "
            "give the signer and the controller a kubeconfig each",
        )
    return signer, controller


def _policy(table: Table) -> ClusterPolicy:
    with table:
        longest = table.get("longest_ttl", seconds(1, LONGEST_TTL), _POLICY.longest_ttl)
        default = table.get("default_ttl", seconds(1, LONGEST_TTL), min(_POLICY.default_ttl, longest))
        if default > longest:
            table.mistake(
                "default_ttl",
                f"is longer than longest_ttl ({longest:g} s)",
                "lower it to longest_ttl or below, or leave it out",
            )
        kinds = table.list_of("key_kinds", member_of(KeyKind), tuple(DEFAULT_KEY_KINDS))
        allow = table.list_of("allow", account_pattern, _POLICY.allow)
        for name in ("key_kinds", "allow"):
            if table.is_empty(name):
                table.mistake(name, "allows nothing", "name at least one, or remove the cluster")
        return ClusterPolicy(
            allow=allow,
            deny=table.list_of("deny", account_pattern, _POLICY.deny),
            reserved=table.list_of("reserved", account_pattern, _POLICY.reserved),
            longest_ttl=longest,
            default_ttl=default,
            key_kinds=frozenset(kinds),
            require_pod=table.get("require_pod", boolean, _POLICY.require_pod),
            trusted_node_accounts=table.list_of(
                "trusted_node_accounts", service_account, _POLICY.trusted_node_accounts
            ),
        )


def _timeouts(table: Table) -> ClusterTimeouts:
    with table:
        found = ClusterTimeouts(
            connect=table.get("connect", seconds(0.1, 120), _TIMEOUTS.connect),
            request=table.get("request", seconds(0.1, 600), _TIMEOUTS.request),
            watch=table.get("watch", seconds(1, 3600), _TIMEOUTS.watch),
            watch_silence=table.get("watch_silence", seconds(1, 3600), _TIMEOUTS.watch_silence),
            backoff_first=table.get("backoff_first", seconds(0.01, 60), _TIMEOUTS.backoff_first),
            backoff_longest=table.get("backoff_longest", seconds(0.1, 3600), _TIMEOUTS.backoff_longest),
        )
        for shorter, low, longer, high in (
            ("connect", found.connect, "request", found.request),
            ("backoff_first", found.backoff_first, "backoff_longest", found.backoff_longest),
        ):
            if low > high:
                table.mistake(
                    shorter, f"is longer than {longer} ({high:g} s)", f"lower it, or raise {longer}"
                )
        return found


def check_members(places: Sequence[tuple[str, ClusterConfig]], findings: Findings) -> None:
    """What must differ between members; ``places`` gives each with its dotted key."""
    _distinct(places, findings, "name", lambda c: c.name, "give each cluster a name of its own")
    _distinct(
        places,
        findings,
        "cluster_id",
        lambda c: c.cluster_id,
        "set a unique global.multiCluster.clusterName in each mesh and use it here; it is 'Kubernetes' in "
        "every mesh where it was not set",
    )
    once = "a cluster can be registered once: name another kubeconfig or context"
    _distinct(places, findings, "signer", lambda c: c.signer, once)
    split = [(place, cluster) for place, cluster in places if cluster.controller != cluster.signer]
    _distinct(split, findings, "controller", lambda c: c.controller, once)


def _distinct(
    places: Sequence[tuple[str, ClusterConfig]],
    findings: Findings,
    key: str,
    value_of: Callable[[ClusterConfig], Hashable],
    remedy: str,
) -> None:
    first: dict[Hashable, str] = {}
    for place, cluster in places:
        value = value_of(cluster)
        if value in first:
            findings.mistake(f"{place}.{key}", f"is the same as that of {first[value]}", remedy)
        else:
            first[value] = place
