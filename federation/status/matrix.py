"""The matrix of proof, counted again: a cell is valid only while everything it rests on is current. Pure.

The leader's matrix says what its handshakes gave. Here each ``v`` is kept only where the leader is live
and works with the generation in force, the proof is no older than that generation and than three intervals,
and both clusters were read back recently. A failure is kept for as long as nothing newer says otherwise. A pair
with a quarantined cluster is shown as that, whatever was proved of it: nothing is issued there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from federation.core.documents.controller import ControllerClusterReport, Matrix
from federation.core.problem import Problem
from federation.status.model import MatrixView, PairReason, ProofView
from federation.status.snapshot import Snapshot, elapsed

MOST_REASONS: Final = 1000  # the first are enough to act on; 200 clusters have 39,800 pairs
SHORTEST_LIFE: Final = 30.0
INTERVALS: Final = 3


def not_proved(snapshot: Snapshot, matrix: Matrix) -> Problem | None:
    """Why no cell of this matrix may be shown as valid; None where they may."""
    if snapshot.leader is None:
        return snapshot.no_leader
    if snapshot.in_force is None:
        return snapshot.nothing_in_force
    number, detail = snapshot.in_force.number, ""
    longest = max(INTERVALS * snapshot.config.controller.proof.interval, SHORTEST_LIFE)
    if not snapshot.leader_follows:
        detail = f"the controller does not work with generation {number} yet"
    elif matrix.computed <= 0:
        detail = "nothing has been proved yet"
    elif matrix.computed < snapshot.in_force.created:
        detail = f"not proved again since generation {number} was put in force"
    elif abs(snapshot.now - matrix.computed) > longest:
        detail = f"last proved {elapsed(snapshot.now - matrix.computed)} ago"
    return Problem.unless(not detail, code="not_proved", detail=detail, since=matrix.computed)


def matrix_view(snapshot: Snapshot) -> MatrixView:
    """The matrix over the registered clusters, in the order of the configuration."""
    names = [cluster.name.value for cluster in snapshot.config.clusters]
    source = snapshot.leader or snapshot.last_leader
    matrix = source.matrix if source else Matrix()
    index = {name: i for i, name in enumerate(matrix.clusters)}
    general = not_proved(snapshot, matrix)
    unread = {c.name.value: snapshot.not_read_back(c) for c in snapshot.config.clusters}
    rows: list[str] = []
    failed: list[PairReason] = []
    unknown: list[PairReason] = []
    out: list[PairReason] = []
    valid = 0
    for client in names:
        row: list[str] = []
        for server in names:
            if client == server:
                row.append("-")
                continue
            if taken := next((name for name in (client, server) if name in snapshot.quarantined), ""):
                row.append("q")
                reason = f"{taken} is quarantined: {snapshot.quarantined[taken].reason}"
                out.append(PairReason(client=client, server=server, result="quarantined", reason=reason))
                continue
            cell = _cell(matrix, index, client, server)
            why = general.detail if general else _unread(unread[client], unread[server])
            given = matrix.reasons.get(f"{client}>{server}", "")
            if cell == "v" and why is None:
                valid += 1
                row.append("v")
            elif cell == "x":
                row.append("x")
                failed.append(
                    PairReason(
                        client=client, server=server, result="failed", reason=given or "the handshake failed"
                    )
                )
            else:
                row.append("?")
                reason = why or given or "this pair has not been proved yet"
                unknown.append(PairReason(client=client, server=server, result="unknown", reason=reason))
        rows.append("".join(row))
    reasons = failed + unknown + out
    pairs = len(names) * (len(names) - 1)
    return MatrixView(
        proven=bool(names) and not general and valid == pairs,
        computed=matrix.computed,
        generation=source.generation if source else 0,
        clusters=names,
        rows=rows,
        pairs=pairs,
        valid=valid,
        failed=len(failed),
        unknown=len(unknown),
        quarantined=len(out),
        handshakes=max(0, matrix.handshakes),
        reasons=reasons[:MOST_REASONS],
        reasons_omitted=max(0, len(reasons) - MOST_REASONS),
    )


def _cell(matrix: Matrix, index: Mapping[str, int], client: str, server: str) -> str:
    """The leader's cell; ``?`` where the matrix is too small, ragged or does not name the pair."""
    row, column = index.get(client), index.get(server)
    if row is None or column is None or row >= len(matrix.rows) or column >= len(matrix.rows[row]):
        return "?"
    return matrix.rows[row][column]


def _unread(*problems: Problem | None) -> str | None:
    """Why a pair of these clusters is not known, by the first that was not read back; None where both were."""
    return next((problem.sentence for problem in problems if problem is not None), None)


def proof_view(view: MatrixView, name: str, seen: ControllerClusterReport | None) -> ProofView:
    """The part of the matrix that is about one cluster, in both directions."""
    i = view.clusters.index(name)
    cells = view.rows[i].replace("-", "") + "".join(row[i] for row in view.rows).replace("-", "")
    return ProofView(
        pairs=len(cells),
        valid=cells.count("v"),
        failed=cells.count("x"),
        unknown=cells.count("?"),
        quarantined=cells.count("q"),
        probe_not_after=seen.probe_not_after if seen else 0.0,
        probe_detail=seen.probe_detail if seen else "",
        probe_reason=seen.probe_reason if seen else "",
        probe_remedy=seen.probe_remedy if seen else "",
    )
