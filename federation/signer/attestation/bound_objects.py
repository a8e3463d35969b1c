"""Are the pod and the service account that a token is bound to still there? Looked up in watched caches.

The rule is kube-apiserver's own (``pkg/serviceaccount/claims.go``): an object counts until sixty seconds
after its deletionTimestamp, and one of the same name with another UID is another object. A cache can be
behind: what is not in it may be new, so only a fresh cache may confirm an object and none may deny one, except for an
object whose deletion it has seen. What the caches cannot determine, :meth:`BoundObjects.ask` learns from the API
server: a watch that breaks, or that was silent for so long that everything is listed anew, is no reason to refuse a
caller.

Pods that have ended (Succeeded, Failed) are not watched: they ask for nothing, and a token of one that asks all the
same is for the API server to judge.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from enum import Enum
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts
from federation.core.errors import ClusterError, ClusterGarbage, ClusterTimeout, Overloaded
from federation.core.identity import is_subdomain
from federation.kubernetes.objects import (
    METADATA_ONLY,
    METADATA_ONLY_LIST,
    ObjectKey,
    ObjectMeta,
    PodMeta,
    decode_metadata,
    decode_page,
    decode_pod,
    pack_uid,
)
from federation.kubernetes.packed import PackedObjects
from federation.kubernetes.reflector import MAX_PAGE_BYTES, Reflector
from federation.kubernetes.session import ClusterSession
from federation.signer.attestation.token_review import InFlight
from federation.signer.attestation.tokens import LEEWAY, BoundObject, KubernetesClaim, Token

PODS_PATH: Final = "/api/v1/pods"
SERVICE_ACCOUNTS_PATH: Final = "/api/v1/serviceaccounts"
NOT_ENDED: Final = "status.phase!=Succeeded,status.phase!=Failed"


ASK_TIMEOUT: Final = 4.0
"""Seconds for one question: there are two, and the listener's own deadline leaves ten for all of a call."""

CONCURRENT: Final = 4  # questions at once: half of a session's requests
MOST_WAITING: Final = 512


class Existence(Enum):
    """What is known about everything that one token is bound to."""

    PRESENT = "present"
    DELETED = "deleted"
    NOT_SEEN = "not seen"  # unknown, or of another UID: it may be newer than the watch
    UNKNOWABLE = "unknowable"  # bound to something that the hub does not watch


class BoundObjects:
    """The pods and service accounts of one cluster, metadata only."""

    def __init__(
        self, session: ClusterSession, *, timeouts: ClusterTimeouts, clock: Clock, jitter: random.Random
    ) -> None:
        self._session = session
        self._limit = min(ASK_TIMEOUT, timeouts.request)
        self._queue = asyncio.Semaphore(CONCURRENT)
        self._questions: InFlight[ObjectMeta | None] = InFlight(
            str(session.name), "a question about an object"
        )
        self._pods = Reflector(
            session,
            PODS_PATH,
            decode=decode_pod,
            accept=METADATA_ONLY,
            field_selector=NOT_ENDED,
            timeouts=timeouts,
            clock=clock,
            jitter=jitter,
            keep=lambda: PackedObjects(PodMeta),
        )
        self._accounts = Reflector(
            session,
            SERVICE_ACCOUNTS_PATH,
            decode=decode_metadata,
            accept=METADATA_ONLY,
            timeouts=timeouts,
            clock=clock,
            jitter=jitter,
            keep=lambda: PackedObjects(ObjectMeta),
        )

    @property
    def pods(self) -> Collection[PodMeta] | None:
        """The pods that are there and have not ended; None while that is not known.

        To go through them takes those of that moment, over any number of awaits.
        """
        if not (self._pods.synced and self._pods.fresh):
            return None
        return self._pods.items.values()

    @property
    def fresh(self) -> bool:
        """True while both watches are up and something came from each within the time that it may be silent."""
        return self._pods.fresh and self._accounts.fresh

    @property
    def recent(self) -> bool:
        """True while neither copy is older than one of a silent watch, whether its watch is up or not."""
        return self._pods.recent and self._accounts.recent

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
        if _is_bound_to_unwatched(bound):
            return Existence.UNKNOWABLE
        key = ObjectKey(bound.namespace, bound.serviceaccount.name)
        account = _state(self._accounts.items.get(key), bound.serviceaccount, now)
        if bound.pod is None or account is not Existence.PRESENT:
            return account
        seen = self._pods.items.get(ObjectKey(bound.namespace, bound.pod.name))
        return _state(seen, bound.pod, now)

    async def ask(self, token: Token, *, now: float) -> Existence:
        """As :meth:`look_up`, by consistent reads of the API server: what is not seen then is not there.

        Raises ClusterError where it does not say, Overloaded where too many questions wait, and NotReady where
        :meth:`close` ended the question.
        """
        bound = token.claims.kubernetes
        if _is_bound_to_unwatched(bound):
            return Existence.UNKNOWABLE
        found = await self._question("serviceaccounts", bound.namespace, bound.serviceaccount.name, "")
        account = _state(found, bound.serviceaccount, now)
        if bound.pod is None or account is not Existence.PRESENT:
            return account
        found = await self._question("pods", bound.namespace, bound.pod.name, f",{NOT_ENDED}")
        return _state(found, bound.pod, now)

    async def close(self) -> None:
        """End questions under way."""
        await self._questions.close()

    async def _question(self, kind: str, namespace: str, name: str, more: str) -> ObjectMeta | None:
        if not is_subdomain(name):
            return None  # nothing has such a name, and a selector could not hold it
        key = kind, namespace, name
        if key not in self._questions and len(self._questions) >= MOST_WAITING:
            raise Overloaded(
                f"{MOST_WAITING} questions about pods and service accounts are waiting for its API server",
                where=str(self._session.name),
                reason="object_questions",
                remedy="check the latency of its API server",
            )
        path = f"/api/v1/namespaces/{namespace}/{kind}"
        return await self._questions.ask(key, lambda: self._get(path, f"metadata.name={name}{more}"))

    async def _get(self, path: str, fields: str) -> ObjectMeta | None:
        """The object that these fields select, None where there is none."""
        where = str(self._session.name)
        query = {"fieldSelector": fields, "limit": "1"}
        try:
            async with asyncio.timeout(self._limit), self._queue:
                data = await self._session.get(
                    path, params=query, accept=METADATA_ONLY_LIST, most_bytes=MAX_PAGE_BYTES
                )
        except TimeoutError:
            raise ClusterTimeout(f"GET {path}: no answer in {self._limit:g} s", where=where) from None
        try:
            page = decode_page(data)
            if page.kind != "PartialObjectMetadataList":
                raise ClusterGarbage("the answer is not a list of metadata", where=where)
            return decode_metadata(page.items[0]).value if page.items else None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ClusterGarbage("the answer is not a list of metadata", where=where) from None


def _is_bound_to_unwatched(bound: KubernetesClaim) -> bool:
    """A pod's token names the pod's node as well, which nothing depends on; a Secret always has to be there."""
    return bound.secret is not None or (bound.pod is None and bound.node is not None)


def _state(seen: ObjectMeta | None, wanted: BoundObject, now: float) -> Existence:
    if seen is None or seen.packed_uid != pack_uid(wanted.uid):
        return Existence.NOT_SEEN
    if seen.deletion is not None and seen.deletion + LEEWAY < now:
        return Existence.DELETED
    return Existence.PRESENT
