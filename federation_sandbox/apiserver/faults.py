"""What a test can make go wrong, per verb, resource, namespace, name or path.

::

    with cluster.faults.inject(Hang(), resource="tokenreviews"):
        ...
    fault = cluster.faults.inject(Answer.throttled(retry_after=2), verb="patch", times=3)
    fault.lift()
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from federation_sandbox.apiserver.requests import RequestInfo


@dataclass(frozen=True, slots=True)
class Hang:
    """Accept the request and never answer; when the fault is lifted the connection is cut."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Answer correctly, ``seconds`` late."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer with a Status object of this code instead of doing anything."""

    code: int
    reason: str
    message: str
    retry_after: int | None = None

    @classmethod
    def forbidden(cls) -> Self:
        """403, as when RBAC was withdrawn."""
        return cls(403, "Forbidden", "forbidden: injected by the test")

    @classmethod
    def unauthorized(cls) -> Self:
        """401, as when credentials were revoked."""
        return cls(401, "Unauthorized", "Unauthorized")

    @classmethod
    def throttled(cls, retry_after: int = 1) -> Self:
        """429 with Retry-After in seconds, as API priority and fairness sheds load."""
        return cls(429, "TooManyRequests", "Too many requests, please try again later.", retry_after)

    @classmethod
    def server_error(cls) -> Self:
        """500, as when etcd fails."""
        return cls(500, "InternalError", "Internal error occurred: etcdserver: request timed out")


@dataclass(frozen=True, slots=True)
class Garbage:
    """Answer with bytes that are no Kubernetes object: by default the error page of a proxy in front."""

    code: int = 502
    content_type: str = "text/html"
    body: bytes = (
        b"<html><head><title>502 Bad Gateway</title></head><body><center><h1>502</h1></center></body></html>"
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """Answer correctly, but cut the connection after so many bytes of the body (or of the stream)."""

    after: int = 20


@dataclass(frozen=True, slots=True)
class Gone:
    """410: every continue token and every resource version to watch from is too old.

    ``as_event`` chooses how a watch learns of it: by an ERROR event in a stream that begins with 200, or by HTTP
    410.
    """

    as_event: bool = True


@dataclass(frozen=True, slots=True)
class Silence:
    """Watches, running ones too, send nothing until the fault is lifted, and are not ended either."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Running watches never show what changes until the fault is lifted, and go on as if they had: events are lost."""


@dataclass(frozen=True, slots=True)
class NoBookmarks:
    """Watches send no bookmarks; the API only promises best effort."""


Effect = Hang | Delay | Answer | Garbage | Cut | Gone | Silence | Lost | NoBookmarks
E = TypeVar("E", Hang, Delay, Answer, Garbage, Cut, Gone, Silence, Lost, NoBookmarks)


@dataclass(eq=False, slots=True, kw_only=True)
class Fault:
    """One effect on the requests that match; a context manager that lifts itself."""

    effect: Effect
    owner: Faults
    verb: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    remaining: int | None = None
    hits: int = 0
    lifted: asyncio.Event = field(default_factory=asyncio.Event)

    def matches(self, info: RequestInfo) -> bool:
        """Whether a request is affected: every field that is set must fit, a path as a prefix."""
        return (
            self.verb in {"", info.verb}
            and self.resource in {"", info.full_resource}
            and self.namespace in {"", info.namespace}
            and self.name in {"", info.name}
            and info.path.startswith(self.path)
        )

    def strike(self) -> None:
        """Count a request that was affected, and lift the fault after its last."""
        self.hits += 1
        if self.remaining is not None:
            self.remaining -= 1
            if self.remaining <= 0:
                self.owner.lift(self)

    def lift(self) -> None:
        """End it."""
        self.owner.lift(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lift()


class Faults:
    """The faults of one cluster."""

    def __init__(self) -> None:
        self._active: list[Fault] = []

    def inject(
        self,
        effect: Effect,
        *,
        verb: str = "",
        resource: str = "",
        namespace: str = "",
        name: str = "",
        path: str = "",
        times: int | None = None,
    ) -> Fault:
        """Let an effect befall every request that fits, or only the next ``times`` of them."""
        fault = Fault(
            effect=effect,
            owner=self,
            verb=verb,
            resource=resource,
            namespace=namespace,
            name=name,
            path=path,
            remaining=times,
        )
        self._active.append(fault)
        return fault

    def lift(self, fault: Fault) -> None:
        """End one fault; nothing happens where it has ended already."""
        if fault in self._active:
            self._active.remove(fault)
        fault.lifted.set()

    def clear(self) -> None:
        """End them all."""
        for fault in list(self._active):
            self.lift(fault)

    def matching(self, info: RequestInfo) -> Iterator[Fault]:
        """The faults that affect a request, oldest first."""
        return iter([fault for fault in self._active if fault.matches(info)])

    def find(self, effect: type[E], info: RequestInfo) -> tuple[Fault, E] | None:
        """The oldest fault with that effect on a request."""
        for fault in self._active:
            if isinstance(fault.effect, effect) and fault.matches(info):
                return fault, fault.effect
        return None
