"""The hub's token at Vault: logged in for, renewed at about two thirds of its lease, and logged in for again.

A renewal that the token's longest life cuts short, or that is refused, means a new login. As long as the
token of now is good, a failure of either is a warning. One login is under way at a time and shared by all
who wait for it; a caller that gives up does not take it along, for a wrapped secret can be used only once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from math import isinf
from typing import Final
from urllib.parse import quote

import msgspec

from federation.core.clock import Clock
from federation.core.config.authority_model import VaultServer
from federation.core.errors import AuthorityError, AuthorityMisconfigured, AuthorityUnavailable
from federation.signer.authorities.own_credentials import OwnCredentials
from federation.signer.authorities.vault.answers import VaultAnswer
from federation.signer.authorities.vault.client import VaultClient
from federation.signer.authorities.vault.lease import Lease, granted, is_capped, is_ending
from federation.signer.authorities.vault.methods import REMEDIES, login_body, secret_id
from federation.signer.authorities.vault.wrapping import WrappedSecret

LOOKUP_SELF: Final = "/v1/auth/token/lookup-self"
RENEW_SELF: Final = "/v1/auth/token/renew-self"

_logger = logging.getLogger(__name__)


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


class _LookedUp(msgspec.Struct, frozen=True):
    data: _Self


class Login:
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
        self._lease: Lease | None = None
        self._under_way: asyncio.Task[Lease] | None = None

    async def lease(self) -> Lease:
        """A lease that has not ended; logs in where there is none.

        Raises AuthorityMisconfigured with the reason ``login_refused``, ``secret_id_tampered``, ``secret_id_lost``,
        ``not_found`` or ``credential_missing``, and what the client raises.
        """
        lease = self._lease
        if lease is not None and not lease.is_over(self._clock.monotonic()):
            return lease
        return await self._log_in_once()

    async def again(self, refused: Lease) -> Lease | None:
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
            odd.append(f"its token ends in {lease.ends - now:.0f} s for good: put another one there")
        return tuple(dict.fromkeys(odd))

    async def close(self) -> None:
        """Give up a login that is under way."""
        task = self._under_way
        self._lease = self._under_way = None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._wrapped.close()

    async def _take_up(self, lease: Lease) -> Lease:
        """The lease of the token that is given now; and what is in a new wrapping token, for that does not last."""
        if self._given and await self._other_token(lease):
            return await self._log_in_once()
        if self._auth.secret_id_wrapped:
            await secret_id(self._auth, self._credentials, self._wrapped)
        return lease

    async def _prolong(self, lease: Lease) -> Lease:
        """The lease, renewed or made anew where that is due before the next call."""
        if self._clock.monotonic() + self._look_every < lease.due:
            return lease
        renewed = await self._renew(lease) if lease.renewable else None
        if renewed is None or (is_capped(renewed) and not self._given):
            renewed = await self._log_in_once()
        if self._given and renewed.token == lease.token:
            renewed.for_good = is_capped(renewed)
        return renewed

    async def _log_in_once(self) -> Lease:
        """Wait for the login that is under way, or start one."""
        task = self._under_way
        if task is None or task.done():
            task = self._under_way = asyncio.create_task(self._log_in(), name="log in to Vault")
            task.add_done_callback(_told)
        return await asyncio.shield(task)

    async def _log_in(self) -> Lease:
        body = await login_body(self._auth, self._credentials, self._wrapped)
        self._lease = await (self._adopt(body["token"]) if self._given else self._ask(body))
        _logger.info("logged in to Vault", extra={"method": self._auth.method, "mount": self._mount})
        return self._lease

    async def _ask(self, body: dict[str, str]) -> Lease:
        path = f"/v1/auth/{quote(self._mount)}/login"
        secrets = tuple(value for key, value in body.items() if key not in {"role", "name"})
        answer = await self._client.call("POST", path, body=body, hidden=secrets)
        self._accepted(answer)
        auth = answer.read(_LoggedIn, what=f"POST {path}").auth
        if not auth.client_token:
            raise self._refused("it asks for a second factor, which a machine does not have")
        return self._granted(auth)

    async def _adopt(self, token: str) -> Lease:
        """A token that was given: what is left of it."""
        answer = await self._client.call("GET", LOOKUP_SELF, token=token)
        self._accepted(answer)
        own = answer.read(_LookedUp, what=f"GET {LOOKUP_SELF}").data
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

    async def _renew(self, lease: Lease) -> Lease | None:
        """The renewed lease; None where Vault does not want to."""
        answer = await self._client.call("POST", RENEW_SELF, token=lease.token, body={})
        if not answer.ok:
            _logger.warning("Vault does not renew the login: %s", answer.why, extra={"mount": self._mount})
            return None
        self._lease = self._granted(answer.read(_LoggedIn, what=f"POST {RENEW_SELF}").auth, lease)
        return self._lease

    async def _other_token(self, lease: Lease) -> bool:
        """True where another token is configured now than the one in use."""
        body = await login_body(self._auth, self._credentials, self._wrapped)
        return body["token"] != lease.token

    def _granted(self, auth: _Auth, before: Lease | None = None) -> Lease:
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


def _told(task: asyncio.Task[Lease]) -> None:
    """Whoever waited has been told why it failed; where nobody waits any more, the next one asks anew."""
    if not task.cancelled():
        task.exception()
