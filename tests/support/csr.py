"""Certification requests put together by hand, for everything an honest builder refuses to write."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from federation.core.pki import der
from federation.core.pki.certificate import pem_encode
from federation.core.pki.keys import KeyKind as Kind
from federation.core.pki.keys import PrivateKey, kind_of, signer, spki
from tests.support.pki import IDENTITY, key

NO_SUBJECT = der.sequence()
EXTENSION_REQUEST = der.object_identifier("1.2.840.113549.1.9.14")
CHALLENGE_PASSWORD = der.object_identifier("1.2.840.113549.1.9.7")
SAN_OID = "2.5.29.17"
KEY_USAGE_OID = "2.5.29.15"
EXTENDED_KEY_USAGE_OID = "2.5.29.37"
BASIC_CONSTRAINTS_OID = "2.5.29.19"

ECDSA_SHA256 = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
ECDSA_SHA384 = der.sequence(der.object_identifier("1.2.840.10045.4.3.3"))
RSA_SHA256 = der.sequence(der.object_identifier("1.2.840.113549.1.1.11"), b"\x05\x00")


def algorithm_of(private_key: PrivateKey) -> bytes:
    kind = kind_of(private_key)
    assert kind is not None
    return RSA_SHA256 if kind.is_rsa else ECDSA_SHA384 if kind is Kind.EC_P384 else ECDSA_SHA256


def uri(text: object) -> bytes:
    return der.encode(0x86, str(text).encode())


def san(*names: bytes, critical: bool = True) -> bytes:
    """A subject alternative name extension of these GeneralNames."""
    return der.extension(SAN_OID, der.sequence(*names), critical=critical)


def extension_request(*extensions: bytes) -> bytes:
    """The attribute that asks for extensions."""
    return der.sequence(EXTENSION_REQUEST, der.encode(der.SET, der.sequence(*extensions)))


def attribute(oid: bytes, *values: bytes) -> bytes:
    return der.sequence(oid, der.encode(der.SET, *values))


def rdn(oid: str, value: bytes, tag: int = 0x0C) -> bytes:
    """A relative distinguished name of one attribute."""
    return der.encode(der.SET, der.sequence(der.object_identifier(oid), der.encode(tag, value)))


def csr_der(
    *,
    private_key: PrivateKey | None = None,
    version: bytes = der.integer(0),
    subject: bytes = NO_SUBJECT,
    public_key: bytes | None = None,
    attributes: Sequence[bytes] | None = None,
    algorithm: bytes | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    trailing: bytes = b"",
) -> bytes:
    """A certification request; by default one that the gate accepts for ``IDENTITY``."""
    own = private_key or key("workload")
    if attributes is None:
        attributes = [extension_request(san(uri(IDENTITY)))]
    info = der.sequence(
        version,
        subject,
        spki(own.public_key()) if public_key is None else public_key,
        der.encode(0xA0, *attributes),
    )
    signature = (sign or signer(own))(info)
    return der.sequence(info, algorithm or algorithm_of(own), der.bit_string(signature), trailing)


def as_pem(data: bytes, label: str = "CERTIFICATE REQUEST") -> str:
    """One PEM block of that label."""
    return pem_encode(data, label)


def from_pem(text: str) -> bytes:
    """The bytes of a PEM block that is known to be good."""
    return base64.b64decode("".join(text.strip().splitlines()[1:-1]))
