"""State directories as the last version writes them: their files, and their times.

This is written from the format's description, independently of the code under test: a file is one header line
``federation-state/1 VERSION LENGTH SHA256`` and the document's bytes, where the checksum is over key, version and
bytes with a zero byte between them. The name of a file is its document's key with ``@`` in place of ``/``.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

STATE: Final = Path(__file__).parent / "state"
MOMENTS: Final = ("publishing", "active")
"""Where the rotation stands in each of the state directories."""

NEAR: Final = 366 * 86400.0
"""Seconds around the moment of the fixture within which a number is an instant. Nothing else in a document is so large,
and the certificates are valid from long before until long after."""


def unpack(key: str, content: bytes) -> bytes:
    """The document in a file."""
    header, _, data = content.partition(b"\n")
    magic, version, length, digest = header.split(b" ")
    assert magic == b"federation-state/1"
    assert int(length) == len(data)
    assert digest.decode() == _digest(key, version, data)
    return data


def pack(key: str, data: bytes) -> bytes:
    """The file of a document."""
    version = sha256(data).hexdigest()[:32].encode()
    return (
        b"federation-state/1 %s %d %s\n" % (version, len(data), _digest(key, version, data).encode()) + data
    )


def _digest(key: str, version: bytes, data: bytes) -> str:
    return sha256(key.encode() + b"\0" + version + b"\0" + data).hexdigest()


def read(moment: str) -> dict[str, Any]:
    """The documents of that moment by their keys."""
    files = sorted((STATE / moment / "documents").iterdir())
    keys = {file.name.replace("@", "/"): file for file in files}
    return {key: json.loads(unpack(key, file.read_bytes())) for key, file in keys.items()}


def taken(moment: str) -> float:
    """When the hub was killed that wrote them (seconds since the epoch)."""
    return float(json.loads((STATE / moment / "taken.json").read_text("utf-8"))["taken"])


def write(documents: Mapping[str, Any], directory: Path) -> None:
    """A state directory that holds those documents."""
    place = directory / "documents"
    place.mkdir(parents=True, mode=0o700)
    for key, document in documents.items():
        file = place / key.replace("/", "@")
        file.touch(mode=0o600)
        file.write_bytes(pack(key, json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()))


def shifted(documents: Mapping[str, Any], *, taken: float, now: float) -> dict[str, Any]:
    """The documents of a hub that was killed ``now`` instead of when the fixture was taken.

    Every number within :data:`NEAR` of that moment is an instant and moves; so do the packed ends of certificates in
    ``callers/``. Texts and what is in certificates stay as they are.
    """
    by = now - taken

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(each) for name, each in value.items()}
        if isinstance(value, list):
            return [moved(each) for each in value]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value + type(value)(by) if is_number and abs(value - taken) < NEAR else value

    found = {key: moved(document) for key, document in documents.items()}
    for key, document in found.items():
        if key.startswith("callers/"):
            for cluster in document["clusters"].values():
                cluster["ends"] = _later(cluster["ends"], int(by))
    return found


def _later(packed: str, by: int) -> str:
    """Packed instants of four bytes each, shifted by that many seconds."""
    instants = [instant for (instant,) in struct.iter_unpack(">I", base64.b64decode(packed))]
    return base64.b64encode(b"".join(struct.pack(">I", instant + by) for instant in instants)).decode()
