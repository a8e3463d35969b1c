"""What a caller shows and what it has proved."""

from __future__ import annotations

from typing import Final

import msgspec

from federation.core.identity import ClusterName, ServiceAccountRef

AUTO: Final = "auto"
KEYS: Final = "token-keys"
REVIEW: Final = "token-review"


class TokenEvidence(msgspec.Struct, frozen=True):
    """A bearer token, unchecked, and the cluster its bearer says it is from (empty: says nothing)."""

    token: str
    cluster_id: str = ""

    def __repr__(self) -> str:
        return f"TokenEvidence(cluster_id={self.cluster_id!r})"


class Caller(msgspec.Struct, frozen=True):
    """A service account that its own cluster vouches for, and how that was found out.

    With an ``impersonator`` the certificate is for ``account`` and the token was the impersonator's: ``pod`` and
    ``node`` are those of the caller, not of a pod of ``account``.
    """

    cluster: ClusterName
    account: ServiceAccountRef
    pod: str  # the name of the pod that the token is bound to; empty where it is bound to none
    proved_by: str  # KEYS or REVIEW
    pod_uid: str = ""
    node: str = ""  # the node of that pod; empty where the token does not say
    impersonator: ServiceAccountRef | None = None

    @property
    def described(self) -> str:
        """Who sent the token, for logs: account, pod and node."""
        bound = f" in pod {self.pod}" if self.pod else ""
        placed = f" on node {self.node}" if self.node else ""
        return f"{self.impersonator or self.account}{bound}{placed}"
