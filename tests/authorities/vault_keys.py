"""An intermediate for a key that only its holder has: what an operator makes from Transit's public key."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import NameOID

from federation.core.pki.certificate import Certificate
from federation.runtime.clock import SystemClock
from tests.support import pki


def intermediate_for(
    public_key: PublicKeyTypes, name: str = "Mesh intermediate"
) -> tuple[Certificate, Certificate]:
    """A CA certificate for that key, and the root above it."""
    now = SystemClock().now().replace(microsecond=0)
    root = pki.root("of transit", not_before=now - pki.DAY, not_after=now + 30 * pki.DAY)
    own = pki.certificate(
        root,
        [
            (pki.CA_KEY_USAGE, True),
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),  # type: ignore[arg-type]
        ],
        public_key=public_key,  # type: ignore[arg-type]
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        not_before=now - pki.DAY,
        not_after=now + 7 * pki.DAY,
        serial_number=pki.serial(name),
    )
    return own, root.certificate
