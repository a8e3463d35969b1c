"""Whether a generation, as the controller wrote it, is one that this signer is willing to believe. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain, another_mesh
from federation.core.pki.certificate import Certificate
from federation.core.trust.bundle import TrustBundle
from federation.state.documents import Generation, generation_key

UNPINNED: Final = "generation_unpinned"


@dataclass(frozen=True, slots=True)
class AcceptedTrust:
    """A generation that was believed."""

    number: int
    sha256: str
    bundle_pem: bytes = field(repr=False)
    anchors: tuple[Certificate, ...] = field(repr=False)


def believe(
    generation: Generation, *, number: int, digest: str, trust_domain: TrustDomain, pins: frozenset[str]
) -> AcceptedTrust:
    """The generation of that number (and, unless it is empty, of that SHA-256), believed.

    Raises InvalidValue with the reason ``generation_digest``, ``generation_trust_domain``,
    ``generation_invalid`` or ``generation_unpinned``.
    """
    key = generation_key(number)
    pem = generation.bundle_pem.encode()
    if (
        generation.number != number
        or sha256(pem).hexdigest() != generation.sha256
        or digest not in {"", generation.sha256}
    ):
        raise InvalidValue(
            "the bundle is not what its digest says",
            where=key,
            remedy="restore this document from a backup of the state: it was damaged, or changed by hand",
            reason="generation_digest",
        )
    if generation.trust_domain != str(trust_domain):
        raise InvalidValue(
            f"it is for the trust domain {generation.trust_domain[:80]!r}, not {trust_domain}",
            where=key,
            remedy=another_mesh(generation.trust_domain[:80]),
            reason="generation_trust_domain",
        )
    try:
        bundle = TrustBundle.from_pem(pem, where=key, trust_domain=trust_domain)
    except InvalidValue as error:
        raise InvalidValue(str(error), where=key, reason="generation_invalid") from None
    unpinned = bundle.unpinned(pins)
    if unpinned:
        first = unpinned[0].certificate
        raise InvalidValue(
            f"it holds {len(unpinned)} anchor(s) that this signer's configuration does not pin and, as far as it"
            f" remembers, never pinned, first {first.subject} ({first.sha256})",
            where=key,
            remedy="pin it in the configuration, or find out who wrote this generation",
            reason=UNPINNED,
        )
    if bundle.pem != pem:
        raise InvalidValue(
            "its bytes are not a bundle as the hub writes it", where=key, reason="generation_invalid"
        )
    return AcceptedTrust(generation.number, generation.sha256, pem, bundle.certificates)
