"""Asks a hub's status API: what the CLI's verbs are made of. Answers are typed, and bounded in time and size."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from federation.core.config.hub import StatusConfig
from federation.core.config.types import is_loopback
from federation.core.errors import ClusterError, FederationError, Unavailable
from federation.files import read_in_time
from federation.status.encoding import decode_answer
from federation.status.model import ProblemDetails
from federation.status.rotation_model import OperationView

DEFAULT_URL: Final = f"http://{StatusConfig().listen}"
TIMEOUT: Final = 10.0
OPERATIONS: Final = "/api/v1/operations"
DECISION_TIMEOUT: Final = 40.0  # the leader decides within some seconds; the API itself waits for 20
MOST_BYTES: Final = 64 * 1024 * 1024  # 200 clusters with every pair failing stay below one
MOST_TOKEN_BYTES: Final = 4096
UNREACHED: Final = (
    "check --url, or `federation context show`, and that a controller runs; --ca-file names the CA of a TLS "
    "listener, --server-name the name in its certificate"
)
MAYBE_DONE: Final = "it may still be done: look at `federation rotate status` before asking again"

Answer = TypeVar("Answer", bound=msgspec.Struct)
T = TypeVar("T")


class StatusUnavailable(Unavailable):
    """The API cannot be asked, refuses, or answers something other than what it promises."""

    default_reason = "status_unavailable"


OpenWay = Callable[[], AbstractAsyncContextManager[socket.socket]]
"""Opens a connected socket that leads to the hub, and closes it. Raises FederationError."""


@dataclass(frozen=True, slots=True)
class StatusClient:
    """One hub to ask. The token file is read at each question.

    ``server_name`` is what its certificate is verified by, where that is not the host of ``url``. ``way`` leads there
    where nothing listens for us at that host; TLS is then spoken with the hub through it, as everywhere.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    server_name: str = ""
    way: OpenWay | None = None

    async def get(self, path: str, kind: type[Answer]) -> Answer:
        """The answer of ``path``; raises StatusUnavailable."""
        body = await self.get_bytes(path)
        try:
            return decode_answer(body, kind)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise StatusUnavailable(
                f"what answers is not the status API of a hub: {error}",
                where=self.url + path,
                remedy="check --url; a hub and this command should be of one version",
            ) from error

    async def get_bytes(self, path: str) -> bytes:
        """The raw answer of ``path``; raises StatusUnavailable."""
        return await self._ask("GET", path, accepted=frozenset({200}), timeout=TIMEOUT)

    async def operate(self, verb: str, arguments: Mapping[str, str]) -> OperationView:
        """Ask for an operation; the decided one, done or refused. Raises StatusUnavailable.

        It is asked for once: the audit shows whether one whose answer was lost was done.
        """
        request = msgspec.json.encode({"verb": verb, "arguments": dict(arguments)})
        accepted = frozenset({200, 409})
        body = await self._ask("POST", OPERATIONS, accepted=accepted, timeout=DECISION_TIMEOUT, body=request)
        try:
            return decode_answer(body, OperationView)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise StatusUnavailable(
                f"what answers is not a hub that takes operations: {error}",
                where=self.url + OPERATIONS,
                remedy=f"check --url; {MAYBE_DONE}",
            ) from error

    async def _ask(
        self, method: str, path: str, *, accepted: frozenset[int], timeout: float, body: bytes | None = None
    ) -> bytes:
        sent = False
        try:
            async with AsyncExitStack() as stack:
                headers = await _read(self.token_file, self._headers)
                headers |= {"Content-Type": "application/json"} if body is not None else {}
                tls = await _read(self.ca_file, self._tls)
                connector = await self._connector(stack)
                session = await stack.enter_async_context(
                    aiohttp.ClientSession(
                        connector=connector, timeout=aiohttp.ClientTimeout(total=timeout), trust_env=False
                    )
                )
                sent = body is not None
                async with session.request(
                    method,
                    self.url + path,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    ssl=tls,
                    server_hostname=self.server_name or None,
                ) as response:
                    answer = await self._body(response)
                    if response.status not in accepted:
                        raise self._refused(path, response.status, answer)
                    return answer
        except ClusterError as error:
            raise StatusUnavailable(
                error.what, where=f"{self.url}{path} through {error.where}", remedy=error.remedy
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            why = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            maybe_done = sent and not isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
            raise StatusUnavailable(
                why or type(error).__name__,
                where=self.url + path,
                remedy=MAYBE_DONE if maybe_done else UNREACHED,
            ) from error

    async def _connector(self, stack: AsyncExitStack) -> aiohttp.TCPConnector:
        if self.way is None:
            return aiohttp.TCPConnector()
        connected = await stack.enter_async_context(self.way())
        return aiohttp.TCPConnector(socket_factory=lambda _: connected, resolver=_Nowhere(), force_close=True)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(65536):
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError(f"the answer is longer than {MOST_BYTES} bytes")
        return bytes(body)

    def _refused(self, path: str, status: int, body: bytes) -> FederationError:
        try:
            details = msgspec.json.decode(body, type=ProblemDetails)
        except (msgspec.MsgspecError, UnicodeError):
            details = ProblemDetails(title="", status=status)
        said = details.detail
        remedy = details.remedy
        if status == 401:  # the hub cannot know how this command is given a token
            remedy = (
                "give the status token with --token-file, or to the context with "
                "`federation context add --replace`"
            )
        elif status == 403 and not remedy:
            remedy = "give the operate token with --token-file; without tokens, ask on the hub's machine"
        return StatusUnavailable(
            f"the hub answered {status}" + (f": {said}" if said else ""),
            where=self.url + path,
            remedy=remedy,
        )

    def _headers(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        parts = urlsplit(self.url)
        if parts.scheme != "https" and self.way is None and not is_loopback(parts.hostname or ""):
            raise ValueError("a token is not sent over plain HTTP to another machine; use https")
        with self.token_file.open("rb") as opened:
            token = opened.read(MOST_TOKEN_BYTES).strip()
        if not token.isascii() or not token or any(byte <= 0x20 for byte in token):
            raise ValueError(f"{self.token_file} holds no token")
        return {"Authorization": f"Bearer {token.decode('ascii')}"}

    def _tls(self) -> ssl.SSLContext | bool:
        return True if self.ca_file is None else ssl.create_default_context(cafile=self.ca_file)


class _Nowhere(AbstractResolver):
    """Names are not looked up where the connection is there already; what is answered is not connected to."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """One address, for form's sake."""
        del family
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def _read(file: Path | None, read: Callable[[], T]) -> T:
    """What ``read`` makes of that file, if any. Raises ValueError where it hangs, for that is no slow answer."""
    try:
        return await read_in_time(str(file or ""), read)
    except TimeoutError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
