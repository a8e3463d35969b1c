"""Roots, intermediates and server certificates for development, the sandbox and the tests; a real root is made offline.

Names and key identifiers are unique per key: two roots of one subject make a verifier try the wrong key and
fail with "bad signature", which is the classic trap of a root rotation.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import RSA_EXPONENT, KeyKind, PrivateKey, describe, kind_of, signature_hash

ORGANIZATION: Final = "Federation Hub Development"


def generate_key(kind: KeyKind) -> PrivateKey:
    """A new private key of that kind, from OpenSSL's own generator."""
    match kind:
        case KeyKind.EC_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.EC_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(RSA_EXPONENT, int(kind.value.removeprefix("rsa-")))


def create_root(
    *,
    common_name: str,
    key: PrivateKey,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    path_length: int | None = None,
) -> Certificate:
    """A self-signed root: CA, keyCertSign and cRLSign; ``path_length`` 1 forbids a second tier below it.

    The subject is ``common_name`` with the key identifier beside it. Raises InvalidValue for a key that is
    not accepted or a validity that ends before it begins.
    """
    name = _name(common_name, key)
    return _create(
        subject=name,
        key=key,
        issuer=name,
        issuer_key=key,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
    )


def create_intermediate(
    *,
    issuer: Certificate,
    issuer_key: PrivateKey,
    common_name: str,
    key: PrivateKey,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    path_length: int | None = 0,
) -> Certificate:
    """An intermediate under ``issuer``, with path length 0 by default: it signs leaves only.

    Raises InvalidValue for a key that is not accepted, a validity that ends before it begins, or an
    ``issuer_key`` that is not the issuer's.
    """
    if issuer_key.public_key() != issuer.public_key:
        raise InvalidValue(f"the key given for the issuer {issuer.subject!r} is not its key")
    return _create(
        subject=_name(common_name, key),
        key=key,
        issuer=issuer.x509.subject,
        issuer_key=issuer_key,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        path_length=path_length,
    )


def create_server_certificate(
    *,
    issuer: Certificate,
    issuer_key: PrivateKey,
    names: Sequence[str],
    key: PrivateKey,
    serial: int,
    not_before: datetime,
    not_after: datetime,
) -> Certificate:
    """A server's certificate for these DNS names and IP addresses (RFC 5280, 4.2.1.6; RFC 9525), under ``issuer``.

    Raises InvalidValue for a key that is not accepted, a name that is neither, or none at all.
    """
    if not names:
        raise InvalidValue("a server certificate needs a name")
    issuer_kind, kind = kind_of(issuer_key), kind_of(key)
    if issuer_kind is None or kind is None:
        raise InvalidValue(f"a server cannot have a key of this kind: {describe(key)}")
    usage = _key_usage(
        digital_signature=True, key_encipherment=kind not in (KeyKind.EC_P256, KeyKind.EC_P384)
    )
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION)]))
        .issuer_name(issuer.x509.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    try:
        built = builder.sign(issuer_key, signature_hash(issuer_kind))
    except ValueError as error:
        raise InvalidValue(f"no such certificate can be made: {error}") from error
    return Certificate.from_der(built.public_bytes(serialization.Encoding.DER))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(name) or len(name) > MOST_DNS_NAME:
        raise InvalidValue(f"{name[:80]!r} is neither a DNS name nor an IP address")
    return x509.DNSName(name)


def _name(common_name: str, key: PrivateKey) -> x509.Name:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
    attributes = {
        NameOID.ORGANIZATION_NAME: ORGANIZATION,
        NameOID.COMMON_NAME: common_name,
        NameOID.SERIAL_NUMBER: identifier[:16],
    }
    try:
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes.items()])
    except ValueError as error:
        raise InvalidValue(f"{common_name[:80]!r} cannot be a common name: {error}") from None


def _create(
    *,
    subject: x509.Name,
    key: PrivateKey,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    path_length: int | None,
) -> Certificate:
    issuer_kind = kind_of(issuer_key)
    if issuer_kind is None or kind_of(key) is None:
        raise InvalidValue(f"a certificate authority cannot have a key of this kind: {describe(key)}")
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    try:
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(_CA_KEY_USAGE, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority, critical=False)
            .sign(issuer_key, signature_hash(issuer_kind))
        )
    except ValueError as error:
        raise InvalidValue(f"no such certificate can be made: {error}") from error
    return Certificate.from_der(built.public_bytes(serialization.Encoding.DER))


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


_CA_KEY_USAGE: Final = _key_usage(key_cert_sign=True, crl_sign=True)

MOST_DNS_NAME: Final = 253
_DNS_NAME: Final = re.compile(
    r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE
)
