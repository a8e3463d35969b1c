"""The status as plain text for a terminal: words, not colours, so that it survives a pipe and a screen reader. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from federation.status.causes import affected_pairs, consequences_text, placed
from federation.status.control_planes import control_plane_line, described
from federation.status.freshness import elapsed
from federation.status.joining import joining_text
from federation.status.model import (
    Attention,
    BundleView,
    ClusterView,
    FederationStatus,
    MatrixView,
    Severity,
    SignerView,
    WorkloadsView,
)
from federation.status.rotation_model import RotationView
from federation.status.trust_bundle import trust_bundle_line
from federation.status.webhooks import webhooks_line

MOST_LABELLED: Final = 16
WORDS: Final = {"v": "ok", "x": "FAIL", "?": "?", "q": "out", "-": "-"}
FAULT_WORDS: Final = {"failed": "FAIL", "quarantined": "out"}


def printable(text: str) -> str:
    """Text of other machines without what a terminal would obey: every control character becomes ``?``."""
    return "".join(c if c.isprintable() else "?" for c in text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what they hold, two spaces apart."""
    every = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in every
    ]


def status_text(status: FederationStatus) -> str:
    """Everything a person asks first: verdict, what needs attention, clusters, matrix, bundle, signers."""
    lines = [f"{status.verdict.upper()}: {printable(status.summary)}", ""]
    for item in status.attention:
        lines.append(f"{item.severity.upper():<8}  {printable(placed(item.where, item.what))}")
        lines += [f"          do: {printable(item.remedy)}"] if item.remedy else []
        follows = consequences_text(item)
        lines += [f"          so: {printable(follows)}"] if follows else []
    lines += [""] if status.attention else []
    lines += table(
        ("CLUSTER", "HEALTH", "API SERVER", "SIGNING", "NAMESPACES", "PAIRS", "CERTIFICATES", "WORKLOADS"),
        [_cluster(cluster) for cluster in status.clusters],
    )
    lines += [printable(joining_text(c.name, c.joining)) for c in status.clusters if c.joining is not None]
    if line := control_plane_line(status.clusters):
        lines += [printable(line)]
    if line := webhooks_line(status.clusters):
        lines += [printable(line)]
    if line := trust_bundle_line(status.clusters):
        lines += [printable(line)]
    lines += ["", *matrix_lines(status.matrix), ""]
    lines += bundle_lines(status.bundle, status.generated) if status.bundle else ["no generation is in force"]
    if status.rotation_problem:
        lines += ["", printable(f"rotation and quarantines: NOT KNOWN: {status.rotation_problem}")]
    elif status.rotation is not None and status.rotation.under_way:
        lines += ["", rotation_line(status.rotation)]
    for controller in status.controllers:
        if controller.leader:
            identity = f"; the hub's identity in clusters is {controller.hub}" if controller.hub else ""
            lines += ["", printable(f"{controller.replica} leads{identity}")]
    lines += [""]
    lines += table(
        ("SIGNER", "STATE", "GENERATION", "CERTIFICATES", "HEARD OF"), [_signer(s) for s in status.signers]
    )
    return "\n".join(lines)


def rotation_line(rotation: RotationView) -> str:
    """One sentence about a rotation."""
    gate = rotation.gate
    if gate is None:
        where = ""
    elif gate.open:
        where = ": its gate is open"
    else:
        where = f": {gate.detail}" + (
            f"; opens {instant_text(gate.opens_at)} at the earliest" if gate.opens_at else ""
        )
    return printable(f"rotation {rotation.number} ({rotation.kind}) is in {rotation.state}{where}")


def instant_text(at: datetime | None) -> str:
    """An instant as a person reads it."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at is not None else "at a time that is not known"


def _cluster(cluster: ClusterView) -> tuple[str, ...]:
    held, proof = cluster.publication, cluster.proof
    return (
        cluster.name,
        cluster.health,
        cluster.connection.state,
        cluster.signing.state,
        held.state if held.state == "unknown" else f"{held.current}/{held.selected} {held.state}",
        f"{proof.valid}/{proof.pairs}",
        str(cluster.signing.issued),
        workloads_text(cluster.workloads),
    )


def workloads_text(view: WorkloadsView) -> str:
    """How many hold a certificate, and how many sidecars have asked the hub."""
    if view.workloads is None:
        held = f"{view.holding} hold one, of an unknown number" if view.holding else "unknown"
    else:
        held = f"{view.holding}/{view.workloads} hold one"
    if view.sidecars is None:
        return held
    return f"{held}; {view.sidecars} sidecars, {view.asked} have asked the hub"


def _signer(signer: SignerView) -> tuple[str, ...]:
    state = "not heard of" if signer.stale else "ready" if signer.ready else "not ready"
    return (
        signer.replica,
        state,
        str(signer.generation),
        str(signer.issued),
        f"{elapsed(signer.age)} ago",
    )


def matrix_lines(matrix: MatrixView) -> list[str]:
    """The matrix with labels where it can be read, else its counts."""
    counts = f"{matrix.valid:,} of {matrix.pairs:,} pairs validate, {matrix.failed:,} fail, {matrix.unknown:,} unknown"
    if matrix.quarantined:
        counts += f", {matrix.quarantined:,} with quarantined clusters"
    if not 2 <= len(matrix.clusters) <= MOST_LABELLED:
        return [counts]
    rows = [
        (
            name,
            *(WORDS.get(cell, "?") for cell in row.ljust(len(matrix.clusters), "?")[: len(matrix.clusters)]),
        )
        for name, row in zip(matrix.clusters, matrix.rows, strict=False)
    ]
    return [counts, *table(("FROM \\ TO", *matrix.clusters), rows)]


def fault_lines(matrix: MatrixView) -> list[str]:
    """One line for each pair that is not known to be valid."""
    lines = [
        f"{FAULT_WORDS.get(r.result, '?'):<5} "
        f"{printable(r.client)} -> {printable(r.server)}: {printable(r.reason)}"
        for r in matrix.reasons
    ]
    return [*lines, f"... and {matrix.reasons_omitted:,} more"] if matrix.reasons_omitted else lines


CAUSE_WORDS: Final[dict[Severity, str]] = {"critical": "FAIL", "warning": "WARN", "notice": "NOTE"}


def cause_lines(causes: Sequence[Attention]) -> list[str]:
    """One line for each cause: the plain fact with its reason, how many pairs it affects, what to do."""
    return [
        printable(
            f"{CAUSE_WORDS[cause.severity]}  {placed(cause.where, cause.what)}"
            + (f" (affects {count:,} pairs)" if (count := affected_pairs(cause)) else "")
            + (f" (do: {cause.remedy})" if cause.remedy else "")
        )
        for cause in causes
    ]


def unserved_lines(cluster: ClusterView) -> list[str]:
    """Why a cluster is not served though its pairs may validate: workloads, istiods, namespaces that refuse."""
    view, held = cluster.workloads, cluster.publication
    lines: list[str] = []
    if not view.fine:
        refused = (
            f"; every caller is refused: {view.refused.reason}: {view.refused.detail}"
            if view.refused.all
            else ""
        )
        lines.append(f"{cluster.name}: {view.detail}{refused}")
    lines += [
        f"{cluster.name}: {described(plane)}" for plane in cluster.control_planes if plane.state == "failed"
    ]
    if held.failed or held.forbidden:
        lines.append(f"{cluster.name}: {held.detail}")
    return [printable(line) for line in lines]


def bundle_lines(bundle: BundleView, now: datetime | None = None) -> list[str]:
    """The bundle's generation and its anchors with what they have left."""
    age = (
        f", in force for {elapsed((now - bundle.created).total_seconds())}" if now and bundle.created else ""
    )
    rows = [
        (
            anchor.kind,
            anchor.subject,
            f"{anchor.not_after:%Y-%m-%d}" if anchor.not_after else "?",
            "expired" if anchor.days_left < 0 else f"{anchor.days_left:.0f} days",
            anchor.expiry,
            anchor.origin,
            anchor.sha256,
        )
        for anchor in bundle.anchors
    ]
    where = f"generation {bundle.generation} of {printable(bundle.trust_domain)}"
    return [
        f"bundle: {where}, sha256 {printable(bundle.sha256)}{age}",
        *table(("KIND", "SUBJECT", "EXPIRES", "LEFT", "STATE", "ORIGIN", "SHA256"), rows),
    ]
