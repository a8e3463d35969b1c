"""How long a service account's token lives, and whose it is, by what it says itself (RFC 7519), unchecked.

It is the role's own credential, which its API server checks at each request: nothing is proved by what is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import jwt

from federation.core.errors import InvalidValue
from federation.core.identity import ServiceAccountRef

RENEWED_AFTER: Final = 2 / 3
"""Of its life; the kubelet renews the tokens that it mounts after four fifths, sooner, nothing is gained."""

MOST_TOKEN: Final = 64 * 1024  # characters


@dataclass(frozen=True, slots=True)
class TokenLife:
    """Seconds since the epoch, 0 where the token does not say; ``account`` is None where it is no service account's."""

    issued: float = 0.0
    expires: float = 0.0
    account: ServiceAccountRef | None = None

    @property
    def due(self) -> float:
        """When it is to be renewed; 0 where it does not say how long it lives."""
        return self.issued + (self.expires - self.issued) * RENEWED_AFTER if self.length else 0.0

    @property
    def length(self) -> float:
        """How long it lives in all; 0 where it does not say."""
        return max(0.0, self.expires - self.issued) if self.issued and self.expires else 0.0


NO_LIFE: Final = TokenLife()


def token_life(token: str) -> TokenLife:
    """What the token says of itself; nothing where it is no JWT."""
    try:
        claims = jwt.decode(token[:MOST_TOKEN], options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return NO_LIFE
    return TokenLife(_instant(claims.get("iat")), _instant(claims.get("exp")), _account(claims.get("sub")))


def is_newer(token: str, other: str) -> bool:
    """Whether it is of the same account as ``other``, and was issued later. False where either does not say."""
    one, two = token_life(token), token_life(other)
    return one.account is not None and one.account == two.account and one.issued > two.issued > 0


def _instant(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e11:
        return 0.0
    return float(value)


def _account(subject: object) -> ServiceAccountRef | None:
    try:
        return ServiceAccountRef.from_username(subject) if isinstance(subject, str) else None
    except InvalidValue:
        return None
