"""Health and metrics of one role's process: of signers, which serve no status API, and what a kubelet asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from federation.core.clock import Clock
from federation.state.documents import ControllerReport, SignerReport
from federation.status.answers import add_headers, answer, errors_into_problems
from federation.status.app import healthz, readiness
from federation.status.exposition import CONTENT_TYPE
from federation.status.guard import Guard
from federation.status.metrics_roles import role_metrics
from federation.status.openapi import PROBES
from federation.status.source import ConfigView


def create_probes_app(ready: Callable[[], Awaitable[bool]]) -> web.Application:
    """``/healthz`` and ``/readyz`` alone, for a listener that nobody but a kubelet has to reach.

    It needs no token and says no more than what a probe asks.
    """

    async def readyz(_: web.Request) -> web.StreamResponse:
        return readiness([] if await ready() else ["the role is not ready: its log and status say why"])

    app = web.Application(middlewares=[errors_into_problems({})], client_max_size=1)
    app.on_response_prepare.append(add_headers)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


def create_health_app(
    report: Callable[[], SignerReport | ControllerReport], *, config: ConfigView, clock: Clock
) -> web.Application:
    """``/healthz``, ``/readyz`` and ``/metrics``; the status token guards the last as it does on the hub."""

    async def readyz(_: web.Request) -> web.StreamResponse:
        now = report()
        return readiness([] if now.ready else now.reasons or ["the role is not ready"])

    async def metrics(request: web.Request) -> web.StreamResponse:
        response = answer(request, role_metrics(report(), clock.now().timestamp()), content_type="text/plain")
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    guard = Guard(config, unguarded=PROBES)
    app = web.Application(middlewares=[errors_into_problems({}), guard.middleware], client_max_size=1)
    app.on_response_prepare.append(add_headers)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app
