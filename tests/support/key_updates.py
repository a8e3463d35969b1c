"""A TLS client that sends KeyUpdate after KeyUpdate, which Python's ssl cannot; through the OpenSSL it is built on."""

from __future__ import annotations

import _ssl
import ctypes
import ctypes.util
import socket
from dataclasses import dataclass
from typing import Final

import pytest

from federation.core.config.types import Address
from tests.bench.callers import PREFACE, SETTINGS, frame

_UPDATE_NOT_REQUESTED: Final = 0
_RECORD_BYTES: Final = 27


@dataclass
class KeyUpdates:
    """A connection on which HTTP/2 has begun, and the records to send on it."""

    socket: socket.socket
    records: bytes


def key_updates(address: Address, count: int) -> KeyUpdates:
    """The server's certificate is not looked at. Skips the test where OpenSSL cannot be called."""
    try:
        tls = ctypes.CDLL(getattr(_ssl, "__file__", None) or ctypes.util.find_library("ssl"))
        tls.SSL_key_update, tls.BIO_new  # noqa: B018
    except (OSError, AttributeError):
        pytest.skip("the OpenSSL of this Python cannot be called")
    pointer = ctypes.c_void_p
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem", "BIO_new"):
        getattr(tls, name).restype = pointer
    talking = socket.create_connection((address.host, address.port), timeout=30)
    talking.setblocking(True)
    connection = pointer(tls.SSL_new(pointer(tls.SSL_CTX_new(pointer(tls.TLS_client_method())))))
    tls.SSL_set_fd(connection, talking.fileno())
    tls.SSL_set_alpn_protos(connection, b"\x02h2", 3)
    assert tls.SSL_connect(connection) == 1
    greeting = PREFACE + frame(SETTINGS, 0, 0, b"")
    assert tls.SSL_write(connection, greeting, len(greeting)) == len(greeting)
    memory = pointer(tls.BIO_new(pointer(tls.BIO_s_mem())))
    tls.SSL_set0_wbio(connection, memory)
    for _ in range(count):
        assert tls.SSL_key_update(connection, _UPDATE_NOT_REQUESTED) == 1
        assert tls.SSL_do_handshake(connection) == 1
    records = ctypes.create_string_buffer(count * _RECORD_BYTES)
    length = tls.BIO_read(memory, records, len(records))
    assert length == count * _RECORD_BYTES
    return KeyUpdates(talking, records.raw[:length])
