"""Children that are forked from one process which has imported what they need, and done nothing else.

A child that is forked so starts at once, and shares with the others the memory that modules take: for a hub with two
signers that is half of it. What makes a fork without exec safe is that nothing is there which a fork would break:

- **No thread and no event loop.** The fork server is itself forked before its parent begins either, and waits in
  ``select``. Where the kernel says that there is another thread all the same (a library's), nothing is forked and
  children are started anew (:func:`start` returns None).
- **No secret.** Nothing was read yet but the program's modules, its arguments and its environment. Each child reads the
  configuration and its own credentials after the fork, so what is shared holds none of them.
- **No randomness.** Nothing was drawn yet. Python's generator is seeded anew in a child, OpenSSL's and the kernel's
  notice a fork.

What children do share is the layout of addresses and the seed of Python's hashes. They run as one user with the same
files, so that neither separates them from one another.

The supervisor keeps one socket to the fork server. It asks there for children and signals, and learns there who ended;
signals go that way, since only a parent knows that the process still is the one that is meant. Where either end of the
socket closes the other one ends, and children end by their lifelines (see :mod:`~federation.runtime.processes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from federation.core.errors import FederationError
from federation.runtime.processes import MAX_LINE, VARIABLE, ChildSpec

MAX_MESSAGE: Final = 64 * 1024
ANSWER_LIMIT: Final = 10.0
"""Seconds for the fork server to start a child; it takes a millisecond or two."""

Main = Callable[[Sequence[str]], int]


class ForkServerLost(FederationError):
    """The process that starts the others has ended: those that run can no longer be looked after."""

    default_reason = "fork_server_lost"
    default_remedy = "start the hub again; where memory ran out, give it more"


def start(prepare: Callable[[], None], main: Main) -> ForkServer | None:
    """Import by ``prepare`` what children need and fork the server; None where forking is not safe here.

    To be called before anything else. It returns in the caller's process alone: a child calls ``main`` with its
    arguments and raises SystemExit with what that returns.
    """
    if not _may_fork():
        return None
    gc.disable()  # while modules are made there is no garbage, and a collection would touch every page
    try:
        prepare()
    finally:
        gc.enable()
    if not _may_fork():
        return None
    gc.freeze()  # the collector never visits what is shared, which would copy it
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return ForkServer(ours, pid)
    ours.close()
    raise SystemExit(main(_Server(theirs).serve()))


def _may_fork() -> bool:
    """Whether this system's libraries bear a fork without exec (macOS's do not), and there is one thread only."""
    if sys.platform != "linux":
        return False
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


class _Server:
    """The loop of the fork server. It returns in children only, with their arguments."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: set[int] = set()

    def serve(self) -> list[str]:
        os.setsid()  # a Ctrl-C at the terminal reaches the supervisor alone
        woken, wake = os.pipe()
        for descriptor in (woken, wake):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._control.fileno(), woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if self._control.fileno() in ready and (arguments := self._obey()) is not None:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (woken, wake):
                    os.close(descriptor)
                self._control.close()
                return arguments

    def _obey(self) -> list[str] | None:
        """Carry one order out; the arguments where this is the child that was ordered."""
        message, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 2)
        if not message:
            self._end()
        order = json.loads(message)
        if "signal" in order:
            if order["pid"] in self._children:  # else it has ended, and its number may be another's by now
                os.kill(order["pid"], order["signal"])
            return None
        stdin, stdout = descriptors
        try:
            pid = os.fork()
        except OSError as error:
            self._say({"error": error.errno})
        else:
            if not pid:
                _become(order["name"], order["arguments"], stdin, stdout)
                return list(order["arguments"])
            self._children.add(pid)
            self._say({"pid": pid})
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._children.discard(pid)
                self._say({"pid": pid, "exit": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        """The supervisor is gone. Children see that by their lifelines."""
        os._exit(0)


def _become(name: str, arguments: Sequence[str], stdin: int, stdout: int) -> None:
    """Take what a process that was started anew would have: a session, standard streams, a variable and a name."""
    os.setsid()
    for source, target in ((stdin, 0), (stdout, 1)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    os.environ[VARIABLE] = "1"
    with contextlib.suppress(OSError, ValueError, IndexError):
        _show(name, ("federation", *arguments))


def _show(name: str, words: Sequence[str]) -> None:
    """Have ``ps`` and ``top`` show this process as what it is: its name, and as much of its words as fits."""
    Path("/proc/self/comm").write_text(name[:15])
    # proc_pid_stat(5): fields 48 and 49 say where the arguments begin and end in memory; the third follows the name.
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    begin, end = int(fields[45]), int(fields[46])
    shown = "\0".join(words).encode()[: end - begin - 1]
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write(shown.ljust(end - begin, b"\0"))


class ForkServer:
    """The supervisor's end: starts children by the fork server and notices their ends. Close it after use."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self._control.setblocking(False)
        self._pid = pid
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answers: deque[asyncio.Future[int]] = deque()
        self._running: dict[int, ForkedChild] = {}
        self._lost = False

    async def launch(self, spec: ChildSpec) -> ForkedChild:
        """Start a child. Raises OSError where the system has no room for it, ForkServerLost."""
        if self._lost:
            raise _lost()
        loop = self._listen()
        answer: asyncio.Future[int] = loop.create_future()
        stdin, lifeline = os.pipe()
        output, stdout = os.pipe()
        try:
            message = json.dumps({"name": spec.name, "arguments": spec.arguments}).encode()
            socket.send_fds(self._control, [message], [stdin, stdout])
            self._answers.append(answer)
            async with asyncio.timeout(ANSWER_LIMIT):
                pid = await answer
        except BaseException:  # its lifeline closes: where it was started after all, it ends
            os.close(lifeline)
            os.close(output)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        child = self._running[pid] = ForkedChild(pid, lifeline, self._signal, loop.create_future())
        await child.read(output)
        return child

    def close(self) -> None:
        """End the fork server. Children that run see their lifelines close."""
        if self._loop is not None:
            self._loop.remove_reader(self._control.fileno())
            self._loop = None
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _listen(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._control.fileno(), self._take)
        return self._loop

    def _take(self) -> None:
        """What the fork server says; nothing more once it has ended."""
        try:
            message = self._control.recv(MAX_MESSAGE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            message = b""
        if not message:
            self._give_up()
            return
        said = json.loads(message)
        if "exit" in said:
            child = self._running.pop(said["pid"], None)
            if child is not None:
                child.end(said["exit"])
            return
        answer = self._answers.popleft()
        if answer.done():  # no one waits any more
            return
        if "error" in said:
            answer.set_exception(OSError(said["error"], os.strerror(said["error"])))
        else:
            answer.set_result(said["pid"])

    def _give_up(self) -> None:
        self._lost = True
        if self._loop is not None:
            self._loop.remove_reader(self._control.fileno())
            self._loop = None
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(_lost())
        self._answers.clear()
        for child in self._running.values():
            child.lose()

    def _signal(self, pid: int, number: int) -> None:
        if self._lost or pid not in self._running:
            raise ProcessLookupError
        self._control.send(json.dumps({"pid": pid, "signal": number}).encode())


def _lost() -> ForkServerLost:
    return ForkServerLost("the process that starts signers and controller has ended")


class ForkedChild:
    """A child of the fork server, as the supervisor sees it: like :class:`asyncio.subprocess.Process`."""

    def __init__(
        self, pid: int, lifeline: int, send: Callable[[int, int], None], ended: asyncio.Future[int]
    ) -> None:
        self.pid = pid
        self.stdout: asyncio.StreamReader = asyncio.StreamReader(limit=MAX_LINE)
        self._lifeline = lifeline
        self._send = send
        self._ended = ended

    async def read(self, output: int) -> None:
        """Read its standard output from that descriptor."""
        file = os.fdopen(output, "rb", buffering=0)  # the transport closes it
        protocol = asyncio.StreamReaderProtocol(self.stdout)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs, or where that cannot be known."""
        return self._ended.result() if self._ended.done() and self._ended.exception() is None else None

    async def wait(self) -> int:
        """Wait for its end; raises ForkServerLost where that can no longer be known."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError where it has ended."""
        self._send(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def end(self, code: int) -> None:
        """It has ended with that code."""
        os.close(self._lifeline)
        self._ended.set_result(code)

    def lose(self) -> None:
        """No one will know when it ends: its lifeline closes, so that it does."""
        os.close(self._lifeline)
        self._ended.set_exception(_lost())
        self._ended.exception()  # whether or not anyone waits for it
