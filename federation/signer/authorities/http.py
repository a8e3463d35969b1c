"""A back end's HTTP API: bounded in time and size, every failure one typed error, TLS by files that may change.

Used by the back ends that speak HTTP themselves (Conjur, Vault). Nothing comes from the environment (proxies,
``.netrc``), redirects are not followed, no cookies, no compressed answers. Plain http is for loopback only, where an
agent on the same machine listens. A request that may have issued a certificate before its answer was lost raises
AuthorityUncertain.

:class:`TransportSecurity` verifies by a CA file and shows a client certificate, both as they are now.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import aiohttp
from yarl import URL

from federation.core.clock import Clock
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityUnavailable,
    AuthorityUncertain,
    InvalidValue,
)
from federation.kubernetes.credentials import client_context
from federation.signer.authorities.credentials import MOUNT, ClientPair, read_in_time, read_pem_file

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""A CRL of some ten thousand entries; everything else is far smaller."""

CONNECT_TIMEOUT: Final = 3.0  # seconds; within every back end's own timeout
IDLE_SECONDS: Final = 30.0  # below the idle limits of common load balancers, so that they do not cut first
AGENT: Final = "federation-hub"
_NETWORK: Final = "check its address, the network path, NetworkPolicies and whether it runs"


LONGEST_RETRY_AFTER: Final = 300.0  # seconds; no answer silences the hub for longer


def retry_after(value: str, clock: Clock) -> float:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 where there is none."""
    if value.isascii() and value.isdigit() and len(value) <= 9:
        return min(float(value), LONGEST_RETRY_AFTER)
    try:
        seconds = (parsedate_to_datetime(value) - clock.now()).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back, whatever its status. The body may hold secrets: it is not part of the text."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


_Files: TypeAlias = tuple[bytes | None, bytes | None, bytes | None]


class TransportSecurity:
    """TLS to one server; the context is the same object while what it is made of has not changed.

    Connections are pooled by it. ``client`` gives the client certificate of now. ``reason`` and ``remedy`` are those of
    the error for files that cannot be used, ``unreadable`` is the reason where the CA file cannot be read.
    """

    def __init__(
        self,
        address: str,
        ca_file: Path | None,
        *,
        reason: str,
        remedy: str,
        unreadable: str = "file_unreadable",
        client: Callable[[], Awaitable[ClientPair]] | None = None,
    ) -> None:
        self._is_https = address.startswith("https:")
        self._ca_file = ca_file
        self._reason = reason
        self._remedy = remedy
        self._unreadable = unreadable
        self._client = client
        self._made_of: _Files | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """That of the last :meth:`load`; None before it, and where plain http is spoken."""
        return self._context

    async def refresh(self) -> tuple[str, ...]:
        """Read the files anew; where they cannot be used, the last good ones stay in use, and that is a warning.

        Raises as :meth:`load` does where there are none yet.
        """
        try:
            await self.load()
        except (AuthorityError, AuthorityUnavailable) as error:
            if self._context is None:
                raise
            return (
                f"its TLS files cannot be taken up anew, and the last good ones serve: {error.diagnostics()}",
            )
        return ()

    async def load(self) -> None:
        """Read the files anew and use them. Raises AuthorityMisconfigured, and what the client certificate raises."""
        if not self._is_https:
            return
        for attempt in (1, 2):
            ca, certificate, key = made_of = await self._read()
            if self._context is not None and made_of == self._made_of:
                return
            make = partial(
                client_context,
                authority=ca,
                certificate=certificate,
                key=key,
                where=str(self._ca_file or ("client certificate" if certificate else "")),
            )
            try:
                self._context = await read_in_time(str(self._ca_file or "the system's CAs"), make)
            except (InvalidValue, OSError) as error:
                if attempt == 1 and certificate is not None:
                    continue  # certificate and key may be of two generations, while they are being exchanged
                raise AuthorityMisconfigured(str(error), reason=self._reason, remedy=self._remedy) from None
            self._made_of = made_of
            return

    async def _read(self) -> _Files:
        """The CA, and the client certificate with its key."""
        ca = None
        if self._ca_file is not None:
            remedy = self._remedy if self._unreadable == self._reason else MOUNT
            ca = await read_pem_file(self._ca_file, reason=self._unreadable, remedy=remedy)
        if self._client is None:
            return ca, None, None
        pair = await self._client()
        return ca, pair.chain_pem, pair.key_pem


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
                headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
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
