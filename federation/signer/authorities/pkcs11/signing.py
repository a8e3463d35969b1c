"""How a token signs for a certificate: which mechanism, over what, and what its answer looks like there.

PKCS #11 v2.40 (OASIS), mechanisms: CKM_ECDSA (2.3.5) takes a digest and gives r and s side by side,
CKM_RSA_PKCS (2.1.6) takes a DigestInfo and pads it. Digests are made here, so that a token is sent few bytes;
one that only signs whole messages is given those.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, Self

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from federation.core.errors import AuthorityMisconfigured
from federation.core.pki.keys import KeyKind, PublicKey, digest

_CURVES: Final = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
}
"""CKA_EC_PARAMS of the accepted curves: the DER of the named curve's OID (RFC 5480, 2.1.1.1)."""

_SCALAR_BYTES: Final = {KeyKind.EC_P256: 32, KeyKind.EC_P384: 48}
_WHOLE: Final = {KeyKind.EC_P256: Mechanism.ECDSA_SHA256, KeyKind.EC_P384: Mechanism.ECDSA_SHA384}
_SHA256_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017, 9.2, note 1
_SIGNATURE_BYTES: Final = 512  # of RSA-4096; the library makes a buffer of this size for each signature


class _Signs(Protocol):
    """What the library makes of an object with CKA_SIGN."""

    def sign(self, data: bytes, *, mechanism: Mechanism, buffer_size: int) -> bytes: ...


class TokenSigner:
    """A private key object that signs. Its methods raise PKCS11Error; :meth:`of` AuthorityMisconfigured too."""

    def __init__(
        self, key: _Signs, handle: int, *, is_rsa: bool, digests: bool, public_key: PublicKey | None
    ) -> None:
        self._key = key
        self._digests = digests
        self.handle = handle
        self.is_rsa = is_rsa
        self.public_key = public_key

    @classmethod
    def of(cls, found: pkcs11.Object, session: pkcs11.Session, name: str) -> Self:
        """The signer of a private key object, with its public key where the token holds that."""
        key_type = attribute(found, Attribute.KEY_TYPE)
        if key_type not in {KeyType.EC, KeyType.RSA}:
            raise AuthorityMisconfigured(
                f"{name} is neither an EC nor an RSA key",
                reason="key_kind",
                remedy="use a key on P-256 or P-384, or an RSA key of 2048, 3072 or 4096 bits",
            )
        if not hasattr(found, "sign"):
            raise AuthorityMisconfigured(
                f"{name} may not sign (CKA_SIGN is false)",
                reason="key_usage",
                remedy="make or import the key with CKA_SIGN true",
            )
        if attribute(found, Attribute.ALWAYS_AUTHENTICATE):
            raise AuthorityMisconfigured(
                f"{name} wants the PIN before every signature (CKA_ALWAYS_AUTHENTICATE)",
                reason="key_always_authenticates",
                remedy="use a key that signs after one login: this one is meant for a person at a card reader",
            )
        is_rsa = key_type is KeyType.RSA
        mechanisms = session.token.slot.get_mechanisms()
        # The library asks for the key's type before each signature, which may be a round trip to the device.
        typed = type("KeyOfKnownType", (type(found),), {"key_type": key_type})
        return cls(
            typed(found.wrapper),  # type: ignore[attr-defined]
            found.handle or 0,
            is_rsa=is_rsa,
            digests=not mechanisms or (Mechanism.RSA_PKCS if is_rsa else Mechanism.ECDSA) in mechanisms,
            public_key=_public_half(found, session),
        )

    def sign(self, kind: KeyKind, message: bytes) -> bytes:
        """The signature as it stands in a certificate. ``kind`` says what key this is."""
        if self.is_rsa:
            if self._digests:
                return self._raw(Mechanism.RSA_PKCS, _SHA256_INFO + digest(kind, message))
            return self._raw(Mechanism.SHA256_RSA_PKCS, message)
        mechanism, data = (
            (Mechanism.ECDSA, digest(kind, message)) if self._digests else (_WHOLE[kind], message)
        )
        raw = self._raw(mechanism, data)
        # Of another length, it is of another curve: what is made of it then verifies with no accepted key.
        half = _SCALAR_BYTES[kind]
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def _raw(self, mechanism: Mechanism, data: bytes) -> bytes:
        return self._key.sign(data, mechanism=mechanism, buffer_size=_SIGNATURE_BYTES)


def attribute(of: pkcs11.Object, name: Attribute) -> Any:
    """The value of an attribute; None where the token does not tell."""
    try:
        return of[name]
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, NotImplementedError, ValueError):
        return None


def _public_half(private: pkcs11.Object, session: pkcs11.Session) -> PublicKey | None:
    """What the one public key object with the private key's CKA_ID (v2.40, 4.8) holds; else None."""
    identity = attribute(private, Attribute.ID)
    if not identity:
        return None
    found = list(session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: identity}))
    return public_key_of(found[0]) if len(found) == 1 else None


def public_key_of(public: pkcs11.Object) -> PublicKey | None:
    """The key in a public key object; None where it is of another kind, or not readable."""
    try:
        if attribute(public, Attribute.KEY_TYPE) is KeyType.RSA:
            modulus = int.from_bytes(public[Attribute.MODULUS], "big")
            exponent = int.from_bytes(public[Attribute.PUBLIC_EXPONENT], "big")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        curve = _CURVES.get(attribute(public, Attribute.EC_PARAMS) or b"")
        if curve is None:
            return None
        return ec.EllipticCurvePublicKey.from_encoded_point(
            curve, _bare_point(public[Attribute.EC_POINT], curve)
        )
    except (pkcs11.AttributeTypeInvalid, ValueError):
        return None


def _bare_point(value: bytes, curve: ec.EllipticCurve) -> bytes:
    """The point of CKA_EC_POINT: the DER of an OCTET STRING by the standard, bare on some tokens."""
    length = 1 + 2 * ((curve.key_size + 7) // 8)
    wrapped = bytes((0x04, length))
    return value[2:] if len(value) == length + 2 and value.startswith(wrapped) else value
