r"""The format of one document on disk: a header line, then the document's bytes.

::

    federation-state/1 <version> <length> <sha256>\n<data>

The version is 32 random hex digits, new with every write, so that "deleted and written again" never appears
unchanged. The checksum covers key, version and data: a file cut short, overwritten in part, or restored under
another document's name is distinguished from a sound one.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

from federation.core.documents.keys import StateDamaged, damaged, unknown_format
from federation.core.errors import StateUnavailable
from federation.state.store import Stored

MAX_DATA_BYTES: Final = 16 * 1024 * 1024
"""A bundle is at most 900 KiB and a report of hundreds of clusters a few MiB."""

MAX_FILE_BYTES: Final = MAX_DATA_BYTES + 256
MAGIC: Final = b"federation-state/"
FORMAT: Final = b"1"
_HEADER: Final = re.compile(MAGIC + FORMAT + rb" ([0-9a-f]{32}) (\d{1,8}) ([0-9a-f]{64})\n")


def pack(key: str, version: str, data: bytes) -> bytes:
    """The file's content; raises StateUnavailable for data above the limit."""
    if len(data) > MAX_DATA_BYTES:
        raise StateUnavailable(
            f"a document of {len(data)} bytes is larger than the store takes ({MAX_DATA_BYTES})", where=key
        )
    header = b"%s%s %s %d %s\n" % (MAGIC, FORMAT, version.encode(), len(data), _digest(key, version, data))
    return header + data


def unpack(key: str, content: bytes, *, where: str) -> Stored:
    """The document in a file's content; raises StateDamaged naming the file where it is damaged."""
    match = _HEADER.match(content)
    if content.startswith(MAGIC) and not content.startswith(MAGIC + FORMAT + b" "):
        raise unknown_format(where)
    if match is None:
        raise _damaged("its header cannot be read", key, where)
    version, length, digest = match[1].decode(), int(match[2]), match[3]
    data = content[match.end() :]
    if len(data) != length:
        raise _damaged(f"it holds {len(data)} bytes of {length}", key, where)
    if _digest(key, version, data) != digest:
        raise _damaged("its checksum does not match", key, where)
    return Stored(data=data, version=version)


def _digest(key: str, version: str, data: bytes) -> bytes:
    return sha256(b"%s\0%s\0%s" % (key.encode(), version.encode(), data)).hexdigest().encode()


def _damaged(what: str, key: str, where: str) -> StateDamaged:
    return damaged(what, key=key, where=where, first="check the disk")
