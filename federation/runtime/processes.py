"""The processes of this program: children kept running, their shared port, signals, and the limit of open files.

**The supervisor** restarts children with backoff, forwards signals, drains, and kills last. A child is ``python -m
federation <arguments>``, started anew or forked (:mod:`~federation.runtime.forking`). Its log goes where the
supervisor's goes; what it prints on standard output is handed on line by line.

**The lifeline:** a child notices at once that its supervisor has died, however it died, and does not outlive it for
long. The supervisor holds the writing end of each child's standard input and never writes; the kernel closes it with
the supervisor's death. A thread waits for that, so that even a child whose event loop hangs ends. Nothing here
depends on Linux, unlike ``PR_SET_PDEATHSIG``, which besides is lost where the spawning thread ends first.

**The port** is one that several processes share by SO_REUSEPORT, kept by their supervisor while they come and go.

**Signals:** SIGTERM and SIGINT end a role gracefully, SIGHUP makes it read its configuration again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

from federation.core.clock import Clock
from federation.core.config.types import Address
from federation.core.errors import NotReady

_logger = logging.getLogger(__name__)

VARIABLE: Final = "FEDERATION_SUPERVISED"
"""Set in a child's environment by the supervisor; without it the end of standard input means nothing."""


def hold(*, grace: float) -> None:
    """End this process after its supervisor: SIGTERM to itself, and an exit without a drain after ``grace`` seconds.

    Does nothing in a process that no supervisor started.
    """
    if os.environ.pop(VARIABLE, None) is None:  # popped: what this process starts has no such lifeline
        return
    source = os.dup(sys.stdin.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())  # a plugin we start must not hold, or read, the lifeline
    os.close(nothing)
    threading.Thread(target=_wait, args=(source, grace), name="lifeline", daemon=True).start()


def _wait(source: int, grace: float) -> None:
    while os.read(source, 1):
        pass
    _logger.warning("the supervisor is gone: draining")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    _logger.error("not drained in time: ending at once", extra={"grace": grace})
    os._exit(1)


BACKOFF_FIRST: Final = 0.5
BACKOFF_LONGEST: Final = 30.0
"""Seconds between a child's end and its restart; each is multiplied by a random 0.5 to 1."""

HEALTHY: Final = 30.0
"""Seconds a child must have run for its next failure to count as the first."""

UNUSABLE: Final = 2
"""The exit code of a child that says why what is configured cannot be used: starting it again would not help."""

KILL_LIMIT: Final = 5.0
"""Seconds until the kernel must have taken a killed process away."""

MAX_LINE: Final = 64 * 1024
PROGRAM: Final = (sys.executable, "-m", "federation")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child: a name for logs, and the arguments of ``python -m federation``."""

    name: str
    arguments: tuple[str, ...]


@dataclass(slots=True)
class ChildState:
    """What the supervisor knows of a child; ``exit`` is a code, or minus the signal that ended it."""

    pid: int | None = None
    restarts: int = 0
    exit: int | None = None


class Child(Protocol):
    """A child that was started: as much of :class:`asyncio.subprocess.Process` as a supervisor needs."""

    @property
    def pid(self) -> int:
        """Its process ID."""
        ...

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What it prints."""
        ...

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        ...

    async def wait(self) -> int:
        """Wait for its end."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Raises ProcessLookupError where it has ended."""
        ...

    def terminate(self) -> None:
        """SIGTERM."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


Launch = Callable[[ChildSpec], Awaitable[Child]]
"""Starts a child. Its standard input is its lifeline; raises OSError where it cannot be started."""


def executing(program: Sequence[str] = PROGRAM) -> Launch:
    """Start children as ``program`` with their arguments, each a process that shares nothing with this one."""

    async def launch(spec: ChildSpec) -> Child:
        return await asyncio.create_subprocess_exec(
            *program,
            *spec.arguments,
            stdin=asyncio.subprocess.PIPE,  # its lifeline: closed by the kernel when this process dies
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, VARIABLE: "1"},
            limit=MAX_LINE,
            start_new_session=True,  # a Ctrl-C at the terminal reaches the supervisor, which drains
        )

    return launch


class Supervisor:
    """Runs children until it is stopped. ``drain`` is how many seconds they get after SIGTERM."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        clock: Clock,
        jitter: random.Random,
        drain: float,
        on_line: Callable[[str], None],
        launch: Launch | None = None,
    ) -> None:
        self.children = {spec.name: ChildState() for spec in specs}
        self._specs = tuple(specs)
        self._clock = clock
        self._jitter = jitter
        self._drain = drain
        self._on_line = on_line
        self._launch = launch or executing()
        self._processes: dict[str, Child] = {}
        self.refused = False
        """Whether a child refused its configuration when it was started for the first time."""

    def forward(self, number: signal.Signals) -> None:
        """Send a signal to every child that runs."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def run(self, stop: asyncio.Event) -> bool:
        """Start the children and keep them running until ``stop``; True if all of them drained in time.

        A child whose first life ends with the code of what cannot be used sets ``stop`` itself (:attr:`refused`).

        Leaving it, by ``stop``, cancellation or an error, leaves no child behind.
        """
        drained: list[bool] = []

        async def keep(spec: ChildSpec) -> None:
            drained.append(await self._keep(spec, stop))

        async with asyncio.TaskGroup() as group:
            for spec in self._specs:
                group.create_task(keep(spec))
        return all(drained)

    async def _keep(self, spec: ChildSpec, stop: asyncio.Event) -> bool:
        state, failures = self.children[spec.name], 0
        while not stop.is_set():
            started = self._clock.monotonic()
            outcome = await self._once(spec, state, stop)
            if outcome is not None:
                return outcome
            if state.exit == UNUSABLE and state.restarts == 0:
                # One that has run before is started again: a file that is exchanged now must not end the others.
                _logger.error(
                    "%s cannot use what is configured: everything ends", spec.name, extra={"child": spec.name}
                )
                self.refused = True
                stop.set()
                return True
            failures = 1 if self._clock.monotonic() - started >= HEALTHY else failures + 1
            state.restarts += 1
            delay = min(BACKOFF_FIRST * 2 ** min(failures - 1, 16), BACKOFF_LONGEST)
            delay *= self._jitter.uniform(0.5, 1.0)
            _logger.error(
                "%s ended: it is started again in %.1f s",
                spec.name,
                delay,
                extra={"child": spec.name, "exit": describe_exit(state.exit), "restarts": state.restarts},
            )
            await self._pause(delay, stop)
        return True

    async def _once(self, spec: ChildSpec, state: ChildState, stop: asyncio.Event) -> bool | None:
        """One life of a child: None where it ended by itself, else whether it drained in time."""
        try:
            process = await self._launch(spec)
        except OSError as error:
            _logger.error("%s cannot be started: %s", spec.name, error.strerror, extra={"child": spec.name})
            state.exit = None
            return None
        self._processes[spec.name], state.pid = process, process.pid
        _logger.info("%s runs", spec.name, extra={"child": spec.name, "pid": process.pid})
        reading = asyncio.create_task(self._hand_on(process))
        stopping = asyncio.create_task(stop.wait())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
            return None if ending.done() else await self._end(spec, process, self._drain)
        finally:
            if process.returncode is None:
                await self._end(spec, process, 0.0)
            for task in (reading, stopping, ending):
                task.cancel()
            await asyncio.gather(reading, stopping, ending, return_exceptions=True)
            state.pid, state.exit = None, process.returncode
            del self._processes[spec.name]

    async def _hand_on(self, process: Child) -> None:
        """Hand on what the child prints, so that its pipe never fills."""
        output = process.stdout
        if output is None:
            raise RuntimeError("the child has no standard output")
        while True:
            try:
                line = await output.readline()
            except ValueError:  # a line above the limit: the reader has dropped it
                continue
            if not line:
                return
            self._on_line(line.decode("utf-8", "replace").rstrip())

    async def _end(self, spec: ChildSpec, process: Child, drain: float) -> bool:
        """SIGTERM, wait ``drain`` seconds, SIGKILL; True if the child ended before that."""
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await process.wait()
        if process.returncode is not None:
            _logger.info("%s has drained", spec.name, extra={"exit": describe_exit(process.returncode)})
            return True
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        _logger.warning("%s did not drain within %g s and was killed", spec.name, drain)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_LIMIT):
                await process.wait()
        return False

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        """Sleep until the time is over or ``stop`` is set."""
        tasks = {asyncio.create_task(self._clock.sleep(seconds)), asyncio.create_task(stop.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def describe_exit(code: int | None) -> str:
    """A return code in words: ``exit code 1``, ``killed by SIGKILL``."""
    if code is None:
        return "not started"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@contextlib.contextmanager
def reserved(listen: Address) -> Iterator[Address]:
    """Keep the port of ``listen`` (any free one for port 0) for children of the same user.

    The socket is bound and never listens, so the kernel gives it no connection. No other user can bind the port, not
    even between the end of one child and the start of the next. Raises NotReady where it is taken.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        slot = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _taken(listen, error) from error
    with slot:
        try:
            slot.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                slot.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            slot.bind(where)
        except OSError as error:
            raise _taken(listen, error) from error
        yield Address(listen.host, int(slot.getsockname()[1]))


def reachable(listening: Address) -> Address:
    """Where this machine reaches a server that listens there: loopback for an address that means every one."""
    try:
        ip = ip_address(listening.host)
    except ValueError:  # a name
        return listening
    if not ip.is_unspecified:
        return listening
    return Address("::1" if ip.version == 6 else "127.0.0.1", listening.port)


def _taken(listen: Address, error: OSError) -> NotReady:
    return NotReady(
        f"cannot listen at {listen}: {error.strerror or error}",
        reason="address_in_use",
        remedy="see who listens there, or change listener.listen",
    )


@contextlib.contextmanager
def handled(stop: asyncio.Event, *, hangup: Callable[[], None]) -> Iterator[None]:
    """While the context is open SIGTERM and SIGINT set ``stop`` and SIGHUP calls ``hangup``, in the loop."""
    loop = asyncio.get_running_loop()

    def end(name: str) -> None:
        if not stop.is_set():
            _logger.info("%s: draining", name)
        stop.set()

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: lambda: end("SIGTERM"),
        signal.SIGINT: lambda: end("SIGINT"),
        signal.SIGHUP: hangup,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def raise_limit() -> int:
    """Raise the soft limit to the hard one, as Go's runtime does, and return it.

    A soft limit of 1,024, which many systems start with for the sake of ``select``, is fewer than the connections of
    one mesh.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


LARGE_BLOCK: Final = 64 * 1024
_M_MMAP_THRESHOLD: Final = -3  # malloc.h of glibc


def return_large_blocks() -> None:
    """Have glibc give each larger block back to the system as soon as it is freed (mallopt(3), M_MMAP_THRESHOLD).

    By itself it raises that bound to the largest block that was freed yet, and what pages of lists took then lies
    between what stays: that was half of a signer's memory. Other libraries of C are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)


FILES_COUNTED_FOR: Final = 2.0
"""Seconds for which a count of open files is used again: where it takes a list, that has an entry for each."""

_OPEN: Final = (Path("/proc/self/fd"), Path("/dev/fd"))  # Linux, and others


class OpenFiles:
    """How many files this process has open, of how many; sockets are files as well. 0 where it cannot be known."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counted_at = float("-inf")
        self._count = 0

    @property
    def count(self) -> int:
        """Files and connections that are open."""
        now = self._clock.monotonic()
        if now - self._counted_at >= FILES_COUNTED_FOR:
            self._counted_at, self._count = now, _count_files()
        return self._count

    @property
    def limit(self) -> int:
        """How many there may be; 0 where nothing limits them."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return 0 if soft == resource.RLIM_INFINITY else soft


def _count_files() -> int:
    for directory in _OPEN:
        with contextlib.suppress(OSError):
            # Linux says it as the size since 6.2; else they are listed.
            return directory.stat().st_size or sum(1 for _ in directory.iterdir())
    return 0
