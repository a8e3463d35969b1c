"""The registered clusters: the configuration of each, how much of it is under way, and who attests for it now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Final

from federation.core.config.model import DEFAULT_RESERVED, ClusterConfig
from federation.core.errors import NotReady, Overloaded
from federation.core.identity import ClusterName
from federation.core.places import Places
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.attestation.key_claims import KeyClaims

UNSIGNED_AT_ONCE: Final = 64
"""Callers of one cluster whose token none of its known keys signed, and who wait for its API server: honest ones are
those whose key is so new that it was not seen yet, and the rest must not become that API server's load."""


class Slots:
    """Requests of one cluster under way: past the limit it is refused at once, others are not affected."""

    def __init__(self, cluster: ClusterName, limit: int) -> None:
        self._cluster = cluster
        self.limit = limit
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self.limit:
            raise Overloaded(
                f"{self.limit} requests are under way",
                where=str(self._cluster),
                reason="cluster_concurrency",
                remedy="look at the latency of its API server, or raise door.max_concurrent_per_cluster",
            )
        self.taken += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.taken -= 1


def _crowded(cluster: ClusterName) -> Overloaded:
    return Overloaded(
        "too many callers whose tokens are not known to be its own wait for its API server",
        where=str(cluster),
        reason="cluster_unproven",
        remedy="look at the latency of its API server, and at who calls: the signer's log names addresses",
    )


class Registered:
    """A registered cluster: its configuration now, and the calls under way of callers that are known to be its own."""

    def __init__(self, config: ClusterConfig, slots: Slots, unproven: Places) -> None:
        self.config = config
        self.slots = slots
        self.name = str(config.name)
        self._unproven = unproven

    def configured(self, config: ClusterConfig, concurrent: int) -> Registered:
        """The same cluster by another configuration, with the calls that are under way."""
        self.slots.limit = concurrent
        return Registered(config, self.slots, self._unproven)

    def unproven(self, attestor: ClusterAttestor) -> Places:
        """Places for callers that only name it. They may wait for an answer about their token, and take no slots."""
        few = attestor.keys.usable
        self._unproven.limit = min(self.slots.limit, UNSIGNED_AT_ONCE) if few else self.slots.limit
        return self._unproven


class Registry:
    """Every registered cluster. ``attestors`` are those that are connected at present."""

    def __init__(
        self,
        attestors: Callable[[], Mapping[ClusterName, ClusterAttestor]],
        claims: KeyClaims | None = None,
    ) -> None:
        """``claims`` says which of them each token key belongs to."""
        self._attestors = attestors
        self._clusters: dict[ClusterName, Registered] = {}
        self._by_id: dict[str, tuple[Registered, ...]] = {}
        self.claims = claims or KeyClaims()
        self.reserved: tuple[str, ...] = DEFAULT_RESERVED
        """Identities that only clusters may have whose policy names them."""

    def configure(self, clusters: Iterable[ClusterConfig], *, concurrent: int) -> None:
        """Register exactly these; the slots of those that stay are kept with what is under way."""
        old, self._clusters = self._clusters, {}
        by_id: dict[str, tuple[Registered, ...]] = {}
        for config in clusters:
            held = old.get(config.name) or Registered(
                config,
                Slots(config.name, concurrent),
                Places(concurrent, partial(_crowded, config.name)),
            )
            registered = self._clusters[config.name] = held.configured(config, concurrent)
            by_id[str(config.cluster_id)] = (*by_id.get(str(config.cluster_id), ()), registered)
        self._by_id = by_id

    @property
    def members(self) -> tuple[Registered, ...]:
        """Every registered cluster."""
        return tuple(self._clusters.values())

    @property
    def attestors(self) -> Mapping[ClusterName, ClusterAttestor]:
        """Who attests for each that is connected at present."""
        return self._attestors()

    def find(self, cluster_id: str) -> Registered | None:
        """The one that is registered with this ID; None where none is, or more than one."""
        found = self._by_id.get(cluster_id, ())
        return found[0] if len(found) == 1 else None

    @property
    def clusters(self) -> tuple[ClusterConfig, ...]:
        """The configuration of every registered cluster."""
        return tuple(registered.config for registered in self._clusters.values())

    def attestor(self, registered: Registered) -> ClusterAttestor:
        """Who attests for that cluster. Raises NotReady while it is not connected."""
        attestor = self._attestors().get(registered.config.name)
        if attestor is None:
            raise NotReady(
                "the cluster is registered but not connected",
                where=str(registered.config.name),
                reason="cluster_not_connected",
            )
        return attestor
