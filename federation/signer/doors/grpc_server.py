"""gRPC's server as a thin shell: TLS, limits, deadlines and status codes around a function of bytes.

What a door's protocol means is not known here, and gRPC is known nowhere else, so the transport can be
exchanged.

The method is registered as one that takes a stream: on the wire that is the same, but gRPC hands a call over with its
headers and not with its message, so that waiting for the message has a deadline and a place (``places``) like all else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from federation.core.config.model import Address, DoorConfig
from federation.core.errors import FederationError, NotReady, Overloaded, RequestRefused
from federation.core.istio_ca import MAX_RESPONSE_BYTES
from federation.core.places import Place, Places
from federation.signer.doors.answers import Answered, Code, answer_to

Context: TypeAlias = grpc.aio.ServicerContext

MAX_METADATA_BYTES: Final = 16 * 1024
MAX_STREAMS: Final = 16  # calls at once on one connection; an agent has one, a ztunnel eight
GOLDEN_RATIO: Final = 0.618034  # its multiples are spread evenly between whole numbers, however many they are
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
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, place: Place
    ) -> bytes:
        """The reply's bytes; raises Answered instead. Says at ``place`` when the caller is proven."""
        ...

    def turned_away(self, error: FederationError, *, peer: str) -> None:
        """A call was ended by the transport, and why."""
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
        self._spread = 0.0
        self._places = Places(config.max_concurrent, _too_many)
        self._server = grpc.aio.server(options=_options(config))
        service, _, method = door.method.lstrip("/").partition("/")
        # No serializers: messages go in and out as the bytes they are on the wire.
        handler = grpc.stream_unary_rpc_method_handler(self._call)
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

    async def _call(self, _: AsyncIterator[bytes], context: Context) -> bytes:
        peer = context.peer()
        try:
            return await self._serve(context, peer)
        except Answered as answered:
            answer = answered
        except FederationError as error:
            self._door.turned_away(error, peer=peer)
            answer = answer_to(error)
        except asyncio.CancelledError as error:
            # Of something that the call waited for, not of the call: gRPC would send no status at all.
            call = asyncio.current_task()
            if call is None or call.cancelling():
                raise
            _logger.exception("a call waited for something that was ended", extra={"peer": peer})
            answer = answer_to(NotReady(str(error)))
        await context.abort(_STATUS[answer.code], answer.sentence)
        raise AssertionError("abort always raises")

    def _receive_deadline(self) -> float:
        """Seconds, from half of what is configured to all of it: what begins together must not end in one burst."""
        self._spread = (self._spread + GOLDEN_RATIO) % 1.0
        return self._config.receive_deadline * (1.0 - self._spread / 2)

    async def _serve(self, context: Context, peer: str) -> bytes:
        """Receive the message, each part of the way within its time, and have the door answer it."""
        clock = asyncio.get_running_loop().time
        remaining = context.time_remaining()
        end = math.inf if remaining is None else clock() + remaining
        place: Place | None = None
        message: bytes | None = None
        try:
            async with asyncio.timeout_at(min(end, clock() + self._receive_deadline())) as allowed:
                place = self._places.enter(peer, give_way=partial(_end, allowed))
                message = _message(await context.read())
                place.received()
                allowed.reschedule(min(end, clock() + self._config.deadline))
                return await self._door.handle(message, context.invocation_metadata() or (), place=place)
        except TimeoutError:
            if place is not None and place.gone is not None:
                raise place.gone from None
            if message is None:
                raise RequestRefused(
                    "its message did not follow its headers in time", reason="late_message"
                ) from None
            raise NotReady("it was not decided before the deadline", reason="deadline") from None
        finally:
            if place is not None:
                place.leave()


def _end(allowed: asyncio.Timeout) -> None:
    """End what it limits now, unless it ends already."""
    if not allowed.expired():
        allowed.reschedule(asyncio.get_running_loop().time())


def _too_many() -> Overloaded:
    return Overloaded(
        "the door is full, and others have fewer calls that no cluster vouches for",
        reason="too_many_calls",
        remedy="status names the address with most of them; raise door.max_concurrent or add signers for honest load",
    )


def _message(read: Any) -> bytes:
    """What was read, where it is a message: gRPC also ends the stream of one that is too large or compressed."""
    if not isinstance(read, bytes):
        raise RequestRefused(
            "it ended without a message, or with one that is too large or cannot be read", reason="no_message"
        )
    return read


def _options(config: DoorConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),  # the signers of one machine share the port
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.server_handshake_timeout_ms", int(config.receive_deadline * 1000)),  # TCP, TLS and the preface
        ("grpc.keepalive_permit_without_calls", 1),  # agents ping while they wait for their next renewal
        ("grpc.http2.min_ping_interval_without_data_ms", int(config.min_keepalive_interval * 1000)),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.max_connection_idle_ms", int(config.max_connection_idle * 1000)),
        ("grpc.max_connection_age_ms", int(config.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(CONNECTION_GRACE * 1000)),
    ]
