"""The two files that accepting an anchor writes: its PEM, and ``clusters.toml``. Whole or not at all, and durable."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from federation.core.config.parse import MAX_BYTES
from federation.core.errors import FederationError
from federation.core.pki.pem import MAX_PEM_BYTES
from federation.files.reading import read_now

_REMEDIES: Final = {
    errno.ETIMEDOUT: "see why what it is on does not answer, or whether it is a pipe; name another file",
    errno.EROFS: "run this where the configuration is kept, and give it to the hub from there",
    errno.EACCES: "run this as a user that may write it",
    errno.EPERM: "run this as the user that the file belongs to",
    errno.ENOSPC: "make room on that file system",
}


class FileChanged(FederationError):
    """The configuration is not what it was when it was read; nothing was written."""

    default_reason = "file_changed"
    default_remedy = "run this again: it looks at the file as it is now"


def read_bounded(path: Path, limit: int = MAX_PEM_BYTES) -> bytes:
    """The content of a file, with one byte past ``limit`` where it is longer.

    Raises FederationError, also where the file hangs. Not for where an event loop runs.
    """
    with _reported(path):
        return read_now(path, limit)


def read_text(path: Path, *, digest: str) -> str:
    """The text of that SHA-256; raises FileChanged where the file holds another by now."""
    data = read_bounded(path, MAX_BYTES)
    _check(path, data, digest)
    return data.decode("utf-8")


def write_new(path: Path, content: bytes) -> bool:
    """Write a file of mode 0644 that was not there, durably; False where it is there and holds just that.

    Raises FederationError where it holds anything else.
    """
    with _reported(path):
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o755)  # as the file below, whatever the umask
            _sync_directory(path.parent.parent)
        try:
            found = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            if read_bounded(path, len(content)) == content:
                return False
            raise FederationError(
                "is there already and holds something else; nothing was written",
                where=str(path),
                remedy="name another file with --file, or remove this one if nothing needs it",
            ) from None
        try:
            with os.fdopen(found, "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # whatever the umask: the hub runs as another user
                _write(file, content)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    return True


def replace_text(path: Path, text: str, *, digest: str) -> None:
    """Put ``text`` in the place of the text of that SHA-256, atomically; mode and owner stay.

    A symbolic link stays one: what it leads to is replaced. Raises FederationError; FileChanged where somebody
    else has written it, or is doing so.
    """
    with _reported(path):
        target = path.resolve(strict=True)
        with _held(target) as current:
            _check(path, current.read(MAX_BYTES + 1), digest)
            _replace(target, text.encode("utf-8"), os.fstat(current.fileno()))


@contextlib.contextmanager
def _held(target: Path) -> Iterator[BinaryIO]:
    """The file, locked against others who accept an anchor at the same moment."""
    found = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is there at once, and empty
    with os.fdopen(found, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileChanged("somebody else is writing it at this moment", where=str(target)) from None
        if not os.path.samestat(os.fstat(file.fileno()), target.stat()):  # replaced before it was locked
            raise FileChanged("was replaced by somebody else", where=str(target))
        yield file


def _replace(target: Path, content: bytes, before: os.stat_result) -> None:
    descriptor, staged = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            made = os.fstat(file.fileno())
            if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            _write(file, content)
        Path(staged).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(staged).unlink()
        raise
    _sync_directory(target.parent)


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(found)
    finally:
        os.close(found)


def _check(path: Path, data: bytes, digest: str) -> None:
    if sha256(data).hexdigest() != digest:
        raise FileChanged("was changed by somebody else meanwhile; nothing was written", where=str(path))


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FederationError(
            f"cannot be read or written: {error.strerror or type(error).__name__}",
            where=str(error.filename or path),
            remedy=_REMEDIES.get(error.errno or 0, "check the path, its permissions and the disk"),
        ) from error
