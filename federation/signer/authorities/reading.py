"""Reading files off the event loop and in time: a volume that hangs costs one thread for each file, and an error.

Each read has a daemon thread of its own (``state/blocking.py`` says why no executor serves), and none is begun
for a file whose last read still hangs: the kernel would hold that one as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Final, TypeVar

from federation.core.errors import AuthorityUnavailable, StateUnavailable
from federation.state.blocking import Abandoned, BlockingCalls

READ_TIMEOUT: Final = 10.0  # seconds; a volume that hangs must not hang the role

T = TypeVar("T")


class Reading:
    """The reads of one process. ``timeout`` in seconds is for each."""

    def __init__(self, *, timeout: float = READ_TIMEOUT) -> None:
        self._timeout = timeout
        self._hanging: dict[str, threading.Event] = {}

    async def read(self, what: str, read: Callable[[], T]) -> T:
        """What ``read`` returns or raises; ``what`` names the files, for this and for the text of an error.

        Raises AuthorityUnavailable with the reason ``files_hang``.
        """
        before = self._hanging.get(what)
        if before is not None and not before.is_set():
            raise _hangs(f"reading {what} still hangs since an earlier look")
        self._hanging.pop(what, None)
        begun, ended = threading.Event(), threading.Event()

        def run(_: Abandoned) -> T:
            begun.set()
            try:
                return read()
            finally:
                ended.set()

        try:
            return await BlockingCalls(where=what, timeout=self._timeout).call(run)
        except StateUnavailable as error:
            raise _hangs(f"reading {what}: {error.what}") from None
        finally:
            if begun.is_set() and not ended.is_set():  # out of time, or given up by who asked
                self._hanging[what] = ended


@cache
def _reading_of_this_process() -> Reading:
    """The one that all share: what hangs is a thread of the process."""
    return Reading()


async def read_in_time(what: str, read: Callable[[], T]) -> T:
    """As :meth:`Reading.read`, with the reads of this process."""
    return await _reading_of_this_process().read(what, read)


def _hangs(what: str) -> AuthorityUnavailable:
    return AuthorityUnavailable(what, reason="files_hang", remedy="check the volume that it is on")
