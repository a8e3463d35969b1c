"""The one interface to what survives: small documents under keys, with compare-and-swap and leadership.

Keys are ``segment/segment`` of ``[a-z0-9._-]``. A version is opaque and changes with every write. Everything raises
:class:`~federation.core.errors.StateUnavailable` where the store cannot be read or written, so that a caller stops
instead of guessing; for a single document that is damaged it is StateDamaged (``core/documents/keys.py``).

Stores: ``files.py`` (a directory) and ``kubernetes_store.py`` (objects in the hub's own cluster). A disk of the state
directory that hangs is a store that does not answer. Many documents are read a few at a time: one after another they
would take a second each second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from federation.core.documents.keys import StateDamaged
from federation.core.errors import StateUnavailable
from federation.files import Abandoned, BlockingCalls


class StateConflict(StateUnavailable):
    """Another process wrote the document since it was read: read again and decide again."""

    default_reason = "state_conflict"


class LeadershipLost(StateUnavailable):
    """Nothing was written: this process does not lead any more, and another one may."""

    default_reason = "leadership_lost"

    def __init__(self, *, where: str) -> None:
        super().__init__(
            "this process does not lead any more", where=where, remedy="nothing: the leader writes it"
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read: its bytes and the version to swap against."""

    data: bytes
    version: str


class Leadership(Protocol):
    """What the one controller that may write has; ``leading`` turns false the moment it can no longer be relied on."""

    @property
    def leading(self) -> bool:
        """True while this process is the leader."""
        ...


class StateStore(Protocol):
    """Documents that survive any crash; every write is atomic and durable when it returns."""

    async def read(self, key: str) -> Stored | None:
        """The document, or None where there is none. A damaged one raises StateDamaged, never None."""
        ...

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        """Replace the document and return its new version.

        With ``expected`` only over that version, with ``create`` only where none is there; otherwise
        :class:`StateConflict`. With neither, last writer wins (for documents with a single writer).
        """
        ...

    async def delete(self, key: str, *, expected: str | None = None) -> None:
        """Remove the document; no error where there is none.

        With ``expected`` only that version, otherwise :class:`StateConflict`.
        """
        ...

    async def keys(self, prefix: str) -> list[str]:
        """The keys below ``prefix`` (``generations/``), sorted."""
        ...

    def lead(self, name: str, *, identity: str) -> AbstractAsyncContextManager[Leadership]:
        """Wait until this process leads; leaving the context gives leadership up."""
        ...

    def of_leader(self, leadership: Leadership) -> StateStore:
        """The same documents, for what the leader alone writes.

        Every write raises :class:`LeadershipLost` where ``leadership`` is lost by the time that it would be sent: a
        process may have been stopped between its decision and that.
        """
        ...


class LeadersStore:
    """A store for what the leader alone writes: LeadershipLost where ``leadership`` was lost before a write begins."""

    def __init__(self, store: StateStore, leadership: Leadership) -> None:
        self._store = store
        self._leadership = leadership

    async def read(self, key: str) -> Stored | None:
        """As the store's."""
        return await self._store.read(key)

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        """As the store's, by the leader."""
        self._require(key)
        return await self._store.write(key, data, expected=expected, create=create)

    async def delete(self, key: str, *, expected: str | None = None) -> None:
        """As the store's, by the leader."""
        self._require(key)
        await self._store.delete(key, expected=expected)

    async def keys(self, prefix: str) -> list[str]:
        """As the store's."""
        return await self._store.keys(prefix)

    def lead(self, name: str, *, identity: str) -> AbstractAsyncContextManager[Leadership]:
        """As the store's."""
        return self._store.lead(name, identity=identity)

    def of_leader(self, leadership: Leadership) -> StateStore:
        """The store for another leadership."""
        return self._store.of_leader(leadership)

    def _require(self, key: str) -> None:
        if not self._leadership.leading:
            raise LeadershipLost(where=key)


AT_ONCE: Final = 8
"""Half of what a store lets through at once, so that a reader of many documents delays no other."""


async def read_many(store: StateStore, keys: Iterable[str]) -> dict[str, Stored | StateDamaged | None]:
    """Each document, None where there is none, or why it cannot be used.

    Raises StateUnavailable where the store itself fails: then nothing is known of any of them.
    """
    slots = asyncio.Semaphore(AT_ONCE)
    failures: list[Exception] = []

    async def read(key: str) -> Stored | StateDamaged | None:
        async with slots:
            if failures:
                return None  # the others would report the same
            try:
                return await store.read(key)
            except StateDamaged as error:
                return error
            except Exception as error:  # noqa: BLE001  raised below
                failures.append(error)
                return None

    wanted = list(keys)
    # No TaskGroup: one that fails in the moment in which it is cancelled says the former alone (Python 3.11), and who
    # then goes on never ends: a leader that was stopped for a while, and whose Lease and reads ran out together.
    found = await asyncio.gather(*(read(key) for key in wanted))
    if failures:
        raise failures[0]
    return dict(zip(wanted, found, strict=True))


T = TypeVar("T")


class DiskCalls:
    """Runs functions on the disk that holds ``where``, each within ``timeout`` seconds."""

    def __init__(self, *, where: str, timeout: float) -> None:
        self._where = where
        self._calls = BlockingCalls(timeout=timeout, name="state-io")

    async def call(self, function: Callable[[Abandoned], T]) -> T:
        """The function's result. Raises StateUnavailable where it takes too long; it is left to run out."""
        try:
            return await self._calls.call(function)
        except TimeoutError as error:
            raise StateUnavailable(
                f"the disk is too slow: {error.strerror or 'it timed out'}",
                where=self._where,
                remedy="check the disk or the network file system that holds the state directory",
            ) from None
        except OSError as error:
            raise StateUnavailable(
                error.strerror or type(error).__name__, where=self._where, remedy="raise the process limit"
            ) from error
