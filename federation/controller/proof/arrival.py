"""What a workload that starts now meets at the signers' door: new TLS connections, until each signer was met.

A channel that stands says nothing of the certificate that the door shows by now. So new connections are opened, as an
agent opens its first: verified by the bundle in force, for the name that agents verify. Several signers may share one
address (one port on one machine, one Service), and which of them takes a connection is chance. A signer reports the
certificate that it shows, so it is known which was met, and connections are made until all were, within bounds.

Beside the handshake, which is OpenSSL's, each certificate is judged by the hub's own verifier, which takes only what
the verifiers of a mesh take.
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

from cryptography import x509

from federation.core.clock import Clock
from federation.core.config.model import Address
from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import Purpose, verify_chain
from federation.core.pki.name_constraints import general_name
from federation.core.pki.pem import parse_certificates
from federation.state.documents import DoorReport, SignerDoorReport, SignerReport

CONNECT: Final = 5.0  # seconds for one connection
ROUND: Final = 20.0  # seconds for all of one round
PARTING: Final = 1.0  # seconds for its end
MOST_CONNECTIONS: Final = 64
EACH: Final = 8  # connections for each signer that is to be met: n signers are met by some n * ln(n) of them
MOST_TOLD: Final = 300  # characters of what a TLS stack says

Greet: TypeAlias = Callable[[], Awaitable[str]]
"""Opens one new connection and closes it; the SHA-256 of the certificate that was shown and accepted.

Raises ssl.SSLError where it was refused, OSError or TimeoutError where there was no answer."""


@dataclass(frozen=True, slots=True)
class Aim:
    """Where the door is, the name that it is verified for, and by which anchors, with their generation's number."""

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
class Arrival:
    """Proves the door of every signer, again where anything about it has changed or ``interval`` seconds are over."""

    clock: Clock
    report: DoorReport = field(init=False, default_factory=DoorReport)
    _doors: dict[str, SignerDoorReport] = field(init=False, default_factory=dict)
    _aim: Aim | None = field(init=False, default=None)

    async def prove(
        self,
        aim: Aim,
        signers: Iterable[SignerReport],
        *,
        interval: float,
        greet: Greet | None = None,
    ) -> DoorReport:
        """One round. ``greet`` is for tests; what goes wrong is in the report."""
        at = self.clock.now()
        shown = {signer.replica: _shown(signer) for signer in signers if signer.address}
        if aim != self._aim:
            self._doors, self._aim = {}, aim
        doors = {replica: self._before(replica, what.sha256) for replica, what in shown.items()}
        due = {
            replica: what
            for replica, what in shown.items()
            if doors[replica].state != "proved" or at.timestamp() - doors[replica].proved_at >= interval
        }
        met, connections, said = await _meet(
            greet or _greeting(aim), {what.sha256 for what in due.values()}, len(due)
        )
        for replica, what in due.items():
            doors[replica] = _judged(doors[replica], what, aim, at, met=what.sha256 in met, said=said)
        self._doors = doors
        self.report = DoorReport(
            computed=at.timestamp(),
            connections=connections,
            signers=[doors[replica] for replica in sorted(doors)],
        )
        return self.report

    def _before(self, replica: str, digest: str) -> SignerDoorReport:
        """What was found before of the very certificate that it shows now."""
        known = self._doors.get(replica)
        if known is not None and known.sha256 == digest:
            return known
        return SignerDoorReport(replica=replica, sha256=digest, since=self.clock.now().timestamp())


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
    return met, connections, said[:MOST_TOLD]


def _judged(
    before: SignerDoorReport, what: _Shown, aim: Aim, at: datetime, *, met: bool, said: str
) -> SignerDoorReport:
    """What one round says of the door of one signer."""
    problem = _problem(what.chain, aim, at) if what.chain else "the signer does not report what it shows"
    if problem and what.chain:
        return _door(before, "refused", problem)
    if met:
        return _door(before, "proved", "", proved_at=at.timestamp(), generation=aim.generation)
    if said.startswith("a new connection refuses"):
        return _door(before, "refused", said)
    return _door(before, "not_met", problem or said or "every new connection was taken by another signer")


def _door(
    before: SignerDoorReport, state: str, detail: str, *, proved_at: float = 0.0, generation: int = 0
) -> SignerDoorReport:
    return SignerDoorReport(
        replica=before.replica,
        sha256=before.sha256,
        since=before.since,
        state=state,
        detail=detail,
        proved_at=proved_at or before.proved_at,
        generation=generation or before.generation,
    )


def _problem(chain: Sequence[Certificate], aim: Aim, at: datetime) -> str:
    """Why the verifiers of a mesh refuse what is shown, in words; empty where they take it."""
    leaf = chain[0]
    names = leaf.extension(x509.SubjectAlternativeName) or ()
    if general_name(aim.server_name) not in names:
        told = ", ".join(str(name.value) for name in names)
        return f"agents verify it for {aim.server_name}, and it is for {told or 'no name'}"[:MOST_TOLD]
    try:
        verify_chain(chain, aim.anchors, at, purpose=Purpose.SERVER)
    except InvalidValue as error:
        return error.what
    return ""


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
    """End it in good order: cut off at once, it would look to the signer like a handshake that failed."""
    try:
        async with asyncio.timeout(PARTING):
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError):  # the other end is as free to leave
        pass
    finally:
        writer.transport.abort()


def proved(report: DoorReport) -> Mapping[str, SignerDoorReport]:
    """The doors by their signer."""
    return {door.replica: door for door in report.signers}
