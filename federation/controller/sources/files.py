"""Files that anchors are read from, at the edge: bounded in size and time, and never an exception."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from federation.core.pki.pem import MAX_PEM_BYTES
from federation.files.reading import Reading, read_bounded

TIMEOUT: Final = 10.0
"""Seconds after which a disk counts as hung; what was known stays, and the loop never waits for it."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held, or why it could not be read."""

    data: bytes = field(default=b"", repr=False)
    problem: str = ""


class SourceFiles:
    """Reads files whole."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._reading = Reading(timeout=timeout)

    async def read(self, paths: Iterable[Path]) -> dict[Path, Content]:
        """The content of each, all at once."""
        wanted = list(dict.fromkeys(paths))
        return dict(zip(wanted, await asyncio.gather(*map(self._one, wanted)), strict=True))

    async def _one(self, path: Path) -> Content:
        try:
            data = await self._reading.read(str(path), partial(read_bounded, path, MAX_PEM_BYTES))
        except OSError as error:
            return Content(problem=f"it cannot be read: {error.strerror or type(error).__name__}")
        if len(data) > MAX_PEM_BYTES:
            return Content(problem=f"it is larger than {MAX_PEM_BYTES} bytes")
        return Content(data)
