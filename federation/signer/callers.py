"""Which pods have got certificates, and until when these are valid: by this signer, and by what the others persist.

Kept is a digest of a pod's UID and an end for each, so that a mesh of 65,536 pods takes half a megabyte in the state
store. A pod asks whichever signer it reaches, so that what one knows is little: each writes its own and reads the
others' (``callers_store.py``), and a pod counts with the latest end that any of them knows.

What is not known is reported, and never guessed: a cluster's ``known_from`` is the time before which pods may hold
certificates that no table has, because a signer was killed between two writes or a table was full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from math import ceil, isfinite
from typing import Final

from federation.core.errors import InvalidValue
from federation.core.identity import ClusterName
from federation.state.damage import damaged
from federation.state.documents import CallersOfCluster, CallersTable

MOST_PODS: Final = 65_536
"""In one table, and as many as all others together may add. Where they are used up, the cluster that has the most gives
way to those that have fewer: no member can use up what the others need."""

GIVES_WAY: Final = 256  # pods at a time: to find the largest takes a look at every cluster

DIGEST: Final = 5
"""Bytes of a digest: of 65,536 pods one in ten million is taken for another one."""

LATELY: Final = 60.0
"""Seconds for which a pod that is not seen is kept: a watch may lag, and TokenReview has vouched for the pod."""

KEPT: Final = (
    86400.0  # seconds for which an ended certificate is remembered where it is not known which pods live
)
SMOOTHING: Final = 64  # certificates that the mean lifetime is taken over
_LATEST: Final = 2**32 - 1

Ends = Mapping[int, int]
"""Digests of pods, each with the second in which its certificate ends."""

Known = Mapping[str, tuple[Ends, float]]
"""For each cluster the pods, and the time before which some may be missing."""


def digest_of(uid: str) -> int:
    """The digest of a pod's UID."""
    return int.from_bytes(blake2b(uid.encode(), digest_size=DIGEST).digest())


@dataclass(slots=True)
class _Cluster:
    pods: dict[int, int] = field(default_factory=dict)
    recent: set[int] = field(
        default_factory=set
    )  # noted lately, since ``turned``: newer than the watch, perhaps
    before: set[int] = field(default_factory=set)  # noted in the time before that
    turned: float = 0.0
    known_from: float = 0.0
    lifetime: float = 0.0


class Callers:
    """The pods of every cluster that got certificates."""

    def __init__(self) -> None:
        self._clusters: dict[str, _Cluster] = {}
        self._others: dict[str, dict[int, int]] = {}
        self._others_from: dict[str, float] = {}
        self._everywhere = 0.0
        self._count = 0
        self.changed = False
        """Whether this signer knows more than it has persisted."""

        self.open = False
        """Whether the table that is persisted says that it may lack the newest. Before, nothing may be issued."""

    def issued(self, cluster: str, uid: str, *, at: datetime, not_after: datetime) -> None:
        """A pod of the cluster (its UID; empty where the token names none) got a certificate."""
        held = self._clusters.setdefault(cluster, _Cluster())
        life = (not_after - at).total_seconds()
        held.lifetime = held.lifetime + (life - held.lifetime) / SMOOTHING if held.lifetime else life
        if uid:
            self._note(held, digest_of(uid), not_after.timestamp())

    def _note(self, held: _Cluster, pod: int, ends: float) -> None:
        second = min(ceil(ends), _LATEST)
        if pod not in held.pods:
            if self._count >= MOST_PODS and not self._make_room(held):
                held.known_from = max(held.known_from, ends)
                self.changed = True
                return
            self._count += 1
        held.recent.add(pod)
        if second > held.pods.get(pod, 0):
            held.pods[pod] = second
            self.changed = True

    def _make_room(self, wanting: _Cluster) -> bool:
        """Forget some of the cluster that has the most, if that is another one and has more."""
        largest = max(self._clusters.values(), key=lambda held: len(held.pods))
        lost = _taken(largest.pods, len(wanting.pods))
        if not lost:
            return False
        self._count -= len(lost)
        largest.known_from = max(largest.known_from, *lost)
        return True

    def ends(self, cluster: str) -> tuple[Ends, Ends]:
        """When what each pod holds ends: by this signer, and by the others. The later one counts."""
        held = self._clusters.get(cluster)
        return held.pods if held is not None else {}, self._others.get(cluster, {})

    def known_from(self, cluster: str) -> float:
        """Before when (seconds since the epoch) pods may hold certificates that nothing is known of."""
        held = self._clusters.get(cluster)
        own = held.known_from if held is not None else 0.0
        return max(own, self._others_from.get(cluster, 0.0), self._everywhere)

    def lifetime(self, cluster: str) -> float:
        """How long certificates for its workloads live, on average, in seconds; 0 where none was issued here."""
        held = self._clusters.get(cluster)
        return held.lifetime if held is not None else 0.0

    @property
    def shortest_lifetime(self) -> float:
        """The least of all clusters, in seconds; 0 where nothing was issued."""
        return min((held.lifetime for held in self._clusters.values() if held.lifetime), default=0.0)

    def doubt(self, cluster: str, until: float) -> None:
        """Pods may hold certificates until then (seconds since the epoch) that nothing is known of."""
        held = self._clusters.setdefault(cluster, _Cluster())
        if until > held.known_from:
            held.known_from = until
            self.changed = True

    def adopt(self, persisted: Known) -> None:
        """Take over what a signer has persisted that is gone, or an earlier process of this name."""
        for name, (pods, known_from) in persisted.items():
            held = self._clusters.setdefault(name, _Cluster())
            for pod, ends in pods.items():
                self._note(held, pod, ends)
            self.doubt(name, known_from)

    def learn(self, tables: Iterable[Known], doubts: Mapping[str, float], *, everywhere: float = 0.0) -> None:
        """What the others persist now, instead of what they did before, and until when each cluster is in doubt.

        ``everywhere`` is until when all of them are, whichever there are.
        """
        self._everywhere = everywhere
        others: dict[str, dict[int, int]] = {}
        known_from, count, full = dict(doubts), 0, set[str]()
        for table in tables:
            for name, (pods, doubtful) in table.items():
                held = others.setdefault(name, {})
                known_from[name] = max(doubtful, known_from.get(name, 0.0))
                for pod, ends in pods.items():
                    if pod not in held:
                        if count >= MOST_PODS:
                            largest = (
                                max(others, key=lambda other: len(others[other]))
                                if name not in full
                                else name
                            )
                            lost = _taken(others[largest], len(held))
                            if not lost:
                                full.add(name)
                                known_from[name] = max(ends, known_from[name])
                                continue
                            count -= len(lost)
                            known_from[largest] = max(known_from[largest], *lost)
                        count += 1
                    held[pod] = max(ends, held.get(pod, 0))
        self._others, self._others_from = others, known_from

    def prune(self, cluster: str, live: frozenset[int] | None, now: float) -> None:
        """Forget pods that are gone, and what another signer knows better.

        ``live`` are the pods that are there; None: not known, then what has ended long ago is forgotten.
        """
        held = self._clusters.get(cluster)
        if held is None:
            return
        others, recent = self._others.get(cluster, {}), held.recent | held.before
        if now - held.turned > LATELY:
            held.recent, held.before, held.turned = set(), held.recent, now
        kept = {
            pod: ends
            for pod, ends in held.pods.items()
            if (pod in recent or (pod in live if live is not None else ends + KEPT > now))
            and others.get(pod, 0) <= ends
        }
        self._count -= len(held.pods) - len(kept)
        self.changed = self.changed or len(kept) < len(held.pods)
        held.pods = kept

    @property
    def clusters(self) -> tuple[str, ...]:
        """Those that something is known of by this signer itself."""
        return tuple(self._clusters)

    def table(self, replica: str, *, closed: bool) -> CallersTable:
        """What this signer knows by itself, to be persisted; :attr:`changed` is false from then on."""
        self.changed = False
        return CallersTable(
            replica=replica,
            closed=closed,
            clusters={
                name: packed(held.pods, held.known_from)
                for name, held in sorted(self._clusters.items())
                if held.pods or held.known_from
            },
        )


def _taken(largest: dict[int, int], fewer: int) -> list[int]:
    """When the certificates end of those that were taken from the cluster with the most pods, for one with fewer."""
    number = min(GIVES_WAY, (len(largest) - fewer) // 2)
    return [largest.popitem()[1] for _ in range(number)]


def packed(pods: Ends, known_from: float) -> CallersOfCluster:
    """The form that is persisted."""
    each = sorted(pods.items())
    return CallersOfCluster(
        pods=b"".join(pod.to_bytes(DIGEST) for pod, _ in each),
        ends=b"".join(ends.to_bytes(4) for _, ends in each),
        known_from=known_from,
    )


def unpacked(table: CallersTable, *, key: str) -> Known:
    """What a table holds; raises StateDamaged for what cannot be one."""
    found: dict[str, tuple[Ends, float]] = {}
    count = 0
    for name, cluster in table.clusters.items():
        try:
            ClusterName(name)
        except InvalidValue as error:
            raise damaged(error.what, key=key, where=key) from None
        rows = len(cluster.ends) // 4
        count += rows
        if len(cluster.pods) != DIGEST * rows or len(cluster.ends) != 4 * rows or count > MOST_PODS:
            raise damaged("its pods and their ends do not agree, or are too many", key=key, where=key)
        if not (isfinite(cluster.known_from) and 0 <= cluster.known_from <= _LATEST):
            raise damaged("it is in doubt until a time that there is not", key=key, where=key)
        found[name] = (
            {
                int.from_bytes(cluster.pods[DIGEST * row : DIGEST * (row + 1)]): int.from_bytes(
                    cluster.ends[4 * row : 4 * (row + 1)]
                )
                for row in range(rows)
            },
            cluster.known_from,
        )
    return found
