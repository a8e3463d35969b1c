"""One cluster's API server over HTTP: bounded in time and size, and every failure one typed error.

The connection is our own aiohttp session, not the library's REST client: no ``trust_env`` (environment and
``.netrc`` choose neither proxy nor credentials), no redirects (a token goes to one server only), no
cookies, no compressed answers (nothing to inflate), and a limit on everything that is read.

Requests whose answers are small by nature go by the hub's own connections (``connections.py``), which take less than
half of the processor time: a token review may be asked for each certificate. All else is aiohttp's, and so is whatever
goes through a proxy.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import (
    MORE_FILES,
    OPEN_FILES,
    ClusterError,
    ClusterGarbage,
    ClusterInvalid,
    ClusterOverBudget,
    ClusterTimeout,
    ClusterUnauthorized,
    ClusterUnreachable,
    ClusterWithheld,
    ConfigurationError,
    OutOfFiles,
)
from federation.core.identity import ClusterName
from federation.files import is_out_of_files
from federation.kubernetes.answers import error_for, harmless
from federation.kubernetes.budget import CpuBudget, Unlimited
from federation.kubernetes.connections import (
    AGENT,
    ConnectTimeout,
    Disconnected,
    NoConnection,
    ServerConnections,
)
from federation.kubernetes.credentials import Access, LoadedCredentials, load_credentials
from federation.kubernetes.http1 import Answer, CutShort, NotHttp, TooLarge
from federation.kubernetes.time_limit import TimeLimit
from federation.kubernetes.token_life import TokenLife
from federation.kubernetes.wire import FREE, SENT_AT_ONCE, UNACKNOWLEDGED, WhilePermitted, member_connector

_logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""A page of 500 whole ConfigMaps is a few MiB; etcd's limit of 1.5 MiB an object makes larger ones rare."""

MEMBER_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Of a member cluster: one object, which etcd limits to 1.5 MiB. A tenant may fill a ConfigMap of 1 MiB with characters
that JSON writes as six each, and must not end its cluster's watch by that."""

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""A watch line holds one object, as above."""

SMALL_ANSWER_BYTES: Final = 256 * 1024
"""For what is small by nature: a review, a token, a version, a set of keys."""

LINE_TOO_LONG: Final = "line_too_long"
TOO_LARGE: Final = "answer_too_large"
"""The reason of the ClusterOverBudget for an answer beyond its limit: asked for less, it may be within."""

OWN_DELAY: Final = "own_delay"
"""The reason of a ClusterTimeout that this process may have caused itself, by being late; the cluster may be well."""

SILENCE: Final = "silence"
"""The reason of the ClusterTimeout for a stream that is open but silent, which may be no failure."""

MAX_ERROR_BYTES: Final = 64 * 1024
_SKEW_SECONDS: Final = (
    10.0  # the Date header has a resolution of a second, so reading it more often gains nothing
)
IDLE_SECONDS: Final = 5.0
"""For which a connection is kept unused: each takes a file, and a fan-out opens as many as may write at once."""
LONG_IDLE_SECONDS: Final = 30.0
"""The same where the next request may come at any time and a caller waits for it: in signers. Below the idle limits of
common load balancers, so that they do not cut first."""
_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~:@!$&'()*+,;=-]+)+")
_OF_SMALL_ANSWERS: Final = (NoConnection, Disconnected, CutShort, NotHttp, TooLarge)


class ClusterSession:
    """Requests to one cluster with one role's credentials. Made by :meth:`open`; close it after use."""

    def __init__(
        self,
        credentials: LoadedCredentials,
        *,
        cluster: ClusterName,
        timeouts: ClusterTimeouts,
        clock: Clock,
        connections: int,
        budget: CpuBudget | None = None,
        most_bytes: int = MAX_ANSWER_BYTES,
        idle: float = IDLE_SECONDS,
        permitted: Callable[[], bool] | None = None,
    ) -> None:
        self.name: Final = cluster
        self._permitted = permitted
        self.server: Final = credentials.server
        self.clock_skew = 0.0
        """Seconds our clock is ahead of the server's Date header, as last seen, to about a second."""
        self.budget: Final = budget or Unlimited(clock)
        """What taking apart its answers is charged to."""
        self.token_sent = ""
        """The bearer token that went out last: whatever text comes back must be freed of it."""
        self._prefix = URL(f"{credentials.server}/", encoded=True).raw_path[:-1]
        self._most_bytes = most_bytes
        self._credentials = credentials
        self._timeouts = timeouts
        self._clock = clock
        self._slots = asyncio.Semaphore(connections)
        self._skew_read_at = -_SKEW_SECONDS
        self._where = str(cluster)
        unacknowledged = None if permitted is None else UNACKNOWLEDGED
        self._connections = (
            ServerConnections(
                credentials.server,
                server_name=credentials.tls_server_name,
                connect=timeouts.connect,
                idle=idle,
                budget=self.budget,
                unacknowledged=unacknowledged,
            )
            if credentials.proxy_url is None
            else None
        )
        # Watches are open for minutes and must not starve requests: slots bound requests alone. Nor do they go over a
        # connection that has brought a list: uvloop and OpenSSL keep the room that its pages took, half a megabyte, for
        # as long as it is open.
        self._http, self._watches = (
            aiohttp.ClientSession(
                connector=member_connector(self.budget, keepalive=idle, unacknowledged=unacknowledged),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
                headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
                trust_env=False,
                auto_decompress=False,
                skip_auto_headers=("Content-Type",),
            )
            for _ in range(2)
        )

    @classmethod
    async def open(
        cls,
        credentials: Credentials,
        *,
        cluster: ClusterName,
        timeouts: ClusterTimeouts,
        clock: Clock,
        connections: int = 8,
        budget: CpuBudget | None = None,
        most_bytes: int = MAX_ANSWER_BYTES,
        idle: float = IDLE_SECONDS,
        permitted: Callable[[], bool] | None = None,
    ) -> Self:
        """Read the credentials; nothing is sent yet. ``connections`` bounds requests at once, not watches.

        ``most_bytes`` bounds every answer, and ``budget`` what it costs to take them apart (default: no bound).
        ``idle`` is for how many seconds a connection is kept that nothing is asked for. ``permitted`` says whether
        this process may still write: see :meth:`request` (default: it may always).

        Raises ConfigurationError for credentials that cannot be used, ClusterUnauthorized for an exec plugin
        that fails.
        """
        loaded = await load_credentials(credentials, cluster=cluster, clock=clock)
        return cls(
            loaded,
            cluster=cluster,
            timeouts=timeouts,
            clock=clock,
            connections=connections,
            budget=budget,
            most_bytes=most_bytes,
            idle=idle,
            permitted=permitted,
        )

    @property
    def authority(self) -> bytes | None:
        """The CA certificates that the API server is verified by, as PEM; None for those of the system."""
        return self._credentials.authority

    @property
    def credential_life(self) -> TokenLife:
        """How long the bearer token that went out last lives, or where there is none, the client certificate."""
        return self._credentials.life

    @property
    def own_token_file(self) -> Path | None:
        """The file of the role's token where it is named after its kubeconfig: then the role renews it."""
        return self._credentials.own_token_file

    def adopt(self, token: str) -> None:
        """Send this token from now on, until its file holds one that is as new."""
        self._credentials.adopt(token)

    async def current_token(self) -> str:
        """The token to send, after its file was read again. Raises ClusterUnauthorized where it cannot be read."""
        return (await self._access("read its token", renew=True)).token

    async def get(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = "application/json",
        timeout: float | None = None,
        most_bytes: int | None = None,
    ) -> bytes:
        """The body of a GET; see :meth:`request`."""
        return await self.request(
            "GET", path, params=params, accept=accept, timeout=timeout, most_bytes=most_bytes
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | None = None,
        most_bytes: int | None = None,
        permitted: Callable[[], bool] | None = None,
    ) -> bytes:
        """The body of a 2xx answer, at most ``most_bytes`` (default: the session's), enforced while it is read.

        ``timeout`` in seconds covers everything, the wait for a slot included (default: the cluster's
        ``request``). Every failure is a ClusterError. A connection that the server closed before it sent a
        byte is tried once more whatever the method: every write of the hub may come twice (an apply, a review, a
        token request, a delete, a create under a name drawn for it alone).

        ``permitted`` says whether this process may still write (default: the session's). It is called for a body as
        late as can be, before each piece of it: to wait for a slot and to connect takes time, and a process may be
        stopped meanwhile. Raises ClusterWithheld where it may not; the server then gets no whole request.
        """
        permitted = (permitted or self._permitted) if method != "GET" else None
        limit = self._timeouts.request if timeout is None else timeout
        most = self._most_bytes if most_bytes is None else min(most_bytes, self._most_bytes)
        what = f"{method} {path}"
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        send: Callable[..., Coroutine[Any, Any, bytes]]
        at_once = body is None or permitted is None or len(body) <= SENT_AT_ONCE
        if self._connections is not None and most <= SMALL_ANSWER_BYTES and at_once:
            target = self._target(path, params, method)
            send = partial(
                self._send_small, method, target, headers, body, what, most=most, permitted=permitted
            )
        else:
            url = self._url(path, params, method)
            payload = body if body is None or permitted is None else WhilePermitted(body, permitted)
            send = partial(self._send, method, url, headers, payload, what, most=most)
        within = TimeLimit(limit)
        try:
            async with within, self._slots:
                try:
                    return await send()
                except ClusterUnauthorized:
                    return await send(renew=True)
                except aiohttp.ServerDisconnectedError:
                    return await send()
                except Disconnected:
                    return await send(anew=True)
        except (aiohttp.ClientError, OSError, *_OF_SMALL_ANSWERS) as error:
            if permitted is not None and not permitted():
                raise self._withheld(what) from error
            raise self._failure(error, what, limit, late=within.late) from error

    def _withheld(self, what: str) -> ClusterWithheld:
        return ClusterWithheld(f"{what}: this process does not lead any more", where=self._where)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = "application/json",
        silence: float,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a GET that goes on: ``async with session.stream(...) as lines``.

        Entering waits for the status, at most the ``request`` timeout. The iterator ends where the server
        ends the stream; it raises ClusterTimeout after ``silence`` seconds without a line that holds
        anything, ClusterOverBudget for a line longer than :data:`MAX_LINE_BYTES`, ClusterGarbage for a last
        line without its end, and other ClusterErrors as they come.
        """
        url = self._url(path, params, "GET")
        what = f"watch {path}"
        limit = self._timeouts.request
        within = TimeLimit(limit)
        try:
            async with within:
                response = await self._start("GET", url, {"Accept": accept}, None, what, over=self._watches)
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(error, what, limit, late=within.late) from error
        lines = _Lines(response, clock=self._clock, silence=silence, budget=self.budget)
        guard = asyncio.create_task(lines.guard())
        try:
            async with aclosing(self._translated(lines, what, silence)) as iterator:
                yield iterator
        finally:
            guard.cancel()
            response.close()
            await asyncio.gather(guard, return_exceptions=True)

    async def close(self) -> None:
        """Close every connection; watches under way end with ClusterUnreachable."""
        if self._connections is not None:
            self._connections.close()
        for http in (self._watches, self._http):
            await http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _url(self, path: str, params: Mapping[str, str] | None, method: str) -> URL:
        self._check_path(path, method)
        url = URL(self.server + path, encoded=True)
        return url.with_query(params) if params else url

    def _target(self, path: str, params: Mapping[str, str] | None, method: str) -> str:
        """The same as a request names it to its server."""
        if params:
            return self._url(path, params, method).raw_path_qs
        self._check_path(path, method)
        return self._prefix + path

    def _check_path(self, path: str, method: str) -> None:
        """A path with dot segments could leave the object it names, and names come from the cluster."""
        if not _PATH.fullmatch(path):
            raise ClusterInvalid(
                f"{method} {harmless(path)!r} is not a path of the Kubernetes API", where=self._where
            )

    async def _send_small(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | None,
        what: str,
        *,
        most: int,
        renew: bool = False,
        anew: bool = False,
        permitted: Callable[[], bool] | None = None,
    ) -> bytes:
        """The body of a 2xx answer, by the hub's own connections; one that was not used before where ``anew``."""
        connections = self._connections
        if connections is None or connections.closed:
            raise ClusterUnreachable(f"{what}: this session was closed", where=self._where)
        access = await self._access(what, renew=renew)
        if access.token:
            headers = headers | {"Authorization": f"Bearer {access.token}"}
            self.token_sent = access.token
        answer = Answer(most=most, most_of_error=MAX_ERROR_BYTES)
        text = b""
        try:
            await connections.ask(
                method, target, headers, body, answer, tls=access.tls, anew=anew, permitted=permitted
            )
            text = answer.body
        except (CutShort, NotHttp, TooLarge):
            if not answer.status or 200 <= answer.status <= 299:
                raise
            # the status says enough
        if answer.received > FREE:
            await self.budget.turn()
        self._note_clock(answer.fields.get(b"date", b""))
        if not 200 <= answer.status <= 299:
            after = answer.fields.get(b"retry-after", b"").decode("latin-1")
            raise error_for(
                answer.status, text, what=what, where=self._where, retry_after=after, secret=access.token
            )
        if answer.fields.get(b"content-encoding", b"identity") != b"identity":
            raise self._compressed(what)
        return text

    async def _send(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        body: bytes | WhilePermitted | None,
        what: str,
        *,
        most: int,
        renew: bool = False,
    ) -> bytes:
        response = await self._start(method, url, headers, body, what, renew=renew)
        try:
            return await self._read(response, what, most)
        finally:
            response.release()

    async def _start(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        body: bytes | WhilePermitted | None,
        what: str,
        *,
        renew: bool = False,
        over: aiohttp.ClientSession | None = None,
    ) -> aiohttp.ClientResponse:
        """The response once its status is known to be 2xx; otherwise raises the error that it means."""
        if self._http.closed:
            raise ClusterUnreachable(f"{what}: this session was closed", where=self._where)
        access = await self._access(what, renew=renew)
        if access.token:
            headers = headers | {"Authorization": f"Bearer {access.token}"}
            self.token_sent = access.token
        response = await (over or self._http).request(
            method,
            url,
            headers=headers,
            data=body,
            ssl=access.tls,
            server_hostname=self._credentials.tls_server_name,
            proxy=self._credentials.proxy_url,
            allow_redirects=False,
        )
        self._note_clock(response.headers.get("Date", "").encode("latin-1", "replace"))
        if 200 <= response.status <= 299:
            return response
        try:
            text = await self._read(response, what, MAX_ERROR_BYTES)
        except (ClusterGarbage, ClusterOverBudget, aiohttp.ClientError):
            text = b""  # the status says enough
        finally:
            response.close()
        raise error_for(
            response.status,
            text,
            what=what,
            where=self._where,
            retry_after=response.headers.get("Retry-After", ""),
            secret=access.token,
        )

    async def _access(self, what: str, *, renew: bool) -> Access:
        try:
            return await self._credentials.access(renew=renew)
        except OutOfFiles as error:
            raise self._out_of_files(what) from error
        except ConfigurationError as error:
            raise ClusterUnauthorized(f"{what}: {error}", where=self._where, remedy=error.remedy) from error

    async def _read(self, response: aiohttp.ClientResponse, what: str, limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                response.close()
                raise self._too_large(what, limit)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._compressed(what)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, what: str, limit: int) -> ClusterOverBudget:
        return ClusterOverBudget(
            f"{what}: the answer is larger than {limit} bytes", where=self._where, reason=TOO_LARGE
        )

    def _compressed(self, what: str) -> ClusterGarbage:
        return ClusterGarbage(
            f"{what}: the answer is compressed though that was not requested", where=self._where
        )

    async def _translated(self, lines: _Lines, what: str, silence: float) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(lines.split()) as split:
                async for line in split:
                    yield line
        except _LineTooLongError:
            problem = f"{what}: a line is longer than {MAX_LINE_BYTES} bytes"
            raise ClusterOverBudget(problem, where=self._where, reason=LINE_TOO_LONG) from None
        except (aiohttp.ClientError, OSError) as error:
            if lines.silent:
                raise self._silent(what, silence) from None
            if isinstance(error, aiohttp.ClientPayloadError):
                raise ClusterUnreachable(f"{what}: the connection was cut", where=self._where) from error
            raise self._failure(error, what, silence) from error
        if lines.silent:  # closing it may look like an end in good order
            raise self._silent(what, silence)
        if lines.cut:
            raise ClusterGarbage(f"{what}: the last line is cut short", where=self._where)

    def _silent(self, what: str, silence: float) -> ClusterTimeout:
        return ClusterTimeout(f"{what}: silent for {silence:g} s", where=self._where, reason=SILENCE)

    def _failure(self, error: Exception, what: str, limit: float, *, late: float = 0.0) -> ClusterError:
        """The typed error for an exception of aiohttp, the hub's own connections, the socket or the timeout.

        ``late`` are the seconds by which this process was late itself meanwhile.
        """
        # These count all the time that passes.
        connecting = isinstance(error, aiohttp.ConnectionTimeoutError | ConnectTimeout)
        if isinstance(error, TimeoutError) and late >= (self._timeouts.connect / 4 if connecting else limit):
            return ClusterTimeout(
                f"{what}: not answered while this process was {late:.1f} s late itself",
                where=self._where,
                reason=OWN_DELAY,
                remedy="give the hub's processes more CPU; it tries again by itself",
            )
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError | NoConnection) else error
        if is_out_of_files(cause):
            return self._out_of_files(what)
        if isinstance(error, CutShort | NotHttp | TooLarge):
            return self._failure_of_answer(error, what)
        return self._failure_of_cluster(error, what, limit)

    def _failure_of_cluster(self, error: Exception, what: str, limit: float) -> ClusterError:
        said = harmless(str(error), secret=self.token_sent)
        text = f"{what}: {said or type(error).__name__}"
        match error:
            case aiohttp.ConnectionTimeoutError() | ConnectTimeout():
                return ClusterUnreachable(
                    f"{what}: no connection in {self._timeouts.connect:g} s", where=self._where
                )
            case (
                aiohttp.ClientConnectorCertificateError()
                | NoConnection(os_error=ssl.SSLCertVerificationError())
            ):
                return ClusterUnreachable(
                    text,
                    where=self._where,
                    remedy="check certificate-authority and tls-server-name of its kubeconfig",
                    reason="tls",
                )
            case aiohttp.ClientConnectorError() | NoConnection():
                why = error.os_error.strerror or type(error.os_error).__name__
                return ClusterUnreachable(
                    f"{what}: no connection to {error.host}:{error.port}: {harmless(why)}", where=self._where
                )
            case aiohttp.ClientPayloadError():
                return ClusterGarbage(f"{what}: the answer was cut short", where=self._where)
            case TimeoutError():
                return ClusterTimeout(f"{what}: no answer in {limit:g} s", where=self._where)
            case aiohttp.ClientHttpProxyError():
                return ClusterUnreachable(f"{what}: the proxy answered {error.status}", where=self._where)
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
                return ClusterGarbage(
                    f"{what}: the answer is not HTTP ({type(error).__name__})", where=self._where
                )
            case _:
                return ClusterUnreachable(text, where=self._where)

    def _failure_of_answer(self, error: CutShort | NotHttp | TooLarge, what: str) -> ClusterError:
        if isinstance(error, TooLarge):
            return self._too_large(what, error.most)
        said = "was cut short" if isinstance(error, CutShort) else f"is not HTTP ({error})"
        return ClusterGarbage(f"{what}: the answer {said}", where=self._where)

    def _out_of_files(self, what: str) -> ClusterUnreachable:
        """Nothing is wrong with the cluster, nor with its kubeconfig."""
        return ClusterUnreachable(
            f"{what}: no connection: this process may open no more files",
            where=self._where,
            reason=OPEN_FILES,
            remedy=MORE_FILES,
        )

    def _note_clock(self, date: bytes) -> None:
        """The skew by the answer's Date field, empty where it has none."""
        now = self._clock.monotonic()
        if now - self._skew_read_at < _SKEW_SECONDS:
            return
        try:
            server = parsedate_to_datetime(date.decode("latin-1"))
            # The header cuts the fraction off: half a second is the best guess for it.
            self.clock_skew = (self._clock.now() - server).total_seconds() - 0.5
        except (TypeError, ValueError, OverflowError):
            return  # no Date, or one that is none: nothing is known
        self._skew_read_at = now


class _LineTooLongError(Exception):
    pass


class _Lines:
    """Splits a response into lines; a guard beside it ends it when no whole one comes.

    Neither empty lines nor the beginning of one are signs of life: either may come for ever.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, *, clock: Clock, silence: float, budget: CpuBudget
    ) -> None:
        self._response = response
        self._budget = budget
        self._clock = clock
        self._silence = silence
        self._last_line_at = clock.monotonic()
        self.silent = False
        self.cut = False

    async def guard(self) -> None:
        """Close the response once it was silent for too long; the reader then fails and sees why."""
        while (left := self._last_line_at + self._silence - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)
        self.silent = True
        self._response.close()

    async def split(self) -> AsyncGenerator[bytes, None]:
        """Each line without its end; empty ones are left out."""
        begun: list[
            bytes
        ] = []  # of a line whose end has not come: joined once, or a long one is copied each time
        size = 0
        while chunk := await self._chunk():
            with self._budget.charged(len(chunk)):
                lines = chunk.split(b"\n")
                begun.append(lines[0])
                size += len(lines[0])
                if len(lines) > 1:
                    lines[0] = b"".join(begun)
                    begun = [lines.pop()]
                    size = len(begun[0])
                    lines = [line for line in lines if line]
                else:
                    lines = []
            for line in lines:
                self._last_line_at = self._clock.monotonic()
                yield line
            if size > MAX_LINE_BYTES:
                raise _LineTooLongError
            # Buffered chunks come without a wait, and so may empty lines for ever: give others their turn.
            await asyncio.sleep(0)
            await self._budget.turn()
        self.cut = bool(b"".join(begun).strip())

    async def _chunk(self) -> bytes:
        try:
            return await self._response.content.readany()
        except RuntimeError as error:  # what aiohttp raises where it was closed between two reads
            raise aiohttp.ClientConnectionError("connection closed") from error
