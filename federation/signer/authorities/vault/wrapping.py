"""A secret_id that is delivered inside a response-wrapping token: taken out once, and only if nobody else was.

By Vault's guide to response wrapping ("Response wrapping token validation"): where the token was made is
looked up before it is used, because whoever unwraps a secret on its way can wrap another value anew; and a
token that is used up already means that somebody else has the secret now. Either is refused, loudly.

So that the hub is not that somebody itself, what was taken out belongs to the process: a changed configuration
makes another authority, and that one finds it there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Final
from urllib.parse import quote

import msgspec

from federation.core.config.authority_model import VaultAuth, VaultServer
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable, AuthorityUncertain
from federation.signer.authorities.vault.answers import VaultAnswer
from federation.signer.authorities.vault.client import VaultClient

_LOOKUP: Final = "/v1/sys/wrapping/lookup"
_UNWRAP: Final = "/v1/sys/wrapping/unwrap"

MOST_ENVELOPES: Final = 64  # far more than are of use at a time; each is some hundred bytes


class _Origin(msgspec.Struct, frozen=True):
    creation_path: str


class _Lookup(msgspec.Struct, frozen=True):
    data: _Origin


class _Secret(msgspec.Struct, frozen=True):
    secret_id: str


class _Unwrapped(msgspec.Struct, frozen=True):
    data: _Secret


@dataclass(slots=True)
class Envelope:
    """What is known of one wrapping token. ``doubtful``: this process tried to open it and lost the answer."""

    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    made_at: str = ""
    secret_id: str = field(default="", repr=False)
    doubtful: bool = False


class Envelopes:
    """The wrapping tokens that this process has met, the latest :data:`MOST_ENVELOPES` of them, in memory only."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str, bytes], Envelope] = OrderedDict()

    def of(self, server: VaultServer, mount: str, token: str) -> Envelope:
        """The one of that token at that auth method of that server."""
        key = (server.address, server.namespace.strip("/"), mount, sha256(token.encode()).digest())
        envelope = self._known.setdefault(key, Envelope())
        self._known.move_to_end(key)
        while len(self._known) > MOST_ENVELOPES:
            self._known.popitem(last=False)
        return envelope


@cache
def envelopes_of_this_process() -> Envelopes:
    """Those that authorities share: a wrapping token is good for one time, whoever of the process uses it."""
    return Envelopes()


class WrappedSecret:
    """Unwraps for one AppRole."""

    def __init__(
        self, client: VaultClient, server: VaultServer, auth: VaultAuth, envelopes: Envelopes | None = None
    ) -> None:
        self._client = client
        self._server = server
        self._mount = auth.mount.strip("/")
        self._below = f"auth/{self._mount}/role/"
        self._role = auth.role
        self._envelopes = envelopes or envelopes_of_this_process()
        self._opening: set[asyncio.Task[str]] = set()

    async def secret_id(self, token: str) -> str:
        """The secret_id inside this wrapping token. A caller that gives up does not take it along.

        Raises AuthorityMisconfigured with the reason ``secret_id_tampered``, ``secret_id_lost``, ``not_found`` or
        ``login_refused``, and what the client raises.
        """
        task = asyncio.create_task(self._open(token), name="open a wrapped secret_id")
        self._opening.add(task)
        task.add_done_callback(self._opened)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is being opened, which the client's timeout bounds: given up, it would be lost."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _opened(self, task: asyncio.Task[str]) -> None:
        self._opening.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has been told; where nobody does any more, the next one asks anew

    async def _open(self, token: str) -> str:
        envelope = self._envelopes.of(self._server, self._mount, token)
        async with envelope.opening:
            if not envelope.secret_id:
                envelope.made_at = await self._look_up(token, envelope)
            self._check_origin(envelope.made_at)
            if not envelope.secret_id:
                envelope.secret_id = await self._unwrap(token, envelope)
            return envelope.secret_id

    async def _look_up(self, token: str, envelope: Envelope) -> str:
        answer = await self._client.call("POST", _LOOKUP, body={"token": token}, hidden=(token,))
        _check(answer, _LOOKUP, envelope)
        return answer.read(_Lookup, what=f"POST {_LOOKUP}").data.creation_path

    def _check_origin(self, made_at: str) -> None:
        role, _, end = made_at.removeprefix(self._below).partition("/")
        known = made_at.startswith(self._below) and role and end in {"secret-id", "custom-secret-id"}
        if not known or self._role not in {"", role}:
            wanted = f"{self._below}{self._role or '<role>'}/secret-id"
            raise _tampered(f"it was made at {quote(made_at[:120], safe='/')!r}, not at {wanted!r}")

    async def _unwrap(self, token: str, envelope: Envelope) -> str:
        doubtful, envelope.doubtful = envelope.doubtful, True  # and stays so where no answer comes
        try:
            answer = await self._client.call("POST", _UNWRAP, token=token, may_issue=True)
        except AuthorityUncertain:
            raise AuthorityUnavailable(
                "the answer to unwrapping the secret_id was lost",
                reason="cut_off",
                remedy="see whether the hub logs in at its next look; else deliver a new wrapped secret_id",
            ) from None
        if not answer.ok:
            envelope.doubtful = doubtful
        _check(answer, _UNWRAP, envelope)
        return answer.read(_Unwrapped, what=f"POST {_UNWRAP}").data.secret_id


def _check(answer: VaultAnswer, path: str, envelope: Envelope) -> None:
    """Raise where the token was not taken; only Vault's own word for it means that it is used up."""
    if answer.ok:
        return
    if answer.status == 400 and answer.says("wrapping token is not valid"):
        if envelope.doubtful:
            raise AuthorityMisconfigured(
                f"the wrapped secret_id is lost: this hub opened it, and the answer never came ({answer.why})",
                reason="secret_id_lost",
                remedy="deliver a new wrapped one, and destroy the lost one by its accessor",
            )
        raise _tampered(f"its wrapping token is used up, expired or unknown ({answer.why})")
    if answer.status == 404:
        raise AuthorityMisconfigured(
            f"there is no unwrapping at POST {path}: {answer.why}",
            reason="not_found",
            remedy="check the address and the namespace in the configuration",
        )
    raise AuthorityMisconfigured(
        f"the wrapped secret_id cannot be taken out: POST {path}: {answer.why}",
        reason="login_refused",
        remedy="see Vault's log, and what stands between the hub and it; the wrapping token was not used",
    )


def _tampered(what: str) -> AuthorityMisconfigured:
    return AuthorityMisconfigured(
        f"the wrapped secret_id is refused: {what}",
        reason="secret_id_tampered",
        remedy="unless the hub used it up itself (before a restart, in another signer process or replica, in"
        " `federation authority check`, for another address, or with an answer that was lost), somebody else holds"
        " the secret_id: destroy it by its accessor and find out who. Deliver a new wrapped one",
    )
