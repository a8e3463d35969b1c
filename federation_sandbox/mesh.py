"""A workload of the mesh in a box: what Istio's agent beside a proxy does, as far as certificates are concerned.

It makes a key, asks the listener for a certificate with its service account token, checks the reply as the agent
does, and takes its trust from the last element of the chain, not from a ConfigMap. The trust for the connection to
the listener is what its namespace's ``istio-ca-root-cert`` holds, as in a real pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import grpc
import tenacity
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.errors import InvalidValue
from federation.core.identity import ClusterId, SpiffeId
from federation.core.istio.ca_protocol import METHOD, IstioCertificateRequest, decode_response, encode_request
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates

ATTEMPTS: Final = 5
FIRST_BACKOFF: Final = 0.1  # seconds; Istio's agents retry five times from 100 ms on
RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a workload holds after a successful call: its leaf first, the intermediates, its key and its trust."""

    chain: tuple[Certificate, ...]
    key_pem: bytes
    trust: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The workload's own certificate."""
        return self.chain[0]

    @property
    def chain_pem(self) -> bytes:
        """What it presents in a handshake."""
        return b"".join(certificate.pem for certificate in self.chain)

    @property
    def trust_pem(self) -> bytes:
        """What it validates its peers with."""
        return b"".join(certificate.pem for certificate in self.trust)


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in RETRYABLE


def make_request(identity: SpiffeId, key: ec.EllipticCurvePrivateKey) -> str:
    """A CSR of the shape that ztunnel sends where it is built with BoringSSL: no subject, one critical URI SAN."""
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    builder = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(san, critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")


class Workload:
    """One workload and its agent."""

    def __init__(
        self,
        *,
        cluster_id: ClusterId,
        identity: SpiffeId,
        listener: str,
        server_name: str,
        token: Callable[[], str],
        listener_trust: Callable[[], bytes],
        timeout: float = 10.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.cluster_id = cluster_id
        self.identity = identity
        self._listener = listener
        self._server_name = server_name
        self.token = token
        self.listener_trust = listener_trust
        self._timeout = timeout
        self._retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=FIRST_BACKOFF),
            retry=tenacity.retry_if_exception(_is_retryable),
            sleep=sleep,
            reraise=True,
        )
        self.current: Identity | None = None

    async def renew(self, *, lifetime: timedelta = timedelta(0)) -> Identity:
        """Ask for a certificate; zero lifetime leaves it to the policy.

        Raises :class:`grpc.aio.AioRpcError` where the listener refuses or stays away, and
        :class:`~federation.core.errors.InvalidValue` where the reply is not what an agent accepts. What it had
        before stays in either case.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        request = encode_request(
            IstioCertificateRequest(
                csr=make_request(self.identity, key),
                validity_seconds=int(lifetime.total_seconds()),
                metadata={"CertSigner": ""},
            )
        )
        elements = decode_response(await self._call(request))
        self.current = self.accept(elements, key)
        return self.current

    async def _call(self, request: bytes) -> bytes:
        credentials = grpc.ssl_channel_credentials(
            # A pod's mounted ConfigMap follows the bundle; the newest reply holds the same bytes.
            root_certificates=self.current.trust_pem if self.current else self.listener_trust()
        )
        options = [("grpc.ssl_target_name_override", self._server_name)]
        metadata = (("authorization", f"Bearer {self.token()}"), ("clusterid", str(self.cluster_id)))
        async with grpc.aio.secure_channel(self._listener, credentials, options=options) as channel:
            call = channel.unary_unary(METHOD)

            async def once() -> bytes:
                answer: bytes = await call(request, metadata=metadata, timeout=self._timeout)
                return answer

            return await self._retrying(once)

    def accept(self, elements: tuple[str, ...], key: ec.EllipticCurvePrivateKey) -> Identity:
        """What a reply gives its caller, checked as an agent checks it; raises InvalidValue."""
        if len(elements) < 2:
            raise InvalidValue("the reply has no element besides the leaf: an agent finds no root in it")
        chain: list[Certificate] = []
        for element in elements[:-1]:
            (certificate,) = parse_certificates(element.encode(), where="cert_chain")
            chain.append(certificate)
        trust = parse_certificates(elements[-1].encode(), where="the last element of cert_chain")
        leaf = chain[0].x509
        if leaf.public_key() != key.public_key():
            raise InvalidValue("the leaf holds another key than the request")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.UniformResourceIdentifier)[:1] != [str(self.identity)]:
            raise InvalidValue("the first URI SAN of the leaf is not the identity that was asked for")
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Identity(chain=tuple(chain), key_pem=key_pem, trust=trust)

    def due(self, now: datetime, *, share: float = 0.5) -> bool:
        """True once that share of the time between NotBefore and NotAfter is over: half of it, as ztunnel renews."""
        if self.current is None:
            return True
        leaf = self.current.leaf
        return now >= leaf.not_before + (leaf.not_after - leaf.not_before) * share
