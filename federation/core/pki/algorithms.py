"""Keys and signatures that all verifiers of a mesh take: BoringSSL (Envoy, gRPC), Go's crypto/x509 and rustls.

Whole encodings are compared, as rustls-webpki does, so that nothing of what one of them reads otherwise gets
through: explicit curve parameters (RFC 5480, 2.1.1, forbids them), absent NULL parameters of RSA (RFC 4055, 1.2),
odd parameters of RSASSA-PSS, compressed points. What only some of them take is not here: P-521 and ECDSA with
SHA-512 (rustls on ring has neither), Ed25519 (Envoy's BoringSSL does not offer it), keys of the type id-RSASSA-PSS
(neither Go nor webpki), brainpool and secp256k1 (none of them).
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from federation.core.pki.certificate import Certificate
from federation.core.pki.der import (
    BIT_STRING,
    INTEGER,
    OBJECT_IDENTIFIER,
    SEQUENCE,
    elements,
    encode,
    object_identifier,
    sequence,
)
from federation.core.pki.keys import describe

LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 8192
"""The bounds of ring; Go's crypto/tls has the same upper one."""

LEAST_EXPONENT: Final = 3
MOST_EXPONENT: Final = 2**31 - 1
"""Of an RSA key: Go takes no larger one."""

VERIFIERS: Final = "BoringSSL (Envoy, gRPC), Go (istiod, agents) and rustls (ztunnel)"

_NULL: Final = b"\x05\x00"
_PSS: Final = object_identifier("1.2.840.113549.1.1.10")
_EC_KEY: Final = object_identifier("1.2.840.10045.2.1")
_RSA_KEY: Final = sequence(object_identifier("1.2.840.113549.1.1.1"), _NULL)
_CURVES: Final = {
    sequence(_EC_KEY, object_identifier("1.2.840.10045.3.1.7")): 32,  # P-256
    sequence(_EC_KEY, object_identifier("1.3.132.0.34")): 48,  # P-384
}
"""AlgorithmIdentifiers of keys, with the bytes of a coordinate."""

_UNCOMPRESSED: Final = 4
_SHA2: Final = {
    "2.16.840.1.101.3.4.2.1": 32,
    "2.16.840.1.101.3.4.2.2": 48,
    "2.16.840.1.101.3.4.2.3": 64,
}


def _pss(digest: str, size: int) -> bytes:
    """RSASSA-PSS with MGF1 by the same digest and a salt of its size (RFC 4055, 3.1)."""
    hashed = sequence(object_identifier(digest), _NULL)
    mask = sequence(object_identifier("1.2.840.113549.1.1.8"), hashed)
    parameters = sequence(
        encode(0xA0, hashed), encode(0xA1, mask), encode(0xA2, encode(INTEGER, bytes([size])))
    )
    return sequence(_PSS, parameters)


_ECDSA: Final = frozenset(
    sequence(object_identifier(oid)) for oid in ("1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3")
)
_RSA: Final = frozenset(
    {
        *(sequence(object_identifier(f"1.2.840.113549.1.1.{n}"), _NULL) for n in (11, 12, 13)),
        *(_pss(digest, size) for digest, size in _SHA2.items()),
    }
)


def key_problem(certificate: Certificate) -> str | None:
    """Why some verifier of a mesh does not take the certificate's key, in words; None where all do."""
    algorithm, point = _key_parts(certificate.parts.key)
    key = certificate.public_key
    if algorithm == _RSA_KEY and isinstance(key, rsa.RSAPublicKey):
        bits, exponent = key.key_size, key.public_numbers().e
        if not LEAST_RSA_BITS <= bits <= MOST_RSA_BITS or bits % 8:
            return f"RSA of {bits} bits; whole bytes from {LEAST_RSA_BITS} to {MOST_RSA_BITS} bits are taken"
        if not LEAST_EXPONENT <= exponent <= MOST_EXPONENT or not exponent % 2:
            return f"RSA with the exponent {exponent}; odd ones from 3 to 2^31 are taken"
        return None
    size = _CURVES.get(algorithm)
    if size is None:
        return describe(key) + _qualified(algorithm)
    if len(point) != 1 + 2 * size or point[0] != _UNCOMPRESSED:
        return f"{describe(key)} as a compressed point; only uncompressed ones are taken"
    return None


def signature_problem(certificate: Certificate) -> str | None:
    """Why some verifier of a mesh does not take how the certificate is signed, in words; None where all do."""
    algorithm = certificate.parts.signature_algorithm
    if algorithm != certificate.parts.signed_algorithm:
        return "with another algorithm than its signed part names (RFC 5280, 4.1.1.2)"
    if algorithm in _ECDSA or algorithm in _RSA:
        return None
    name = certificate.x509.signature_algorithm_oid
    return f"with {getattr(name, '_name', name.dotted_string)}, or with parameters that are not common"


def _qualified(algorithm: bytes) -> str:
    """What about the key's algorithm is unusual where its kind alone would be taken."""
    outer = elements(algorithm, 0, len(algorithm))
    parts = elements(algorithm, outer[0][2], outer[0][3]) if outer else []
    oid = algorithm[parts[0][1] : parts[0][3]] if parts else b""
    if oid == _EC_KEY and [part[0] for part in parts[1:]] != [OBJECT_IDENTIFIER]:
        return ", with explicit parameters instead of the name of a curve"
    return ", of the type id-RSASSA-PSS" if oid == _PSS else ""


def _key_parts(spki: bytes) -> tuple[bytes, bytes]:
    """The AlgorithmIdentifier and the key's own bytes of a subjectPublicKeyInfo; empty where it has none."""
    (outer,) = elements(spki, 0, len(spki))
    parts = elements(spki, outer[2], outer[3])
    if [part[0] for part in parts] != [SEQUENCE, BIT_STRING]:
        return b"", b""
    algorithm, key = parts
    return spki[algorithm[1] : algorithm[3]], spki[key[2] + 1 : key[3]]
