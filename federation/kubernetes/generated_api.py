"""The typed API that kubernetes_asyncio generates from Kubernetes' OpenAPI document, over a :class:`ClusterSession`.

For commands that run once, where 0.4 s of CPU and 38 MB for its import do not matter: paths, bodies and answers are
then those of the document, and none of them is written here by hand. The roles do not import it
(docs/dependencies.md has the measurements; an import contract keeps it so).

Only the API and the models are the library's. Requests are the session's: its credentials, TLS, time limits, byte
limits and typed errors hold for each of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.exceptions import OpenApiException

from federation.core.errors import ClusterGarbage
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession

_WRONG_SHAPE: Final = (OpenApiException, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What the library raises for an answer of another shape: it does not check types before it uses them."""


@asynccontextmanager
async def generated_api(session: ClusterSession) -> AsyncIterator[ApiClient]:
    """The client that the generated APIs are made with, as in ``AuthorizationV1Api(client)``.

    Their calls raise ClusterErrors only: those of the session, and ClusterGarbage for an answer that is not of the
    promised type.
    """
    configuration = type.__call__(Configuration)  # past the class's own copy of a process-wide default
    configuration.host = ""  # the session knows the server, and gets paths
    client: Any = _Client(configuration)
    await client.rest_client.close()
    client.rest_client = _Requests(session)
    try:
        yield client
    finally:
        await client.close()


class _Client(ApiClient):
    """The library's client; what it cannot make of an answer is one typed error."""

    def deserialize(self, response: Any, response_type: Any) -> Any:
        """The model of that type. Raises ClusterGarbage.

        The library takes any text for true where a boolean belongs, and passes over what is no object, so the types
        of what it made are compared with those that were sent.
        """
        try:
            model = super().deserialize(response, response_type)
            if _same_types(self.sanitize_for_serialization(model), json.loads(response.data)):
                return model
        except _WRONG_SHAPE as error:
            raise _garbage(f"{type(error).__name__} where a {response_type} is expected") from None
        raise _garbage(f"not a {response_type}")


def _same_types(read: object, sent: object) -> bool:
    """Whether every value of ``read`` was sent with that type."""
    if isinstance(read, dict):
        return isinstance(sent, dict) and all(
            key in sent and _same_types(value, sent[key]) for key, value in read.items()
        )
    if isinstance(read, list):
        return isinstance(sent, list) and all(map(_same_types, read, sent))
    return type(read) is type(sent)


def _garbage(what: str) -> ClusterGarbage:
    return ClusterGarbage(f"the answer is not what the API promises: {what}")


@dataclass(slots=True)
class _Answer:
    """What the library reads of an answer; the session has turned every other status into an error."""

    data: bytes
    status: int = HTTPStatus.OK
    reason: str = "OK"

    def getheaders(self) -> Mapping[str, str]:
        return {}

    def getheader(self, name: str, default: str | None = None) -> str | None:  # noqa: ARG002  the library's interface
        return default


@dataclass(frozen=True, slots=True)
class _Requests:
    """In the place of the library's ``RESTClientObject``."""

    session: ClusterSession

    async def POST(  # noqa: N802  the library's name
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        body: object,
        query_params: Iterable[tuple[str, str]] | None = None,
        **_others: object,
    ) -> _Answer:
        answer = await self.session.request(
            "POST",
            url,
            params=dict(query_params or ()),
            body=msgspec.json.encode(body),
            accept=headers.get("Accept", "application/json"),
            most_bytes=SMALL_ANSWER_BYTES,
        )
        try:
            answer.decode()
        except UnicodeDecodeError:
            raise _garbage("bytes that are not UTF-8") from None
        return _Answer(answer)

    async def close(self) -> None:
        """The session is closed by who opened it."""
