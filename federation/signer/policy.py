"""What callers of one cluster may have from the shared authority.

Where a node proxy asks for a pod's identity, ``caller`` is the one that the certificate is for
(``impersonation``).

The service accounts that the hub itself asks with need no pod, since nothing but their tokens is ever used, and no
pattern of ``allow``, since the operator has named them already; ``deny`` holds for them as for every account.
The probe's gets its own identity; istiod's (``[clusters.istio] account``) gets a certificate for istiod's DNS names
and for nothing else, never its own identity, and no other account gets a DNS name.

Reserved identities (``reserved`` at the top of the configuration) are for those clusters alone whose policy names them,
whoever asks: a workload, a node proxy for it, or one of the hub's own accounts where an operator has reserved that.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from federation.core.config.model import DEFAULT_RESERVED, ClusterConfig
from federation.core.errors import PolicyRefused
from federation.core.identity import ServiceAccountRef
from federation.signer.attestation.caller import Caller


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
