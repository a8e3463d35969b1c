"""File system calls that trust nothing they find: no symbolic link is followed, only regular files are read.

Everything below the state directory belongs to this user alone (directories 0700, files 0600); Kubernetes'
``fsGroup`` widens modes at mount time, which is undone here rather than refused. OSErrors become
StateUnavailable with the file's name and what to do about it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from federation.core.errors import StateUnavailable
from federation.state.damage import StateDamaged

_REMEDIES: Final = {
    errno.ENOSPC: "make room on that file system; the hub writes again by itself",
    errno.EDQUOT: "raise the quota of the hub's user",
    errno.EFBIG: "raise the file size limit of the hub's process",
    errno.EROFS: "mount the state directory writable",
    errno.EACCES: "give the directory and all in it to the user the hub runs as",
    errno.EPERM: "give the directory and all in it to the user the hub runs as",
    errno.ENOENT: "mount or restore the state directory; starting with an empty one loses the trust state",
    errno.ELOOP: "remove the symbolic link: the hub follows none below its state directory",
    errno.ENOTDIR: "something that is not a directory stands in the way: remove it",
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
                error.errno or 0, "check the disk and the permissions of the state directory"
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
        try:  # O_NONBLOCK: opening a FIFO somebody put there must not wait for a writer
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
    """Put ``content`` at ``path``: a reader, and whoever reads after a crash, sees the old or the new, whole.

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
