"""A document to bytes and back. What is no document of that kind is damaged; the error says what to do about it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from federation.core.documents.keys import StateDamaged, remedy_for

Document = TypeVar("Document", bound=msgspec.Struct)


def encode(document: msgspec.Struct) -> bytes:
    """The document as JSON bytes."""
    return msgspec.json.encode(document)


def decode(data: bytes, kind: type[Document], *, key: str) -> Document:
    """The document of that kind; raises StateDamaged naming the key where the bytes are not one."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:  # the decoder raises all three
        raise StateDamaged(
            f"the document is not a {kind.__name__}: {error}", where=key, remedy=remedy_for(key)
        ) from error
