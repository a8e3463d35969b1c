"""Who may read the status: bearers of the token, or callers on this machine where none is configured."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from federation.files.reading import read_in_time
from federation.status.answers import Handler, problem
from federation.status.source import ConfigView

MOST_TOKEN_BYTES: Final = 4096
TIMEOUT: Final = 2.0
MOST_READS: Final = 8
"""At once: each is a thread, which anybody can cause, and which a volume that hangs does not give back."""
LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
logger = logging.getLogger(__name__)


class Guard:
    """Middleware over every path but ``unguarded``. The token file is read anew for each request.

    Without a token the API is answered on loopback only, and there only under a local name, so that no web
    page can reach it through a name of its own (DNS rebinding). The insecure option lifts both.
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
            refusal = None if request.path in self._unguarded else await self._refusal(request)
            return refusal or await handler(request)

        return guard

    async def _refusal(self, request: web.Request) -> web.Response | None:
        status = self._config.current.status
        if status.token_file is None:
            return None if status.insecure_allow_unauthenticated else _local_only(request)
        try:
            async with asyncio.timeout(TIMEOUT), self._reads:
                token = await read_in_time(str(status.token_file), partial(_read_token, status.token_file))
        except OSError as error:
            logger.warning(
                "the status token cannot be read: %s", error, extra={"file": str(status.token_file)}
            )
            return problem(503, "Not available", "the hub cannot read its own token; its log says why")
        if not token:
            logger.warning("the status token file is empty", extra={"file": str(status.token_file)})
            return problem(503, "Not available", "the hub has no token to compare with; its log says why")
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(errors="replace"), token):
            return None
        challenge = 'Bearer realm="federation-hub"' + (', error="invalid_token"' if given else "")
        return problem(
            401,
            "Unauthorized",
            "send the status token as bearer token",
            headers={"WWW-Authenticate": challenge},
        )


def _read_token(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MOST_TOKEN_BYTES).strip()


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
