"""The status server's application: every path, what it answers, who is let in, and its OpenAPI 3.1 document.

The page is a static shell without data: it loads without a token, asks for one and sends it with every poll. The
OpenAPI document is generated from the structs that make the answers. Another room may mount routes behind the guard
(:class:`Mounted`): nothing in ``status`` changes anything itself.
"""

from __future__ import annotations

import asyncio
import importlib.resources
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

from federation.core.clock import Clock
from federation.core.documents.controller import ControllerReport, Operation
from federation.core.errors import StateUnavailable
from federation.state.store import StateStore
from federation.status import model, rotation_model
from federation.status.answers import (
    PAGE_POLICY,
    Body,
    Handler,
    add_headers,
    answer,
    errors_into_problems,
    problem,
)
from federation.status.authorization import Guard
from federation.status.encoding import answer_schemas, encode_answer, instant
from federation.status.exposition import CONTENT_TYPE, hub_version
from federation.status.history import History, keep
from federation.status.metrics import hub_metrics
from federation.status.model import Clusters, FederationStatus, GenerationsView, Readiness
from federation.status.revision import revision
from federation.status.rotation import operation_view, rotation_view
from federation.status.rotation_model import Operations
from federation.status.snapshot import SnapshotReader
from federation.status.view import ConfigStatus, StatusSource

Schemas = Sequence[type[msgspec.Struct]]


async def _no_proof(operations: Sequence[Operation]) -> Sequence[bool | None]:
    return [None] * len(operations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """What is mounted: its routes, and how OpenAPI describes them.

    ``methods`` are those that a path answers besides GET and HEAD, by path. ``operations`` are OpenAPI operation
    objects by path and method in lower case; they may refer to ``schemas`` and to what the status API answers.
    ``accepts`` says whether that caller could use the routes at all, ``with_token`` whether another token would do it.
    ``verify_operations`` says of operations whether the seal of each verifies, None where that is not known.
    """

    routes: Sequence[web.RouteDef] = ()
    methods: Mapping[str, frozenset[str]] = field(default_factory=dict)
    operations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schemas: Schemas = ()
    accepts: Callable[[web.Request], bool] = lambda _: False
    with_token: Callable[[], bool] = lambda: False
    verify_operations: Callable[[Sequence[Operation]], Awaitable[Sequence[bool | None]]] = _no_proof


NOTHING = Mounted()


PATHS: Final[dict[str, tuple[str, type[msgspec.Struct] | str]]] = {
    "/healthz": ("The process answers.", model.Readiness),
    "/readyz": ("The process can serve; 503 with the reasons where it cannot.", model.Readiness),
    "/metrics": ("Prometheus metrics.", "text/plain"),
    "/api/v1/status": ("The verdict and everything it rests on.", model.FederationStatus),
    "/api/v1/clusters": ("Every registered cluster.", model.Clusters),
    "/api/v1/clusters/{name}": ("One registered cluster.", model.ClusterView),
    "/api/v1/matrix": ("Every ordered pair of clusters.", model.MatrixView),
    "/api/v1/bundle": ("The bundle in force, with provenance and expiries.", model.BundleView),
    "/api/v1/bundle.pem": ("The bundle in force as PEM.", "application/x-pem-file"),
    "/api/v1/generations": ("The newest generations of trust.", model.GenerationsView),
    "/api/v1/rotation": (
        "The rotation under way or the last one with all evidence; null where none ever was, 503 where not known.",
        rotation_model.RotationView,
    ),
    "/api/v1/history": ("Issuance, refusals and expiries of the last hours.", model.HistoryView),
    "/api/v1/operations": ("The newest operations, as an audit.", rotation_model.Operations),
}
NULLABLE: Final = frozenset({"/api/v1/rotation"})
PROBES: Final = frozenset({"/healthz", "/readyz"})  # what a kubelet asks without a token
TEMPLATE: Final = "#/components/schemas/{name}"


def document(version: str, mounted: Mounted = NOTHING) -> dict[str, Any]:
    """The whole document as plain JSON values, with what is mounted."""
    structs = [answer for _, answer in PATHS.values() if not isinstance(answer, str)]
    components = answer_schemas([*structs, model.ProblemDetails, *mounted.schemas], TEMPLATE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Federation hub status",
            "version": version,
            "summary": "Whether every cluster can talk to every other, and if not, why.",
        },
        "paths": {
            path: {"get": _operation(path, *described), **mounted.operations.get(path, {})}
            for path, described in PATHS.items()
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: str, summary: str, answer: type[msgspec.Struct] | str) -> dict[str, Any]:
    if isinstance(answer, str):
        content: dict[str, Any] = {answer: {"schema": {"type": "string"}}}
    else:
        schema: dict[str, Any] = {"$ref": TEMPLATE.format(name=answer.__name__)}
        if path in NULLABLE:
            schema = {"anyOf": [schema, {"type": "null"}]}
        content = {"application/json": {"schema": schema}}
    problem = {
        "description": "What went wrong (RFC 9457).",
        "content": {
            "application/problem+json": {
                "schema": {"$ref": TEMPLATE.format(name=model.ProblemDetails.__name__)}
            }
        },
    }
    responses: dict[str, Any] = {"200": {"description": summary, "content": content}, "default": problem}
    if path == "/readyz":
        responses["503"] = {"description": "Not ready, with the reasons.", "content": content}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if path not in PROBES:
        operation["security"] = [{"bearer": []}, {}]
    if "{name}" in path:
        operation["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 63}}
        ]
    return operation


SCRIPTS: Final = (
    "app",
    "charts",
    "details",
    "dom",
    "groups",
    "matrix",
    "operate",
    "rotation",
    "sections",
    "session",
    "source",
    "trust",
)
PAGE: Final = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}


def create_app(
    *,
    store: StateStore,
    config: ConfigStatus,
    clock: Clock,
    report: Callable[[], ControllerReport] | None = None,
    mounted: Mounted = NOTHING,
) -> web.Application:
    """The application over a state store; ``report`` is that of the controller in whose process it runs.

    It changes nothing itself and needs no leadership, so every replica may serve it. What is ``mounted``
    is behind the same guard.
    """
    reader = SnapshotReader(store, clock)
    history = History(clock.now().timestamp())
    api = _Api(StatusSource(reader, config, clock), clock, report, mounted, history)

    async def keep_history(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(keep(history, reader, clock))
        yield
        task.cancel()
        await asyncio.wait([task])

    guard = Guard(config, unguarded=PROBES | PAGE.keys())
    app = web.Application(
        middlewares=[errors_into_problems(mounted.methods), guard.middleware], client_max_size=1
    )
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(keep_history)
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
            web.get("/api/v1/history", api.history),
            web.get("/api/v1/operations", api.operations),
            *mounted.routes,
            web.get("/openapi.json", _fixed(_openapi(mounted), "application/json")),
            *(web.get(path, _page(name, kind)) for path, (name, kind) in PAGE.items()),
        ]
    )
    return app


async def healthz(request: web.Request) -> web.StreamResponse:
    """The process answers; nothing else is said."""
    return answer(request, encode_answer(Readiness(ready=True)))


def readiness(reasons: list[str]) -> web.Response:
    """200 where there is no reason against it, else 503."""
    body = encode_answer(Readiness(ready=not reasons, reasons=reasons))
    return web.Response(status=503 if reasons else 200, body=body, content_type="application/json")


class _Api:
    def __init__(
        self,
        source: StatusSource,
        clock: Clock,
        report: Callable[[], ControllerReport] | None,
        mounted: Mounted,
        history: History,
    ) -> None:
        self._source = source
        self._history = history
        self._clock = clock
        self._report = report
        self._mounted = mounted
        self._encoded: tuple[FederationStatus | None, dict[str, Body]] = (None, {})
        self._rendering = asyncio.Lock()

    def _known(self, status: FederationStatus, path: str) -> Body | None:
        return self._encoded[1].get(path) if self._encoded[0] is status else None

    def _once(self, status: FederationStatus, path: str, encode: Callable[[], bytes | Body]) -> Body:
        """One answer, made once for each status: a storm of scrapes costs one encoding."""
        if self._encoded[0] is not status:
            self._encoded = (status, {})
        answers = self._encoded[1]
        if path not in answers:
            made = encode()
            answers[path] = Body(made) if isinstance(made, bytes) else made
        return answers[path]

    async def readyz(self, _: web.Request) -> web.StreamResponse:
        """One sentence for each fault: a caller without a token learns no path and no address."""
        reasons: list[str] = []
        if self._report is not None and not self._report().ready:
            reasons.append("the controller is not ready: its log and /api/v1/status say why")
        try:
            await self._source.read()
        except StateUnavailable:
            reasons.append("the state store cannot be read")
        return readiness(reasons)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        async with self._rendering:  # those who ask meanwhile share the result
            documents, status = await self._source.read()
            now = self._clock.now().timestamp()
            body = self._known(status, "metrics")
            if body is None:  # 200 clusters have 11,000 series: a twentieth of a second, in a thread
                made = await asyncio.to_thread(hub_metrics, status, documents, now, version=hub_version())
                body = self._once(status, "metrics", lambda: made)
        response = answer(request, body, content_type="text/plain")
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    async def status(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        return answer(
            request,
            self._once(status, "status", lambda: Body(encode_answer(status), revision(status))),
        )

    async def clusters(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        clusters = Clusters(clusters=status.clusters)
        return answer(request, self._once(status, "clusters", lambda: encode_answer(clusters)))

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        for cluster in status.clusters:
            if cluster.name == request.match_info["name"]:
                return answer(request, encode_answer(cluster))
        return problem(404, "Not found", "no cluster of that name is registered")

    async def matrix(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        return answer(request, self._once(status, "matrix", lambda: encode_answer(status.matrix)))

    async def bundle(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        if status.bundle is None:
            return _no_bundle()
        return answer(request, encode_answer(status.bundle), modified=instant(status.bundle.created))

    async def bundle_pem(self, request: web.Request) -> web.StreamResponse:
        documents, status = await self._source.read()
        if status.bundle is None:
            return _no_bundle()
        pem = documents.generations[status.bundle.generation].bundle_pem.encode()
        return answer(
            request, pem, content_type="application/x-pem-file", modified=instant(status.bundle.created)
        )

    async def generations(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        return answer(request, encode_answer(GenerationsView(generations=status.generations)))

    async def rotation(self, request: web.Request) -> web.StreamResponse:
        """The whole record of the rotation; ``null`` where none ever was, 503 where that is not known."""
        snapshot, status = await self._source.snapshot()
        if status.rotation_problem:
            return problem(503, "Not known", status.rotation_problem)
        body = self._once(status, "rotation", lambda: encode_answer(rotation_view(snapshot, whole=True)))
        return answer(request, body)

    async def history(self, request: web.Request) -> web.StreamResponse:
        await self._source.read()
        return answer(request, encode_answer(self._history.view(self._clock.now().timestamp())))

    async def operations(self, request: web.Request) -> web.StreamResponse:
        documents, _ = await self._source.read()
        sealed = await self._mounted.verify_operations(documents.operations)
        operations = [
            operation_view(operation, sealed=verifies)
            for operation, verifies in zip(documents.operations, sealed, strict=True)
        ]
        view = Operations(
            accepted=self._mounted.accepts(request),
            with_token=self._mounted.with_token(),
            operations=operations,
        )
        return answer(request, encode_answer(view))


def _no_bundle() -> web.Response:
    return problem(503, "No bundle", "no generation of trust that can be verified is in force")


def _openapi(mounted: Mounted) -> bytes:
    return encode_answer(document(hub_version(), mounted))


def _page(name: str, kind: str) -> Handler:
    body = (importlib.resources.files("federation.status") / "page" / name).read_bytes()
    return _fixed(body, kind)


def _fixed(body: bytes, kind: str) -> Handler:
    made = Body(body)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = answer(request, made, content_type=kind)
        if kind.startswith("text/"):
            response.headers["Content-Security-Policy"] = PAGE_POLICY
            response.headers["Cache-Control"] = "no-cache"
        return response

    return handler
