"""Callers with tokens of an OIDC issuer (OpenID Connect Core 1.0, Discovery 1.0; RFC 7519, RFC 8725).

The issuer's document and keys are fetched when a token first needs them, and again for a key that is not known, at most
once in :data:`PAUSE` seconds; for so long a new key may be refused. Keys serve for :data:`KEPT` seconds after the last
fetch that succeeded, then nothing is known. Nothing but the configured issuer is ever asked: no address in a token is.

Algorithms are those of the key: RSA PKCS#1 and ECDSA. ``none``, HMAC and encrypted tokens are refused. ``exp``,
``iss``, ``aud`` and the claim of the name have to be there; ``nbf`` counts where it is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import jwt
import msgspec

from federation.core.clock import Clock
from federation.core.config.hub import OidcCallersConfig
from federation.core.config.types import is_loopback
from federation.core.errors import InvalidValue, Unavailable
from federation.core.jwks import MAX_DOCUMENT_BYTES, KeySet, TokenKey, parse_key_set
from federation.files import read_in_time
from federation.status.callers import MOST_NAME, StatusCaller, has_audience
from federation.status.routes import Right

DISCOVERY: Final = "/.well-known/openid-configuration"
TIMEOUT: Final = 5.0  # seconds of each of two requests
PAUSE: Final = 30.0  # seconds between two fetches
FRESH: Final = 600.0  # seconds until keys are fetched anew while they serve: an issuer may have withdrawn one
KEPT: Final = 3600.0
TYPES: Final = frozenset(
    {"jwt", "at+jwt", "application/at+jwt"}
)  # not of tokens for other ends (RFC 8725, 3.11)
LEEWAY: Final = 30.0  # seconds that clocks may differ


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class OidcCallers:
    """Verifies tokens of the issuer that ``config`` names now; of none where it is None.

    So what is taken out of the configuration, the issuer or one who operates, counts at the next request.
    """

    def __init__(self, config: Callable[[], OidcCallersConfig | None], clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._source: tuple[str, Path | None] = ("", None)
        self._keys: KeySet | None = None
        self._fetched = 0.0
        self._tried = float("-inf")
        self._failure = ""
        self._fetching = asyncio.Lock()

    def takes(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token claims to be of the issuer, for the hub."""
        config = self._config()
        return (
            config is not None
            and claims.get("iss") == config.issuer
            and has_audience(claims, config.audience)
        )

    def remembers(self, token: str) -> bool:  # noqa: ARG002  # verifying costs a signature and no call
        """Verifying is cheap."""
        return True

    async def caller(self, token: str) -> StatusCaller | None:
        """Who that is, and what they may do. Raises Unavailable where the issuer's keys are not known."""
        config = self._config()
        if config is None:
            return None
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        kid = header.get("kid")
        kind = header.get("typ", "JWT")
        if not isinstance(kid, str) or not isinstance(kind, str) or kind.lower() not in TYPES:
            return None
        key = await self._key(kid, config)
        if key is None:
            return None
        claims = self._verified(token, key, config)
        return None if claims is None else _caller_of(claims, config)

    def _verified(self, token: str, key: TokenKey, config: OidcCallersConfig) -> dict[str, Any] | None:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.public_key,
                algorithms=sorted(key.algorithms),
                audience=config.audience,
                issuer=config.issuer,
                options={
                    "require": ["exp", "iss", "aud", config.name_claim],
                    "verify_exp": False,  # by the hub's own clock, below
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        now = self._clock.now().timestamp()
        ends, begins = claims["exp"], claims.get("nbf", 0)
        if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in (ends, begins)):
            return None
        return claims if now < ends + LEEWAY and now >= begins - LEEWAY else None

    async def _key(self, kid: str, config: OidcCallersConfig) -> TokenKey | None:
        """The issuer's key of that name. Raises Unavailable where no keys are known that may still be used."""
        source = config.issuer, config.ca_file
        if source != self._source:  # the keys of another issuer are good for nothing
            self._source, self._keys, self._tried = source, None, float("-inf")
        age = self._clock.monotonic() - self._fetched
        if self._keys is None or kid not in self._keys or age > FRESH:
            await self._refresh(config)
        if self._source != source:
            return None  # the configuration was changed meanwhile
        if self._keys is None or self._clock.monotonic() - self._fetched > KEPT:
            raise Unavailable(
                f"the keys of the issuer are not known: {self._failure}",
                where="status.oidc",
                remedy="check issuer and ca_file, and whether the hub reaches it",
                reason="issuer",
            )
        return self._keys.get(kid)

    async def _refresh(self, config: OidcCallersConfig) -> None:
        async with self._fetching:  # those who ask meanwhile share the result
            if self._clock.monotonic() - self._tried < PAUSE:
                return
            self._tried = self._clock.monotonic()
            try:
                keys = await _fetch(config)
                if (config.issuer, config.ca_file) != self._source:
                    return
                self._keys = keys
                self._fetched = self._clock.monotonic()
                self._failure = ""
            except InvalidValue as error:
                self._failure = error.what
            except TimeoutError:
                self._failure = f"no answer within {TIMEOUT:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self._failure = str(error)[:200] or type(error).__name__


async def _fetch(config: OidcCallersConfig) -> KeySet:
    issuer = config.issuer
    context = await read_in_time(str(config.ca_file or ""), partial(_tls, config.ca_file))
    limit = aiohttp.ClientTimeout(total=TIMEOUT)
    connector = aiohttp.TCPConnector(ssl=context, limit=1)
    async with aiohttp.ClientSession(
        connector=connector, timeout=limit, trust_env=False, auto_decompress=False
    ) as session:
        body = await _get(session, issuer.rstrip("/") + DISCOVERY)
        try:
            found = msgspec.json.decode(body, type=_Discovery)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise InvalidValue("its discovery document cannot be read", where=issuer) from None
        if found.issuer != issuer:
            raise InvalidValue("its discovery document names another issuer", where=issuer)
        _check_keys_address(found.jwks_uri, issuer)
        return parse_key_set(await _get(session, found.jwks_uri), where=issuer)


def _caller_of(claims: Mapping[str, Any], config: OidcCallersConfig) -> StatusCaller | None:
    name = claims[config.name_claim]
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or not name.isprintable():
        return None
    given = claims.get(config.rights_claim)
    values = {each for each in (given if isinstance(given, list) else [given]) if isinstance(each, str)}
    right = None
    if values & set(config.operate):
        right = Right.OPERATE
    elif values & set(config.read):
        right = Right.READ
    return StatusCaller(name=name, kind="oidc", right=right)


def _check_keys_address(address: str, issuer: str) -> None:
    """https, or http on this machine where the issuer itself is that. Raises InvalidValue."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    plain = parts.scheme == "http" and issuer.startswith("http:") and is_loopback(host)
    if not host or "@" in parts.netloc or not (parts.scheme == "https" or plain):
        raise InvalidValue("its discovery document names no https address of its keys", where=issuer)


async def _get(session: aiohttp.ClientSession, address: str) -> bytes:
    """A body of at most MAX_DOCUMENT_BYTES. Raises what aiohttp does, TimeoutError, and InvalidValue."""
    async with session.get(
        address, allow_redirects=False, headers={"Accept": "application/json", "Accept-Encoding": "identity"}
    ) as response:
        if response.status != 200:
            raise InvalidValue(f"it answered {response.status}", where=address)
        body = bytearray()
        async for chunk in response.content.iter_chunked(16384):
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise InvalidValue(f"its answer is longer than {MAX_DOCUMENT_BYTES} bytes", where=address)
        return bytes(body)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
