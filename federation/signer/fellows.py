"""How many signers share an authority: each takes its part of what the back end allows all of them.

Counted from the reports in the state store, as every signer writes one. Where the store cannot be read, the
last count stays; a signer that started just now counts those that the configuration starts beside it, so that
a restart of all of them does not begin with a multiple of the quota.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.state.documents import SignerReport, decode
from federation.state.liveness import is_heard_of
from federation.state.store import StateStore

SIGNERS: Final = "signers/"
MOST: Final = 512


class Fellows:
    """Counts the signers of one state store that use the same authorities as this one."""

    def __init__(self, store: StateStore, *, replica: str, clock: Clock, expected: int) -> None:
        self._store = store
        self._replica = replica
        self._clock = clock
        self._expected = max(1, expected)
        self._counts: dict[str, int] = {}

    def share(self, authority: str) -> float:
        """The part of that authority's quota that this signer may take."""
        return 1.0 / self._counts.get(authority, self._expected)

    async def count(self, authorities: Collection[str]) -> None:
        """Look who uses them; damaged reports count as using all, because their writers may well sign."""
        now = self._clock.now().timestamp()
        counts = Counter(authorities)
        try:
            for key in (await self._store.keys(SIGNERS))[:MOST]:
                if key != f"{SIGNERS}{self._replica}":
                    used = await self._used(key, now)
                    counts.update(name for name in authorities if used is None or name in used)
        except StateUnavailable:
            return
        self._counts = dict(counts)

    async def _used(self, key: str, now: float) -> frozenset[str] | None:
        """The authorities that the signer of this report uses; None where that is not known."""
        try:
            stored = await self._store.read(key)
            report = decode(stored.data, SignerReport, key=key) if stored is not None else None
        except StateUnavailable:
            return None
        if report is None or not is_heard_of(report, now):
            return frozenset()
        if report.authority is None:
            return None
        both = (report.authority, report.successor)
        return frozenset(authority.name for authority in both if authority is not None)
