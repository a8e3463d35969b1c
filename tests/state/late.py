"""A session whose requests are carried out late, or whose answers are lost, as networks and proxies do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from federation.core.errors import ClusterConflict, ClusterTimeout, ClusterUnreachable
from federation.state.kubernetes_documents import KubernetesApi


@dataclass
class Request:
    method: str
    path: str
    body: bytes | None


@dataclass
class LateApi:
    """In front of a real session: requests of the methods in ``delay`` wait, answers to those in ``lose`` are lost."""

    api: KubernetesApi
    delay: set[str] = field(default_factory=set)
    lose: set[str] = field(default_factory=set)
    sent: list[Request] = field(default_factory=list)
    delayed: list[Request] = field(default_factory=list)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | None = None,
        permitted: Callable[[], bool] | None = None,
    ) -> bytes:
        request = Request(method, path, body)
        if method in self.delay:
            self.delayed.append(request)
            raise ClusterTimeout("no answer in time", where="late")
        self.sent.append(request)
        answer = await self.api.request(
            method,
            path,
            params=params,
            body=body,
            content_type=content_type,
            accept=accept,
            timeout=timeout,
            permitted=permitted,
        )
        if method in self.lose:
            self.lose.discard(method)
            raise ClusterUnreachable("the connection was cut before the answer came", where="late")
        return answer

    async def land(self) -> int:
        """Carry out the delayed requests; how many of them changed anything."""
        landed = 0
        for request in self.delayed:
            try:
                await self.api.request(request.method, request.path, body=request.body)
                landed += 1
            except ClusterConflict:
                pass
        self.delayed.clear()
        return landed
