"""A secret_id that is delivered inside a response-wrapping token: taken out once, and only if nobody else was.

By Vault's guide to response wrapping ("Response wrapping token validation"): where the token was made is
looked up before it is used, because whoever unwraps a secret on its way can wrap another value anew; and a
token that is used up already means that somebody else has the secret now. Either is refused, loudly.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import msgspec

from federation.core.config.authority_model import VaultAuth
from federation.core.errors import AuthorityMisconfigured
from federation.signer.authorities.vault.answers import VaultAnswer
from federation.signer.authorities.vault.client import VaultClient

_LOOKUP: Final = "/v1/sys/wrapping/lookup"
_UNWRAP: Final = "/v1/sys/wrapping/unwrap"


class _Origin(msgspec.Struct, frozen=True):
    creation_path: str


class _Lookup(msgspec.Struct, frozen=True):
    data: _Origin


class _Secret(msgspec.Struct, frozen=True):
    secret_id: str


class _Unwrapped(msgspec.Struct, frozen=True):
    data: _Secret


class WrappedSecret:
    """Unwraps for one AppRole, and keeps what was unwrapped in memory: the token is good for one time only."""

    def __init__(self, client: VaultClient, auth: VaultAuth) -> None:
        self._client = client
        self._below = f"auth/{auth.mount.strip('/')}/role/"
        self._role = auth.role
        self._token = ""
        self._secret_id = ""

    async def secret_id(self, token: str) -> str:
        """The secret_id inside this wrapping token.

        Raises AuthorityMisconfigured with the reason ``secret_id_tampered``, and what the client raises.
        """
        if token != self._token:
            await self._look_up(token)
            self._secret_id = await self._unwrap(token)
            self._token = token
        return self._secret_id

    async def _look_up(self, token: str) -> None:
        answer = await self._client.call("POST", _LOOKUP, body={"token": token}, hidden=(token,))
        self._usable(answer)
        made_at = answer.read(_Lookup, what=f"POST {_LOOKUP}").data.creation_path
        role, _, end = made_at.removeprefix(self._below).partition("/")
        known = made_at.startswith(self._below) and role and end in {"secret-id", "custom-secret-id"}
        if not known or self._role not in {"", role}:
            wanted = f"{self._below}{self._role or '<role>'}/secret-id"
            raise _tampered(f"it was made at {quote(made_at[:120], safe='/')!r}, not at {wanted!r}")

    async def _unwrap(self, token: str) -> str:
        answer = await self._client.call("POST", _UNWRAP, token=token)
        self._usable(answer)
        return answer.read(_Unwrapped, what=f"POST {_UNWRAP}").data.secret_id

    def _usable(self, answer: VaultAnswer) -> None:
        if not answer.ok:
            raise _tampered(f"it is used up, expired or unknown ({answer.why})")


def _tampered(what: str) -> AuthorityMisconfigured:
    return AuthorityMisconfigured(
        f"the wrapped secret_id is refused: {what}",
        reason="secret_id_tampered",
        remedy="unless this hub used it up before a restart, somebody else holds the secret_id: destroy it by its"
        " accessor, find out who, and deliver a new wrapped one",
    )
