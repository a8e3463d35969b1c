"""What callers of one cluster may have, and when a node proxy may have a certificate for a pod.

The service accounts that the hub itself asks with need no pod, since nothing but their tokens is ever used, and no
pattern of ``allow``, since the operator has named them already; ``deny`` holds for them as for every account. The
probe's gets its own identity; istiod's (``[clusters.istio] account``) gets a certificate for istiod's DNS names and
for nothing else, never its own identity, and no other account gets a DNS name.

Reserved identities (``reserved`` at the top of the configuration) are for those clusters alone whose policy names
them, for every caller: a workload, a node proxy for it, or one of the hub's own accounts where an operator has
reserved that.

**Node proxies** are ambient's ztunnel in shared mode. ztunnel asks for every identity with its own token and names
the identity in ``ImpersonatedIdentity``, its own included (``src/identity/caclient.rs``); ``caller`` is then the one
that the certificate is for. istiod's rules (``security/pkg/server/ca/node_auth.go``) apply here, and stricter ones:

- the caller's account is one of the cluster's ``trusted_node_accounts``, of which there are none by default;
- its token is bound to a pod, and that very pod is on a node and has neither failed nor succeeded;
- the identity is of Istio's form, of the hub's trust domain, and none of the hub's own accounts;
- the cluster's policy allows that identity (whether it is reserved is checked for every certificate);
- a pod of that service account, neither failed nor succeeded, is on the same node of the same cluster.

Every rule has a refusal of its own. The caller learns none of them; the log has all, with both identities.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from federation.core.config.clusters import DEFAULT_RESERVED, ClusterConfig
from federation.core.errors import AttestationRefused, InvalidValue, PolicyRefused
from federation.core.identity import NodeName, ServiceAccountRef, SpiffeId, TrustDomain
from federation.signer.attestation.attestor import Caller
from federation.signer.attestation.node_pods import NodePods


def check_policy(caller: Caller, config: ClusterConfig) -> None:
    """Raise PolicyRefused where policy says no.

    Its reason is ``account_not_allowed``, ``pod_required`` or ``istiod_not_provided``.
    """
    policy = config.policy
    account = caller.account
    if config.is_own(account):
        if is_denied(account, config):
            raise _not_allowed(caller, config)
        if account == config.istio.account and not config.istio.provide_certificate:
            raise PolicyRefused(
                "certificates for istiod are not provided in this cluster",
                where=str(config.name),
                reason="istiod_not_provided",
                remedy="set provide_certificate = true in [clusters.istio] if the hub is to provide them",
            )
        return
    if not policy.allows(account):
        raise _not_allowed(caller, config)
    if policy.require_pod and not caller.pod:
        raise PolicyRefused(
            f"the token of {account} is bound to no pod",
            where=str(config.name),
            reason="pod_required",
            remedy="use projected tokens, or set require_pod = false in its [clusters.policy]",
        )


def check_reserved(
    caller: Caller, config: ClusterConfig, reserved: tuple[str, ...] = DEFAULT_RESERVED
) -> None:
    """Raise PolicyRefused (``identity_reserved``) for one of ``reserved`` that this cluster's policy does not name."""
    if config.policy.is_reserved(caller.account, reserved):
        by = f", asked for by {caller.described}" if caller.impersonator is not None else ""
        raise PolicyRefused(
            f"{caller.account} is a reserved identity, and not for this cluster{by}",
            where=str(config.name),
            reason="identity_reserved",
            remedy=f"if this cluster is to have it, add {caller.account} to reserved in its [clusters.policy]",
        )


def is_denied(account: ServiceAccountRef, config: ClusterConfig) -> bool:
    """True where a pattern of ``deny`` matches."""
    return any(fnmatchcase(str(account), pattern) for pattern in config.policy.deny)


def _not_allowed(caller: Caller, config: ClusterConfig) -> PolicyRefused:
    by = f", asked for by {caller.described}" if caller.impersonator is not None else ""
    change = "narrow policy.deny" if is_denied(caller.account, config) else "extend policy.allow"
    return PolicyRefused(
        f"the cluster's policy does not allow {caller.account}{by}",
        where=str(caller.cluster),
        reason="account_not_allowed",
        remedy=f"{change} of this cluster if it is wanted",
    )


async def impersonate(
    caller: Caller, identity: str, *, config: ClusterConfig, trust_domain: TrustDomain, pods: NodePods
) -> Caller:
    """The caller for ``identity``, asked for by an attested node proxy; ``config`` and ``pods`` are its cluster's.

    Raises AttestationRefused or PolicyRefused where it may not have it, and ClusterError, Overloaded or NotReady
    where the cluster's API server cannot be asked now.
    """
    target = _checked(caller, identity, config, trust_domain)
    check_policy(target, config)
    node = await _node_of(target, pods)
    target = msgspec.structs.replace(target, node=str(node))
    if not await pods.runs(node, caller.account, uid=caller.pod_uid):
        raise _refused(target, identity, "its own pod has ended or is not there", "impersonator_gone")
    if not await pods.runs(node, target.account):
        raise _refused(target, identity, "no running pod of it is on that node", "impersonated_off_node")
    return target


def _checked(caller: Caller, identity: str, config: ClusterConfig, trust_domain: TrustDomain) -> Caller:
    """The caller as the one for that identity, where nothing speaks against it that is known without asking."""
    if caller.account not in config.policy.trusted_node_accounts:
        raise PolicyRefused(
            f"{caller.described} asked for {identity[:120]!r} and is not a trusted node account",
            where=str(caller.cluster),
            reason="impersonator_not_trusted",
            remedy=f"if it is this cluster's ztunnel, add {caller.account} to policy.trusted_node_accounts",
        )
    if is_denied(caller.account, config):
        raise PolicyRefused(
            f"{caller.described} asked for {identity[:120]!r} and is denied by policy",
            where=str(caller.cluster),
            reason="account_not_allowed",
            remedy=f"remove {caller.account} from policy.trusted_node_accounts, or narrow policy.deny",
        )
    if not caller.pod_uid:
        raise _refused(caller, identity, "its token is bound to no pod", "impersonator_without_pod")
    try:
        wanted = SpiffeId.parse(identity)
    except InvalidValue as error:
        raise _refused(caller, identity, error.what, "impersonated_malformed") from None
    if wanted.trust_domain != trust_domain:
        raise _refused(
            caller,
            identity,
            f"this hub's trust domain is {trust_domain}",
            "impersonated_trust_domain",
            remedy=f"set meshConfig.trustDomain of that mesh to {trust_domain}",
        )
    if config.is_own(wanted.service_account):
        raise _refused(caller, identity, "it is an account of the hub itself", "impersonated_hub_account")
    return msgspec.structs.replace(caller, account=wanted.service_account, impersonator=caller.account)


async def _node_of(target: Caller, pods: NodePods) -> NodeName:
    """The node of the caller's pod: from its token, or looked up where the token does not say."""
    if target.node:
        try:
            return NodeName(target.node)
        except InvalidValue as error:
            why = error.what
    else:
        namespace = (target.impersonator or target.account).namespace
        node = await pods.node_of(namespace, target.pod, target.pod_uid)
        if node is not None:
            return node
        why = "its own pod is on no node, has ended or is not there"
    raise _refused(target, str(target.account), why, "impersonator_node_unknown")


def _refused(caller: Caller, wanted: str, why: str, reason: str, *, remedy: str = "") -> AttestationRefused:
    return AttestationRefused(
        f"{caller.described} asked for {wanted[:120]!r}: {why}",
        where=str(caller.cluster),
        reason=reason,
        remedy=remedy,
    )
