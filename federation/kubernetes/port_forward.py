"""A connection to a port of a pod through its API server, as kubectl's port-forward makes it, over a WebSocket.

The API server takes the ``Authorization`` header of every request for itself and hands none on, so its service proxy
cannot carry a token for what is behind it, and it does not verify the certificate there either. A port-forward carries
bytes: TLS and tokens are between the caller and the pod.

The protocol is ``v4.channel.k8s.io``, which kubelets answer in every version (k8s.io/kubelet, package
``cri/streaming/portforward``, websocket.go): a binary message's first byte is its channel; for the one port asked for
channel 0 is data, and 1 is what went wrong, as text. The first message of each channel holds the port, two bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from federation.core.errors import ClusterError, ClusterTimeout, ClusterUnreachable
from federation.kubernetes.answers import error_for, harmless
from federation.kubernetes.connections import AGENT
from federation.kubernetes.credentials import LoadedCredentials

PROTOCOL: Final = "v4.channel.k8s.io"
DATA: Final = 0
FAILURE: Final = 1
PIECE: Final = 32 * 1024  # bytes of one message that is sent
MOST_MESSAGE: Final = 4 * 1024 * 1024
CLOSING: Final = 2.0  # seconds that the other side has to say that it closes too

RIGHTS: Final = (
    "a port-forward takes the rights `get` on services, `list` on pods and `create` and `get` on pods/portforward "
    "in that namespace"
)


@asynccontextmanager
async def forwarded(
    credentials: LoadedCredentials, *, namespace: str, pod: str, port: int, limit: float, where: str
) -> AsyncIterator[socket.socket]:
    """A socket that is connected to that port of the pod, until the block ends.

    ``limit`` is the seconds until it is open; ``where`` names the cluster in errors. Raises ClusterError, also where
    the block ends by an OSError or an aiohttp.ClientError that the forwarding explains.
    """
    what = f"port-forward to {namespace}/{pod}:{port}"
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(limit):
                channel = await _opened(
                    stack, credentials, f"{namespace}/pods/{pod}", port, what=what, where=where
                )
        except TimeoutError:
            raise ClusterTimeout(f"{what}: not open within {limit:g} s", where=where) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ClusterUnreachable(f"{what}: {str(error) or type(error).__name__}", where=where) from error
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        reader, writer = await asyncio.open_connection(sock=ours)
        stack.callback(writer.close)
        pump = _Pump(channel, reader, writer)
        carrying = asyncio.create_task(pump.run())
        try:
            yield _Connected(fileno=theirs.detach())
        except (aiohttp.ClientError, OSError) as error:
            if not pump.failure:
                raise
            raise ClusterUnreachable(f"{what}: {harmless(pump.failure)}", where=where) from error
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)


async def _opened(
    stack: AsyncExitStack, credentials: LoadedCredentials, target: str, port: int, *, what: str, where: str
) -> aiohttp.ClientWebSocketResponse:
    access = await credentials.access()
    sockets: list[socket.socket] = []

    def make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        sockets.append(socket.socket(family, kind, protocol))
        return sockets[-1]

    stack.push_async_callback(_until_closed, sockets)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=make_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": AGENT},
            trust_env=False,
            trace_configs=[_no_redirects()],
        )
    )
    url = URL(f"{credentials.server}/api/v1/namespaces/{target}/portforward", encoded=True)
    try:
        channel = await session.ws_connect(
            url.with_query(ports=str(port)),
            protocols=(PROTOCOL,),
            headers={"Authorization": f"Bearer {access.token}"} if access.token else {},
            ssl=access.tls,
            server_hostname=credentials.tls_server_name,
            proxy=credentials.proxy_url,
            max_msg_size=MOST_MESSAGE,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSING),
        )
    except aiohttp.WSServerHandshakeError as error:
        raise _refused(error.status, what, where) from error
    stack.push_async_callback(channel.close)
    if channel.protocol != PROTOCOL:
        raise ClusterUnreachable(
            f"{what}: the kubelet does not speak {PROTOCOL}",
            where=where,
            remedy="forward it with kubectl, and name that address with --url",
        )
    return channel


async def _until_closed(sockets: list[socket.socket]) -> None:
    """Wait until they are closed: TLS says goodbye first, and the loop may end before that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSING):
            while any(each.fileno() != -1 for each in sockets):  # noqa: ASYNC110  nothing says when
                await asyncio.sleep(0.01)


def _refused(status: int, what: str, where: str) -> ClusterError:
    """The error of a handshake that was answered otherwise than with 101; the answer's text is not to be had."""
    error = error_for(status, b"", what=what, where=where)
    if status == 403:
        error.remedy = RIGHTS
    return error


def _no_redirects() -> aiohttp.TraceConfig:
    """A token and a client certificate go to one server only."""

    async def refuse(*_: object) -> None:
        raise aiohttp.ClientConnectionError("the API server redirects, which none does")

    config = aiohttp.TraceConfig()
    config.on_request_redirect.append(refuse)
    return config


class _Connected(socket.socket):
    """One end of a pair: it is found connected by what connects it."""

    def connect(self, address: object) -> None:
        """It is."""
        del address


class _Pump:
    """Carries bytes between the socket and the WebSocket until either side ends."""

    def __init__(
        self,
        channel: aiohttp.ClientWebSocketResponse,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._channel = channel
        self._reader = reader
        self._writer = writer
        self.failure = ""
        """What the kubelet says of the port, such as that nothing listens there."""

    async def run(self) -> None:
        """Until the first of both directions has ended."""
        directions = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            self._writer.close()
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(CLOSING):  # what has come is handed on, where it is still read
                    await self._writer.wait_closed()
            self._writer.transport.abort()

    async def _up(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            while piece := await self._reader.read(PIECE):
                await self._channel.send_bytes(bytes([DATA]) + piece)

    async def _down(self) -> None:
        begun: set[int] = set()
        async for message in self._channel:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            number, payload = message.data[0], message.data[1:]
            if number not in begun:
                begun.add(number)
                payload = payload[2:]
            if number == FAILURE:
                self.failure += payload.decode("utf-8", "replace")[:500]
            elif payload:
                self._writer.write(payload)
                await self._writer.drain()
