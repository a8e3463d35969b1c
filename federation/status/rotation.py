"""The rotation as status shows it: from its record, and its gate as the leader that was last seen reports it. Pure.

The record says which state the rotation is in, whichever controller leads. Whether the gate is open is only said where
a leader has looked recently, at this very state: anything else is not known, and never open.

With what a start of a rotation would do now, as the leader reports it; quarantined clusters: since when, why, by
whom, and what a return still needs; and what operators asked for, and what signers are to sign with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from federation.core.documents.controller import LossReport, Operation, RotationReport
from federation.core.problem import Problem
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import AT_REST, Condition, Rotation, State, Transition
from federation.status.rotation_model import (
    ClusterUntil,
    DirectivesView,
    GateView,
    LossView,
    OperationView,
    PlanView,
    QuarantineView,
    RotationView,
    StepMark,
    StepView,
    TransitionView,
    WaveState,
    WaveView,
)
from federation.status.snapshot import Snapshot, elapsed, finite


def quarantine_views(snapshot: Snapshot) -> list[QuarantineView]:
    """Every cluster that a person took out, by name; what it waits for only where a leader reports it now."""
    waiting = snapshot.leader.rotation.returning if snapshot.leader is not None else {}
    return [
        QuarantineView(
            cluster=name,
            reason=quarantine.reason,
            author=quarantine.author,
            since=quarantine.since,
            returning=quarantine.returning,
            waits_for=waiting.get(name, []) if quarantine.returning else [],
        )
        for name, quarantine in sorted(snapshot.quarantined.items())
    ]


def quarantine_summary(view: QuarantineView) -> str:
    """One sentence about it."""
    if not view.returning:
        return f"quarantined, nothing is issued there: {view.reason}"
    waits = view.waits_for[0].detail if view.waits_for else "it is being looked at"
    return f"returning from quarantine, nothing is issued there yet: {waits}"


LONGEST_LOOK: Final = 30.0  # the leader looks every second; a store that stalls gives it some more
SETTLING: Final = 120.0  # what publication, read-back and proof may take beside what is waited for
MOST_EVIDENCE: Final = 8  # conditions of each past step within the whole status

_WAY: Final = (
    State.STAGED,
    State.PUBLISHING,
    State.SOAKED,
    State.CANARY,
    State.ACTIVE,
    State.UNPUBLISHING,
    State.RETIRED,
)
_OF_ROOTS: Final = frozenset({State.PUBLISHING, State.UNPUBLISHING})


def rotation_view(snapshot: Snapshot, *, whole: bool = False) -> RotationView | None:
    """The rotation under way or the last one, ``whole`` with all evidence of its history.

    None where none ever was, and where that is not known (``snapshot.rotation_unknown``).
    """
    rotation = snapshot.documents.record.rotation if snapshot.documents.record else None
    if rotation is None:
        return None
    under_way = rotation.state not in AT_REST
    report = rotation_report(snapshot)
    return RotationView(
        number=rotation.number,
        kind="root" if rotation.changes_root else "intermediate",
        state=rotation.state.value,
        under_way=under_way,
        since=rotation.since,
        expected=expected(snapshot, rotation),
        old=rotation.old,
        new=rotation.new,
        author=rotation.author,
        reason=rotation.reason,
        automatic=rotation.automatic,
        paused=rotation.paused,
        soak=finite(rotation.soak),
        canary=rotation.canary,
        canary_failures=rotation.canary_failures,
        waves=_waves(rotation),
        deadline=rotation.deadline if under_way else 0.0,
        ttl_cap=finite(rotation.ttl_cap) if under_way else 0.0,
        steps=_steps(rotation),
        gate=gate_view(snapshot) if under_way else None,
        losses=[loss_view(loss) for loss in report.losses] if report and under_way else [],
        history=[_transition(step, whole=whole) for step in reversed(rotation.history)],
    )


def gate_unknown(snapshot: Snapshot) -> Problem | None:
    """Why nothing that is said of the gate can be relied on; None where it can."""
    if snapshot.rotation_unknown is not None:
        return snapshot.rotation_unknown
    if snapshot.leader is None:
        return snapshot.no_leader
    report = snapshot.leader.rotation
    rotation = snapshot.documents.record.rotation if snapshot.documents.record else None
    detail = ""
    if report.problem:
        detail = f"the rotation cannot be worked on: {report.problem}"
    elif report.computed <= 0:
        detail = "the leading controller has not looked at it yet"
    elif abs(snapshot.now - report.computed) > LONGEST_LOOK:
        detail = f"the leading controller last looked at it {elapsed(snapshot.now - report.computed)} ago"
    elif rotation is not None and (report.number, report.state) != (rotation.number, rotation.state.value):
        detail = f"the leading controller has not looked at {rotation.state.value} yet"
    return Problem.unless(
        not detail, code="gate_unknown", detail=detail, where=snapshot.leader.replica, since=report.computed
    )


def rotation_report(snapshot: Snapshot) -> RotationReport | None:
    """What a leader that has just looked reports of the rotation; None where nothing that was said can be relied on."""
    return (
        snapshot.leader.rotation if snapshot.leader is not None and gate_unknown(snapshot) is None else None
    )


def gate_view(snapshot: Snapshot) -> GateView:
    """The gate out of the present state. Where it is not known, what was last said of it is left out."""
    unknown = gate_unknown(snapshot)
    report = snapshot.leader.rotation if snapshot.leader is not None else RotationReport()
    if unknown is not None:
        return GateView(
            known=False,
            open=False,
            opens_at=0.0,
            computed=report.computed,
            detail=unknown.detail,
            conditions=[],
            waits_for=[],
        )
    unmet = [condition for condition in report.conditions if not condition.met]
    is_open = report.open and not unmet
    return GateView(
        known=True,
        open=is_open,
        opens_at=0.0 if is_open else report.opens_at,
        computed=report.computed,
        detail="every condition is met" if is_open else unmet[0].detail if unmet else "it is not open",
        conditions=report.conditions,
        waits_for=sorted({condition.cluster for condition in unmet} - {""}),
    )


def expected(snapshot: Snapshot, rotation: Rotation) -> float:
    """How long the present state lasts as a rule, in seconds; 0 at rest.

    Publishing waits for leaves that were delivered without the new root and then soaks; removing waits for
    leaves that need what is removed. Every other state waits for publication, read-back or proof alone.
    """
    config = snapshot.config
    longest = max(
        (max(c.policy.longest_ttl, c.earlier_longest_ttl or 0.0) for c in config.clusters), default=0.0
    )
    settings = config.controller.rotation
    settling = SETTLING + settings.fresh + 3 * config.controller.proof.interval
    drains = rotation.state in {State.ACTIVE, State.EMERGENCY} or (
        rotation.state is State.ABORTING and not rotation.wave
    )
    if rotation.state in AT_REST:
        return 0.0
    if rotation.state is State.PUBLISHING:
        return longest + settings.skew + finite(rotation.soak) + settling
    return longest + settings.skew + settling if drains else settling


def _waves(rotation: Rotation) -> list[WaveView]:
    """Waves before the last begun one are read back to have lost the old root; the last begun one is not yet."""

    def state(number: int) -> WaveState:
        if rotation.state is State.RETIRED:
            return "removed"
        if rotation.state is not State.UNPUBLISHING or number >= rotation.wave:
            return "waiting"
        return "removing" if number == rotation.wave - 1 else "removed"

    if not rotation.changes_root:
        return []
    return [WaveView(clusters=wave, state=state(number)) for number, wave in enumerate(rotation.waves)]


def _steps(rotation: Rotation) -> list[StepView]:
    """The states it has been in and those that are ahead, each once; a state that it skips is left out."""
    entered = {step.after: step.at for step in rotation.history}
    way: Sequence[State] = [
        state
        for state in _WAY
        if (rotation.changes_root or state not in _OF_ROOTS)
        and (state is not State.CANARY or rotation.canary or state in entered)
    ]
    if State.ABORTING in entered or rotation.state is State.STABLE:
        been = [state for state in way if state in entered]
        way = [*been, *([State.ABORTING] if State.ABORTING in entered else []), State.STABLE]
    elif State.EMERGENCY in entered:
        last = [state for state in way if state in {State.UNPUBLISHING, State.RETIRED}]
        way = [*(state for state in way if state in entered and state not in last), State.EMERGENCY, *last]
    at = way.index(rotation.state) if rotation.state in way else len(way)

    def mark(number: int) -> StepMark:
        if number == at:
            return "done" if rotation.state in AT_REST else "current"
        return "done" if number < at else "ahead"

    return [
        StepView(
            state=state.value,
            mark=mark(number),
            since=entered[state] if state in entered and number <= at else 0.0,
        )
        for number, state in enumerate(way)
    ]


def loss_view(loss: LossReport) -> LossView:
    """What fails, with its clusters in order."""
    clusters = [ClusterUntil(cluster=name, until=until) for name, until in loss.clusters.items()]
    return LossView(
        side=loss.side,
        what=loss.what,
        at_removal=loss.at_removal,
        clusters=sorted(clusters, key=lambda lost: lost.cluster),
    )


def _transition(step: Transition, *, whole: bool) -> TransitionView:
    evidence = list(step.evidence)
    shown = evidence if whole else _one_of_each(evidence)[:MOST_EVIDENCE]
    return TransitionView(
        before=step.before.value,
        after=step.after.value,
        at=step.at,
        author=step.author,
        reason=step.reason,
        evidence=shown,
        evidence_omitted=len(evidence) - len(shown),
    )


def _one_of_each(evidence: Iterable[Condition]) -> list[Condition]:
    """The first condition of each name, unmet before met."""
    first: dict[str, Condition] = {}
    for condition in sorted(evidence, key=lambda c: c.met):
        first.setdefault(condition.name, condition)
    return list(first.values())


def plan_view(snapshot: Snapshot) -> PlanView | None:
    """What a start would do now; None while a rotation is under way, or where no leader reports it."""
    report = rotation_report(snapshot)
    plan = report.plan if report is not None else None
    if plan is None:
        return None
    changes_root = plan.old is not None and plan.new is not None and plan.old.root != plan.new.root
    longest, soak = finite(plan.longest_leaf), finite(plan.soak)
    return PlanView(
        ready=not plan.problem and all(condition.met for condition in plan.conditions),
        kind=None if plan.old is None or plan.new is None else "root" if changes_root else "intermediate",
        old=plan.old,
        new=plan.new,
        problem=plan.problem,
        remedy=plan.remedy,
        canary=plan.canary,
        waves=plan.waves,
        automatic=plan.automatic,
        soak=soak,
        longest_leaf=longest,
        takes=2 * longest + soak if changes_root else longest,
        rate=finite(plan.rate),
        quota=finite(plan.quota),
        conditions=plan.conditions,
        dependents=plan.dependents,
    )


def directives_view(directives: SigningDirectives | None) -> DirectivesView | None:
    """What signers are to do; None where it is not recorded what is in force and nothing is quarantined."""
    if directives is None:
        return None
    return DirectivesView(
        rotation=directives.rotation,
        state=directives.state,
        issuer=directives.issuer,
        clusters=directives.clusters,
        strict=directives.strict,
        stopped=directives.stopped,
        ttl_cap=finite(directives.ttl_cap),
        root=directives.root,
        left=directives.left,
    )


def operation_view(operation: Operation, *, sealed: bool | None = None) -> OperationView:
    """One operation of the audit; ``sealed`` is whether its seal verifies, None where that is not known."""
    return OperationView(
        id=operation.id,
        verb=operation.verb,
        author=operation.author,
        asked=operation.asked,
        arguments=operation.arguments,
        decided=operation.decided,
        outcome=operation.outcome,
        detail=operation.detail,
        remedy=operation.remedy,
        sealed=sealed,
    )
