"""What was found in clusters, in the state store: it outlives the process that found it.

Each cluster has a document of its own, written when something has changed. What the report shows is what is persisted,
so that nothing is shown that the next restart would forget. Where a document cannot be written or read, what is
known is shown all the same, and so is the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from federation.controller.sources.cluster_anchors import AUTHORITIES, Proposals, listed
from federation.core.errors import StateUnavailable
from federation.state.damage import StateDamaged
from federation.state.documents import ControllerReport, FoundAnchors, Proposal, decode, encode
from federation.state.many import read_many
from federation.state.store import StateStore, Stored

PROPOSALS: Final = "proposals/"
CONTROLLERS: Final = "controllers/"
_NO_CLUSTER: Final = "_authorities"  # no cluster's name begins so

_log = logging.getLogger(__name__)


class KeptProposals:
    """Only the leader may use it."""

    def __init__(self, store: StateStore, proposals: Proposals) -> None:
        self._store = store
        self._proposals = proposals
        self._kept: dict[str, FoundAnchors] = {}
        self._problems: dict[str, StateUnavailable] = {}
        self.complete = False
        """Whether all that is known has been persisted once: reports of earlier versions are then of no use."""

    async def load(self) -> None:
        """Take over what earlier leaders found. Raises StateUnavailable where the store fails.

        A document that is damaged stays as it is, and is a problem until it is restored or removed.
        """
        for key, stored in (await read_many(self._store, await self._store.keys(PROPOSALS))).items():
            name = key.removeprefix(PROPOSALS)
            name = AUTHORITIES if name == _NO_CLUSTER else name
            try:
                document = _document(key, stored)
            except StateDamaged as error:
                self._note(name, error)
                continue
            if document is not None:
                self._kept[name] = document
                self._proposals.restore(name, document)
        for key, stored in (await read_many(self._store, await self._store.keys(CONTROLLERS))).items():
            self._remember(key, stored)

    async def keep(self, *, clusters: Iterable[str], pins: frozenset[str]) -> bool:
        """Persist what has changed; True where something did. What fails is kept in :attr:`problems`."""
        names = list(clusters)
        self._proposals.open(pins=pins, clusters=names)
        changed = False
        for name, document in self._proposals.documents(clusters=names).items():
            if document == self._kept.get(name, FoundAnchors()) and name not in self._problems:
                continue
            try:
                damaged = isinstance(self._problems.get(name), StateDamaged)
                written = await self._mended(name, document) if damaged else document
                await self._store.write(_key(name), encode(written))
            except StateUnavailable as error:
                self._note(name, error)
                continue
            changed = True
            self._kept[name] = written
            self._problems.pop(name, None)
        self.complete = self.complete or not self._problems
        return changed

    def require(self, names: Iterable[str]) -> None:
        """Raises StateUnavailable where what is known of one of these could not be persisted."""
        for name in names:
            if name in self._problems:
                raise self._problems[name]

    def shown(self, *, clusters: Iterable[str], pins: frozenset[str]) -> list[Proposal]:
        """What is open of the registered clusters, as it is persisted."""
        documents = self._documents(clusters)
        return [proposal for proposal in listed(documents) if proposal.sha256 not in pins]

    def dismissed(self) -> list[str]:
        """The roots (SHA-256) that back ends name and an operator has dismissed."""
        return [dismissal.sha256 for dismissal in self._kept.get(AUTHORITIES, FoundAnchors()).dismissed]

    def problems(self, *, clusters: Iterable[str]) -> list[str]:
        """Why what is shown may not be all, or may not survive a restart."""
        names = list(clusters)
        crowded = [name for name, document in self._documents(names).items() if document.crowded]
        return [
            *(
                f"what was found in {name or 'authorities'} is not persisted: {error.diagnostics()}"
                for name, error in sorted(self._problems.items())
            ),
            *(
                f"{name or 'the authorities'}: more anchors that are not pinned were found than are listed"
                for name in crowded
            ),
        ]

    def _documents(self, clusters: Iterable[str]) -> dict[str, FoundAnchors]:
        names = [AUTHORITIES, *clusters]
        now = self._proposals.documents(clusters=names)
        return {
            name: self._kept.get(name, FoundAnchors())
            if self.complete and name not in self._problems
            else now[name]
            for name in names
        }

    async def _mended(self, name: str, document: FoundAnchors) -> FoundAnchors:
        """With what an operator has restored. Raises StateDamaged while it is damaged: nothing is written over that."""
        key = _key(name)
        restored = _document(key, await self._store.read(key))
        if restored is None:
            return document
        self._proposals.restore(name, restored)
        return self._proposals.documents(clusters=[name])[name]

    def _remember(self, key: str, stored: Stored | StateDamaged | None) -> None:
        """What a controller of an earlier version found, which had it in its report alone."""
        if not isinstance(stored, Stored):
            return
        try:
            report = decode(stored.data, ControllerReport, key=key)
        except StateDamaged:
            return
        if not report.proposals_kept:
            self._proposals.remember(report.proposals)

    def _note(self, name: str, error: StateUnavailable) -> None:
        if str(self._problems.get(name)) != str(error):
            _log.error("what was found cannot be persisted: %s", error.diagnostics(), extra={"cluster": name})
        self._problems[name] = error


def _key(name: str) -> str:
    return f"{PROPOSALS}{name if name != AUTHORITIES else _NO_CLUSTER}"


def _document(key: str, stored: Stored | StateDamaged | None) -> FoundAnchors | None:
    if isinstance(stored, StateDamaged):
        raise stored
    return decode(stored.data, FoundAnchors, key=key) if stored is not None else None
