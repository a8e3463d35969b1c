"""Files and disks that may hang, reached from an event loop: in daemon threads, bounded in time and size.

A disk that hangs costs one thread for each file, and an error, never the loop. Neither ``asyncio.to_thread`` nor an
executor serves here: their threads are joined when the process ends, so a disk that hangs would keep a role from ever
stopping. They are for computing, which ends by itself.

Each read has a daemon thread to itself, and none is begun for a file whose last read still hangs: the next one would
hang as well. One whose caller merely gave up is waited for. A file that hangs is an OSError like any other that cannot
be read. A thread whose call has ended takes the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from federation.core.errors import MORE_FILES

T = TypeVar("T")

_NO_MORE_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})


def is_out_of_files(error: BaseException | None) -> bool:
    """Whether it is the process, or the system, that may open no more files: the file itself may be as it should."""
    return isinstance(error, OSError) and error.errno in _NO_MORE_FILES


def remedy_of(error: OSError, otherwise: str) -> str:
    """What to do about a file that cannot be opened; ``otherwise`` where it is that file which is wrong."""
    return MORE_FILES if is_out_of_files(error) else otherwise


MAX_THREADS: Final = 16
"""Calls under way at once; the others wait. Where all of them hang, that disk is given no more threads."""


IDLE: Final = "idle-io"
"""The name of threads without a call."""

IDLE_SECONDS: Final = 30.0
"""How long a thread waits for its next call: longer than the ten seconds between two readings of a kubeconfig."""

MOST_IDLE: Final = 8


class _Worker:
    """A daemon thread that takes one call after the other.

    To start a thread holds the loop up until it runs, on a busy machine for a millisecond; to wake one does not.
    """

    def __init__(self, idle: list[_Worker]) -> None:
        """``idle`` has those that wait for a call. Raises RuntimeError where no thread can be started."""
        self._idle = idle
        self._calls: SimpleQueue[tuple[str, Callable[[], None]]] = SimpleQueue()
        threading.Thread(target=self._work, name=IDLE, daemon=True).start()

    def take(self, name: str, call: Callable[[], None]) -> None:
        """Run a call that raises nothing, under that name."""
        self._calls.put((name, call))

    def _work(self) -> None:
        thread = threading.current_thread()
        while True:
            try:
                thread.name, call = self._calls.get(timeout=IDLE_SECONDS)
            except Empty:
                try:
                    self._idle.remove(self)
                except ValueError:
                    continue  # it was chosen at this moment: its call comes
                return
            call()
            del call  # and what it holds
            thread.name = IDLE
            if len(self._idle) >= MOST_IDLE:
                return
            self._idle.append(self)


@cache
def _idle_workers(process: int) -> list[_Worker]:
    """Those of this process: a fork has none of its parent's threads."""
    del process
    return []


def _run_in_thread(name: str, call: Callable[[], None]) -> None:
    idle = _idle_workers(os.getpid())
    try:
        worker = idle.pop()
    except IndexError:
        worker = _Worker(idle)
    worker.take(name, call)


class Abandoned:
    """Whether the caller has stopped waiting for the thread of its call. Checked before anything is changed."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def __bool__(self) -> bool:
        return self._flag.is_set()

    def abandon(self) -> None:
        """The caller does not wait any more."""
        self._flag.set()


class BlockingCalls:
    """Runs functions in daemon threads, each in its own and with a time limit in seconds; ``name`` is the threads'."""

    def __init__(self, *, timeout: float, name: str) -> None:
        self._name = name
        self._timeout = timeout
        self._slots = asyncio.Semaphore(MAX_THREADS)

    async def call(self, function: Callable[[Abandoned], T]) -> T:
        """The function's result, or what it raises.

        Raises TimeoutError, an OSError with ``strerror``, where it takes too long; it is left to run out. Raises
        OSError where the process may start no more threads.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        abandoned = Abandoned()
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                await self._slots.acquire()
                self._start(function, abandoned, done)
                return await done
        except TimeoutError:
            if not limit.expired():
                raise  # the function's own
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {self._timeout:g} s") from None
        finally:
            abandoned.abandon()

    def _start(
        self, function: Callable[[Abandoned], T], abandoned: Abandoned, done: asyncio.Future[T]
    ) -> None:
        loop = done.get_loop()

        def settle(give: Callable[[], None]) -> None:
            self._slots.release()
            if not done.done():  # cancelled, or out of time
                give()

        def run() -> None:
            give: Callable[[], None]
            try:
                give = partial(done.set_result, function(abandoned))
            except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
                give = partial(done.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: no caller is left
                loop.call_soon_threadsafe(settle, give)

        try:
            _run_in_thread(self._name, run)
        except RuntimeError as error:
            self._slots.release()
            raise OSError(errno.EAGAIN, f"no thread can be started: {error}") from error


READ_TIMEOUT: Final = 10.0  # seconds; a volume that hangs must not hang the role

THREADS: Final = "file-read"
"""The name of the threads."""


class _UnderWay:
    """A read whose thread may still be in the kernel. Made on the loop of the caller."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.late = False  # it took longer than a read may
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def end(self) -> None:
        """Called by its thread."""
        self.ended.set()
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            self._loop.call_soon_threadsafe(self._woken.set)

    async def ends_within(self, seconds: float) -> bool:
        """Wait for its end so long; not for one that is late already, or of another loop."""
        if not self.late and self._loop is asyncio.get_running_loop():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            self.late = not self.ended.is_set()
        return self.ended.is_set()


class Reading:
    """The reads of one process. ``timeout`` in seconds is for each."""

    def __init__(self, *, timeout: float = READ_TIMEOUT) -> None:
        self._timeout = timeout
        self._left: dict[str, _UnderWay] = {}

    async def read(self, what: str, read: Callable[[], T]) -> T:
        """What ``read`` returns or raises; ``what`` names the files, for this.

        Raises TimeoutError, an OSError whose ``strerror`` names the limit, where they hang.
        """
        before = self._left.get(what)
        if before is not None and not await before.ends_within(self._timeout):
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"no answer within {self._timeout:g} s, and an earlier read of it still hangs",
            )
        if self._left.get(what) is before:
            self._left.pop(what, None)
        own = _UnderWay()

        def run(_: Abandoned) -> T:
            own.begun.set()
            try:
                return read()
            finally:
                own.end()

        try:
            return await BlockingCalls(timeout=self._timeout, name=THREADS).call(run)
        except TimeoutError:
            own.late = not own.ended.is_set()
            raise
        finally:
            if own.begun.is_set() and not own.ended.is_set():  # out of time, or given up by the caller
                self._left[what] = own


@cache
def _reading_of_this_process() -> Reading:
    """The one that all share: what hangs is a thread of the process."""
    return Reading()


async def read_in_time(what: str, read: Callable[[], T]) -> T:
    """As :meth:`Reading.read`, with the reads of this process."""
    return await _reading_of_this_process().read(what, read)


def read_bounded(path: Path, limit: int) -> bytes:
    """The file's content, of at most one byte more than ``limit``, so that a parser can refuse it. Blocks."""
    with path.open("rb") as file:
        return file.read(limit + 1)


def read_now(path: Path, limit: int) -> bytes:
    """As :func:`read_bounded`, for a command that has nothing else to do: it waits, but not for a file that hangs.

    Raises OSError, of which TimeoutError names the limit.
    """
    read: list[bytes] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            read.append(read_bounded(path, limit))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=THREADS, daemon=True)
    thread.start()
    thread.join(READ_TIMEOUT)
    for error in failed:
        raise error
    if not read:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {READ_TIMEOUT:g} s", str(path))
    return read[0]
