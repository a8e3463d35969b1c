"""A network between processes of this machine that can be cut, and a balancer of connections in front of listeners.

Bytes are passed on as they come; TLS ends where it would without them. A cut is of one of two kinds: ``BLACK_HOLE``,
where packets are lost and neither side learns of it, and ``RESET``, where a firewall refuses. What a sender had given
up by a reset before a black hole ends is lost; what it had not is delivered late, as TCP does.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from federation_sandbox.ports import free_port

LOOPBACK = "127.0.0.1"
PIECE = 64 * 1024
CONNECT = 5.0
"""Seconds for a connection to a server of this machine."""


class Cut(enum.Enum):
    """How a way is cut."""

    BLACK_HOLE = "black hole"
    RESET = "reset"


class Way:
    """What links have in common that are cut together."""

    def __init__(self) -> None:
        self.whole = asyncio.Event()
        self.whole.set()
        self.resets = False
        self.links: list[Link] = []

    @contextlib.asynccontextmanager
    async def cut(self, how: Cut) -> AsyncIterator[None]:
        """Cut while the block runs, what is open included."""
        if how is Cut.RESET:
            self.resets = True
            for link in self.links:
                await link.end_all()
        else:
            self.whole.clear()
        try:
            yield
        finally:
            self.resets = False
            self.whole.set()


class Link:
    """A port that leads to a server. ``target`` is called for each connection; ``source`` is where it comes from."""

    def __init__(
        self,
        target: Callable[[], tuple[str, int] | None],
        *,
        way: Way | None = None,
        source: str = LOOPBACK,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.port = free_port()
        self._target = target
        self._way = way or Way()
        self._way.links.append(self)
        self._source = source
        self._refused = refused
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port, backlog=512)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        await self.end_all()

    async def end_all(self) -> None:
        """Reset what is open."""
        open_now = list(self._open)
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Of a server's callback: a task from the first, or a connection that came as all end would stay open."""
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._open.discard(task)
            writer.transport.abort()

        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
            await self._connect_through(reader, writer)  # the near side is ended as the far side was

    async def _connect_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._way.whole.wait()
        target = None if self._way.resets else self._target()
        if target is None:
            self._refused()
            return
        try:
            async with asyncio.timeout(CONNECT):
                far_reader, far_writer = await self._dial(target)
        except OSError:
            self._refused()
            raise
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:  # what is half-closed is closed: neither TLS nor HTTP/2 goes on after it
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.transport.abort()  # a process that is stopped would never take what is left
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _dial(self, target: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from this link's own address. Raises OSError; nothing is left open where it is cancelled."""
        connected = socket.socket()
        try:
            connected.setblocking(False)
            connected.bind((self._source, 0))
            await asyncio.get_running_loop().sock_connect(connected, target)
            return await asyncio.open_connection(sock=connected)
        except BaseException:
            connected.close()
            raise

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            await self._way.whole.wait()
            if reader.exception() is not None:
                return  # reset while the way was cut: what had been sent was lost
            writer.write(data)
            await writer.drain()
        await self._way.whole.wait()


@dataclass(frozen=True)
class Checks:
    """How a balancer finds out who is ready: as kubelets do, by default with the chart's readiness probe."""

    every: float = 5.0
    timeout: float = 3.0
    failures: int = 2


@dataclass
class Backend:
    """One listener behind a balancer: where it listens, where its probes are answered, and what is known of it."""

    port: int
    probes: int
    way: Way = field(default_factory=Way)
    ready: bool = False
    removed: bool = False
    """Taken out by hand, as the endpoint of a pod that is being deleted is."""

    def __post_init__(self) -> None:
        self.link = Link(lambda: (LOOPBACK, self.port), way=self.way, refused=self.refuse)
        self.probe_link = Link(lambda: (LOOPBACK, self.probes), way=self.way)

    def refuse(self) -> None:
        """A connection was refused."""
        self.ready = False


class Balancer:
    """One address for several listeners, as kube-proxy gives a Service: it chooses once for each connection.

    Connections that stand stay where they are, whatever becomes of their listener's readiness, and none is moved to
    another listener because the first one refuses it. One that refuses a connection gets no other before a check has
    found it ready. Where none is ready all are tried, as Envoy does below its panic threshold. Checks take the same way
    as connections.
    """

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self.backends: dict[str, Backend] = {}
        self._turns = itertools.count()
        self._link = Link(self._choose)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._link.port

    async def add(self, name: str, *, port: int, probes: int) -> None:
        """One more listener, which is not ready before a check says so; in place of one of that name."""
        former = self.backends.get(name)
        if former is not None:
            former.removed = True
        backend = self.backends[name] = Backend(port, probes)
        await backend.link.start()
        await backend.probe_link.start()
        self._tasks.append(asyncio.create_task(self._probe(backend)))

    async def wait_ready(self, name: str, *, limit: float) -> None:
        """Wait until connections go there."""
        async with asyncio.timeout(limit):
            while not self.backends[name].ready:
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Balance while the block runs."""
        await self._link.start()
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for link in (
                self._link,
                *(link for backend in self.backends.values() for link in backend.way.links),
            ):
                await link.close()

    def _choose(self) -> tuple[str, int] | None:
        there = [backend for backend in self.backends.values() if not backend.removed]
        ready = [backend for backend in there if backend.ready] or there
        return (LOOPBACK, ready[next(self._turns) % len(ready)].link.port) if ready else None

    async def _probe(self, backend: Backend) -> None:
        missed = 0
        timeout = aiohttp.ClientTimeout(total=self._checks.timeout)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            while not backend.removed:
                began, well = time.monotonic(), False
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://{LOOPBACK}:{backend.probe_link.port}/readyz") as answer:
                        well = answer.status == 200
                missed = 0 if well else missed + 1
                if well or missed >= self._checks.failures:
                    backend.ready = well
                every = self._checks.every if backend.ready else min(0.2, self._checks.every)
                await asyncio.sleep(max(0.05, began + every - time.monotonic()))


def redirected(kubeconfig: Path, port: Callable[[str, int], int]) -> str:
    """The same kubeconfig, whose server is reached at that port of this machine (``port`` of its host and port)."""
    document: dict[str, Any] = yaml.safe_load(kubeconfig.read_text("utf-8"))
    for entry in document["clusters"]:
        host, _, number = str(entry["cluster"]["server"]).removeprefix("https://").rpartition(":")
        entry["cluster"] |= {
            "server": f"https://{LOOPBACK}:{port(host, int(number))}",
            "tls-server-name": host,
        }
    return yaml.safe_dump(document)
