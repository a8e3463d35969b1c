"""``federation status``: the verdict, what needs attention, and what both rest on."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from federation.cli.hub_access import add_hub_options, hub_client

if TYPE_CHECKING:
    from federation.status.client import StatusClient

WATCH_EVERY = 2.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "status",
        help="show what is going on, and what needs attention",
        description="Asks the status API and prints the verdict, what needs attention with its remedy, the clusters, "
        "the matrix, the bundle and the signers. Exits 0 when healthy or degraded, 1 when failing, 2 when the API "
        "cannot be reached. For a pipeline that must know whether every cluster can talk to every other, use verify.",
    )
    add_hub_options(parser)
    parser.add_argument("--json", action="store_true", help="print the API's answer as JSON")
    parser.add_argument(
        "--watch", action="store_true", help="print it again every two seconds until interrupted"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status; the exit code is the verdict."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    client = hub_client(args)
    if not args.watch:
        return await _show(client, as_json=args.json)
    while True:
        if not args.json and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")
        await _show(client, as_json=args.json)
        sys.stdout.flush()
        await asyncio.sleep(WATCH_EVERY)


async def _show(client: StatusClient, *, as_json: bool) -> int:
    from federation.status.client import StatusUnavailable
    from federation.status.encoding import encode_answer
    from federation.status.model import FederationStatus
    from federation.status.text import status_text

    try:
        status = await client.get("/api/v1/status", FederationStatus)
    except StatusUnavailable as error:
        print(f"federation status: UNKNOWN: {error.diagnostics()}", file=sys.stderr)
        return 2
    print(encode_answer(status).decode() if as_json else status_text(status))
    return 1 if status.verdict == "failing" else 0
