"""``federation demo``: a whole federation on this machine, to try out or to check in a pipeline."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from federation.core.errors import FederationError

if TYPE_CHECKING:
    from federation_sandbox.demo import Demo

RENEW_EVERY = 5.0
CONTEXT = "demo"
EXTRA = "demo"  # of federation-hub: it brings federation_sandbox, a separate distribution


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "demo",
        help="start clusters in a box and the hub, prove that every pair can talk, and show it",
        description="Starts member clusters in a box and the hub beside them (both roles, as their own processes), "
        "lets workloads get certificates through the gRPC listener, publishes the bundle, and proves every ordered "
        "pair of clusters by a handshake. Stays up until interrupted; meanwhile the context demo names its hub, and "
        "one more cluster is there to register: it prints how. Exits 0 only if every pair validated. Everything is "
        "for development: keys are thrown away at the end. The clusters in a box are a distribution of their own, "
        "which the extra demo installs.",
    )
    parser.add_argument("--once", action="store_true", help="end as soon as the outcome is known")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout and nothing else there"
    )
    parser.add_argument(
        "--rotate",
        action="store_true",
        help="rotate the root while the workloads keep shaking hands; takes about three minutes",
    )
    parser.add_argument("--clusters", type=int, default=3, metavar="N", help="how many clusters (default: 3)")
    parser.add_argument(
        "--signers", type=int, default=2, metavar="N", help="how many signer processes (default: 2)"
    )
    parser.add_argument(
        "--directory", type=Path, help="where keys, kubeconfigs and state go (default: a temporary one)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; the exit code is 0 only if every pair validated."""
    if find_spec("federation_sandbox") is None:
        print(
            "federation demo: the clusters in a box are not installed: they mint tokens, so they are no part of what "
            f"runs in production; to have them beside this command: pip install 'federation-hub[{EXTRA}]' (in a clone "
            "of the repository: make demo)",
            file=sys.stderr,
        )
        return 1
    if args.clusters < 2:
        print(
            "federation demo: --clusters must be at least 2: there is no pair to prove in one",
            file=sys.stderr,
        )
        return 2
    if args.directory is not None:
        args.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return asyncio.run(_run(args, args.directory.resolve()))
    with tempfile.TemporaryDirectory(prefix="federation-demo-") as directory:
        return asyncio.run(_run(args, Path(directory).resolve()))


async def _run(args: argparse.Namespace, directory: Path) -> int:
    from federation.runtime.clock import SystemClock
    from federation_sandbox.demo import open_demo

    def say(line: str) -> None:
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with open_demo(
            directory,
            clusters=args.clusters,
            say=say,
            clock=SystemClock(),
            signers=args.signers,
            rotates=args.rotate,
            spare=not args.once,
        ) as demo:
            return await _until(stop, demo, args)
    except FederationError as error:
        print(f"federation demo: {error.diagnostics()}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def running_demo(url: str) -> Iterator[None]:
    """The context ``demo`` while the demo is up; nothing but a message where the file cannot be written."""
    from federation.cli.context_file import Contexts, HubContext

    try:
        contexts = Contexts.load()
        contexts.put(CONTEXT, HubContext(url=url))
        contexts.save()
    except FederationError as error:
        print(f"federation demo: no context was written: {error.diagnostics()}", file=sys.stderr)
        yield
        return
    named = "" if contexts.current == CONTEXT else f" --hub {CONTEXT}"
    print(f"in another terminal: federation status{named}", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        with contextlib.suppress(FederationError):
            contexts = Contexts.load()
            found = contexts.by_name.get(CONTEXT)
            if found is not None and found.url == url:  # not of a demo that was started since
                contexts.remove(CONTEXT)
                contexts.save()


def _command() -> str:
    """How this command was called, to be typed again."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "federation" else f"{sys.executable} -m federation"


async def _until(stop: asyncio.Event, demo: Demo, args: argparse.Namespace) -> int:
    from federation_sandbox.demo import matrix_table, rehearsal

    work = asyncio.ensure_future(demo.run())
    interrupted = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return 130
        outcome = work.result()
        if args.json:
            print(json.dumps(outcome.document, indent=2), flush=True)
        else:
            document = outcome.document
            print(matrix_table(document["matrix"], document["clusters"]))
            print(
                f"bundle: generation {document['bundle']['generation']}, sha256 {document['bundle']['sha256']}"
            )
            print(
                f"handshakes between workloads: {document['workload_handshakes']['tried']}, all counted above"
            )
            if "rotation" in document:
                handshakes, rotated = document["handshakes"], document["rotation"]
                print(
                    f"rotation: {rotated['state']} after {rotated['seconds']} s;"
                    f" handshakes meanwhile: {handshakes['tried']:,} tried, {handshakes['failed']} failed"
                )
            print(f"status: {document['status_url']}", flush=True)
        if not args.once:
            steps = "".join(f"  {line}\n" for line in rehearsal(demo.box, command=_command()))
            print(
                f"to rehearse, in another terminal (the hub does not know `spare` yet):\n{steps}",
                file=sys.stderr,
            )
            with running_demo(outcome.document["status_url"]):
                print("stays up until interrupted (Ctrl-C)", file=sys.stderr, flush=True)
                while not stop.is_set():
                    await demo.renew_due()
                    await asyncio.wait({interrupted}, timeout=RENEW_EVERY)
        return 0 if outcome.success else 1
    finally:
        for task in (work, interrupted):
            task.cancel()
        await asyncio.gather(work, interrupted, return_exceptions=True)
