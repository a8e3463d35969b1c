"""``federation bundle show``: the bundle in force, as anchors with their expiries or as the very bytes."""

from __future__ import annotations

import argparse
import asyncio
import sys

from federation.cli.hub_access import add_hub_options, hub_client


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb, its own verbs and their options."""
    parser = subparsers.add_parser("bundle", help="show the trust bundle in force")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    show = verbs.add_parser(
        "show",
        help="print the bundle in force",
        description="Prints the generation in force and its anchors with provenance and expiry. Exits 1 when no bundle "
        "is in force, 2 when the status API cannot be reached.",
    )
    add_hub_options(show)
    form = show.add_mutually_exclusive_group()
    form.add_argument(
        "--pem", action="store_true", help="print the bundle's bytes, as every cluster holds them"
    )
    form.add_argument("--json", action="store_true", help="print the API's answer as JSON")
    show.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the bundle."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from federation.status.client import StatusUnavailable
    from federation.status.encoding import encode_answer
    from federation.status.model import FederationStatus
    from federation.status.text import bundle_lines

    client = hub_client(args)
    try:
        status = await client.get("/api/v1/status", FederationStatus)
        if status.bundle is None:
            print(
                "federation bundle: no generation of trust is in force; see `federation status`",
                file=sys.stderr,
            )
            return 1
        pem = await client.get_bytes("/api/v1/bundle.pem") if args.pem else b""
    except StatusUnavailable as error:
        print(f"federation bundle: {error.diagnostics()}", file=sys.stderr)
        return 2
    if args.pem:
        sys.stdout.write(pem.decode("ascii", errors="replace"))
    elif args.json:
        print(encode_answer(status.bundle).decode())
    else:
        print("\n".join(bundle_lines(status.bundle, status.generated)))
    return 0
