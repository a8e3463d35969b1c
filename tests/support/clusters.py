"""Kubeconfigs, sessions, and servers whose answers no API server would give.

Everything that an API server can do comes from ``SandboxCluster`` and its faults. :class:`RawServer` is for the rest:
bytes that are no HTTP, lines that are no events, connections cut at a given byte.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.identity import ClusterName
from federation.kubernetes.budget import CpuBudget
from federation.kubernetes.session import MAX_ANSWER_BYTES, ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.authentication import ClusterCa, server_context
from federation_sandbox.cluster import kubeconfig
from tests.support.patience import PATIENCE

FAST = ClusterTimeouts(
    connect=10.0, request=10.0, watch=60.0, watch_silence=0.5, backoff_first=0.02, backoff_longest=0.1
)
"""Silence and pauses that make a test of a failure quick; answers may take their time on a loaded machine."""

EAST = ClusterName("east")

Respond = Callable[["Exchange"], Awaitable[None]]


@cache
def _shared_ca() -> ClusterCa:
    return ClusterCa("raw")


class Exchange:
    """One request that arrived, and the bare hands to answer it."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, rest = head.decode("latin-1").partition("\r\n")
        self.method, self.target, _ = line.split(" ", 2)
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (header.partition(":") for header in rest.split("\r\n") if header)
        }
        self.body = b""
        self.reader = reader
        self.writer = writer

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, *, status: str = "200 OK", **headers: str) -> None:
        """A whole HTTP answer; ``content_encoding="gzip"`` becomes a header."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines])
        await self.raw(head.encode() + b"\r\n\r\n" + body)

    async def lines(self, *lines: bytes, last: bytes = b"") -> None:
        """A watch's answer: each line in full, then ``last`` unchanged, then the end of the chunked body."""
        await self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for data in (*(line + b"\n" for line in lines), last):
            if data:
                await self.raw(b"%x\r\n%s\r\n" % (len(data), data))
        await self.raw(b"0\r\n\r\n")


class RawServer:
    """A TLS server on loopback that leaves every answer to ``respond``."""

    def __init__(self, respond: Respond, *, ca: ClusterCa | None = None) -> None:
        self.respond = respond
        self.ca = ca or _shared_ca()
        self.requests: list[str] = []
        self.tls: ssl.SSLContext | None = server_context(self.ca)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, path: Path, *, token: str = "secret-token", **cluster: Any) -> Path:
        """A kubeconfig for this server; ``cluster`` adds keys to its cluster."""
        document = kubeconfig(
            cluster="raw", server=self.url, ca_pem=self.ca.pem, user="hub", credential=token
        )
        document["clusters"][0]["cluster"].update({k.replace("_", "-"): v for k, v in cluster.items()})
        path.write_text(json.dumps(document), "utf-8")
        return path

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                exchange = Exchange(head[:-4], reader, writer)
                length = int(exchange.headers.get("content-length", "0"))
                exchange.body = await reader.readexactly(length)
                self.requests.append(f"{exchange.method} {exchange.target}")
                await self.respond(exchange)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return
        finally:
            self._connections.discard(task)
            writer.close()


@asynccontextmanager
async def connected(
    kubeconfig_file: Path,
    *,
    timeouts: ClusterTimeouts = FAST,
    clock: Clock | None = None,
    most_bytes: int = MAX_ANSWER_BYTES,
    budget: CpuBudget | None = None,
    connections: int = 8,
    permitted: Callable[[], bool] | None = None,
) -> AsyncIterator[ClusterSession]:
    """A session that is closed afterwards."""
    session = await ClusterSession.open(
        Credentials(kubeconfig=kubeconfig_file),
        cluster=EAST,
        timeouts=timeouts,
        clock=clock or SystemClock(),
        most_bytes=most_bytes,
        budget=budget,
        connections=connections,
        permitted=permitted,
    )
    async with session:
        yield session


async def eventually(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Poll until the condition holds; fails loudly when it never does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not condition():
        assert loop.time() < end, "it never came to pass"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that run for the length of a block."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
