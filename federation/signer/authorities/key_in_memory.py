"""A private key that this process holds, out of a file or a secret store."""

from __future__ import annotations

from federation.core.errors import AuthorityMisconfigured, InvalidValue
from federation.core.pki.keys import PrivateKey, PublicKey, load_private_key, signer
from federation.core.pki.pem import parse_certificates
from federation.signer.authorities.interface import KeyPair


class KeyInMemory:
    """Implements SigningKey. Nothing of the key is ever part of its text."""

    held_here = True

    def __init__(self, key: PrivateKey) -> None:
        self._sign = signer(key)
        self.public_key: PublicKey = key.public_key()

    def __repr__(self) -> str:
        return "KeyInMemory(...)"

    async def sign(self, message: bytes) -> bytes:
        """The signature, made at once."""
        return self._sign(message)


def pair_in_memory(chain_pem: bytes, key_pem: bytes, *, chain_at: str, key_at: str) -> KeyPair:
    """The pair that these texts hold; raises AuthorityMisconfigured that names where each came from."""
    try:
        chain = parse_certificates(chain_pem, where=chain_at)
        return KeyPair(chain, KeyInMemory(load_private_key(key_pem, where=key_at)))
    except InvalidValue as error:
        raise AuthorityMisconfigured(str(error), remedy=error.remedy, reason="file_invalid") from None
