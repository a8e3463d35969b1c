"""Which pods have certificates, and until when these are valid: by this signer, and by what the others persist.

Kept is a digest of a pod's UID and an end for each, so that a mesh of 65,536 pods takes half a megabyte in the state
store. A pod asks whichever signer it reaches, so one signer knows little: each writes its own under
``callers/<replica>`` and reads the others', and a pod counts with the latest end that any of them knows.

What is not known is reported, and never guessed: a cluster's ``known_from`` is the time before which pods may have
certificates that no table has, because a signer was killed between two writes or a table was full.

**Sharing.** A signer writes what it knows when that has changed, and reads what the others wrote, often enough for
the shortest certificates and at most every two seconds. What a signer that is gone has left is taken over by those
that are alive, before the leader removes it. A signer that was killed may have issued certificates that are in no
table. How far those can reach is known: its expiry bound is written ahead of every certificate (``expiry_bounds.py``).
So until that has passed, it is not known of its clusters which pods hold none; where its expiry bound cannot be read,
that is not known of any cluster. The same goes for a signer that wrote no table at all, such as one of a release that
knew of none. One that ends in good order closes its table, and opens it again before it issues. The same documents hold
which member published each token key first (``attestation/token_keys.py``), so that no restart makes another member the
first.

**Workloads.** Of the pods of each cluster: which have a sidecar, which have asked the hub, and which hold a
certificate now. Counted again and again from the watched metadata of pods and from what all signers have issued. An
address of the CA is written into a pod when its sidecar is injected (``CA_ADDR``), so that one which was not
restarted since never asks the hub: those are named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from math import ceil, isfinite
from typing import Final

import msgspec

from federation.core.clock import Clock
from federation.core.config.clusters import LONGEST_TTL, ClusterConfig
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import CALLERS, EXPIRY_BOUNDS, SIGNERS, StateDamaged, damaged
from federation.core.documents.signer import CallersOfCluster, CallersTable, ExpiryBoundTable, WorkloadsReport
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import ClusterName
from federation.kubernetes.objects import PodMeta
from federation.signer.attestation.attestor import REVIEW, ClusterAttestor
from federation.signer.attestation.token_keys import Claims, KeyClaims, claims_in
from federation.state.liveness import is_live
from federation.state.store import StateStore, Stored, read_many

_logger = logging.getLogger(__name__)

MOST_PODS: Final = 65_536
"""In one table, and as many as all others together may add. Where they are used up, the cluster that has the most gives
way to those that have fewer: no member can use up what the others need."""

GIVES_WAY: Final = 256  # pods at a time: to find the largest takes a look at every cluster

DIGEST: Final = 5
"""Bytes of a digest: of 65,536 pods one in ten million is taken for another one."""

RECENT: Final = 60.0
"""Seconds for which a pod that is not seen is kept: a watch may lag, and TokenReview has confirmed the pod."""

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
    recent: set[int] = field(default_factory=set)  # noted since ``turned``: newer than the watch, perhaps
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
        record = self._clusters.get(cluster)
        if record is None:
            record = self._clusters[cluster] = _Cluster()
        life = (not_after - at).total_seconds()
        record.lifetime = record.lifetime + (life - record.lifetime) / SMOOTHING if record.lifetime else life
        if uid:
            self._note(record, digest_of(uid), not_after.timestamp())

    def _note(self, record: _Cluster, pod: int, ends: float) -> None:
        second = min(ceil(ends), _LATEST)
        if pod not in record.pods:
            if self._count >= MOST_PODS and not self._make_room(record):
                record.known_from = max(record.known_from, ends)
                self.changed = True
                return
            self._count += 1
        record.recent.add(pod)
        if second > record.pods.get(pod, 0):
            record.pods[pod] = second
            self.changed = True

    def _make_room(self, wanting: _Cluster) -> bool:
        """Forget some of the cluster that has the most, if that is another one and has more."""
        largest = max(self._clusters.values(), key=lambda record: len(record.pods))
        lost = _taken(largest.pods, len(wanting.pods))
        if not lost:
            return False
        self._count -= len(lost)
        largest.known_from = max(largest.known_from, *lost)
        return True

    def ends(self, cluster: str) -> tuple[Ends, Ends]:
        """When each pod's certificate ends: by this signer, and by the others. The later one counts."""
        record = self._clusters.get(cluster)
        return record.pods if record is not None else {}, self._others.get(cluster, {})

    def known_from(self, cluster: str) -> float:
        """Before when (seconds since the epoch) pods may have certificates that nothing is known of."""
        record = self._clusters.get(cluster)
        own = record.known_from if record is not None else 0.0
        return max(own, self._others_from.get(cluster, 0.0), self._everywhere)

    def lifetime(self, cluster: str) -> float:
        """How long certificates for its workloads live, on average, in seconds; 0 where none was issued here."""
        record = self._clusters.get(cluster)
        return record.lifetime if record is not None else 0.0

    @property
    def shortest_lifetime(self) -> float:
        """The least of all clusters, in seconds; 0 where nothing was issued."""
        return min((record.lifetime for record in self._clusters.values() if record.lifetime), default=0.0)

    def suspect(self, cluster: str, until: float) -> None:
        """Pods may have certificates until then (seconds since the epoch) that nothing is known of."""
        record = self._clusters.setdefault(cluster, _Cluster())
        if until > record.known_from:
            record.known_from = until
            self.changed = True

    def adopt(self, persisted: Known) -> None:
        """Take over what a signer has persisted that is gone, or an earlier process of this name."""
        for name, (pods, known_from) in persisted.items():
            record = self._clusters.setdefault(name, _Cluster())
            for pod, ends in pods.items():
                self._note(record, pod, ends)
            self.suspect(name, known_from)

    def learn(
        self, tables: Iterable[Known], unknown_until: Mapping[str, float], *, everywhere: float = 0.0
    ) -> None:
        """What the others persist now, instead of what they did before.

        ``unknown_until`` says of clusters until when pods may have certificates that no table has, ``everywhere`` says
        it of all clusters.
        """
        self._everywhere = everywhere
        others: dict[str, dict[int, int]] = {}
        known_from, count, full = dict(unknown_until), 0, set[str]()
        for table in tables:
            for name, (pods, suspect) in table.items():
                pods_of = others.setdefault(name, {})
                known_from[name] = max(suspect, known_from.get(name, 0.0))
                for pod, ends in pods.items():
                    if pod not in pods_of:
                        if count >= MOST_PODS:
                            largest = (
                                max(others, key=lambda other: len(others[other]))
                                if name not in full
                                else name
                            )
                            lost = _taken(others[largest], len(pods_of))
                            if not lost:
                                full.add(name)
                                known_from[name] = max(ends, known_from[name])
                                continue
                            count -= len(lost)
                            known_from[largest] = max(known_from[largest], *lost)
                        count += 1
                    pods_of[pod] = max(ends, pods_of.get(pod, 0))
        self._others, self._others_from = others, known_from

    def prune(self, cluster: str, live: frozenset[int] | None, now: float) -> None:
        """Forget pods that are gone, and what another signer knows better.

        ``live`` are the pods that are there; None: not known, then what has ended long ago is forgotten.
        """
        record = self._clusters.get(cluster)
        if record is None:
            return
        others, recent = self._others.get(cluster, {}), record.recent | record.before
        if now - record.turned > RECENT:
            record.recent, record.before, record.turned = set(), record.recent, now
        kept = {
            pod: ends
            for pod, ends in record.pods.items()
            if (pod in recent or (pod in live if live is not None else ends + KEPT > now))
            and others.get(pod, 0) <= ends
        }
        self._count -= len(record.pods) - len(kept)
        self.changed = self.changed or len(kept) < len(record.pods)
        record.pods = kept

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
                name: packed(record.pods, record.known_from)
                for name, record in sorted(self._clusters.items())
                if record.pods or record.known_from
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
            raise damaged("its known_from is no time", key=key, where=key)
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


SHORTEST: Final = 2.0  # seconds between two looks
LONGEST: Final = 30.0
POLLS_IN_A_LIFETIME: Final = 20.0
RETRY: Final = 1.0
TIMEOUT: Final = 15.0
MOST_SIGNERS: Final = 512

_Documents = Mapping[str, Stored | StateDamaged | None]


class _Beat(msgspec.Struct, frozen=True):
    """The part of a signer's report that shows whether its writer is alive."""

    updated: float
    heartbeat: float


class SharedCallers:
    """Keeps :class:`Callers` in step with the store. ``usual_life`` is how long certificates live by policy."""

    def __init__(
        self,
        store: StateStore,
        *,
        replica: str,
        clock: Clock,
        callers: Callers,
        usual_life: Callable[[], float],
        claims: KeyClaims | None = None,
    ) -> None:
        self._store = store
        self._replica = replica
        self._clock = clock
        self._callers = callers
        self._claims = claims or KeyClaims()
        self._usual_life = usual_life
        self._unread = ""
        self._adopted: dict[str, str] = {}  # with the version that was taken over
        self.problem: StateUnavailable | None = StateUnavailable(
            "which pods hold certificates was not read yet", where=CALLERS
        )

    async def run(self) -> None:
        """Read, write and read the others' until cancelled; a store that fails is tried again."""
        while True:
            await self.share()
            await self._pause(RETRY if self.problem is not None else self._interval)

    async def _pause(self, seconds: float) -> None:
        """Sleep; a token key that was first seen just now is persisted at once, or a restart would forget it."""
        waits = {
            asyncio.create_task(self._clock.sleep(seconds)),
            *([asyncio.create_task(self._claims.news.wait())] if self.problem is None else ()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    @property
    def _interval(self) -> float:
        life = self._callers.shortest_lifetime or self._usual_life()
        return min(LONGEST, max(SHORTEST, min(life, self._usual_life()) / POLLS_IN_A_LIFETIME))

    async def share(self) -> None:
        """Once; what goes wrong is kept as :attr:`problem`."""
        try:
            async with asyncio.timeout(TIMEOUT):
                if not self._callers.open:
                    await self._load()
                await self._look()
                self._claims.open = True
                if self._callers.changed or self._claims.news.is_set():
                    await self._write(closed=False)
        except TimeoutError:
            self._fail(StateUnavailable(f"no answer in {TIMEOUT:g} s", where=CALLERS))
        except StateUnavailable as error:
            self._fail(error)
        else:
            self.problem = None

    async def close(self) -> None:
        """Write for the last time: nothing is issued any more, so that what is written is all there is."""
        if not self._callers.open:
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._write(closed=True)
        except (StateUnavailable, TimeoutError) as error:
            _logger.warning("which pods hold certificates cannot be written: %s", str(error) or "no answer")

    async def _load(self) -> None:
        """What an earlier process of this name has left. Before this, nothing is written over it."""
        key = f"{CALLERS}{self._replica}"
        found = await read_many(self._store, [key, f"{EXPIRY_BOUNDS}{self._replica}"])
        table = _table(key, found[key])
        if table is not None:
            self._callers.adopt(table.known)
            self._claims.adopt(table.claims)
        if table is None or not table.closed:
            for cluster, until in _reach(f"{EXPIRY_BOUNDS}{self._replica}", found).items():
                self._callers.suspect(cluster, until)
        await self._write(closed=False)
        self._callers.open = True

    async def _look(self) -> None:
        """What the other signers know, those that are gone included."""
        keys = [*await self._store.keys(CALLERS), *await self._store.keys(EXPIRY_BOUNDS)]
        replicas = sorted({key.partition("/")[2] for key in keys} - {self._replica})[:MOST_SIGNERS]
        now = self._clock.now().timestamp()
        reports = await read_many(self._store, [f"{SIGNERS}{replica}" for replica in replicas])
        alive = {replica: _is_live(reports[f"{SIGNERS}{replica}"], now) for replica in replicas}
        documents = await read_many(self._store, [f"{CALLERS}{replica}" for replica in replicas])
        tables: list[Known] = []
        suspect: list[str] = []
        for replica in replicas:
            key = f"{CALLERS}{replica}"
            table = _table(key, documents[key])
            if table is None or not (table.closed or alive[replica]):
                suspect.append(f"{EXPIRY_BOUNDS}{replica}")
            if table is None:
                continue
            tables.append(table.known)
            self._claims.adopt(table.claims)
            if not alive[replica] and self._adopted.get(key) != table.version:
                self._callers.adopt(table.known)  # its document is not kept for ever
                self._adopted[key] = table.version
            await asyncio.sleep(0)
        unknown_until: dict[str, float] = {}
        everywhere, unread = 0.0, ""
        expiry_bounds = await read_many(self._store, suspect)
        for key in suspect:
            try:
                reach = _reach(key, expiry_bounds)
            except StateDamaged as error:
                everywhere, unread = now + LONGEST_TTL, error.diagnostics()
                continue
            for cluster, until in reach.items():
                unknown_until[cluster] = max(until, unknown_until.get(cluster, 0.0))
        if unread and unread != self._unread:
            _logger.error(
                "pods of any cluster may have certificates that are not known: a signer's expiry bounds are not: %s",
                unread,
            )
        self._unread = unread
        self._callers.learn(tables, unknown_until, everywhere=everywhere)
        self._adopted = {key: version for key, version in self._adopted.items() if key in documents}

    async def _write(self, *, closed: bool) -> None:
        table = msgspec.structs.replace(
            self._callers.table(self._replica, closed=closed), keys=self._claims.document()
        )
        try:
            await self._store.write(f"{CALLERS}{self._replica}", encode(table))
        except BaseException:
            self._callers.changed = True
            self._claims.news.set()
            raise

    def _fail(self, problem: StateUnavailable) -> None:
        if str(problem) != str(self.problem):
            _logger.warning(
                "which pods hold certificates is not shared with the other signers: %s",
                problem.diagnostics(),
                extra={"reason": problem.reason},
            )
        self.problem = problem.without_frames()


@dataclass(frozen=True, slots=True)
class _Table:
    known: Known
    claims: Claims
    closed: bool
    version: str


def _table(key: str, stored: Stored | StateDamaged | None) -> _Table | None:
    """A signer's table; None where it has none that can be used."""
    if not isinstance(stored, Stored):
        return None
    try:
        table = decode(stored.data, CallersTable, key=key)
        if f"{CALLERS}{table.replica}" != key:
            raise damaged(f"it says that it is of {table.replica[:80]!r}", key=key, where=key)
        return _Table(unpacked(table, key=key), claims_in(table, key=key), table.closed, stored.version)
    except StateDamaged as error:
        _logger.warning("%s", error.diagnostics(), extra={"reason": error.reason})
        return None


def _reach(key: str, found: _Documents) -> dict[str, float]:
    """How far certificates of a signer may reach in each cluster. Raises StateDamaged where that is not known."""
    stored = found[key]
    if isinstance(stored, StateDamaged):
        raise stored
    reach: dict[str, float] = {}
    for row in decode(stored.data, ExpiryBoundTable, key=key).rows if stored is not None else ():
        reach[row.cluster] = max(row.until, reach.get(row.cluster, 0.0))
    return reach


def _is_live(stored: Stored | StateDamaged | None, now: float) -> bool:
    if not isinstance(stored, Stored):
        return False
    try:
        return is_live(decode(stored.data, _Beat, key=SIGNERS), now)
    except StateDamaged:
        return False


EVERY: Final = 2.0  # seconds between two counts at least: a report is written as often
SHARE: Final = 20.0  # a count takes at most 1/SHARE of the time
TURN: Final = 1000  # pods counted before others get their turn: about a millisecond

YOUNG: Final = 60.0
"""Seconds from a pod's creation for which it may not have asked yet: images are pulled, proxies start."""

MOST_NAMES: Final = 20  # of one cluster
ALL_NAMES: Final = 400  # of all clusters together: a report has room for them
FEWEST_NAMES: Final = 3


@dataclass(slots=True)
class _Count:
    """One cluster's pods as they are counted."""

    now: float
    most_names: int
    with_certificate: int = 0
    lapsed: int = 0
    waiting: int = 0
    ambient: int = 0
    sidecars: int = 0
    asked: int = 0
    never_requested: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def add(self, pod: PodMeta, ends: int) -> None:
        """``ends`` is when its certificate does (seconds since the epoch), 0 where it has never asked."""
        self.ambient += pod.ambient
        self.sidecars += pod.sidecar
        self.asked += pod.sidecar and ends > 0
        if ends > self.now:
            self.with_certificate += 1
        elif ends:
            self.lapsed += 1
            self._name(self.ended, pod)
        elif pod.sidecar and self.now - pod.created >= YOUNG:
            self.waiting += 1
            self._name(self.never_requested, pod)

    def _name(self, names: list[str], pod: PodMeta) -> None:
        if len(names) < self.most_names:
            names.append(f"{pod.namespace}/{pod.name}")


class Workloads:
    """Counts them for all clusters. The callables are asked each time, so they follow a reload."""

    def __init__(
        self,
        callers: Callers,
        *,
        clusters: Callable[[], tuple[ClusterConfig, ...]],
        attestors: Callable[[], Mapping[ClusterName, ClusterAttestor]],
        problem: Callable[[], StateUnavailable | None],
        clock: Clock,
    ) -> None:
        """``problem`` is why what the other signers have issued is not known."""
        self._callers = callers
        self._clusters = clusters
        self._attestors = attestors
        self._problem = problem
        self._clock = clock
        self._counted: dict[str, WorkloadsReport] = {}

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            began = self._clock.monotonic()
            await self.count()
            took = self._clock.monotonic() - began
            await self._clock.sleep(max(EVERY, SHARE * took))

    def report(self, cluster: str) -> WorkloadsReport:
        """The cluster's last count."""
        return self._counted.get(cluster, WorkloadsReport(detail="its pods were not counted yet"))

    async def count(self) -> None:
        """Once, every registered cluster."""
        configs = self._clusters()
        most_names = max(FEWEST_NAMES, min(MOST_NAMES, ALL_NAMES // max(1, len(configs))))
        counted = {str(config.name): await self._count(config, most_names) for config in configs}
        now = self._clock.now().timestamp()
        for name in self._callers.clusters:
            if name not in counted:
                self._callers.prune(name, None, now)
        self._counted = counted

    async def _count(self, config: ClusterConfig, most_names: int) -> WorkloadsReport:
        name, now = str(config.name), self._clock.now().timestamp()
        problem, attestor = self._problem(), self._attestors().get(config.name)
        if problem is not None:
            return WorkloadsReport(detail=f"what all signers have issued is not known: {problem}")
        if config.attestation == REVIEW:
            self._callers.prune(name, None, now)
            return self._unwatched(name, now)
        pods = attestor.objects.pods if attestor is not None else None
        if pods is None:
            self._callers.prune(name, None, now)
            why = attestor.objects.problem if attestor is not None else None
            first, last = self._ends(name, now)
            detail = f"its pods are not watched at present: {why or 'starting'}"
            return WorkloadsReport(detail=detail, first_end=first, last_end=last)
        own, others = self._callers.ends(name)
        count, live = _Count(now, most_names), set[int]()
        for number, pod in enumerate(pods):
            if number % TURN == TURN - 1:
                await asyncio.sleep(0)
            if pod.deletion is None:
                digest = digest_of(pod.uid)
                live.add(digest)
                count.add(pod, max(own.get(digest, 0), others.get(digest, 0)))
        self._callers.prune(name, frozenset(live), now)
        first, last = self._ends(name, now)
        return WorkloadsReport(
            workloads=count.with_certificate + count.lapsed + count.waiting,
            with_certificate=count.with_certificate,
            lapsed=count.lapsed,
            ambient=count.ambient,
            known_from=self._callers.known_from(name),
            detail="",
            sidecars=count.sidecars,
            asked=count.asked,
            never_requested=sorted(count.never_requested),
            ended=sorted(count.ended),
            lifetime=self._callers.lifetime(name),
            first_end=first,
            last_end=last,
        )

    def _ends(self, name: str, now: float) -> tuple[float, float]:
        """When the first and the last certificate end that pods there may hold; 0 where none is known."""
        own, others = self._callers.ends(name)
        first, last = 0.0, max(0.0, self._callers.known_from(name))
        for pod in own.keys() | others.keys():
            end = max(own.get(pod, 0), others.get(pod, 0))
            if end > now:
                first, last = min(first or end, end), max(last, end)
        return (first, last) if last > now else (0.0, 0.0)

    def _unwatched(self, name: str, now: float) -> WorkloadsReport:
        """Where TokenReview decides no pod is watched: only what was issued can be counted."""
        first, last = self._ends(name, now)
        return WorkloadsReport(
            with_certificate=_unended(self._callers.ends(name), now),
            known_from=self._callers.known_from(name),
            watched=False,
            detail='its pods are not watched, because attestation is "token-review"',
            lifetime=self._callers.lifetime(name),
            first_end=first,
            last_end=last,
        )


def _unended(tables: Iterable[Mapping[int, int]], now: float) -> int:
    return len({pod for table in tables for pod, ends in table.items() if ends > now})
