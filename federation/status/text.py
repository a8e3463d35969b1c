"""The status as plain text for a terminal: words, not colours, so that it survives a pipe and a screen reader. Pure.

The rotation has a stepper, its gate with the evidence, the plan, and losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from federation.core.rotation.record import Condition, Side
from federation.status.clusters import (
    control_plane_line,
    described,
    joining_text,
    trust_bundle_line,
    webhooks_line,
)
from federation.status.encoding import instant
from federation.status.findings.causes import WITHHELD, affected_pairs, consequences_text
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
from federation.status.rotation_model import (
    GateView,
    LossView,
    OperationView,
    PlanView,
    QuarantineView,
    RotationView,
    StepView,
)
from federation.status.snapshot import elapsed, instant_text

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
        lines.append(f"{item.severity.upper():<8}  {printable(item.sentence)}")
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
        ("SIGNER", "STATE", "GENERATION", "CERTIFICATES", "LAST SEEN"), [_signer(s) for s in status.signers]
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


def _cluster(cluster: ClusterView) -> tuple[str, ...]:
    publication, proof = cluster.publication, cluster.proof
    return (
        cluster.name,
        cluster.health,
        cluster.connection.state,
        cluster.signing.state,
        publication.state
        if publication.state == "unknown"
        else f"{publication.current}/{publication.selected} {publication.state}",
        f"{proof.valid}/{proof.pairs}",
        str(cluster.signing.issued),
        workloads_text(cluster.workloads),
    )


def workloads_text(view: WorkloadsView) -> str:
    """How many hold a certificate, and how many sidecars have asked the hub."""
    if view.workloads is None:
        certified = (
            f"{view.with_certificate} hold one, of an unknown number" if view.with_certificate else "unknown"
        )
    else:
        certified = f"{view.with_certificate}/{view.workloads} hold one"
    if view.sidecars is None:
        return certified
    return f"{certified}; {view.sidecars} sidecars, {view.asked} have asked the hub"


def _signer(signer: SignerView) -> tuple[str, ...]:
    state = "not seen" if signer.stale else "ready" if signer.ready else "not ready"
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
            f"{CAUSE_WORDS[cause.severity]}  {cause.sentence}"
            + (f" (affects {count:,} pairs)" if (count := affected_pairs(cause)) else "")
            + (f" (do: {cause.remedy})" if cause.remedy else "")
        )
        for cause in causes
    ]


def unserved_lines(cluster: ClusterView) -> list[str]:
    """Why a cluster is not served though its pairs may validate.

    It is left to another hub or holds a later bundle than the state knows, its workloads or istiods get nothing, or
    namespaces refuse the bundle.
    """
    view, publication = cluster.workloads, cluster.publication
    lines: list[str] = []
    if cluster.connection.reason in WITHHELD:
        lines.append(f"{cluster.name}: {cluster.connection.detail}")
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
    if publication.failed or publication.forbidden:
        lines.append(f"{cluster.name}: {publication.detail}")
    return [printable(line) for line in lines]


def bundle_lines(bundle: BundleView, now: datetime | None = None) -> list[str]:
    """The bundle's generation and its anchors with what they have left."""
    age = f", in force for {elapsed(now.timestamp() - bundle.created)}" if now and bundle.created else ""
    rows = [
        (
            anchor.kind,
            anchor.subject,
            f"{at:%Y-%m-%d}" if (at := instant(anchor.not_after)) else "?",
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


MARKS: Final = {"done": "[x]", "current": "[>]", "ahead": "[ ]"}
MOST_MET: Final = 12
MOST_UNMET: Final = 40
MOST_HISTORY: Final = 8
MOST_NAMES: Final = 12
MOST_DEPENDENTS: Final = 60
LEFT_TO_DO: Final = frozenset({"successor_signs", "pin_retired", "pin_admitted"})
"""What attention says of a configuration that a finished rotation has outlived."""
NOT_KNOWN: Final = (
    "do: restore the document `rotation` of the state store from a backup; whether a rotation is under way, and which\n"
    "clusters are quarantined, cannot be determined before"
)


def rotation_text(status: FederationStatus) -> str:
    """The state of the rotation, what it waits for and until when, who is left out, and what has been."""
    rotation = status.rotation
    if status.rotation_problem:
        return f"NOT KNOWN: {printable(status.rotation_problem)}\n{NOT_KNOWN}"
    lines = _rotation(rotation, status.generated) if rotation else ["no rotation was ever started"]
    if status.quarantined:
        lines += ["", *_quarantines(status.quarantined)]
    if status.unpinned or status.removed_clusters:
        lines += ["", *_edits(status)]
    if rotation is None or not rotation.under_way:
        lines += ["", *(_left_to_do(status) or [_next(status.rotation_plan)])]
    return "\n".join(lines)


def _rotation(rotation: RotationView, now: datetime) -> list[str]:
    lasted = f" for {elapsed(now.timestamp() - rotation.since)}" if rotation.since else ""
    how = "by itself" if rotation.automatic else "step by step"
    lines = [
        f"rotation {rotation.number} of the {rotation.kind}: {rotation.state}{lasted}"
        + (f", goes on {how}" if rotation.under_way else ", at rest"),
        *_sides(rotation.old, rotation.new),
        f"asked for by {printable(rotation.author)}: {printable(rotation.reason)}",
    ]
    if rotation.paused:
        lines.append(f"PAUSED: {printable(rotation.paused)}")
    if rotation.deadline > 0:
        cap = f", certificates live {elapsed(rotation.ttl_cap)} at most" if rotation.ttl_cap else ""
        lines.append(f"EMERGENCY: the compromised side is left by {instant_text(rotation.deadline)}{cap}")
    lines += ["", *(_step(step) for step in rotation.steps)]
    if rotation.canary:
        failed = f" (failed {rotation.canary_failures} times)" if rotation.canary_failures else ""
        lines.append(f"canary: {printable(', '.join(rotation.canary))}{failed}")
    lines += [f"wave {n}: {wave.state}: {_names(wave.clusters)}" for n, wave in enumerate(rotation.waves, 1)]
    if rotation.gate is not None:
        lines += ["", *_gate(rotation.state, rotation.gate)]
    if rotation.deadline > 0 and rotation.losses:
        lines += ["", *loss_lines(rotation.losses, side="new" if rotation.state == "ABORTING" else "old")]
    lines += ["", "history, newest first:"]
    lines += [
        f"  {instant_text(t.at)}  {t.before} -> {t.after}  {printable(t.reason)} ({printable(t.author)})"
        for t in rotation.history[:MOST_HISTORY]
    ]
    more = len(rotation.history) - MOST_HISTORY
    return [*lines, f"  ... and {more} before"] if more > 0 else lines


def _step(step: StepView) -> str:
    return f"{MARKS[step.mark]} {step.state:<13}" + (
        f" since {instant_text(step.since)}" if step.since else ""
    )


def _sides(old: Side | None, new: Side | None) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for name, side in (("old", old), ("new", new)):
        if side is not None:
            rows.append((name, "intermediate", side.intermediate, side.subject))
            rows.append(("", "root", side.root, side.root_subject))
    return table(("SIDE", "", "SHA256", "SUBJECT"), rows) if rows else []


def _gate(state: str, gate: GateView) -> list[str]:
    if not gate.known:
        return [f"gate out of {state}: NOT KNOWN: {printable(gate.detail)}"]
    if gate.open:
        head = f"gate out of {state}: OPEN"
    elif gate.opens_at > 0:
        head = f"gate out of {state}: closed, opens at {instant_text(gate.opens_at)} at the earliest"
    else:
        head = f"gate out of {state}: closed; when it opens cannot be determined"
    return [head, *condition_lines(gate.conditions)]


def condition_lines(conditions: Sequence[Condition]) -> list[str]:
    """Conditions as a table, unmet ones first; of many the first."""
    unmet = [c for c in conditions if not c.met]
    met = [c for c in conditions if c.met]
    rows = [
        ("yes" if c.met else "NO", c.name, c.cluster or "-", _evidence(c))
        for c in [*unmet[:MOST_UNMET], *met[:MOST_MET]]
    ]
    lines = table(("MET", "CONDITION", "CLUSTER", "EVIDENCE"), rows) if rows else []
    left = max(0, len(unmet) - MOST_UNMET), max(0, len(met) - MOST_MET)
    return (
        [*lines, f"... and {left[0]} more that are not met, {left[1]} that are (--json)"]
        if any(left)
        else lines
    )


def _evidence(condition: Condition) -> str:
    until = instant_text(condition.until) if condition.until and not condition.met else ""
    return condition.detail + (f" (until {until})" if until and until not in condition.detail else "")


def loss_lines(losses: Iterable[LossView], *, side: str, removed_at: datetime | None = None) -> list[str]:
    """What fails if that side is left and its root removed then, and until when; without a time, if it is now."""
    chosen = [loss for loss in losses if loss.side == side]
    rows = [
        (
            lost.cluster,
            "at the removal" if loss.at_removal else "at once",
            instant_text(lost.until) if lost.until else "published there",
            loss.what,
        )
        for loss in chosen
        for lost in loss.clusters
        if not (loss.at_removal and removed_at is not None and 0 < lost.until <= removed_at.timestamp())
    ]
    if not rows:
        return [f"nothing is known to fail if the {side} side is left"]
    return ["what will fail:", *table(("CLUSTER", "FROM", "UNTIL", "WHAT"), sorted(rows))]


def _quarantines(views: Iterable[QuarantineView]) -> list[str]:
    lines = ["quarantined, nothing is issued there:"]
    for view in views:
        state = "returning" if view.returning else "out"
        lines.append(
            f"  {printable(view.cluster)}: {state} since {instant_text(view.since)}, by {printable(view.author)}:"
            f" {printable(view.reason)}"
        )
        lines += [f"    waits for {c.name}: {printable(c.detail)}" for c in view.waits_for]
    return lines


def _edits(status: FederationStatus) -> list[str]:
    """What stays although the configuration was edited, until when and why."""
    lines = ["edited, and not done yet:"]
    for view in status.unpinned:
        until = f" until {instant_text(view.leaves_at)} at the earliest" if view.leaves_at else ""
        lines.append(f"  {printable(view.subject or view.sha256)}: its pin is gone, it stays{until}")
        lines += [f"    waits for {c.name}: {printable(in_place(c))}" for c in view.waits_for]
    lines += [
        f"  {printable(removed.cluster)}: it was removed, and its certificates live until {instant_text(removed.until)}"
        for removed in status.removed_clusters
    ]
    return lines


def in_place(condition: Condition) -> str:
    """A condition with the cluster that it is about, if any."""
    return f"{condition.cluster}: {condition.detail}" if condition.cluster else condition.detail


def _left_to_do(status: FederationStatus) -> list[str]:
    """What a person still has to change in the configuration after a rotation, before another can be planned."""
    left = [item for item in status.attention if item.code in LEFT_TO_DO]
    if not left or status.rotation is None or status.rotation.state != "RETIRED":
        return []
    return [
        "left for you to do, in one change of the configuration of every replica of both roles:",
        *(f"  {printable(item.where)}: {printable(item.remedy)}" for item in left),
        "then destroy the old key; another rotation can be planned once that is done",
    ]


def _next(plan: PlanView | None) -> str:
    if plan is None:
        return "what a start would do is not known"
    return (
        "a rotation can be started: see `federation rotate plan`"
        if plan.ready
        else printable(f"no rotation can be started now: {plan_problem(plan)}")
    )


def plan_problem(plan: PlanView) -> str:
    """Why a start would be refused or wait at once; empty where neither."""
    return plan.problem or next((c.detail for c in plan.conditions if not c.met), "")


def plan_text(status: FederationStatus) -> str:
    """What a start would do now."""
    plan = status.rotation_plan
    if plan is None:
        rotation = status.rotation
        if rotation is not None and rotation.under_way:
            return f"rotation {rotation.number} is under way, in {rotation.state}: see `federation rotate status`"
        why = status.rotation_problem or "no leading controller reports it"
        return printable(f"what a start would do is not known: {why}")
    lines = [f"a rotation of the {plan.kind}" if plan.kind else "a rotation", *_sides(plan.old, plan.new)]
    left = _left_to_do(status)
    if plan.problem and left:
        return "\n".join([*lines, "", "none can be started yet:", *left])
    if plan.problem:
        lines += ["", f"it would be REFUSED: {printable(plan.problem)}"]
        return "\n".join([*lines, f"do: {printable(plan.remedy)}"] if plan.remedy else lines)
    lines += ["", *condition_lines(plan.conditions), ""]
    allowed = f"{plan.quota:g} are allowed" if plan.quota else "no limit is known"
    lines += [
        f"capacity: {plan.rate:.1f} certificates a second are asked for, {allowed}",
        f"canary:   {_names(plan.canary) if plan.canary else 'none'}",
    ]
    if plan.kind == "root":
        lines += [f"wave {n}:   {_names(wave)}" for n, wave in enumerate(plan.waves, 1)]
    lines += [
        f"goes on:  {'by itself' if plan.automatic else 'step by step, with `federation rotate advance`'}",
        f"takes:    {elapsed(plan.takes)} at least: " + _why(plan),
    ]
    if plan.dependents:
        lines += [
            "",
            "besides namespaces and certificates, these depend on the two roots:",
            *_dependents(plan),
        ]
    return "\n".join(lines)


def _dependents(plan: PlanView) -> list[str]:
    """What else holds trust, with what it holds of the two sides."""
    roots = {side.root: name for name, side in (("old", plan.old), ("new", plan.new)) if side is not None}
    rows = [
        (
            holder.cluster,
            printable(holder.what),
            " and ".join(sorted({roots[a] for a in holder.anchors if a in roots})) or "-",
            printable(f"NOT MET {holder.obstacle}" if holder.obstacle else holder.detail),
        )
        for holder in plan.dependents[:MOST_DEPENDENTS]
    ]
    more = len(plan.dependents) - len(rows)
    return [*table(("CLUSTER", "WHAT", "ROOTS", "DETAIL"), rows), *([f"and {more} more"] if more > 0 else [])]


def _why(plan: PlanView) -> str:
    leaves = f"certificates that are out may live for {elapsed(plan.longest_leaf)}"
    if plan.kind == "root":
        return f"{leaves}, which is waited for twice, and the soak takes {elapsed(plan.soak)}"
    return leaves


def operation_text(operation: OperationView) -> str:
    """What became of an operation."""
    if operation.outcome == "done":
        return f"{operation.verb}: done"
    why = printable(operation.detail or "no reason is given")
    return f"{operation.verb}: REFUSED: {why}" + (
        f"\ndo: {printable(operation.remedy)}" if operation.remedy else ""
    )


def _names(every: Sequence[str]) -> str:
    more = len(every) - MOST_NAMES
    return printable(", ".join(every[:MOST_NAMES])) + (f" and {more} more" if more > 0 else "")
