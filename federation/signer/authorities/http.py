"""One back end's HTTP API: bounded in time and size, and every failure one typed error.

Nothing comes from the environment (proxies, ``.netrc``), redirects are not followed, no cookies, no
compressed answers. Plain http is for loopback only, where an agent on the same machine listens. A request
that may have issued a certificate before its answer was lost raises AuthorityUncertain.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from yarl import URL

from federation.core.errors import AuthorityUnavailable, AuthorityUncertain

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""A CRL of some ten thousand entries; everything else is far smaller."""

CONNECT_TIMEOUT: Final = 3.0  # seconds; within every back end's own timeout
IDLE_SECONDS: Final = 30.0  # below the idle limits of common load balancers, so that they do not cut first
_AGENT: Final = "federation-hub"
_NETWORK: Final = "check its address, the network path, NetworkPolicies and whether it runs"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back, whatever its status. The body may hold secrets: it is not part of the text."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Outward:
    """Calls to one base address. ``tls`` is asked for the context of each call, so that it may change.

    ``where`` names the back end in errors.
    """

    def __init__(
        self,
        base: str,
        *,
        where: str,
        timeout: float,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        connections: int = 64,
    ) -> None:
        self.base: Final = URL(base)
        self._where = where
        self._timeout = timeout
        self._tls = tls
        self._connections = connections
        self._http: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
        may_issue: bool = False,
        base: URL | None = None,
    ) -> HttpAnswer:
        """One request, at most ``timeout`` seconds (default: the back end's) until its last byte.

        ``path`` is below the base and already percent-encoded. ``base`` is another node of the same back end
        (an answered redirect). Raises AuthorityUnavailable with the reason ``unreachable``, ``tls``,
        ``timeout`` or ``cut_off``; with ``may_issue`` the last two are AuthorityUncertain.
        """
        limit = self._timeout if timeout is None else timeout
        url = (base or self.base) / ""
        target = URL(str(url).rstrip("/") + path, encoded=True)
        try:
            async with asyncio.timeout(limit):
                return await self._send(method, target, headers, params, body)
        except TimeoutError as error:
            raise self._lost(
                f"no answer to {method} {path} within {limit:g} s",
                "timeout",
                may_issue and not isinstance(error, aiohttp.ConnectionTimeoutError),
            ) from None
        except aiohttp.ClientSSLError as error:
            raise AuthorityUnavailable(
                f"no TLS with {target.host}: {_cause(error)}",
                where=self._where,
                reason="tls",
                remedy="check ca_file, the names in its certificate and, where one is used, our client certificate",
            ) from None
        except aiohttp.ClientConnectionError as error:
            if isinstance(
                error, aiohttp.ClientConnectorError | aiohttp.ServerConnectionError
            ) and not isinstance(error, aiohttp.ServerDisconnectedError):
                raise AuthorityUnavailable(
                    f"no connection to {target.host}:{target.port}: {_cause(error)}",
                    where=self._where,
                    reason="unreachable",
                    remedy=_NETWORK,
                ) from None
            raise self._lost(f"the connection was cut during {method} {path}", "cut_off", may_issue) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(
                f"{method} {path} was answered by something that is not HTTP, or in part ({type(error).__name__})",
                "cut_off",
                may_issue,
            ) from None

    async def close(self) -> None:
        """Close every connection."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _send(
        self,
        method: str,
        target: URL,
        headers: Mapping[str, str] | None,
        params: Mapping[str, str] | None,
        body: bytes | None,
    ) -> HttpAnswer:
        context = self._tls() if target.scheme == "https" else None
        async with self._session().request(
            method,
            target,
            headers=headers,
            params=params,
            data=body,
            ssl=context if context is not None else True,
            allow_redirects=False,
        ) as response:
            chunks, size = [], 0
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    raise AuthorityUnavailable(
                        f"its answer to {method} {target.path} is larger than {MAX_ANSWER_BYTES} bytes",
                        where=self._where,
                        reason="garbage",
                        remedy="something else answers at that address: check it",
                    )
                chunks.append(chunk)
            return HttpAnswer(response.status, response.headers, b"".join(chunks))

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
                trust_env=False,
                auto_decompress=False,
                skip_auto_headers=("Content-Type",),
            )
        return self._http

    def _lost(self, what: str, reason: str, may_issue: bool) -> AuthorityUnavailable:
        if may_issue:
            return AuthorityUncertain(f"{what}: it may have issued", where=self._where)
        return AuthorityUnavailable(what, where=self._where, reason=reason, remedy=_NETWORK)


def _cause(error: BaseException) -> str:
    """The innermost cause in a few words; addresses and names, never what was sent."""
    inner = error.__cause__ or error
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return str(text)[:200]
