"""CyberArk Conjur: a store of secrets, and an intermediate whose chain and key are two of its variables.

Variables are read through its authn-jwt authenticator. The JWT is read anew for every login. The access token is used
for two thirds of its life, and is given up at once where Conjur refuses it: then one more login is tried, and no
more. Every read is a batch request, also for one variable: only there can binary values be asked for, and several
come out of one answer. The pair is kept in memory only, and read anew.

Answers are values and typed errors (Conjur's REST API: "Authenticate", "Batch retrieve"), pure. Nothing of a token or
of a variable's value is ever part of an error; what Conjur says of a failure is shown cut and made harmless.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from yarl import URL

from federation.core.clock import Clock
from federation.core.config.authorities.settings import ConjurAuthorityConfig, ConjurConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityThrottled,
    AuthorityUnavailable,
)
from federation.files import READ_TIMEOUT
from federation.kubernetes.answers import harmless
from federation.signer.authorities.authority import KeyPair
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.http import HttpAnswer, Outward, TransportSecurity, retry_after
from federation.signer.authorities.hub_built import pair_in_memory

DEFAULT_LIFETIME: Final = 480.0
"""Seconds an access token lives where it does not say: Conjur's default of eight minutes."""

LONGEST_LIFETIME: Final = 5 * 3600.0
"""Seconds: the most that Conjur's ``host_authorization_token_ttl`` can give."""

_SOMETHING_ELSE: Final = (
    "something other than Conjur answers at that address: check url, proxies and gateways"
)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token as it is sent in the ``Authorization`` header, and for how many seconds it is good."""

    encoded: str = field(repr=False)
    lifetime: float


class _Token(msgspec.Struct, frozen=True):
    """A JWS in its flattened JSON form (RFC 7515, 7.2.2)."""

    protected: str
    payload: str
    signature: str


class _Claims(msgspec.Struct, frozen=True):
    iat: float | None = None
    exp: float | None = None


class _Failure(msgspec.Struct, frozen=True):
    message: str = ""


class _Failed(msgspec.Struct, frozen=True):
    error: _Failure


_token = msgspec.json.Decoder(_Token)
_claims = msgspec.json.Decoder(_Claims)
_failed = msgspec.json.Decoder(_Failed)
_values = msgspec.json.Decoder(dict[str, str])


def read_token(body: bytes, *, where: str) -> AccessToken:
    """The access token of a successful login.

    It comes in base64, as was requested, or bare where a gateway on the way took that header out of the
    request. Raises AuthorityUnavailable (``garbage``).
    """
    try:
        bare = body if body.lstrip().startswith(b"{") else binascii.a2b_base64(body.strip(), strict_mode=True)
        token = _token.decode(bare)
    except (msgspec.MsgspecError, ValueError):
        raise _garbage("its answer to the login is not an access token", where) from None
    return AccessToken(base64.b64encode(bare).decode("ascii"), _lifetime(token.payload))


def _lifetime(payload: str) -> float:
    """Seconds between its own two dates, so that clocks that differ do no harm."""
    try:
        claims = _claims.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (msgspec.MsgspecError, ValueError):
        return DEFAULT_LIFETIME
    if claims.iat is None or claims.exp is None:
        return DEFAULT_LIFETIME
    return min(max(claims.exp - claims.iat, 0.0), LONGEST_LIFETIME)


def read_values(answer: HttpAnswer, ids: Sequence[str], *, where: str) -> tuple[bytes, ...]:
    """The values of these variables (full IDs), in their order.

    Raises AuthorityUnavailable (``garbage``), or AuthorityMisconfigured (``variable_empty``).
    """
    encoded = answer.headers.get("Content-Encoding", "").strip().lower() == "base64"
    try:
        texts = _values.decode(answer.body)
        values = tuple(_decode(texts[each]) if encoded else texts[each].encode() for each in ids)
    except (msgspec.MsgspecError, KeyError, ValueError):
        raise _garbage("its answer does not hold the variables that were asked for", where) from None
    for each, value in zip(ids, values, strict=True):
        if not value.strip():
            raise AuthorityMisconfigured(
                f"the variable {each} holds nothing but white space",
                where=where,
                reason="variable_empty",
                remedy="set its value",
            )
    return values


def _decode(text: str) -> bytes:
    """Base64 with line ends in between, as Conjur writes it (RFC 2045)."""
    return binascii.a2b_base64(text.replace("\n", "").replace("\r", ""), strict_mode=True)


def login_failure(
    answer: HttpAnswer, *, where: str, authenticator: str, jwt: str, clock: Clock
) -> AuthorityError | AuthorityUnavailable:
    """What an answer other than 200 to a login means, as an error; ``jwt`` is kept out of it."""
    said = _said(answer.body, secret=jwt)
    match answer.status:
        case 400 | 401:
            return AuthorityMisconfigured(
                f"it refuses the login through authn-jwt/{authenticator}{said}",
                where=where,
                reason="login_refused",
                remedy="check the JWT's issuer, audience and age against the authenticator's variables, that the"
                " authenticator is enabled, and that the host exists with the annotations the JWT meets;"
                " Conjur's log names the cause",
            )
        case 403:
            return AuthorityMisconfigured(
                f"our host may not use authn-jwt/{authenticator}{said}",
                where=where,
                reason="forbidden",
                remedy="make the host a member of the authenticator's group of hosts (authenticate on its"
                " webservice)",
            )
        case 404:
            return AuthorityMisconfigured(
                f"there is no authn-jwt/{authenticator}{said}",
                where=where,
                reason="authenticator_not_found",
                remedy="check url, account and authenticator of [signer.conjur]",
            )
        case _:
            return _other_failure(answer, "the login", said, where, clock)


def read_failure(
    answer: HttpAnswer, names: Sequence[str], *, where: str, secret: str, clock: Clock
) -> AuthorityError | AuthorityUnavailable:
    """What an answer other than 200 to a read means, as an error; ``secret`` is kept out of it."""
    said = _said(answer.body, secret=secret)
    asked = ", ".join(names)
    match answer.status:
        case 401:
            return AuthorityMisconfigured(
                f"it refuses the access token that it has just given{said}",
                where=where,
                reason="token_refused",
                remedy="check the clocks of Conjur's nodes, that followers keep up with the leader, and"
                " host_authorization_token_ttl",
            )
        case 403:
            return AuthorityMisconfigured(
                f"our host may not read {asked}{said}",
                where=where,
                reason="forbidden",
                remedy="permit the host read and execute on these variables, and check what restricts its"
                " address (restricted_to)",
            )
        case 404:
            return AuthorityMisconfigured(
                f"{asked}: not there, without a value, or our host has no permission to see it{said}",
                where=where,
                reason="conjur_not_found",
                remedy="check the names and the account, set a value, and permit the host read and execute;"
                " Conjur's audit log shows which it is",
            )
        case _:
            return _other_failure(answer, f"reading {asked}", said, where, clock)


def _other_failure(
    answer: HttpAnswer, what: str, said: str, where: str, clock: Clock
) -> AuthorityError | AuthorityUnavailable:
    status = answer.status
    if status == 429:
        return AuthorityThrottled(
            f"it asks for fewer requests ({what})",
            where=where,
            remedy="raise signer.conjur.poll, or have the limit in front of Conjur raised",
            retry_after=retry_after(answer.headers.get("Retry-After", ""), clock),
        )
    if 500 <= status <= 599:
        return AuthorityUnavailable(
            f"{what} failed there: {status}{said}",
            where=where,
            reason="server_error",
            remedy="look at Conjur's health and log, and at what is in front of it; the hub keeps trying",
        )
    if 400 <= status <= 499:
        return AuthorityMisconfigured(
            f"it refuses {what}: {status}{said}",
            where=where,
            reason="request_refused",
            remedy="check the names of the variables and the account; is it Conjur 1.12 or later?",
        )
    return _garbage(f"it answered {what} with status {status}", where)


def _garbage(what: str, where: str) -> AuthorityUnavailable:
    return AuthorityUnavailable(what, where=where, reason="garbage", remedy=_SOMETHING_ELSE)


def _said(body: bytes, *, secret: str) -> str:
    """What Conjur's error says, as a tail for a sentence; nothing where it is not in Conjur's form."""
    try:
        message = _failed.decode(body).error.message
    except (msgspec.MsgspecError, UnicodeError):
        return ""
    return f": {harmless(message, secret=secret)}" if message else ""


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
            tls=lambda: self._security.context,
            connections=_CONNECTIONS,
        )
        self._security = TransportSecurity(
            config.url,
            config.ca_file,
            reason="ca_file",
            unreadable="ca_file",
            remedy="put the CA of Conjur's own certificate at ca_file of [signer.conjur], as PEM",
        )
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
        await self._load_tls()
        login = await self._logged_in()
        answer = await self._fetch(names, login)
        if answer.status == 401:  # expired early, or the host's rights were changed: once more, not for ever
            login = await self._logged_in(refused=login)
            answer = await self._fetch(names, login)
        if answer.status != 200:
            raise read_failure(answer, names, where=self._where, secret=login.encoded, clock=self._clock)
        return read_values(answer, [self._id(name) for name in names], where=self._where)

    async def _load_tls(self) -> None:
        try:
            await self._security.load()
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._where
            raise

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

        Bounded as a whole, so that no caller waits for the timeouts of others in a row.
        """
        limit = self._config.timeout + READ_TIMEOUT
        try:
            async with asyncio.timeout(limit), self._logging_in:
                login = self._login
                if login is None or login is refused or self._clock.monotonic() >= login.until:
                    self._login = None
                    login = self._login = await self._log_in()
                return login
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
            raise login_failure(
                answer, where=self._where, authenticator=config.authenticator, jwt=jwt, clock=self._clock
            )
        token = read_token(answer.body, where=self._where)
        return _Login(token.encoded, asked + token.lifetime * USED_LIFE)

    def _login_path(self) -> str:
        config = self._config
        parts = ["authn-jwt", config.authenticator, config.account]
        if config.host:  # authn-jwt knows hosts only, which it wants to be called so
            parts.append(config.host if config.host.startswith("host/") else f"host/{config.host}")
        return "".join(f"/{quote(part, safe='')}" for part in parts)


class PairOfVariables:
    """Implements PairSource.

    Both variables come out of one request, so a rotation of both is seen together, or between its two writes
    as a key that is not the certificate's, which is never taken up.
    """

    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        config: ConjurAuthorityConfig,
        conjur: ConjurConfig,
        credentials: OwnCredentials,
        *,
        clock: Clock,
    ) -> None:
        self._config = config
        self._conjur = Conjur(conjur, credentials, clock=clock)
        self._read: tuple[bytes, ...] | None = None
        self._pair: KeyPair | None = None

    async def read(self) -> KeyPair:
        """What both variables hold now. Raises as :meth:`Conjur.read_together` does, or ``variable_invalid``."""
        config = self._config
        read = await self._conjur.read_together(config.chain_variable, config.key_variable)
        if self._pair is None or read != self._read:
            self._pair = await asyncio.to_thread(self._parse, *read)  # checking an RSA key takes long
            self._read = read
        return self._pair

    async def close(self) -> None:
        """Forget the key, and close Conjur and the credentials."""
        self._read = self._pair = None
        await self._conjur.close()

    def _parse(self, chain: bytes, key: bytes) -> KeyPair:
        config = self._config
        try:
            return pair_in_memory(
                chain,
                key,
                chain_at=f"the variable {config.chain_variable}",
                key_at=f"the variable {config.key_variable}",
            )
        except AuthorityMisconfigured as error:
            raise AuthorityMisconfigured(
                error.what,
                reason="variable_invalid",
                remedy=error.remedy or "put the chain (intermediate first) and its key there, both as PEM",
            ) from None
