"""AWS KMS: the key stays there and signs the digest of what the hub has built.

The chain is a file, read anew each time. The public key is fetched again after a signature failed and every few
minutes, and it is the key of that very ARN which signs from then on: an alias that is pointed at another key
changes the pair as a whole, never the key under a chain of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from federation.core.config.authorities.settings import AwsKmsAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityThrottled,
    AuthorityUnavailable,
)
from federation.core.pki.keys import KeyKind, PublicKey, describe, digest, kind_of
from federation.signer.authorities.authority import BackEndContext, KeyPair
from federation.signer.authorities.aws.client import AwsCall, AwsClient
from federation.signer.authorities.aws.credentials import AwsAccount
from federation.signer.authorities.credentials import ChainFile, OwnCredentials

KEY_SECONDS: Final = 300.0  # how often the public key is fetched although nothing has failed
MOST_ATTEMPTS: Final = 2  # KMS documents its own failures as to be asked again; a signature may be made twice
_RETRY: Final = 0.1  # seconds

_ALGORITHMS: Final[Mapping[KeyKind, str]] = {
    KeyKind.EC_P256: "ECDSA_SHA_256",
    KeyKind.EC_P384: "ECDSA_SHA_384",
    KeyKind.RSA_2048: "RSASSA_PKCS1_V1_5_SHA_256",
    KeyKind.RSA_3072: "RSASSA_PKCS1_V1_5_SHA_256",
    KeyKind.RSA_4096: "RSASSA_PKCS1_V1_5_SHA_256",
}


class KmsPair:
    """Implements PairSource."""

    def __init__(
        self, config: AwsKmsAuthorityConfig, credentials: OwnCredentials, context: BackEndContext
    ) -> None:
        self._config = config
        self._clock = context.clock
        self._context = context
        self._account = AwsAccount("kms", config, credentials, context)
        self._chain = ChainFile(config.certificate_file)
        self._key: KmsKey | None = None
        self._key_at = 0.0
        self._pair: KeyPair | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the login."""
        return self._account.warnings

    async def read(self) -> KeyPair:
        """The chain's file and the key as they are now."""
        chain = await self._chain.read()
        await self._account.renew()
        key = await self._current_key()
        if self._pair is None or self._pair.chain is not chain or self._pair.key is not key:
            self._pair = KeyPair(chain, key)
        return self._pair

    async def close(self) -> None:
        """Close connections and credentials."""
        self._key = self._pair = None
        await self._account.close()

    async def _current_key(self) -> KmsKey:
        now, current, client = self._clock.monotonic(), self._key, self._account.client
        if current is not None and not current.failed and now - self._key_at < KEY_SECONDS:
            return current
        answer = await client.call("GetPublicKey", {"KeyId": self._config.key_id})
        public_key, kind = _public_key(answer, self._config.name)
        arn = answer.get("KeyId")
        key_id = arn if isinstance(arn, str) and arn else self._config.key_id
        if current is not None and (current.key_id, current.public_key) == (key_id, public_key):
            current.failed = False
        else:
            current = self._key = KmsKey(
                client, key_id, public_key, kind, context=self._context, where=self._config.name
            )
        self._key_at = now
        return current


class KmsKey:
    """Implements SigningKey. ``failed`` is set by a signature that could not be had."""

    has_local_key = False

    def __init__(
        self,
        client: AwsClient,
        key_id: str,
        public_key: PublicKey,
        kind: KeyKind,
        *,
        context: BackEndContext,
        where: str,
    ) -> None:
        self.key_id = key_id
        self.public_key = public_key
        self.failed = False
        self._client = client
        self._kind = kind
        self._context = context
        self._where = where

    async def sign(self, message: bytes) -> bytes:
        """The signature over the digest, asked for once more where KMS or the network failed.

        A lost signature leaves no certificate anywhere: only this process has what it belongs to.
        """
        request = {
            "KeyId": self.key_id,
            "Message": digest(self._kind, message),
            "MessageType": "DIGEST",
            "SigningAlgorithm": _ALGORITHMS[self._kind],
        }
        try:
            async for attempt in AsyncRetrying(
                sleep=self._context.clock.sleep,
                wait=lambda _state: _RETRY * self._context.jitter.uniform(0.5, 1.5),
                stop=stop_after_attempt(MOST_ATTEMPTS),
                retry=retry_if_exception(_is_passing),
                reraise=True,
            ):
                with attempt:
                    answer = await self._client.call("Sign", request)
        except (AuthorityError, AuthorityUnavailable):
            self.failed = True
            raise
        signature = answer.get("Signature")
        if not isinstance(signature, bytes):
            raise AwsCall("kms:Sign", self._where).garbage()
        return signature


def _is_passing(error: BaseException) -> bool:
    """Worth asking again at once: not where KMS has just asked for fewer requests, or cannot be reached."""
    return (
        isinstance(error, AuthorityUnavailable)
        and not isinstance(error, AuthorityThrottled)
        and error.reason in {"server_error", "cut_off", "timeout"}
    )


def _public_key(answer: Mapping[str, Any], where: str) -> tuple[PublicKey, KeyKind]:
    try:
        key = load_der_public_key(bytes(answer["PublicKey"]))
    except (KeyError, TypeError, ValueError, UnsupportedAlgorithm):
        raise AwsCall("kms:GetPublicKey", where).garbage() from None
    if answer.get("KeyUsage") != "SIGN_VERIFY":
        raise AuthorityMisconfigured(
            f"the key is not for signing but for {str(answer.get('KeyUsage'))[:40]}",
            where=where,
            reason="wrong_key_usage",
            remedy="name a key of the usage SIGN_VERIFY; a key's usage cannot be changed",
        )
    kind = kind_of(key)
    if kind is None:
        raise AuthorityMisconfigured(
            f"the key is of a kind that is not accepted: {describe(key)}",
            where=where,
            reason="weak_key",
            remedy="use a key of the spec ECC_NIST_P256, ECC_NIST_P384, RSA_2048, RSA_3072 or RSA_4096",
        )
    return key, kind  # type: ignore[return-value]  # kind_of accepts no other class
