"""``federation trust``: which anchors are pinned, which were found, and how a person accepts or dismisses one.

Pins with their state, and proposals, are lines for a person or rows for a program (pure).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from federation.cli.hub_access import add_hub_options, hub_client, operate
from federation.cli.options import add_config, completes, whole_fingerprint
from federation.cli.pinning import TrustAnswer
from federation.cli.prompts import typed_digits
from federation.cli.tables import Rows, add_table_options
from federation.core.config.hub import AnchorPin, TrustConfig
from federation.core.documents.trust import Proposal
from federation.core.errors import FederationError
from federation.core.pki.certificate import Certificate
from federation.status.encoding import instant
from federation.status.model import AnchorView
from federation.status.rotation_model import UnpinnedView
from federation.status.snapshot import instant_text
from federation.status.text import printable, table

if TYPE_CHECKING:
    from federation.cli.pinning import Candidate
    from federation.core.config.hub import HubConfig

VERB: Final = "federation trust"
PINS: Final = ("state", "subject", "expires", "cluster", "trust_domain", "sha256")
PROPOSALS: Final = ("subject", "expires", "cluster", "found_in", "sha256")
EXIT_REFUSED: Final = 1
EXIT_UNKNOWN: Final = 2


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb, its actions and their options."""
    parser = subparsers.add_parser(
        "trust",
        help="show which anchors are pinned and proposed; accept one by its fingerprint",
        description="Anchors are trusted because the configuration pins them, never because they were found.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list",
        help="show every pin with its state, and every open proposal",
        description="Shows the pins of the configuration with their state, and the anchors that clusters or an "
        "authority have and that are not pinned. These are two tables: a --filter by a column that one of them lacks "
        "shows nothing of it. Exits 2 when the status API cannot be reached.",
    )
    add_config(listing)
    add_hub_options(listing)
    add_table_options(listing, (*PINS, *(column for column in PROPOSALS if column not in PINS)))
    listing.set_defaults(run=_list)
    accept = actions.add_parser(
        "accept",
        help="pin an anchor that was found",
        description="Takes the one proposal with this fingerprint from the status API, or a certificate from a file, "
        "checks that it is the self-signed CA of that fingerprint, and pins it: its PEM goes into a new file beside "
        "the configuration, a table [[trust.anchors]] to the configuration's end. Compare the fingerprint with the "
        "CA's owner first. Exits 1 when it is not accepted, 2 when the status API cannot be reached.",
    )
    _add_fingerprint(accept)
    whose = accept.add_mutually_exclusive_group()
    completes(
        whose.add_argument(
            "--cluster",
            action="append",
            default=[],
            metavar="NAME",
            help="whose member CA it is; may be repeated (default: every cluster that it was found in)",
        ),
        "clusters",
    )
    whose.add_argument(
        "--shared-root",
        action="store_true",
        help="it is no member CA: rotations wait for no takeover but those of clusters in which it is found",
    )
    accept.add_argument(
        "--trust-domain", default="", metavar="NAME", help="of the anchor (default: the hub's own)"
    )
    accept.add_argument(
        "--allow-foreign-trust-domain",
        action="store_true",
        help="accept that a CA of another trust domain can then speak for the hub's; status keeps showing it",
    )
    accept.add_argument(
        "--file",
        metavar="PATH",
        help="the new file for its PEM, from the configuration's directory on (default: anchors/, and the "
        "fingerprint's first 16 digits)",
    )
    accept.add_argument(
        "--from-file",
        type=Path,
        metavar="PEM",
        help="take the certificate from this file, without a hub; needs --cluster or --shared-root",
    )
    accept.add_argument("--yes", action="store_true", help="do not ask for the fingerprint's first digits")
    add_config(accept)
    add_hub_options(accept)
    accept.set_defaults(run=_accept)
    dismiss = actions.add_parser(
        "dismiss",
        help="stop listing an anchor that was found; it stays untrusted",
        description="Asks the leading controller to stop listing that proposal; the audit records by whom. Find out "
        "first what put it there: dismissing it changes nothing in a cluster. It is listed again where it is found "
        "after it was away. Exits 1 when it is refused, 2 when the API cannot be reached.",
    )
    _add_fingerprint(dismiss)
    completes(
        dismiss.add_argument(
            "--cluster",
            default="",
            metavar="NAME",
            help="only as found in this cluster (default: in every one)",
        ),
        "clusters",
    )
    dismiss.add_argument("--reason", default="", metavar="TEXT", help="why, for the audit")
    dismiss.add_argument("--json", action="store_true", help="print the decided operation as JSON")
    add_hub_options(dismiss)
    dismiss.set_defaults(run=_dismiss)
    guard = actions.add_parser(
        "guard",
        help="print which certificates a member's administrator allows in its bundle objects",
        description="Prints the ConfigMap that the admission policies of manifests/member/guard compare with: every "
        "certificate that the configuration pins, staged ones included, and what --certificates adds. Apply it with "
        "the administrator's own rights, before anything new is published. Exits 1 when it cannot be made.",
    )
    guard.add_argument(
        "--certificates",
        action="append",
        default=[],
        type=Path,
        metavar="PEM",
        help="certificates to add: intermediates that are published, or an anchor that stays although its pin is gone "
        "(federation bundle show --pem); may be repeated",
    )
    guard.add_argument(
        "--namespace", default="federation-system", metavar="NAME", help="where the ConfigMap is to be"
    )
    add_config(guard)
    guard.set_defaults(run=_guard)
    remove = actions.add_parser(
        "remove",
        help="remove an anchor whose pin is gone at once, whatever still needs it",
        description="An anchor whose pin was taken out of the configuration stays in the bundle until nothing needs "
        "it, and then leaves by itself. This shows what it waits for and what fails if it is removed now, and with "
        "--now asks for the fingerprint's first digits and removes it. An anchor that is pinned is removed by a "
        "rotation or an emergency. Exits 1 when nothing is removed, 2 when the API cannot be reached.",
    )
    _add_fingerprint(remove)
    remove.add_argument("--now", action="store_true", help="remove it (default: show what would fail)")
    remove.add_argument("--yes", action="store_true", help="do not ask for the fingerprint's first digits")
    remove.add_argument("--reason", default="", metavar="TEXT", help="why; it is kept with the removal")
    remove.add_argument("--json", action="store_true", help="print the decided operation as JSON")
    add_hub_options(remove)
    remove.set_defaults(run=_remove)


def _add_fingerprint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sha256",
        type=whole_fingerprint,
        metavar="FINGERPRINT",
        help="the whole SHA-256 of the certificate: 64 hex digits, colons allowed",
    )


def _list(args: argparse.Namespace) -> int:
    return asyncio.run(_show(args))


async def _show(args: argparse.Namespace) -> int:
    from federation.status.client import StatusUnavailable
    from federation.status.encoding import encode_answer

    config = await _load(args.config)
    status: TrustAnswer | None = None
    unavailable = ""
    try:
        status = await _ask(args, config)
    except StatusUnavailable as error:
        unavailable = error.diagnostics()
    rows = pin_rows(config.trust, {pin.sha256: _read_pin(pin) for pin in config.trust.anchors}, status)
    pins = Rows(PINS, [_pin_cells(row) for row in rows], rows).chosen(args)
    found = status.proposals if status else []
    proposals = Rows(PROPOSALS, [_proposal_cells(each) for each in found], found).chosen(args)
    if args.json:
        shown = {"pins": pins.documents, "proposals": proposals.documents if status else None}
        print(encode_answer(shown).decode())
    else:
        print("\n".join([*pin_lines(pins), *(proposal_lines(proposals, found) if status else [])]))
    if unavailable:
        print(f"federation trust: {unavailable}", file=sys.stderr)
        return EXIT_UNKNOWN
    return 0


def _read_pin(pin: AnchorPin) -> Certificate | str:
    """The certificate that a pin names, out of its file, or why that does not give it."""
    from federation.cli.pinning import read_certificate

    try:
        return read_certificate(pin.file, pin.sha256)
    except FederationError as error:
        return str(error)


def _guard(args: argparse.Namespace) -> int:
    import json

    from federation.cli.pinning import read_bounded, read_certificate
    from federation.core.istio.operator_files import MOST_IN_BUNDLES, guard_object
    from federation.core.pki.pem import parse_certificates

    config = asyncio.run(_load(args.config))
    try:
        certificates = [read_certificate(pin.file, pin.sha256) for pin in config.trust.anchors]
        for path in args.certificates:
            certificates += parse_certificates(read_bounded(path), where=str(path))
        found = guard_object(certificates, namespace=args.namespace)
    except FederationError as error:
        print(f"federation trust: {error.diagnostics()}", file=sys.stderr)
        return EXIT_REFUSED
    for certificate in {c.sha256: c for c in certificates}.values():
        print(f"{certificate.sha256}  {certificate.subject}", file=sys.stderr)
    if "binaryData" not in found:
        print(
            f"more than {MOST_IN_BUNDLES} certificates: leave istiod.yaml out of the guard",
            file=sys.stderr,
        )
    print(json.dumps(found, indent=2))
    return 0


def _dismiss(args: argparse.Namespace) -> int:
    return operate(
        args, VERB, "dismiss", {"anchor": args.sha256, "cluster": args.cluster, "reason": args.reason}
    )


def _remove(args: argparse.Namespace) -> int:
    """Show what will fail, be sure, ask."""
    from federation.status.client import StatusUnavailable

    try:
        status = asyncio.run(hub_client(args).get("/api/v1/status", TrustAnswer))
    except StatusUnavailable as error:
        print(f"{VERB}: UNKNOWN: {error.diagnostics()}", file=sys.stderr)
        return EXIT_UNKNOWN
    view = next((view for view in status.unpinned if view.sha256 == args.sha256), None)
    print("\n".join(removal_lines(view, args.sha256)), file=sys.stderr)
    if not args.now:
        print("federation trust: nothing was removed; --now removes it", file=sys.stderr)
        return EXIT_REFUSED
    if not args.yes and (code := _compared(args.sha256, "remove it", unchanged="removed")):
        return code
    return operate(args, VERB, "remove", {"anchor": args.sha256, "reason": args.reason})


def _compared(sha256: str, what: str, *, unchanged: str) -> int:
    """0 where a person says that the fingerprint was compared; else the exit code, having said why."""
    question = f"Compared with its owner? Type {{digits}} of the fingerprint to {what}: "
    return typed_digits(sha256, question, verb=VERB, unchanged=unchanged)


def _accept(args: argparse.Namespace) -> int:
    from federation.cli.pinning import NewPin, read_text, replace_text, with_pin, write_new
    from federation.status.client import StatusUnavailable

    config = asyncio.run(_load(args.config))
    if args.sha256 in config.trust.pins:
        return _pinned_already(args, config)
    try:
        candidate = _candidate(args, config)
    except StatusUnavailable as error:
        print(f"federation trust: {error.diagnostics()}", file=sys.stderr)
        return EXIT_UNKNOWN
    pin = NewPin(
        file=args.file or f"anchors/{args.sha256[:16]}.pem",
        sha256=args.sha256,
        clusters=candidate.clusters,
        trust_domain=args.trust_domain,
        allow_foreign_trust_domain=args.allow_foreign_trust_domain,
    )
    text, after = with_pin(read_text(args.config, digest=config.digest), pin, file=str(args.config))
    for warning in after.warnings:
        if warning not in config.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    pem = after.trust.anchors[-1].file
    print("\n".join([*candidate.lines, f"file     {pem}", "", pin.table]))
    answer = _compared(args.sha256, "pin it", unchanged="written") if not args.yes else 0
    if answer:
        return answer
    made = write_new(pem, candidate.certificate.pem)
    try:
        replace_text(args.config, text, digest=config.digest)
    except BaseException:
        if made:
            pem.unlink(missing_ok=True)
        raise
    print(
        f"pinned in {args.config}. Give every replica of both roles this configuration and {pin.file}: a signer "
        "refuses every bundle with an anchor that its own configuration does not pin."
    )
    return 0


def accept_found(args: argparse.Namespace, sha256: str, *, cluster: str) -> int:
    """Pin the proposal of that fingerprint as the member CA of that cluster; the exit code.

    ``args`` has the options of ``--config``, of the status API, and ``--yes``. Raises FederationError.
    """
    wanted = argparse.Namespace(
        **vars(args)
        | {
            "sha256": sha256,
            "cluster": [cluster],
            "shared_root": False,
            "trust_domain": "",
            "allow_foreign_trust_domain": False,
            "file": None,
            "from_file": None,
        }
    )
    return _accept(wanted)


def _candidate(args: argparse.Namespace, config: HubConfig) -> Candidate:
    """What is to be accepted, checked. Raises FederationError, StatusUnavailable where the hub cannot be reached."""
    from federation.cli.pinning import from_file, from_proposals
    from federation.runtime.clock import SystemClock

    now = SystemClock().now()
    clusters, shared = tuple(dict.fromkeys(args.cluster)), args.shared_root
    if args.from_file is not None:
        return from_file(args.from_file, args.sha256, clusters=clusters, shared=shared, now=now)
    status = asyncio.run(_ask(args, config))
    return from_proposals(status.proposals, args.sha256, clusters=clusters, shared=shared, now=now)


def _pinned_already(args: argparse.Namespace, config: HubConfig) -> int:
    """0, unless a cluster was named that the pin does not name. Raises FederationError then."""
    pin = next(pin for pin in config.trust.anchors if pin.sha256 == args.sha256)
    named = [*map(str, pin.clusters)]
    lacking = [name for name in dict.fromkeys(args.cluster) if name not in named]
    if lacking:
        raise FederationError(
            f"is pinned already, as the own CA of {', '.join(named) or 'none'}; nothing was written",
            where=args.sha256,
            remedy=f"add {', '.join(lacking)} to `cluster` of its table in {args.config}: it takes one name or several",
        )
    print(f"{args.sha256} is pinned already; nothing was written")
    return 0


async def _ask(args: argparse.Namespace, config: HubConfig) -> TrustAnswer:
    from federation.cli.pinning import TrustAnswer

    client = hub_client(args)
    status = await client.get("/api/v1/status", TrustAnswer)
    if status.trust_domain != str(config.trust_domain):
        raise FederationError(
            f"the hub there is of {printable(status.trust_domain[:255])}, {args.config} of {config.trust_domain}",
            where=client.url,
            remedy="name the right hub with --url, or its configuration with --config",
        )
    return status


async def _load(path: Path) -> HubConfig:
    from federation.runtime.clock import SystemClock
    from federation.runtime.config_source import ConfigSource

    return await ConfigSource(path, SystemClock()).load()


PinState = Literal["published", "staged", "not published", "pin gone", "not pinned here", "unknown"]


class PinRow(msgspec.Struct, frozen=True, kw_only=True):
    """One pin, or one anchor that is published without.

    ``published``: in the bundle in force. ``pin gone``: in it until nothing needs it, though the hub's configuration
    pins it no more. ``not pinned here``: in it by the hub's configuration, and not in this one. ``problem`` says why
    its file does not give it, here or at the leading controller, or why it stays; empty where all is well.
    """

    sha256: str
    state: PinState
    subject: str
    not_after: datetime | None
    cluster: str
    trust_domain: str
    foreign_override: bool
    file: str
    problem: str


def pin_rows(
    trust: TrustConfig, found: Mapping[str, Certificate | str], status: TrustAnswer | None
) -> list[PinRow]:
    """Every pin in the configuration's order, then what is published without one.

    ``found`` is what each pin's file gives here, by fingerprint: the certificate, or why it does not.
    """
    bundle = status.bundle if status else None
    published = {anchor.sha256: anchor for anchor in bundle.anchors} if bundle else {}
    rows = [_pinned(pin, found[pin.sha256], published.get(pin.sha256), status) for pin in trust.anchors]
    others = [a for a in published.values() if a.kind != "intermediate" and a.sha256 not in trust.pins]
    gone = {view.sha256: view for view in status.unpinned} if status else {}
    return rows + [_unpinned(anchor, gone.get(anchor.sha256)) for anchor in others]


def _pinned(
    pin: AnchorPin, found: Certificate | str, published: AnchorView | None, status: TrustAnswer | None
) -> PinRow:
    certificate = found if isinstance(found, Certificate) else None
    state: PinState = "published" if published else "staged" if pin.staged else "not published"
    return PinRow(
        sha256=pin.sha256,
        state=state if status is not None and status.bundle is not None else "unknown",
        subject=certificate.subject if certificate else published.subject if published else "",
        not_after=certificate.not_after
        if certificate
        else instant(published.not_after)
        if published
        else None,
        cluster=", ".join(map(str, pin.clusters)),
        trust_domain=str(pin.trust_domain),
        foreign_override=pin.allow_foreign_trust_domain,
        file=str(pin.file),
        problem=found if isinstance(found, str) else _leaders_problem(pin, status),
    )


def _leaders_problem(pin: AnchorPin, status: TrustAnswer | None) -> str:
    """What the leader says of the same file; empty where it is good or not seen."""
    names = (str(pin.file), f"{pin.file} ({pin.sha256[:12]})")
    leaders = [controller for controller in status.controllers if controller.leader] if status else []
    said = [leader.sources[name] for leader in leaders for name in names if name in leader.sources]
    return next((f"at the leader: {words}" for words in said if words != "ok"), "")


def _unpinned(anchor: AnchorView, gone: UnpinnedView | None) -> PinRow:
    problem = "the bundle in force holds it: the hub runs another configuration than this one"
    return PinRow(
        sha256=anchor.sha256,
        state="pin gone" if gone is not None else "not pinned here",
        subject=anchor.subject,
        not_after=instant(anchor.not_after),
        cluster=anchor.cluster,
        trust_domain=anchor.trust_domain,
        foreign_override=anchor.foreign_override,
        file="",
        problem=_why_it_stays(gone) if gone is not None else problem,
    )


def _why_it_stays(view: UnpinnedView) -> str:
    """Until when an anchor without a pin stays, and why."""
    until = f" until {instant_text(view.leaves_at)} at the earliest" if view.leaves_at else ""
    if not view.known:
        return "it stays in the bundle until nothing needs it; no controller that leads reports what does"
    waits = "; ".join(f"{c.cluster}: {c.detail}" if c.cluster else c.detail for c in view.waits_for)
    return f"it stays in the bundle{until}: {waits}" if waits else "it leaves the bundle now"


def removal_lines(view: UnpinnedView | None, sha256: str) -> list[str]:
    """What a person has to know before an anchor without a pin is removed at once."""
    if view is None:
        return [f"{sha256} is not known to be published without a pin: only such an anchor can be removed"]
    lines = [f"{printable(view.subject)} ({view.sha256}): {printable(_why_it_stays(view))}"]
    rows = [
        (lost.cluster, instant_text(lost.until) if lost.until else "not known", loss.what)
        for loss in view.losses
        for lost in loss.clusters
    ]
    if not view.known:
        return [*lines, "WHAT WILL FAIL IS NOT KNOWN: no controller that leads reports it"]
    if not rows:
        return [*lines, "nothing is known to fail if it is removed now"]
    return [
        *lines,
        "what will fail if it is removed now:",
        *table(("CLUSTER", "UNTIL", "WHAT"), sorted(rows)),
    ]


def _pin_cells(row: PinRow) -> tuple[str, ...]:
    return (
        row.state,
        row.subject or "?",
        _day(row.not_after),
        row.cluster or "-",
        row.trust_domain + (" (foreign, accepted)" if row.foreign_override else ""),
        row.sha256,
    )


def pin_lines(rows: Rows) -> list[str]:
    """The pins as a table, and below it what is wrong with any of them."""
    problems = [f"{row.sha256[:16]}: {printable(row.problem)}" for row in rows.documents if row.problem]
    return ["pins:", *rows.lines, *problems]


def _proposal_cells(proposal: Proposal) -> tuple[str, ...]:
    return (
        proposal.subject or "?",
        _day(instant(proposal.not_after)),
        proposal.cluster or "-",
        proposal.origin,
        proposal.sha256,
    )


def proposal_lines(rows: Rows, found: Sequence[Proposal]) -> list[str]:
    """The open proposals that are shown, of all that were found."""
    if not found:
        return ["", "no open proposal: nothing was found that is not pinned"]
    if not rows.cells:
        return []
    return [
        "",
        "found and not trusted; accept with `federation trust accept SHA256`, which pins it as the member CA",
        "of every cluster that it was found in, or dismiss with `federation trust dismiss SHA256`:",
        *rows.lines,
    ]


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d}" if at else "?"
