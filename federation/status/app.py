"""The status server's application: every path, what it answers, and who is let in.

The page is a static shell without data: it loads without a token, asks for one and sends it with every poll.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.state.documents import ControllerReport
from federation.state.store import StateStore
from federation.status.answers import (
    PAGE_POLICY,
    Handler,
    add_headers,
    answer,
    errors_into_problems,
    problem,
)
from federation.status.exposition import CONTENT_TYPE
from federation.status.guard import Guard
from federation.status.metrics import hub_metrics
from federation.status.model import Clusters, FederationStatus, Generations, Readiness
from federation.status.mounted import NOTHING, Mounted
from federation.status.openapi import PROBES, document
from federation.status.operations import operation_view
from federation.status.reader import SnapshotReader
from federation.status.rotation import rotation_view
from federation.status.rotation_model import Operations
from federation.status.source import ConfigView, StatusSource

PAGE: Final = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/dom.js": ("dom.js", "text/javascript"),
    "/matrix.js": ("matrix.js", "text/javascript"),
    "/operate.js": ("operate.js", "text/javascript"),
    "/rotation.js": ("rotation.js", "text/javascript"),
    "/sections.js": ("sections.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}


def create_app(
    *,
    store: StateStore,
    config: ConfigView,
    clock: Clock,
    report: Callable[[], ControllerReport] | None = None,
    mounted: Mounted = NOTHING,
) -> web.Application:
    """The application over a state store; ``report`` is that of the controller in whose process it runs.

    It changes nothing itself and needs no leadership, so every replica may serve it. What is ``mounted``
    stands behind the same guard.
    """
    source = StatusSource(SnapshotReader(store, clock), config, clock)
    api = _Api(source, clock, report, mounted)
    guard = Guard(config, unguarded=PROBES | PAGE.keys())
    app = web.Application(
        middlewares=[errors_into_problems(mounted.methods), guard.middleware], client_max_size=1
    )
    app.on_response_prepare.append(add_headers)
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/api/v1/status", api.status),
            web.get("/api/v1/clusters", api.clusters),
            web.get("/api/v1/clusters/{name}", api.cluster),
            web.get("/api/v1/matrix", api.matrix),
            web.get("/api/v1/bundle", api.bundle),
            web.get("/api/v1/bundle.pem", api.bundle_pem),
            web.get("/api/v1/generations", api.generations),
            web.get("/api/v1/rotation", api.rotation),
            web.get("/api/v1/operations", api.operations),
            *mounted.routes,
            web.get("/openapi.json", _fixed(_openapi(mounted), "application/json")),
            *(web.get(path, _page(name, kind)) for path, (name, kind) in PAGE.items()),
        ]
    )
    return app


async def healthz(request: web.Request) -> web.StreamResponse:
    """The process answers; nothing else is said."""
    return answer(request, msgspec.json.encode(Readiness(ready=True)))


def readiness(reasons: list[str]) -> web.Response:
    """200 where there is no reason against it, else 503."""
    body = msgspec.json.encode(Readiness(ready=not reasons, reasons=reasons))
    return web.Response(status=503 if reasons else 200, body=body, content_type="application/json")


class _Api:
    def __init__(
        self,
        source: StatusSource,
        clock: Clock,
        report: Callable[[], ControllerReport] | None,
        mounted: Mounted,
    ) -> None:
        self._source = source
        self._clock = clock
        self._report = report
        self._mounted = mounted
        self._encoded: tuple[FederationStatus | None, dict[str, bytes]] = (None, {})

    def _once(self, status: FederationStatus, path: str, encode: Callable[[], bytes]) -> bytes:
        """The bytes of one answer, made once for each status: a storm of scrapes costs one encoding."""
        if self._encoded[0] is not status:
            self._encoded = (status, {})
        answers = self._encoded[1]
        if path not in answers:
            answers[path] = encode()
        return answers[path]

    async def readyz(self, _: web.Request) -> web.StreamResponse:
        """One sentence for each fault: whoever asks without a token learns no path and no address."""
        reasons: list[str] = []
        if self._report is not None and not self._report().ready:
            reasons.append("the controller is not ready: its log and /api/v1/status say why")
        try:
            await self._source.read()
        except StateUnavailable:
            reasons.append("the state store cannot be read")
        return readiness(reasons)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        snapshot, status = await self._source.read()
        now = self._clock.now().timestamp()
        body = self._once(status, "metrics", lambda: hub_metrics(status, snapshot, now))
        response = answer(request, body, content_type="text/plain")
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    async def status(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        return answer(request, self._once(status, "status", lambda: msgspec.json.encode(status)))

    async def clusters(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        return answer(request, msgspec.json.encode(Clusters(clusters=status.clusters)))

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        for cluster in status.clusters:
            if cluster.name == request.match_info["name"]:
                return answer(request, msgspec.json.encode(cluster))
        return problem(404, "Not found", "no cluster of that name is registered")

    async def matrix(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        return answer(request, msgspec.json.encode(status.matrix))

    async def bundle(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        if status.bundle is None:
            return _no_bundle()
        return answer(request, msgspec.json.encode(status.bundle), modified=status.bundle.created)

    async def bundle_pem(self, request: web.Request) -> web.StreamResponse:
        snapshot, status = await self._source.read()
        if status.bundle is None:
            return _no_bundle()
        pem = snapshot.generations[status.bundle.generation].bundle_pem.encode()
        return answer(request, pem, content_type="application/x-pem-file", modified=status.bundle.created)

    async def generations(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        return answer(request, msgspec.json.encode(Generations(generations=status.generations)))

    async def rotation(self, request: web.Request) -> web.StreamResponse:
        """The whole record of the rotation; ``null`` where none ever was, 503 where that is not known."""
        scene, status = await self._source.scene()
        if status.rotation_problem:
            return problem(503, "Not known", status.rotation_problem)
        body = self._once(status, "rotation", lambda: msgspec.json.encode(rotation_view(scene, whole=True)))
        return answer(request, body)

    async def operations(self, request: web.Request) -> web.StreamResponse:
        snapshot, _ = await self._source.read()
        sealed = await self._mounted.vouches(snapshot.operations)
        operations = [
            operation_view(operation, sealed=verifies)
            for operation, verifies in zip(snapshot.operations, sealed, strict=True)
        ]
        view = Operations(
            accepted=self._mounted.accepts(request),
            with_token=self._mounted.with_token(),
            operations=operations,
        )
        return answer(request, msgspec.json.encode(view))


def _no_bundle() -> web.Response:
    return problem(503, "No bundle", "no generation of trust that can be vouched for is in force")


def _openapi(mounted: Mounted) -> bytes:
    return msgspec.json.encode(document(importlib.metadata.version("federation-hub"), mounted))


def _page(name: str, kind: str) -> Handler:
    body = (importlib.resources.files("federation.status") / "page" / name).read_bytes()
    return _fixed(body, kind)


def _fixed(body: bytes, kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = answer(request, body, content_type=kind)
        if kind.startswith("text/"):
            response.headers["Content-Security-Policy"] = PAGE_POLICY
            response.headers["Cache-Control"] = "no-cache"
        return response

    return handler
