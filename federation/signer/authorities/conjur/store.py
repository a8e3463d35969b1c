"""Conjur's variables through its authn-jwt authenticator.

The JWT is read anew for every login. The access token is used for two thirds of its life, and is given up
at once where Conjur refuses it: then one more login is tried, and no more. Every read is a batch request,
also for one variable: only there can binary values be asked for, and several come out of one answer.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import quote, urlencode

from yarl import URL

from federation.clusters.tls import client_context
from federation.core.clock import Clock
from federation.core.config.authority_model import ConjurConfig
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable, InvalidValue
from federation.core.pki.pem import MAX_PEM_BYTES
from federation.files.reading import READ_TIMEOUT, read_bounded
from federation.signer.authorities.conjur.answers import (
    login_failure,
    read_failure,
    read_token,
    read_values,
)
from federation.signer.authorities.https import HttpAnswer, Outward
from federation.signer.authorities.own_credentials import OwnCredentials
from federation.signer.authorities.reading import read_in_time

USED_LIFE: Final = 2 / 3
"""How much of an access token's life is used, so that it does not end on the way."""

_CONNECTIONS: Final = 4
_BASE64: Final = {"Accept-Encoding": "base64"}


@dataclass(frozen=True, slots=True)
class _Login:
    """An access token, and when (by the monotonic clock) it is to be replaced."""

    encoded: str = field(repr=False)
    until: float


class Conjur:
    """Implements SecretStore. Closes the credentials it was given with itself."""

    def __init__(self, config: ConjurConfig, credentials: OwnCredentials, *, clock: Clock) -> None:
        self._config = config
        self._credentials = credentials
        self._clock = clock
        self._where = f"Conjur at {URL(config.url).host}"
        self._http = Outward(
            config.url,
            where=self._where,
            timeout=config.timeout,
            tls=lambda: self._tls,
            connections=_CONNECTIONS,
        )
        self._tls: ssl.SSLContext | None = None
        self._ca: bytes | None = None
        self._login: _Login | None = None
        self._logging_in = asyncio.Lock()

    async def read(self, name: str) -> bytes:
        """The value of that variable now. Raises as :meth:`read_together` does."""
        (value,) = await self.read_together(name)
        return value

    async def read_together(self, *names: str) -> tuple[bytes, ...]:
        """The values of these variables now, out of one request.

        Bounded in time. Raises AuthorityMisconfigured with the reason ``login_refused``,
        ``authenticator_not_found``, ``forbidden``, ``conjur_not_found``, ``variable_empty``,
        ``variable_name``, ``token_refused``, ``request_refused``, ``ca_file`` or those of
        :meth:`OwnCredentials.jwt`; AuthorityUnavailable with ``server_error``, ``garbage``, ``files_hang`` or
        those of :meth:`Outward.call`; AuthorityThrottled.
        """
        self._check(names)
        await self._load_ca()
        login = await self._logged_in()
        answer = await self._fetch(names, login)
        if answer.status == 401:  # expired early, or the host's rights were changed: once more, not for ever
            login = await self._logged_in(refused=login)
            answer = await self._fetch(names, login)
        if answer.status != 200:
            raise read_failure(answer, names, where=self._where, secret=login.encoded)
        return read_values(answer, [self._id(name) for name in names], where=self._where)

    async def close(self) -> None:
        """Forget the access token, close every connection and the credentials."""
        self._login = None
        await self._http.close()
        await self._credentials.close()

    def _id(self, name: str) -> str:
        return f"{self._config.account}:variable:{name}"

    def _check(self, names: tuple[str, ...]) -> None:
        """Refuse a name that a batch request cannot carry."""
        for name in names:
            if not name or "," in name:
                raise AuthorityMisconfigured(
                    f"{name!r} cannot be the name of a variable that is read",
                    where=self._where,
                    reason="variable_name",
                    remedy="give the variable a name without a comma, in full and without the account",
                )

    async def _fetch(self, names: tuple[str, ...], login: _Login) -> HttpAnswer:
        return await self._http.call(
            "GET",
            "/secrets",
            headers={"Authorization": f'Token token="{login.encoded}"', **_BASE64},
            # Each once: Conjur counts what it found against what was asked.
            params={"variable_ids": ",".join(dict.fromkeys(map(self._id, names)))},
        )

    async def _logged_in(self, refused: _Login | None = None) -> _Login:
        """A login that is good for a while, but not the one that was refused; one at a time is made.

        Bounded as a whole, so that nobody waits for the timeouts of others in a row.
        """
        limit = self._config.timeout + READ_TIMEOUT
        try:
            async with asyncio.timeout(limit), self._logging_in:
                held = self._login
                if held is None or held is refused or self._clock.monotonic() >= held.until:
                    self._login = None
                    held = self._login = await self._log_in()
                return held
        except TimeoutError:
            raise AuthorityUnavailable(
                f"no login within {limit:g} s",
                where=self._where,
                reason="timeout",
                remedy="check Conjur's load, and the network path to it",
            ) from None

    async def _log_in(self) -> _Login:
        config = self._config
        jwt = await self._credentials.jwt(config.jwt)
        asked = self._clock.monotonic()
        answer = await self._http.call(
            "POST",
            f"{self._login_path()}/authenticate",
            headers={"Content-Type": "application/x-www-form-urlencoded", **_BASE64},
            body=urlencode({"jwt": jwt}).encode("ascii"),
        )
        if answer.status != 200:
            raise login_failure(answer, where=self._where, authenticator=config.authenticator, jwt=jwt)
        token = read_token(answer.body, where=self._where)
        return _Login(token.encoded, asked + token.lifetime * USED_LIFE)

    def _login_path(self) -> str:
        config = self._config
        parts = ["authn-jwt", config.authenticator, config.account]
        if config.host:  # authn-jwt knows hosts only, which it wants to be called so
            parts.append(config.host if config.host.startswith("host/") else f"host/{config.host}")
        return "".join(f"/{quote(part, safe='')}" for part in parts)

    async def _load_ca(self) -> None:
        """Make the TLS context of ``ca_file`` as it is now; the old one stays while the file is the same."""
        if self._http.base.scheme != "https":
            return
        file = self._config.ca_file
        try:
            ca = None
            if file is not None:
                ca = await read_in_time(str(file), partial(read_bounded, file, MAX_PEM_BYTES))
            if self._tls is None or ca != self._ca:
                context = partial(client_context, authority=ca, where=str(file or ""))
                self._tls = await read_in_time(str(file or "the system's CAs"), context)
                self._ca = ca
        except OSError as error:
            raise self._bad_ca(f"cannot read {file}: {error.strerror}") from None
        except InvalidValue as error:
            raise self._bad_ca(str(error)) from None

    def _bad_ca(self, what: str) -> AuthorityMisconfigured:
        return AuthorityMisconfigured(
            what,
            where=self._where,
            reason="ca_file",
            remedy="put the CA of Conjur's own certificate at ca_file of [signer.conjur], as PEM",
        )
