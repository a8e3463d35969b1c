"""Loopback ports for servers that come and go, which nothing else on the machine takes in the meantime."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from pathlib import Path
from typing import Any, Final, Self

from federation.core.errors import NotReady

_LOOPBACK: Final = "127.0.0.1"
LOWEST: Final = 16384
_OUTGOING_LINUX: Final = (
    32768  # where Linux begins to number outgoing connections if nothing else is configured
)
_OUTGOING: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ReservedPort(int):
    """A port number that is given to no other caller while it is referenced.

    A port that was only free a moment ago can be gone when the server begins to listen, or again while the server is
    being restarted: to another test, or to an outgoing connection. So it lies below the range that the kernel numbers
    outgoing connections from, and its UDP twin, which no server here needs, is bound as the mark that it is taken.
    """

    _mark: int

    def __new__(cls, mark: socket.socket) -> Self:
        """Take over ``mark``, the bound UDP socket."""
        port = super().__new__(cls, mark.getsockname()[1])
        port._mark = mark.detach()
        return port

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)  # a copy is a number: the mark cannot be bound twice


def free_port(*, lowest: int = LOWEST) -> ReservedPort:
    """A loopback port from ``lowest`` on that is free and stays so; raises NotReady where there is none."""
    ports = range(lowest, max(_first_outgoing(), lowest + 1024))
    first = secrets.randbelow(len(ports))  # two processes that look at once begin at different places
    for port in (*ports[first:], *ports[:first]):
        with socket.socket(type=socket.SOCK_DGRAM) as mark, socket.socket() as probe:
            try:
                mark.bind((_LOOPBACK, port))
                probe.bind((_LOOPBACK, port))
            except OSError:
                continue
            return ReservedPort(mark)
    raise NotReady(f"no port from {ports.start} to {ports.stop - 1} is free", where=_LOOPBACK)


def _first_outgoing() -> int:
    try:
        return int(_OUTGOING.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _OUTGOING_LINUX
