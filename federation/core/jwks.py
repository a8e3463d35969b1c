"""A cluster's published token keys (RFC 7517) and whether one of them signed a token (RFC 7515, 7518).

The algorithm is bound to the key: a token can choose between a key's own algorithms, never between kinds of
keys, so a public key is never taken for an HMAC secret. Keys of other kinds than a cluster signs with are
left out, a document that is not a key set at all is refused as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from federation.core.errors import InvalidValue

MAX_KEYS: Final = 64
MAX_DOCUMENT_BYTES: Final = 256 * 1024
MIN_RSA_BITS: Final = 2048
MAX_EXPONENT_BITS: Final = 32
"""As Go's crypto/rsa, with which kube-apiserver signs: one while the modulus takes a hundred times as long."""

MAX_RSA_BITS: Final = 8192
"""A verification takes four times as long with twice the bits, and every cluster chooses its own keys."""

_PKCS1: Final = padding.PKCS1v15()
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
)
_CURVES: Final = MappingProxyType(
    {"secp256r1": ("ES256", 32), "secp384r1": ("ES384", 48), "secp521r1": ("ES512", 66)}
)


class _Key(msgspec.Struct):
    kty: str = ""
    kid: str = ""
    use: str = ""
    alg: str = ""
    d: str = ""


class _KeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


@dataclass(frozen=True)
class TokenKey:
    """One public key with the algorithms it may be used with."""

    kid: str
    algorithms: frozenset[str]
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = field(repr=False)
    coordinate_bytes: int = 0  # of an EC signature: r and s are this long each (RFC 7518, 3.4); RSA: 0

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of its SubjectPublicKeyInfo in hex: what the key is, whatever it is called."""
        der = self.public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return sha256(der).hexdigest()

    def signed(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """True where this key made the signature over the message with that algorithm."""
        if algorithm not in self.algorithms:
            return False
        try:
            self._verify(signature, message, algorithm)
        except InvalidSignature:
            return False
        return True

    def _verify(self, signature: bytes, message: bytes, algorithm: str) -> None:
        digest, key, size = _HASHES[algorithm[2:]], self.public_key, self.coordinate_bytes
        if not size:
            cast("rsa.RSAPublicKey", key).verify(signature, message, _PKCS1, digest)
            return
        if len(signature) != 2 * size:
            raise InvalidSignature
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        cast("ec.EllipticCurvePublicKey", key).verify(encode_dss_signature(r, s), message, ec.ECDSA(digest))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenKey):
            return NotImplemented
        same = self.kid == other.kid and self.algorithms == other.algorithms
        return same and self.public_key == other.public_key

    def __hash__(self) -> int:
        return hash((self.kid, self.algorithms))


class KeySet(Mapping[str, TokenKey]):
    """Keys by their ``kid``; ``left_out`` says how many more the document holds that the hub cannot use."""

    def __init__(self, keys: Mapping[str, TokenKey], *, left_out: int = 0) -> None:
        self._keys: Final = MappingProxyType(dict(keys))
        self.left_out: Final = left_out

    def __getitem__(self, kid: str) -> TokenKey:
        return self._keys[kid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def parse_key_set(data: bytes, *, where: str) -> KeySet:
    """The keys of a JWKS document.

    Raises InvalidValue for what is not a key set, for one without a single usable key, and for one that
    names two different keys alike.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidValue(f"{len(data)} bytes of keys; at most {MAX_DOCUMENT_BYTES} are read", where=where)
    try:
        entries = msgspec.json.decode(data, type=_KeySet).keys
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidValue("this is not a JSON Web Key Set", where=where) from None
    if len(entries) > MAX_KEYS:
        raise InvalidValue(f"{len(entries)} keys; at most {MAX_KEYS} are read", where=where)
    keys: dict[str, TokenKey] = {}
    left_out = 0
    for entry in entries:
        key = _read_key(bytes(entry))
        if key is None:
            left_out += 1
            continue
        if keys.setdefault(key.kid, key) != key:
            raise InvalidValue(f"two different keys are named {key.kid[:80]!r}", where=where)
    if not keys:
        raise InvalidValue(
            "the key set holds no key that a cluster signs tokens with",
            where=where,
            remedy="service account keys are RSA of 2048 bits or more, or EC on P-256, P-384 or P-521",
        )
    return KeySet(keys, left_out=left_out)


def _read_key(raw: bytes) -> TokenKey | None:
    """The key, or None for one of another use or kind (RFC 7517, section 5: ignored), or without a ``kid``."""
    try:
        entry = msgspec.json.decode(raw, type=_Key)
        jwk: dict[str, Any] = json.loads(raw)
        if not entry.kid or entry.use not in {"", "sig"} or entry.d:
            return None
        if entry.kty == "RSA":
            key: Any = RSAAlgorithm.from_jwk(jwk)
        elif entry.kty == "EC":
            key = ECAlgorithm.from_jwk(jwk)
        else:
            return None
    except (msgspec.MsgspecError, PyJWTError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if isinstance(key, rsa.RSAPublicKey) and _is_usable(key):
        algorithms, size = frozenset({"RS256", "RS384", "RS512"}), 0
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        algorithm, size = _CURVES[key.curve.name]
        algorithms = frozenset({algorithm})
    else:
        return None
    if entry.alg:
        algorithms &= {entry.alg}
    return TokenKey(entry.kid, algorithms, key, size) if algorithms else None


def _is_usable(key: rsa.RSAPublicKey) -> bool:
    bits, exponent = key.key_size, key.public_numbers().e
    return MIN_RSA_BITS <= bits <= MAX_RSA_BITS and exponent.bit_length() <= MAX_EXPONENT_BITS
