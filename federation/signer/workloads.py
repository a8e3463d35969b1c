"""Of the pods of each cluster: which have a sidecar, which have asked the hub, and which hold a certificate now.

Counted again and again from the watched metadata of pods and from what all signers have issued. An address of the
CA is written into a pod when its sidecar is injected (``CA_ADDR``), so that one which was not restarted since never
asks the hub: those are named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from federation.clusters.objects import PodMeta
from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig
from federation.core.errors import StateUnavailable
from federation.core.identity import ClusterName
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.attestation.caller import REVIEW
from federation.signer.callers import Callers, digest_of
from federation.state.documents import WorkloadsReport

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
    holding: int = 0
    lapsed: int = 0
    waiting: int = 0
    ambient: int = 0
    sidecars: int = 0
    asked: int = 0
    never_asked: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def add(self, pod: PodMeta, ends: int) -> None:
        """``ends`` is when its certificate does (seconds since the epoch), 0 where it has never asked."""
        self.ambient += pod.ambient
        self.sidecars += pod.sidecar
        self.asked += pod.sidecar and ends > 0
        if ends > self.now:
            self.holding += 1
        elif ends:
            self.lapsed += 1
            self._name(self.ended, pod)
        elif pod.sidecar and self.now - pod.created >= YOUNG:
            self.waiting += 1
            self._name(self.never_asked, pod)

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
            workloads=count.holding + count.lapsed + count.waiting,
            holding=count.holding,
            lapsed=count.lapsed,
            ambient=count.ambient,
            known_from=self._callers.known_from(name),
            detail="",
            sidecars=count.sidecars,
            asked=count.asked,
            never_asked=sorted(count.never_asked),
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
            holding=_unended(self._callers.ends(name), now),
            known_from=self._callers.known_from(name),
            watched=False,
            detail='its pods are not watched, because attestation is "token-review"',
            lifetime=self._callers.lifetime(name),
            first_end=first,
            last_end=last,
        )


def _unended(tables: Iterable[Mapping[int, int]], now: float) -> int:
    return len({pod for table in tables for pod, ends in table.items() if ends > now})
