"""What the leader reports of the rotation: gate, returns, member CAs that leave, losses, what a start would do.

Pure. What is reported of a start is what the machine itself answers to one, so that a plan and a start cannot
differ. Lists are bounded: the report is one object, written every second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from federation.controller.publication.joining import MemberFacts
from federation.controller.rotation.operations import Commands
from federation.core.config.hub import HubConfig
from federation.core.documents.controller import (
    Dependent,
    JoinStepReport,
    LossReport,
    Operation,
    PlanReport,
    RotationReport,
    UnpinnedReport,
)
from federation.core.rotation.cluster_conditions import obstacles
from federation.core.rotation.effects import Loss, losses, losses_without, signing_side
from federation.core.rotation.gates import Verdict, gate, return_gate
from federation.core.rotation.record import Condition, OperationRefused, Rotation, RotationRecord, Side
from federation.core.rotation.world import World
from federation.core.trust.expiry_bounds import alive
from federation.core.trust.joining import Position

MOST_CONDITIONS: Final = 200
MOST_DEPENDENTS: Final = 400
MOST_STRANGE: Final = 4  # anchors of one of them that nothing pins
MOST_OF_A_STEP: Final = 20  # conditions of one step of a cluster that joins
MOST_STEP_TEXT: Final = 600  # characters of one of these: it may repeat content of the cluster
MOST_OF_ONE: Final = 10  # conditions of one cluster that returns, or of one anchor that leaves
NEVER: Final = float("inf")


def report_of_rotation(
    record: RotationRecord,
    world: World,
    commands: Commands,
    config: HubConfig,
    dropping: Mapping[str, Verdict] = MappingProxyType({}),
    *,
    joining: Mapping[str, Position] = MappingProxyType({}),
    issuers: Mapping[str, str] = MappingProxyType({}),
) -> RotationReport:
    """The report at ``world.now``; ``dropping`` is what each anchor (SHA-256) waits for that leaves by itself.

    ``joining`` is the step of each cluster that has a CA of its own, ``issuers`` the root above each intermediate.
    """
    verdict, rotation = gate(record, world), record.rotation
    return RotationReport(
        computed=world.now,
        number=rotation.number if rotation else 0,
        state=rotation.state.value if rotation else "",
        open=verdict.open,
        opens_at=verdict.opens_at,
        conditions=_conditions(verdict),
        returning={
            name: _condition_reports(return_gate(record, name, world).unmet[:MOST_OF_ONE])
            for name, quarantine in sorted(record.quarantined.items())
            if quarantine.returning
        },
        dropping={
            sha256: _own_conditions(verdict)
            for sha256, verdict in sorted(dropping.items())
            if sha256 not in record.retired
            and sha256 not in record.unpinned
            and sha256 not in record.withdrawn
        },
        unpinned=_unpinned(record, world, dropping, issuers),
        removed=_removed(world),
        undeclared=sorted(name for name, facts in world.clusters.items() if facts.own_issues),
        joining={name: _step_reports(found) for name, found in sorted(joining.items())},
        losses=_losses(record.under_way, world),
        plan=_plan(record, world, commands, config) if record.under_way is None else None,
    )


def _unpinned(
    record: RotationRecord, world: World, dropping: Mapping[str, Verdict], issuers: Mapping[str, str]
) -> dict[str, UnpinnedReport]:
    """Each anchor that stays although its pin is gone: what it waits for, and what fails if it is removed now."""
    found: dict[str, UnpinnedReport] = {}
    side = signing_side(record)
    for sha256, known in sorted(record.unpinned.items()):
        verdict = dropping.get(sha256)
        lost = losses_without(
            sha256,
            world,
            issuers,
            clusters=frozenset(known.clusters),
            signing=side.intermediate if side is not None else "",
        )
        kinds: dict[str, dict[str, float]] = {}
        for loss in lost:
            kinds.setdefault(loss.what, {})[loss.cluster] = loss.ends
        found[sha256] = UnpinnedReport(
            since=known.since,
            subject=known.subject,
            clusters=known.clusters,
            opens_at=verdict.opens_at if verdict is not None else 0.0,
            conditions=_own_conditions(verdict) if verdict is not None else [],
            losses=[
                LossReport(side="", what=what, at_removal=True, clusters=clusters)
                for what, clusters in sorted(kinds.items())
            ],
        )
    return found


def _removed(world: World) -> dict[str, float]:
    """Clusters that are registered no more and whose certificates live on: until when, by the slowest clock."""
    ends = {name: until + world.skew for name, until in world.gone.items() if until + world.skew > world.now}
    for delivered, until in alive(world.expiry_bounds, world.now, skew=world.skew).items():
        ends[delivered.cluster] = max(until + world.skew, ends.get(delivered.cluster, 0.0))
    return {name: until for name, until in sorted(ends.items()) if name and name not in world.clusters}


def _conditions(verdict: Verdict) -> list[Condition]:
    """Unmet ones first; of many clusters the first."""
    ranked = sorted(verdict.conditions, key=lambda condition: (condition.met, condition.name))
    return _condition_reports(ranked[:MOST_CONDITIONS])


def _own_conditions(verdict: Verdict) -> list[Condition]:
    """Unmet ones; first what an operator has to declare or only time brings, for the others often follow from it."""
    ranked = sorted(verdict.unmet, key=lambda condition: condition.name != "own_earlier")
    return _condition_reports(ranked[:MOST_OF_ONE])


def _condition_reports(conditions: Iterable[Condition]) -> list[Condition]:
    return [
        Condition(name=c.name, met=c.met, detail=c.detail, cluster=c.cluster, until=c.until)
        for c in conditions
    ]


def _step_reports(found: Position) -> list[JoinStepReport]:
    """The steps of a cluster that joins; of each step the conditions that are not met first."""
    return [
        JoinStepReport(
            step=seen.step.value,
            done=seen.done,
            conditions=[
                replace(report, detail=report.detail[:MOST_STEP_TEXT])
                for report in _condition_reports(
                    sorted(seen.conditions, key=lambda condition: condition.met)[:MOST_OF_A_STEP]
                )
            ],
        )
        for seen in found.steps
    ]


def _losses(rotation: Rotation | None, world: World) -> list[LossReport]:
    """What would fail if either side were removed now, or at the deadline where one is set."""
    if rotation is None:
        return []
    at = max(world.now, rotation.deadline)
    found: list[LossReport] = []
    for leaving_new in (False, True):
        immediate = {
            (loss.cluster, loss.what) for loss in losses(rotation, world, at=NEVER, leaving_new=leaving_new)
        }
        found += _grouped(losses(rotation, world, at=at, leaving_new=leaving_new), immediate, leaving_new)
    return found


def _grouped(found: list[Loss], immediate: set[tuple[str, str]], leaving_new: bool) -> list[LossReport]:
    """One for each thing that fails, with its clusters: 200 clusters then cost some kilobytes."""
    kinds: dict[tuple[str, bool], dict[str, float]] = {}
    for loss in found:
        kinds.setdefault((loss.what, (loss.cluster, loss.what) not in immediate), {})[loss.cluster] = (
            loss.ends
        )
    return [
        LossReport(side="new" if leaving_new else "old", what=what, at_removal=at_removal, clusters=clusters)
        for (what, at_removal), clusters in kinds.items()
    ]


def _plan(record: RotationRecord, world: World, commands: Commands, config: HubConfig) -> PlanReport:
    """What a start would do now."""
    old, new = commands.proposed.old, commands.proposed.new
    problem = remedy = ""
    started: RotationRecord | None = None
    try:
        start = Operation(id="plan", verb="start", author="plan", asked=world.now)
        started = commands.apply(start, record, world, config)
    except OperationRefused as error:
        problem, remedy = error.what, error.remedy
    rotation = started.rotation if started is not None else None
    return PlanReport(
        old=_side(old),
        new=_side(new),
        problem=problem,
        remedy=remedy,
        canary=rotation.canary if rotation else [],
        waves=rotation.waves if rotation else [],
        automatic=config.controller.rotation.automatic,
        soak=config.controller.rotation.soak,
        longest_leaf=_longest_leaf(world),
        rate=world.capacity.rate,
        quota=world.capacity.quota,
        conditions=_conditions(gate(started, world)) if started is not None else [],
        dependents=_dependents(world, rotation)[:MOST_DEPENDENTS],
    )


def _dependents(world: World, rotation: Rotation | None) -> list[Dependent]:
    """What else depends on trust in each cluster: a rotation waits for it, or passes it by, and either has to be known.

    Those in the way of the rotation that would be started come first.
    """
    found: list[Dependent] = []
    for name, facts in sorted(world.clusters.items()):
        in_the_way = obstacles(facts, rotation.old, rotation.new) if rotation is not None else {}
        for plane in facts.control_planes:
            issuer = (
                f"a certificate of {plane.issuer[:12]}" if plane.issuer else "no certificate that is known"
            )
            detail = f"{issuer}; its ca.crt is what agents and kube-apiserver are to verify it by"
            anchors = _named_of(plane.anchors or frozenset(), world)
            found.append(
                Dependent(
                    cluster=name,
                    what=f"Secret {plane.name}",
                    detail=detail,
                    anchors=anchors,
                    obstacle=in_the_way.get(plane.name, ""),
                )
            )
        if facts.webhooks is None:
            detail = f"cannot be read: {facts.webhooks_detail}"
            found.append(
                Dependent(
                    cluster=name, what="webhooks of Istio", detail=detail, obstacle=f"webhooks: {detail}"
                )
            )
        found += [
            Dependent(
                cluster=name,
                what=f"webhook {hook.name}",
                detail=f"kube-apiserver verifies {hook.istiod} by its caBundle",
                anchors=_named_of(hook.anchors, world),
                obstacle=in_the_way.get(hook.name, ""),
            )
            for hook in facts.webhooks or ()
        ]
        if isinstance(facts, MemberFacts) and facts.trust_bundle:
            detail = "pods that mount it trust what is in it"
            found.append(Dependent(cluster=name, what="ClusterTrustBundle", detail=detail))
    return sorted(found, key=lambda dependent: not dependent.obstacle)


def _named_of(anchors: frozenset[str], world: World) -> list[str]:
    """The pinned ones, and a few others: a cluster may have any number, and one report covers all clusters."""
    return sorted(anchors & world.pins) + sorted(anchors - world.pins)[:MOST_STRANGE]


def _side(side: Side | str) -> Side | None:
    if isinstance(side, str):
        return None
    return Side(
        root=side.root,
        intermediate=side.intermediate,
        subject=side.subject,
        root_subject=side.root_subject,
    )


def _longest_leaf(world: World) -> float:
    """For how long, in seconds, some leaf that was delivered may still be alive; 0 where none is."""
    ends = [*alive(world.expiry_bounds, world.now, skew=world.skew).values()]
    ends += [facts.unknown_until for facts in world.clusters.values() if facts.unknown_until]
    return max(0.0, max(ends, default=world.now - world.skew) + world.skew - world.now)
