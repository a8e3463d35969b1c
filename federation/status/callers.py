"""Who calls the status API: a verified name, how it was verified, and what it may do."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, Protocol

import msgspec

from federation.core.clock import Clock
from federation.core.errors import Overloaded
from federation.status.routes import Right

Kind = Literal["local", "token", "kubernetes", "oidc"]
MOST_NAME: Final = 253
MOST_VERDICTS: Final = 1024
MOST_UNDER_WAY: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusCaller:
    """``name`` was verified in the way that ``kind`` says. ``right`` is None for one who may do nothing."""

    name: str
    kind: Kind
    right: Right | None

    @property
    def description(self) -> str:
        """For logs and the audit."""
        return self.name if self.kind in {"local", "token"} else f"{self.kind} {self.name}"


class Authenticator(Protocol):
    """Verifies bearer tokens of one kind."""

    def takes(self, claims: Mapping[str, Any]) -> bool:
        """Whether a JWT that claims this is meant for it. Nothing is verified yet."""
        ...

    def remembers(self, token: str) -> bool:
        """Whether that token was good a moment ago, so that verifying it again costs little."""
        ...

    async def caller(self, token: str) -> StatusCaller | None:
        """Who that is; None for a token that is not good. Raises Unavailable where that cannot be known now."""
        ...


def unverified_claims(token: str) -> Mapping[str, Any]:
    """What a JWT claims, only to find who can verify it; empty for what is no JWT."""
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        return {}
    try:
        payload = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
        claims = msgspec.json.decode(payload)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def has_audience(claims: Mapping[str, Any], audience: str) -> bool:
    """Whether ``aud`` (RFC 7519, section 4.1.3) holds that audience, alone or in a list."""
    given = claims.get("aud")
    return given == audience or (isinstance(given, list) and audience in given)


class RememberedCallers:
    """Verdicts of ``ask`` for some seconds, good ones and bad ones; equal questions at one time are one.

    A token is known by its digest alone. What ``ask`` raises is not remembered.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[StatusCaller | None]],
        clock: Clock,
        *,
        accepted: float,
        refused: float,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._seconds = {True: accepted, False: refused}
        self._verdicts: OrderedDict[bytes, tuple[float, StatusCaller | None]] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[StatusCaller | None]] = {}

    def remembers(self, token: str) -> bool:
        """Whether the last verdict on that token, kept until others take its place, was good."""
        verdict = self._verdicts.get(_digest(token))
        return verdict is not None and verdict[1] is not None

    async def caller(self, token: str) -> StatusCaller | None:
        """The verdict. Raises what ``ask`` does, and Overloaded where too many are asked for."""
        key = _digest(token)
        verdict = self._verdicts.get(key)
        if verdict is not None and self._clock.monotonic() < verdict[0]:
            self._verdicts.move_to_end(key)
            return verdict[1]
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MOST_UNDER_WAY:
                raise Overloaded("too many credentials are being verified", reason="verifications")
            task = self._under_way[key] = asyncio.create_task(self._verdict(key, token))
            task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    async def _verdict(self, key: bytes, token: str) -> StatusCaller | None:
        caller = await self._ask(token)
        self._verdicts[key] = (self._clock.monotonic() + self._seconds[caller is not None], caller)
        self._verdicts.move_to_end(key)
        while len(self._verdicts) > MOST_VERDICTS:
            self._verdicts.popitem(last=False)
        return caller

    def _finished(self, key: bytes, task: asyncio.Task[StatusCaller | None]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that a question whose callers have all gone leaves no warning


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
