"""One private key on a token: found, proved to belong to a public key, and used.

All of it runs in the library thread, and nowhere else.
"""

from __future__ import annotations

import logging
from typing import Final

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute, ObjectClass

from federation.core.config.authority_model import Pkcs11AuthorityConfig
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable
from federation.core.pki.keys import KeyKind, PublicKey, describe, kind_of, verify
from federation.signer.authorities.pkcs11.faults import LOST, SessionLost, failed, in_words
from federation.signer.authorities.pkcs11.signing import TokenSigner, attribute
from federation.signer.authorities.pkcs11.tokens import Login, Tokens

_PROOF: Final = b"federation hub: does this key belong to its certificate?"  # DER of nothing

_logger = logging.getLogger(__name__)


class KeyOnToken:
    """The configured key. Every method but :meth:`open` raises SessionLost where a login is due first."""

    def __init__(self, config: Pkcs11AuthorityConfig, tokens: Tokens) -> None:
        self._config = config
        self._tokens = tokens
        self._login: Login | None = None
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

    def look(self, certified: object) -> PublicKey:
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
            raise self._told(error, f"looking for {self._name}") from None

    def sign(self, public_key: PublicKey, kind: KeyKind, message: bytes) -> bytes:
        """The signature of the key that belongs to ``public_key``, which is of that kind.

        Raises AuthorityUnavailable with the reason ``key_changed`` where the token now holds another one.
        """
        if self._login is None or not self._login.alive:
            raise SessionLost("not logged in")
        if self._proved != public_key and self.look(public_key) != public_key:
            raise AuthorityUnavailable(
                f"{self._name} is another key than it was",
                reason="key_changed",
                remedy="give the certificate of the key that the token holds now",
            )
        assert self._signer is not None  # noqa: S101 - a key was proved
        try:
            return self._signer.sign(kind, message)
        except pkcs11.PKCS11Error as error:
            raise self._told(error, f"signing with {self._name}") from None

    def close(self) -> None:
        """Give the login back."""
        login, self._login, self._signer, self._proved = self._login, None, None, None
        if login is not None:
            self._tokens.leave(login, self)

    def _told(self, error: pkcs11.PKCS11Error, doing: str) -> Exception:
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
        if not fresh:  # a session that somebody logged out stays open, and private keys are hidden from it
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
