"""What a cluster's namespaces really hold, as watches show it: nothing else is ever reported as published.

**Watches:** two for each cluster: which namespaces there are, and what each of them holds. Both are replaced by fresh
ones in every resync period, so that nothing that a watch missed stays missing, and at once where the cluster comes
back after it was away: a reflector that has waited up to its longest delay would otherwise sleep through the return.
A pair is replaced only once the new one has listed everything. Whether the cluster answers at all, and as which
version, is requested seldom while all is well, else each second.

**Content of other writers** is parsed beside everything else and within bounds. A client that may write one
ConfigMap chooses what the hub has to parse and whose signatures it has to verify. So a content that is not the hub's
is read by a task of its own, a few certificates at a time, charged to that member. Until it is read nothing waits for
it: it counts as not known, which overwrites nothing that may have to stay and opens no gate. Of contents that change
faster than they are read, those that are there now come first and the oldest others are left out.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from federation.controller.publication.config_map import ConfigMapDecoder, Contents, ObservedConfigMap
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import PublicationConfig
from federation.core.errors import ClusterError, ClusterGarbage, ClusterOverBudget, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import der_blocks, parse_certificates
from federation.kubernetes.budget import CpuBudget
from federation.kubernetes.objects import METADATA_ONLY, ObjectKey, ObjectMeta, decode_metadata
from federation.kubernetes.reflector import Change, Reflector
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession

SYNC_POLL: Final = 0.05
SYNC_LIMIT: Final = 60.0

MOST_NAMESPACES: Final = 30_000
"""Of one cluster: three times what Kubernetes is tested with. Each report counts what they hold."""

NAMESPACES: Final = "/api/v1/namespaces"
CONFIG_MAPS: Final = "/api/v1/configmaps"


class _Pair:
    """Both reflectors, running from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        namespaces: Reflector[ObjectMeta],
        config_maps: Reflector[ObservedConfigMap],
        *,
        failed: Callable[[], None],
    ) -> None:
        """``failed`` is called where one of them ends by itself."""
        self.namespaces = namespaces
        self.config_maps = config_maps
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def synced(self) -> bool:
        return self.namespaces.synced and self.config_maps.synced

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self.namespaces.run()),
            asyncio.create_task(self.config_maps.run()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failed()

    def check(self) -> None:
        """A reflector survives every failure of its cluster; what ends it is a bug, which is raised here."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class ClusterWatch:
    """A cluster's namespaces and their ConfigMaps. ``on_change`` gets a namespace's name, and old and new of these."""

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        publication: PublicationConfig,
        *,
        decode: ConfigMapDecoder,
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[str, ObservedConfigMap | None, ObservedConfigMap | None], None],
    ) -> None:
        self._session = session
        self._cluster = cluster
        self._publication = publication
        self._decode = decode
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self._kick = asyncio.Event()
        self._pair = self._new_pair()

    @property
    def namespaces(self) -> Mapping[ObjectKey, ObjectMeta]:
        """The namespaces the selector matches, by their key (whose own namespace is empty)."""
        return self._pair.namespaces.items

    @property
    def namespaces_watch(self) -> Reflector[ObjectMeta]:
        """What keeps these at present; it is another one after each resync."""
        return self._pair.namespaces

    @property
    def config_maps(self) -> Mapping[ObjectKey, ObservedConfigMap]:
        """The ConfigMap of each namespace that has one under the configured name."""
        return self._pair.config_maps.items

    def observed_in(self, namespace: str) -> ObservedConfigMap | None:
        """What that namespace has."""
        return self._pair.config_maps.items.get(ObjectKey(namespace, self._publication.config_map))

    @property
    def synced(self) -> bool:
        """True once both were listed."""
        return self._pair.synced

    @property
    def fresh(self) -> bool:
        """True while both are listed and their watches run and have received events: only then is it read back."""
        pair = self._pair
        return pair.synced and pair.namespaces.fresh and pair.config_maps.fresh

    @property
    def last_seen(self) -> float:
        """When the cluster was last seen on the watch that was silent longer, by the monotonic clock."""
        return min(self._pair.namespaces.last_seen, self._pair.config_maps.last_seen)

    @property
    def problems(self) -> tuple[ClusterError, ...]:
        """What is wrong with the watches now."""
        found = (self._pair.namespaces.problem, self._pair.config_maps.problem)
        return tuple(problem for problem in found if problem is not None)

    def renew(self) -> None:
        """Begin anew at once: the cluster has come back."""
        self._kick.set()

    async def run(self) -> None:
        """Keep both until cancelled."""
        self._pair.start()
        try:
            while True:
                await self._until_due()
                await self._exchange(self._new_pair())
        finally:
            await self._pair.stop()

    async def _until_due(self) -> None:
        self._kick.clear()
        self._pair.check()
        alarm = asyncio.create_task(
            self._kick_after(self._publication.resync * self._jitter.uniform(0.9, 1.1))
        )
        try:
            await self._kick.wait()
        finally:
            alarm.cancel()
            await asyncio.gather(alarm, return_exceptions=True)
        self._pair.check()

    async def _kick_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._kick.set()

    async def _synced_in_time(self, pair: _Pair) -> bool:
        deadline = self._clock.monotonic() + SYNC_LIMIT
        while not pair.synced and self._clock.monotonic() < deadline:
            if pair.namespaces.problem is not None or pair.config_maps.problem is not None:
                return False
            await self._clock.sleep(SYNC_POLL)
        return pair.synced

    async def _exchange(self, newer: _Pair) -> None:
        """Put ``newer`` in the place of the pair that runs, once it has listed everything."""
        newer.start()
        before = self._pair
        try:
            if await self._synced_in_time(newer):
                self._pair = newer
                self._report_differences(before, newer)
        finally:
            await (before if self._pair is newer else newer).stop()

    def _report_differences(self, before: _Pair, after: _Pair) -> None:
        """Report what went unnoticed before as any other change."""
        name = self._publication.config_map
        for key in {*before.namespaces.items, *after.namespaces.items}:
            at = ObjectKey(key.name, name)
            old, new = before.config_maps.items.get(at), after.config_maps.items.get(at)
            if old != new or before.namespaces.items.get(key) != after.namespaces.items.get(key):
                self._on_change(key.name, old, new)

    def _new_pair(self) -> _Pair:
        timeouts = self._cluster.timeouts
        pair: list[_Pair] = []

        def current() -> bool:
            return bool(pair) and pair[0] is self._pair

        def namespace_changed(change: Change[ObjectMeta]) -> None:
            if current():
                observed = self.observed_in(change.key.name)
                self._on_change(change.key.name, observed, observed)

        def on_config_map(change: Change[ObservedConfigMap]) -> None:
            if current():
                self._on_change(change.key.namespace, change.old, change.new)

        pair.append(
            _Pair(
                Reflector(
                    self._session,
                    NAMESPACES,
                    decode=decode_metadata,
                    accept=METADATA_ONLY,
                    label_selector=self._cluster.namespace_selector,
                    timeouts=timeouts,
                    clock=self._clock,
                    jitter=self._jitter,
                    on_change=namespace_changed,
                    most=MOST_NAMESPACES,
                ),
                Reflector(
                    self._session,
                    CONFIG_MAPS,
                    decode=self._decode,
                    field_selector=f"metadata.name={self._publication.config_map}",
                    timeouts=timeouts,
                    clock=self._clock,
                    jitter=self._jitter,
                    on_change=on_config_map,
                    most=MOST_NAMESPACES,
                ),
                failed=self._kick.set,
            )
        )
        return pair[0]


MOST_READ: Final = 64
"""Different contents of one member that are remembered at a time, and as many that wait."""

MOST_CERTIFICATES: Final = 2048
"""In all of these together: a few tens of megabytes."""

_PEM: Final = b"-----BEGIN"


@dataclass(frozen=True, slots=True)
class ReadContent:
    """``certificates`` are all of it; where not all can be read, none: ``problem`` says why, ``readable`` are some."""

    certificates: tuple[Certificate, ...]
    problem: str = ""
    readable: tuple[Certificate, ...] = ()
    has_pem: bool = True


class ForeignContents:
    """The contents of one member that are not the hub's. ``present`` are the digests that it has now."""

    def __init__(
        self,
        contents: Contents,
        *,
        where: str,
        budget: CpuBudget,
        present: Callable[[], Collection[str]],
        on_read: Callable[[str, tuple[str, str]], None],
    ) -> None:
        """``on_read`` is called with each that was read, and where it was first seen."""
        self._contents = contents
        self._where = where
        self._budget = budget
        self._present = present
        self._on_read = on_read
        self._read: OrderedDict[str, ReadContent] = OrderedDict()
        self._waiting: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._work = asyncio.Event()
        self._too_many = 0

    def of(self, digest: str, *, seen: tuple[str, str] = ("", "")) -> ReadContent | None:
        """The content; None while it is not read, which is then done soon.

        ``seen`` is where it is, in words and by the name of the namespace.
        """
        found = self._read.get(digest)
        if found is None and digest not in self._waiting and digest in self._contents:
            self._waiting[digest] = seen
            if len(self._waiting) > MOST_READ:
                self._waiting.popitem(last=False)  # if it is still there, it is requested again
            self._work.set()
        return found

    @property
    def problem(self) -> ClusterOverBudget | None:
        """That it holds more than is read of one member, None where it does not."""
        if not self._too_many:
            return None
        return ClusterOverBudget(
            f"{self._too_many} more different contents of other writers than the {MOST_READ} contents with "
            f"{MOST_CERTIFICATES} certificates that are read of one cluster at a time",
            where=self._where,
            remedy="find what writes all these contents into the bundle's ConfigMap; no other cluster is affected",
        )

    async def run(self) -> None:
        """Read what waits, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            present = frozenset(self._present())
            self._too_many = 0
            while self._waiting:
                digest, seen = self._next(present)
                if self._is_full(present):
                    self._too_many = sum(waits in present for waits in self._waiting) + 1
                    self._waiting.clear()  # requested again when the namespaces are next read
                    break
                await self._parse(digest, seen)
                present = frozenset(self._present())

    def _next(self, present: Collection[str]) -> tuple[str, tuple[str, str]]:
        digest = next((waits for waits in self._waiting if waits in present), next(iter(self._waiting)))
        return digest, self._waiting.pop(digest)

    def _is_full(self, present: Collection[str]) -> bool:
        """Whether there is no room for another one, after those were removed that are not there any more."""

        def full() -> bool:
            count = sum(len(read.readable) for read in self._read.values())
            return len(self._read) >= MOST_READ or count >= MOST_CERTIFICATES

        for digest in [digest for digest in self._read if digest not in present]:
            if not full():
                return False
            del self._read[digest]
        return full()

    async def _parse(self, digest: str, seen: tuple[str, str]) -> None:
        pem = self._contents.get(digest)
        if pem is None:
            return
        known: dict[bytes, Certificate] = {}
        for der in der_blocks(pem):
            with self._budget.charged():
                if der not in known:
                    try:
                        certificate = known[der] = Certificate.from_der(der)
                        _ = certificate.is_ca and certificate.is_self_signed  # remembered by the value
                    except InvalidValue:
                        pass
            await self._budget.turn()
        with self._budget.charged():
            self._read[digest] = _whole(pem, known)
            self._on_read(digest, seen)
        await self._budget.turn()


def _whole(pem: bytes, known: dict[bytes, Certificate]) -> ReadContent:
    try:
        certificates = parse_certificates(pem, where="", known=known)
    except InvalidValue as error:
        readable = tuple(known[der] for der in der_blocks(pem) if der in known)
        return ReadContent((), str(error), readable, _PEM in pem)
    return ReadContent(certificates, "", certificates)


EVERY: Final = 60.0  # seconds
TIMEOUT: Final = 3.0


class _Version(msgspec.Struct, rename="camel"):
    git_version: str = ""


class HealthCheck:
    """One cluster's; ``version`` and ``problem`` are of the last answer."""

    def __init__(self, session: ClusterSession, *, timeout: float, clock: Clock) -> None:
        self._session = session
        self._timeout = min(TIMEOUT, timeout)
        self._clock = clock
        self._answered = float("-inf")
        self.version = ""
        self.problem: ClusterError | None = None

    @property
    def due(self) -> bool:
        """True where it has not answered for a while, or not well."""
        return self.problem is not None or self._clock.monotonic() - self._answered > EVERY

    async def check(self) -> bool:
        """Request it once; True where the cluster answers again after it did not."""
        before = self.problem
        try:
            answer = await self._session.get("/version", timeout=self._timeout, most_bytes=SMALL_ANSWER_BYTES)
            self.version = msgspec.json.decode(answer, type=_Version).git_version[:64]
        except ClusterError as error:
            self.problem = error.without_frames()
            return False
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self.problem = ClusterGarbage(
                "the answer to /version is not what the API specifies", where=str(self._session.name)
            )
            return False
        self.problem, self._answered = None, self._clock.monotonic()
        return before is not None
