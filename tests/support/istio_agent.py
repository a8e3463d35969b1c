"""Istio's agent as it calls the CA: one connection for its whole life, no deadline, five attempts, and a new connection
after a call that failed.

Sources, in istio/istio: ``security/pkg/nodeagent/caclient/providers/citadel/client.go`` (no deadline; the roots are
read when it dials; reconnects after a failed call), ``pkg/security/retry.go`` (five attempts, waits of 100 ms doubled,
the codes), ``pkg/keepalive/options.go`` (a ping after 30 s, 10 s for its answer). In grpc-go: 20 s for a connection.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

import grpc
import grpc.aio
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.istio.ca_protocol import METHOD, IstioCertificateRequest, decode_response, encode_request
from federation_sandbox.mesh import ATTEMPTS, FIRST_BACKOFF, RETRYABLE, Identity, Workload, make_request

JITTER = 0.1


@dataclass(frozen=True)
class Keepalive:
    """In seconds: what Istio sets by GRPC_KEEPALIVE_INTERVAL and GRPC_KEEPALIVE_TIMEOUT, and grpc-go's limit."""

    interval: float = 30.0
    timeout: float = 10.0
    connect: float = 20.0


@dataclass(frozen=True)
class Called:
    """One call with all its attempts."""

    began: float
    seconds: float
    attempts: int
    error: str = ""
    roots_of_dial: bool = False
    """Whether it failed because the connection knew the roots of the time when it was dialled and no newer one."""


class Agent:
    """One workload's agent. Close it after use."""

    def __init__(self, workload: Workload, *, listener: str, server_name: str, keepalive: Keepalive) -> None:
        self._workload = workload
        self._listener = listener
        self._options = (
            ("grpc.ssl_target_name_override", server_name),
            ("grpc.use_local_subchannel_pool", 1),  # a process of its own shares no connection
            ("grpc.keepalive_time_ms", int(keepalive.interval * 1000)),
            ("grpc.keepalive_timeout_ms", int(keepalive.timeout * 1000)),
            ("grpc.http2.ping_timeout_ms", int(keepalive.timeout * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 1000),
            ("grpc.min_reconnect_backoff_ms", int(keepalive.connect * 1000)),
        )
        self._channel: grpc.aio.Channel | None = None

    @property
    def holds(self) -> Identity | None:
        """What it got last."""
        return self._workload.current

    async def close(self) -> None:
        """Close its connection."""
        if self._channel is not None:
            await self._channel.close()

    async def call(self) -> Called:
        """Ask for a certificate, as often as the agent does in one call; what fails is in the answer."""
        began, attempts = time.monotonic(), 0
        key = ec.generate_private_key(ec.SECP256R1())
        csr = make_request(self._workload.identity, key)
        request = encode_request(
            IstioCertificateRequest(csr=csr, validity_seconds=0, metadata={"CertSigner": ""})
        )
        while True:
            attempts += 1
            try:
                answer = await self._attempt(request)
            except grpc.aio.AioRpcError as error:
                if error.code() in RETRYABLE and attempts < ATTEMPTS:
                    wait = FIRST_BACKOFF * 2 ** (attempts - 1)
                    await asyncio.sleep(wait * (1 + JITTER * (2 * random.random() - 1)))
                    continue
                await self.close()
                self._channel = None
                detail = f"{error.code().name}: {error.details()}"
                return Called(
                    began,
                    time.monotonic() - began,
                    attempts,
                    detail,
                    roots_of_dial="CERTIFICATE_VERIFY_FAILED" in str(error.details()),
                )
            self._workload.current = self._workload.accept(decode_response(answer), key)
            return Called(began, time.monotonic() - began, attempts)

    async def _attempt(self, request: bytes) -> bytes:
        if self._channel is None:
            current = self._workload.current
            roots = current.trust_pem if current else self._workload.listener_trust()
            credentials = grpc.ssl_channel_credentials(root_certificates=roots)
            self._channel = grpc.aio.secure_channel(self._listener, credentials, options=self._options)
        metadata = (
            ("authorization", f"Bearer {self._workload.token()}"),
            ("clusterid", str(self._workload.cluster_id)),
        )
        answer: bytes = await self._channel.unary_unary(METHOD)(request, metadata=metadata)
        return answer
