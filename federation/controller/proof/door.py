"""The signer's door, as a workload's agent sees it: gRPC over TLS, verified against the bundle in force."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
import grpc.aio

from federation.core.clock import Clock
from federation.core.config.model import Address, HubConfig
from federation.core.errors import InvalidValue, NotReady, Refused, Unavailable
from federation.core.identity import ClusterId
from federation.core.istio_ca import METHOD, IstioCertificateRequest, decode_response, encode_request

TIMEOUT = 15.0
"""Seconds for one certificate: the door's own deadline is 10."""

CERTIFICATE: Final = "door_certificate"
NO_ANSWER: Final = "door_unavailable"
REFUSED: Final = "door_refused"
"""Reasons of what :meth:`SignerDoor.request` raises."""

_OF_ITS_CERTIFICATE: Final = (
    "CERTIFICATE_VERIFY_FAILED",
    "is not in peer certificate",
    "Hostname Verification",
)
"""What gRPC says where the server's certificate is not believed; the status is UNAVAILABLE, as for every outage."""

_OURS_TO_RETRY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)


def door_address(config: HubConfig, override: Address | None) -> Address:
    """Where the controller reaches the door; a wildcard it listens on is reached by loopback."""
    address = override or config.controller.proof.signer_address or config.door.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  not bound to
    return Address(host, address.port)


KEPT = 300.0
"""Seconds for which a channel is kept although nothing has changed. What is behind an address may: a connection that
stands does not show it."""


class SignerDoor:
    """One channel for every cluster, made anew whenever address, name, trust or what the door shows change.

    A workload that starts now makes a new connection, so the hub's own requests, which stand for it, must not live on
    one that was accepted long ago. Where address, name and trust stay, calls under way end on the channel they have.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made_for: tuple[str, str, bytes, frozenset[str]] | None = None
        self._made_at = 0.0
        self._channel: grpc.aio.Channel | None = None
        self._leaving: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    async def aim(
        self, address: str, *, server_name: str, trust_pem: bytes, shown: frozenset[str] = frozenset()
    ) -> None:
        """Reach the door there, and believe only a server of that name whose chain ends in ``trust_pem``.

        ``shown`` are the certificates that signers say they show.
        """
        wanted = address, server_name, trust_pem, shown
        if wanted == self._made_for and self._clock.monotonic() - self._made_at < KEPT:
            return
        if self._channel is not None and self._made_for is not None and wanted[:3] == self._made_for[:3]:
            self._leave(self._channel)
        else:
            await self.close()
        credentials = grpc.ssl_channel_credentials(root_certificates=trust_pem)
        options = [
            ("grpc.ssl_target_name_override", server_name),
            ("grpc.max_receive_message_length", 4 * 1024 * 1024),
            ("grpc.max_reconnect_backoff_ms", 5000),
            ("grpc.enable_http_proxy", 0),  # the environment chooses no way to the signer
            ("grpc.use_local_subchannel_pool", 1),  # or an earlier channel's connection would be used again
        ]
        self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._made_for, self._made_at = wanted, self._clock.monotonic()

    async def request(
        self, *, csr: str, token: str, cluster_id: ClusterId, lifetime: float
    ) -> tuple[str, ...]:
        """The elements of ``cert_chain``.

        Raises NotReady before :meth:`aim`, Unavailable where the door does not answer, Refused where it refuses
        this caller, InvalidValue for a reply that is none. The door tells a caller nothing about why; its log
        does.
        """
        if self._channel is None:
            raise NotReady("there is no bundle yet to verify the signer's door with")
        message = encode_request(IstioCertificateRequest(csr=csr, validity_seconds=int(lifetime)))
        metadata = (("authorization", f"Bearer {token}"), ("clusterid", str(cluster_id)))
        call = self._channel.unary_unary(METHOD)
        try:
            answer = await call(message, metadata=metadata, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if any(word in (error.details() or "") for word in _OF_ITS_CERTIFICATE):
                raise Unavailable(
                    "the certificate of the signer's door does not verify by the bundle in force and its name",
                    reason=CERTIFICATE,
                    remedy="`federation authority check` judges what the authority issues to the door; compare "
                    "door.server_names with the names that clients use",
                ) from None
            if code in _OURS_TO_RETRY:
                raise Unavailable(
                    f"the signer's door did not answer ({code.name})",
                    reason=NO_ANSWER,
                    remedy="see that a signer runs, that it listens at controller.proof.signer_address (else "
                    "door.listen), and what stands between the controller and it",
                ) from None
            raise Refused(
                f"the signer's door refused the request ({code.name})",
                reason=REFUSED,
                remedy="the signer's log says why: look for this cluster there",
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # grpc.aio says so to calls under way on a channel that closes; nobody has cancelled this task.
            raise Unavailable(
                "the channel to the signer's door was replaced: another bundle is in force"
            ) from None
        if not isinstance(answer, bytes):
            raise InvalidValue("the reply of the signer's door holds no bytes")
        return decode_response(answer)

    def _leave(self, channel: grpc.aio.Channel) -> None:
        """Close it once the calls under way on it have ended, which their timeout bounds."""

        async def close() -> None:
            try:
                await channel.close(TIMEOUT)
            finally:
                self._leaving.pop(channel, None)

        self._leaving[channel] = asyncio.create_task(close(), name="a channel that is left")

    async def close(self) -> None:
        """Close every channel; calls under way fail, on one that was left by their timeout at the latest."""
        channel, self._channel, self._made_for = self._channel, None, None
        leaving, self._leaving = self._leaving, {}
        for task in leaving.values():
            task.cancel()
        await asyncio.gather(*leaving.values(), return_exceptions=True)
        for each in (*leaving, *([channel] if channel is not None else [])):
            await each.close()
