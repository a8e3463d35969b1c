"""A mutual TLS handshake in memory between two workloads, by the rules Envoy applies in a mesh.

Real TLS by OpenSSL on both sides, nothing imitated: certificates are verified for their purpose, by partial
chains (``X509_V_FLAG_PARTIAL_CHAIN``, as Envoy does, so that an intermediate among the anchors ends a path),
and each side compares the peer's SPIFFE ID (X509-SVID, section 2: exactly one URI SAN). OpenSSL judges
validity by the system's clock, as every proxy does.

Everything here blocks and burns CPU: keep it off the event loop.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from federation.core.errors import FederationError, InvalidValue
from federation.core.identity import SpiffeId
from federation.core.pki.certificate import Certificate
from federation.kubernetes.credentials import private_file

Side: TypeAlias = Literal["client", "server"]

_MOST_TURNS: Final = 16
"""A TLS 1.3 handshake takes three turns, one with large chains a few more."""

_GREETING: Final = b"federation"


class HandshakeError(FederationError):
    """The two do not accept one another; ``side`` is the one that refuses.

    ``reason`` is one of ``certificate_refused``, ``identity``, ``trust_domain``, ``trust``, ``credential`` and
    ``tls``.
    """

    default_reason = "tls"

    def __init__(self, what: str, *, side: Side, reason: str) -> None:
        super().__init__(what, where=side, reason=reason)
        self.side: Final = side


@dataclass(frozen=True, slots=True)
class Credential:
    """What a workload brings: its chain (leaf first) and key, whom it trusts, and who it is."""

    chain: tuple[Certificate, ...]
    key_pem: bytes = field(repr=False)
    trust: tuple[Certificate, ...]
    identity: SpiffeId


def handshake(*, client: Credential, server: Credential) -> str:
    """Let the two shake hands and send one another a few bytes; the TLS version they agreed on.

    Raises HandshakeError, whose side is the one that refused.
    """
    connection = _Connection(_context(client, "client"), _context(server, "server"))
    connection.establish()
    _check_identity(connection.peer_of("client"), server.identity, own=client.identity, side="client")
    _check_identity(connection.peer_of("server"), client.identity, own=server.identity, side="server")
    connection.exchange(_GREETING)
    return connection.version


class _Connection:
    """Two TLS ends joined by two buffers."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        upstream, downstream = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ends: dict[Side, ssl.SSLObject] = {
            "client": client.wrap_bio(downstream, upstream, server_side=False),
            "server": server.wrap_bio(upstream, downstream, server_side=True),
        }

    def establish(self) -> None:
        """Run both ends until both are done. The one that refuses is the one whose error is raised."""
        waiting: dict[Side, ssl.SSLObject] = dict(self._ends)
        for _ in range(_MOST_TURNS):
            for side, end in tuple(waiting.items()):
                if self._step(side, end.do_handshake):
                    del waiting[side]
            if not waiting:
                return
        raise HandshakeError("the handshake does not come to an end", side="client", reason="tls")

    def exchange(self, data: bytes) -> None:
        """Send ``data`` both ways: a TLS 1.3 client learns only here that it was refused."""
        for side, other in (("client", "server"), ("server", "client")):
            self._ends[_side(side)].write(data)
            received: list[bytes] = []
            end = self._ends[_side(other)]

            def read(end: ssl.SSLObject = end, received: list[bytes] = received) -> None:
                received.append(end.read(len(data)))

            self._step(_side(other), read)
            if b"".join(received) != data:
                raise HandshakeError("what was sent did not arrive", side=_side(other), reason="tls")

    @property
    def version(self) -> str:
        """What was agreed on, in OpenSSL's words."""
        return self._ends["client"].version() or ""

    def peer_of(self, side: Side) -> Certificate:
        """The certificate the other end presented to ``side``, which has verified it."""
        der = self._ends[side].getpeercert(binary_form=True)
        if der is None:
            raise HandshakeError("the peer presented no certificate", side=side, reason="certificate_refused")
        return Certificate.from_der(der)

    @staticmethod
    def _step(side: Side, action: Callable[[], None]) -> bool:
        try:
            action()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            words = f"{error.verify_message} (OpenSSL {error.verify_code})"
            raise HandshakeError(words, side=side, reason="certificate_refused") from None
        except ssl.SSLError as error:
            raise HandshakeError(error.reason or type(error).__name__, side=side, reason="tls") from None
        return True


def _side(name: str) -> Side:
    return "client" if name == "client" else "server"


def _check_identity(peer: Certificate, expected: SpiffeId, *, own: SpiffeId, side: Side) -> None:
    try:
        (uri,) = peer.uris
        seen = SpiffeId.parse(uri)
    except (InvalidValue, ValueError):
        words = (
            f"the peer's certificate names {', '.join(peer.uris)[:200] or 'no identity'}, not one SPIFFE ID"
        )
        raise HandshakeError(words, side=side, reason="identity") from None
    if seen.trust_domain != own.trust_domain:
        words = f"the peer is of trust domain {seen.trust_domain}, not {own.trust_domain}"
        raise HandshakeError(words, side=side, reason="trust_domain")
    if seen != expected:
        raise HandshakeError(f"the peer is {seen}, not {expected}", side=side, reason="identity")


def _context(credential: Credential, side: Side) -> ssl.SSLContext:
    protocol = ssl.PROTOCOL_TLS_CLIENT if side == "client" else ssl.PROTOCOL_TLS_SERVER
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # workloads are named by SPIFFE IDs, which are compared above
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not credential.trust:
        raise HandshakeError("it trusts nothing at all", side=side, reason="trust")
    try:
        context.load_verify_locations(cadata=b"".join(c.der for c in credential.trust))
    except (ssl.SSLError, ValueError):
        raise HandshakeError("its trust cannot be loaded", side=side, reason="trust") from None
    chain = b"".join(certificate.pem for certificate in credential.chain)
    try:
        with private_file(chain + credential.key_pem) as path:
            context.load_cert_chain(path, password=_refuse_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        words = getattr(error, "reason", None) or type(error).__name__
        raise HandshakeError(
            f"its certificate and key cannot be used ({words})", side=side, reason="credential"
        ) from None
    return context


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")
