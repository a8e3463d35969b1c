"""``federation verify``: one exit code that says whether every cluster can talk to every other, and if not, why.

The matrix is proved with the hub's own probes. It says nothing about workloads that get no certificates, so those of
each cluster have to hold theirs as well, and no namespace may refuse the bundle.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from federation.cli.hub_access import add_hub_options, hub_client

if TYPE_CHECKING:
    from federation.status.client import StatusClient, StatusUnavailable
    from federation.status.model import Attention, FederationStatus, MatrixView

ASK_EVERY = 1.0
MOST_LINES = 20


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "verify",
        help="exit 0 only if every cluster can talk to every other",
        description="Exits 0 only if every ordered pair of clusters validates, the workloads of each hold "
        "certificates, no namespace refuses the bundle, no istiod lacks the certificate that the hub provides, the "
        "configuration asks for nothing that is not followed, and nothing is unknown; 1 otherwise, with a line for "
        "each cause; 2 when the status API cannot be reached.",
    )
    add_hub_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the matrix as JSON, with `good` and every cause"
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="repeat until every pair validates, for at most this long (default: ask once)",
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
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from federation.status.client import StatusUnavailable

    client = hub_client(args)
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
    """The status, and why a cluster in service is not served: its workloads, its istiods, its namespaces."""

    status: FederationStatus
    unserved: tuple[str, ...]

    @property
    def matrix(self) -> MatrixView:
        return self.status.matrix

    @property
    def good(self) -> bool:
        from federation.status.findings.edits import is_pending_change

        pending_changes = any(is_pending_change(item) for item in self.status.attention)
        return is_proven(self.matrix) and not self.unserved and not pending_changes

    @property
    def causes(self) -> list[Attention]:
        """What keeps it from being proven, or may: notices do not."""
        return [item for item in self.status.attention if item.severity != "notice"]


async def _ask(client: StatusClient) -> _Found | StatusUnavailable:
    from federation.status.client import StatusUnavailable
    from federation.status.model import FederationStatus
    from federation.status.text import unserved_lines

    try:
        status = await client.get("/api/v1/status", FederationStatus)
    except StatusUnavailable as error:
        return error
    in_service = [view for view in status.clusters if view.quarantine is None]
    return _Found(status, tuple(line for view in in_service for line in unserved_lines(view)))


def is_proven(matrix: MatrixView) -> bool:
    """True where the hub says so and the cells say the same: a hub's word is not taken where it contradicts itself."""
    n = len(matrix.clusters)
    rows = ["v" * i + "-" + "v" * (n - 1 - i) for i in range(n)]
    return matrix.proven and n > 0 and matrix.rows == rows and matrix.pairs == matrix.valid == n * (n - 1)


def _print(found: _Found, *, as_json: bool) -> None:
    import msgspec

    from federation.status.encoding import encode_answer
    from federation.status.text import cause_lines, fault_lines, matrix_lines

    if as_json:
        matrix = msgspec.json.decode(encode_answer(found.matrix))
        document = matrix | {"good": found.good, "unserved": found.unserved, "causes": found.causes}
        print(encode_answer(document).decode())
        return
    for line in matrix_lines(found.matrix):
        print(line)
    if not found.good:
        # Causes come first; what no cause says is added, so that something is always printed.
        for line in (cause_lines(found.causes) or [*fault_lines(found.matrix), *found.unserved])[:MOST_LINES]:
            print(line)
    more = len(found.causes) - MOST_LINES
    if more > 0 and not found.good:
        print(f"... and {more} more causes (--json prints all)")
    if not found.matrix.clusters:
        print("no cluster is registered, so nothing is proved")
    print("every cluster can talk to every other" if found.good else "NOT PROVEN")
