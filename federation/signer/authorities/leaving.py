"""Authorities that are no longer used: each is closed once nothing is under way with it any more."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from federation.signer.authorities.guarded import GuardedAuthority
from federation.signer.authorities.interface import KeptAuthority

CLOSE_TIMEOUT: Final = 10.0

_logger = logging.getLogger(__name__)


class Leaving:
    """Keeps them until they are closed."""

    def __init__(self) -> None:
        self._all: list[KeptAuthority] = []

    def add(self, *authorities: KeptAuthority) -> None:
        """Nobody chooses these from now on."""
        self._all += authorities

    @property
    def under_way(self) -> bool:
        """True while requests wait for one of them or are being answered by it."""
        return any(under_way(authority) for authority in self._all)

    async def close(self, *, spare: KeptAuthority | None = None, finally_: bool = False) -> None:
        """Close those that nobody needs, ``spare`` excepted; ``finally_`` closes them all."""
        leaving, self._all = self._all, []
        for authority in leaving:
            if not finally_ and (authority is spare or under_way(authority)):
                self._all.append(authority)  # whoever began with it ends with it
                continue
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await authority.close()
            except TimeoutError:
                _logger.warning("an authority that is no longer used did not close in time")


def under_way(authority: KeptAuthority) -> bool:
    """True while requests wait for it or are being answered by it."""
    return isinstance(authority, GuardedAuthority) and authority.under_way
