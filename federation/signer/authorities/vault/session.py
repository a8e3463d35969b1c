"""Requests to Vault as the hub: health, login, and one new login after a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from federation.core.config.authority_model import RemoteAuthorityConfig, VaultServer
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable
from federation.signer.authorities.catalogue import Surroundings
from federation.signer.authorities.own_credentials import OwnCredentials
from federation.signer.authorities.vault.answers import NOT_VAULT, VaultAnswer
from federation.signer.authorities.vault.client import LEAST_TIME, VaultClient
from federation.signer.authorities.vault.health import judge_health
from federation.signer.authorities.vault.lease import Lease
from federation.signer.authorities.vault.login import Login

_CAPABILITIES: Final = {"GET": "read", "POST": "update"}


class Session:
    """One Vault for one authority. Closes the credentials with itself."""

    def __init__(
        self,
        config: RemoteAuthorityConfig,
        server: VaultServer,
        credentials: OwnCredentials,
        around: Surroundings,
    ) -> None:
        self._credentials = credentials
        self._clock = around.clock
        self._timeout = config.timeout
        self._prepared = False
        self._client = VaultClient(
            server,
            credentials,
            where=config.name,
            timeout=config.timeout,
            clock=around.clock,
            jitter=around.jitter,
        )
        self._login = Login(
            self._client,
            server,
            credentials,
            clock=around.clock,
            jitter=around.jitter,
            look_every=config.poll_seconds,
        )

    async def look(self) -> tuple[str, ...]:
        """Take up changed TLS files, judge the node's health and keep the login: what is odd, as warnings.

        Raises what :func:`judge_health`, :class:`Login` and the client raise.
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
        reason ``forbidden``, and what :class:`Login` and the client raise.
        """
        until = self._clock.monotonic() + self._timeout
        if not self._prepared:
            await self._prepare()

        async def attempt(lease: Lease) -> VaultAnswer:
            return await self._client.call(
                method,
                path,
                token=lease.token,
                body=body,
                timeout=max(until - self._clock.monotonic(), LEAST_TIME),
                may_issue=may_issue,
            )

        lease: Lease | None = None
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
        """Let go of the login, every connection and the credentials."""
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
