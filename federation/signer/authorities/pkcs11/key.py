"""One private key on a token: found, proved to belong to a public key, and used.

All of it runs in the library thread, and nowhere else. How a token signs for a certificate, by the mechanisms of PKCS
#11 v2.40 (OASIS): CKM_ECDSA (2.3.5) takes a digest and gives r and s side by side, CKM_RSA_PKCS (2.1.6) takes a
DigestInfo and pads it. Digests are made here, so that a token is sent few bytes; one that only signs whole messages
is given those.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol, Self

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from federation.core.config.authorities.settings import Pkcs11AuthorityConfig
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable
from federation.core.pki.keys import KeyKind, PublicKey, describe, digest, kind_of, verify
from federation.signer.authorities.pkcs11.tokens import (
    LOST,
    ModuleLogin,
    SessionLost,
    Tokens,
    failed,
    in_words,
)

_logger = logging.getLogger(__name__)

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
        """The signature as certificates have it. ``kind`` says what key this is."""
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
    """The value of an attribute; None where the token does not give it."""
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


_PROOF: Final = b"federation hub: does this key belong to its certificate?"  # DER of nothing


class KeyOnToken:
    """The configured key. Every method but :meth:`open` raises SessionLost where a login is due first."""

    def __init__(self, config: Pkcs11AuthorityConfig, tokens: Tokens) -> None:
        self._config = config
        self._tokens = tokens
        self._login: ModuleLogin | None = None
        self._signer: TokenSigner | None = None
        self._proved: PublicKey | None = None
        self._fresh = False
        self._was_there = False
        self.warnings: tuple[str, ...] = ()

    def open(self, pin: str) -> None:
        """Log in where that is due. Raises AuthorityMisconfigured or AuthorityUnavailable."""
        self.close()
        try:
            self._login = self._tokens.login(self._config, pin, self)
        except AuthorityMisconfigured as error:
            if error.reason == "token_missing" and self._was_there:
                raise AuthorityUnavailable(
                    f"the token is gone: {error.what}", reason="token_gone", remedy=error.remedy
                ) from None
            raise
        self._fresh = self._was_there = True

    def check(self) -> None:
        """Return where the session still is one."""
        if self._login is None:
            raise SessionLost("not logged in")
        self._login.check()

    def find(self, certified: object) -> PublicKey:
        """The public key of the one key that is configured, which was shown to sign.

        That is what the token's public key object holds. Tokens often have none, and PKCS#11 does not derive
        it from the private one; then it is ``certified``, the key of the certificate. Either is proved by a
        signature here, and the authority verifies every later one. Raises AuthorityMisconfigured or
        AuthorityUnavailable.
        """
        self.check()
        assert self._login is not None  # noqa: S101 - check() has seen to it
        session, fresh, self._fresh = self._login.session, self._fresh, False
        try:
            found = self._find(session, fresh=fresh)
            if self._signer is None or self._signer.handle != found.handle:
                self._signer, self._proved = None, None
                self._signer = TokenSigner.of(found, session, self._name)
                self._warn(found)
            return self._prove(self._signer, certified)
        except pkcs11.PKCS11Error as error:
            raise self._error_of(error, f"looking for {self._name}") from None

    def sign(self, public_key: PublicKey, kind: KeyKind, message: bytes) -> bytes:
        """The signature of the key that belongs to ``public_key``, which is of that kind.

        Raises AuthorityUnavailable with the reason ``key_changed`` where the token now holds another one.
        """
        if self._login is None or not self._login.alive:
            raise SessionLost("not logged in")
        if self._proved != public_key and self.find(public_key) != public_key:
            raise AuthorityUnavailable(
                f"{self._name} is another key than it was",
                reason="key_changed",
                remedy="give the certificate of the key that the token holds now",
            )
        assert self._signer is not None  # noqa: S101 - a key was proved
        try:
            return self._signer.sign(kind, message)
        except pkcs11.PKCS11Error as error:
            raise self._error_of(error, f"signing with {self._name}") from None

    def close(self) -> None:
        """Give the login back."""
        login, self._login, self._signer, self._proved = self._login, None, None, None
        if login is not None:
            self._tokens.leave(login, self)

    def _error_of(self, error: pkcs11.PKCS11Error, doing: str) -> Exception:
        """What to raise for a call that failed; the login is given up where that may help."""
        if not isinstance(error, LOST):
            return failed(error, doing)
        login = self._login
        self.close()
        if login is not None:
            self._tokens.drop(login)
        return SessionLost(in_words(error))

    def _prove(self, signer: TokenSigner, certified: object) -> PublicKey:
        """The public key, once the private one has made a signature that it verifies."""
        public = signer.public_key or certified
        if self._proved is not None and self._proved == public:
            return self._proved
        kind = kind_of(public)
        if kind is None or not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise AuthorityMisconfigured(
                f"{self._name} is of a kind that is not accepted: {describe(public)}",
                reason="key_kind",
                remedy="use a key on P-256 or P-384, or an RSA key of 2048, 3072 or 4096 bits",
            )
        if kind.is_rsa is not signer.is_rsa or not verify(public, signer.sign(kind, _PROOF), _PROOF):
            holder = (
                "the token's public key object of the same id" if signer.public_key else "the certificate"
            )
            raise AuthorityMisconfigured(
                f"{self._name} does not belong to {holder}",
                reason="wrong_key",
                remedy="name the key that the intermediate was issued for, or give that key's certificate",
            )
        self._proved = public
        return public

    def _find(self, session: pkcs11.Session, *, fresh: bool) -> pkcs11.Object:
        wanted: dict[Attribute, object] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        if self._config.key_label:
            wanted[Attribute.LABEL] = self._config.key_label
        if self._config.key_id:
            wanted[Attribute.ID] = bytes.fromhex(self._config.key_id)
        found = list(session.get_objects(wanted))
        if len(found) == 1:
            return found[0]
        if found:
            raise AuthorityMisconfigured(
                f"the token has {len(found)} of {self._name}",
                reason="key_ambiguous",
                remedy="name the key by its id, or by label and id",
            )
        if (
            not fresh
        ):  # a session that another application logged out stays open, and private keys are hidden from it
            raise pkcs11.UserNotLoggedIn
        raise AuthorityMisconfigured(
            f"the token has no {self._name}, or does not show it to this user",
            reason="key_missing",
            remedy="correct key_label or key_id; `pkcs11-tool --module MODULE --login --list-objects` shows what "
            "there is",
        )

    def _warn(self, found: pkcs11.Object) -> None:
        """Say where the token would hand the key out: the login of a signer could copy it."""
        lax = [
            words
            for name, good, words in (
                (Attribute.EXTRACTABLE, False, "CKA_EXTRACTABLE is not false"),
                (Attribute.SENSITIVE, True, "CKA_SENSITIVE is not true"),
            )
            if attribute(found, name) is not good
        ]
        warning = (
            f"{self._name} may leave its token: {' and '.join(lax)}; make or import it anew as sensitive and not"
            " extractable"
        )
        if lax and not self.warnings:
            _logger.warning(
                "%s", warning, extra={"authority": self._config.name, "reason": "key_extractable"}
            )
        self.warnings = (warning,) if lax else ()

    @property
    def _name(self) -> str:
        parts = [f"label {self._config.key_label!r}"] if self._config.key_label else []
        parts += [f"id {self._config.key_id}"] if self._config.key_id else []
        return f"private key with {' and '.join(parts)}" if parts else "private key"
