"""What a proof still says by now: clusters may hold something else since than it was made with. Pure.

A bundle that is published, or an edit, is read back at once; the next proof follows within seconds. Until then a valid
pair would be green about what nobody has tried.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from federation.controller.proof.matrix import MOST_REASONS
from federation.state.documents import Matrix


def standing(matrix: Matrix, doubts: Mapping[str, str]) -> Matrix:
    """The matrix without what is valid of clusters in doubt; ``doubts`` says of each of those why, in words.

    A failure stays: nothing says otherwise yet.
    """
    if not doubts:
        return matrix
    rows: list[str] = []
    reasons = dict(matrix.reasons)
    for client, row in zip(matrix.clusters, matrix.rows, strict=True):
        cells = ""
        for server, cell in zip(matrix.clusters, row, strict=True):
            doubted = [f"{name}: {doubts[name]}" for name in (client, server) if name in doubts]
            cells += "?" if cell == "v" and doubted else cell
            if cell == "v" and doubted and len(reasons) < MOST_REASONS:
                reasons[f"{client}>{server}"] = "; ".join(doubted)
        rows.append(cells)
    return replace(matrix, rows=rows, reasons=reasons, valid=sum(row.count("v") for row in rows))
