"""What is observed, as the gates see it: facts with their times, and nothing that was merely sent. Values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.core.trust.horizons import Delivered


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """One registered cluster.

    ``held`` are the anchors that every publication target was read back to hold (the intersection), None
    where that is not known; ``current`` says that all of them held the generation that is meant for them by
    now, which may be a later one than was meant when they were read.
    ``unknown_until`` is how long leaves from before the hub may live: they may need any root, and trust none
    of the hub's. ``own_issues`` says that a CA of its own goes on issuing there: then that end is only where
    it is at this moment.
    """

    held: frozenset[str] | None
    current: bool = False
    read_back_at: float = 0.0
    unknown_until: float = 0.0
    own_issues: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerFacts:
    """One signer that is heard of: which intermediates it has ready, and which orders it follows."""

    ready_with: frozenset[str]
    generation: int
    rotation: int = 0
    state: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """One ordered pair of clusters: whether it validated, when, and who had issued both leaves.

    ``client_held`` and ``server_held`` are the generation that every namespace of that side held when it was
    tried, 0 where they held different ones or another one than was meant for them.
    """

    valid: bool
    computed: float
    client_issuer: str = ""
    server_issuer: str = ""
    client_held: int = 0
    server_held: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Whether the new authority's back end can carry the renewals of all workloads.

    ``rate`` is asked of it at the peak and ``quota`` what it allows, in certificates per second; 0: no limit.
    Before ``known_from`` (seconds since the epoch) the rate was not measured for long enough to say anything.
    """

    rate: float = 0.0
    quota: float = 0.0
    known_from: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything the gates look at, at ``now`` (seconds since the epoch).

    ``generations`` are the anchors of each generation that may still be delivered or held. ``fresh`` is how
    old a read-back or a proof may be, ``skew`` how far clocks may differ, both in seconds. ``validated`` is
    why the new authority must not be used; empty where it was found good.

    ``behind`` are clusters that get an older generation than the one in force. ``pins`` are the pinned roots,
    ``staged`` those of them that only a rotation publishes. ``unwritten`` is why what the record asks for could
    not be written at the last attempt; empty where it could.

    What is in force is read before the horizons, and both after everything that follows from the record was
    persisted: a leaf that the horizons do not cover yet is then delivered by what is in force now, or later.
    """

    now: float
    clusters: Mapping[str, ClusterFacts]
    horizons: Mapping[Delivered, float]
    generations: Mapping[int, frozenset[str]]
    in_force: int
    behind: Mapping[str, int] = field(default_factory=dict)
    pins: frozenset[str] = frozenset()
    staged: frozenset[str] = frozenset()
    unwritten: str = ""
    signers: Mapping[str, SignerFacts] = field(default_factory=dict)
    pairs: Mapping[tuple[str, str], PairFacts] = field(default_factory=dict)
    capacity: Capacity = Capacity()
    validated: str = "it was not validated yet"
    fresh: float = 60.0
    skew: float = 60.0
