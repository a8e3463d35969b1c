"""``federation rotate``: plan, start and follow a rotation, step it, abort it, take clusters out, in and over.

The actions and their options come first: what is said of each, and what may be written.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from federation.cli.hub_access import add_hub_options, hub_client, operate
from federation.cli.options import completes, duration, whole_fingerprint
from federation.cli.prompts import typed_digits

if TYPE_CHECKING:
    from federation.status.model import FederationStatus

Run = Callable[[argparse.Namespace], int]
VERB: Final = "federation rotate"
YEAR: Final = 366 * 86400.0  # seconds: what is longer was mistyped

_BUT_ABORT: Final = (
    "but not EMERGENCY, and after `restore` only once the old root is trusted everywhere again"
)


def add_actions(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], runs: Mapping[str, Run]
) -> None:
    """Add the verb with what each of its actions runs."""
    parser = subparsers.add_parser(
        "rotate",
        help="rotate the root or the intermediate: plan, start, follow, abort; quarantine or take over clusters",
        description="A rotation goes from state to state, each only through its gate: what every cluster and every "
        "unexpired certificate is known to trust. The leading controller decides; these verbs ask it, through the "
        "status API.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _action(
        actions,
        "plan",
        runs["plan"],
        "say what a start would do now",
        "Shows both sides, what is wrong with the new one, its capacity, the canary, the waves and what it takes at "
        "least. Exits 0 when a start would be accepted and would not wait at once, 1 when not, 2 when the API cannot "
        "be reached. Changes nothing.",
    )
    start = _action(
        actions,
        "start",
        runs["start"],
        "start the rotation from [signer.authority] to [signer.successor]",
        "Starts what `federation rotate plan` shows.",
    )
    start.add_argument(
        "--canary",
        metavar="NAMES",
        help="clusters that get certificates of the new authority first, with commas; empty for none (default: one)",
    )
    _reason(start)
    status = _action(
        actions,
        "status",
        runs["status"],
        "show the rotation's state, what it waits for, and until when",
        "Shows the states with the present one, the conditions of its gate with their evidence, when it opens at the "
        "earliest, quarantined clusters and the history. Exits 0 at rest or when the gate is open, 1 when it is "
        "closed or not known, 2 when the API cannot be reached.",
    )
    status.add_argument(
        "--watch", action="store_true", help="print it again every two seconds until interrupted"
    )
    for name, does in (
        (
            "advance",
            "take the next step now, if its gate is open: a paused or step by step rotation",
        ),
        ("abort", f"go back to the old authority; from every state before UNPUBLISHING {_BUT_ABORT}"),
        ("restore", "publish the old root again; from UNPUBLISHING"),
    ):
        _reason(_action(actions, name, runs[name], does, f"{does[0].upper()}{does[1:]}."))
    out = _action(
        actions,
        "quarantine",
        runs["quarantine"],
        "take a cluster out: nothing is issued there, and no gate waits until it is reached",
        "Takes a cluster out. Its workloads get no certificates from then on, and the ones that they have may stop"
        " working. The gates out of ACTIVE, ABORTING and EMERGENCY still wait until the certificates that are out "
        "there have expired: where it had its own CA, only once its takeover is declared.",
    )
    _cluster(out)
    out.add_argument("--reason", required=True, help="why; status shows it")
    back = _action(
        actions,
        "release",
        runs["release"],
        "let a quarantined cluster return once it has caught up",
        "Lets a cluster return: it gets certificates again once the bundle in force was read back there, and every "
        "certificate alive there came with each root that is signed under.",
    )
    _cluster(back)
    over = _action(
        actions,
        "takeover",
        runs["takeover"],
        "declare that only the hub issues certificates in a cluster that had its own CA",
        "Declares that from now on nothing but the hub issues certificates in the cluster. Declare it once its "
        "workloads have moved to the hub and its own CA is switched off, no sooner: certificates of that CA count "
        "as alive for earlier_longest_ttl from then on, and then its accepted anchor leaves the bundle by itself. "
        "Until it is declared, rotations wait and the anchor stays. Declared again, the time starts anew: do so if"
        " that CA has issued after all. Exits 1 while the cluster keeps a CA that is not accepted, while its "
        "content is not known (unless it is quarantined), or where no cluster has that name.",
    )
    _cluster(over)
    emergency = _action(
        actions,
        "emergency",
        runs["emergency"],
        "leave a compromised side of the rotation under way by a deadline, whatever still needs it",
        "A root or an intermediate of the rotation under way is compromised: certificates are signed by the other "
        "side at once, and the compromised one is removed by the deadline at the latest. Shows what will fail, and "
        "asks for the fingerprint's first digits.",
    )
    emergency.add_argument(
        "--compromised",
        type=whole_fingerprint,
        required=True,
        metavar="FINGERPRINT",
        help="the whole SHA-256 of the compromised root or intermediate: 64 hex digits, colons allowed",
    )
    emergency.add_argument(
        "--deadline",
        type=duration(0, YEAR),
        metavar="DURATION",
        help='how long what still needs it may go on, such as "30m" or plain seconds (default: 1h)',
    )
    emergency.add_argument(
        "--ttl-cap",
        type=duration(0, YEAR),
        metavar="DURATION",
        help="how long certificates may live from now on, so that everything renews soon (default: no cap)",
    )
    emergency.add_argument("--yes", action="store_true", help="do not ask for the fingerprint's first digits")
    _reason(emergency)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Run,
    does: str,
    description: str,
) -> argparse.ArgumentParser:

    parser = actions.add_parser(name, help=does, description=description)
    add_hub_options(parser)
    parser.add_argument("--json", action="store_true", help="print the API's answer as JSON")
    parser.set_defaults(run=run)
    return parser


def _cluster(parser: argparse.ArgumentParser) -> None:
    named = parser.add_argument("cluster", metavar="CLUSTER", help="the registered name of the cluster")
    completes(named, "clusters")


def _reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", help="why; it is kept with the step")


WATCH_EVERY: Final = 2.0
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
    from federation.status.text import plan_text

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
    from federation.status.text import printable, rotation_text

    _print(args, status.rotation, rotation_text(status))
    if status.rotation_problem:
        if args.json:
            print(f"federation rotate: NOT KNOWN: {printable(status.rotation_problem)}", file=sys.stderr)
        return EXIT_REFUSED
    gate = status.rotation.gate if status.rotation is not None else None
    return 0 if gate is None or (gate.known and gate.open) else EXIT_REFUSED


def _start(args: argparse.Namespace) -> int:
    given = {} if args.canary is None else {"canary": args.canary}
    return operate(args, VERB, "start", given | {"reason": args.reason})


def _advance(args: argparse.Namespace) -> int:
    return operate(args, VERB, "advance", {"reason": args.reason})


def _abort(args: argparse.Namespace) -> int:
    return operate(args, VERB, "abort", {"reason": args.reason})


def _restore(args: argparse.Namespace) -> int:
    return operate(args, VERB, "restore", {"reason": args.reason})


def _quarantine(args: argparse.Namespace) -> int:
    return operate(args, VERB, "quarantine", {"cluster": args.cluster, "reason": args.reason})


def _release(args: argparse.Namespace) -> int:
    return operate(args, VERB, "release", {"cluster": args.cluster})


def _takeover(args: argparse.Namespace) -> int:
    return operate(args, VERB, "takeover", {"cluster": args.cluster})


def _emergency(args: argparse.Namespace) -> int:
    """Show what will fail, be sure, ask."""
    from datetime import timedelta

    from federation.status.text import loss_lines, printable

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
            print(
                "THIS LIST IS NOT KNOWN TO BE COMPLETE: no controller that leads reports it", file=sys.stderr
            )
    if not args.yes:
        question = "Type {digits} of the compromised fingerprint to go on: "
        if code := typed_digits(args.compromised, question, verb=VERB, unchanged="done"):
            return code
    given = {"compromised": args.compromised, "reason": args.reason}
    if args.deadline is not None:
        given["deadline"] = str(args.deadline)
    if args.ttl_cap is not None:
        given["ttl_cap"] = str(args.ttl_cap)
    return operate(args, VERB, "emergency", given)


def _ask(args: argparse.Namespace) -> FederationStatus | None:
    """The status; None where the API cannot be reached, which is said."""
    from federation.status.client import StatusUnavailable
    from federation.status.model import FederationStatus

    try:
        return asyncio.run(hub_client(args).get("/api/v1/status", FederationStatus))
    except StatusUnavailable as error:
        print(f"federation rotate: UNKNOWN: {error.diagnostics()}", file=sys.stderr)
        return None


def _print(args: argparse.Namespace, document: object, text: str) -> None:

    from federation.status.encoding import encode_answer

    print(encode_answer(document).decode() if args.json else text)
