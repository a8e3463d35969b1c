"""The requests that somebody waits for: one watch serves them all.

Only what is awaited is taken apart and kept; of anything else that the watch brings nothing stays but its
name.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from federation.clusters.objects import Item, Payload, key_of
from federation.clusters.reflector import Change
from federation.core.errors import AuthorityError, AuthorityUnavailable
from federation.signer.authorities.cert_manager.verdict import (
    Deleted,
    Pending,
    Verdict,
    decode_request,
    verdict_of,
)

NOBODY_WAITS: Final = Pending()


@dataclass(frozen=True, slots=True)
class NotCreated:
    """There will be no verdict, for there is no request."""

    error: AuthorityError | AuthorityUnavailable


@dataclass(slots=True)
class Waiting:
    """One request that somebody waits for. ``last`` is what was last seen of it, None before the first time."""

    decided: asyncio.Future[Verdict | NotCreated] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    last: Pending | None = None

    def decide(self, verdict: Verdict | NotCreated) -> None:
        """Wake the one that waits; the first verdict counts."""
        if not self.decided.done():
            self.decided.set_result(verdict)


class Outstanding:
    """By name, from before a request is sent until its outcome was read."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._waiting

    def expect(self, name: str) -> Waiting:
        """Somebody waits for this request from now on."""
        waiting = self._waiting[name] = Waiting()
        return waiting

    def forget(self, name: str) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(name, None)

    def decode(self, payload: Payload) -> Item[Verdict]:
        """A watched object as its verdict: the reflector's decoder."""
        request = decode_request(payload)
        key = key_of(request.metadata)
        verdict = verdict_of(request.status) if key.name in self._waiting else NOBODY_WAITS
        return Item(key, request.metadata.resource_version, verdict)

    def changed(self, change: Change[Verdict]) -> None:
        """Tell the one that waits; called for every change, however it was noticed."""
        waiting = self._waiting.get(change.key.name)
        if waiting is None:
            return
        match change.new:
            case None:
                waiting.decide(Deleted())
            case Pending() as pending:
                waiting.last = pending
            case verdict:
                waiting.decide(verdict)
