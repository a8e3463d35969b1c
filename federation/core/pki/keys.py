"""Key kinds the hub signs for and signs with, and how a private key is read.

Ed25519 is left out because neither Envoy nor ztunnel takes it in a workload certificate; P-224 and P-521 and
RSA sizes other than the three below because no Istio agent makes them and each more is one more thing to get
wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from hashlib import sha256, sha384
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from federation.core.errors import InvalidValue

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

RSA_EXPONENT: Final = 65537
"""The only public exponent accepted (FIPS 186-5, A.1.1: odd, above 2^16); every Istio agent uses it."""

MAX_KEY_FILE_BYTES: Final = 64 * 1024


class KeyKind(Enum):
    """A kind of key; the value is its name in configuration, logs and metrics."""

    EC_P256 = "ecdsa-p256"
    EC_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def is_rsa(self) -> bool:
        """True for the RSA kinds."""
        return self in _RSA_KINDS.values()


_CURVE_KINDS: Final = {"secp256r1": KeyKind.EC_P256, "secp384r1": KeyKind.EC_P384}
_RSA_KINDS: Final = {2048: KeyKind.RSA_2048, 3072: KeyKind.RSA_3072, 4096: KeyKind.RSA_4096}


def kind_of(key: object) -> KeyKind | None:
    """The kind of a public or private key, or None where it is not one the hub accepts."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return _CURVE_KINDS.get(key.curve.name)
    if isinstance(key, rsa.RSAPrivateKey):
        key = key.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e == RSA_EXPONENT:
        return _RSA_KINDS.get(key.key_size)
    return None


def describe(key: object) -> str:
    """What a key is, in words for an error message."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return f"EC on {key.curve.name}"
    if isinstance(key, rsa.RSAPrivateKey):
        key = key.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA of {key.key_size} bits with exponent {key.public_numbers().e}"
    return type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")


def spki(public_key: PublicKey) -> bytes:
    """The DER of its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), with EC points uncompressed."""
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_private_key(pem: bytes, *, where: str) -> PrivateKey:
    """A private key of an accepted kind out of one PEM block, not encrypted.

    Raises InvalidValue; no byte of the input is ever part of the message.
    """
    if len(pem) > MAX_KEY_FILE_BYTES:
        raise InvalidValue(f"the private key is larger than {MAX_KEY_FILE_BYTES} bytes", where=where)
    if pem.count(b"-----BEGIN ") > 1 + pem.count(b"-----BEGIN EC PARAMETERS-----"):
        raise InvalidValue(
            "there is more than one PEM block", where=where, remedy="keep only the private key"
        )
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise InvalidValue(
            "the private key is encrypted",
            where=where,
            remedy="decrypt it (`openssl pkey -in FILE -out PLAIN`) and protect it by file mode, or use a back end "
            "that holds it",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidValue(
            "this is not a PEM private key",
            where=where,
            remedy="use PKCS#8, or the traditional EC or RSA form, as PEM",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) or kind_of(key) is None:
        raise InvalidValue(
            f"a private key of this kind is not accepted: {describe(key)}",
            where=where,
            remedy="use " + ", ".join(kind.value for kind in KeyKind),
        )
    return key


def private_key_pem(key: PrivateKey) -> bytes:
    """The key as an unencrypted PKCS#8 PEM block, for files that only their owner may read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signature_hash(kind: KeyKind) -> hashes.SHA256 | hashes.SHA384:
    """SHA-384 for P-384, SHA-256 for all others (RFC 5758, 3.2; RFC 4055, 5)."""
    return hashes.SHA384() if kind is KeyKind.EC_P384 else hashes.SHA256()


def digest(kind: KeyKind, message: bytes) -> bytes:
    """What a key outside this process is given to sign: SHA-384 for P-384, SHA-256 for all others."""
    return (sha384 if kind is KeyKind.EC_P384 else sha256)(message).digest()


def signer(key: PrivateKey) -> Callable[[bytes], bytes]:
    """A function that signs as certificates of this key's kind are: ECDSA in DER, or RSASSA-PKCS1-v1_5.

    Raises InvalidValue for a key of a kind that is not accepted.
    """
    kind = kind_of(key)
    if kind is None:
        raise InvalidValue(f"cannot sign with a key of this kind: {describe(key)}")
    digest = signature_hash(kind)
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_key, scheme = key, padding.PKCS1v15()
        return lambda message: rsa_key.sign(message, scheme, digest)
    ec_key, algorithm = key, ec.ECDSA(digest)
    return lambda message: ec_key.sign(message, algorithm)


def verify(key: object, signature: bytes, message: bytes) -> bool:
    """True where the signature is what :func:`signer` makes with the private half of ``key``."""
    kind = kind_of(key)
    try:
        if kind is not None and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), signature_hash(kind))
        elif kind is not None and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(signature_hash(kind)))
        else:
            return False
    except InvalidSignature:
        return False
    return True
