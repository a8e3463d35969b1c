"""Blocking calls off the event loop, so that a hung disk costs one thread and an error, never the loop.

Neither ``asyncio.to_thread`` nor an executor serves here: their threads are joined when the process ends, so
a disk that hangs would keep a role from ever stopping. They are for computing, which ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

T = TypeVar("T")

MAX_THREADS: Final = 16
"""Calls under way at once; the others wait. Where all of them hang, that disk is given no more threads."""


class Abandoned:
    """Tells the thread of a call that nobody waits for it any more. Looked at before anything is changed."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def __bool__(self) -> bool:
        return self._flag.is_set()

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._flag.set()


class BlockingCalls:
    """Runs functions in daemon threads of their own, each with a time limit in seconds; ``name`` is theirs."""

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
            except Exception as error:  # noqa: BLE001 - handed to whoever waits, whatever it is
                give = partial(done.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                loop.call_soon_threadsafe(settle, give)

        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            self._slots.release()
            raise OSError(errno.EAGAIN, f"no thread can be started: {error}") from error
