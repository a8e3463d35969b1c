"""The world as the gates see it, put together from documents and from what members were read back to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from federation.controller.generations import GENERATIONS, bundle_of
from federation.core.config.model import HubConfig
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.trust.horizons import Delivered, merged
from federation.core.trust.rotation.world import Capacity, ClusterFacts, PairFacts, SignerFacts, World
from federation.state.documents import (
    Generation,
    HorizonTable,
    Matrix,
    SignerReport,
    decode,
)
from federation.state.store import StateStore

HORIZONS: Final = "horizons/"
SIGNERS: Final = "signers/"
MISSED: Final = 3  # heartbeats after which a signer counts as gone


@dataclass(frozen=True, slots=True)
class Proved:
    """A matrix with the issuer of each cluster's leaf that it was made with."""

    matrix: Matrix
    issuers: Mapping[str, str]

    def pairs(self) -> dict[tuple[str, str], PairFacts]:
        """Each ordered pair that was tried; one that is unknown was not proved."""
        found: dict[tuple[str, str], PairFacts] = {}
        names = self.matrix.clusters
        for client, row in zip(names, self.matrix.rows, strict=False):
            for server, cell in zip(names, row, strict=False):
                if client != server and cell in {"v", "x"}:
                    found[client, server] = PairFacts(
                        valid=cell == "v",
                        computed=self.matrix.computed,
                        client_issuer=self.issuers.get(client, ""),
                        server_issuer=self.issuers.get(server, ""),
                        reason=self.matrix.reasons.get(f"{client}>{server}", ""),
                    )
        return found


class Observer:
    """Reads what signers and earlier leaders have persisted. Raises StateUnavailable: nothing is guessed."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._anchors: dict[int, frozenset[str]] = {}

    async def signers(self, now: float) -> dict[str, SignerReport]:
        """Those that are heard of."""
        found: dict[str, SignerReport] = {}
        for key in await self._store.keys(SIGNERS):
            stored = await self._store.read(key)
            if stored is None:
                continue
            report = decode(stored.data, SignerReport, key=key)
            if now - report.updated <= MISSED * report.heartbeat:
                found[report.replica] = report
        return found

    async def horizons(self) -> dict[Delivered, float]:
        """How far the leaves of every signer reach, of those that are gone as well."""
        tables = []
        for key in await self._store.keys(HORIZONS):
            stored = await self._store.read(key)
            if stored is not None:
                rows = decode(stored.data, HorizonTable, key=key).rows
                tables.append({Delivered(r.cluster, r.issuer, r.generation): r.until for r in rows})
        return merged(tables)

    async def generations(self, numbers: frozenset[int]) -> dict[int, frozenset[str]]:
        """The anchors of each; one that cannot be read is left out, which counts as holding none."""
        for number in sorted(numbers - self._anchors.keys()):
            anchors = await self._generation(number)
            if anchors is not None:
                self._anchors[number] = anchors  # a generation never changes once written
        self._anchors = {number: held for number, held in self._anchors.items() if number in numbers}
        return dict(self._anchors)

    async def _generation(self, number: int) -> frozenset[str] | None:
        key = f"{GENERATIONS}{number:012d}"
        stored = await self._store.read(key)
        if stored is None:
            return None
        try:
            bundle = bundle_of(decode(stored.data, Generation, key=key))
        except (InvalidValue, StateUnavailable):
            return None
        return frozenset(anchor.sha256 for anchor in bundle.certificates)


def signer_facts(report: SignerReport) -> SignerFacts:
    """What a signer's report says to the gates."""
    both = [authority for authority in (report.authority, report.successor) if authority is not None]
    successor = report.successor
    return SignerFacts(
        ready_with=frozenset(a.sha256 for a in both if a.sha256 and a.state != "unavailable"),
        generation=report.generation,
        rotation=report.rotation,
        state=report.orders,
        detail=successor.detail if successor is not None else "it has no [signer.successor]",
    )


def world_of(
    *,
    now: float,
    config: HubConfig,
    clusters: Mapping[str, ClusterFacts],
    horizons: Mapping[Delivered, float],
    generations: Mapping[int, frozenset[str]],
    in_force: int,
    signers: Mapping[str, SignerReport],
    proved: Proved,
    rate: float,
    validated: str,
) -> World:
    """Everything the gates look at."""
    settings = config.controller.rotation
    return World(
        now=now,
        clusters=clusters,
        horizons=horizons,
        generations=generations,
        in_force=in_force,
        signers={replica: signer_facts(report) for replica, report in signers.items()},
        pairs=proved.pairs(),
        capacity=_capacity(signers, rate),
        validated=validated,
        fresh=settings.fresh,
        skew=settings.skew,
    )


def _capacity(signers: Mapping[str, SignerReport], rate: float) -> Capacity:
    """What all signers issue now has to fit into the successor's quota."""
    quotas = [report.successor.quota for report in signers.values() if report.successor is not None]
    return Capacity(rate=rate, quota=min(quotas, default=0.0))
