"""Which registered cluster a token is to be judged by: said by ``clusterid``, decided by keys.

``clusterid`` only says where to look; the cluster's own keys or API server must then vouch for the token.
Without it, the token must point to exactly one cluster: by the key that signed it, or else by its issuer.
Issuers are no proof of anything (most clusters use the same one), so a token that several clusters' keys
have signed is refused as ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final

from federation.core.config.model import ClusterConfig
from federation.core.errors import AttestationRefused, NotReady, Overloaded
from federation.core.identity import ClusterName
from federation.signer.attestation.attestor import ClusterAttestor
from federation.signer.attestation.caller import REVIEW
from federation.signer.attestation.tokens import Token

DEFAULT_CLUSTER_ID: Final = "Kubernetes"
"""What every Istio sends that was not told its cluster's name: says nothing unless one is registered so."""


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


class Registered:
    """A registered cluster: its configuration now, its slots, and its attestor while there is one."""

    def __init__(self, config: ClusterConfig, slots: Slots) -> None:
        self.config = config
        self.slots = slots


class Registry:
    """Every registered cluster. ``attestors`` are those that are connected at present."""

    def __init__(self, attestors: Callable[[], Mapping[ClusterName, ClusterAttestor]]) -> None:
        self._attestors = attestors
        self._clusters: dict[ClusterName, Registered] = {}
        self._by_id: dict[str, tuple[Registered, ...]] = {}

    def configure(self, clusters: Iterable[ClusterConfig], *, concurrent: int) -> None:
        """Register exactly these; the slots of those that stay are kept with what is under way."""
        old, self._clusters = self._clusters, {}
        by_id: dict[str, tuple[Registered, ...]] = {}
        for config in clusters:
            held = old.get(config.name)
            slots = held.slots if held is not None else Slots(config.name, concurrent)
            slots.limit = concurrent
            registered = self._clusters[config.name] = Registered(config, slots)
            by_id[str(config.cluster_id)] = (*by_id.get(str(config.cluster_id), ()), registered)
        self._by_id = by_id

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

    def route(self, token: Token, cluster_id: str) -> Registered:
        """The cluster to judge this token; asks nobody.

        Raises AttestationRefused with the reason ``unknown_cluster`` or ``ambiguous_cluster``.
        """
        candidates = self._by_id.get(cluster_id, ())
        if not candidates:
            if cluster_id not in {"", DEFAULT_CLUSTER_ID}:
                raise AttestationRefused(
                    f"no cluster is registered with the ID {cluster_id[:80]!r}",
                    reason="unknown_cluster",
                    remedy="register it, or set global.multiCluster.clusterName to the registered cluster_id",
                )
            candidates = tuple(self._clusters.values())
        return candidates[0] if len(candidates) == 1 else self._decide(token, candidates)

    def _decide(self, token: Token, candidates: tuple[Registered, ...]) -> Registered:
        attestors = self._attestors()
        connected = [(c, attestors[c.config.name]) for c in candidates if c.config.name in attestors]
        found = [c for c, attestor in connected if attestor.signed(token)]
        if not found:
            found = [c for c, attestor in connected if attestor.issuer == token.claims.iss]
        if len(found) != 1:
            names = ", ".join(str(c.config.name) for c in found) or "none"
            raise AttestationRefused(
                f"without a clusterid the token must point to exactly one cluster; it points to: {names}",
                reason="ambiguous_cluster",
                remedy="set global.multiCluster.clusterName in that mesh to the registered cluster_id",
            )
        return found[0]

    def refuse_anothers(self, token: Token, chosen: Registered) -> None:
        """Keep another cluster's token from an API server that is about to be shown it.

        Raises AttestationRefused with the reason ``token_of_another_cluster``. Only where the chosen one's
        own keys cannot tell: where they can, they decide, so that no cluster can disturb another by
        publishing its keys.
        """
        attestors = self._attestors()
        own = attestors.get(chosen.config.name)
        if own is None or own.method != REVIEW or own.signed(token):
            return
        for name, attestor in attestors.items():
            if name != chosen.config.name and attestor.signed(token):
                raise AttestationRefused(
                    f"it was signed by a key of the cluster {name}",
                    where=str(chosen.config.name),
                    reason="token_of_another_cluster",
                )
