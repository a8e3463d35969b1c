"""What proves that an operation came in through a controller: a seal that only controllers can set.

Operations are documents in the state store, which more processes can write than may operate. So the controller that
was asked seals what it was asked, by whom and when, and the leader does nothing that bears no seal of it. Decided, the
operation is sealed again with what became of it, so that the audit can be told from what was put there.

The key follows from the operate token, which controllers alone have; where none is configured it is drawn by the
process, and holds for no other.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.state.documents import Operation

_PURPOSE: Final = b"federation-hub/operation/1"
"""Keeps the key apart from any other use of the token (NIST SP 800-108 calls it a label)."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Sets and verifies seals with the newest ``secret``; it is asked each time, since a token may be replaced."""

    secret: Callable[[], Awaitable[bytes]]

    async def set(self, operation: Operation) -> Operation:
        """The operation with its seal."""
        return replace(operation, seal=await self._of(operation))

    async def are_on(self, operations: Sequence[Operation]) -> list[bool]:
        """The same of many, by one and the same secret."""
        secret = await self.secret()

        async def known() -> bytes:
            return secret

        same = Seal(known)
        return [await same.is_on(operation) for operation in operations]

    async def is_on(self, operation: Operation) -> bool:
        """Whether it bears the seal of exactly what it says."""
        wanted = await self._of(operation)
        return hmac.compare_digest(operation.seal.encode(errors="replace"), wanted.encode())

    async def _of(self, operation: Operation) -> str:
        key = hmac.digest(await self.secret(), _PURPOSE, "sha256")
        content = msgspec.json.encode(replace(operation, seal=""), order="sorted")
        return hmac.new(key, content, sha256).hexdigest()
