"""The actions of ``federation rotate`` and their options: what is said of each, and what may be written."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final

from federation.core.config.values import fingerprint, seconds
from federation.core.errors import InvalidValue

Run = Callable[[argparse.Namespace], int]
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
        "Shows both sides, what speaks against the new one, its capacity, the canary, the waves and what it takes at "
        "least. Exits 0 when a start would be accepted and would not wait at once, 1 when not, 2 when the API cannot "
        "be asked. Changes nothing.",
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
        "show where the rotation stands, what it waits for, and until when",
        "Shows the states with the present one, the conditions of its gate with their evidence, when it opens at the "
        "earliest, quarantined clusters and the history. Exits 0 at rest or when the gate is open, 1 when it is "
        "closed or not known, 2 when the API cannot be asked.",
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
        "Takes a cluster out. Its workloads get no certificates from then on, and what it holds may stop working. "
        "The gates out of ACTIVE, ABORTING and EMERGENCY still wait until the certificates that are out there have "
        "expired: where it had a CA of its own, only once its takeover is declared.",
    )
    out.add_argument("cluster", metavar="CLUSTER", help="the registered name of the cluster")
    out.add_argument("--reason", required=True, help="why; status shows it")
    back = _action(
        actions,
        "release",
        runs["release"],
        "let a quarantined cluster return once it is caught up",
        "Lets a cluster return: it gets certificates again once it holds what is in force and no certificate alive "
        "there lacks a root that is signed under.",
    )
    back.add_argument("cluster", metavar="CLUSTER", help="the registered name of the cluster")
    over = _action(
        actions,
        "takeover",
        runs["takeover"],
        "declare that only the hub issues certificates in a cluster that had a CA of its own",
        "Declares that from now on nothing but the hub issues certificates in the cluster. Say it once its workloads "
        "have moved to the hub and its own CA is switched off, no sooner: certificates of that CA are reckoned with "
        "for earlier_longest_ttl from then on, and then its accepted anchor leaves the bundle by itself. Until it is "
        "said, rotations wait and the anchor stays. Said again, it counts from then on: do so if that CA has issued "
        "after all. Exits 1 while the cluster keeps a CA that is not accepted, while what it holds is not known (but "
        "for one that is quarantined), or where none has that name.",
    )
    over.add_argument("cluster", metavar="CLUSTER", help="the registered name of the cluster")
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
        type=_whole_fingerprint,
        required=True,
        metavar="FINGERPRINT",
        help="the whole SHA-256 of the compromised root or intermediate: 64 hex digits, colons allowed",
    )
    emergency.add_argument(
        "--deadline",
        type=_seconds,
        metavar="DURATION",
        help='how long what still needs it may go on, such as "30m" or plain seconds (default: 1h)',
    )
    emergency.add_argument(
        "--ttl-cap",
        type=_seconds,
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
    from federation.status.client import add_client_arguments

    parser = actions.add_parser(name, help=does, description=description)
    add_client_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what the API says as JSON")
    parser.set_defaults(run=run)
    return parser


def _reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", help="why; it is kept with the step")


def _whole_fingerprint(text: str) -> str:
    try:
        return fingerprint(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(
            f"{error.what}: {error.remedy}; a part of it is never enough"
        ) from error


def _seconds(text: str) -> float:
    try:
        return seconds(0, YEAR)(float(text) if text.replace(".", "", 1).isdigit() else text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.remedy}") from error
