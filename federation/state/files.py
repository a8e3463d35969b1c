"""The state store in a directory: one file for each document, safe against crashes and other processes.

::

    <directory>/documents/<key, '/' written as '@'>   one document each, format in ``record.py``
    <directory>/documents/.next                       what is being written; after a crash, rubbish
    <directory>/locks/documents                       locked while a document is replaced or removed
    <directory>/locks/lead@<name>                     locked by the leader

A write is: lock, compare, write ``.next``, fsync, rename, fsync the directory, unlock. A read takes no lock: a rename
is seen whole or not at all. What was acknowledged survives ``kill -9``, and power loss as far as fsync keeps its
word.

**File system calls** trust nothing they find: no symbolic link is followed, only regular files are read. Everything
below the state directory belongs to this user alone (directories 0700, files 0600); Kubernetes' ``fsGroup`` widens
modes at mount time, which is undone here rather than refused. OSErrors become StateUnavailable with the file's name
and what to do about it.

**Leadership** is a lock file: the kernel grants it to one open file at a time and takes it back at death. There is no
lease to run out and no clock to disagree about; a leader that is stopped or swapped out still leads, because no other
process can. That holds on one machine, and on network file systems with working locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from federation.core.clock import Clock
from federation.core.documents.keys import StateDamaged
from federation.core.errors import InvalidValue, StateUnavailable
from federation.files import Abandoned, remedy_of
from federation.state.record import MAX_FILE_BYTES, pack, unpack
from federation.state.store import DiskCalls, Leadership, LeadersStore, StateConflict, StateStore, Stored

_logger = logging.getLogger(__name__)

_REMEDIES: Final = {
    errno.ENOSPC: "make room on that file system; the hub writes again by itself",
    errno.EDQUOT: "raise the quota of the hub's user",
    errno.EFBIG: "raise the file size limit of the hub's process",
    errno.EROFS: "mount the state directory writable",
    errno.EACCES: "give the directory and all in it to the user the hub runs as",
    errno.EPERM: "give the directory and all in it to the user the hub runs as",
    errno.ENOENT: "mount or restore the state directory; starting with an empty one loses the trust state",
    errno.ELOOP: "remove the symbolic link: the hub follows none below its state directory",
    errno.ENOTDIR: "something that is not a directory is in the way: remove it",
    errno.EIO: "check the disk",
}


@contextlib.contextmanager
def reported(where: Path) -> Iterator[None]:
    """Turn an OSError into StateUnavailable that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise StateUnavailable(
            f"{os.strerror(error.errno) if error.errno else error}",
            where=str(where),
            remedy=_REMEDIES.get(
                error.errno or 0,
                remedy_of(error, "check the disk and the permissions of the state directory"),
            ),
        ) from error


def make_directory(path: Path, *, private: bool) -> None:
    """Create a directory, durably; a ``private`` one must be ours and is shut to everybody else."""
    with reported(path):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            _sync_directory(path.parent)
    if private:
        with directory(path) as found, reported(path):
            status = os.fstat(found)
            if status.st_uid != os.geteuid() != 0:
                raise PermissionError(errno.EPERM, "belongs to another user")
            if stat.S_IMODE(status.st_mode) & 0o077:
                os.fchmod(found, 0o700)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable; above our own files, links are the operator's business."""
    with reported(path):
        found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(found)
        finally:
            os.close(found)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory that is not a symbolic link."""
    with reported(path):
        found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield found
    finally:
        os.close(found)


def read_file(parent: int, path: Path, *, limit: int) -> bytes | None:
    """The content of a regular file of ``parent``, None where there is none."""
    with reported(path):
        try:  # O_NONBLOCK: opening a FIFO that was put there must not wait for a writer
            found = os.open(
                path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
            )
        except FileNotFoundError:
            return None
        with os.fdopen(found, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                raise StateDamaged(
                    "this is not a document: no regular file, or far too large",
                    where=str(path),
                    remedy="find out who put it there, then restore the document from a backup",
                )
            return file.read(limit + 1)


def replace_file(parent: int, path: Path, content: bytes, *, staging: str) -> None:
    """Put ``content`` at ``path``: a reader, also one after a crash, sees the old or the new, whole.

    Only one process may do this at a time in one directory: whatever ``staging`` name is found is a crash's.
    """
    with reported(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staging, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(staging, flags, 0o600, dir_fd=parent), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(staging, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(staging, dir_fd=parent)
            raise
        os.fsync(parent)  # the rename itself is durable only now


def open_lock(path: Path) -> int:
    """A descriptor of a lock file, made where it is missing."""
    with reported(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def is_still_at(descriptor: int, path: Path) -> bool:
    """True where the open file is the one at ``path``: the lock of a replaced file protects nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path``; waits. The kernel releases it however the process dies."""
    while True:
        lock = open_lock(path)
        try:
            with reported(path):
                fcntl.flock(lock, fcntl.LOCK_EX)
                ours = is_still_at(lock, path)
            if ours:
                yield
                return
        finally:
            os.close(lock)


RETRY: Final = 0.5
"""Seconds between attempts while another process leads."""

CHECK: Final = 1.0
"""Seconds between checks whether the lock file is still in its place."""

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
    def leading(self) -> bool:
        """True from the acquisition to the release, unless it was found lost."""
        return self._descriptor is not None and not self._lost

    def lose(self) -> None:
        """It cannot be relied on any more; only a new lock leads again."""
        self._lost = True

    def acquire(self, identity: str) -> bool:
        """Take the lock if it is free, and write down who holds it."""
        lock = open_lock(self._path)
        locked = False
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
                    self._descriptor, locked = lock, True
            return locked
        finally:
            if not locked:
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
        logged = ""
        while not await calls.call(lambda _: lock.acquire(identity)):
            holder = await calls.call(lambda _: lock.holder())
            if holder != logged:
                _logger.info("waiting to lead: %s leads now", holder, extra={"lock": path.name})
                logged = holder
            await clock.sleep(RETRY)
        _logger.info("leading from now on", extra={"lock": path.name, "identity": identity})
        watching = asyncio.create_task(_watch(lock, calls, clock))
        try:
            yield lock
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        lock.release()


async def _watch(lock: LeaderLock, calls: DiskCalls, clock: Clock) -> None:
    while lock.leading:
        await clock.sleep(CHECK)
        try:
            await calls.call(lambda _: lock.check())
        except StateUnavailable as error:
            _logger.warning(
                "leadership is given up, the lock file cannot be checked: %s", error.diagnostics()
            )
            lock.lose()


T = TypeVar("T")

TIMEOUT: Final = 10.0
"""Seconds an operation may take, waiting for the lock included; past that the disk is unavailable."""

MAX_KEY: Final = 200  # file names end at 255 bytes on every file system in use
_SEGMENT: Final = r"[a-z0-9_-][a-z0-9._-]*"
_KEY: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
_STAGING: Final = ".next"  # no key begins with a dot


class FileStore:
    """A :class:`~federation.state.store.StateStore` in a directory that all roles on this machine share.

    ``timeout`` is in seconds for each operation, ``random_bytes`` makes versions.
    """

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        timeout: float = TIMEOUT,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._root = directory
        self._documents = directory / "documents"
        self._locks = directory / "locks"
        self._clock = clock
        self._random_bytes = random_bytes
        self._calls = DiskCalls(where=str(directory), timeout=timeout)
        self._prepared = False

    async def read(self, key: str) -> Stored | None:
        """The document, or None where there is none; StateDamaged where it is damaged."""
        path = self._path(key)
        return await self._run(lambda _: self._read(key, path))

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        """Replace the document, durably, and return its new version; see the protocol for the conditions."""
        path = self._path(key)
        version = self._random_bytes(16).hex()
        content = pack(key, version, data)

        def write(abandoned: Abandoned) -> str:
            with exclusive(self._locks / "documents"), directory(self._documents) as parent:
                self._go_on(abandoned)
                if create or expected is not None:
                    self._compare(key, self._read(key, path), expected=expected, create=create)
                replace_file(parent, path, content, staging=_STAGING)
            return version

        return await self._run(write)

    async def delete(self, key: str, *, expected: str | None = None) -> None:
        """Remove the document, durably, or only that version of it; no error where there is none."""
        path = self._path(key)

        def delete(abandoned: Abandoned) -> None:
            with exclusive(self._locks / "documents"), directory(self._documents) as parent, reported(path):
                self._go_on(abandoned)
                if expected is not None and (found := self._read(key, path)) is not None:
                    self._compare(key, found, expected=expected, create=False)
                try:
                    os.unlink(path.name, dir_fd=parent)
                except FileNotFoundError:
                    return
                os.fsync(parent)

        await self._run(delete)

    def of_leader(self, leadership: Leadership) -> StateStore:
        """The same store for what the leader alone writes; a process that is stopped keeps its lock."""
        return LeadersStore(self, leadership)

    async def keys(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``, sorted; files that are no documents are passed over."""

        def keys(_: Abandoned) -> list[str]:
            with (
                directory(self._documents) as parent,
                reported(self._documents),
                os.scandir(parent) as entries,
            ):
                names = [entry.name for entry in entries]
            found = (name.replace("@", "/") for name in names)
            return sorted(key for key in found if key.startswith(prefix) and _KEY.fullmatch(key))

        return await self._run(keys)

    @contextlib.asynccontextmanager
    async def lead(self, name: str, *, identity: str) -> AsyncIterator[Leadership]:
        """Wait until this process leads; the kernel ends leadership with the process, however it ends."""
        if not re.fullmatch(_SEGMENT, name, re.ASCII):
            raise InvalidValue(f"{name[:80]!r} is not a name for a leadership")
        await self._run(lambda _: None)  # the directories
        path = self._locks / f"lead@{name}"
        async with leading(path, identity=identity, calls=self._calls, clock=self._clock) as lock:
            yield lock

    async def _run(self, function: Callable[[Abandoned], T]) -> T:
        def run(abandoned: Abandoned) -> T:
            self._prepare()
            return function(abandoned)

        return await self._calls.call(run)

    def _prepare(self) -> None:
        """Make the directories, once: if they vanish later, that is a loss and not a fresh start."""
        if self._prepared:
            return
        with reported(self._root):
            self._root.parent.mkdir(parents=True, exist_ok=True)
        make_directory(self._root, private=False)  # it may be a mount point with a mode of its own
        make_directory(self._documents, private=True)
        make_directory(self._locks, private=True)
        self._prepared = True

    def _path(self, key: str) -> Path:
        if len(key) > MAX_KEY or not _KEY.fullmatch(key):
            raise InvalidValue(f"{key[:80]!r} is not the key of a document")
        return self._documents / key.replace("/", "@")

    def _read(self, key: str, path: Path) -> Stored | None:
        with directory(self._documents) as parent:
            content = read_file(parent, path, limit=MAX_FILE_BYTES)
        return None if content is None else unpack(key, content, where=str(path))

    @staticmethod
    def _compare(key: str, found: Stored | None, *, expected: str | None, create: bool) -> None:
        if create and found is not None:
            raise StateConflict("the document exists already", where=key)
        if expected is not None and (found is None or found.version != expected):
            what = "was removed" if found is None else "was written by another process"
            raise StateConflict(f"the document {what} since it was read", where=key)

    def _go_on(self, abandoned: Abandoned) -> None:
        """Stop where the caller has got a timeout: a write that it gave up must not land after a newer one."""
        if abandoned:
            raise StateUnavailable("given up before anything was changed", where=str(self._root))
