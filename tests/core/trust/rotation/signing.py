"""A simulated signer: what it sees may lag, its memory may go, and what it persists bounds what it delivers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import RotationRecord
from federation.core.trust.expiry_bounds import Delivered, step_for
from federation.signer.authorities.selection import exchange
from tests.core.trust.rotation.certificates import ISSUER, NOT_AFTER, ROOT, ROOT_OF, issuers_of

LIFETIME: Final = 60.0
NONE: Final = 0  # the generation of a signer that was started and believes none yet
CONFIGURED: Final = ISSUER["a1"]
"""The authority that signs before the first rotation."""

OF_THE_HUB: Final = frozenset(ISSUER.values()) - {ISSUER["w1"]}
"""What signers may be ready to sign with; the CAs that clusters brought are not among them."""


@dataclass(slots=True)
class Store:
    """What is persisted and shared. ``behind`` are clusters that keep an earlier generation, and which.

    ``remembered`` are the pins that each signer has had and that were in force; every signer reads them all.
    """

    record: RotationRecord
    generations: dict[int, frozenset[str]]
    directives: SigningDirectives = field(default_factory=SigningDirectives)
    in_force: int = 1
    behind: dict[str, int] = field(default_factory=dict)
    remembered: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def set_back(self) -> bool:
        """Whether it names an earlier generation as in force than before."""
        return self.in_force < max(self.generations)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Leaves of one cluster and issuer that were delivered with the same roots."""

    cluster: str
    issuer: str
    trusts: frozenset[str]
    before_hub: bool = False
    after_emergency: bool = False


@dataclass(slots=True)
class _Begun:
    delivered: Delivered
    not_after: float
    directives: SigningDirectives


@dataclass(slots=True)
class Signer:
    """``generation`` and ``directives`` are what it saw last; ``persisted`` is its table, the rest its memory.

    The promise it keeps: before a leaf leaves, a bound that covers it is persisted, and whenever a bound had
    to be persisted, what it was decided by is read once more. That is the revalidation: a controller that did not
    yet see the bound has persisted nothing that the signer does not see then. ``covered`` are the bounds
    behind which that reading succeeded; one that was persisted before it failed covers nothing.

    ``pins`` are those of its own configuration as it runs it.

    ``pending`` is the authority that is configured, or that its files hold by now; ``authority`` the one that this
    process has, as the signer's own rules decide (``signer/authorities/selection.py``).
    """

    name: str
    clock: float
    without: frozenset[str]
    ready: set[str] = field(default_factory=lambda: set(OF_THE_HUB))
    up: bool = True
    connected: bool = True
    generation: int = 1
    directives: SigningDirectives = field(default_factory=SigningDirectives)
    persisted: dict[Delivered, float] = field(default_factory=dict)
    covered: dict[Delivered, float] = field(default_factory=dict)
    begun: _Begun | None = None
    pins: frozenset[str] = frozenset(ROOT.values())
    listener_refused: bool = False  # by new connections
    pending: str = CONFIGURED
    authority: str = CONFIGURED

    def poll(self, store: Store) -> None:
        if self.up and self.connected:
            self._load_generation(store)
            self.directives = store.directives
            self._take_up()
            self.covered = dict(self.persisted)  # all that is persisted was persisted before this read

    def _load_generation(self, store: Store) -> None:
        """Load the generation in force if its own configuration pins all of it, or did; remember what it pins."""
        memory = frozenset[str]().union(*store.remembered.values())
        if "remembered" in self.without:
            memory = frozenset()
        if store.in_force < self.generation or not store.generations[store.in_force] <= self.pins | memory:
            return
        self.generation = store.in_force
        known = frozenset[str]().union(
            *(store.generations[number] for number in (store.in_force, *store.behind.values()))
        )
        store.remembered[self.name] = known & (self.pins | memory)

    def crash(self) -> None:
        self.up, self.begun, self.covered = False, None, {}

    def restart(self, store: Store) -> None:
        """Nothing is issued until the store was read once; one that cannot be read leaves it down."""
        if not self.up and self.connected and not store.set_back:  # it would know no better
            self.up, self.generation = True, NONE
            self._have(self.pending)  # the former one was in the memory of the process alone
            self.poll(store)

    def begin(self, store: Store, cluster: str, now: float) -> tuple[Delivered, float] | None:
        """A request: its delivery where a persisted bound covers it; otherwise :meth:`finish` delivers it."""
        issuer = self._issuer(cluster)
        if not self.up or self.begun is not None or not issuer or cluster in self.directives.stopped:
            return None
        if ROOT_OF[issuer] not in store.generations.get(self.generation, frozenset()):
            return None  # what is handed out chains to a published anchor
        delivered = Delivered(cluster, issuer, self.generation)
        not_after = min(now + self.clock + LIFETIME, NOT_AFTER[issuer])
        covered = self.persisted if "revalidated_bounds" in self.without else self.covered
        if not_after <= covered.get(delivered, 0.0):
            return delivered, not_after
        if not self.connected:
            return None
        self.begun = _Begun(delivered, not_after, self.directives)
        if "ahead" in self.without:
            return delivered, not_after
        self._persist(self.begun)
        return None

    def finish(self, store: Store) -> tuple[Delivered, float] | None:
        """Revalidate, and deliver if nothing has changed."""
        begun, self.begun = self.begun, None
        if begun is None or not self.connected:
            return None
        if "ahead" in self.without:
            self._persist(begun)
            return None
        seen = (store.in_force, store.directives)
        if "revalidation" not in self.without and seen != (begun.delivered.generation, begun.directives):
            self.poll(store)
            return None
        self.covered[begun.delivered] = self.persisted[begun.delivered]
        return begun.delivered, begun.not_after

    def _persist(self, begun: _Begun) -> None:
        bound = begun.not_after + step_for(LIFETIME)
        self.persisted[begun.delivered] = max(bound, self.persisted.get(begun.delivered, 0.0))

    def configure(self, issuer: str) -> None:
        """Configure another authority, or exchange its files in place."""
        self.pending = issuer
        if self.up:
            self._take_up()

    def _take_up(self) -> None:
        old, new = issuers_of(self.authority), issuers_of(self.pending)
        withheld = (
            self.authority in self.ready and exchange(old, new, self.directives, reserve=False) is not None
        )
        if self.pending != self.authority and ("pending_changes" in self.without or not withheld):
            self._have(self.pending)

    def _have(self, issuer: str) -> None:
        if issuer != self.authority:
            self.ready.discard(self.authority)
            self.ready.add(issuer)
            self.authority = issuer

    @property
    def signs(self) -> str:
        """What it signs with unless a cluster is an exception; empty if nothing may sign."""
        return self._issuer("")

    def _issuer(self, cluster: str) -> str:
        named = self.directives.issuer_for(cluster)
        if named in self.ready or self.directives.strict:
            return named if named in self.ready and named not in self.directives.forbidden else ""
        first = self.authority
        permitted = self.directives.permit(first, ROOT_OF[first]) or "pending_changes" in self.without
        barred = first in self.directives.forbidden or ROOT_OF[first] in self.directives.forbidden
        return first if first in self.ready and permitted and not barred else ""
