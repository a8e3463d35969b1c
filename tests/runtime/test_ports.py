"""The listener's port stays the hub's while its signers come and go."""

from __future__ import annotations

import socket

import pytest

from federation.core.config.types import Address
from federation.core.errors import NotReady
from federation.runtime.processes import reachable, reserved


def listener(address: Address) -> socket.socket:
    """A child's server: it shares the port."""
    child = socket.socket()
    child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    child.bind((address.host, address.port))
    child.listen()
    return child


def test_children_share_the_reserved_port_and_get_every_connection() -> None:
    with reserved(Address("127.0.0.1", 0)) as address:
        assert address.port > 0
        with listener(address) as one, listener(address) as two:
            one.setblocking(False)
            two.setblocking(False)
            for _ in range(20):
                with socket.create_connection((address.host, address.port), timeout=5):
                    pass
            accepted = 0
            for child in (one, two):
                while True:
                    try:
                        child.accept()[0].close()
                    except BlockingIOError:
                        break
                    accepted += 1
            assert accepted == 20


def test_no_other_process_can_take_it() -> None:
    with reserved(Address("127.0.0.1", 0)) as address:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind((address.host, address.port))
        with pytest.raises(ConnectionRefusedError):  # reserved, not listened on
            socket.create_connection((address.host, address.port), timeout=5).close()
    with socket.socket() as stranger:
        stranger.bind((address.host, address.port))
        assert stranger.getsockname()[1] == address.port


def test_a_taken_port_is_named_with_a_remedy() -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", stranger.getsockname()[1])
        with pytest.raises(NotReady) as caught, reserved(address):
            pytest.fail("the port is taken")
    assert str(address) in str(caught.value)
    assert "listener.listen" in caught.value.remedy


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(NotReady), reserved(Address("192.0.2.1", 0)):
        pytest.fail("TEST-NET-1 is an address of no machine")


@pytest.mark.parametrize(
    ("listening", "reached"),
    [
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "[::1]:1"),
        ("127.0.0.2:1", "127.0.0.2:1"),
        ("hub.example:1", "hub.example:1"),
    ],
)
def test_where_a_server_is_reached(listening: str, reached: str) -> None:
    host, _, port = listening.rpartition(":")
    assert str(reachable(Address(host.strip("[]"), int(port)))) == reached
