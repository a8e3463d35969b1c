"""How the status servers answer: security headers on everything, RFC 9457 problems, conditional requests.

No answer names the server's software, and no error says more than its class: the log says what happened.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from aiohttp import ETag, web
from aiohttp.typedefs import Middleware

from federation.core.errors import StateUnavailable
from federation.status.model import ProblemDetails
from federation.status.pages import ItemGone, UnusableQuery

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
LIST: Final = "/openapi.json lists what is answered"
_REFUSALS: Final = {
    400: ("Bad request", "the request cannot be read as HTTP", ""),
    404: ("Not found", "nothing is at this path", LIST),
    405: ("Method not allowed", "this path does not answer that method", LIST),
    413: ("Too large", "the body is larger than any that is taken here", LIST),
    500: ("Internal error", "the hub's log says why", ""),
}
"""Title, detail and remedy of what the server itself refuses."""


def refusal(status: int, *, headers: dict[str, str] | None = None) -> web.Response:
    """What the server itself refuses a request with, in our own words: those of a library may quote the caller."""
    title, detail, remedy = _REFUSALS.get(status) or _REFUSALS[400 if status < 500 else 500]
    return problem(status, title, detail, remedy=remedy, headers=headers)


def too_many(
    wait: int, detail: str = "more requests than one caller may make", remedy: str = ""
) -> web.Response:
    """429 (RFC 6585) with the whole seconds to wait."""
    return problem(
        429,
        "Too many requests",
        detail,
        remedy=remedy or f"wait {wait} s; /api/v1/events says when there is something new",
        headers={"Retry-After": str(wait)},
    )


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
    since = request.if_modified_since if not request.headers.get("If-None-Match") else None
    if (known and any(etag.value in {body.tag, "*"} for etag in known)) or (
        modified is not None and since is not None and modified.replace(microsecond=0) <= since
    ):
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


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The other end of a connection, as gRPC writes it (``ipv4:192.0.2.1:4711``)."""
    name: tuple[Any, ...] = tuple((transport.get_extra_info("peername") if transport else None) or ("",))
    family = "ipv6" if ":" in str(name[0]) else "ipv4"
    return f"{family}:{name[0]}:{name[1]}" if len(name) > 1 else f"unix:{name[0]}"


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Signal handler of ``on_response_prepare``: what every answer carries."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Content-Security-Policy", API_POLICY)
    response.headers.setdefault("Cache-Control", "no-store")


def errors_into_problems(methods: Mapping[str, frozenset[str]]) -> Middleware:
    """Middleware: a method that a path does not answer is refused, every failure becomes a problem.

    ``methods`` are those of each path; HEAD goes with GET, and a path that is not there has GET.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        allowed = methods.get(request.path, frozenset()) | {"GET", "HEAD"}
        if request.method in allowed:
            return await turn_errors_into_problems(request, handler)
        named = ", ".join(sorted(allowed))
        refused = problem(
            405,
            "Method not allowed",
            f"only {named} are answered here",
            remedy=LIST,
            headers={"Allow": named},
        )
        refused.force_close()  # nothing reads a body that was not asked for
        return refused

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
    except UnusableQuery as error:
        return problem(400, "Bad request", error.what, remedy=error.remedy)
    except ItemGone:
        return problem(
            410,
            "Gone",
            "the item to continue after is not in the list any more",
            remedy="ask for the list from its start, without the continue token",
        )
    except web.HTTPException as error:
        return refusal(error.status)
    except Exception:
        _logger.exception("the status API failed", extra={"path": request.path})
        return refusal(500)
