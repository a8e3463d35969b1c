"""The state store in a directory: one file a document, safe against crashes and other processes.

::

    <directory>/documents/<key, '/' written as '@'>   one document each, format in ``record.py``
    <directory>/documents/.next                       what is being written; after a crash, rubbish
    <directory>/locks/documents                       held while a document is replaced or removed
    <directory>/locks/lead@<name>                     held by whoever leads

A write is: lock, compare, write ``.next``, fsync, rename, fsync the directory, unlock. A read takes no lock:
a rename is seen whole or not at all. What was acknowledged survives ``kill -9``, and power loss as far as
fsync keeps its word.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, TypeVar

from federation.core.clock import Clock
from federation.core.errors import InvalidValue, StateUnavailable
from federation.files.blocking import Abandoned
from federation.state.blocking import DiskCalls
from federation.state.disk import directory, exclusive, make_directory, read_file, replace_file, reported
from federation.state.leadership import leading
from federation.state.record import MAX_FILE_BYTES, pack, unpack
from federation.state.store import Leadership, StateConflict, Stored

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
            what = "was removed" if found is None else "was written by somebody else"
            raise StateConflict(f"the document {what} since it was read", where=key)

    def _go_on(self, abandoned: Abandoned) -> None:
        """Stop where the caller was told of a timeout: a write it gave up must not land after a newer one."""
        if abandoned:
            raise StateUnavailable("given up before anything was changed", where=str(self._root))
