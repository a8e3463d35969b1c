"""Callers with Kubernetes tokens: TokenReview says who, SubjectAccessReview what they may do, in the hub's own cluster.

Sources: authentication.k8s.io/v1 and authorization.k8s.io/v1. A token has to be of an audience of the hub's own, so
that it is good at no API server; one that claims another is shown to no one. The rights are non-resource URLs, granted
by ordinary ClusterRoles:

- ``get`` of ``/federation-hub/status`` reads;
- ``post`` of ``/federation-hub/operations`` operates, and reads as well.

Verdicts are remembered for seconds, so a token that was revoked or a binding that was removed counts that long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from federation.core.clock import Clock
from federation.core.errors import ClusterError, Unavailable
from federation.kubernetes.session import SMALL_ANSWER_BYTES
from federation.status.callers import MOST_NAME, RememberedCallers, StatusCaller, has_audience
from federation.status.routes import Right

REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
TIMEOUT: Final = 5.0  # seconds of each of the three questions
ACCEPTED: Final = 10.0  # seconds; what kube-apiserver itself remembers a good token for
REFUSED: Final = 5.0
READ: Final = ("get", "/federation-hub/status")
OPERATE: Final = ("post", "/federation-hub/operations")


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User | None = None
    audiences: list[str] | None = None


class _TokenAnswer(msgspec.Struct):
    kind: str
    status: _TokenStatus


class _AccessStatus(msgspec.Struct):
    allowed: bool = False
    denied: bool = False


class _AccessAnswer(msgspec.Struct):
    kind: str
    status: _AccessStatus


class Session(Protocol):
    """Sends requests to one API server; as :meth:`~federation.kubernetes.session.ClusterSession.request` does."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout: float | None = None,
        most_bytes: int | None = None,
    ) -> bytes:
        """The body of the answer. Raises ClusterError."""
        ...


class KubernetesCallers:
    """Verifies tokens for ``audience`` at the API server of ``session``; none while that is None."""

    def __init__(self, session: Session, clock: Clock, *, audience: Callable[[], str | None]) -> None:
        self._session = session
        self._audience = audience
        self._remembered = RememberedCallers(self._ask, clock, accepted=ACCEPTED, refused=REFUSED)

    def takes(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token claims to be for the hub; any other one is none of its API server's business."""
        audience = self._audience()
        return audience is not None and has_audience(claims, audience)

    def remembers(self, token: str) -> bool:
        """Whether that token was good a moment ago."""
        return self._remembered.remembers(token)

    async def caller(self, token: str) -> StatusCaller | None:
        """Who that is, and what they may do. Raises Unavailable."""
        return await self._remembered.caller(token)

    async def _ask(self, token: str) -> StatusCaller | None:
        audience = self._audience()
        if audience is None:
            return None
        question = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        status = (await self._post(REVIEWS, question, _TokenAnswer, "TokenReview")).status
        user = status.user
        if not status.authenticated or user is None or audience not in (status.audiences or []):
            return None
        if not user.username or len(user.username) > MOST_NAME or not user.username.isprintable():
            return None
        right = None
        if await self._may(user, *OPERATE):
            right = Right.OPERATE
        elif await self._may(user, *READ):
            right = Right.READ
        return StatusCaller(name=user.username, kind="kubernetes", right=right)

    async def _may(self, user: _User, verb: str, path: str) -> bool:
        question = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.username,
                "uid": user.uid,
                "groups": user.groups or [],
                "extra": user.extra or {},
                "nonResourceAttributes": {"verb": verb, "path": path},
            },
        }
        status = (await self._post(ACCESS, question, _AccessAnswer, "SubjectAccessReview")).status
        return status.allowed and not status.denied

    async def _post(self, path: str, question: object, answer: type[Any], kind: str) -> Any:
        try:
            body = await self._session.request(
                "POST",
                path,
                body=msgspec.json.encode(question),
                timeout=TIMEOUT,
                most_bytes=SMALL_ANSWER_BYTES,
            )
            found = msgspec.json.decode(body, type=answer)
        except ClusterError as error:
            raise _unavailable(f"{kind}: {error.diagnostics()}") from error
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _unavailable(f"{kind}: its answer cannot be read") from error
        if found.kind != kind:
            raise _unavailable(f"{kind}: its answer is another kind of object")
        return found


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"the hub's own cluster does not say who a caller is: {why}",
        where="status.kubernetes",
        remedy="give the controller's account the ClusterRole system:auth-delegator, and look at its API server",
        reason="caller_review",
    )
