"""Leaves that the hub did not sign, as another CA issues them."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.clock import Clock
from federation.core.pki.certificate import Certificate
from federation_sandbox.box import DevelopmentCa, private_key_pem


def issue_leaf(ca: DevelopmentCa, uri: str, *, clock: Clock) -> tuple[tuple[Certificate, ...], bytes]:
    """A leaf for that URI straight under the root of ``ca``, and its key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.root.x509.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(clock.now() - timedelta(minutes=2))
        .not_valid_after(clock.now() + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(usage, critical=False)
        .sign(ca.root_key, hashes.SHA256())
    )
    from cryptography.hazmat.primitives.serialization import Encoding

    return (Certificate.from_der(leaf.public_bytes(Encoding.DER)),), private_key_pem(key)
