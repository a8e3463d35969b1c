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

from asyncio import CancelledError
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from types import TracebackType
from typing import Final, Self

from msgspec.structs import replace

from federation.core.clock import Clock
from federation.core.documents.signer import REMOVED_CLUSTER, Histogram, RefusalsReport
from federation.core.errors import FederationError

NO_CLUSTER: Final = "-"
"""In place of a cluster, for callers whose cluster is not known; no cluster can have that name."""

MOST_TEXT: Final = 400  # characters of a reason in words

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: a lean handler takes a fifth of the first, a listener's deadline is the last."""


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

    def __init__(self) -> None:
        self._clusters: dict[str, _Cluster] = {}
        self._latency = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self.issued = 0
        self.removed = RefusalsReport()
        """Callers of clusters that were removed: apart, so that they take the place of no other that is refused."""

    def count_issued(self, cluster: str, *, seconds: float, now: float, own: bool = False) -> None:
        """A certificate was issued at ``now`` (seconds since the epoch) and took ``seconds``.

        ``own`` says that it is for one of the hub's own accounts.
        """
        counts = self._of(cluster)
        counts.issued += 1
        counts.last_issued = now
        if own:
            counts.own_issued += 1
        else:
            counts.workload_issued_at = now
            if counts.refusals.count:
                counts.refusals = replace(counts.refusals, count=0, since=0.0)
            if counts.unproven.count:
                counts.unproven = replace(counts.unproven, count=0, since=0.0)
        self.issued += 1
        self._time(seconds)

    def count_refused(self, cluster: str, reason: str, *, seconds: float, own: bool = False) -> None:
        """A request ended without a certificate. ``own`` is only for a caller that was attested."""
        counts = self._of(cluster)
        counts.refused[reason] += 1
        if own:
            counts.own_refused[reason] += 1
        self._time(seconds)

    def note_refusal(self, cluster: str, error: FederationError, *, now: float, proven: bool = True) -> None:
        """Why a caller that is none of the hub's own accounts got nothing at ``now`` (seconds since the epoch).

        ``proven`` says that the cluster is answerable for the caller: its key signed the token, or its API server
        confirmed it. A caller that only names a cluster must not be able to make that cluster look unhealthy.
        """
        counts, is_removed = self._of(cluster), error.reason == REMOVED_CLUSTER
        before = self.removed if is_removed else counts.refusals if proven else counts.unproven
        noted = RefusalsReport(
            count=before.count + 1,
            since=before.since or now,
            last=now,
            reason=error.reason,
            detail=error.what[:MOST_TEXT],
            remedy=error.remedy[:MOST_TEXT],
        )
        if is_removed:
            self.removed = noted
        elif proven:
            counts.refusals = noted
        else:
            counts.unproven = noted

    def recall(self, cluster: str, *, refusals: RefusalsReport, unproven: RefusalsReport) -> None:
        """Take over who had got nothing by the time that this signer was killed."""
        counts = self._of(cluster)
        if not counts.refusals.last:
            counts.refusals = refusals
        if not counts.unproven.last:
            counts.unproven = unproven

    def refusals(self, cluster: str) -> RefusalsReport:
        """Callers of the cluster that got nothing; the hub's own accounts are not among them."""
        counts = self._clusters.get(cluster)
        return counts.refusals if counts is not None else RefusalsReport()

    def unproven(self, cluster: str) -> RefusalsReport:
        """Callers that named the cluster, got nothing, and for whom nothing shows that they are of it."""
        counts = self._clusters.get(cluster)
        return counts.unproven if counts is not None else RefusalsReport()

    def keep(self, clusters: Iterable[str]) -> None:
        """Forget every cluster but these: what is no longer registered is no longer reported."""
        kept = {*clusters, NO_CLUSTER}
        self._clusters = {name: counts for name, counts in self._clusters.items() if name in kept}

    def of(self, cluster: str) -> tuple[int, Mapping[str, int], float]:
        """Issued, refused by reason, and when something was issued last (0: never)."""
        counts = self._clusters.get(cluster) or _Cluster()
        return counts.issued, dict(counts.refused), counts.last_issued

    def own(self, cluster: str) -> tuple[int, Mapping[str, int]]:
        """What of that was issued to, and refused to, the hub's own accounts."""
        counts = self._clusters.get(cluster) or _Cluster()
        return counts.own_issued, dict(counts.own_refused)

    def workload_issued_at(self, cluster: str) -> float:
        """When a caller that is none of the hub's own accounts was last issued a certificate (0: never)."""
        counts = self._clusters.get(cluster) or _Cluster()
        return counts.workload_issued_at

    @property
    def latency(self) -> Histogram:
        """Of every request, however it ended."""
        counts = list(accumulate(self._latency))
        return Histogram(bounds=list(BOUNDS), counts=counts[:-1], total=self._seconds, count=counts[-1])

    def _of(self, cluster: str) -> _Cluster:
        counts = self._clusters.get(cluster)
        if counts is None:
            counts = self._clusters[cluster] = _Cluster()
        return counts

    def _time(self, seconds: float) -> None:
        self._latency[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds


class CountedCall:
    """A context manager around one call: however it ends, it is counted, under what is known of its caller by then.

    ``cluster`` is the named one until one is proved. ``claims_own`` says that the token claims to be of one of the
    hub's own accounts, ``own`` that it was proved; ``proven`` says that the cluster is answerable for the caller.
    """

    __slots__ = ("_accounting", "_began", "_clock", "_slot", "claims_own", "cluster", "own", "proven")

    def __init__(self, accounting: Accounting, clock: Clock) -> None:
        self._accounting = accounting
        self._clock = clock
        self.cluster = NO_CLUSTER
        self.claims_own = self.own = self.proven = False
        self._slot: AbstractContextManager[None] | None = None

    def occupy(self, slot: AbstractContextManager[None]) -> None:
        """Enter it, and leave it when the call ends; one at most."""
        slot.__enter__()
        self._slot = slot

    def __enter__(self) -> Self:
        self._began = self._clock.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._slot is not None:
            self._slot.__exit__(kind, error, trace)
        seconds = self._clock.monotonic() - self._began
        if error is None:
            now = self._clock.now().timestamp()
            self._accounting.count_issued(self.cluster, seconds=seconds, now=now, own=self.own)
            return
        reason = "internal"
        if isinstance(error, FederationError):
            reason = error.reason
            error.where = error.where or self.cluster
            if not self.claims_own:
                now = self._clock.now().timestamp()
                self._accounting.note_refusal(self.cluster, error, now=now, proven=self.proven)
        elif isinstance(error, CancelledError):
            reason = "cancelled"  # the listener's deadline has passed, or the caller has gone
        self._accounting.count_refused(self.cluster, reason, seconds=seconds, own=self.own)


MOST: Final = 65_536
"""Callers remembered: some 10 MiB, and more than renew within an hour at the quotas of cloud CAs."""

SMOOTHING: Final = 64
"""Leaves of one member that their shown lifetime is averaged over."""


@dataclass(slots=True)
class _Member:
    lifetime: float
    ends: OrderedDict[tuple[str, str, str], datetime] = field(default_factory=OrderedDict)


class Renewals:
    """When the certificate of each caller ends, by any key of a caller that begins with its member's name.

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

    def end_of(self, caller: tuple[str, str, str]) -> datetime | None:
        """When the caller's certificate ends; None where none is known."""
        member = self._members.get(caller[0])
        return member.ends.get(caller) if member is not None else None

    def issued(self, caller: tuple[str, str, str], *, at: datetime, not_after: datetime) -> None:
        """It has a new one."""
        member = self._members.get(caller[0])
        if member is None:
            member = self._members[caller[0]] = _Member(self._usual)
        self._count += caller not in member.ends
        member.ends[caller] = not_after
        member.ends.move_to_end(caller)
        if self._count > self._most:
            largest = max(self._members.values(), key=lambda one: len(one.ends))
            largest.ends.popitem(last=False)
            self._count -= 1
        member.lifetime += ((not_after - at).total_seconds() - member.lifetime) / SMOOTHING
