"""What Conjur answers, as values and typed errors (Conjur's REST API: "Authenticate", "Batch retrieve").

Pure. Nothing of a token or of a variable's value is ever part of an error; what Conjur says of a failure is
shown cut and made harmless.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from federation.clusters.answers import harmless, parse_retry_after
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityThrottled,
    AuthorityUnavailable,
)
from federation.signer.authorities.https import HttpAnswer

DEFAULT_LIFETIME: Final = 480.0
"""Seconds an access token lives where it does not say: Conjur's default of eight minutes."""

LONGEST_LIFETIME: Final = 5 * 3600.0
"""Seconds: the most that Conjur's ``host_authorization_token_ttl`` can give."""

_SOMETHING_ELSE: Final = (
    "something other than Conjur answers at that address: check url, proxies and gateways"
)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token as it stands in the ``Authorization`` header, and for how many seconds it is good."""

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

    It comes in base64, as was asked for, or bare where a gateway on the way took that wish out of the
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
    answer: HttpAnswer, *, where: str, authenticator: str, jwt: str
) -> AuthorityError | AuthorityUnavailable:
    """The error that an answer other than 200 to a login stands for; ``jwt`` is kept out of it."""
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
            return _other_failure(answer, "the login", said, where)


def read_failure(
    answer: HttpAnswer, names: Sequence[str], *, where: str, secret: str
) -> AuthorityError | AuthorityUnavailable:
    """The error that an answer other than 200 to a read stands for; ``secret`` is kept out of it."""
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
                " Conjur's audit log tells which it is",
            )
        case _:
            return _other_failure(answer, f"reading {asked}", said, where)


def _other_failure(
    answer: HttpAnswer, what: str, said: str, where: str
) -> AuthorityError | AuthorityUnavailable:
    status = answer.status
    if status == 429:
        header = answer.headers.get("Retry-After", "")
        return AuthorityThrottled(
            f"it asks for fewer requests ({what})",
            where=where,
            remedy="raise signer.conjur.poll, or have the limit in front of Conjur raised",
            retry_after=parse_retry_after(header) if header else 0.0,
        )
    if 500 <= status <= 599:
        return AuthorityUnavailable(
            f"{what} failed there: {status}{said}",
            where=where,
            reason="server_error",
            remedy="look at Conjur's health and log, and at what stands in front of it; the hub keeps trying",
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
