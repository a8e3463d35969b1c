"""Roots that a back end names and nobody has pinned: shown to a person, trusted by nobody."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from federation.core.clock import Clock
from federation.core.pki.certificate import Certificate
from federation.state.documents import Proposal

MOST: Final = 8

_logger = logging.getLogger(__name__)


class Proposals:
    """Of the authority of that name."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._found: dict[str, Proposal] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def documents(self) -> list[Proposal]:
        """As a report shows them."""
        return list(self._found.values())

    def note(self, chain: Sequence[Certificate], anchors: Iterable[Certificate]) -> None:
        """Remember each root in the chain that is none of the anchors, and forget those that are now."""
        pinned = {anchor.sha256 for anchor in anchors}
        for found in chain:
            if not (found.is_self_signed and found.is_ca) or found.sha256 in pinned | set(self._found):
                continue
            if len(self._found) < MOST:
                _logger.warning(
                    "the authority names a root that nobody has pinned: %s (%s)",
                    found.subject,
                    found.sha256,
                    extra={"authority": self._name},
                )
                self._found[found.sha256] = Proposal(
                    sha256=found.sha256,
                    subject=found.subject,
                    cluster="",
                    origin=f"the authority {self._name}",
                    not_after=found.not_after.timestamp(),
                    first_seen=self._clock.now().timestamp(),
                    pem=found.pem.decode("ascii"),
                )
        self._found = {key: value for key, value in self._found.items() if key not in pinned}
