"""Are the pod and the service account that a token is bound to still there? Looked up in watched caches.

The rule is kube-apiserver's own (``pkg/serviceaccount/claims.go``): an object counts until sixty seconds
after its deletionTimestamp, and one of the same name with another UID is another object. A cache can be
behind: what it does not hold may be new, so only a fresh cache may vouch for an object and none may deny
one, except for an object whose deletion it has seen.

Pods that have ended (Succeeded, Failed) are not watched: they ask for nothing, and a token of one that asks all the
same is for the API server to judge.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from enum import Enum
from typing import Final

from federation.clusters.objects import (
    METADATA_ONLY,
    ObjectKey,
    ObjectMeta,
    PodMeta,
    decode_metadata,
    decode_pod,
)
from federation.clusters.reflector import Reflector
from federation.clusters.session import ClusterSession
from federation.core.clock import Clock
from federation.core.config.access import ClusterTimeouts
from federation.core.errors import ClusterError
from federation.signer.attestation.tokens import LEEWAY, BoundObject, Token

PODS_PATH: Final = "/api/v1/pods"
SERVICE_ACCOUNTS_PATH: Final = "/api/v1/serviceaccounts"
NOT_ENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"


class Existence(Enum):
    """What the caches know about everything that one token is bound to."""

    PRESENT = "present"
    DELETED = "deleted"
    NOT_SEEN = "not seen"  # unknown, or of another UID: it may be newer than the watch
    UNKNOWABLE = "unknowable"  # bound to something that the hub does not watch


class BoundObjects:
    """The pods and service accounts of one cluster, metadata only."""

    def __init__(
        self, session: ClusterSession, *, timeouts: ClusterTimeouts, clock: Clock, jitter: random.Random
    ) -> None:
        self._pods = Reflector(
            session,
            PODS_PATH,
            decode=decode_pod,
            accept=METADATA_ONLY,
            field_selector=NOT_ENDED,
            timeouts=timeouts,
            clock=clock,
            jitter=jitter,
        )
        self._accounts = Reflector(
            session,
            SERVICE_ACCOUNTS_PATH,
            decode=decode_metadata,
            accept=METADATA_ONLY,
            timeouts=timeouts,
            clock=clock,
            jitter=jitter,
        )

    @property
    def pods(self) -> tuple[PodMeta, ...] | None:
        """The pods that are there and have not ended; None while that is not known."""
        if not (self._pods.synced and self._pods.fresh):
            return None
        return tuple(self._pods.items.values())

    @property
    def fresh(self) -> bool:
        """True while both watches are up and were heard from lately."""
        return self._pods.fresh and self._accounts.fresh

    @property
    def problem(self) -> ClusterError | None:
        """Why a watch is down, or None."""
        return self._pods.problem or self._accounts.problem

    async def run(self) -> None:
        """Keep both caches up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            group.create_task(self._accounts.run())

    def look_up(self, token: Token, *, now: float) -> Existence:
        """What is known now (seconds since the epoch) about what this token is bound to."""
        bound = token.claims.kubernetes
        if bound.pod is None and (bound.secret is not None or bound.node is not None):
            return Existence.UNKNOWABLE
        account = _state(self._accounts.items, bound.namespace, bound.serviceaccount, now)
        if bound.pod is None or account is not Existence.PRESENT:
            return account
        return _state(self._pods.items, bound.namespace, bound.pod, now)


def _state(
    items: Mapping[ObjectKey, ObjectMeta], namespace: str, wanted: BoundObject, now: float
) -> Existence:
    held = items.get(ObjectKey(namespace, wanted.name))
    if held is None or held.uid != wanted.uid:
        return Existence.NOT_SEEN
    if held.deletion is not None and held.deletion + LEEWAY < now:
        return Existence.DELETED
    return Existence.PRESENT
