"""The matrix of proof, counted again: a cell is valid only while everything it rests on is current. Pure.

The leader's matrix says what its handshakes gave. Here each ``v`` is kept only where the leader is live
and works with the generation in force, the proof is no older than that generation and than three intervals,
and both clusters were read back recently. A failure is kept for as long as nothing newer says otherwise. A pair
with a quarantined cluster is shown as that, whatever was proved of it: nothing is issued there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

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
    """The matrix over the registered clusters, in the order of the configuration.

    Rows in which everything is valid are taken as they are, and no more reasons are made than are shown: the status of
    200 clusters is composed whenever something changes.
    """
    names = [cluster.name.value for cluster in snapshot.config.clusters]
    source = snapshot.leader or snapshot.last_leader
    matrix = source.matrix if source else Matrix()
    general = not_proved(snapshot, matrix)
    judged = _Judged(snapshot, matrix, general, names)
    rows = [judged.row(number) for number in range(len(names))]
    pairs = len(names) * (len(names) - 1)
    valid = sum(row.count("v") for row in rows)
    shown = [*judged.failed.shown, *judged.unknown.shown, *judged.quarantined.shown][:MOST_REASONS]
    counts = [judged.failed.count, judged.unknown.count, judged.quarantined.count]
    return MatrixView(
        proven=bool(names) and not general and valid == pairs,
        computed=matrix.computed,
        generation=source.generation if source else 0,
        clusters=names,
        rows=rows,
        pairs=pairs,
        valid=valid,
        failed=judged.failed.count,
        unknown=judged.unknown.count,
        quarantined=judged.quarantined.count,
        handshakes=max(0, matrix.handshakes),
        reasons=shown,
        reasons_omitted=sum(counts) - len(shown),
    )


@dataclass(slots=True)
class _Reasons:
    """The pairs of one result: all are counted, and the first have their reasons."""

    result: Literal["failed", "unknown", "quarantined"]
    count: int = 0
    shown: list[PairReason] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether a further pair is counted only."""
        return len(self.shown) >= MOST_REASONS

    def add(self, client: str, server: str, reason: str) -> None:
        self.count += 1
        if not self.full:
            self.shown.append(PairReason(client=client, server=server, result=self.result, reason=reason))


class _Judged:
    """The leader's matrix as it is judged: row by row, with the reasons of what is not valid."""

    def __init__(
        self, snapshot: Snapshot, matrix: Matrix, general: Problem | None, names: Sequence[str]
    ) -> None:
        self._names = names
        self._matrix = matrix
        self._index = {name: i for i, name in enumerate(matrix.clusters)}
        self._general = general
        self._unread = {name: problem.sentence for name, problem in snapshot.unread.items()}
        self._quarantined = snapshot.quarantined
        self._concerned = [
            i for i, name in enumerate(names) if name in self._unread or name in self._quarantined
        ]
        self.failed = _Reasons("failed")
        self.unknown = _Reasons("unknown")
        self.quarantined = _Reasons("quarantined")

    def row(self, number: int) -> str:
        """The cells of the calls of the cluster with that number."""
        names, client = self._names, self._names[number]
        cells = self._cells(client)
        cells[number] = "-"
        nothing_known = self._general is not None or client in self._unread
        if nothing_known and self.unknown.full and not self._quarantined and "x" not in cells:
            self.unknown.count += len(names) - 1
            return "?" * number + "-" + "?" * (len(names) - 1 - number)
        looked_at: Iterable[int] = self._concerned
        if nothing_known or client in self._quarantined:
            looked_at = range(len(names))
        elif cells.count("v") < len(names) - 1:
            looked_at = sorted({*self._concerned, *(j for j, cell in enumerate(cells) if cell != "v")})
        for j in looked_at:
            if j != number:
                cells[j] = self._cell(client, names[j], cells[j])
        return "".join(cells)

    def _cells(self, client: str) -> list[str]:
        """The leader's cells; ``?`` where the matrix is too small, ragged or does not name the pair."""
        row = self._index.get(client)
        cells = self._matrix.rows[row] if row is not None and row < len(self._matrix.rows) else ""
        if len(cells) == len(self._names) and self._matrix.clusters == self._names:
            return list(cells)
        columns = (self._index.get(name) for name in self._names)
        return [cells[at] if at is not None and at < len(cells) else "?" for at in columns]

    def _cell(self, client: str, server: str, cell: str) -> str:
        for taken in (client, server):
            if taken in self._quarantined:
                reason = f"{taken} is quarantined: {self._quarantined[taken].reason}"
                self.quarantined.add(client, server, reason)
                return "q"
        if self._general is not None:
            why: str | None = self._general.detail
        else:  # by the first that was not read back
            why = self._unread.get(client) or self._unread.get(server)
        if cell == "v" and why is None:
            return "v"
        given = self._matrix.reasons.get(f"{client}>{server}", "")
        if cell == "x":
            self.failed.add(client, server, given or "the handshake failed")
            return "x"
        self.unknown.add(client, server, why or given or "this pair has not been proved yet")
        return "?"


class PairTable:
    """The matrix read both ways, with the place of each cluster: made once, as a column takes a pass over every row."""

    def __init__(self, view: MatrixView) -> None:
        self.clusters: Sequence[str] = view.clusters
        self._at = {name: i for i, name in enumerate(view.clusters)}
        self._rows = view.rows
        self._columns = ["".join(cells) for cells in zip(*view.rows, strict=True)]

    def calls(self, name: str) -> str:
        """The cells of the pairs in which the cluster is the client, in the order of ``clusters``; ``-`` for itself."""
        return self._rows[self._at[name]]

    def answers(self, name: str) -> str:
        """The cells of the pairs in which it is the server."""
        return self._columns[self._at[name]]


def proof_view(pairs: PairTable, name: str, seen: ControllerClusterReport | None) -> ProofView:
    """The part of the matrix that is about one cluster, in both directions."""
    cells = (pairs.calls(name) + pairs.answers(name)).replace("-", "")
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
