"""Credentials of a gRPC server in a test, whose certificate can be replaced while it runs."""

from __future__ import annotations

import threading
from typing import Any

import grpc

from federation.signer.listeners.tls import ServingPair


class ReplacedCredentials:
    """The pair to show in the next handshake; read by gRPC's own threads."""

    def __init__(self, pair: ServingPair) -> None:
        self._lock = threading.Lock()
        self._pair = pair
        self._handed_out: ServingPair | None = pair

    def replace(self, pair: ServingPair) -> None:
        """Show this pair from the next handshake on; connections that stand are not touched."""
        with self._lock:
            self._pair = pair

    def grpc(self) -> Any:
        """The credentials object that a gRPC server is given."""
        return grpc.dynamic_ssl_server_credentials(_configuration(self._pair), self._fetch)

    def _fetch(self) -> Any:
        """Asked before every handshake; None says that nothing has changed."""
        with self._lock:
            if self._pair is self._handed_out:
                return None
            self._handed_out = self._pair
            return _configuration(self._pair)


def _configuration(pair: ServingPair) -> Any:
    return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.chain_pem)])
