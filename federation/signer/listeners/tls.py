"""The server's side of TLS: the certificate that handshakes present, and TLS on a non-blocking socket.

OpenSSL on the descriptor itself would read on while records come that hold no data: one client that sends
KeyUpdate after KeyUpdate (RFC 8446, 4.6.3) would occupy the loop for as long as it likes. So the bytes are read here,
a piece at a time, the records in it are counted, and only then is OpenSSL given them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from federation.signer.listeners.frame_limits import RecordWatch

ALPN: Final = "h2"
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that HTTP/2 allows (RFC 9113, 9.2.2). TLS 1.3 has no others."""


@dataclass(frozen=True, slots=True)
class ServingPair:
    """What the listener shows in a handshake; key and certificate are known to agree."""

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
        descriptor = os.memfd_create("listener", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory(prefix="listener-") as folder:  # only its owner may look into it
            path = Path(folder) / "pair.pem"
            path.write_bytes(data)
            yield path


def _no_password() -> str:
    """For OpenSSL, which would otherwise ask on the terminal."""
    raise ValueError("the key is encrypted")


PIECE: Final = 4096  # bytes of ciphertext at once: a call of an agent is one piece
WRITTEN: Final = 8192  # bytes of plaintext in one record at most: what waits in memory beside them is as much


class TlsSocket:
    """The server's end. Its socket is closed by who opened it."""

    __slots__ = ("_incoming", "_left", "_outgoing", "_socket", "_tls", "ended", "watch")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, now: float) -> None:
        self._socket: Final = sock
        self._incoming: Final = ssl.MemoryBIO()
        self._outgoing: Final = ssl.MemoryBIO()
        self._tls: Final = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._left = b""
        self.watch: Final = RecordWatch(now)
        self.ended = False
        """Whether the other end has said that nothing more comes, or has gone."""

    @property
    def waiting(self) -> int:
        """Bytes of ciphertext that the kernel has not taken yet."""
        return len(self._left) + self._outgoing.pending

    @property
    def silent(self) -> bool:
        """Whether the other end has not got as far as to offer ciphers."""
        return self._tls.shared_ciphers() is None

    @property
    def protocol(self) -> str | None:
        """What was agreed on by ALPN."""
        return self._tls.selected_alpn_protocol()

    def receive(self, now: float) -> None:
        """Take one piece from the kernel. Raises BlockingIOError where there is none, and Flood."""
        try:
            data = self._socket.recv(PIECE)
        except ConnectionError:
            data = b""
        if data:
            self.watch.feed(data, now)
            self._incoming.write(data)
        else:
            self.ended = True
            self._incoming.write_eof()

    def shake_hands(self) -> bool:
        """Whether the handshake is done. Raises ssl.SSLError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def read(self) -> bytes:
        """All that is in what was received. Raises ssl.SSLError."""
        data = b""
        while True:
            try:
                piece = self._tls.read(16384)  # a whole record
            except (ssl.SSLWantReadError, ssl.SSLEOFError):
                return data
            if not piece:
                self.ended = True
                return data
            data = data + piece if data else piece
            if not (self._incoming.pending or self._tls.pending()):
                return data  # asking again would cost an exception

    def write(self, data: bytearray) -> bool:
        """Hand over as much as is taken, which is taken out of ``data``. Whether that is all. Raises OSError."""
        while self.flush():
            if not data:
                return True
            del data[: self._tls.write(data[:WRITTEN])]
        return False

    def flush(self) -> bool:
        """Hand over what is encrypted already. Whether that is all. Raises OSError."""
        while self._left or self._outgoing.pending:
            if not self._left:
                self._left = self._outgoing.read()
            try:
                sent = self._socket.send(self._left)
            except (BlockingIOError, InterruptedError):
                return False
            self._left = self._left[sent:]
        return True

    def say_goodbye(self) -> None:
        """Say that nothing was cut off (close_notify); the answer is not awaited. Raises OSError."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self.flush()
