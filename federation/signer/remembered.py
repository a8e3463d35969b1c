"""Which anchors this signer's configuration has pinned and a bundle still holds: its own memory of its pins.

A pin that is taken out of the configuration is a wish: the anchor stays in the bundle until nothing needs it. The
signer would refuse that bundle after its next start, so it persists which anchors of a bundle that it has believed its
own configuration pinned, under ``pins/<replica>``, ahead of any removal. Nothing gets in there but by the signer's own
configuration, and it is forgotten once no generation in force holds it.

What signers of the same hub remember counts as well: a replica that was started later reads what the others knew. Where
the store keeps what signers write apart from what controllers write (Kubernetes objects), nobody else can put an anchor
there; for files see ``docs/security.md``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from federation.core.errors import StateUnavailable
from federation.core.pki.certificate import Certificate
from federation.state.damage import StateDamaged
from federation.state.documents import PinsTable, decode, encode
from federation.state.many import read_many
from federation.state.store import StateStore

PINS: Final = "pins/"
MOST_REPLICAS: Final = 256
MOST_ANCHORS: Final = (
    1024  # of one bundle: it holds 900 KiB, and a certificate takes more than 900 bytes of it
)
TIMEOUT: Final = 5.0

_logger = logging.getLogger(__name__)


class RememberedPins:
    """Implements that memory. ``known`` are the anchors (SHA-256) in it."""

    def __init__(self, store: StateStore, *, replica: str) -> None:
        self._store = store
        self._replica = replica
        self._key = f"{PINS}{replica}"
        self._written: frozenset[str] | None = None
        self._problem = ""
        self._loaded = False
        self.known: frozenset[str] = frozenset()

    def look_again(self) -> None:
        """Have the next :meth:`load` read it all anew: another signer may know a pin that was here too short a time."""
        self._loaded = False

    async def load(self) -> None:
        """Read what was remembered before this process began, once. Raises StateUnavailable.

        A document that is damaged, or says that it is of another signer, remembers nothing.
        """
        if self._loaded:
            return
        found: set[str] = set()
        async with asyncio.timeout(TIMEOUT):
            keys = (await self._store.keys(PINS))[:MOST_REPLICAS]
            for key, stored in (await read_many(self._store, keys)).items():
                if stored is None:
                    continue
                try:
                    if isinstance(stored, StateDamaged):
                        raise stored
                    table = decode(stored.data, PinsTable, key=key)
                except StateDamaged as error:
                    _logger.error("remembered pins cannot be read: %s", error.diagnostics())  # noqa: TRY400
                    continue
                if key != f"{PINS}{table.replica}":
                    _logger.error("remembered pins of %s are kept as those of another signer", key)
                    continue
                if key == self._key:
                    self._written = frozenset(table.anchors)
                found |= {*table.anchors[:MOST_ANCHORS]}
        self.known, self._loaded = self.known | found, True

    async def keep(self, believed: Iterable[Certificate], pins: frozenset[str]) -> None:
        """Remember those anchors of the bundles in force that are pinned or were; forget every other one.

        What cannot be persisted is logged and tried again at the next call.
        """
        held = {anchor.sha256 for anchor in believed if anchor.is_self_signed}
        self.known = frozenset(held & (pins | self.known))
        if self.known == self._written:
            return
        table = PinsTable(replica=self._replica, anchors=sorted(self.known))
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._store.write(self._key, encode(table))
        except (StateUnavailable, TimeoutError) as error:
            problem = str(error) or f"no answer in {TIMEOUT:g} s"
            if problem != self._problem:
                _logger.error("what this signer pins cannot be remembered: %s", problem)  # noqa: TRY400
            self._problem = problem
            return
        self._written, self._problem = self.known, ""
