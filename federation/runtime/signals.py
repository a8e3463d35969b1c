"""SIGTERM and SIGINT end a role in good order, SIGHUP makes it look at its configuration again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


@contextlib.contextmanager
def handled(stop: asyncio.Event, *, hangup: Callable[[], None]) -> Iterator[None]:
    """While the context is open SIGTERM and SIGINT set ``stop`` and SIGHUP calls ``hangup``, in the loop."""
    loop = asyncio.get_running_loop()

    def end(name: str) -> None:
        if not stop.is_set():
            log.info("%s: draining", name)
        stop.set()

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: lambda: end("SIGTERM"),
        signal.SIGINT: lambda: end("SIGINT"),
        signal.SIGHUP: hangup,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
