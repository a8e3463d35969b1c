"""Which pods of a service account are on a node: what the hub has to know of pods for ambient, asked when needed.

Nothing is watched for it. One list of metadata answers one question, selected by the fields that kube-apiserver
supports for pods (``ToSelectableFields`` in ``pkg/registry/core/pod/strategy.go``): no pod's spec reaches the
signer, and a cluster without ambient is never asked. The list is a consistent read, so that a pod counts as soon as
it is bound to its node. Pods that were found are remembered for :data:`MEMORY` seconds; that none was found is not,
since the next pod of that account may just be starting.

A pod that is being deleted counts for as long as its own token would: until sixty seconds after its
deletionTimestamp (``bound_objects``).
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.errors import ClusterError, ClusterGarbage, ClusterTimeout, InvalidValue, Overloaded
from federation.core.identity import NodeName, ServiceAccountRef, is_subdomain
from federation.kubernetes.objects import METADATA_ONLY_LIST, decode_metadata, decode_page
from federation.kubernetes.reflector import MAX_PAGE_BYTES
from federation.kubernetes.session import ClusterSession
from federation.signer.attestation.token_review import InFlight
from federation.signer.attestation.tokens import LEEWAY

MEMORY: Final = 10.0  # seconds; while a token that a TokenReview accepted
MOST_REMEMBERED: Final = 8192
CONCURRENT: Final = 4  # lists at once: half of a session's requests, so that token reviews get through
MOST_WAITING: Final = 512
PROBLEM_LASTS: Final = 300.0  # seconds: twice the longest time between two attempts of a ztunnel
PAGE: Final = 64  # pods of one account on one node that are looked at

_LIVE: Final = "status.phase!=Failed,status.phase!=Succeeded"
_KIND: Final = "PartialObjectMetadataList"

_Key = tuple[NodeName, ServiceAccountRef]


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Meta(msgspec.Struct):
    uid: str


class _Pod(msgspec.Struct):
    """All that is decoded of a caller's own pod."""

    metadata: _Meta
    spec: _Spec


class _PodList(msgspec.Struct):
    items: list[_Pod] | None = None
    kind: str = ""


_decode_pods: Final = msgspec.json.Decoder(_PodList).decode


class NodePods:
    """Asks one cluster's API server about pods and their nodes; ``limit`` bounds an answer in seconds."""

    def __init__(self, session: ClusterSession, *, limit: float, clock: Clock) -> None:
        self._session = session
        self._where = str(session.name)
        self._limit = limit
        self._clock = clock
        self._queue = asyncio.Semaphore(CONCURRENT)
        self._lists: InFlight[frozenset[str]] = InFlight(self._where, "a question about pods")
        self._nodes: InFlight[NodeName | None] = InFlight(self._where, "a question about a pod")
        self._known: dict[_Key, tuple[float, frozenset[str]]] = {}
        self._failed: tuple[float, ClusterError] | None = None

    @property
    def problem(self) -> ClusterError | None:
        """Why the last question was not answered; None where it was, or where that is long ago."""
        if self._failed is None or self._clock.monotonic() - self._failed[0] > PROBLEM_LASTS:
            return None
        return self._failed[1]

    async def runs(self, node: NodeName, account: ServiceAccountRef, *, uid: str = "") -> bool:
        """True where a pod of ``account`` is on ``node`` and has not ended; with ``uid``, that very pod.

        Raises ClusterError where the API server does not say, Overloaded where too many questions wait, and
        NotReady where :meth:`close` ended the question.
        """
        key = node, account
        until, known = self._known.get(key, (0.0, frozenset()))
        if self._clock.monotonic() < until and (not uid or uid in known):
            return True
        self._bound(key in self._lists)
        found = await self._lists.ask(key, lambda: self._list(node, account))
        return uid in found if uid else bool(found)

    async def node_of(self, namespace: str, pod: str, uid: str) -> NodeName | None:
        """The node of the pod with this name and UID; None where it has ended, is not there or has no node.

        For tokens without a node claim (before Kubernetes 1.30). Metadata does not hold the node, so this reads
        the caller's own pod, and decodes nothing of it but UID and node. Raises as :meth:`runs`.
        """
        if not is_subdomain(pod):
            return None  # no pod has such a name
        key = namespace, pod, uid
        self._bound(key in self._nodes)
        return await self._nodes.ask(key, lambda: self._look_up(namespace, pod, uid))

    async def close(self) -> None:
        """End what is under way."""
        await self._lists.close()
        await self._nodes.close()

    def _bound(self, joins: bool) -> None:
        if not joins and len(self._lists) + len(self._nodes) >= MOST_WAITING:
            raise Overloaded(
                f"{MOST_WAITING} questions about pods are waiting for its API server",
                where=self._where,
                reason="node_questions",
                remedy="check the latency of its API server",
            )

    async def _list(self, node: NodeName, account: ServiceAccountRef) -> frozenset[str]:
        """The UIDs of the pods of ``account`` on ``node`` that have not ended."""
        fields = f"spec.nodeName={node},spec.serviceAccountName={account.name},{_LIVE}"
        data = await self._get(account.namespace, fields, METADATA_ONLY_LIST)
        try:
            page = decode_page(data)
            pods = [decode_metadata(item).value for item in (page.items or ())[:PAGE]]
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise self._garbage() from None
        if page.kind != _KIND or any(pod.namespace != account.namespace for pod in pods):
            raise self._garbage()
        self._failed = None
        ended = self._clock.now().timestamp() - LEEWAY
        found = frozenset(pod.uid for pod in pods if pod.deletion is None or pod.deletion >= ended)
        self._remember((node, account), found)
        return found

    async def _look_up(self, namespace: str, pod: str, uid: str) -> NodeName | None:
        data = await self._get(namespace, f"metadata.name={pod},{_LIVE}", "application/json")
        try:
            answer = _decode_pods(data)
            names = [item.spec.node_name for item in answer.items or () if item.metadata.uid == uid]
            node = NodeName(names[0]) if names and names[0] else None
        except (msgspec.MsgspecError, UnicodeError, RecursionError, InvalidValue):
            raise self._garbage() from None
        if answer.kind != "PodList":
            raise self._garbage()
        self._failed = None
        return node

    async def _get(self, namespace: str, fields: str, accept: str) -> bytes:
        """The body of a list of pods. Every value in ``fields`` is of a syntax without commas and equals signs."""
        path, query = f"/api/v1/namespaces/{namespace}/pods", {"fieldSelector": fields, "limit": str(PAGE)}
        try:
            async with asyncio.timeout(self._limit), self._queue:
                return await self._session.get(path, params=query, accept=accept, most_bytes=MAX_PAGE_BYTES)
        except ClusterError as error:
            raise self._noted(error) from None
        except TimeoutError:
            late = ClusterTimeout(f"GET {path}: no answer in {self._limit:g} s", where=self._where)
            raise self._noted(late) from None

    def _garbage(self) -> ClusterError:
        return self._noted(ClusterGarbage("the answer is not a list of pods", where=self._where))

    def _noted(self, error: ClusterError) -> ClusterError:
        self._failed = self._clock.monotonic(), error.without_frames()
        return error

    def _remember(self, key: _Key, found: frozenset[str]) -> None:
        now = self._clock.monotonic()
        if not found:
            self._known.pop(key, None)
            return
        if len(self._known) >= MOST_REMEMBERED:
            self._known = {key: entry for key, entry in self._known.items() if entry[0] > now}
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
        self._known[key] = (now + MEMORY, found)
