"""What a workload that starts now meets at the signers' listener: new TLS connections, until each signer was met.

The listener is seen as a workload's agent sees it: gRPC over TLS, verified against the bundle in force. A channel that
that stays open says nothing of the certificate that the listener shows by now. So new connections are opened, as an
agent opens its first: verified by the bundle in force, for the name that agents verify. Several signers may share one
address (one port on one machine, one Service), and which of them takes a connection is chance. A signer reports the
certificate that it shows, so it is known which was met, and connections are made until all were, within bounds.

Beside the handshake, which is OpenSSL's, each certificate is judged by the hub's own verifier, which accepts only
what the verifiers of a mesh accept.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final, TypeAlias

import grpc
from cryptography import x509

from federation.core.clock import Clock
from federation.core.config.hub import HubConfig
from federation.core.config.types import Address
from federation.core.documents.controller import ListenerReport, SignerListenerReport
from federation.core.documents.signer import SignerReport
from federation.core.errors import InvalidValue, NotReady, Refused, Unavailable
from federation.core.identity import ClusterId
from federation.core.istio.ca_protocol import METHOD, IstioCertificateRequest, decode_response, encode_request
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.path_rules import Purpose, general_name
from federation.core.pki.pem import parse_certificates

CONNECT: Final = 5.0  # seconds for one connection
ROUND: Final = 20.0  # seconds for all of one round
PARTING: Final = 1.0  # seconds for its end
MOST_CONNECTIONS: Final = 64
EACH: Final = 8  # connections for each signer that is to be met: n signers are met by some n * ln(n) of them
MOST_TEXT: Final = 300  # characters of what a TLS stack says

Greet: TypeAlias = Callable[[], Awaitable[str]]
"""Opens one new connection and closes it; the SHA-256 of the certificate that was shown and accepted.

Raises ssl.SSLError where it was refused, OSError or TimeoutError where there was no answer."""


@dataclass(frozen=True, slots=True)
class Aim:
    """Where the listener is, the name that it is verified for, and by which anchors, with their generation's number."""

    address: Address
    server_name: str
    anchors: tuple[Certificate, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class _Shown:
    """What one signer says that it shows; ``chain`` is empty where it does not say."""

    sha256: str
    chain: tuple[Certificate, ...] = ()


@dataclass(slots=True)
class ListenerCheck:
    """Proves the listener of every signer: again after any change of it, and every ``interval`` seconds."""

    clock: Clock
    report: ListenerReport = field(init=False, default_factory=ListenerReport)
    _listeners: dict[str, SignerListenerReport] = field(init=False, default_factory=dict)
    _aim: Aim | None = field(init=False, default=None)

    async def prove(
        self,
        aim: Aim,
        signers: Iterable[SignerReport],
        *,
        interval: float,
        greet: Greet | None = None,
    ) -> ListenerReport:
        """One round. ``greet`` is for tests; what goes wrong is in the report."""
        at = self.clock.now()
        shown = {signer.replica: _shown(signer) for signer in signers if signer.address}
        if aim != self._aim:
            self._listeners, self._aim = {}, aim
        listeners = {replica: self._before(replica, what.sha256) for replica, what in shown.items()}
        due = {
            replica: what
            for replica, what in shown.items()
            if listeners[replica].state != "proved"
            or at.timestamp() - listeners[replica].proved_at >= interval
        }
        met, connections, said = await _meet(
            greet or _greeting(aim), {what.sha256 for what in due.values()}, len(due)
        )
        for replica, what in due.items():
            listeners[replica] = _judged(listeners[replica], what, aim, at, met=what.sha256 in met, said=said)
        self._listeners = listeners
        self.report = ListenerReport(
            computed=at.timestamp(),
            connections=connections,
            signers=[listeners[replica] for replica in sorted(listeners)],
        )
        return self.report

    def _before(self, replica: str, digest: str) -> SignerListenerReport:
        """What was found before of the very certificate that it shows now."""
        known = self._listeners.get(replica)
        if known is not None and known.sha256 == digest:
            return known
        return SignerListenerReport(replica=replica, sha256=digest, since=self.clock.now().timestamp())


def _shown(signer: SignerReport) -> _Shown:
    try:
        chain = parse_certificates(signer.serving_pem.encode(), where=signer.replica)
    except InvalidValue:
        return _Shown("")
    return _Shown(chain[0].sha256, chain)


async def _meet(greet: Greet, wanted: set[str], signers: int) -> tuple[set[str], int, str]:
    """Which of the certificates were met, by how many connections, and what was said where one failed."""
    met: set[str] = set()
    said, connections = "", 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ROUND):
            while wanted - met and connections < min(EACH * signers, MOST_CONNECTIONS):
                connections += 1
                try:
                    async with asyncio.timeout(CONNECT):
                        met.add(await greet())
                except ssl.SSLCertVerificationError as error:
                    said = (
                        f"a new connection refuses it: {error.verify_message} (OpenSSL {error.verify_code})"
                    )
                except (OSError, TimeoutError) as error:  # of which ssl.SSLError is one
                    why = getattr(error, "reason", None) or error.__class__.__name__
                    said = said or f"a new connection failed: {why}"
    return met, connections, said[:MOST_TEXT]


def _judged(
    before: SignerListenerReport, what: _Shown, aim: Aim, at: datetime, *, met: bool, said: str
) -> SignerListenerReport:
    """What one round says of the listener of one signer."""
    problem = _problem(what.chain, aim, at) if what.chain else "the signer does not report what it shows"
    if problem is not None and what.chain:
        return _listener(before, "refused", problem)
    if met:
        return _listener(before, "proved", "", proved_at=at.timestamp(), generation=aim.generation)
    if said.startswith("a new connection refuses"):
        return _listener(before, "refused", said)
    return _listener(before, "not_met", problem or said or "every new connection was taken by another signer")


def _listener(
    before: SignerListenerReport, state: str, detail: str, *, proved_at: float = 0.0, generation: int = 0
) -> SignerListenerReport:
    return SignerListenerReport(
        replica=before.replica,
        sha256=before.sha256,
        since=before.since,
        state=state,
        detail=detail,
        proved_at=proved_at or before.proved_at,
        generation=generation or before.generation,
    )


def _problem(chain: Sequence[Certificate], aim: Aim, at: datetime) -> str | None:
    """Why the verifiers of a mesh refuse what is shown, in words; None where they take it."""
    leaf = chain[0]
    covered = leaf.extension(x509.SubjectAlternativeName) or ()
    if general_name(aim.server_name) not in covered:
        names = ", ".join(str(name.value) for name in covered)
        return f"agents verify it for {aim.server_name}, and it is for {names or 'no name'}"[:MOST_TEXT]
    try:
        verify_chain(chain, aim.anchors, at, purpose=Purpose.SERVER)
    except InvalidValue as error:
        return error.what
    return None


def _greeting(aim: Aim) -> Greet:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=b"".join(anchor.der for anchor in aim.anchors))
    context.set_alpn_protocols(["h2"])

    async def greet() -> str:
        _, writer = await asyncio.open_connection(
            aim.address.host, aim.address.port, ssl=context, server_hostname=aim.server_name
        )
        try:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            await _part(writer)
        return sha256(der).hexdigest()

    return greet


async def _part(writer: asyncio.StreamWriter) -> None:
    """End it in good order: cut off at once, it would appear to the signer as a handshake that failed."""
    try:
        async with asyncio.timeout(PARTING):
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError):  # the other end is as free to leave
        pass
    finally:
        writer.transport.abort()


def proved(report: ListenerReport) -> Mapping[str, SignerListenerReport]:
    """The listeners by their signer."""
    return {listener.replica: listener for listener in report.signers}


TIMEOUT = 15.0
"""Seconds for one certificate: the listener's own deadline is 10."""

CERTIFICATE: Final = "listener_certificate"
NO_ANSWER: Final = "listener_unavailable"
REFUSED: Final = "listener_refused"
"""Reasons of what :meth:`SignerListener.request` raises."""

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


def listener_address(config: HubConfig, override: Address | None) -> Address:
    """Where the controller reaches the listener; a wildcard it listens on is reached by loopback."""
    address = override or config.controller.proof.signer_address or config.listener.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  not bound to
    return Address(host, address.port)


CHANNEL_LIFE = 300.0
"""Seconds for which a channel is used although nothing has changed. What is behind an address may have: an open
connection does not show it."""


class SignerListener:
    """One channel for every cluster, made anew whenever address, name, trust or what the listener shows change.

    A workload that starts now makes a new connection, so the hub's own requests, which represent it, must not use
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
        """Reach the listener there, and accept only a server of that name whose chain ends in ``trust_pem``.

        ``shown`` are the certificates that signers report to show.
        """
        wanted = address, server_name, trust_pem, shown
        if wanted == self._made_for and self._clock.monotonic() - self._made_at < CHANNEL_LIFE:
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

        Raises NotReady before :meth:`aim`, Unavailable where the listener does not answer, Refused where it refuses
        this caller, InvalidValue for a reply that is none. The listener does not say why to a caller; its log
        does.
        """
        if self._channel is None:
            raise NotReady("there is no bundle yet to verify the signer's listener with")
        message = encode_request(IstioCertificateRequest(csr=csr, validity_seconds=int(lifetime)))
        metadata = (("authorization", f"Bearer {token}"), ("clusterid", str(cluster_id)))
        call = self._channel.unary_unary(METHOD)
        try:
            answer = await call(message, metadata=metadata, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if any(word in (error.details() or "") for word in _OF_ITS_CERTIFICATE):
                raise Unavailable(
                    "the certificate of the signer's listener does not verify by the bundle in force and its name",
                    reason=CERTIFICATE,
                    remedy="`federation authority check` judges what the authority issues to the listener; compare "
                    "listener.server_names with the names that clients use",
                ) from None
            if code in _OURS_TO_RETRY:
                raise Unavailable(
                    f"the signer's listener did not answer ({code.name})",
                    reason=NO_ANSWER,
                    remedy="see that a signer runs, that it listens at controller.proof.signer_address (else "
                    "listener.listen), and what is between the controller and it",
                ) from None
            raise Refused(
                f"the signer's listener refused the request ({code.name})",
                reason=REFUSED,
                remedy="the signer's log says why: search it for this cluster",
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # grpc.aio says so to calls under way on a channel that closes; this task was not cancelled.
            raise Unavailable(
                "the channel to the signer's listener was replaced: another bundle is in force"
            ) from None
        if not isinstance(answer, bytes):
            raise InvalidValue("the reply of the signer's listener holds no bytes")
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
