"""What the cluster's API server says about a token: TokenReview (``authentication.k8s.io/v1``).

The answer must agree with the token in everything the hub uses, and the audiences it returns must hold the one that
was asked for: an API server that does not know audiences returns none, and has then checked nothing about them. The
node of the caller's pod is what the answer says, and not used where the answer does not say it.

Callers that show one token at one time share one review: requests that are equal wait for the same answer. A caller
that goes away takes no other caller's answer with it, so each question runs in a task of its own. Verdicts are
remembered for seconds, never past the token's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from federation.core.clock import Clock
from federation.core.errors import (
    AttestationRefused,
    ClusterError,
    ClusterGarbage,
    ClusterInvalid,
    InvalidValue,
    NotReady,
)
from federation.core.identity import ServiceAccountRef
from federation.kubernetes.answers import harmless
from federation.kubernetes.protobuf import MEDIA_TYPE, encode_token_review
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession
from federation.signer.attestation.tokens import Token

T = TypeVar("T")


class InFlight(Generic[T]):
    """Questions about one cluster; ``what`` names them in the error of those that :meth:`close` ended."""

    def __init__(self, where: str, what: str) -> None:
        self._where = where
        self._what = what
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tasks

    async def ask(self, key: Hashable, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What ``question`` returns or raises; not asked again where one with this key is under way.

        Raises NotReady where :meth:`close` ended it.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(question())
            task.add_done_callback(lambda done: self._finished(key, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or (caller is not None and caller.cancelling()):
                raise
            raise NotReady(
                f"the connection to its API server was closed in the middle of {self._what}",
                where=self._where,
                reason="review_ended",
            ) from None

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, key: Hashable, task: asyncio.Task[T]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that a question whose callers have all gone leaves no warning


REVIEW_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
SERVICE_ACCOUNTS_GROUP: Final = "system:serviceaccounts"
POD_NAME: Final = "authentication.kubernetes.io/pod-name"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"
NODE_NAME: Final = "authentication.kubernetes.io/node-name"  # Kubernetes 1.30 and later (KEP-4193)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewMemory:
    """For how many seconds verdicts are remembered, and how many; 0 seconds remembers none.

    Ten seconds is what kube-apiserver itself remembers a good token for (``--authentication-token-webhook``
    aside); a refusal only long enough that a caller in a tight loop does not become load on its API server.
    """

    accepted: float = 10.0
    refused: float = 2.0
    entries: int = 4096


class _Spec(msgspec.Struct):
    token: str
    audiences: list[str]


class _Review(msgspec.Struct, rename="camel"):
    """The question in JSON, for API servers that do not read protobuf."""

    spec: _Spec
    api_version: str = "authentication.k8s.io/v1"
    kind: str = "TokenReview"


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _Status(msgspec.Struct):
    authenticated: bool = False
    error: str = ""
    user: _User | None = None
    audiences: list[str] | None = None


class _Answer(msgspec.Struct):
    kind: str
    status: _Status


_Verdict: TypeAlias = AttestationRefused | str
"""A refusal, or the node of the token's pod."""


class TokenReviewer:
    """Asks one cluster's API server about tokens meant for ``audience``."""

    def __init__(
        self, session: ClusterSession, *, audience: str, clock: Clock, memory: ReviewMemory | None = None
    ) -> None:
        self._session = session
        self._audience = audience
        self._clock = clock
        self._memory = memory or ReviewMemory()
        self._under_way: InFlight[str] = InFlight(str(session.name), "a token review")
        self._verdicts: dict[bytes, tuple[float, _Verdict]] = {}
        self._in_json = False
        self.problem: ClusterError | None = None
        """Why the last review could not be had; None where it could."""

    async def review(self, token: Token) -> str:
        """The node of the token's pod, where the API server confirms the token and what the hub reads from it.

        Empty where the API server names no node.

        Raises AttestationRefused where it does not, ClusterError where it cannot be asked, and NotReady where
        :meth:`close` ended the review.
        """
        known = self._verdicts.get(token.digest)
        if known is not None and self._clock.monotonic() < known[0]:
            if isinstance(known[1], AttestationRefused):
                raise AttestationRefused(known[1].what, reason=known[1].reason)
            return known[1]
        return await self._under_way.ask(token.digest, lambda: self._ask(token))

    async def close(self) -> None:
        """End what is under way."""
        await self._under_way.close()

    async def _ask(self, token: Token) -> str:
        try:
            status = await self._send(token)
        except ClusterError as error:
            self.problem = error.without_frames()
            raise
        self.problem = None
        try:
            node = _judge(status, token, self._audience, secret=self._session.token_sent)
        except AttestationRefused as refusal:
            self._remember(token, self._memory.refused, refusal.without_frames())
            raise
        self._remember(token, self._memory.accepted, node)
        return node

    async def _send(self, token: Token) -> _Status:
        data = await (self._ask_in_json(token) if self._in_json else self._ask_in_protobuf(token))
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            answer = None
        if answer is None or answer.kind != "TokenReview":
            raise ClusterGarbage("the answer is not a TokenReview", where=str(self._session.name))
        return answer.status

    async def _ask_in_protobuf(self, token: Token) -> bytes:
        """The answer; in JSON from then on where only that is understood, as behind a proxy that looks into bodies."""
        body = encode_token_review(token.text, self._audience)
        try:
            return await self._post(body, MEDIA_TYPE)
        except ClusterInvalid:
            answer = await self._ask_in_json(token)
            self._in_json = True
            return answer

    async def _ask_in_json(self, token: Token) -> bytes:
        review = _Review(_Spec(token.text, [self._audience]))
        return await self._post(msgspec.json.encode(review), "application/json")

    async def _post(self, body: bytes, media_type: str) -> bytes:
        return await self._session.request(
            "POST", REVIEW_PATH, body=body, content_type=media_type, most_bytes=SMALL_ANSWER_BYTES
        )

    def _remember(self, token: Token, seconds: float, verdict: _Verdict) -> None:
        left = min(seconds, token.claims.exp - self._clock.now().timestamp())
        if left <= 0:
            return
        now = self._clock.monotonic()
        if len(self._verdicts) >= self._memory.entries:
            self._verdicts = {d: v for d, v in self._verdicts.items() if v[0] > now}
            if len(self._verdicts) >= self._memory.entries:
                self._verdicts.clear()
        self._verdicts[token.digest] = (now + left, verdict)


def _judge(status: _Status, token: Token, audience: str, *, secret: str) -> str:
    """Refuse unless the API server says of this token everything that the hub is about to rely on.

    Returns the node of the pod, empty where the answer has none. ``secret`` is the hub's own token, which must not come
    back in a text, as little as the caller's.
    """
    if status.error or not status.authenticated or status.user is None:
        said = harmless(status.error.replace(token.text, "[redacted]"), secret=secret)
        detail = f": {said!r}" if said else ""
        raise AttestationRefused(
            f"its API server refuses the token{detail}",
            reason="review_refused",
            remedy="restart the caller where its pod or account was made anew; where all are refused, see that the "
            "signer's kubeconfig leads to this cluster",
        )
    if audience not in (status.audiences or ()):
        raise AttestationRefused(
            f"its API server did not confirm the audience {audience}",
            reason="review_audience",
            remedy='set attestation = "token-keys" for this cluster: its authenticator knows no audiences',
        )
    user = status.user
    if SERVICE_ACCOUNTS_GROUP not in (user.groups or ()):
        raise AttestationRefused("it is not a service account's token", reason="review_not_service_account")
    try:
        account = ServiceAccountRef.from_username(user.username)
    except InvalidValue:
        raise AttestationRefused(
            "its user is not a service account", reason="review_not_service_account"
        ) from None
    bound = token.claims.kubernetes
    if account != token.account or user.uid != bound.serviceaccount.uid:
        raise AttestationRefused(
            "its API server knows it as another service account", reason="review_mismatch"
        )
    extra = user.extra or {}
    pod = ([bound.pod.name], [bound.pod.uid]) if bound.pod is not None else ([], [])
    if (extra.get(POD_NAME, []), extra.get(POD_UID, [])) != pod:
        raise AttestationRefused("its API server knows it as bound to another pod", reason="review_mismatch")
    nodes = extra.get(NODE_NAME, []) if bound.pod is not None else []
    if nodes and (bound.node is None or nodes != [bound.node.name]):
        raise AttestationRefused("its API server knows it as of another node", reason="review_mismatch")
    return nodes[0] if nodes else ""
