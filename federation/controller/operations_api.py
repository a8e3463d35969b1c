"""``POST /api/v1/operations``: what an operator asks for, over HTTP. Served behind the guard of the status API.

A caller that may read may not operate by that: operating takes a credential with that right. Where no
credential is configured at all, only callers on the hub's own machine may, under a local name: an open status page must
not be an open listener. With a token that reads and none that operates, no caller may. How often one caller may ask is
bounded, and a program that asks too often keeps no person from an emergency.

A browser sends no operation for another site: the token is taken from a header only, the body has to be declared as
JSON (which a form cannot), and where a browser says where a request comes from, it has to be the hub's own page.
``Sec-Fetch-Site`` is of W3C Fetch Metadata, ``Origin`` of RFC 6454. There is no CORS.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from federation.controller.rotation.operations import MOST_ARGUMENT, VERBS, OperationDesk, Requester
from federation.core.audit import NONE, ActorKind, audit_fields
from federation.core.clock import Clock
from federation.core.config.hub import HubConfig
from federation.core.config.types import is_loopback
from federation.core.documents.controller import Operation
from federation.core.errors import InvalidValue, NotReady, StateUnavailable

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
FORWARDED: Final = (hdrs.FORWARDED, hdrs.X_FORWARDED_FOR, hdrs.VIA)  # by a proxy, for a client elsewhere
BURST: Final = 10  # operations at once; a person at a terminal never meets this
REFILL: Final = 2.0  # seconds until one more is allowed


@dataclass(slots=True)
class Bucket:
    """So many operations at once, and one more with each ``REFILL`` seconds."""

    clock: Clock
    tokens: float = float(BURST)
    at: float = 0.0

    def take(self) -> float:
        """0 where one may go on now, else how many seconds until it may."""
        now = self.clock.monotonic()
        self.tokens = min(float(BURST), self.tokens + (now - self.at) / REFILL)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) * REFILL
        self.tokens -= 1
        return 0.0


def is_local(request: web.Request) -> bool:
    """True for a caller on this machine that uses a local name, which no web page has (DNS rebinding)."""
    transport = request.transport
    ends = [transport.get_extra_info(end) for end in ("sockname", "peername")] if transport else [None]
    if not all(end and is_loopback(str(end[0])) for end in ends):
        return False
    if any(header in request.headers for header in FORWARDED):
        return False
    host = _host_of(f"//{request.host}")
    return host in LOCAL_NAMES or is_loopback(host)


def is_same_origin(request: web.Request) -> bool:
    """True where no browser says that a page of another site asks, by ``Sec-Fetch-Site`` or by ``Origin``.

    Of an origin only host and port are compared: TLS may end before the hub.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower() != ""
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


PATH: Final = "/api/v1/operations"
MOST_BYTES: Final = 16 * 1024
BODY_TIMEOUT: Final = 10.0  # seconds for a body to arrive
MOST_WAITING: Final = 8  # operations that wait for the leader's decision at the same time
MOST_WAITING_OF_ONE: Final = 4  # of them of one caller
MOST_CALLERS: Final = 256  # whose last requests are remembered; a new one starts with a full bucket
MOST_CLAIM: Final = 100  # characters of a claimed author

_logger = logging.getLogger(__name__)
_audit = logging.getLogger("federation.controller.audit")


class OperationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is requested. ``arguments`` are plain text; ``author`` among them is recorded as a claim.

    start: canary, reason. abort, restore: reason. quarantine: cluster, reason. release, takeover: cluster.
    emergency: compromised (a whole SHA-256), deadline and ttl_cap (seconds), reason. remove: anchor (a whole SHA-256 of
    one whose pin is gone), reason.
    dismiss: anchor (a whole SHA-256), reason, and cluster where it is to be dismissed in that one alone.
    """

    verb: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(VERBS)})]
    arguments: Annotated[
        dict[str, str],
        msgspec.Meta(
            extra_json_schema={
                "propertyNames": {"pattern": "^[a-z_]{1,32}$"},
                "additionalProperties": {"type": "string", "maxLength": MOST_ARGUMENT},
            }
        ),
    ] = {}


class MakesProblemAnswer(Protocol):
    """Makes an error answer (RFC 9457)."""

    def __call__(
        self,
        status: int,
        title: str,
        detail: str = ...,
        *,
        remedy: str = ...,
        headers: dict[str, str] | None = ...,
    ) -> web.Response:
        """The answer."""
        ...


class RunningConfig(Protocol):
    """The configuration that runs."""

    @property
    def current(self) -> HubConfig:
        """The configuration in force."""
        ...


class _Answered(Exception):
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class OperationsApi:
    """The handler. ``encode`` and ``problem`` make answers look like those of the API that it is part of.

    ``may_operate`` says whether the guard has seen a credential of a caller that operates, ``caller_of`` the name and
    kind that were verified, ``leads`` whether this controller leads: without that token no other one can verify what it
    has taken in.
    """

    def __init__(
        self,
        desk: OperationDesk,
        config: RunningConfig,
        *,
        clock: Clock,
        encode: Callable[[Operation], bytes],
        problem: MakesProblemAnswer,
        may_operate: Callable[[web.Request], bool],
        caller_of: Callable[[web.Request], tuple[str, ActorKind]],
        leads: Callable[[], bool],
    ) -> None:
        self._leads = leads
        self._may_operate = may_operate
        self._caller_of = caller_of
        self._desk = desk
        self._config = config
        self._encode = encode
        self._problem = problem
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._waiting: Counter[tuple[str, str]] = Counter()

    def accepts(self, request: web.Request) -> bool:
        """Whether this caller, whom the guard has let in, may operate."""
        status = self._config.current.status
        if status.lets_operators_in:
            return self._may_operate(request)
        return not status.lets_readers_in and is_local(request)

    def takes_token(self) -> bool:
        """Whether a credential is configured whose bearer may operate."""
        return self._config.current.status.lets_operators_in

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Hand an operation in and wait for what becomes of it: 200 done, 409 refused, with the operation."""
        try:
            self._check_caller(request)
            requested = await self._read(request)
            return await self._submit(request, requested)
        except _Answered as answered:
            if answered.response.status not in {409, 503}:
                self._audit_refusal(request, answered.response.status)
                answered.response.force_close()  # nothing reads a body that was not taken
            return answered.response

    def _check_caller(self, request: web.Request) -> None:
        if not self.accepts(request):
            raise self._refusal(403, "Forbidden", *self._why_not())
        if not is_same_origin(request):
            raise self._refusal(
                403,
                "Forbidden",
                "the request comes from another site's page",
                remedy="use the hub's own page, or `federation rotate`",
            )
        if request.content_type != "application/json":
            raise self._refusal(
                415,
                "Unsupported media type",
                "the body has to be application/json",
                remedy="see /openapi.json",
            )
        if wait := self._bucket(self._caller_of(request)).take():
            raise self._too_many(wait)

    def _bucket(self, caller: tuple[str, str]) -> Bucket:
        bucket = self._buckets.pop(caller, None) or Bucket(self._clock, at=self._clock.monotonic())
        self._buckets[caller] = bucket  # the one that asked last is the last to be forgotten
        while len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return bucket

    def _why_not(self) -> tuple[str, str]:
        """Why a caller may not operate, and what to do."""
        status = self._config.current.status
        if status.operate_token_file is not None:
            return "this caller may read, not operate", "give the operate token (status.operate_token_file)"
        if status.lets_operators_in:
            return "this caller may read, not operate", "ask as a caller who has the right to operate"
        if status.lets_readers_in:
            return (
                "no operate token is configured, so no caller may operate",
                "set status.operate_token_file on the controllers, to a token of its own",
            )
        return (
            "no token is configured, so only callers on the hub's machine may operate",
            "set status.operate_token_file, or ask on the hub's machine by a local name",
        )

    async def _read(self, request: web.Request) -> OperationRequest:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for chunk in request.content.iter_chunked(4096):
                    body += chunk
                    if len(body) > MOST_BYTES:
                        raise self._refusal(
                            413,
                            "Too large",
                            f"an operation is at most {MOST_BYTES} bytes",
                            remedy="see /openapi.json",
                        )
        except TimeoutError:
            raise self._refusal(408, "Timeout", "the body did not arrive in time") from None
        try:
            return msgspec.json.decode(bytes(body), type=OperationRequest)
        except (msgspec.MsgspecError, UnicodeError):
            raise self._refusal(
                400,
                "Bad request",
                'the body is not {"verb": ..., "arguments": {...}} with plain texts',
                remedy="see /openapi.json",
            ) from None

    async def _submit(self, request: web.Request, requested: OperationRequest) -> web.Response:
        caller = self._caller_of(request)
        if self._waiting.total() >= MOST_WAITING or self._waiting[caller] >= MOST_WAITING_OF_ONE:
            raise self._too_many(REFILL)
        if self._config.current.status.operate_token_file is None and not self._leads():
            raise self._refusal(
                503,
                "Does not lead",
                "this controller does not lead, and without an operate token only the one that leads takes operations",
                remedy="ask that one (`federation status` names it), or set status.operate_token_file for all",
            )
        arguments = dict(requested.arguments)
        try:
            requester = self._requester(request, arguments.pop("author", ""))
            self._waiting[caller] += 1
            try:
                decided = await self._desk.submit(requested.verb, arguments, requester=requester)
            finally:
                self._waiting[caller] -= 1
                if not self._waiting[caller]:
                    del self._waiting[caller]
        except InvalidValue as error:
            raise self._refusal(400, "Bad request", error.what, remedy=error.remedy) from None
        except NotReady as error:
            raise self._refusal(503, "No leader", str(error), remedy=error.remedy) from None
        except StateUnavailable as error:
            _logger.error("an operation cannot be written: %s", error.diagnostics())
            raise self._refusal(
                503,
                "State unavailable",
                "the state store does not take the operation; the hub's log says why",
                remedy="ask `federation rotate status` what became of it before asking again",
            ) from None
        return web.Response(
            status=200 if decided.outcome == "done" else 409,
            body=self._encode(decided),
            content_type="application/json",
        )

    def _requester(self, request: web.Request, claim: str) -> Requester:
        """Who was let in, and what they say of themselves. Raises InvalidValue."""
        if len(claim) > MOST_CLAIM or not claim.isprintable():
            raise InvalidValue(
                f"an author is at most {MOST_CLAIM} printable characters", remedy="write a name, or none"
            )
        name, kind = self._caller_of(request)
        return Requester(name=name, kind=kind, source=request.remote or "", claim=claim)

    def _audit_refusal(self, request: web.Request, status: int) -> None:
        name, kind = self._caller_of(request)
        source = request.remote or NONE
        _audit.warning(
            "an operation from %s was not taken: %d",
            source,
            status,
            extra={
                **audit_fields("refuse_request", actor=name, actor_kind=kind, source=source, object=PATH),
                "status": status,
            },
        )

    def _too_many(self, wait: float) -> _Answered:
        seconds = str(int(wait) + 1)
        return self._refusal(
            429,
            "Too many operations",
            "more operations than one person asks for",
            remedy=f"wait {seconds} s",
            headers={"Retry-After": seconds},
        )

    def _refusal(
        self, status: int, title: str, detail: str, remedy: str = "", *, headers: dict[str, str] | None = None
    ) -> _Answered:
        return _Answered(self._problem(status, title, detail, remedy=remedy, headers=headers))
