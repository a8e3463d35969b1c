"""The one interface to what survives: small documents under keys, with compare-and-swap and leadership.

Keys are ``segment/segment`` of ``[a-z0-9._-]``. A version is opaque and changes with every write. Everything raises
:class:`~federation.core.errors.StateUnavailable` where the store cannot be read or written, so that a caller stops
instead of guessing; for a single document that is damaged it is StateDamaged (``damage.py``). File store: ``files.py``.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from federation.core.errors import StateUnavailable


class StateConflict(StateUnavailable):
    """Somebody else wrote the document since it was read: read again and decide again."""

    default_reason = "state_conflict"


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read: its bytes and the version to swap against."""

    data: bytes
    version: str


class Leadership(Protocol):
    """Held by the one controller that may write; ``held`` turns false the moment it can no longer be relied on."""

    @property
    def held(self) -> bool:
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
