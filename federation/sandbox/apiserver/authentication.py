"""Who is calling: client certificate, then bearer token, else anonymous.

Source: "Authenticating" in the Kubernetes documentation. A credential that is sent and not accepted is 401,
never anonymous.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.sandbox.apiserver.service_account_tokens import (
    NotOursError,
    ServiceAccountTokens,
    TokenRejectedError,
)
from federation.sandbox.apiserver.status import unauthorized
from federation.sandbox.apiserver.tls import certificate_user
from federation.sandbox.apiserver.users import ANONYMOUS, User, authenticated


class Authenticator:
    """Every way to prove a name to one cluster."""

    def __init__(self, tokens: ServiceAccountTokens) -> None:
        self._tokens = tokens
        self._static: dict[str, User] = {}

    def add_token(self, token: str, user: User) -> None:
        """Accept an opaque token for a user, as ``--token-auth-file`` does."""
        self._static[token] = user

    def revoke(self, token: str) -> None:
        """Accept an opaque token no longer."""
        self._static.pop(token, None)

    def caller(self, authorization: str | None, certificate: bytes | None) -> User:
        """The user of one request. Raises ApiError 401."""
        if certificate is not None:
            name, groups = certificate_user(certificate)
            return authenticated(name, groups)
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return ANONYMOUS
        try:
            user, _ = self.review(token.strip(), self._tokens.audiences)
        except TokenRejectedError:
            raise unauthorized() from None
        return user

    def review(self, token: str, audiences: Sequence[str]) -> tuple[User, tuple[str, ...]]:
        """The token's user and those audiences it is good for. Raises :class:`TokenRejectedError`.

        Opaque tokens know no audience: they are good for the API server's own.
        """
        user = self._static.get(token)
        if user is not None:
            shared = tuple(audience for audience in audiences if audience in self._tokens.audiences)
            if shared:
                return user, shared
            raise TokenRejectedError("invalid bearer token")
        try:
            return self._tokens.authenticate(token, audiences)
        except NotOursError:
            raise
        except TokenRejectedError as why:
            raise TokenRejectedError(f"[invalid bearer token, {why}]") from None
