"""The hub's token at Vault: logged in for, renewed at about two thirds of its lease, and logged in for again.

A renewal that the token's longest life cuts short, or that is refused, means a new login. While the token of now
is good, a failure of either is a warning. One login is under way at a time and shared by all who wait for it; a
caller that gives up does not take it along, for a wrapped secret can be used only once. How long a token lasts is
pure: times are seconds of a monotonic clock. What the hub logs in with, by auth method, is read anew for each login,
so that it rotates in place.

**A secret_id inside a response-wrapping token** is taken out once, and only if no one else has taken it out. By
Vault's guide to response wrapping ("Response wrapping token validation"): where the token was made is looked up
before it is used, because someone who unwraps a secret on its way can wrap another value anew; and a token that is
used up already means that someone else has the secret now. Either is refused, loudly. So that the hub is not that
someone itself, what was taken out belongs to the process: a changed configuration makes another authority, and that
one finds it there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from math import isinf
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from federation.core.clock import Clock
from federation.core.config.authorities.settings import VaultAuth, VaultServer
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityUnavailable,
    AuthorityUncertain,
)
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.vault.client import VaultAnswer, VaultClient

_logger = logging.getLogger(__name__)

RENEWED_AT: Final = (0.6, 0.72)
"""Of a lease: about two thirds, drawn anew each time so that many signers do not come together."""

CAPPED_BELOW: Final = 0.9
"""Of the first lease: a renewal that gives less has met the token's longest life."""

JUST_LOGGED_IN: Final = 10.0  # seconds in which a refusal is not blamed on the login


@dataclass(slots=True, eq=False)
class TokenLease:
    """A token. ``full`` is how many seconds the first lease had; 0 means a token without an end."""

    token: str = field(repr=False)
    full: float
    renewable: bool
    since: float
    due: float = math.inf
    ends: float = math.inf
    worked: bool = False
    """True once a request with it was accepted."""
    for_good: bool = False
    """True where it cannot be prolonged any more."""

    def is_over(self, now: float) -> bool:
        """True where it has ended."""
        return now >= self.ends

    def is_fresh(self, now: float) -> bool:
        """True where nothing but the login itself has shown that it works, a moment ago."""
        return not self.worked and now - self.since < JUST_LOGGED_IN


def granted(
    token: str,
    seconds: float,
    *,
    renewable: bool,
    now: float,
    jitter: random.Random,
    before: TokenLease | None = None,
    full: float = 0.0,
) -> TokenLease:
    """The lease of a token that lasts ``seconds`` from now; ``before`` is the one that it renews."""
    lease = TokenLease(token, full or (before.full if before is not None else seconds), renewable, now)
    if before is not None:
        lease.worked = before.worked
    if seconds > 0:
        lease.due = now + seconds * jitter.uniform(*RENEWED_AT)
        lease.ends = now + seconds
    return lease


def is_ending(lease: TokenLease, now: float) -> bool:
    """True where it cannot be renewed any more, and less than a third of its life is left."""
    return lease.for_good and lease.ends - now < lease.full / 3


def is_capped(lease: TokenLease) -> bool:
    """True where a renewal gave noticeably less than the first lease had."""
    return lease.ends - lease.since < lease.full * CAPPED_BELOW


_LOOKUP: Final = "/v1/sys/wrapping/lookup"
_UNWRAP: Final = "/v1/sys/wrapping/unwrap"

MOST_ENVELOPES: Final = 64  # far more than are of use at a time; each is some hundred bytes


class _Origin(msgspec.Struct, frozen=True):
    creation_path: str


class _Secret(msgspec.Struct, frozen=True):
    secret_id: str


@dataclass(slots=True)
class Envelope:
    """What is known of one wrapping token. ``suspect``: this process tried to open it and lost the answer."""

    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    made_at: str = ""
    secret_id: str = field(default="", repr=False)
    suspect: bool = False


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
    """Those that authorities share: a wrapping token can be used once, by whichever authority of the process."""
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
            task.exception()  # callers that waited have it; where none waits any more, the next one asks anew

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
        return answer.data(_Origin, what=f"POST {_LOOKUP}").creation_path

    def _check_origin(self, made_at: str) -> None:
        role, _, end = made_at.removeprefix(self._below).partition("/")
        known = made_at.startswith(self._below) and role and end in {"secret-id", "custom-secret-id"}
        if not known or self._role not in {"", role}:
            wanted = f"{self._below}{self._role or '<role>'}/secret-id"
            raise _tampered(f"it was made at {quote(made_at[:120], safe='/')!r}, not at {wanted!r}")

    async def _unwrap(self, token: str, envelope: Envelope) -> str:
        suspect, envelope.suspect = envelope.suspect, True  # and stays so where no answer comes
        try:
            answer = await self._client.call("POST", _UNWRAP, token=token, may_issue=True)
        except AuthorityUncertain:
            raise AuthorityUnavailable(
                "the answer to unwrapping the secret_id was lost",
                reason="cut_off",
                remedy="see whether the hub logs in at its next health poll; else deliver a new wrapped secret_id",
            ) from None
        if not answer.ok:
            envelope.suspect = suspect
        _check(answer, _UNWRAP, envelope)
        return answer.data(_Secret, what=f"POST {_UNWRAP}").secret_id


def _check(answer: VaultAnswer, path: str, envelope: Envelope) -> None:
    """Raise where the token was not taken; only where Vault says so is it used up."""
    if answer.ok:
        return
    if answer.status == 400 and answer.says("wrapping token is not valid"):
        if envelope.suspect:
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
        remedy="see Vault's log, and what is between the hub and it; the wrapping token was not used",
    )


def _tampered(what: str) -> AuthorityMisconfigured:
    return AuthorityMisconfigured(
        f"the wrapped secret_id is refused: {what}",
        reason="secret_id_tampered",
        remedy="unless the hub used it up itself (before a restart, in another signer process or replica, in"
        " `federation authority check`, for another address, or with an answer that was lost), another party has"
        " the secret_id: destroy it by its accessor and find out who. Deliver a new wrapped one",
    )


T = TypeVar("T")

REMEDIES: Final = {
    "token": "put another token there; it needs `read` on auth/token/lookup-self (the default policy has it)",
    "kubernetes": "compare the role's service account, namespace and audience with the hub's token, and see"
    " whether Vault may review tokens there",
    "approle": "deliver a new secret_id: this one is expired, used up, or bound to other addresses",
    "cert": "compare the certificate's names with the role's, and its issuer with the role's certificate; it needs a"
    " common name (SPIRE takes an entry's first DNS name), or log in by jwt",
    "jwt": "compare the role's bound claims and audience with the token, and its issuer with the method's",
}


async def login_body(auth: VaultAuth, credentials: OwnCredentials, wrapped: WrappedSecret) -> dict[str, str]:
    """What is sent to ``auth/<mount>/login``. Raises what reading a credential or unwrapping it raises."""
    match auth.method:
        case "kubernetes" | "jwt":
            return {"role": auth.role, "jwt": await credentials.jwt(_given(auth.jwt, "jwt", auth))}
        case "approle":
            role_id = await credentials.secret(_given(auth.role_id, "role_id", auth))
            return {"role_id": role_id, "secret_id": await secret_id(auth, credentials, wrapped)}
        case "cert":
            return {"name": auth.role} if auth.role else {}
        case "token":
            return {"token": await credentials.secret(_given(auth.token, "token", auth))}


async def secret_id(auth: VaultAuth, credentials: OwnCredentials, wrapped: WrappedSecret) -> str:
    """The secret_id that is there now. Raises as :func:`login_body` does."""
    delivered = await credentials.secret(_given(auth.secret_id, "secret_id", auth))
    return await wrapped.secret_id(delivered) if auth.secret_id_wrapped else delivered


def _given(value: T | None, key: str, auth: VaultAuth) -> T:
    if value is None:
        raise AuthorityMisconfigured(
            f"the method {auth.method} needs {key}", reason="credential_missing", remedy=f"set auth.{key}"
        )
    return value


LOOKUP_SELF: Final = "/v1/auth/token/lookup-self"
RENEW_SELF: Final = "/v1/auth/token/renew-self"


class _Auth(msgspec.Struct, frozen=True):
    client_token: str
    lease_duration: int
    renewable: bool = False


class _LoggedIn(msgspec.Struct, frozen=True):
    auth: _Auth


class _Self(msgspec.Struct, frozen=True):
    ttl: int
    creation_ttl: int = 0
    renewable: bool = False


class VaultLogin:
    """Keeps the token. ``look_every`` is the pause in seconds between two calls of :meth:`keep`."""

    def __init__(
        self,
        client: VaultClient,
        server: VaultServer,
        credentials: OwnCredentials,
        *,
        clock: Clock,
        jitter: random.Random,
        look_every: float,
    ) -> None:
        self._client = client
        self._auth = auth = server.auth
        self._credentials = credentials
        self._wrapped = WrappedSecret(client, server, auth)
        self._clock = clock
        self._jitter = jitter
        self._look_every = look_every
        self._given = auth.method == "token"
        self._mount = auth.mount.strip("/")
        self._lease: TokenLease | None = None
        self._under_way: asyncio.Task[TokenLease] | None = None

    async def lease(self) -> TokenLease:
        """A lease that has not ended; logs in where there is none.

        Raises AuthorityMisconfigured with the reason ``login_refused``, ``secret_id_tampered``, ``secret_id_lost``,
        ``not_found`` or ``credential_missing``, and what the client raises.
        """
        lease = self._lease
        if lease is not None and not lease.is_over(self._clock.monotonic()):
            return lease
        return await self._log_in_once()

    async def again(self, refused: TokenLease) -> TokenLease | None:
        """The lease to try instead of one that was refused; None where the login cannot be the reason."""
        if self._lease is refused:
            if refused.is_fresh(self._clock.monotonic()):
                return None
            self._lease = None
        return self._lease or await self._log_in_once()

    async def keep(self) -> tuple[str, ...]:
        """Log in, renew, or take up what was put in the credential's place; what goes wrong meanwhile, as warnings."""
        lease = await self.lease()
        odd = []
        for step in (self._take_up, self._prolong):
            try:
                lease = await step(lease)
            except (AuthorityError, AuthorityUnavailable) as error:
                now = self._clock.monotonic()
                if lease.is_over(now):
                    raise
                lasts = "has no end" if isinf(lease.ends) else f"ends in {lease.ends - now:.0f} s"
                odd.append(f"its login {lasts} and cannot be made anew: {error.diagnostics()}")
        now = self._clock.monotonic()
        if is_ending(lease, now):
            odd.append(
                f"its token ends in {lease.ends - now:.0f} s and cannot be renewed: put another one there"
            )
        return tuple(dict.fromkeys(odd))

    async def close(self) -> None:
        """Give up a login that is under way."""
        task = self._under_way
        self._lease = self._under_way = None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._wrapped.close()

    async def _take_up(self, lease: TokenLease) -> TokenLease:
        """The lease of the token that is given now; and what is in a new wrapping token, for that does not last."""
        if self._given and await self._other_token(lease):
            return await self._log_in_once()
        if self._auth.secret_id_wrapped:
            await secret_id(self._auth, self._credentials, self._wrapped)
        return lease

    async def _prolong(self, lease: TokenLease) -> TokenLease:
        """The lease, renewed or made anew where that is due before the next call."""
        if self._clock.monotonic() + self._look_every < lease.due:
            return lease
        renewed = await self._renew(lease) if lease.renewable else None
        if renewed is None or (is_capped(renewed) and not self._given):
            renewed = await self._log_in_once()
        if self._given and renewed.token == lease.token:
            renewed.for_good = is_capped(renewed)
        return renewed

    async def _log_in_once(self) -> TokenLease:
        """Wait for the login that is under way, or start one."""
        task = self._under_way
        if task is None or task.done():
            task = self._under_way = asyncio.create_task(self._log_in(), name="log in to Vault")
            task.add_done_callback(_retrieved)
        return await asyncio.shield(task)

    async def _log_in(self) -> TokenLease:
        body = await login_body(self._auth, self._credentials, self._wrapped)
        self._lease = await (self._adopt(body["token"]) if self._given else self._ask(body))
        _logger.info("logged in to Vault", extra={"method": self._auth.method, "mount": self._mount})
        return self._lease

    async def _ask(self, body: dict[str, str]) -> TokenLease:
        path = f"/v1/auth/{quote(self._mount)}/login"
        secrets = tuple(value for key, value in body.items() if key not in {"role", "name"})
        answer = await self._client.call("POST", path, body=body, hidden=secrets)
        self._accepted(answer)
        auth = answer.read(_LoggedIn, what=f"POST {path}").auth
        if not auth.client_token:
            raise self._refused("it asks for a second factor, which a machine does not have")
        return self._granted(auth)

    async def _adopt(self, token: str) -> TokenLease:
        """A token that was given: what is left of it."""
        answer = await self._client.call("GET", LOOKUP_SELF, token=token)
        self._accepted(answer)
        own = answer.data(_Self, what=f"GET {LOOKUP_SELF}")
        lease = granted(
            token,
            own.ttl,
            renewable=own.renewable,
            now=self._clock.monotonic(),
            jitter=self._jitter,
            full=own.creation_ttl if own.ttl > 0 else 0,
        )
        lease.for_good = not own.renewable
        return lease

    async def _renew(self, lease: TokenLease) -> TokenLease | None:
        """The renewed lease; None where Vault does not want to."""
        answer = await self._client.call("POST", RENEW_SELF, token=lease.token, body={})
        if not answer.ok:
            _logger.warning("Vault does not renew the login: %s", answer.why, extra={"mount": self._mount})
            return None
        self._lease = self._granted(answer.read(_LoggedIn, what=f"POST {RENEW_SELF}").auth, lease)
        return self._lease

    async def _other_token(self, lease: TokenLease) -> bool:
        """True where another token is configured now than the one in use."""
        body = await login_body(self._auth, self._credentials, self._wrapped)
        return body["token"] != lease.token

    def _granted(self, auth: _Auth, before: TokenLease | None = None) -> TokenLease:
        now = self._clock.monotonic()
        return granted(
            auth.client_token or (before.token if before is not None else ""),
            max(auth.lease_duration, 0),
            renewable=auth.renewable,
            now=now,
            jitter=self._jitter,
            before=before,
        )

    def _accepted(self, answer: VaultAnswer) -> None:
        if answer.ok:
            return
        if answer.status == 404 and answer.refusal is not None:
            raise AuthorityMisconfigured(
                f"there is no auth method at auth/{self._mount}: {answer.why}",
                reason="not_found",
                remedy="enable the method there, and check the mount and the namespace in the configuration",
            )
        raise self._refused(answer.why)

    def _refused(self, why: str) -> AuthorityMisconfigured:
        method = self._auth.method
        at = "" if method == "token" else f" at auth/{self._mount}"
        also = "" if method == "token" else f"; a method that is not enabled{at} is refused the same way"
        return AuthorityMisconfigured(
            f"the login by {method}{at} is refused: {why}",
            reason="login_refused",
            remedy=REMEDIES[method] + also,
        )


def _retrieved(task: asyncio.Task[TokenLease]) -> None:
    """Callers that waited have the reason why it failed; where none waits any more, the next one asks anew."""
    if not task.cancelled():
        task.exception()
