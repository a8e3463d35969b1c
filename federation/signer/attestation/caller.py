"""What a caller shows and what it has proved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from federation.core.identity import ClusterName, ServiceAccountRef

KEYS: Final = "token-keys"
REVIEW: Final = "token-review"


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """A bearer token, unchecked, and the cluster its bearer says it is from (empty: says nothing)."""

    token: str = field(repr=False)
    cluster_id: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """A service account that its own cluster vouches for, and how that was found out."""

    cluster: ClusterName
    account: ServiceAccountRef
    pod: str  # the pod's name; empty where the token is bound to none
    proved_by: str  # KEYS or REVIEW
