"""Reads of files that hang are given up at once, so that tests of them are quick."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation.files import READ_TIMEOUT, Reading


def impatient_reads(monkeypatch: pytest.MonkeyPatch, timeout: float) -> None:
    """Have the reads that all of this process share take ``timeout`` seconds at most, and know of none before."""
    shared, read = Reading(timeout=timeout), Reading.read
    own = set[Reading]()

    def made(self: Reading, *, timeout: float = READ_TIMEOUT) -> None:
        own.add(self)
        initialise(self, timeout=timeout)

    async def redirected(self: Reading, what: str, function: Callable[[], object]) -> object:
        return await read(self if self in own else shared, what, function)

    initialise = Reading.__init__
    monkeypatch.setattr(Reading, "__init__", made)
    monkeypatch.setattr(Reading, "read", redirected)
