"""The signer's own transport around a listener that does nothing: what a call costs before any work is done.

`python -m tests.bench.empty_listener PORT CHAIN KEY` serves until it is terminated.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path

import uvloop

from federation.core.call_slots import CallSlot
from federation.core.config.hub import ListenerConfig
from federation.core.config.types import Address
from federation.core.errors import FederationError
from federation.core.istio.ca_protocol import METHOD
from federation.signer.listeners.listener import Listener
from federation.signer.listeners.tls import ServingCredentials, ServingPair


class EmptyListener:
    """Answers every call with one byte."""

    method = METHOD

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, slot: CallSlot
    ) -> bytes:
        return b"\x00"

    def reject(self, error: FederationError, *, peer: str) -> None:
        """Nothing is counted here."""

    def connection_refused(self, error: FederationError, *, peer: str) -> None:
        """Nor here."""


async def serve(port: int, chain: Path, key: Path) -> None:
    config = ListenerConfig(listen=Address("127.0.0.1", port), server_names=(), max_concurrent=2000)
    credentials = ServingCredentials(ServingPair(chain.read_bytes(), key.read_bytes()))
    server = Listener(EmptyListener(), config=config, listen=config.listen, credentials=credentials)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
