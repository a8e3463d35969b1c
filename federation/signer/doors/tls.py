"""What the door shows in a TLS handshake. It can be replaced at any time; connections that stand are not touched."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ALPN: Final = "h2"
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that HTTP/2 allows (RFC 9113, 9.2.2). TLS 1.3 has no others."""


@dataclass(frozen=True, slots=True)
class ServingPair:
    """What the door shows in a handshake; key and certificate are known to agree."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)


class ServingCredentials:
    """The pair to show in the next handshake."""

    def __init__(self, pair: ServingPair) -> None:
        self.pair = pair
        self.context = server_context(pair)

    def replace(self, pair: ServingPair) -> None:
        """Show this pair from the next handshake on."""
        self.context = server_context(pair)
        self.pair = pair


def server_context(pair: ServingPair) -> ssl.SSLContext:
    """TLS 1.2 or later, HTTP/2 alone, no resumption.

    No certificate is asked for: OpenSSL ends the handshake where one that a client shows cannot be verified, and
    nothing in the hub would make use of it. A client that has one is not asked, and so cannot fail for it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([ALPN])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    with _in_file(pair.key_pem + b"\n" + pair.chain_pem) as file:
        context.load_cert_chain(file, password=_no_password)
    return context


@contextlib.contextmanager
def _in_file(data: bytes) -> Iterator[Path]:
    """A file for OpenSSL, which takes files alone; in memory where the system has such files."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("door", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory(prefix="door-") as folder:  # only its owner may look into it
            path = Path(folder) / "pair.pem"
            path.write_bytes(data)
            yield path


def _no_password() -> str:
    """Stands where OpenSSL would otherwise ask on the terminal."""
    raise ValueError("the key is encrypted")
