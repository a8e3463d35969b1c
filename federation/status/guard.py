"""Who may read the status and who may operate: bearers of tokens, or callers on this machine where there are none."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from federation.core.errors import InvalidValue
from federation.status.answers import Handler, problem
from federation.status.source import ConfigView
from federation.status.tokens import Right, is_same, read_token_in_time

MOST_READS: Final = 8
"""At once: each is a thread, which anybody can cause, and which a volume that hangs does not give back."""
LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
RIGHT: Final = web.RequestKey("federation.right", Right)
"""The key of a request under which the guard says what its caller may do."""

logger = logging.getLogger(__name__)


def may_operate(request: web.Request) -> bool:
    """Whether the guard has seen the operate token of this caller."""
    return request.get(RIGHT) is Right.OPERATE


class _Refused(Exception):
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class Guard:
    """Middleware over every path but ``unguarded``. The token files are read anew for each request.

    Without a token that reads, the API is answered on loopback only, and there only under a local name, so that no web
    page can reach it through a name of its own (DNS rebinding). The insecure option lifts both. An operator
    may read as well.
    """

    def __init__(self, config: ConfigView, *, unguarded: frozenset[str]) -> None:
        self._config = config
        self._unguarded = unguarded
        self._reads = asyncio.Semaphore(MOST_READS)

    @property
    def middleware(self) -> Middleware:
        """The middleware to register after the one that turns errors into problems."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path not in self._unguarded:
                try:
                    request[RIGHT] = await self._right(request)
                except _Refused as refused:
                    return refused.response
            return await handler(request)

        return guard

    async def _right(self, request: web.Request) -> Right:
        """What this caller may do. Raises _Refused."""
        status = self._config.current.status
        given = _bearer(request)
        unusable = False
        for right, file in ((Right.OPERATE, status.operate_token_file), (Right.READ, status.read_token_file)):
            if file is None or not given:
                continue
            token = await self._token(file)
            if token is None:
                unusable = True
            elif is_same(given, token):
                return right
        if unusable:
            raise _Refused(
                problem(503, "Not available", "the hub cannot use its own token; its log says why")
            )
        if status.read_token_file is None:
            refusal = None if status.insecure_allow_unauthenticated else _local_only(request)
            if refusal is not None:
                raise _Refused(refusal)
            return Right.READ
        if not given and await self._token(status.read_token_file) is None:
            raise _Refused(
                problem(503, "Not available", "the hub cannot use its own token; its log says why")
            )
        challenge = 'Bearer realm="federation-hub"' + (', error="invalid_token"' if given else "")
        raise _Refused(
            problem(
                401,
                "Unauthorized",
                "send the status token as bearer token",
                headers={"WWW-Authenticate": challenge},
            )
        )

    async def _token(self, file: Path) -> bytes | None:
        async with self._reads:
            return await usable_token(file)


def _bearer(request: web.Request) -> bytes:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return given.strip().encode(errors="replace") if scheme.lower() == "bearer" else b""


async def usable_token(file: Path) -> bytes | None:
    """The token; None where it cannot be used, which the log says."""
    try:
        return await read_token_in_time(file)
    except OSError as error:
        logger.warning("a status token cannot be read: %s", error, extra={"file": str(file)})
    except InvalidValue as error:
        logger.warning("a status token cannot be used: %s", error.diagnostics(), extra={"file": str(file)})
    return None


def _local_only(request: web.Request) -> web.Response | None:
    sockname = request.transport.get_extra_info("sockname") if request.transport else None
    if not sockname or not _is_loopback(str(sockname[0])):
        return problem(
            403, "Forbidden", "no token is configured, so only callers on the hub's machine are answered"
        )
    host = request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host
    if host not in LOCAL_NAMES and not _is_loopback(host.strip("[]")):
        return problem(403, "Forbidden", "no token is configured, so only local names are answered")
    return None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
