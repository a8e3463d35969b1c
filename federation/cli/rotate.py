"""``federation rotate``: plan, start and follow a rotation, step it, abort it, take clusters out, in and over."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Final

from federation.cli.rotate_options import add_actions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from federation.status.client import StatusClient
    from federation.status.model import FederationStatus

WATCH_EVERY: Final = 2.0
CONFIRMED_BY: Final = 8
"""Hex digits that a person types: enough to have looked, few enough to type."""

EXIT_REFUSED: Final = 1
EXIT_UNKNOWN: Final = 2
DEFAULT_DEADLINE: Final = 3600.0  # seconds; what the controller takes where none is given


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb, its actions and their options."""
    add_actions(
        subparsers,
        {
            "plan": _plan,
            "start": _start,
            "status": _status,
            "advance": _advance,
            "abort": _abort,
            "restore": _restore,
            "quarantine": _quarantine,
            "release": _release,
            "takeover": _takeover,
            "emergency": _emergency,
        },
    )


def _plan(args: argparse.Namespace) -> int:
    from federation.status.text_rotation import plan_text

    status = _ask(args)
    if status is None:
        return EXIT_UNKNOWN
    _print(args, status.rotation_plan, plan_text(status))
    return 0 if status.rotation_plan is not None and status.rotation_plan.ready else EXIT_REFUSED


def _status(args: argparse.Namespace) -> int:
    import time

    while True:
        status = _ask(args)
        if args.watch and not args.json and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")
        code = EXIT_UNKNOWN if status is None else _show(args, status)
        if not args.watch:
            return code
        sys.stdout.flush()
        time.sleep(WATCH_EVERY)


def _show(args: argparse.Namespace, status: FederationStatus) -> int:
    from federation.status.text import printable
    from federation.status.text_rotation import rotation_text

    _print(args, status.rotation, rotation_text(status))
    if status.rotation_problem:
        if args.json:
            print(f"federation rotate: NOT KNOWN: {printable(status.rotation_problem)}", file=sys.stderr)
        return EXIT_REFUSED
    gate = status.rotation.gate if status.rotation is not None else None
    return 0 if gate is None or (gate.known and gate.open) else EXIT_REFUSED


def _start(args: argparse.Namespace) -> int:
    given = {} if args.canary is None else {"canary": args.canary}
    return _operate(args, "start", given | {"reason": args.reason})


def _advance(args: argparse.Namespace) -> int:
    return _operate(args, "advance", {"reason": args.reason})


def _abort(args: argparse.Namespace) -> int:
    return _operate(args, "abort", {"reason": args.reason})


def _restore(args: argparse.Namespace) -> int:
    return _operate(args, "restore", {"reason": args.reason})


def _quarantine(args: argparse.Namespace) -> int:
    return _operate(args, "quarantine", {"cluster": args.cluster, "reason": args.reason})


def _release(args: argparse.Namespace) -> int:
    return _operate(args, "release", {"cluster": args.cluster})


def _takeover(args: argparse.Namespace) -> int:
    return _operate(args, "takeover", {"cluster": args.cluster})


def _emergency(args: argparse.Namespace) -> int:
    """Show what will fail, be sure, ask."""
    from datetime import timedelta

    from federation.status.text import printable
    from federation.status.text_rotation import loss_lines

    status = _ask(args)
    if status is None:
        return EXIT_UNKNOWN
    rotation = status.rotation
    if status.rotation_problem:
        print(f"WHAT WILL FAIL IS NOT KNOWN: {printable(status.rotation_problem)}", file=sys.stderr)
    if rotation is not None and rotation.under_way:
        new = args.compromised in {rotation.new.intermediate, rotation.new.root}
        side = "new" if new and args.compromised != rotation.old.root else "old"
        length = timedelta(seconds=DEFAULT_DEADLINE if args.deadline is None else args.deadline)
        lines = loss_lines(rotation.losses, side=side, removed_at=status.generated + length)
        print("\n".join(lines), file=sys.stderr)
        if rotation.gate is None or not rotation.gate.known:
            print("THIS LIST IS NOT KNOWN TO BE COMPLETE: no controller that leads tells it", file=sys.stderr)
    if not args.yes and (code := _confirmed(args.compromised)):
        return code
    given = {"compromised": args.compromised, "reason": args.reason}
    if args.deadline is not None:
        given["deadline"] = str(args.deadline)
    if args.ttl_cap is not None:
        given["ttl_cap"] = str(args.ttl_cap)
    return _operate(args, "emergency", given)


def _confirmed(sha256: str) -> int:
    """0 where a person types the first digits; else the exit code, having said why."""
    if not sys.stdin.isatty():
        print(
            "federation rotate: nobody can be asked here, so it needs --yes; nothing was done",
            file=sys.stderr,
        )
        return EXIT_UNKNOWN
    print(
        f"Type the first {CONFIRMED_BY} digits of the compromised fingerprint to go on: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().lower() != sha256[:CONFIRMED_BY]:
        print("federation rotate: that is not what it begins with; nothing was done", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _ask(args: argparse.Namespace) -> FederationStatus | None:
    """The status; None where the API cannot be asked, which is said."""
    from federation.status.client import StatusUnavailable
    from federation.status.model import FederationStatus

    try:
        return asyncio.run(_client(args).get("/api/v1/status", FederationStatus))
    except StatusUnavailable as error:
        print(f"federation rotate: UNKNOWN: {error.diagnostics()}", file=sys.stderr)
        return None


def _operate(args: argparse.Namespace, verb: str, arguments: Mapping[str, str]) -> int:
    from federation.status.client import StatusUnavailable
    from federation.status.text_rotation import operation_text

    given = {name: value for name, value in arguments.items() if value or name == "canary"}
    try:
        decided = asyncio.run(_client(args).operate(verb, given))
    except StatusUnavailable as error:
        print(f"federation rotate: UNKNOWN: {error.diagnostics()}", file=sys.stderr)
        return EXIT_UNKNOWN
    _print(args, decided, operation_text(decided))
    return 0 if decided.outcome == "done" else EXIT_REFUSED


def _client(args: argparse.Namespace) -> StatusClient:
    from federation.status.client import StatusClient

    return StatusClient.from_arguments(args)


def _print(args: argparse.Namespace, document: object, text: str) -> None:
    import msgspec

    print(msgspec.json.encode(document).decode() if args.json else text)
