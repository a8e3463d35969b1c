"""Leadership by a lock file: the kernel grants it to one open file at a time and takes it back at death.

There is no lease to run out and no clock to disagree about; a leader that is stopped or swapped out still
leads, because nobody else can. That holds on one machine, and on network file systems with working locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.state.blocking import DiskCalls
from federation.state.disk import is_still_at, open_lock, reported

log = logging.getLogger(__name__)

RETRY: Final = 0.5
"""Seconds between attempts while another process leads."""

CHECK: Final = 1.0
"""Seconds between looks at whether the lock file is still in its place."""

MAX_IDENTITY_BYTES: Final = 512


class LeaderLock:
    """The lock file of one leadership, for threads: a lock that comes after the release is let go at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._descriptor: int | None = None
        self._released = False
        self._lost = False

    @property
    def held(self) -> bool:
        """True from the acquisition to the release, unless it was found lost."""
        return self._descriptor is not None and not self._lost

    def lose(self) -> None:
        """It cannot be relied on any more; only a new lock leads again."""
        self._lost = True

    def acquire(self, identity: str) -> bool:
        """Take the lock if it is free, and write down who holds it."""
        lock = open_lock(self._path)
        kept = False
        try:
            with reported(self._path):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                if not is_still_at(lock, self._path):
                    return False
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{identity} pid={os.getpid()}\n".encode()[:MAX_IDENTITY_BYTES], 0)
            with self._mutex:
                if not self._released:
                    self._descriptor, kept = lock, True
            return kept
        finally:
            if not kept:
                os.close(lock)

    def check(self) -> None:
        """Lose leadership where the lock file is no longer the one that is locked."""
        with self._mutex:
            if self._descriptor is not None and not is_still_at(self._descriptor, self._path):
                self._lost = True

    def holder(self) -> str:
        """Who wrote itself down last, for the log."""
        with reported(self._path), self._path.open("rb") as file:
            return ascii(file.read(MAX_IDENTITY_BYTES).decode("utf-8", "replace").strip())

    def release(self) -> None:
        """Give leadership up; closing the only descriptor releases the lock."""
        with self._mutex:
            descriptor, self._descriptor, self._released = self._descriptor, None, True
        if descriptor is not None:
            os.close(descriptor)


@contextlib.asynccontextmanager
async def leading(path: Path, *, identity: str, calls: DiskCalls, clock: Clock) -> AsyncIterator[LeaderLock]:
    """Wait for the lock at ``path``, hold it, and keep looking whether it still protects anything."""
    lock = LeaderLock(path)
    try:
        told = ""
        while not await calls.call(lambda _: lock.acquire(identity)):
            holder = await calls.call(lambda _: lock.holder())
            if holder != told:
                log.info("waiting to lead: %s leads now", holder, extra={"lock": path.name})
                told = holder
            await clock.sleep(RETRY)
        log.info("leading from now on", extra={"lock": path.name, "identity": identity})
        watching = asyncio.create_task(_watch(lock, calls, clock))
        try:
            yield lock
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        lock.release()


async def _watch(lock: LeaderLock, calls: DiskCalls, clock: Clock) -> None:
    while lock.held:
        await clock.sleep(CHECK)
        try:
            await calls.call(lambda _: lock.check())
        except StateUnavailable as error:
            log.warning("leadership is given up, the lock file cannot be checked: %s", error.diagnostics())
            lock.lose()
