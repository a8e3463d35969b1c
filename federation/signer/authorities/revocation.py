"""A certificate revocation list of a back end: verified before anything in it counts (RFC 5280, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from federation.core.errors import AuthorityMisconfigured
from federation.core.pki.certificate import Certificate


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A CRL that one of the issuers has signed."""

    der: bytes = field(repr=False)
    issuer: x509.Name
    next_update: datetime | None
    serials: frozenset[int] = field(repr=False)

    @property
    def revoked(self) -> int:
        """How many certificates it revokes."""
        return len(self.serials)

    def revokes(self, serial: int) -> bool:
        """True where that serial number is on it."""
        return serial in self.serials


def read_revocations(der: bytes, *, issuers: Sequence[Certificate]) -> RevocationList:
    """The list in these bytes. Raises AuthorityMisconfigured where none of ``issuers`` has signed it."""
    try:
        crl = x509.load_der_x509_crl(der)
        signed = any(crl.is_signature_valid(issuer.x509.public_key()) for issuer in issuers)  # type: ignore[arg-type]
        serials = frozenset(entry.serial_number for entry in crl)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityMisconfigured(
            f"its CRL cannot be read ({type(error).__name__})",
            reason="crl_invalid",
            remedy="see what answers at its CRL's address; a CRL in DER is expected",
        ) from None
    if not signed:
        raise AuthorityMisconfigured(
            "its CRL is not signed by its issuer",
            reason="crl_invalid",
            remedy="see what answers at its CRL's address, and whether the issuer was exchanged",
        )
    return RevocationList(der, crl.issuer, crl.next_update_utc, serials)
