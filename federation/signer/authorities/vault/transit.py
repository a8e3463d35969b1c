"""The Transit engine: the key stays there, the hub builds the leaf and has its digest signed.

A key of Transit has versions, and the intermediate's certificate belongs to one of them. That one is asked
for by number, so that a rotation of the key breaks nothing until the operator gives the new chain.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from federation.core.config.authorities.settings import VaultTransitAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityUnavailable,
    AuthorityViolation,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, PublicKey, digest, kind_of
from federation.signer.authorities.authority import BackEndContext, KeyPair
from federation.signer.authorities.credentials import ChainFile, OwnCredentials
from federation.signer.authorities.vault.client import VaultAnswer
from federation.signer.authorities.vault.session import VaultSession, api_path, unexpected

_SIGNATURE: Final = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+=*)")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")


class _Version(msgspec.Struct, frozen=True):
    public_key: str = ""


class _Key(msgspec.Struct, frozen=True):
    type: str
    keys: dict[str, _Version | int]
    min_encryption_version: int = 0


class _Signature(msgspec.Struct, frozen=True):
    signature: str


@dataclass(frozen=True, slots=True)
class _TransitMount:
    """Where the key is: words and paths."""

    mount: str
    key: str

    @property
    def words(self) -> str:
        return f"the key {self.key} of {self.mount}"

    @property
    def path(self) -> str:
        return api_path(self.mount, "keys", self.key)

    def sign_path(self, kind: KeyKind) -> str:
        return api_path(self.mount, "sign", self.key, "sha2-384" if kind is KeyKind.EC_P384 else "sha2-256")


@dataclass(frozen=True, slots=True)
class TransitKey:
    """Implements SigningKey: one version of one key. Equal where it is the same version of the same key."""

    session: VaultSession = field(repr=False)
    at: _TransitMount
    version: int
    public_key: PublicKey
    kind: KeyKind
    has_local_key: bool = False

    async def sign(self, message: bytes) -> bytes:
        """Have its digest signed: RSASSA-PKCS1-v1_5 (the engine's default is PSS), or ECDSA in DER.

        An answer that is lost leaves no certificate anywhere: only this process knows what was signed.
        """
        path = self.at.sign_path(self.kind)
        scheme = {"signature_algorithm": "pkcs1v15"} if self.kind.is_rsa else {"marshaling_algorithm": "asn1"}
        body = {
            "input": base64.b64encode(digest(self.kind, message)).decode("ascii"),
            "prehashed": True,
            "key_version": self.version,
            **scheme,
        }
        answer = await self.session.ask("POST", path, body)
        if not answer.ok:
            raise _refusal(answer, self.at, "POST sign")
        signature = answer.data(_Signature, what=f"POST {path}").signature
        found = _SIGNATURE.fullmatch(signature)
        if found is None or int(found[1]) != self.version:
            raise AuthorityViolation(
                f"{self.at.words} signed with another version than {self.version}", reason="wrong_key"
            )
        try:
            return base64.b64decode(found[2], validate=True)
        except binascii.Error:
            raise AuthorityViolation(f"{self.at.words} returned no signature", reason="garbage") from None


class TransitPair:
    """Implements PairSource."""

    def __init__(
        self, config: VaultTransitAuthorityConfig, credentials: OwnCredentials, context: BackEndContext
    ) -> None:
        self._chain = ChainFile(config.certificate_file)
        self._at = _TransitMount(config.mount.strip("/"), config.key)
        self._session = VaultSession(config, config.server, credentials, context)
        self._matched: tuple[tuple[Certificate, ...], _Key] | None = None
        self._pair: KeyPair | None = None
        self.warnings: tuple[str, ...] = ()

    async def read(self) -> KeyPair:
        """The chain of the file, and the version of the key that its certificate belongs to."""
        chain = await self._chain.read()
        self.warnings = tuple(await self._session.poll())
        answer = await self._session.ask("GET", self._at.path)
        if not answer.ok:
            raise _refusal(answer, self._at, "GET")
        key = answer.data(_Key, what=f"GET {self._at.path}")
        pair = self._pair
        if pair is None or (chain, key) != self._matched:
            self._pair = pair = self._same_or(self._match(chain, key))
            self._matched = chain, key
        return pair

    async def close(self) -> None:
        """Close login, connections and credentials."""
        self._pair = None
        await self._session.close()

    def _same_or(self, found: KeyPair) -> KeyPair:
        """The pair in use where it is equal: a new version of the key changes nothing by itself."""
        return self._pair if self._pair == found else found

    def _match(self, chain: tuple[Certificate, ...], key: _Key) -> KeyPair:
        own = chain[0]
        versions = _public_keys(key)
        if not versions:
            raise AuthorityMisconfigured(
                f"{self._at.words} cannot sign certificates: it is of the type {key.type[:40]!r}",
                reason="weak_key",
                remedy="make a key of the type ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096",
            )
        version = next((v for v, (public, _) in sorted(versions.items()) if public == own.public_key), None)
        if version is None:
            raise self._rotated(own, f"none of its versions ({', '.join(map(str, sorted(versions)))})")
        if version < key.min_encryption_version:
            raise self._rotated(own, f"only its version {version}, below min_encryption_version,")
        return KeyPair(chain, TransitKey(self._session, self._at, version, *versions[version]))

    def _rotated(self, own: Certificate, what: str) -> AuthorityMisconfigured:
        return AuthorityMisconfigured(
            f"{self._at.words}: {what} belongs to {own.subject} ({self._chain.path})",
            reason="key_rotated",
            remedy="give the chain of the key's version of now, or lower the key's min_encryption_version and"
            " min_decryption_version to the version of this chain",
        )


def _public_keys(key: _Key) -> dict[int, tuple[PublicKey, KeyKind]]:
    """The versions whose keys are of a kind that may sign."""
    found: dict[int, tuple[PublicKey, KeyKind]] = {}
    for number, version in key.keys.items():
        if not isinstance(version, _Version) or not _VERSION.fullmatch(number):
            continue
        try:
            public = load_pem_public_key(version.public_key.encode())
        except (ValueError, UnsupportedAlgorithm):
            continue
        kind = kind_of(public)
        if kind is not None and isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            found[int(number)] = public, kind
    return found


def _refusal(answer: VaultAnswer, at: _TransitMount, what: str) -> AuthorityError | AuthorityUnavailable:
    if answer.says("requested version for signing"):
        return AuthorityMisconfigured(
            f"{at.words} does not sign with this version any more: {answer.why}",
            reason="key_rotated",
            remedy="give the chain of the key's version of now, or lower its min_encryption_version",
        )
    if answer.status in {404, 405} or answer.says("signing key not found"):
        return AuthorityMisconfigured(
            f"{at.words} is not there: {answer.why}",
            reason="not_found",
            remedy=f"create it (`bao write -f {at.mount}/keys/{at.key} type=ecdsa-p256`), and check the mount"
            " and the namespace in the configuration",
        )
    if answer.status == 400:
        return AuthorityMisconfigured(
            f"{at.words} does not sign: {answer.why}",
            reason="key_unusable",
            remedy="make a key of the type ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096",
        )
    return unexpected(what, f"of {at.mount}", answer)
