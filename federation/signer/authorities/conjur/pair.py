"""An intermediate whose chain and key are two Conjur variables: held in memory only, and read anew."""

from __future__ import annotations

import asyncio

from federation.core.clock import Clock
from federation.core.config.authority_model import ConjurAuthorityConfig, ConjurConfig
from federation.core.errors import AuthorityMisconfigured
from federation.signer.authorities.conjur.store import Conjur
from federation.signer.authorities.interface import KeyPair
from federation.signer.authorities.key_in_memory import pair_in_memory
from federation.signer.authorities.own_credentials import OwnCredentials


class PairOfVariables:
    """Implements PairSource.

    Both variables come out of one request, so a rotation of both is seen together, or between its two writes
    as a key that is not the certificate's, which is never taken up.
    """

    def __init__(
        self,
        config: ConjurAuthorityConfig,
        conjur: ConjurConfig,
        credentials: OwnCredentials,
        *,
        clock: Clock,
    ) -> None:
        self._config = config
        self._conjur = Conjur(conjur, credentials, clock=clock)
        self._read: tuple[bytes, ...] | None = None
        self._pair: KeyPair | None = None

    async def read(self) -> KeyPair:
        """What both variables hold now. Raises as :meth:`Conjur.read_together` does, or ``variable_invalid``."""
        config = self._config
        read = await self._conjur.read_together(config.chain_variable, config.key_variable)
        if self._pair is None or read != self._read:
            self._pair = await asyncio.to_thread(self._parse, *read)  # checking an RSA key takes long
            self._read = read
        return self._pair

    async def close(self) -> None:
        """Forget the key, and close Conjur and the credentials."""
        self._read = self._pair = None
        await self._conjur.close()

    def _parse(self, chain: bytes, key: bytes) -> KeyPair:
        config = self._config
        try:
            return pair_in_memory(
                chain,
                key,
                chain_at=f"the variable {config.chain_variable}",
                key_at=f"the variable {config.key_variable}",
            )
        except AuthorityMisconfigured as error:
            raise AuthorityMisconfigured(
                error.what,
                reason="variable_invalid",
                remedy=error.remedy or "put the chain (intermediate first) and its key there, both as PEM",
            ) from None
