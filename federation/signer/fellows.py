"""How many signers share one authority: each takes its part of what the back end allows all of them.

Counted from the reports in the state store, as every signer writes one. Where the store cannot be read, the
last count stays; a signer that started just now counts those that the configuration starts beside it, so that
a restart of all of them does not begin with a multiple of the quota.
"""

from __future__ import annotations

from typing import Final

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.state.documents import SignerReport, decode
from federation.state.store import StateStore

SIGNERS: Final = "signers/"
MISSED: Final = 3  # heartbeats after which a signer counts as gone
MOST: Final = 512


class Fellows:
    """Counts the signers of one state store that use the same authority as this one."""

    def __init__(self, store: StateStore, *, replica: str, clock: Clock, expected: int) -> None:
        self._store = store
        self._replica = replica
        self._clock = clock
        self._count = max(1, expected)

    @property
    def share(self) -> float:
        """The part of a common quota that this signer may take."""
        return 1.0 / self._count

    async def count(self, authority: str) -> None:
        """Look who is there; damaged reports count as signers, because their writers may well sign."""
        now = self._clock.now().timestamp()
        others = 0
        try:
            for key in (await self._store.keys(SIGNERS))[:MOST]:
                if key == f"{SIGNERS}{self._replica}":
                    continue
                others += await self._shares(key, authority, now)
        except StateUnavailable:
            return
        self._count = 1 + others

    async def _shares(self, key: str, authority: str, now: float) -> bool:
        try:
            stored = await self._store.read(key)
            report = decode(stored.data, SignerReport, key=key) if stored is not None else None
        except StateUnavailable:
            return True
        if report is None or now - report.updated > MISSED * report.heartbeat:
            return False
        return report.authority is None or report.authority.name == authority
