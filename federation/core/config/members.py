"""``[[clusters]]``: one member cluster each, and what must hold between them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Final

from federation.core.config.access import ClusterTimeouts, Credentials
from federation.core.config.credentials import CREDENTIAL_KEYS, read_credentials
from federation.core.config.istio_section import read_istio
from federation.core.config.label_selector import check_label_selector, check_label_value
from federation.core.config.model import DEFAULT_KEY_KINDS, ClusterConfig, ClusterPolicy
from federation.core.config.tables import Findings, Table
from federation.core.config.values import (
    account_pattern,
    boolean,
    filled,
    made_by,
    member_of,
    one_of,
    seconds,
    service_account,
    string,
)
from federation.core.identity import ClusterId, ClusterName
from federation.core.pki.keys import KeyKind

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
_NOBODY: Final = Credentials(kubeconfig=None)
_CLUSTER: Final = ClusterConfig(  # for its defaults
    name=ClusterName("x"), cluster_id=ClusterId("x"), signer=_NOBODY, controller=_NOBODY
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
        own_anchors = table.get("own_anchors", one_of(OWN_ANCHORS), _CLUSTER.own_anchors)
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
        own_anchors=own_anchors,
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
