"""How the status servers answer: security headers on everything, RFC 9457 problems, conditional requests.

No answer names the server's software, and no error says more than its class: the log says what happened.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec
from aiohttp import ETag, web
from aiohttp.typedefs import Middleware

from federation.core.errors import StateUnavailable
from federation.status.model import ProblemDetails

_logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
SERVER: Final = "federation-hub"
HEADERS: Final = {
    "Server": SERVER,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TITLES: Final = {400: "Bad request", 404: "Not found", 405: "Method not allowed", 500: "Internal error"}


def problem(
    status: int, title: str, detail: str = "", *, remedy: str = "", headers: dict[str, str] | None = None
) -> web.Response:
    """An error answer."""
    body = msgspec.json.encode(ProblemDetails(title=title, status=status, detail=detail, remedy=remedy))
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)


def answer(
    request: web.Request,
    body: bytes,
    *,
    content_type: str = "application/json",
    modified: datetime | None = None,
) -> web.StreamResponse:
    """The body with an ETag of its content; 304 where the caller already holds exactly this."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    known = request.if_none_match
    if known and any(etag.value in {tag, "*"} for etag in known):
        response = web.Response(status=304)
    else:
        response = web.Response(body=body, content_type=content_type)
        if content_type.startswith("text/"):
            response.charset = "utf-8"
    response.etag = ETag(tag)
    response.last_modified = modified
    return response


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Signal handler of ``on_response_prepare``: what every answer carries."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Content-Security-Policy", API_POLICY)
    response.headers.setdefault("Cache-Control", "no-store")


def errors_into_problems(more_methods: Mapping[str, frozenset[str]]) -> Middleware:
    """Middleware: a method that a path does not answer is refused, every failure becomes a problem.

    ``more_methods`` are those that a path answers besides GET and HEAD.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        allowed = {"GET", "HEAD"} | more_methods.get(request.path, frozenset())
        if request.method in allowed:
            return await turn_errors_into_problems(request, handler)
        methods = ", ".join(sorted(allowed))
        refusal = problem(405, TITLES[405], f"only {methods} are answered here", headers={"Allow": methods})
        refusal.force_close()  # nothing reads a body that was not asked for
        return refusal

    return middleware


async def turn_errors_into_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure as a problem document that says nothing of the inside."""
    try:
        return await handler(request)
    except StateUnavailable:
        return problem(
            503,
            "State unavailable",
            "the state store cannot be read, so nothing is known; the hub's log says why",
            headers={"Retry-After": "2"},
        )
    except web.HTTPException as error:
        return problem(error.status, TITLES.get(error.status, "Error"))
    except Exception:
        _logger.exception("the status API failed", extra={"path": request.path})
        return problem(500, TITLES[500], "the hub's log says why")
