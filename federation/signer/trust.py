"""The bundle in force for each cluster, as the controller wrote it and as this signer is willing to believe it.

The signer does not trust the controller. A generation is accepted only where its bytes are what its digest
says, its trust domain is the mesh's, its number does not run backwards, and every self-signed anchor in it
is pinned by the signer's own configuration. Otherwise the last good one stays in force and the reason is
said. A pin that was in that configuration and is gone counts as long as the anchor is in force (``remembered.py``).

While a root is removed in waves, clusters that wait for theirs are given an older generation, which is
believed by the same rules. One that cannot be believed stops the clusters that it is meant for, and no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from federation.core.clock import Clock
from federation.core.errors import FederationError, InvalidValue, NotReady, StateUnavailable
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.signer.believing import UNPINNED, AcceptedTrust, believe
from federation.signer.remembered import RememberedPins
from federation.state.documents import Current, Generation, decode, generation_key
from federation.state.store import StateStore

POLL: Final = 0.5  # seconds: a rotation waits for the slowest signer
READ_TIMEOUT: Final = 5.0
MOST_OLDER: Final = 8
"""Older generations in force at once: a rotation needs one, and each may hold a megabyte in memory."""

CURRENT: Final = "current"

__all__ = ["AcceptedTrust", "TrustFollower", "TrustInForce"]

_Held: TypeAlias = AcceptedTrust | FederationError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrustInForce:
    """The newest generation, and the older one of each cluster behind it, or why that cannot be believed."""

    newest: AcceptedTrust
    behind: Mapping[str, _Held] = field(default_factory=dict)

    def for_cluster(self, cluster: str) -> AcceptedTrust:
        """What that cluster is given. Raises NotReady where that cannot be believed."""
        held = self.behind.get(cluster, self.newest)
        if isinstance(held, FederationError):
            raise NotReady(
                f"the generation that it is to get is not believed: {held}",
                where=cluster,
                remedy=held.remedy,
                reason=held.reason,
            )
        return held

    @property
    def generations(self) -> Iterator[AcceptedTrust]:
        """Every generation that some cluster is given."""
        older = {held.number: held for held in self.behind.values() if isinstance(held, AcceptedTrust)}
        return iter({self.newest.number: self.newest, **older}.values())

    @property
    def anchors(self) -> Iterable[Certificate]:
        """The anchors of all of them, each once."""
        return dict.fromkeys(anchor for trust in self.generations for anchor in trust.anchors)

    @property
    def resolved(self) -> bool:
        """True where every cluster has a generation."""
        return not any(isinstance(held, FederationError) for held in self.behind.values())

    def differs_from(self, other: TrustInForce | None) -> bool:
        """True where some cluster is given something else."""
        return other is None or self.content != other.content

    @property
    def content(self) -> tuple[AcceptedTrust, dict[str, object]]:
        """What tells it from another one."""
        behind: dict[str, object] = {
            name: str(held) if isinstance(held, FederationError) else held
            for name, held in self.behind.items()
        }
        return self.newest, behind


class TrustFollower:
    """Follows the generations in force; ``in_force`` is None until one was believed."""

    def __init__(
        self,
        store: StateStore,
        *,
        clock: Clock,
        trust_domain: TrustDomain,
        pins: frozenset[str],
        on_change: Callable[[TrustInForce], None],
        remembered: RememberedPins | None = None,
    ) -> None:
        """``remembered`` are pins that this signer's configuration had, and that the bundle may still hold."""
        self._store = store
        self._clock = clock
        self._trust_domain = trust_domain
        self._pins = pins
        self._on_change = on_change
        self._looking = asyncio.Lock()
        self._seen: Current | None = None
        self._remembered = remembered
        self._judged_by = pins
        self._floors: dict[str, int] = {}
        self.in_force: TrustInForce | None = None
        self.problem: FederationError | None = None

    @property
    def accepted(self) -> AcceptedTrust | None:
        """The newest generation; None until one was believed."""
        return self.in_force.newest if self.in_force is not None else None

    def configure(self, *, pins: frozenset[str]) -> None:
        """Believe by these pins from now on; what was accepted stays until the next generation."""
        if pins != self._pins:
            self._pins = pins
            self._seen = None  # looked at again: it may be believed now, or no longer

    async def run(self) -> None:
        """Look every :data:`POLL` seconds until cancelled."""
        while True:
            await self.poll()
            await self._clock.sleep(POLL)

    async def poll(self) -> None:
        """Look once; what is wrong is kept as :attr:`problem`."""
        try:
            await self.catch_up()
        except StateUnavailable as error:
            self._fail(error)

    async def catch_up(self) -> Current | None:
        """What is in force by the state store at some instant after the call, taken up if it is believed.

        Raises StateUnavailable where that cannot be read.
        """
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._looking:  # an older answer never comes later
                stored = await self._store.read(CURRENT)
                current = decode(stored.data, Current, key=CURRENT) if stored is not None else None
                await self._take_up(current)
                await self._remember()
        except TimeoutError:
            raise StateUnavailable(f"no answer in {READ_TIMEOUT:g} s", where="the state store") from None
        return current

    async def _remember(self) -> None:
        """Persist which anchors in force are pinned here, before any of these pins can go."""
        if self._remembered is not None and self.in_force is not None:
            await self._remembered.keep(self.in_force.anchors, self._pins)

    async def _take_up(self, current: Current | None) -> None:
        try:
            in_force = await self._look(current)
        except (StateUnavailable, InvalidValue) as error:
            self._fail(error)
            if self._remembered is not None and error.reason == UNPINNED:
                self._remembered.look_again()
            return
        if in_force is None:
            return
        before, self.in_force = self.in_force, in_force
        self._floors = {
            cluster: held.number if isinstance(held, AcceptedTrust) else self._floor(cluster, before)
            for cluster, held in in_force.behind.items()
        }
        if not in_force.differs_from(before):
            return
        if before is None or before.newest.number != in_force.newest.number:
            number = in_force.newest.number
            _logger.info("generation %d of the bundle is in force", number, extra={"generation": number})
        for cluster, held in sorted(in_force.behind.items()):
            if isinstance(held, FederationError):
                _logger.error(
                    "nothing can be issued there: %s",
                    held.diagnostics(),
                    extra={"cluster": cluster, "reason": held.reason},
                )
        self._on_change(in_force)

    async def _look(self, current: Current | None) -> TrustInForce | None:
        """What to use, or None where there is nothing new to decide."""
        held = self.in_force
        if self._remembered is not None:
            await self._remembered.load()
        if current is None:
            if held is not None:
                raise InvalidValue(
                    "the state store names no generation any more", where=CURRENT, reason="generation_missing"
                )
            return None
        anew = current != self._seen or held is None
        if not anew and held is not None and held.resolved:
            if isinstance(self.problem, StateUnavailable):
                self.problem = None
            return None
        if held is not None and current.number < held.newest.number:
            raise _backwards(current.number, held.newest.number)
        newest = (
            await self._read(current.number, digest=current.sha256) if anew or held is None else held.newest
        )
        problem: FederationError | None = None
        behind: dict[str, _Held] = {}
        for cluster, number in sorted(current.behind.items()):
            if number == current.number:
                continue
            floor = self._floor(cluster, held)
            before = held.behind.get(cluster, held.newest) if held is not None else None
            if number < floor and before is not None:
                problem = _backwards(number, floor)
                behind[cluster] = before
            else:
                behind[cluster] = await self._older(number, newest, behind)
        self._seen, self._judged_by = current, self._pins
        self.problem = None
        if problem is not None:
            self._fail(problem)
        return TrustInForce(newest, behind)

    def _floor(self, cluster: str, held: TrustInForce | None) -> int:
        """The newest generation that this cluster was ever given here."""
        return self._floors.get(cluster, held.newest.number if held is not None else 0)

    async def _older(self, number: int, newest: AcceptedTrust, found: Mapping[str, _Held]) -> _Held:
        if not 0 < number < newest.number:
            return InvalidValue(
                f"generation {number} is not one before {newest.number}",
                where=CURRENT,
                remedy="restore `current` from a backup of the state, and find out who wrote that",
                reason="generation_ahead",
            )
        known = {held.number: held for held in found.values() if isinstance(held, AcceptedTrust)}
        if self.in_force is not None and self._judged_by == self._pins:
            known |= {trust.number: trust for trust in self.in_force.generations}
        if number in known:
            return known[number]
        if len({held.number for held in found.values() if isinstance(held, AcceptedTrust)}) >= MOST_OLDER:
            return InvalidValue(
                f"more than {MOST_OLDER} older generations would be in force",
                where=CURRENT,
                remedy="let fewer waves be under way",
                reason="generation_excess",
            )
        try:
            return await self._read(number)
        except (StateUnavailable, InvalidValue) as error:
            return error

    async def _read(self, number: int, *, digest: str = "") -> AcceptedTrust:
        key = generation_key(number)
        stored = await self._store.read(key)
        if stored is None:
            raise InvalidValue(
                "the generation in force is not in the state store", where=key, reason="generation_missing"
            )
        trust = believe(
            decode(stored.data, Generation, key=key),
            number=number,
            digest=digest,
            trust_domain=self._trust_domain,
            pins=self._pins | (self._remembered.known if self._remembered is not None else frozenset()),
        )
        known = self.in_force.generations if self.in_force is not None else ()
        if any(held.number == number and held.sha256 != trust.sha256 for held in known):
            raise InvalidValue("it was changed after it was written", where=key, reason="generation_changed")
        return trust

    def _fail(self, problem: FederationError) -> None:
        if str(problem) != str(self.problem):
            _logger.error(
                "the generation in force is not taken up: %s",
                problem.diagnostics(),
                extra={"reason": problem.reason},
            )
        self.problem = problem


def _backwards(number: int, held: int) -> InvalidValue:
    return InvalidValue(
        f"generation {number} is older than {held}, which is in force here",
        where=CURRENT,
        remedy="nothing, where the controller makes a newer one; otherwise restore the newest backup of the state",
        reason="generation_backwards",
    )
