"""What was issued and refused, for whom and why, how long it took, and whose renewal is urgent.

Reasons are the stable tokens of the errors, so their number is bounded; clusters are the registered ones, and what no
cluster can be made answerable for is counted under :data:`NO_CLUSTER`. A delivery is noted before its reply leaves:
what a crash loses is a reply, never the knowledge of it.

Certificates for the hub's own accounts (the probe, istiod's Secret) are in every count, and apart once more: the hub
asks for them itself, so that they say nothing about whether workloads are served. Why callers are refused is kept for
the last one in full, and refusals are counted since the last certificate: while there is none.

**Renewals:** a caller whose certificate ends soon goes before one that has time. When the certificates of callers end
is a memory of this process, bounded and of no consequence for what is issued: what it forgot, or another signer
issued, counts as a caller that has nothing, and goes first. Each member has a part of its own, so that none can make
another's callers be forgotten, or have all leaves seem to live as its own do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from federation.core.documents.signer import Histogram, RefusalsReport
from federation.core.errors import FederationError
from federation.core.identity import ClusterName
from federation.core.rotation.effects import SigningDirectives

NO_CLUSTER: Final = "-"
"""Stands for callers whose cluster is not known; no cluster can bear that name."""

MOST_TEXT: Final = 400  # characters of a reason in words

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: a lean handler takes a fifth of the first, a listener's deadline is the last."""


class Delivery(msgspec.Struct, frozen=True):
    """A leaf about to be handed out: signed by whom, with which trust, usable until when, on which directives."""

    cluster: ClusterName
    authority: str  # SHA-256 of the issuer's certificate; empty while it is not known
    generation: int
    not_after: datetime
    directives: SigningDirectives


class ExpiryBounds(Protocol):
    """Remembers how far leaves reach; may wait for the state store where one reaches farther."""

    async def cover(self, delivery: Delivery) -> None:
        """Return once the delivery is covered by what is persisted.

        Raises StateUnavailable, or Superseded where what it was made by no longer holds: it must not leave.
        """
        ...


@dataclass(slots=True)
class _Cluster:
    issued: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last_issued: float = 0.0
    own_issued: int = 0
    own_refused: Counter[str] = field(default_factory=Counter)
    workload_issued_at: float = 0.0
    refusals: RefusalsReport = field(default_factory=RefusalsReport)
    unproven: RefusalsReport = field(default_factory=RefusalsReport)


class Accounting:
    """Counters of one signer process."""

    def __init__(self, expiry_bounds: ExpiryBounds | None = None) -> None:
        self._expiry_bounds = expiry_bounds
        self._clusters: dict[str, _Cluster] = {}
        self._latency = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self.issued = 0

    async def deliver(self, delivery: Delivery) -> None:
        """Called before a reply leaves; raises StateUnavailable or Superseded where it must not leave."""
        if self._expiry_bounds is not None:
            await self._expiry_bounds.cover(delivery)

    def count_issued(self, cluster: str, *, seconds: float, now: float, own: bool = False) -> None:
        """A certificate was issued at ``now`` (seconds since the epoch) and took ``seconds``.

        ``own`` says that it is for one of the hub's own accounts.
        """
        held = self._of(cluster)
        held.issued += 1
        held.last_issued = now
        if own:
            held.own_issued += 1
        else:
            held.workload_issued_at = now
            if held.refusals.count:
                held.refusals = replace(held.refusals, count=0, since=0.0)
            if held.unproven.count:
                held.unproven = replace(held.unproven, count=0, since=0.0)
        self.issued += 1
        self._time(seconds)

    def count_refused(self, cluster: str, reason: str, *, seconds: float, own: bool = False) -> None:
        """A request ended without a certificate. ``own`` is only for a caller that was attested."""
        held = self._of(cluster)
        held.refused[reason] += 1
        if own:
            held.own_refused[reason] += 1
        self._time(seconds)

    def note_refusal(self, cluster: str, error: FederationError, *, now: float, proven: bool = True) -> None:
        """Why a caller that is none of the hub's own accounts got nothing at ``now`` (seconds since the epoch).

        ``proven`` says that the cluster is answerable for the caller: its key signed the token, or its API server
        vouched for it. Who only names a cluster must not be able to make that cluster look ill.
        """
        held = self._of(cluster)
        before = held.refusals if proven else held.unproven
        noted = RefusalsReport(
            count=before.count + 1,
            since=before.since or now,
            last=now,
            reason=error.reason,
            detail=error.what[:MOST_TEXT],
            remedy=error.remedy[:MOST_TEXT],
        )
        if proven:
            held.refusals = noted
        else:
            held.unproven = noted

    def recall(self, cluster: str, *, refusals: RefusalsReport, unproven: RefusalsReport) -> None:
        """Take over who had got nothing by the time that this signer was killed."""
        held = self._of(cluster)
        if not held.refusals.last:
            held.refusals = refusals
        if not held.unproven.last:
            held.unproven = unproven

    def refusals(self, cluster: str) -> RefusalsReport:
        """Callers of the cluster that got nothing; the hub's own accounts are not among them."""
        held = self._clusters.get(cluster)
        return held.refusals if held is not None else RefusalsReport()

    def unproven(self, cluster: str) -> RefusalsReport:
        """Callers that named the cluster, got nothing, and for whom nothing shows that they are of it."""
        held = self._clusters.get(cluster)
        return held.unproven if held is not None else RefusalsReport()

    def keep(self, clusters: Iterable[str]) -> None:
        """Forget every cluster but these: what is no longer registered is no longer reported."""
        kept = {*clusters, NO_CLUSTER}
        self._clusters = {name: held for name, held in self._clusters.items() if name in kept}

    def of(self, cluster: str) -> tuple[int, Mapping[str, int], float]:
        """Issued, refused by reason, and when something was issued last (0: never)."""
        held = self._clusters.get(cluster) or _Cluster()
        return held.issued, dict(held.refused), held.last_issued

    def own(self, cluster: str) -> tuple[int, Mapping[str, int]]:
        """What of that was issued to, and refused to, the hub's own accounts."""
        held = self._clusters.get(cluster) or _Cluster()
        return held.own_issued, dict(held.own_refused)

    def workload_issued_at(self, cluster: str) -> float:
        """When a caller that is none of the hub's own accounts was last issued a certificate (0: never)."""
        held = self._clusters.get(cluster) or _Cluster()
        return held.workload_issued_at

    @property
    def latency(self) -> Histogram:
        """Of every request, however it ended."""
        counts = list(accumulate(self._latency))
        return Histogram(bounds=list(BOUNDS), counts=counts[:-1], total=self._seconds, count=counts[-1])

    def _of(self, cluster: str) -> _Cluster:
        return self._clusters.setdefault(cluster, _Cluster())

    def _time(self, seconds: float) -> None:
        self._latency[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds


MOST: Final = 65_536
"""Callers remembered: some 10 MiB, and more than renew within an hour at the quotas of cloud CAs."""

SMOOTHING: Final = 64
"""Leaves of one member that their shown lifetime is averaged over."""


@dataclass(slots=True)
class _Member:
    lifetime: float
    held: OrderedDict[tuple[str, str, str], datetime] = field(default_factory=OrderedDict)


class Renewals:
    """What was issued to whom, by any key that tells callers apart and begins with the member's name.

    ``usual`` is a lifetime to begin with. Of ``most`` callers in all each member has at least its equal part: where
    they are used up, the member with the most forgets the one that it has known longest.
    """

    def __init__(self, usual: timedelta, *, most: int = MOST) -> None:
        self._members: dict[str, _Member] = {}
        self._usual = usual.total_seconds()
        self._most = most
        self._count = 0

    @property
    def lifetime(self) -> float:
        """How long leaves live at present, in seconds: the mean over the members of the last ones of each.

        Each member counts once, however much it asks for.
        """
        each = [member.lifetime for member in self._members.values()]
        return sum(each) / len(each) if each else self._usual

    def held(self, caller: tuple[str, str, str]) -> datetime | None:
        """When what this caller holds ends; None where nothing is known."""
        member = self._members.get(caller[0])
        return member.held.get(caller) if member is not None else None

    def issued(self, caller: tuple[str, str, str], *, at: datetime, not_after: datetime) -> None:
        """It has a new one."""
        member = self._members.setdefault(caller[0], _Member(self._usual))
        self._count += caller not in member.held
        member.held[caller] = not_after
        member.held.move_to_end(caller)
        if self._count > self._most:
            largest = max(self._members.values(), key=lambda one: len(one.held))
            largest.held.popitem(last=False)
            self._count -= 1
        member.lifetime += ((not_after - at).total_seconds() - member.lifetime) / SMOOTHING
