"""Pins with their state, and proposals, as lines for a person or as rows for a program. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from federation.cli.candidate import TrustAnswer
from federation.core.config.model import AnchorPin, TrustConfig
from federation.core.pki.certificate import Certificate
from federation.status.model import AnchorView
from federation.status.rotation_model import UnpinnedView
from federation.status.text import instant_text, printable, table

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
    trust: TrustConfig, held: Mapping[str, Certificate | str], status: TrustAnswer | None
) -> list[PinRow]:
    """Every pin in the configuration's order, then what is published without one.

    ``held`` is what each pin's file gives here, by fingerprint: the certificate, or why it does not.
    """
    bundle = status.bundle if status else None
    published = {anchor.sha256: anchor for anchor in bundle.anchors} if bundle else {}
    rows = [_pinned(pin, held[pin.sha256], published.get(pin.sha256), status) for pin in trust.anchors]
    others = [a for a in published.values() if a.kind != "intermediate" and a.sha256 not in trust.pins]
    gone = {view.sha256: view for view in status.unpinned} if status else {}
    return rows + [_unpinned(anchor, gone.get(anchor.sha256)) for anchor in others]


def _pinned(
    pin: AnchorPin, held: Certificate | str, published: AnchorView | None, status: TrustAnswer | None
) -> PinRow:
    certificate = held if isinstance(held, Certificate) else None
    state: PinState = "published" if published else "staged" if pin.staged else "not published"
    return PinRow(
        sha256=pin.sha256,
        state=state if status is not None and status.bundle is not None else "unknown",
        subject=certificate.subject if certificate else published.subject if published else "",
        not_after=certificate.not_after if certificate else published.not_after if published else None,
        cluster=", ".join(map(str, pin.clusters)),
        trust_domain=str(pin.trust_domain),
        foreign_override=pin.allow_foreign_trust_domain,
        file=str(pin.file),
        problem=held if isinstance(held, str) else _told_by_leader(pin, status),
    )


def _told_by_leader(pin: AnchorPin, status: TrustAnswer | None) -> str:
    """What the leader says of the same file; empty where it is good or not heard of."""
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
        not_after=anchor.not_after,
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
        return "it stays in the bundle until nothing needs it; no controller that leads tells what does"
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
        return [*lines, "WHAT WILL FAIL IS NOT KNOWN: no controller that leads tells it"]
    if not rows:
        return [*lines, "nothing is known to fail if it is removed now"]
    return [
        *lines,
        "what will fail if it is removed now:",
        *table(("CLUSTER", "UNTIL", "WHAT"), sorted(rows)),
    ]


def pin_lines(rows: Sequence[PinRow]) -> list[str]:
    """The pins as a table, and below it what is wrong with any of them."""
    heads = ("STATE", "SUBJECT", "EXPIRES", "CLUSTER", "TRUST DOMAIN", "SHA256")
    cells = [
        (
            row.state,
            row.subject or "?",
            _day(row.not_after),
            row.cluster or "-",
            row.trust_domain + (" (foreign, accepted)" if row.foreign_override else ""),
            row.sha256,
        )
        for row in rows
    ]
    problems = [f"{row.sha256[:16]}: {printable(row.problem)}" for row in rows if row.problem]
    return ["pins:", *table(heads, cells), *problems]


def proposal_lines(status: TrustAnswer | None) -> list[str]:
    """The open proposals; nothing where the hub was not asked."""
    if status is None:
        return []
    if not status.proposals:
        return ["", "no open proposal: nothing was found that is not pinned"]
    heads = ("SUBJECT", "EXPIRES", "CLUSTER", "FOUND IN", "SHA256")
    cells = [
        (p.subject or "?", _day(p.not_after), p.cluster or "-", p.origin, p.sha256) for p in status.proposals
    ]
    return [
        "",
        "found and not trusted; accept with `federation trust accept SHA256`, which pins it as the own CA",
        "of every cluster that it was found in, or dismiss with `federation trust dismiss SHA256`:",
        *table(heads, cells),
    ]


def _day(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d}" if instant else "?"
