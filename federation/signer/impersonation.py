"""When a node proxy may have a certificate for a pod of its node: ambient's ztunnel in shared mode.

ztunnel asks for every identity with its own token and names the identity in ``ImpersonatedIdentity``, its own
included (``src/identity/caclient.rs``). istiod's rules (``security/pkg/server/ca/node_auth.go``) apply here, and
stricter ones:

- the caller's account is one of the cluster's ``trusted_node_accounts``, of which there are none by default;
- its token is bound to a pod, and that very pod is on a node and has neither failed nor succeeded;
- the identity is of Istio's form, of the hub's trust domain, and none of the hub's own accounts;
- the cluster's policy allows that identity (whether it is reserved is looked at for every certificate);
- a pod of that service account, neither failed nor succeeded, is on the same node of the same cluster.

Every rule has a refusal of its own. The caller learns none of them; the log has all, with both identities.
"""

from __future__ import annotations

import msgspec

from federation.core.config.model import ClusterConfig
from federation.core.errors import AttestationRefused, InvalidValue, PolicyRefused
from federation.core.identity import NodeName, SpiffeId, TrustDomain
from federation.signer.attestation.caller import Caller
from federation.signer.attestation.node_pods import NodePods
from federation.signer.policy import check_policy, is_denied


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
