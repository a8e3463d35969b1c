"""What is observed, as the gates see it: facts with their times, and nothing that was merely sent. Values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.core.trust.expiry_bounds import Delivered
from federation.core.trust.liveness import SignsOfLife


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """A certificate of istiod's that the hub provides, as its Secret was read back.

    ``issuer`` is the SHA-256 of the intermediate that issued it and ``root`` that of the anchor that verifies it
    (empty: not known), ``anchors`` are those in its ``ca.crt``; None where that is not known, or where it was read
    back at ``read_back_at`` to hold nothing that serves. ``current`` says that this file is the bundle meant for the
    cluster to the byte.
    """

    name: str  # namespace/secret
    issuer: str = ""
    root: str = ""
    anchors: frozenset[str] | None = None
    current: bool = False
    not_after: float = 0.0
    read_back_at: float = 0.0
    detail: str = ""  # why it is not as it should be


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook configuration that calls an istiod: ``anchors`` are those that each of its caBundles has."""

    name: str  # kind/name
    istiod: str  # namespace/service that it calls, or https://HOST of one in another cluster
    revision: str = ""
    anchors: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """One registered cluster.

    ``anchors`` are those that every publication target was read back to hold (the intersection), None where that is
    not known; ``current`` says that all of them had the generation that is meant for them by now, which may be a
    later one than was meant when they were read. ``control_planes`` are the certificates of istiods that the hub
    provides; ``webhooks`` those of Istio that were found, None where they could not be read, with ``webhooks_detail``
    as the reason and what to do, and ``webhooks_read_at`` when they were last read. ``life`` is None where nothing is
    known of the cluster's callers. ``unknown_until`` is how long leaves from before the hub may live: they may need
    any root, and trust none of the hub's. ``own_issues`` says that a CA of its own goes on issuing there: then that
    end is only where it is at this moment.
    """

    anchors: frozenset[str] | None
    current: bool = False
    read_back_at: float = 0.0
    unknown_until: float = 0.0
    own_issues: bool = False
    detail: str = ""
    control_planes: tuple[ControlPlane, ...] = ()
    webhooks: tuple[Webhook, ...] | None = ()
    webhooks_detail: str = ""
    webhooks_read_at: float = 0.0
    life: SignsOfLife | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerFacts:
    """One signer that is live: which intermediates it has ready, and which directives it follows.

    ``until_restart`` are those that its configuration no longer names, so that it has them only until then.
    ``listener`` is the intermediate that issued the certificate of its listener; empty while that is not known.
    ``listener_proved_at`` is when a new connection last accepted the very certificate that its listener shows now, by
    the anchors of ``listener_generation``; 0 where none has, with ``listener_detail`` as the reason.
    """

    ready_with: frozenset[str]
    generation: int
    rotation: int = 0
    state: str = ""
    until_restart: frozenset[str] = frozenset()
    detail: str = ""
    listener: str = ""
    listener_proved_at: float = 0.0
    listener_generation: int = 0
    listener_detail: str = "no new connection has met it yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """One ordered pair of clusters: whether it validated, when, and who had issued both leaves.

    ``client_generation`` and ``server_generation`` are the one that every namespace of that side had when it was
    tried, 0 where they had different ones or another one than was meant for them.
    """

    valid: bool
    computed: float
    client_issuer: str = ""
    server_issuer: str = ""
    client_generation: int = 0
    server_generation: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Whether the new authority's back end can carry the renewals of all workloads.

    ``rate`` is requested of it at the peak and ``quota`` what it allows, in certificates per second; 0: no limit.
    Before ``known_from`` (seconds since the epoch) the rate was not measured for long enough to say anything.
    """

    rate: float = 0.0
    quota: float = 0.0
    known_from: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything the gates look at, at ``now`` (seconds since the epoch).

    ``generations`` are the anchors of each generation that may still be delivered or be in use. ``fresh`` is how
    old a read-back or a proof may be, ``skew`` how far clocks may differ, both in seconds. ``validated`` is
    why the new authority must not be used; None where it was found good.

    ``gone`` are clusters that were registered, and until when leaves from before the hub may live there (seconds since
    the epoch).

    ``behind`` are clusters that get an older generation than the one in force. ``pins`` are the pinned roots,
    ``staged`` those of them that only a rotation publishes. ``unwritten`` is why what the record asks for could
    not be written at the last attempt; None where it could. ``refused`` says of each process that refuses its newest
    configuration why, in words: until it is corrected it is not known what the operators want.

    What is in force is read before the expiry bounds, and both after everything that follows from the record was
    persisted: a leaf that the expiry bounds do not cover yet is then delivered by what is in force now, or later.
    """

    now: float
    clusters: Mapping[str, ClusterFacts]
    expiry_bounds: Mapping[Delivered, float]
    generations: Mapping[int, frozenset[str]]
    in_force: int
    behind: Mapping[str, int] = field(default_factory=dict)
    pins: frozenset[str] = frozenset()
    staged: frozenset[str] = frozenset()
    unwritten: str | None = None
    refused: tuple[str, ...] = ()
    gone: Mapping[str, float] = field(default_factory=dict)
    signers: Mapping[str, SignerFacts] = field(default_factory=dict)
    pairs: Mapping[tuple[str, str], PairFacts] = field(default_factory=dict)
    capacity: Capacity = Capacity()
    validated: str | None = "it was not validated yet"
    fresh: float = 60.0
    skew: float = 60.0
