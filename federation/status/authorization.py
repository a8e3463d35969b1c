"""Who may read the status and who may operate: callers with a credential, else those on this machine.

Bearer tokens are tried in turn: the two of files, one that reads and one that operates, which are read here and judged
whether they are fit; those known by digest; then tokens of Kubernetes and of an OIDC issuer
(:mod:`federation.status.callers`). Whether a token can be guessed is estimated by what it is made of (pure).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import os
import stat
import string
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from federation.core.call_slots import address_of
from federation.core.clock import Clock
from federation.core.config.hub import StatusConfig
from federation.core.config.types import is_loopback
from federation.core.errors import ConfigurationError, InvalidValue, Mistake, Unavailable
from federation.files import read_in_time
from federation.status.answers import Handler, peer_of, problem, too_many
from federation.status.callers import Authenticator, Kind, StatusCaller, unverified_claims
from federation.status.rate_limits import RateLimiter
from federation.status.routes import Right
from federation.status.view import ConfigStatus

_logger = logging.getLogger(__name__)

LEAST_BITS: Final = 128
"""What a token must be worth at the least, as one of 16 random bytes is (NIST SP 800-63B asks for 112 of a secret that
is looked up)."""

LEAST_DISTINCT: Final = 10
"""Different characters. 32 random hex digits have fewer once in some millions."""

MAKE: Final = "make one with `openssl rand -hex 32`"

_LOWER: Final = frozenset(string.ascii_lowercase)
_UPPER: Final = frozenset(string.ascii_uppercase)
_DIGITS: Final = frozenset(string.digits)
_ALPHABETS: Final = (
    _DIGITS,
    frozenset("0123456789abcdef"),
    frozenset("0123456789ABCDEF"),
    _LOWER,
    _UPPER | frozenset("234567"),  # base32, of which one in 200 tokens of 16 bytes has no digit
    _LOWER | _DIGITS,
    _UPPER | _DIGITS,
    _LOWER | _UPPER | _DIGITS | frozenset("+/=-_"),  # base64, of which one in 100 has letters alone
    frozenset(map(chr, range(0x21, 0x7F))),
)


def weakness(token: bytes) -> str:
    """Why the token must not be used, without saying anything of its content; empty where it may.

    The estimate is length times the bits of the smallest usual alphabet that holds all its characters. That is
    right for a random token, and too high for words, which is why few different characters or a repeated part are
    weak as well.
    """
    try:
        text = token.decode("ascii")
    except UnicodeDecodeError:
        return "it is not ASCII"
    if not text:
        return "it is empty"
    used = frozenset(text)
    alphabet = next((a for a in _ALPHABETS if used <= a), None)
    if alphabet is None:
        return "it holds spaces or control characters"
    bits = len(text) * math.log2(len(alphabet))
    if bits < LEAST_BITS:
        return f"its {len(text)} characters are worth {bits:.0f} bits at most, and {LEAST_BITS} are needed"
    if len(used) < LEAST_DISTINCT:
        return f"it holds only {len(used)} different characters"
    if text in (text + text)[1:-1]:
        return "it repeats a part of itself"
    return ""


MOST_TOKEN_BYTES: Final = 4096
TIMEOUT: Final = 2.0  # seconds for a token to be read
READ_KEY: Final = "status.read_token_file"
OPERATE_KEY: Final = "status.operate_token_file"


def read_token(file: Path) -> bytes:
    """The token in that file. It blocks.

    Raises OSError where it cannot be read, InvalidValue where it is weak, or where others than its owner and group
    may read it, or others than its owner may write it.
    """
    with file.open("rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        token = opened.read(MOST_TOKEN_BYTES + 1).strip()
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        who = "read" if mode & stat.S_IROTH else "write"
        raise InvalidValue(
            f"every user of the machine may {who} it (mode {stat.S_IMODE(mode):04o})"
            if mode & stat.S_IRWXO
            else f"its group may write it (mode {stat.S_IMODE(mode):04o})",
            where=str(file),
            remedy="chmod 0600 it, or 0440 for a group that reads it; in a pod, defaultMode: 0440 of the volume",
        )
    if len(token) > MOST_TOKEN_BYTES:
        raise InvalidValue(f"it is longer than {MOST_TOKEN_BYTES} bytes", where=str(file), remedy=MAKE)
    if why := weakness(token):
        raise InvalidValue(f"the token is too weak: {why}", where=str(file), remedy=MAKE)
    return token


def is_same(given: bytes, token: bytes) -> bool:
    """Compare in a time that depends on neither content nor length."""
    return hmac.compare_digest(sha256(given).digest(), sha256(token).digest())


async def read_token_in_time(file: Path) -> bytes:
    """The same off the loop; a file that hangs is an OSError."""
    async with asyncio.timeout(TIMEOUT):
        return await read_in_time(str(file), partial(read_token, file))


async def check_tokens(status: StatusConfig) -> None:
    """Refuse to start with tokens that are unfit, or that are one and the same.

    Raises ConfigurationError. A file that cannot be read is no reason: it is logged, and no caller is let in until
    it can be.
    """
    findings: list[Mistake] = []
    tokens: list[bytes] = []
    for key, file in _files(status):
        try:
            tokens.append(await read_token_in_time(file))
        except OSError as error:
            why = error.strerror or type(error).__name__
            _logger.warning(
                "%s: the token in %s cannot be read, so it lets no caller in until it can be: %s",
                key,
                file,
                why,
            )
        except InvalidValue as error:
            findings.append(Mistake(str(file), key, error.what, error.remedy))
    if len(tokens) == 2 and is_same(*tokens):
        findings.append(
            Mistake(
                str(status.operate_token_file),
                OPERATE_KEY,
                "it holds the token that reads",
                f"who reads must not be able to operate: {MAKE}",
            )
        )
    if findings:
        raise ConfigurationError(findings)


def _files(status: StatusConfig) -> Iterator[tuple[str, Path]]:
    if status.read_token_file is not None:
        yield READ_KEY, status.read_token_file
    if status.operate_token_file is not None:
        yield OPERATE_KEY, status.operate_token_file


RATE: Final = 50.0
"""Requests a second of one caller, and of what one address asks without being let in; a page asks for one."""
BURST: Final = 500
REFUSED_RATE: Final = 1.0
"""Requests a second of one address with a credential that lets no one in."""
REFUSED_BURST: Final = 60
MOST_READS: Final = 8
"""At once: each is a thread, which any caller can cause, and which a volume that hangs does not give back."""
LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
CALLER: Final = web.RequestKey("federation.caller", StatusCaller)
"""The key of a request under which the guard says who its caller is and what they may do."""


def may_operate(request: web.Request) -> bool:
    """Whether the guard has seen a credential of this caller that operates."""
    caller = request.get(CALLER)
    return caller is not None and caller.right is Right.OPERATE


_REFUSED_OFTEN: Final = "this address was refused too often"
_REFUSED_REMEDY: Final = "give a credential that the hub takes; one that it takes is let in at once"


def caller_of(request: web.Request) -> str:
    """Who shares limits with the caller of a request that the guard let in: of one name, from one address."""
    return f"{request[CALLER].description}@{address_of(peer_of(request.transport))}"


def verified_name(request: web.Request) -> tuple[str, Kind]:
    """The name of the caller of a request that the guard let in, and how it was verified."""
    caller = request[CALLER]
    return caller.name, caller.kind


class _Refused(Exception):
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class Guard:
    """Middleware over every path but ``unguarded``. The token files are read anew for each request.

    Without a credential that reads, the API is answered on loopback only, and there only under a local name, so that no
    web page can reach it through a name of its own (DNS rebinding). The insecure option lifts both. An operator
    may read as well. ``authenticators`` verify JWTs.
    """

    def __init__(
        self,
        config: ConfigStatus,
        clock: Clock,
        *,
        unguarded: frozenset[str],
        authenticators: Sequence[Authenticator] = (),
    ) -> None:
        self._config = config
        self._authenticators = authenticators
        self._rate = RateLimiter(clock.monotonic, rate=RATE, burst=BURST)
        self._refused_rate = RateLimiter(clock.monotonic, rate=REFUSED_RATE, burst=REFUSED_BURST)
        self._unguarded = unguarded
        self._reads = asyncio.Semaphore(MOST_READS)

    @property
    def middleware(self) -> Middleware:
        """The middleware to register after the one that turns errors into problems."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            address = address_of(peer_of(request.transport))
            caller = address
            if request.path not in self._unguarded:
                try:
                    request[CALLER] = await self._caller(request)
                except _Refused as refused:
                    wait = self._refused_rate.take(address)
                    return too_many(wait, _REFUSED_OFTEN, _REFUSED_REMEDY) if wait else refused.response
                caller = caller_of(request)
            if wait := self._rate.take(caller):
                return too_many(wait)
            return await handler(request)

        return guard

    async def may_still_read(self, request: web.Request) -> bool:
        """Whether the caller of a request that was let in would be let in now: credentials end meanwhile."""
        try:
            await self._caller(request)
        except _Refused:
            return False
        return True

    async def _caller(self, request: web.Request) -> StatusCaller:
        """Who this is; they may at least read. Raises _Refused."""
        status = self._config.current.status
        given = _bearer(request)
        caller = None
        if given:
            caller, unusable = await self._of_files(given, status)
            caller = caller or of_digests(given, status) or await self._of_authenticators(given, request)
            if caller is None and unusable:
                raise _Refused(_own_token_unusable())
        if caller is not None:
            if caller.right is None:
                raise _Refused(
                    problem(
                        403,
                        "Forbidden",
                        "this caller is known, and has no right to read",
                        remedy="ask who runs the hub for the right to read",
                    )
                )
            return caller
        if not status.lets_readers_in:
            refusal = None if status.insecure_allow_unauthenticated else _local_only(request)
            if refusal is not None:
                raise _Refused(refusal)
            return StatusCaller(name="no token", kind="local", right=Right.READ)
        if (
            not given
            and status.read_token_file is not None
            and await self._token(status.read_token_file) is None
        ):
            raise _Refused(_own_token_unusable())
        challenge = 'Bearer realm="federation-hub"' + (', error="invalid_token"' if given else "")
        raise _Refused(
            problem(
                401,
                "Unauthorized",
                "the credential is none that the hub takes" if given else "no credential was sent",
                remedy="send a token that the hub takes as bearer token",
                headers={"WWW-Authenticate": challenge},
            )
        )

    async def _of_files(self, given: bytes, status: StatusConfig) -> tuple[StatusCaller | None, bool]:
        """The bearer of a token in a file, and whether one cannot be used, so that it is not known who bears it."""
        unusable = False
        for right, file in ((Right.OPERATE, status.operate_token_file), (Right.READ, status.read_token_file)):
            if file is None:
                continue
            token = await self._token(file)
            if token is None:
                unusable = True
            elif is_same(given, token):
                return StatusCaller(name=f"{right.value} token", kind="token", right=right), False
        return None, unusable

    async def _of_authenticators(self, given: bytes, request: web.Request) -> StatusCaller | None:
        """The bearer of a token that others verify. Raises _Refused where they cannot, or not so often."""
        token = given.decode("ascii", "replace")
        claims = unverified_claims(token)
        for authenticator in self._authenticators:
            if not claims or not authenticator.takes(claims):
                continue
            if not authenticator.remembers(token):
                address = address_of(peer_of(request.transport))
                if wait := self._refused_rate.wait(address):
                    raise _Refused(too_many(wait, _REFUSED_OFTEN, _REFUSED_REMEDY))
            try:
                return await authenticator.caller(token)
            except Unavailable as error:
                address = address_of(peer_of(request.transport))
                if not self._refused_rate.wait(address):  # no caller fills the log
                    _logger.warning("a caller cannot be verified: %s", error.diagnostics())
                raise _Refused(
                    problem(
                        503,
                        "Not available",
                        "the credential cannot be verified now; the hub's log says why",
                        headers={"Retry-After": "5"},
                    )
                ) from None
        return None

    async def _token(self, file: Path) -> bytes | None:
        async with self._reads:
            return await usable_token(file)


def of_digests(given: bytes, status: StatusConfig) -> StatusCaller | None:
    """The bearer of a token that the configuration has the digest of; compared with all of them, in constant time."""
    digest = sha256(given).hexdigest().encode()
    found = None
    for token in status.tokens:
        if hmac.compare_digest(digest, token.sha256.encode()):
            found = StatusCaller(name=f"token {token.name}", kind="token", right=Right(token.right))
    return found


def _own_token_unusable() -> web.Response:
    return problem(503, "Not available", "the hub cannot use its own token; its log says why")


def _bearer(request: web.Request) -> bytes:
    """The bearer token; of two, such as a caller's and a proxy's, none: each could take the other for the one."""
    headers = request.headers.getall(hdrs.AUTHORIZATION, [])
    scheme, _, given = (headers[0] if len(headers) == 1 else "").partition(" ")
    return given.strip().encode(errors="replace") if scheme.lower() == "bearer" else b""


async def usable_token(file: Path) -> bytes | None:
    """The token; None where it cannot be used, which the log says."""
    try:
        return await read_token_in_time(file)
    except OSError as error:
        _logger.warning("a status token cannot be read: %s", error, extra={"file": str(file)})
    except InvalidValue as error:
        _logger.warning("a status token cannot be used: %s", error.diagnostics(), extra={"file": str(file)})
    return None


def _local_only(request: web.Request) -> web.Response | None:
    sockname = request.transport.get_extra_info("sockname") if request.transport else None
    if not sockname or not is_loopback(str(sockname[0])):
        return problem(
            403, "Forbidden", "no token is configured, so only callers on the hub's machine are answered"
        )
    host = request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host
    if host not in LOCAL_NAMES and not is_loopback(host.strip("[]")):
        return problem(403, "Forbidden", "no token is configured, so only local names are answered")
    return None
