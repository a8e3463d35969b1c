"""What needs attention in the matrix, told by its likely cause: a row, a column, or single pairs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from federation.status.model import Attention, ClusterView, MatrixView, PairReason
from federation.status.scene import Scene

MOST_NAMES: Final = 8
ALIKE: Final = 3  # from so many failing pairs of one client or one server on, they are told as one


def names(every: list[str]) -> str:
    """Names for a sentence, the first few of many."""
    more = len(every) - MOST_NAMES
    return ", ".join(every[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def pair_attention(scene: Scene, clusters: list[ClusterView], matrix: MatrixView) -> Iterator[Attention]:
    """Failing pairs, then those that are unknown for a reason of their own."""
    yield from _failed([reason for reason in matrix.reasons if reason.result == "failed"])
    yield from _unknown(scene, clusters, matrix)


def _failed(failed: list[PairReason]) -> Iterator[Attention]:
    by_client: dict[str, list[PairReason]] = {}
    for reason in failed:
        by_client.setdefault(reason.client, []).append(reason)
    by_server: dict[str, list[PairReason]] = {}
    for client, alike in by_client.items():
        if len(alike) >= ALIKE:
            yield _pair(f"{client} to {len(alike)} clusters", alike)
        else:
            for reason in alike:
                by_server.setdefault(reason.server, []).append(reason)
    for server, alike in by_server.items():
        if len(alike) >= ALIKE:
            yield _pair(f"{len(alike)} clusters to {server}", alike)
        else:
            for reason in alike:
                yield _pair(f"{reason.client} to {reason.server}", [reason])


def _pair(where: str, alike: list[PairReason]) -> Attention:
    first = alike[0]
    example = f" (so {first.client} to {first.server}, for one)" if len(alike) > 1 else ""
    return Attention(
        severity="critical",
        code="pair_failed",
        what=f"mutual TLS fails: {first.reason}{example}",
        where=where,
        remedy="mend what the reason names; `federation verify` tells when it validates",
    )


def _unknown(scene: Scene, clusters: list[ClusterView], matrix: MatrixView) -> Iterator[Attention]:
    """One item for all; none for what follows from a missing leader or an unreachable cluster."""
    if scene.leader is None or not matrix.unknown:
        return
    explained = {view.name for view in clusters if view.connection.state not in {"ready", "degraded"}}
    among = {
        name
        for name, row in zip(matrix.clusters, matrix.rows, strict=True)
        for peer, cell in zip(matrix.clusters, row, strict=True)
        if cell == "?" and name not in explained and peer not in explained
    }
    if among:
        told = (r.reason for r in matrix.reasons if r.result == "unknown" and r.client in among)
        first = next(told, "not proved yet")
        yield Attention(
            severity="warning",
            code="pairs_unknown",
            what=f"{matrix.unknown:,} of {matrix.pairs:,} pairs are not proved: {first}",
            where=names(sorted(among)),
            remedy="nothing, if trust was just changed: proof follows publication",
        )
