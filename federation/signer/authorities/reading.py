"""Files of an authority that hang: the authority is unavailable, for a reason of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from federation.core.errors import AuthorityUnavailable
from federation.files import reading

T = TypeVar("T")


async def read_in_time(what: str, read: Callable[[], T]) -> T:
    """What ``read`` returns or raises (``federation.files.reading``); ``what`` names the files.

    Raises AuthorityUnavailable with the reason ``files_hang``.
    """
    try:
        return await reading.read_in_time(what, read)
    except TimeoutError as error:
        raise AuthorityUnavailable(
            f"reading {what}: {error.strerror or 'it timed out'}",
            reason="files_hang",
            remedy="check the volume that it is on",
        ) from None
