"""What callers of one cluster may have from the shared authority.

The probe's service account needs no pod, since nothing but its token is ever used, and no pattern of
``allow``, since the operator has named it already; ``deny`` holds for it as for everybody.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from federation.core.config.model import ClusterConfig
from federation.core.errors import PolicyRefused
from federation.signer.attestation.caller import Caller


def check_policy(caller: Caller, config: ClusterConfig) -> None:
    """Raise PolicyRefused, as ``account_not_allowed`` or ``pod_required``, where policy says no."""
    policy = config.policy
    account = caller.account
    if account == config.probe:
        if any(fnmatchcase(str(account), pattern) for pattern in policy.deny):
            raise _not_allowed(caller)
        return
    if not policy.allows(account):
        raise _not_allowed(caller)
    if policy.require_pod and not caller.pod:
        raise PolicyRefused(
            f"the token of {account} is bound to no pod",
            where=str(config.name),
            reason="pod_required",
            remedy="use projected tokens, or set require_pod = false for this cluster",
        )


def _not_allowed(caller: Caller) -> PolicyRefused:
    return PolicyRefused(
        f"the cluster's policy does not allow {caller.account}",
        where=str(caller.cluster),
        reason="account_not_allowed",
        remedy="extend policy.allow of this cluster if it is wanted",
    )
