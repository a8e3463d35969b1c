"""How the status servers answer: security headers on everything, RFC 9457 problems, conditional requests.

No answer names the server's software, and no error says more than its class: the log says what happened.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
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


@dataclass(slots=True)
class Body:
    """The bytes of an answer, with what is made of them once for all callers.

    ``tag`` is what they are known by (RFC 9110, section 8.8.3): where tags are equal answers say the same, though
    perhaps not to the byte.
    """

    data: bytes
    tag: str = ""
    _compressed: bytes | None = None

    def __post_init__(self) -> None:
        self.tag = self.tag or hashlib.sha256(self.data).hexdigest()[:32]

    @property
    def compressed(self) -> bytes:
        """The same as gzip (RFC 1952)."""
        if self._compressed is None:
            self._compressed = gzip.compress(self.data, mtime=0)
        return self._compressed


def answer(
    request: web.Request,
    body: bytes | Body,
    *,
    content_type: str = "application/json",
    modified: datetime | None = None,
) -> web.StreamResponse:
    """The body, compressed where the caller takes that, with its tag; 304 where the caller already holds it.

    The tag is weak, as one stands for the bytes compressed and not. Nothing that is answered holds a secret beside
    something that a caller chose, so its compressed length reveals no secret.
    """
    if isinstance(body, bytes):
        body = Body(body)
    known = request.if_none_match
    if known and any(etag.value in {body.tag, "*"} for etag in known):
        response = web.Response(status=304)
    elif len(body.data) >= WORTH_COMPRESSING and _takes_gzip(request.headers.getall("Accept-Encoding", [])):
        response = web.Response(body=body.compressed, content_type=content_type)
        response.headers["Content-Encoding"] = "gzip"
    else:
        response = web.Response(body=body.data, content_type=content_type)
    if response.body and content_type.startswith("text/"):
        response.charset = "utf-8"
    response.headers["Vary"] = "Accept-Encoding"
    response.etag = ETag(body.tag, is_weak=True)
    response.last_modified = modified
    return response


WORTH_COMPRESSING: Final = 1400  # bytes: less goes in one packet anyway


def _takes_gzip(accepted: Sequence[str]) -> bool:
    """Whether gzip is named and not refused by a weight of 0 (RFC 9110, section 12.5.3)."""
    for each in ",".join(accepted).split(","):
        coding, _, weight = each.partition(";")
        if coding.strip().lower() == "gzip":
            return re.fullmatch(r"\s*q=0(\.0*)?\s*", weight, re.IGNORECASE) is None
    return False


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
