"""The one thread in which PKCS#11 modules are called.

The library initialises modules without locking (``C_Initialize(NULL)``), which promises that one thread alone
calls them; SoftHSM2 for one aborts the process where two do. Modules may share a library beneath them, so it
is one thread for the whole process. It is a daemon: a call that never comes back must not keep the process
from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from federation.core.errors import AuthorityUnavailable

MOST_WAITING: Final = 1024
"""Jobs behind the one at work. Far above what two authorities have in flight, so only a hang gets there."""

_HELD_BACK: Final = 0.0005  # seconds; below what a device takes for one signature, so only software waits

_REMEDY: Final = (
    "check the device, its network and its client's log; restart the signer if it does not come back, for"
    " a call that hangs cannot be ended from outside"
)

Result = TypeVar("Result")
_Outcome: TypeAlias = tuple[asyncio.Future[Any], Any, Exception | None]


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class LibraryThread:
    """Runs jobs one after another, in the order of their coming. The thread starts with the first.

    ``keeps`` is never let go of: the library calls C_Finalize when its last reference to a module goes, as it
    does when the interpreter ends, and where a device hangs that would keep the process from ending.
    """

    def __init__(self, *, keeps: object = None, most_waiting: int = MOST_WAITING) -> None:
        self._keeps = keeps
        self._most_waiting = most_waiting
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._starting = threading.Lock()
        self._started = False

    async def run(self, job: Callable[[], Result], *, timeout: float) -> Result:
        """What the job returns or raises.

        A caller that gives up, or has waited for ``timeout`` seconds, takes its job back if it has not begun;
        one that has begun runs to its end, for nobody. Raises AuthorityUnavailable with the reason
        ``hsm_hangs`` then, and at once where too many jobs wait already.
        """
        if self._jobs.qsize() >= self._most_waiting:
            raise _hangs(f"{self._most_waiting} calls wait for it")
        if not self._started:
            self._start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._jobs.put(_Job(job, future, loop))
        limit = loop.call_later(timeout, _give_up, future, timeout)
        try:
            return await future
        finally:
            limit.cancel()

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                threading.Thread(target=self._serve, name="pkcs11", daemon=True).start()
                self._started = True

    def _serve(self) -> None:
        while True:
            self._work(self._jobs.get())

    def _work(self, job: _Job) -> None:
        """Run this job and those that wait behind it, and hand outcomes over a few at a time.

        Waking the event loop costs as much as half a signature in software, and so does its work between two
        signatures while it holds the interpreter's lock.
        """
        loop, outcomes, began = job.loop, [_run(job)], time.monotonic()
        while time.monotonic() - began < _HELD_BACK and not self._jobs.empty():
            job = self._jobs.get()
            if job.loop is not loop:
                _hand_over(loop, outcomes)
                loop, outcomes, began = job.loop, [], time.monotonic()
            outcomes.append(_run(job))
        _hand_over(loop, outcomes)


def _run(job: _Job) -> _Outcome:
    if job.future.done():  # taken back
        return job.future, None, None
    try:
        return job.future, job.run(), None
    except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller; the thread goes on
        return job.future, None, error


def _hand_over(loop: asyncio.AbstractEventLoop, outcomes: list[_Outcome]) -> None:
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _give_up(future: asyncio.Future[Any], timeout: float) -> None:
    if not future.done():
        future.set_exception(_hangs(f"no answer within {timeout:g} s"))


def _hangs(what: str) -> AuthorityUnavailable:
    return AuthorityUnavailable(f"the PKCS#11 module hangs: {what}", reason="hsm_hangs", remedy=_REMEDY)
