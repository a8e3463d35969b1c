"""Who takes part in the proof: a cluster's probe leaf with the trust that was read back, or why there is none."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from federation.controller.proof.handshake import Credential, Side
from federation.core.errors import InvalidValue
from federation.core.identity import SpiffeId
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates


@dataclass(frozen=True, slots=True)
class Content:
    """One of the distinct contents that workloads of a cluster trust, as it was read back.

    ``where`` says who holds it, in words; ``generation`` is its number, 0 where it is none of ours. What
    cannot be read has no certificates and says in ``problem`` why.
    """

    sha256: str
    certificates: tuple[Certificate, ...]
    where: str
    generation: int = 0
    problem: str = ""


class ContentReader:
    """Reads contents; each is parsed once, because most clusters hold the same and hold it for months."""

    def __init__(self, *, most: int = 64) -> None:
        self._most = most
        self._parsed: OrderedDict[str, tuple[tuple[Certificate, ...], str]] = OrderedDict()

    def read(self, pem: bytes, *, sha256: str, where: str, generation: int = 0) -> Content:
        """The content with that digest; what is no PEM of certificates gives one that trusts nothing."""
        if sha256 not in self._parsed:
            self._parsed[sha256] = _parse(pem)
            if len(self._parsed) > self._most:
                self._parsed.popitem(last=False)
        certificates, problem = self._parsed[sha256]
        return Content(sha256, certificates, where, generation, problem)


def _parse(pem: bytes) -> tuple[tuple[Certificate, ...], str]:
    try:
        return parse_certificates(pem, where=""), ""
    except InvalidValue as error:
        return (), str(error)


@dataclass(frozen=True, slots=True)
class Participant:
    """A cluster that can be tried. ``contents`` has at least one entry, in the order of their digests.

    ``held`` is the generation that is meant for it where every namespace holds that one, else 0.
    """

    cluster: str
    chain: tuple[Certificate, ...]
    key_pem: bytes = field(repr=False)
    identity: SpiffeId
    contents: tuple[Content, ...]
    held: int = 0

    def content(self, sha256: str) -> Content | None:
        """The content of that digest."""
        return next((content for content in self.contents if content.sha256 == sha256), None)


@dataclass(frozen=True, slots=True)
class Absent:
    """A cluster that cannot be tried, and why, in words."""

    cluster: str
    reason: str


@dataclass(frozen=True, slots=True)
class Case:
    """One handshake to be tried: two clusters, each side trusting one of the contents of its own."""

    client: Participant
    server: Participant
    client_trust: Content
    server_trust: Content

    def credential(self, side: Side) -> Credential:
        """What that side brings to the handshake."""
        party, trust = (
            (self.client, self.client_trust) if side == "client" else (self.server, self.server_trust)
        )
        return Credential(
            chain=party.chain, key_pem=party.key_pem, trust=trust.certificates, identity=party.identity
        )
