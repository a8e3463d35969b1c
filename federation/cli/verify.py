"""``federation verify``: one exit code that says whether every cluster can talk to every other, and if not, why.

The matrix is proved with the hub's own probes. It says nothing about workloads that get no certificates, so those of
each cluster have to hold theirs as well.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federation.status.client import StatusClient, StatusUnavailable
    from federation.status.model import ClusterView, MatrixView

ASK_EVERY = 1.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    from federation.status.client import add_client_arguments

    parser = subparsers.add_parser(
        "verify",
        help="exit 0 only if every cluster can talk to every other",
        description="Exits 0 only if every ordered pair of clusters validates, the workloads of each hold "
        "certificates, no istiod lacks the one that the hub provides, and nothing is unknown; 1 otherwise, with each "
        "pair and cluster that fails and why; 2 when the status API cannot be asked.",
    )
    add_client_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the matrix as JSON")
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="ask again until every pair validates, for so many seconds at most (default: ask once)",
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Ask, perhaps until it is so; print the outcome."""
    try:
        return asyncio.run(_run(args))
    except KeyboardInterrupt:
        return 130


async def _run(args: argparse.Namespace) -> int:
    from federation.status.client import StatusClient, StatusUnavailable

    client = StatusClient.from_arguments(args)
    until = time.monotonic() + args.wait
    while True:
        outcome = await _ask(client)
        if isinstance(outcome, _Found) and outcome.good:
            break
        if time.monotonic() >= until:
            break
        await asyncio.sleep(min(ASK_EVERY, max(0.0, until - time.monotonic())))
    if isinstance(outcome, StatusUnavailable):
        print(f"federation verify: UNKNOWN: {outcome.diagnostics()}", file=sys.stderr)
        return 2
    _print(outcome, as_json=args.json)
    return 0 if outcome.good else 1


@dataclass(frozen=True, slots=True)
class _Found:
    """The matrix, the clusters whose workloads are not known to hold certificates, and istiods that cannot serve."""

    matrix: MatrixView
    unserved: tuple[ClusterView, ...]
    istiods: tuple[str, ...]

    @property
    def good(self) -> bool:
        return is_proven(self.matrix) and not self.unserved and not self.istiods


async def _ask(client: StatusClient) -> _Found | StatusUnavailable:
    from federation.status.client import StatusUnavailable
    from federation.status.model import Clusters, MatrixView
    from federation.status.text import control_plane_lines

    try:
        matrix = await client.get("/api/v1/matrix", MatrixView)
        clusters = (await client.get("/api/v1/clusters", Clusters)).clusters
    except StatusUnavailable as error:
        return error
    in_service = [view for view in clusters if view.quarantine is None]
    unserved = tuple(view for view in in_service if not view.workloads.fine)
    istiods = tuple(line for view in in_service for line in control_plane_lines(view))
    return _Found(matrix, unserved, istiods)


def is_proven(matrix: MatrixView) -> bool:
    """True where the hub says so and the cells say the same: a hub's word is not taken where it contradicts itself."""
    n = len(matrix.clusters)
    rows = ["v" * i + "-" + "v" * (n - 1 - i) for i in range(n)]
    return matrix.proven and n > 0 and matrix.rows == rows and matrix.pairs == matrix.valid == n * (n - 1)


def _print(found: _Found, *, as_json: bool) -> None:
    import msgspec

    from federation.status.text import fault_lines, matrix_lines, unserved_line

    matrix, unserved = found.matrix, [*map(unserved_line, found.unserved), *found.istiods]
    if as_json:
        print(msgspec.json.encode(matrix).decode())
        print("\n".join(unserved), file=sys.stderr, end="\n" if unserved else "")
        return
    for line in matrix_lines(matrix):
        print(line)
    for line in fault_lines(matrix):
        print(line)
    for line in unserved:
        print(line)
    if not matrix.clusters:
        print("no cluster is registered, so nothing is proved")
    print("every cluster can talk to every other" if found.good else "NOT PROVEN")
