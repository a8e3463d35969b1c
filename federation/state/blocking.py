"""Calls to the disk of the state directory: one that hangs is a store that does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from federation.core.errors import StateUnavailable
from federation.files.blocking import Abandoned, BlockingCalls

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
