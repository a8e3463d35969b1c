"""A port that several processes share by SO_REUSEPORT, kept by their supervisor while they come and go."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from federation.core.config.model import Address
from federation.core.errors import NotReady


@contextlib.contextmanager
def reserved(listen: Address) -> Iterator[Address]:
    """Keep the port of ``listen`` (any free one for port 0) for children of the same user.

    The socket is bound and never listens, so the kernel gives it no connection. Nobody else can bind the port, not
    even between the end of one child and the start of the next. Raises NotReady where it is taken.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        keeper = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _taken(listen, error) from error
    with keeper:
        try:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            keeper.bind(where)
        except OSError as error:
            raise _taken(listen, error) from error
        yield Address(listen.host, int(keeper.getsockname()[1]))


def reachable(listening: Address) -> Address:
    """Where this machine reaches a server that listens there: loopback for an address that means every one."""
    try:
        ip = ip_address(listening.host)
    except ValueError:  # a name
        return listening
    if not ip.is_unspecified:
        return listening
    return Address("::1" if ip.version == 6 else "127.0.0.1", listening.port)


def _taken(listen: Address, error: OSError) -> NotReady:
    return NotReady(
        f"cannot listen at {listen}: {error.strerror or error}",
        reason="address_in_use",
        remedy="see who listens there, or change door.listen",
    )
