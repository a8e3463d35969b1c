"""The pinned roots that can be read from their files, for judging a successor before its root is published.

A fingerprint names one certificate exactly, so what was read once is never read again, and a file that
vanishes takes nothing away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from federation.core.clock import Clock
from federation.core.config.model import AnchorPin
from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import MAX_PEM_BYTES, find_certificate
from federation.files.reading import Reading, read_bounded

POLL: Final = 2.0  # seconds between attempts at files that could not be read

_logger = logging.getLogger(__name__)


class PinnedRoots:
    """Reads the roots of the hub's own trust domain; ``on_change`` is given all that are known."""

    def __init__(
        self, *, trust_domain: TrustDomain, clock: Clock, on_change: Callable[[tuple[Certificate, ...]], None]
    ) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._on_change = on_change
        self._reading = Reading()
        self._pins: tuple[AnchorPin, ...] = ()
        self._known: dict[str, Certificate] = {}
        self._told: tuple[Certificate, ...] = ()
        self._problems: dict[str, str] = {}

    def configure(self, pins: Iterable[AnchorPin]) -> None:
        """Know these from now on, and forget all others."""
        self._pins = tuple(pin for pin in pins if pin.trust_domain == self._trust_domain)
        pinned = {pin.sha256 for pin in self._pins}
        self._known = {sha256: root for sha256, root in self._known.items() if sha256 in pinned}
        self._tell()

    async def run(self) -> None:
        """Keep reading what is not known yet, until cancelled."""
        while True:
            await self.read()
            await self._clock.sleep(POLL)

    async def read(self) -> None:
        """Read what is not known yet, once; what cannot be read is logged and tried again."""
        for pin in self._pins:
            if pin.sha256 in self._known:
                continue
            try:
                root = await self._one(pin)
            except (InvalidValue, OSError) as error:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                if self._problems.get(pin.sha256) != why:
                    self._problems[pin.sha256] = why
                    _logger.warning("a pinned root cannot be read from %s: %s", pin.file, why)
                continue
            if pin in self._pins:  # the configuration may have changed meanwhile
                self._problems.pop(pin.sha256, None)
                self._known[pin.sha256] = root
        self._tell()

    async def _one(self, pin: AnchorPin) -> Certificate:
        data = await self._reading.read(str(pin.file), partial(read_bounded, pin.file, MAX_PEM_BYTES))
        return find_certificate(data, pin.sha256, where=str(pin.file))

    def _tell(self) -> None:
        roots = tuple(self._known.values())
        if roots != self._told:
            self._told = roots
            self._on_change(roots)
