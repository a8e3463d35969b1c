"""A status server on loopback over a real file store, and a client of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.status.serving import LOOPBACK, Running, serving

__all__ = ["LOOPBACK", "Running", "Start", "start"]

Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a status server over a world that is well; one that ``operates`` takes operations in real time."""

    def running(*args: Any, **options: Any) -> AbstractAsyncContextManager[Running]:
        return serving(tmp_path / "state", *args, **options)

    return running
