"""A caller that behaves as ztunnel does, as far as certificates are concerned.

From ztunnel's own code: what it sends and what it checks (``src/identity/caclient.rs``, ``src/tls/csr.rs``), when it
asks again and how many requests it has in flight (``src/identity/manager.rs``, ``refresh_at`` in
``src/tls/certificate.rs``). Time is the given clock's, so that days of renewals pass in a moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.clock import Clock
from federation.core.identity import SpiffeId
from federation.core.istio.ca_protocol import IstioCertificateRequest, decode_response, encode_request
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates

CONCURRENCY: Final = 8
FIRST_BACKOFF: Final = 1.0  # seconds
LONGEST_BACKOFF: Final = 150.0
SECRET_TTL: Final = 86400

Call = Callable[[bytes], Awaitable[bytes]]
"""Sends an encoded request with ztunnel's token and ``clusterid``; raises :class:`grpc.aio.AioRpcError`."""


@dataclass(frozen=True)
class ProxyCertificate:
    """A certificate with its chain, and the roots of the last element, which are all that ztunnel trusts."""

    leaf: Certificate
    chain: tuple[Certificate, ...]
    roots: tuple[Certificate, ...]

    @property
    def refresh_at(self) -> datetime:
        """Half of the time between NotBefore and NotAfter."""
        return self.leaf.not_before + (self.leaf.not_after - self.leaf.not_before) / 2


@dataclass
class Ztunnel:
    """The certificates of one node. Dedicated mode (``impersonates`` False) asks for its own alone, and as itself."""

    call: Call
    clock: Clock
    jitter: random.Random = field(default_factory=lambda: random.Random(1))
    impersonates: bool = True
    ttl: int = SECRET_TTL
    certificates: dict[SpiffeId, ProxyCertificate] = field(default_factory=dict)
    asked: list[tuple[float, SpiffeId]] = field(default_factory=list)
    refusals: list[tuple[SpiffeId, grpc.StatusCode]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    _queue: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENCY))

    async def fetch(self, identity: SpiffeId) -> ProxyCertificate:
        """Request one certificate. Raises AioRpcError where refused, ValueError where ztunnel rejects the reply."""
        key = ec.generate_private_key(ec.SECP256R1())
        fields = {"ImpersonatedIdentity": str(identity)} if self.impersonates else {}
        request = IstioCertificateRequest(
            csr=make_csr(identity, key), validity_seconds=self.ttl, metadata=fields
        )
        async with self._queue:
            self.asked.append((self.clock.monotonic(), identity))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                elements = decode_response(await self.call(encode_request(request)))
            finally:
                self.in_flight -= 1
        certificate = _accept(elements, identity, key)
        self.certificates[identity] = certificate
        return certificate

    async def run(self, identities: Iterable[SpiffeId]) -> None:
        """Keep a valid certificate for each of these until cancelled."""
        async with asyncio.TaskGroup() as group:
            for identity in identities:
                group.create_task(self._keep(identity))

    async def _keep(self, identity: SpiffeId) -> None:
        backoff = FIRST_BACKOFF
        while True:
            try:
                certificate = await self.fetch(identity)
            except grpc.aio.AioRpcError as error:
                self.refusals.append((identity, error.code()))
                pause = backoff * self.jitter.uniform(0.8, 1.2)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
                valid = self.certificates.get(identity)
                if valid is not None and (left := self._until(valid.leaf.not_after)) > 0:
                    pause = min(pause, left)
            else:
                backoff = FIRST_BACKOFF
                pause = self._until(certificate.refresh_at)
            await self.clock.sleep(max(pause, 0.0))

    def _until(self, instant: datetime) -> float:
        return (instant - self.clock.now()) / timedelta(seconds=1)


def make_csr(identity: SpiffeId, key: ec.EllipticCurvePrivateKey) -> str:
    """A CSR as rcgen writes it for ztunnel: P-256, no subject, one URI SAN that is not critical."""
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    builder = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(san, critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")


def _accept(
    elements: tuple[str, ...], identity: SpiffeId, key: ec.EllipticCurvePrivateKey
) -> ProxyCertificate:
    """Parse a reply as ztunnel does: one certificate per element, and all roots in the last one."""
    if not elements:
        raise ValueError("the reply is empty")
    chain = tuple(_single(element) for element in elements[: max(1, len(elements) - 1)])
    roots = parse_certificates(elements[-1].encode(), where="the last element") if len(elements) > 1 else ()
    leaf = chain[0]
    if leaf.x509.public_key() != key.public_key():
        raise ValueError("the leaf holds another key")
    if leaf.uris[:1] != (str(identity),):
        raise ValueError(f"the first URI SAN of the leaf is {leaf.uris[:1]}, not {identity}")
    return ProxyCertificate(leaf, chain, tuple(roots))


def _single(element: str) -> Certificate:
    (certificate,) = parse_certificates(element.encode(), where="cert_chain")
    return certificate
