"""An intermediate whose key is in a PKCS#11 token and never leaves it. Its chain is a file.

The event loop reads files and the PIN; everything that calls the module is handed to the library thread. A
session that was lost (a device that restarted, a connection that broke, a logout by another application) is opened
anew and the call made once more, so that a caller notices nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Final, TypeVar

from federation.core.config.authorities.settings import Pkcs11AuthorityConfig
from federation.core.errors import AuthorityUnavailable, InvalidValue
from federation.core.pki.keys import KeyKind, PublicKey, kind_of
from federation.signer.authorities.authority import KeyPair
from federation.signer.authorities.credentials import ChainFile, OwnCredentials
from federation.signer.authorities.pkcs11.key import KeyOnToken
from federation.signer.authorities.pkcs11.tokens import LibraryThread, SessionLost, Tokens

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Library:
    """The thread, and what only that touches."""

    thread: LibraryThread
    tokens: Tokens


@cache
def library_of_this_process() -> Library:
    """The one that authorities share: a module can be initialised once in a process, and logged in to once."""
    tokens = Tokens()
    return Library(LibraryThread(keeps=tokens), tokens)


class TokenPair:
    """Implements PairSource."""

    def __init__(
        self, config: Pkcs11AuthorityConfig, credentials: OwnCredentials, library: Library | None = None
    ) -> None:
        library = library or library_of_this_process()
        self._config = config
        self._credentials = credentials
        self._thread: Final = library.thread
        self._key: Final = KeyOnToken(config, library.tokens)
        self._logging_in = asyncio.Lock()
        self._chain = ChainFile(config.certificate_file)
        self._pair: KeyPair | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """A key that the token would hand out."""
        return self._key.warnings

    async def read(self) -> KeyPair:
        """The chain that the file holds now, and the key as the token shows it now."""
        chain = await self._chain.read()
        public_key = await self.on_token(partial(self._key.find, chain[0].public_key))
        pair = self._pair
        if pair is None or pair.chain is not chain or pair.key.public_key != public_key:
            pair = self._pair = KeyPair(chain, HardwareKey(public_key, self))
        return pair

    async def close(self) -> None:
        """Log out, unless another authority uses the token as well. A device that hangs is left to itself."""
        self._pair = None
        with suppress(AuthorityUnavailable):
            await self._thread.run(self._key.close, timeout=self._config.timeout)
        await self._credentials.close()

    async def on_token(self, job: Callable[[], Result]) -> Result:
        """What the job returns in the library thread; logs in first, and once more, where that is due."""
        timeout = self._config.timeout
        try:
            return await self._thread.run(job, timeout=timeout)
        except SessionLost:
            async with self._logging_in:
                await self._log_in()
        try:
            return await self._thread.run(job, timeout=timeout)
        except SessionLost as lost:
            raise AuthorityUnavailable(
                f"a new session ended as soon as it was opened: {lost}",
                reason="session_lost",
                remedy="look at the device and at its client's log",
            ) from None

    async def sign(self, public_key: PublicKey, kind: KeyKind, message: bytes) -> bytes:
        """The signature of the key that belongs to ``public_key``."""
        return await self.on_token(partial(self._key.sign, public_key, kind, message))

    async def _log_in(self) -> None:
        with suppress(SessionLost):
            await self._run(self._key.check)  # another caller that waited before has logged in
            return
        pin = await self._credentials.secret(self._config.pin)
        await self._run(partial(self._key.open, pin))

    async def _run(self, job: Callable[[], Result]) -> Result:
        return await self._thread.run(job, timeout=self._config.timeout)


class HardwareKey:
    """Implements SigningKey."""

    has_local_key = False

    def __init__(self, public_key: PublicKey, pair: TokenPair) -> None:
        kind = kind_of(public_key)
        if kind is None:
            raise InvalidValue("a key of this kind is not accepted")
        self._kind = kind
        self._pair = pair
        self.public_key = public_key

    def __repr__(self) -> str:
        return f"TokenKey({self._kind.value})"

    async def sign(self, message: bytes) -> bytes:
        """The signature that the token makes; raises AuthorityUnavailable or AuthorityMisconfigured."""
        return await self._pair.sign(self.public_key, self._kind, message)
