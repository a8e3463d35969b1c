"""The listening sockets: connections are accepted, limited by address and paced before a byte of a client is read."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Coroutine
from typing import Any, Final

from federation.core.call_slots import CallSlots, address_of
from federation.core.config.hub import ListenerConfig
from federation.core.config.types import Address
from federation.core.connections import Connections, FairQueue
from federation.core.errors import NotReady, Overloaded, RequestRefused
from federation.signer.listeners.calls import CallHandler, ListenerContext
from federation.signer.listeners.connection import Connection
from federation.signer.listeners.tls import ServingCredentials

_logger = logging.getLogger(__name__)

BACKLOG: Final = 4096  # the kernel takes as many as net.core.somaxconn allows
ACCEPTED_AT_ONCE: Final = 32  # before the loop does something else
NO_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
NO_SUCH_ADDRESS: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
PAUSE: Final = 0.1  # seconds without accepting where there are none
HANDSHAKE_BURST: Final = 4  # handshakes that begin together; each takes up to a millisecond
GOLDEN_RATIO: Final = 0.618034  # its multiples are spread evenly between whole numbers, however many they are
AGE_SPREAD: Final = 0.1  # of the age, to both sides: what connected together does not come back together
PATIENCE: Final = 5.0  # seconds for a name to be resolved, and for what was cancelled to end


class Listener:
    """One listening port with one protocol behind it."""

    def __init__(
        self,
        handler: CallHandler,
        *,
        config: ListenerConfig,
        listen: Address,
        credentials: ServingCredentials,
    ) -> None:
        self.slots: Final = CallSlots(config.max_concurrent, _too_many)
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._context = ListenerContext(
            handler=handler,
            config=config,
            slots=self.slots,
            loop=self._loop,
            run=self._run,
            receive_deadline=self._receive_deadline,
        )
        self._listen = listen
        self._credentials = credentials
        self._seats = Connections(config.max_connections)
        self._queue: FairQueue[Connection] = FairQueue(config.max_handshake_rate, HANDSHAKE_BURST)
        self._spread = 0.0
        self._connections: dict[Connection, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: list[socket.socket] = []
        self._next_entry: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._stopped = False

    async def start(self) -> Address:
        """Bind and serve at the address returned, with the port really bound; NotReady where it is taken."""
        try:
            async with asyncio.timeout(PATIENCE):
                found = await self._loop.getaddrinfo(
                    self._listen.host,
                    int(self._listen.port),
                    type=socket.SOCK_STREAM,
                    flags=socket.AI_PASSIVE,
                )
            port = int(self._listen.port)
            for family, address in dict.fromkeys((each[0], each[4]) for each in found):
                try:
                    listening = _bind(family, (address[0], port, *address[2:]))
                except OSError as error:
                    if error.errno not in NO_SUCH_ADDRESS or not self._listening:
                        raise
                    continue  # a name that has an IPv6 address, on a machine that has none
                self._listening.append(listening)
                port = port or int(listening.getsockname()[1])
        except (OSError, TimeoutError) as error:
            self._close_listeners()
            raise NotReady(
                f"cannot listen at {self._listen}: {getattr(error, 'strerror', None) or error}",
                reason="address_in_use",
                remedy="see who listens there, or change listener.listen",
            ) from None
        for listening in self._listening:
            self._loop.add_reader(listening.fileno(), self._accept, listening)
        return Address(self._listen.host, port)

    async def stop(self, drain: float) -> None:
        """Take no new connections, let calls under way finish for ``drain`` seconds, then end them."""
        self._stopped = True
        self._close_listeners()
        if self._next_entry is not None:
            self._next_entry.cancel()
        for connection in list(self._connections):
            connection.retire()
        if drain > 0 and self._connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain):
                    await self._empty.wait()
        for connection in list(self._connections):
            connection.close(orderly=True)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)

    # --- what connections ask for -----------------------------------------------------------------------------------

    def _receive_deadline(self) -> float:
        """Seconds, from half of what is configured to all of it: what begins together must not end in one burst."""
        return self._config.receive_deadline * (1.0 - self._spreading() / 2)

    def _spreading(self) -> float:
        """From 0 to 1, evenly."""
        self._spread = (self._spread + GOLDEN_RATIO) % 1.0
        return self._spread

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is ended with the listener."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("a call failed unexpectedly", exc_info=error)

    def _connection_ended(self, connection: Connection) -> None:
        """It is closed: its seat is free."""
        if connection.seat is not None:
            connection.seat.leave()
            self._queue.forget(connection.seat.address, connection)
        self._connections.pop(connection, None)
        if not self._connections:
            self._empty.set()

    # --- accepting --------------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS:
                    continue  # that one has gone before it was accepted
                self._context.handler.connection_refused(
                    RequestRefused(f"it cannot be accepted: {error.strerror}", reason="no_descriptors"),
                    peer="",
                )
                self._pause(listening)
                break
            self._seat(sock, _peer(name))
        self._take_turns()

    def _seat(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self._context, sock, peer, ended=self._connection_ended)
        self._connections[connection] = None
        seat = self._seats.enter(address_of(peer), connection.refuse)
        connection.seat = seat
        if not connection.closed:
            self._queue.wait(seat.address, connection)

    def _take_turns(self) -> None:
        """Begin the handshakes whose turn it is, and come back for the others."""
        now = self._loop.time()
        while (connection := self._queue.next(now)) is not None:
            if not connection.closed:
                age = self._config.max_connection_age * (1.0 + AGE_SPREAD * (2.0 * self._spreading() - 1.0))
                connection.shake_hands(self._credentials.context, age=age)
        pause = self._queue.pause(now)
        if pause is not None and self._next_entry is None and not self._stopped:
            self._next_entry = self._loop.call_later(max(pause, 0.001), self._turn)

    def _turn(self) -> None:
        self._next_entry = None
        self._take_turns()

    def _pause(self, listening: socket.socket) -> None:
        """Accept nothing for a moment: the loop would report the same connection again at once."""
        descriptor = listening.fileno()
        self._loop.remove_reader(descriptor)

        def resume() -> None:
            if not self._stopped:
                self._loop.add_reader(descriptor, self._accept, listening)

        self._loop.call_later(PAUSE, resume)

    def _close_listeners(self) -> None:
        for listening in self._listening:
            self._loop.remove_reader(listening.fileno())
            listening.close()
        self._listening.clear()


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):  # the signers of one machine share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # "::" is every address, of both families
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _peer(name: tuple[Any, ...]) -> str:
    """The other end, as gRPC writes it."""
    host, port = str(name[0]), name[1]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _too_many() -> Overloaded:
    return Overloaded(
        "the listener is full, and others have fewer calls whose caller is not proven",
        reason="too_many_calls",
        remedy="status names the address with most of them; raise listener.max_concurrent or add signers for "
        "honest load",
    )
