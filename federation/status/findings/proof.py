"""What needs attention in the proof: pairs of the matrix, and what new connections to the listener met. Pure.

Only pairs that no other cause explains count. Pairs are named by the cluster they share. Callers that are connected
do not notice what new ones are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import compress
from typing import Final

from federation.core.documents.controller import SignerListenerReport
from federation.status.findings.causes import PAIR_FAILED, PAIR_UNKNOWN, Causes
from federation.status.model import Attention, MatrixView
from federation.status.snapshot import Snapshot, elapsed, finite

MOST_NAMES: Final = 8
MOST_ENTRIES: Final = 8
"""Entries for failing pairs at most, but one for all that are left."""

Pair = tuple[str, str]


def names(every: list[str]) -> str:
    """Names for a sentence, the first few of many."""
    more = len(every) - MOST_NAMES
    return ", ".join(every[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def arrow(pair: Pair) -> str:
    """An ordered pair, client first."""
    return f"{pair[0]} -> {pair[1]}"


def pair_attention(matrix: MatrixView, causes: Causes) -> Iterator[Attention]:
    """Pairs that are not valid: each is noted with its cause, the rest is what needs attention by itself."""
    failed = list(_unexplained(matrix, "x", causes, "failed"))
    unknown = list(_unexplained(matrix, "?", causes, "unknown"))
    reasons = {(r.client, r.server): r.reason for r in matrix.reasons}
    yield from _failed(failed, reasons)
    if unknown:
        among = sorted({client for client, _ in unknown})
        pair = next((pair for pair in unknown if pair in reasons), unknown[0])
        first = f"{arrow(pair)}: {reasons.get(pair, 'not proved yet')}"
        yield Attention(
            severity="warning",
            code="pairs_unknown",
            detail=f"{len(unknown):,} of {matrix.pairs:,} pairs are not proved: {first}",
            where=names(among),
            remedy="nothing, if trust was just changed: proof follows publication; else read the leading controller's "
            "log",
            clusters=among,
        )


def _unexplained(matrix: MatrixView, cell: str, causes: Causes, result: str) -> Iterator[Pair]:
    needs = PAIR_FAILED if cell == "x" else PAIR_UNKNOWN
    cause_of = [causes.of(needs, name) for name in matrix.clusters]
    for client, mine, row in zip(matrix.clusters, cause_of, matrix.rows, strict=True):
        if cell not in row:
            continue
        theirs = Counter(compress(cause_of, map(cell.__eq__, row)))
        for cause, count in theirs.items():
            why = frozenset(each for each in (mine, cause) if each is not None)
            if why:
                causes.note_pairs(why, result, count)
            else:
                every = zip(matrix.clusters, cause_of, row, strict=True)
                yield from ((client, server) for server, its, found in every if found == cell and its is None)


def _failed(failed: list[Pair], reasons: dict[Pair, str]) -> Iterator[Attention]:
    """First the cluster that most failing pairs have in common, with all of them; then the same of the rest."""
    left = failed
    for _ in range(MOST_ENTRIES):
        if not left:
            return
        counts = Counter(name for pair in left for name in pair)
        culprit, most = max(counts.items(), key=lambda each: (each[1], each[0]))
        its = [pair for pair in left if culprit in pair] if most > 1 else left[:1]
        left = [pair for pair in left if culprit not in pair] if most > 1 else left[1:]
        yield _pair(_place(culprit, its), its, reasons)
    if left:
        yield _pair(f"{len(left)} more pairs", left, reasons)


def _place(culprit: str, pairs: list[Pair]) -> str:
    if len(pairs) == 1:
        return f"{pairs[0][0]} to {pairs[0][1]}"
    called = [server for client, server in pairs if client == culprit]
    callers = [client for client, server in pairs if server == culprit]
    if not callers:
        return f"{culprit} to {_clusters(called)}"
    if not called:
        return f"{_clusters(callers)} to {culprit}"
    return f"between {culprit} and {_clusters(list(dict.fromkeys(called + callers)))}"


def _clusters(every: list[str]) -> str:
    return every[0] if len(every) == 1 else f"{len(every)} clusters"


def _pair(where: str, pairs: list[Pair], reasons: dict[Pair, str]) -> Attention:
    by_reason = {reasons[pair]: pair for pair in reversed(pairs) if pair in reasons}
    reason, (client, server) = next(reversed(by_reason.items()), ("the handshake failed", pairs[0]))
    more = f" ({arrow((client, server))}, and {len(pairs) - 1:,} more pairs)" if len(pairs) > 1 else ""
    return Attention(
        severity="critical",
        code="pair_failed",
        detail=f"mutual TLS fails: {reason}{more}",
        where=where,
        remedy="correct what the reason names; `federation verify` exits 0 once it validates",
        fact=f"mutual TLS fails {where if where.startswith('between') else f'from {where}'}",
        clusters=list(dict.fromkeys(name for pair in pairs for name in pair)),
    )


PATIENCE: Final = (
    60.0  # seconds within which new connections find every signer, and a report follows what is shown
)


def arrival_attention(snapshot: Snapshot) -> Iterator[Attention]:
    """One for each cause, with the signers that it concerns."""
    found = snapshot.leader.listener.signers if snapshot.leader is not None else []
    refused: dict[str, list[SignerListenerReport]] = {}
    for listener in found:
        if listener.replica not in snapshot.signers:
            continue  # that it is gone is reported already
        if listener.state == "refused":
            refused.setdefault(listener.detail, []).append(listener)
        elif (
            listener.state == "not_met" and snapshot.now - max(listener.since, listener.proved_at) > PATIENCE
        ):
            yield Attention(
                severity="warning",
                code="listener_unproved",
                detail=f"no new connection reached this signer's listener, so it is not proved: {listener.detail}",
                where=listener.replica,
                remedy="see that controller.proof.signer_address leads to every signer, and that nothing on the way"
                " keeps the controller from them",
                since=max(listener.since, listener.proved_at),
            )
    yield from _names_gone(snapshot)
    for detail, listeners in refused.items():
        yield Attention(
            severity="critical",
            code="listener_refused",
            detail=f"workloads that start or reconnect refuse the listener's certificate: {detail}",
            where=names([listener.replica for listener in listeners]),
            remedy=_remedy(detail),
            since=min(listener.since for listener in listeners),
        )


def _names_gone(snapshot: Snapshot) -> Iterator[Attention]:
    """Names that agents may call the listener by still, for as long as what they hold may live."""
    longest = max((cluster.policy.longest_ttl for cluster in snapshot.config.clusters), default=0.0)
    gone = snapshot.leader.rotation.names_gone if snapshot.leader is not None else {}
    recent = {name: at for name, at in gone.items() if 0 <= snapshot.now - finite(at) < longest}
    if recent:
        yield Attention(
            severity="warning",
            code="listener_name_gone",
            detail=f"its certificate is for {names(sorted(recent))} no more: pods that were injected with that address"
            f" get no certificate, and the last that they hold ends within {elapsed(longest)}",
            where="listener",
            remedy="put it back into listener.server_names until every pod was restarted with another address; "
            "nothing, if all were",
            since=min(recent.values()),
        )


def _remedy(detail: str) -> str:
    if "verify it for" in detail or "not valid for" in detail:
        return (
            "put the name that agents use (their caAddress) into listener.server_names; it is taken up "
            "without a restart"
        )
    return (
        "`federation authority check` says what is wrong with what signs it; fix that, and the listener renews its "
        "certificate by itself"
    )
