"""The documents of one moment, sorted into what counts now and what does not. Pure.

Everything in ``status`` that says "ready" or "valid" goes through a :class:`Scene`, so that the rule of
staleness and the rule of what is in force are each written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from federation.core.config.model import ClusterConfig, HubConfig
from federation.core.trust.rotation.effects import Orders
from federation.core.trust.rotation.record import Quarantine, RotationBook
from federation.state.documents import (
    ControllerClusterReport,
    ControllerReport,
    Current,
    Generation,
    Operation,
    SignerReport,
)
from federation.state.liveness import HEARTBEATS, LONGEST_HEARTBEAT, is_heard_of
from federation.status.freshness import elapsed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the store held at one moment. ``damaged`` maps unusable keys to the reason, in words."""

    current: Current | None = None
    generations: Mapping[int, Generation] = field(default_factory=dict)
    signers: Mapping[str, SignerReport] = field(default_factory=dict)
    controllers: Mapping[str, ControllerReport] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    book: RotationBook | None = None
    orders: Orders | None = None
    operations: Sequence[Operation] = ()  # newest first


@dataclass(frozen=True, slots=True)
class Scene:
    """A snapshot seen with a configuration at an instant (seconds since the epoch)."""

    snapshot: Snapshot
    config: HubConfig
    now: float
    config_problems: tuple[str, ...]
    signers: Mapping[str, SignerReport]  # those that are heard of
    leaders: Mapping[str, ControllerReport]  # those that are heard of and claim to lead
    leader: ControllerReport | None
    last_leader: ControllerReport | None  # to tell what was known last, never as if it still were
    in_force: Generation | None

    @classmethod
    def of(
        cls, snapshot: Snapshot, config: HubConfig, now: float, config_problems: tuple[str, ...] = ()
    ) -> Self:
        """Sort the documents of ``snapshot``."""
        leaders = {r: c for r, c in snapshot.controllers.items() if c.leader and is_heard_of(c, now)}
        past = [c for c in snapshot.controllers.values() if c.leader]
        return cls(
            snapshot=snapshot,
            config=config,
            now=now,
            config_problems=config_problems,
            signers={r: s for r, s in snapshot.signers.items() if is_heard_of(s, now)},
            leaders=leaders,
            leader=max(leaders.values(), key=lambda c: c.updated, default=None),
            last_leader=max(past, key=lambda c: c.updated, default=None),
            in_force=_in_force(snapshot),
        )

    @property
    def leader_follows(self) -> bool:
        """True where the leader works with the generation in force."""
        return (
            self.leader is not None
            and self.in_force is not None
            and (self.leader.generation == self.in_force.number)
        )

    @property
    def rotation_doubt(self) -> str:
        """Why neither the rotation nor quarantines are known; empty where they are, and where none ever was."""
        damaged = self.snapshot.damaged
        if "rotation" in damaged:
            return f"the record of rotations cannot be used: {damaged['rotation']}"
        orders = self.snapshot.orders
        ordered = "orders" in damaged or (orders is not None and orders != Orders())
        if self.snapshot.book is None and ordered:
            return (
                "the record of rotations is not there, though signers were given orders that followed from it"
            )
        return ""

    @property
    def quarantined(self) -> Mapping[str, Quarantine]:
        """Clusters that a person took out, by name; none where that is not known."""
        return self.snapshot.book.quarantined if self.snapshot.book else {}

    def meant_for(self, name: str) -> Generation | None:
        """The generation that a cluster is to hold: the one in force, or an older one until its wave has come."""
        current = self.snapshot.current
        if self.in_force is None or current is None or name not in current.behind:
            return self.in_force
        number = current.behind[name]
        generation = self.snapshot.generations.get(number)
        return generation if generation is not None and generation.number == number else None

    def seen(self, name: str) -> ControllerClusterReport | None:
        """The leader's report on a cluster; None without a leader, or where it does not know the cluster."""
        return self.leader.clusters.get(name) if self.leader else None

    def not_read_back(self, cluster: ClusterConfig) -> str:
        """Why nothing that is said of this cluster's trust was read back lately; empty where it was."""
        if self.leader is None:
            return self.no_leader
        seen = self.seen(cluster.name.value)
        if seen is None:
            return "the controller does not report this cluster yet"
        if seen.state not in {"ready", "degraded"}:
            return f"the controller cannot reach it: {seen.detail or seen.reason or seen.state}"
        # The server is heard of at least once within watch_silence or the reflector takes the watch for dead;
        # twice that leaves room for the reconnection.
        longest = 2 * cluster.timeouts.watch_silence + HEARTBEATS * LONGEST_HEARTBEAT
        read_back = seen.publication.read_back
        if not 0 < read_back <= self.now + HEARTBEATS * LONGEST_HEARTBEAT:
            return "nothing has been read back from it yet"
        if self.now - read_back > longest:
            return f"it was last read back {elapsed(self.now - read_back)} ago"
        return ""

    @property
    def no_leader(self) -> str:
        """Why no leader counts; empty where one does."""
        if self.leader is not None:
            return ""
        if self.last_leader is None:
            return "no controller has reported as leader yet"
        return f"the leading controller was last heard of {elapsed(self.now - self.last_leader.updated)} ago"

    @property
    def nothing_in_force(self) -> str:
        """Why no generation is in force; empty where one is."""
        if self.in_force is not None:
            return ""
        current = self.snapshot.current
        if current is None:
            return "no generation of trust has been put in force"
        if current.number not in self.snapshot.generations:
            return f"generation {current.number} is in force, but its document cannot be read"
        return f"generation {current.number} does not have the digest that was put in force"


def _in_force(snapshot: Snapshot) -> Generation | None:
    current = snapshot.current
    generation = snapshot.generations.get(current.number) if current else None
    if current is None or generation is None or generation.number != current.number:
        return None
    return generation if generation.sha256 == current.sha256 else None
