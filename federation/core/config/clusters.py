"""``[[clusters]]``: how a role reaches a member cluster, its policy, its Istio, and what must hold between members.

To reach an API server is to know with which credentials, and how long to wait; a member's table, cert-manager's and
that of the state share those keys. ``[clusters.istio]`` says what the hub does for Istio's control plane there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final

from federation.core.config.mistakes import DependsOnMistake, Place
from federation.core.config.tables import Needed, Section
from federation.core.config.types import (
    Array,
    ArraySet,
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
    or_empty,
    path,
    seconds,
    service_account,
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


@dataclass(frozen=True, kw_only=True)
class CredentialsTable(Section):
    """The keys that say how one cluster is reached: a kubeconfig, or the service account of the hub's own pod."""

    kubeconfig: Annotated[Path | None, path] = None
    """The kubeconfig. Required where in_cluster is not set."""
    context: Annotated[str | None, nonempty] = None
    """The context in it. Unset: the current one."""
    in_cluster: Annotated[bool, boolean] = False
    """Use the service account of the pod that the hub runs in, instead of a kubeconfig."""
    allowed_exec: Annotated[tuple[str, ...], Array(nonempty)] = ()
    """Commands that an exec plugin in the kubeconfig may run, as they are written there; nothing else is run."""

    @property
    def credentials(self) -> Credentials:
        """What the keys say; without a kubeconfig only where they are wrong."""
        if self.in_cluster:
            return Credentials(kubeconfig=None, in_cluster=True)
        return Credentials(kubeconfig=self.kubeconfig, context=self.context, allowed_exec=self.allowed_exec)


CREDENTIAL_KEYS: Final = ("kubeconfig", "context", "in_cluster", "allowed_exec")


def check_credentials(place: Place, table: CredentialsTable, where_to_say: str) -> None:
    """One way to connect and no more; ``where_to_say`` is the remedy for a table that names none."""

    def names_a_kubeconfig(place: Place, table: CredentialsTable) -> None:
        if not table.in_cluster and not place.has("kubeconfig"):
            place.mistake("kubeconfig", "is missing: the hub cannot connect", where_to_say)

    def names_one(place: Place, table: CredentialsTable) -> None:
        for name in place.set_among(("kubeconfig", "context", "allowed_exec")) if table.in_cluster else ():
            place.mistake(name, "contradicts in_cluster = true", "keep one of the two")

    place.check(table, names_a_kubeconfig, names_one)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTimeouts(Section):
    """Every wait for one cluster's API server."""

    connect: Annotated[float, seconds(0.1, 120)] = 5.0
    """For a TCP and TLS connection."""
    request: Annotated[float, seconds(0.1, 600)] = 15.0
    """For a request with its answer."""
    watch: Annotated[float, seconds(1, 3600)] = 270.0
    """How long a watch is asked to last; API servers pick 5 to 10 minutes when they are not asked."""
    watch_silence: Annotated[float, seconds(1, 3600)] = 90.0
    """After how long without an event a watch is taken for dead; bookmarks come about once a minute."""
    backoff_first: Annotated[float, seconds(0.01, 60)] = 0.5
    """The first pause after a failure; it grows, with jitter."""
    backoff_longest: Annotated[float, seconds(0.1, 3600)] = 60.0
    """The longest pause after failures."""


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

LONGEST_TTL: Final = 90 * 86400.0
"""Seconds; the most istiod's own CA gives a workload."""
EARLIER_LONGEST_TTL: Final = 365 * 86400.0
"""Seconds; a CA from before the hub may have been set to give more than istiod does by default."""
LONGEST_TOKEN_LIFE: Final = 366 * 86400.0
"""Seconds; kube-apiserver makes none longer: it extends the tokens of pods that name no audience to a year."""
LONG_TOKEN_LIFE: Final = 7 * 86400.0  # seconds beyond which it is warned about

_NAME_ONE: Final = ("allows nothing", "name at least one, or remove the cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPolicy(Section):
    """What callers of one cluster may have from the shared CA.

    Patterns are ``namespace/name`` of service accounts: ``*`` is any characters, ``?`` is one. ``reserved``
    are those of the hub's reserved identities that this cluster may have, where ``allow`` matches them too.
    """

    allow: Annotated[tuple[str, ...], Array(account_pattern, empty=_NAME_ONE)] = ("*/*",)
    """Service accounts whose identities callers of this cluster may have. The default is open: every one that is not
    reserved, those of other clusters included, since an identity does not say which cluster it is of.
    """
    deny: Annotated[tuple[str, ...], Array(account_pattern)] = ()
    """What this matches is refused even where allow matches too."""
    longest_ttl: Annotated[float, seconds(1, LONGEST_TTL)] = 86400.0
    """The longest life of a certificate; the default is Istio's SECRET_TTL."""
    default_ttl: Annotated[float, seconds(1, LONGEST_TTL)] = 86400.0
    """What a request without a duration gets; unset it follows longest_ttl down where that is shorter."""
    key_kinds: Annotated[frozenset[KeyKind], ArraySet(member_of(KeyKind), empty=_NAME_ONE)] = (
        DEFAULT_KEY_KINDS
    )
    """Kinds of keys that callers may have."""
    require_pod: Annotated[bool, boolean] = True
    """Refuse tokens that are bound to no pod: those cannot be revoked by deleting the pod."""
    trusted_node_accounts: Annotated[tuple[ServiceAccountRef, ...], Array(service_account)] = ()
    """Service accounts of ztunnel (ambient): each may request the identities of pods on its own node. allow and deny
    apply to these as to any other.
    """
    reserved: Annotated[tuple[str, ...], Array(account_pattern)] = ()
    """Which of the reserved identities callers of this cluster may have, where allow matches them too."""

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
    return bool(patterns) and _any_of(patterns)(str(account)) is not None


@lru_cache(maxsize=1024)
def _any_of(patterns: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    """What matches where :func:`fnmatch.fnmatchcase` does for one of the patterns: asked for every certificate."""
    return re.compile("|".join(map(translate, patterns))).match


CLUSTER_TRUST_BUNDLE: Final = ("auto", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioConfig(Section):
    """What the hub does for Istio's control plane in one cluster."""

    provide_certificate: Annotated[bool, boolean] = True
    """Keep a Secret with istiod's certificate, its key and the bundle in each of these namespaces: with
    ENABLE_CA_SERVER=false istiod has no certificate of its own.
    """
    namespaces: Annotated[
        tuple[str, ...],
        Array(
            label("a namespace name"),
            empty=("names no namespace of istiod", "name at least one, or set provide_certificate = false"),
        ),
    ] = ("istio-system",)
    """The namespaces that istiod runs in."""
    revisions: Annotated[tuple[str, ...], Array(label("a revision of Istio"))] = ()
    """The revisions of Istio whose istiod is served; "default" is the one without a revision's name. Empty: those
    whose webhooks are found.
    """
    extra_names: Annotated[tuple[str, ...], Array(dns_name)] = ()
    """Further DNS names by which istiod is reached, such as that of an east-west gateway."""
    secret: Annotated[str, object_name] = "istiod-tls"  # noqa: S105 - an object's name
    """The name of that Secret."""
    account: Annotated[ServiceAccountRef, service_account] = field(
        default_factory=lambda: ServiceAccountRef("federation-system", "federation-istiod")
    )
    """The service account whose token the controller uses to have that certificate signed."""
    mesh_id: Annotated[str, made_by(check_label_value, "label value")] = ""
    """Istio's mesh ID (global.meshID), the same in all clusters of one mesh; empty takes the trust domain."""
    cluster_trust_bundle: Annotated[str, one_of(CLUSTER_TRUST_BUNDLE)] = "auto"
    """ClusterTrustBundle istio.io:istiod-ca:root-cert, the bundle once more, for pods that mount it: "auto"
    publishes it where the cluster serves the API and the hub may, "off" neither writes nor reads it.
    """


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


ATTESTATIONS: Final = ("auto", "token-keys", "token-review")
MEMBER_CAS: Final = ("hold", "replace")
_NO_KUBECONFIG: Final = "name a kubeconfig, here or for each role, or set in_cluster = true in the hub's own"


@dataclass(frozen=True, kw_only=True)
class ClusterTable(CredentialsTable):
    """``[[clusters]]``. Its own credentials count for each role that has no table of its own."""

    name: Annotated[
        ClusterName, made_by(ClusterName, "name of a cluster"), Needed("give the cluster a name of your own")
    ]
    """A name of yours: lower-case letters, digits and '-'."""
    cluster_id: Annotated[
        ClusterId,
        made_by(ClusterId, "ID of a cluster"),
        Needed("use the value of global.multiCluster.clusterName of its mesh"),
    ]
    """global.multiCluster.clusterName of its mesh; different in every cluster."""
    network: Annotated[str, made_by(check_label_value, "label value")] = ""
    """Istio's network, shown in status."""
    namespace_selector: Annotated[str, made_by(check_label_selector, "label selector")] = ""
    """Which namespaces get the bundle, such as "mesh=on,env in (prod, stage)"; empty selects all."""
    attestation: Annotated[str, one_of(ATTESTATIONS)] = "auto"
    """How callers prove who they are: "token-keys" checks tokens by the cluster's published keys and a watched
    cache, "token-review" asks its API server for each; "auto" uses keys and cache, and asks where these cannot
    decide.
    """
    issuer: Annotated[str, or_empty(filled)] = ""
    """The `iss` its tokens must carry; empty takes what its discovery document says."""
    former_issuers: Annotated[tuple[str, ...], Array(filled)] = ()
    """Issuers that it had before, while tokens of theirs still live."""
    audience: Annotated[str, filled] = "istio-ca"
    """The audience its tokens must carry."""
    longest_token_life: Annotated[float, seconds(600, LONGEST_TOKEN_LIFE)] = 172800.0
    """How long its tokens may live, from iat to exp. Istio's projected ones have 12 hours."""
    probe: Annotated[ServiceAccountRef, service_account] = field(
        default_factory=lambda: ServiceAccountRef("federation-system", "federation-probe")
    )
    """The service account whose token the proof uses."""
    earlier_longest_ttl: Annotated[float | None, seconds(0, EARLIER_LONGEST_TTL)] = None
    """The longest life of certificates that workloads here got before the hub: a rotation waits until none of them
    can be alive. Unset: longest_ttl of the policy.
    """
    member_cas: Annotated[str, one_of(MEMBER_CAS)] = "hold"
    """What becomes of a CA of its own that its namespaces hold when it joins: "hold" publishes there only once that
    CA is accepted, "replace" overwrites it at once, and workloads that still need it fail.
    """
    signer: CredentialsTable | None = None
    """How the signer connects. Unset: the keys of the cluster's own table."""
    controller: CredentialsTable | None = None
    """How the controller connects. Unset: the keys of the cluster's own table."""
    policy: ClusterPolicy = field(default_factory=ClusterPolicy)
    """What callers of this cluster may have from the shared CA."""
    istio: IstioConfig = field(default_factory=IstioConfig)
    """Istio's control plane in this cluster."""
    timeouts: ClusterTimeouts = field(default_factory=ClusterTimeouts)
    """Every wait for this cluster's API server."""

    def credentials_of(self, role: CredentialsTable | None) -> Credentials:
        """A role's own credentials, or those of the cluster's table."""
        return (self if role is None else role).credentials

    def build(self, place: Place) -> ClusterConfig:
        """The member, once nothing in the file is wrong."""
        policy = self.policy
        if not place.below("policy").has("default_ttl"):
            policy = replace(policy, default_ttl=min(policy.default_ttl, policy.longest_ttl))
        return ClusterConfig(
            name=self.name,
            cluster_id=self.cluster_id,
            signer=self.credentials_of(self.signer),
            controller=self.credentials_of(self.controller),
            network=self.network,
            policy=policy,
            namespace_selector=self.namespace_selector,
            attestation=self.attestation,
            issuer=self.issuer,
            former_issuers=self.former_issuers,
            audience=self.audience,
            longest_token_life=self.longest_token_life,
            probe=self.probe,
            timeouts=self.timeouts,
            earlier_longest_ttl=self.earlier_longest_ttl,
            member_cas=self.member_cas,
            istio=self.istio,
        )


def check_cluster(place: Place, table: ClusterTable) -> None:
    """What must hold between the keys of one member."""
    place.check(table, _credentials, _roles_apart, _accounts_apart, _tokens_short, _policy, _timeouts)


def _credentials(place: Place, table: ClusterTable) -> None:
    own = place.set_among(("signer", "controller"))
    shared = place.set_among(CREDENTIAL_KEYS)
    if len(own) == 2 and shared:
        place.mistake(
            shared[0],
            "is never used: both roles have credentials of their own",
            f"remove it, or one of {place.path('signer')} and {place.path('controller')}",
        )
    if len(own) < 2:
        check_credentials(place, table, _NO_KUBECONFIG)
    for role in own:
        with suppress(DependsOnMistake):
            check_credentials(place.below(role), getattr(table, role), _NO_KUBECONFIG)


def _roles_apart(place: Place, table: ClusterTable) -> None:
    signer = table.credentials_of(table.signer)
    if signer == table.credentials_of(table.controller) and signer.kubeconfig is not None:
        place.warning(
            "kubeconfig",
            "both roles share one credential here, so it is not true that who can sign cannot publish: "
            "give the signer and the controller a kubeconfig each",
        )


def _accounts_apart(place: Place, table: ClusterTable) -> None:
    if table.probe == table.istio.account:
        place.mistake(
            "istio.account",
            f"is the probe's account as well ({table.probe})",
            "give istiod's certificate an account of its own: what an account may have is decided by its name",
        )


def _tokens_short(place: Place, table: ClusterTable) -> None:
    if table.longest_token_life > LONG_TOKEN_LIFE:
        place.warning(
            "longest_token_life",
            f"a token that is stolen here is worth certificates for up to {table.longest_token_life / 86400:.0f} days, "
            "unless its pod ends before",
        )


def _policy(place: Place, table: ClusterTable) -> None:
    place, policy = place.below("policy"), table.policy
    if place.has("default_ttl") and policy.default_ttl > policy.longest_ttl:
        place.mistake(
            "default_ttl",
            f"is longer than longest_ttl ({policy.longest_ttl:g} s)",
            "lower it to longest_ttl or below, or leave it out",
        )


def _timeouts(place: Place, table: ClusterTable) -> None:
    def in_order(shorter: str, longer: str) -> Callable[[Place, ClusterTimeouts], None]:
        def rule(place: Place, timeouts: ClusterTimeouts) -> None:
            high: float = getattr(timeouts, longer)
            if getattr(timeouts, shorter) > high:
                place.mistake(
                    shorter, f"is longer than {longer} ({high:g} s)", f"lower it, or raise {longer}"
                )

        return rule

    place.below("timeouts").check(
        table.timeouts, in_order("connect", "request"), in_order("backoff_first", "backoff_longest")
    )


def check_members(members: Sequence[tuple[Place, ClusterTable]]) -> None:
    """What must differ between members."""
    once = "a cluster can be registered once: name another kubeconfig or context"
    _distinct(members, "name", lambda c: c.name, "give each cluster a name of its own")
    _distinct(
        members,
        "cluster_id",
        lambda c: c.cluster_id,
        "set a unique global.multiCluster.clusterName in each mesh and use it here; it is 'Kubernetes' in "
        "every mesh where it was not set",
    )
    _distinct(members, "signer", lambda c: _connects(c, c.signer), once)
    _distinct(members, "controller", _controller_apart, once)


def _connects(cluster: ClusterTable, role: CredentialsTable | None) -> Credentials | None:
    found = cluster.credentials_of(role)
    return found if found.in_cluster or found.kubeconfig else None


def _controller_apart(cluster: ClusterTable) -> Credentials | None:
    """The controller's credentials where they are not the signer's, which are compared already."""
    found = _connects(cluster, cluster.controller)
    return None if found == _connects(cluster, cluster.signer) else found


def _distinct(
    members: Sequence[tuple[Place, ClusterTable]],
    key: str,
    value_of: Callable[[ClusterTable], Hashable],
    remedy: str,
) -> None:
    first: dict[Hashable, str] = {}
    for place, cluster in members:
        with suppress(DependsOnMistake):
            value = value_of(cluster)
            if value is None:
                continue
            if value in first:
                place.mistake(key, f"is the same as that of {first[value]}", remedy)
            else:
                first[value] = place.key
