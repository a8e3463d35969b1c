"""gRPC's server as a thin shell: TLS, limits, deadlines and status codes around a function of bytes.

What a door's protocol means is not known here, and gRPC is known nowhere else, so the transport can be
exchanged.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from federation.core.config.model import Address, DoorConfig
from federation.core.errors import NotReady
from federation.core.istio_ca import MAX_RESPONSE_BYTES
from federation.signer.doors.answers import Answered, Code, answer_to

MAX_METADATA_BYTES: Final = 16 * 1024
MAX_STREAMS: Final = 128  # calls at once on one connection; an agent has one, a ztunnel eight
CONNECTION_GRACE: Final = 30.0  # seconds for calls under way on a connection that has reached its age

_logger = logging.getLogger(__name__)
_STATUS: Final = {code: grpc.StatusCode[code.name] for code in Code}


class Door(Protocol):
    """A protocol that a shell carries."""

    @property
    def method(self) -> str:
        """The full name of its one method: ``/package.Service/Method``."""
        ...

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, peer: str
    ) -> bytes:
        """The reply's bytes; raises Answered instead."""
        ...

    def late(self, *, peer: str) -> None:
        """A call was ended because its deadline had passed."""
        ...


@dataclass(frozen=True, slots=True)
class ServingPair:
    """What the door shows in a handshake; key and certificate are known to agree."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)


class ServingCredentials:
    """The pair to show in the next handshake; replaced at any time, read by gRPC's own threads."""

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


class GrpcServer:
    """One listening port with one door behind it."""

    def __init__(
        self, door: Door, *, config: DoorConfig, listen: Address, credentials: ServingCredentials
    ) -> None:
        self._door = door
        self._config = config
        self._listen = listen
        self._server = grpc.aio.server(
            options=_options(config), maximum_concurrent_rpcs=config.max_concurrent
        )
        service, _, method = door.method.lstrip("/").partition("/")
        # No serializers: messages go in and out as the bytes they are on the wire.
        handler = grpc.unary_unary_rpc_method_handler(self._call)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self._credentials = credentials.grpc()

    async def start(self) -> Address:
        """Bind and serve at the address returned, with the port really bound; NotReady where it is taken."""
        try:
            port = self._server.add_secure_port(str(self._listen), self._credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise NotReady(
                f"cannot listen at {self._listen}",
                reason="address_in_use",
                remedy="see who listens there, or change door.listen",
            )
        await self._server.start()
        return Address(self._listen.host, port)

    async def stop(self, drain: float) -> None:
        """Take no new calls, let those under way finish for so many seconds, then end them."""
        await self._server.stop(drain)

    async def _call(self, message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        remaining = context.time_remaining()
        limit = self._config.deadline if remaining is None else min(self._config.deadline, remaining)
        try:
            async with asyncio.timeout(limit):
                return await self._door.handle(
                    message, context.invocation_metadata() or (), peer=context.peer()
                )
        except Answered as answered:
            answer = answered
        except TimeoutError as error:
            self._door.late(peer=context.peer())
            answer = answer_to(error)
        except asyncio.CancelledError as error:
            # Of something that the call waited for, not of the call: gRPC would send no status at all.
            call = asyncio.current_task()
            if call is None or call.cancelling():
                raise
            _logger.exception("a call waited for something that was ended", extra={"peer": context.peer()})
            answer = answer_to(NotReady(str(error)))
        await context.abort(_STATUS[answer.code], answer.sentence)
        raise AssertionError("abort always raises")


def _options(config: DoorConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),  # the signers of one machine share the port
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.keepalive_permit_without_calls", 1),  # agents ping while they wait for their next renewal
        ("grpc.http2.min_ping_interval_without_data_ms", int(config.min_keepalive_interval * 1000)),
        ("grpc.max_connection_age_ms", int(config.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(CONNECTION_GRACE * 1000)),
    ]
