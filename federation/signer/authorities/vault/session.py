"""Requests to Vault as the hub: health, login, and one new login after a refusal.

What ``/sys/health`` says of one node (API documentation, "/sys/health"), and what it means for signing: a standby is
not down. It answers what it can by itself (473, and OpenBao with standby reads), forwards to the active node, or
answers 307 with that one's address. So it is a warning here, and an error only where a request finds no way
(``client.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

import msgspec

from federation.core.clock import Clock
from federation.core.config.authorities.settings import RemoteAuthorityConfig, VaultServer
from federation.core.errors import AuthorityMisconfigured, AuthorityThrottled, AuthorityUnavailable
from federation.core.pki.verification import CLOCK_TOLERANCE
from federation.signer.authorities.authority import BackEndContext
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.http import retry_after
from federation.signer.authorities.vault.client import (
    DR_SECONDARY,
    LEAST_TIME,
    NOT_VAULT,
    SEALED,
    UNINITIALISED,
    NodeState,
    VaultAnswer,
    VaultClient,
)
from federation.signer.authorities.vault.login import TokenLease, VaultLogin

_SYNCHRONISE: Final = "synchronise the clocks of Vault's machines and of the hub's"


_REMOVED: Final = NodeState(
    "vault_removed",
    "this node was removed from its cluster",
    "point the address at nodes that are members, or have this one join anew with empty storage",
)
_CUT_OFF: Final = NodeState(
    "vault_standby",
    "it is a standby that cannot reach the active node",
    "see whether the cluster has an active node, and whether its nodes reach each other's cluster_addr",
)


class _Health(msgspec.Struct, frozen=True):
    initialized: bool
    sealed: bool
    standby: bool
    server_time_utc: int = 0
    version: str = ""


def judge_health(answer: VaultAnswer, *, clock: Clock) -> tuple[str, ...]:
    """What is odd about a node that can be used, as warnings.

    Raises AuthorityUnavailable with the reason ``vault_sealed``, ``vault_uninitialised``, ``vault_standby``,
    ``vault_removed``, ``dr_secondary``, ``server_error`` or ``garbage``, AuthorityThrottled, and
    AuthorityMisconfigured (``clock_skew``) where leaves would end later than they were asked for.
    """
    health = _read(answer, clock)
    state = _unusable(answer.status, health)
    if state is not None:
        raise state.error()
    warnings = []
    if health.standby:
        warnings.append("the address reaches a standby node, which may lag behind the active one")
    skew = _ahead(health.server_time_utc, clock)
    if skew > CLOCK_TOLERANCE:
        raise AuthorityMisconfigured(
            f"its clock is {skew.total_seconds():.0f} s ahead: leaves would end later than asked for",
            reason="clock_skew",
            remedy=_SYNCHRONISE,
        )
    if skew < -CLOCK_TOLERANCE:
        warnings.append(f"its clock is {-skew.total_seconds():.0f} s behind: {_SYNCHRONISE}")
    return tuple(warnings)


def _unusable(status: int, health: _Health) -> NodeState | None:
    """Why this node can do nothing for us; None where it, or the one that it forwards to, can."""
    if status == 472:
        return DR_SECONDARY
    if status == 530:
        return _REMOVED
    if status == 501 or not health.initialized:
        return UNINITIALISED
    if status == 503 or health.sealed:
        return SEALED
    return _CUT_OFF if status == 474 else None


def _read(answer: VaultAnswer, clock: Clock) -> _Health:
    if answer.status not in {200, 429, 472, 473, 474, 501, 503, 530}:
        raise AuthorityUnavailable(
            f"its health is answered with {answer.why}",
            reason="server_error" if answer.status >= 500 else "garbage",
            remedy=NOT_VAULT,
        )
    try:
        return answer.read(_Health, what="GET /v1/sys/health")
    except AuthorityUnavailable:
        if answer.status == 429:
            after = retry_after(answer.headers.get("Retry-After", ""), clock)
            raise AuthorityThrottled(f"its health is answered with {answer.why}", retry_after=after) from None
        raise


def _ahead(server_time: int, clock: Clock) -> timedelta:
    """How far its clock is ahead of ours, to about a second; nothing where it does not say."""
    try:
        return datetime.fromtimestamp(server_time, UTC) - clock.now() if server_time > 0 else timedelta(0)
    except (OverflowError, OSError, ValueError):
        return timedelta(0)


_CAPABILITIES: Final = {"GET": "read", "POST": "update"}


class VaultSession:
    """One Vault for one authority. Closes the credentials with itself."""

    def __init__(
        self,
        config: RemoteAuthorityConfig,
        server: VaultServer,
        credentials: OwnCredentials,
        context: BackEndContext,
    ) -> None:
        self._credentials = credentials
        self._clock = context.clock
        self._timeout = config.timeout
        self._prepared = False
        self._client = VaultClient(
            server,
            credentials,
            where=config.name,
            timeout=config.timeout,
            clock=context.clock,
            jitter=context.jitter,
        )
        self._login = VaultLogin(
            self._client,
            server,
            credentials,
            clock=context.clock,
            jitter=context.jitter,
            look_every=config.poll_seconds,
        )

    async def poll(self) -> tuple[str, ...]:
        """Take up changed TLS files, judge the node's health and keep the login: what is odd, as warnings.

        Raises what :func:`judge_health`, :class:`VaultLogin` and the client raise.
        """
        files = await self._prepare()
        standing = judge_health(await self._client.health(), clock=self._clock)
        return files + standing + await self._login.keep()

    async def public(self, path: str) -> VaultAnswer:
        """The answer to a GET that needs no token, with a status that says something about the path."""
        return await self._client.call("GET", path)

    async def ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, may_issue: bool = False
    ) -> VaultAnswer:
        """The answer to a request with the token, within the timeout, a new login included.

        A 403 is answered by one new login and one more attempt. Raises AuthorityMisconfigured with the
        reason ``forbidden``, and what :class:`VaultLogin` and the client raise.
        """
        until = self._clock.monotonic() + self._timeout
        if not self._prepared:
            await self._prepare()

        async def attempt(lease: TokenLease) -> VaultAnswer:
            return await self._client.call(
                method,
                path,
                token=lease.token,
                body=body,
                timeout=max(until - self._clock.monotonic(), LEAST_TIME),
                may_issue=may_issue,
            )

        lease: TokenLease | None = None
        try:
            async with asyncio.timeout(self._timeout):
                lease = await self._login.lease()
        except TimeoutError:
            raise self._slow_login() from None
        answer = await attempt(lease)
        if answer.status == 403:
            try:
                async with asyncio.timeout(max(until - self._clock.monotonic(), LEAST_TIME)):
                    lease = await self._login.again(lease)
            except TimeoutError:
                raise self._slow_login() from None
            if lease is not None:
                answer = await attempt(lease)
        if answer.status == 403 or lease is None:
            raise forbidden(method, path, answer)
        lease.worked = lease.worked or answer.ok
        return answer

    async def close(self) -> None:
        """Close the login, every connection and the credentials."""
        await self._login.close()
        await self._client.close()
        await self._credentials.close()

    async def _prepare(self) -> tuple[str, ...]:
        odd = await self._client.refresh()
        self._prepared = True
        return odd

    def _slow_login(self) -> AuthorityUnavailable:
        return AuthorityUnavailable(
            f"the login took over {self._timeout:g} s",
            reason="timeout",
            remedy="look at Vault's load, and at what its auth method asks in turn (an API server, an issuer)",
        )


def api_path(*parts: str) -> str:
    """A path below ``/v1/`` of these parts, each of which may be a path itself."""
    return "/v1/" + "/".join(quote(part.strip("/"), safe="/") for part in parts)


def forbidden(method: str, path: str, answer: VaultAnswer) -> AuthorityMisconfigured:
    """The token is good, but its policies do not grant this."""
    capability = _CAPABILITIES.get(method, "update")
    return AuthorityMisconfigured(
        f"{method} {path} is not allowed: {answer.why}",
        reason="forbidden",
        remedy=f'give the hub\'s policy: path "{path.removeprefix("/v1/")}" {{ capabilities = ["{capability}"] }}',
    )


def unexpected(method: str, path: str, answer: VaultAnswer) -> AuthorityUnavailable:
    """An answer that Vault's API does not know for this request."""
    return AuthorityUnavailable(f"{method} {path}: {answer.why}", reason="garbage", remedy=NOT_VAULT)
