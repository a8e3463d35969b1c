"""What a caller shows and what it has proved."""

from __future__ import annotations

from typing import Final

import msgspec

from federation.core.identity import ClusterName, ServiceAccountRef

KEYS: Final = "token-keys"
REVIEW: Final = "token-review"


class TokenEvidence(msgspec.Struct, frozen=True):
    """A bearer token, unchecked, and the cluster its bearer says it is from (empty: says nothing)."""

    token: str
    cluster_id: str = ""

    def __repr__(self) -> str:
        return f"TokenEvidence(cluster_id={self.cluster_id!r})"


class Caller(msgspec.Struct, frozen=True):
    """A service account that its own cluster vouches for, and how that was found out."""

    cluster: ClusterName
    account: ServiceAccountRef
    pod: str  # the pod's name; empty where the token is bound to none
    proved_by: str  # KEYS or REVIEW
