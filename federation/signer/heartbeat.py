"""A signer's report, written to the state store again and again, and its part of each quota with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.signer.authorities.succession import Succession
from federation.signer.fellows import Fellows
from federation.state.documents import SignerReport, decode, encode
from federation.state.store import StateStore

HEARTBEAT: Final = 2.0  # seconds between reports; three missed ones mean that this signer is gone
STORE_TIMEOUT: Final = 5.0

_logger = logging.getLogger(__name__)


class Heartbeat:
    """Writes what ``report`` says under ``signers/<replica>``.

    A report that is there already is of a process of this name that was killed: ``recall`` gets it before the first
    one takes its place.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        replica: str,
        clock: Clock,
        report: Callable[[], SignerReport],
        recall: Callable[[SignerReport], None],
    ) -> None:
        self._recall = recall
        self._store = store
        self._key = f"signers/{replica}"
        self._clock = clock
        self._report = report

    async def run(self, share_quotas: Callable[[], Awaitable[None]]) -> None:
        """Write until cancelled, more often while it is not ready; share quotas as often."""
        ready = False
        await self._look_back()
        while True:
            await self.write()
            await share_quotas()
            report = self._report()
            if report.ready != ready:
                ready = report.ready
                _logger.info(
                    "the signer is %s", "ready" if ready else "not ready: " + "; ".join(report.reasons)
                )
            await self._clock.sleep(HEARTBEAT if ready else HEARTBEAT / 4)

    async def _look_back(self) -> None:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                stored = await self._store.read(self._key)
            if stored is not None:
                self._recall(decode(stored.data, SignerReport, key=self._key))
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's last report cannot be read: %s", str(error) or "no answer")

    async def write(self) -> None:
        """A report that cannot be written is missed by those who wait for it; signing goes on."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.write(self._key, encode(self._report()))
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's report cannot be written: %s", str(error) or "no answer")

    async def withdraw(self) -> None:
        """A signer that ended in good order leaves no report behind that would look like one that died."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.delete(self._key)
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("the signer's report cannot be withdrawn: %s", str(error) or "no answer")


class Quotas:
    """Takes the part of each back end's quota that the other signers leave."""

    def __init__(self, fellows: Fellows, authorities: Succession) -> None:
        self._fellows = fellows
        self._authorities = authorities

    async def share(self) -> None:
        """Count the others where something in use has a quota; where that fails the last count stays."""
        names = self._authorities.quotas
        if names:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STORE_TIMEOUT):
                    await self._fellows.count(names)
        self._authorities.take_share(self._fellows.share)
