"""The status server's application: a handler for each route of the table, behind the guard.

The page is a static shell without data: it loads without a token, asks for one and sends it with every poll. Another
room may mount routes behind the guard (:class:`Mounted`): nothing in ``status`` changes anything itself.
"""

from __future__ import annotations

import asyncio
import importlib.resources
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from federation.core.clock import Clock
from federation.core.documents.controller import ControllerReport, Operation
from federation.core.errors import StateUnavailable
from federation.state.store import StateStore
from federation.status.answers import (
    PAGE_POLICY,
    Body,
    Handler,
    add_headers,
    answer,
    errors_into_problems,
    problem,
)
from federation.status.authorization import Guard, caller_of
from federation.status.callers import Authenticator
from federation.status.encoding import encode_answer, instant
from federation.status.events import EventStreams
from federation.status.exposition import CONTENT_TYPE, hub_version
from federation.status.history import History, keep
from federation.status.metrics import hub_metrics
from federation.status.model import Clusters, DiscoveryView, FederationStatus, GenerationsView, Readiness
from federation.status.object_events import Announcer
from federation.status.openapi import openapi_document
from federation.status.pages import page_of
from federation.status.revision import revision
from federation.status.rotation import operation_view, rotation_view
from federation.status.rotation_model import Operations
from federation.status.routes import API, PAGE, Route, open_paths, page_routes
from federation.status.snapshot import SnapshotReader
from federation.status.view import ConfigStatus, StatusSource


async def _no_proof(operations: Sequence[Operation]) -> Sequence[bool | None]:
    return [None] * len(operations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """What is mounted: its routes, each with its handler.

    ``accepts`` says whether that caller could use the routes at all, ``with_token`` whether another token would do it.
    ``verify_operations`` says of operations whether the seal of each verifies, None where that is not known.
    """

    routes: Sequence[tuple[Route, Handler]] = ()
    accepts: Callable[[web.Request], bool] = lambda _: False
    with_token: Callable[[], bool] = lambda: False
    verify_operations: Callable[[Sequence[Operation]], Awaitable[Sequence[bool | None]]] = _no_proof


NOTHING = Mounted()


def create_app(
    *,
    store: StateStore,
    config: ConfigStatus,
    clock: Clock,
    report: Callable[[], ControllerReport] | None = None,
    mounted: Mounted = NOTHING,
    authenticators: Sequence[Authenticator] = (),
    announcer: Announcer | None = None,
) -> web.Application:
    """The application over a state store; ``report`` is that of the controller in whose process it runs.

    It changes nothing itself and needs no leadership, so every replica may serve it. What is ``mounted``
    is behind the same guard, for which ``authenticators`` verify JWTs. An ``announcer`` has Kubernetes Events
    written of what changes.
    """
    reader = SnapshotReader(store, clock)
    history = History(clock.now().timestamp())
    source = StatusSource(reader, config, clock)
    api = _Api(source, clock, report, mounted, history, announcer=announcer)

    async def keep_history(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(keep(history, reader, clock))
        yield
        task.cancel()
        await asyncio.wait([task])

    async def announce(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(announcer.run(source)) if announcer is not None else None
        yield
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    routes = [*API, *page_routes(), *(route for route, _ in mounted.routes)]
    guard = Guard(config, clock, unguarded=open_paths(routes), authenticators=authenticators)
    events = EventStreams(source, clock, caller_of=caller_of, may_read=guard.may_still_read)
    handlers: dict[str, Handler] = {
        "healthz": healthz,
        "readyz": api.readyz,
        "metrics": api.metrics,
        "status": api.status,
        "clusters": api.clusters,
        "cluster": api.cluster,
        "discovered": api.discovered,
        "matrix": api.matrix,
        "bundle": api.bundle,
        "bundle_pem": api.bundle_pem,
        "generations": api.generations,
        "rotation": api.rotation,
        "history": api.history,
        "operations": api.operations,
        "events": events.get,
        "openapi": _fixed(_openapi(routes), "application/json"),
        **{name: _page(name, kind) for name, kind in PAGE.values()},
        **{route.operation: handler for route, handler in mounted.routes},
    }
    methods: dict[str, frozenset[str]] = {}
    for route in routes:
        methods[route.path] = methods.get(route.path, frozenset()) | {route.method}
    app = web.Application(middlewares=[errors_into_problems(methods), guard.middleware], client_max_size=1)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(keep_history)
    if announcer is not None:
        app.cleanup_ctx.append(announce)
    app.on_shutdown.append(events.close)
    for route in routes:
        if route.method == "GET":
            app.router.add_get(route.path, handlers[route.operation])
        else:
            app.router.add_route(route.method, route.path, handlers[route.operation])
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
        *,
        announcer: Announcer | None,
    ) -> None:
        self._source = source
        self._history = history
        self._clock = clock
        self._report = report
        self._mounted = mounted
        self._announcer = announcer
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
                made = await asyncio.to_thread(
                    hub_metrics,
                    status,
                    documents,
                    now,
                    version=hub_version(),
                    events=self._announcer.counts if self._announcer else None,
                )
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
        page = page_of(status.clusters, request.query, name="clusters", key=lambda cluster: cluster.name)
        view = Clusters(clusters=page.items, continue_token=page.token, remaining=page.remaining)
        if request.query:
            return answer(request, encode_answer(view))
        return answer(request, self._once(status, "clusters", lambda: encode_answer(view)))

    async def cluster(self, request: web.Request) -> web.StreamResponse:
        _, status = await self._source.read()
        for cluster in status.clusters:
            if cluster.name == request.match_info["name"]:
                return answer(request, encode_answer(cluster))
        return problem(
            404,
            "Not found",
            "no cluster of that name is registered",
            remedy="/api/v1/clusters lists those that are",
        )

    async def discovered(self, request: web.Request) -> web.StreamResponse:
        snapshot, _ = await self._source.snapshot()
        found = snapshot.discovery
        clusters = found.clusters if found is not None else []
        page = page_of(clusters, request.query, name="clusters", key=lambda cluster: cluster.name)
        view = DiscoveryView(
            enabled=snapshot.config.discovery is not None,
            updated=found.updated if found is not None else 0.0,
            sources=found.sources if found is not None else [],
            clusters=page.items,
            continue_token=page.token,
            remaining=page.remaining,
        )
        return answer(request, encode_answer(view))

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
        page = page_of(
            status.generations, request.query, name="generations", key=lambda each: str(each.number)
        )
        view = GenerationsView(generations=page.items, continue_token=page.token, remaining=page.remaining)
        return answer(request, encode_answer(view))

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
        page = page_of(documents.operations, request.query, name="operations", key=lambda each: each.id)
        sealed = await self._mounted.verify_operations(page.items)
        operations = [
            operation_view(operation, sealed=verifies)
            for operation, verifies in zip(page.items, sealed, strict=True)
        ]
        view = Operations(
            accepted=self._mounted.accepts(request),
            with_token=self._mounted.with_token(),
            operations=operations,
            continue_token=page.token,
            remaining=page.remaining,
        )
        return answer(request, encode_answer(view))


def _no_bundle() -> web.Response:
    return problem(503, "No bundle", "no generation of trust that can be verified is in force")


def _openapi(routes: Sequence[Route]) -> bytes:
    return encode_answer(openapi_document(routes, hub_version()))


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
