"""Where a state store's documents are, as tests need it: opened by several processes, and damaged behind its back."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.state.kubernetes_documents import KubernetesApi
from federation.state.kubernetes_lease import LeaseTimings
from federation.state.kubernetes_store import KubernetesStore, Namespaces, object_name
from federation.state.store import StateStore
from tests.contract.client import Api

QUICK = LeaseTimings(duration=2, deadline=1.3, every=0.2)
"""A Lease that fails over while a test waits."""


class Place(Protocol):
    """One place for documents that outlives every store over it."""

    @property
    def spec(self) -> str:
        """What a process of its own opens it by: :func:`place_of`."""
        ...

    def opened(self, clock: Clock | None = None) -> Any:
        """A store of its own, as another process has one: an async context manager of StateStore."""
        ...

    def where(self, key: str) -> str:
        """How errors name the document."""
        ...

    async def damage(self, key: str) -> None:
        """Change what is stored by hand."""
        ...

    async def litter(self) -> None:
        """Put there what is no document."""
        ...


@dataclass(frozen=True)
class Directory:
    """Files."""

    path: Path

    @property
    def spec(self) -> str:
        return f"files {self.path}"

    @asynccontextmanager
    async def opened(self, clock: Clock | None = None) -> AsyncIterator[StateStore]:
        yield FileStore(self.path, clock or SystemClock())

    def where(self, key: str) -> str:
        return str(self.file_of(key))

    def file_of(self, key: str) -> Path:
        return self.path / "documents" / key.replace("/", "@")

    async def damage(self, key: str) -> None:
        path = self.file_of(key)
        path.write_bytes(path.read_bytes().replace(b"payload", b"paylaod"))

    async def litter(self) -> None:
        (self.path / "documents" / ".next").write_bytes(b"left by a crash")
        (self.path / "documents" / "Foreign File").write_bytes(b"")


@dataclass(frozen=True)
class Objects:
    """Two namespaces of an API server, reached by a kubeconfig."""

    kubeconfig: Path
    namespace: str
    timings: LeaseTimings = QUICK
    options: dict[str, Any] = field(default_factory=dict)
    api: Api | None = None
    before: Callable[[KubernetesApi], KubernetesApi] = lambda session: session

    @property
    def spec(self) -> str:
        return f"kubernetes {self.kubeconfig} {self.namespace}"

    @asynccontextmanager
    async def opened(self, clock: Clock | None = None) -> AsyncIterator[KubernetesStore]:
        clock = clock or SystemClock()
        session = await ClusterSession.open(
            Credentials(kubeconfig=self.kubeconfig),
            cluster=ClusterName("state"),
            timeouts=ClusterTimeouts(),
            clock=clock,
        )
        async with session:
            yield KubernetesStore(
                self.before(session),
                clock,
                namespace=self.namespace,
                jitter=random.Random(5),
                lease=self.timings,
                **self.options,
            )

    def where(self, key: str) -> str:
        return f"ConfigMap {Namespaces(self.namespace).of(key)}/{object_name(key)}"

    def path_of(self, key: str) -> str:
        namespace = Namespaces(self.namespace).of(key)
        return f"/api/v1/namespaces/{namespace}/configmaps/{object_name(key)}"

    async def edit(self, key: str, change: Mapping[str, Any]) -> None:
        """Merge a change into the object, as ``kubectl patch`` does."""
        assert self.api is not None
        answer = await self.api.patch(self.path_of(key), change, fieldManager="kubectl-edit")
        assert answer.status == 200, answer.raw

    async def object(self, key: str) -> dict[str, Any]:
        assert self.api is not None
        answer = await self.api.get(self.path_of(key))
        assert answer.status == 200, answer.raw
        found: dict[str, Any] = answer.json
        return found

    async def damage(self, key: str) -> None:
        await self.edit(key, {"data": {"document": "the paylaod"}})

    async def litter(self) -> None:
        assert self.api is not None
        for name in ("kube-root-ca.crt", "federation.y", "federation.generations.x.yz"):
            path = f"/api/v1/namespaces/{self.namespace}/configmaps"
            made = await self.api.apply(
                f"{path}/{name}",
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}},
                "another-manager",
                force=True,
            )
            assert made.status in {200, 201, 422}, made.raw


def place_of(spec: list[str]) -> Place:
    """The place that ``spec`` names, for a process of its own."""
    if spec[0] == "files":
        return Directory(Path(spec[1]))
    return Objects(Path(spec[1]), spec[2])


async def spawn(verb: str, place: Place, *arguments: object) -> asyncio.subprocess.Process:
    """A process of its own over the same place: see ``tests/state/processes.py`` for the verbs."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.state.processes",
        verb,
        *map(str, arguments),
        *place.spec.split(" "),
        cwd=Path(__file__).resolve().parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
