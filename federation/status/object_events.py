"""Which Kubernetes Events follow from a change of the status. Pure, but for the task that looks for changes.

Only what an operator looks for is one: a new leader, another generation in force, each step of a rotation,
quarantines, and findings of at least a warning that came or went. A finding whose words alone have changed is none.
A process that begins to lead says so, and takes what it finds for known: the leader before it has said that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from federation.core.clock import Clock
from federation.core.errors import StateUnavailable
from federation.core.rotation.record import Side, State
from federation.state.kubernetes_events import About, EventCounts, StateEvent
from federation.status.model import Attention, FederationStatus
from federation.status.rotation_model import RotationKind, RotationView, TransitionView
from federation.status.view import StatusSource

_logger = logging.getLogger(__name__)

TICK: Final = 1.0
"""Seconds between two questions whether this process leads: the first look comes at once, so that no step is missed."""

LOOK_EVERY: Final = 10.0
"""Seconds between two looks: an Event is for people, and to compose a status of many clusters costs something."""

REASONS: Final = {
    State.RETIRED: "RotationRetired",
    State.STABLE: "RotationAborted",
    State.ABORTING: "RotationAborting",
    State.EMERGENCY: "RotationEmergency",
}
"""Of the steps of a rotation that have a reason of their own; every other one is ``RotationAdvanced``."""

WARNED: Final = frozenset({State.ABORTING, State.EMERGENCY})


def changes(
    before: FederationStatus, after: FederationStatus, *, findings: bool = True
) -> Iterator[StateEvent]:
    """What has happened between two statuses, in the order in which it is to be read; ``findings`` or not."""
    yield from _trust(before, after)
    if not after.rotation_problem and not before.rotation_problem:  # else it is not known what it was, or is
        yield from _rotation(before.rotation, after.rotation)
        yield from _quarantines(before, after)
    if findings:
        yield from _findings(before, after)


def leads(replica: str) -> StateEvent:
    """What a controller says that has begun to lead."""
    return StateEvent(
        about=About.LEADER, reason="LeaderElection", note=f"{replica} became leader", of=replica
    )


def _trust(before: FederationStatus, after: FederationStatus) -> Iterator[StateEvent]:
    bundle = after.bundle
    if bundle is not None and bundle.generation != (before.bundle.generation if before.bundle else 0):
        note = f"generation {bundle.generation} is in force, by {bundle.author}: {bundle.reason}"
        yield StateEvent(about=About.TRUST, reason="GenerationInForce", note=note, of=str(bundle.generation))


def _rotation(before: RotationView | None, after: RotationView | None) -> Iterator[StateEvent]:
    if after is None:
        return
    number, known = f"rotation {after.number}", before
    if before is None or before.number != after.number:
        old, new = _name(after.old, after.kind), _name(after.new, after.kind)
        sides = f"from {old} to {new}"
        note = f"{number} of the {after.kind} has begun, {sides}, by {after.author}: {after.reason}"
        yield _of_rotation("RotationStarted", note, of=str(after.number))
        known = None
    steps = {(step.at, step.after) for step in known.history} if known is not None else set()
    for step in reversed(after.history):  # they are newest first
        if (step.at, step.after) not in steps:
            yield _step(number, step)
    if after.paused and (known is None or not known.paused):
        note = f"{number} goes on only when a person advances it: {after.paused}"
        yield _of_rotation("RotationPaused", note, is_warning=True, of=str(after.number))


def _name(side: Side, kind: RotationKind) -> str:
    """The subject of what is rotated, else its fingerprint."""
    if kind == "intermediate":
        return side.subject or side.intermediate
    return side.root_subject or side.root


def _step(number: str, step: TransitionView) -> StateEvent:
    state = State(step.after)
    note = f"{number} went from {step.before} to {step.after}, by {step.author}: {step.reason}"
    return _of_rotation(
        REASONS.get(state, "RotationAdvanced"),
        note,
        is_warning=state in WARNED,
        of=f"{number} {step.after} {step.at}",
    )


def _of_rotation(reason: str, note: str, *, of: str, is_warning: bool = False) -> StateEvent:
    return StateEvent(about=About.ROTATION, reason=reason, note=note, is_warning=is_warning, of=of)


def _quarantines(before: FederationStatus, after: FederationStatus) -> Iterator[StateEvent]:
    then = {each.cluster: each for each in before.quarantined}
    now = {each.cluster: each for each in after.quarantined}
    for cluster in sorted(now.keys() - then.keys()):
        note = f"{cluster} was quarantined by {now[cluster].author}: {now[cluster].reason}"
        yield _of_rotation("ClusterQuarantined", note, of=cluster, is_warning=True)
    for cluster in sorted(then.keys() - now.keys()):
        yield _of_rotation("ClusterReturned", f"{cluster} is quarantined no more", of=cluster)


def _findings(before: FederationStatus, after: FederationStatus) -> Iterator[StateEvent]:
    then, now = _by_thing(before), _by_thing(after)
    for code, where in sorted(now.keys() - then.keys()):
        finding = now[code, where]
        remedy = f" To do: {finding.remedy}" if finding.remedy else ""
        note = f"{finding.severity}: {finding.fact or finding.sentence}{remedy}"
        yield _of_finding(_camel(code), note, code, where, is_warning=True)
    for code, where in sorted(then.keys() - now.keys()):
        note = f"{code} has gone{f' at {where}' if where else ''}"
        yield _of_finding(f"{_camel(code)}Cleared", note, code, where, is_warning=False)


def _of_finding(reason: str, note: str, code: str, where: str, *, is_warning: bool) -> StateEvent:
    return StateEvent(
        about=About.LEADER, reason=reason, note=note, is_warning=is_warning, of=f"{code} {where}"
    )


def _by_thing(status: FederationStatus) -> dict[tuple[str, str], Attention]:
    return {(each.code, each.where): each for each in status.attention if each.severity != "notice"}


def _camel(code: str) -> str:
    return "".join(word.capitalize() for word in code.split("_"))


class WritesEvents(Protocol):
    """Where Events go."""

    @property
    def counts(self) -> EventCounts:
        """What has become of them."""
        ...

    async def write(self, event: StateEvent, *, permitted: Callable[[], bool]) -> None:
        """Write one, while ``permitted`` is true; fails for no reason that a cluster could cause."""
        ...


class Announcer:
    """Looks for changes while this process leads, and has them written."""

    def __init__(
        self, writer: WritesEvents, clock: Clock, *, replica: str, leading: Callable[[], bool]
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._replica = replica
        self._leading = leading
        self._known: FederationStatus | None = None
        self._has_settled = False
        """Whether the findings that a change of leaders brings, and that go by themselves, are known."""
        self._looked_at = 0.0

    @property
    def counts(self) -> EventCounts:
        """What has become of the Events."""
        return self._writer.counts

    async def run(self, source: StatusSource) -> None:
        """Look again and again, until cancelled. What goes wrong here ends nothing else."""
        while True:
            await self._clock.sleep(TICK)
            if not self._leading():
                self._known = None
                continue
            if self._known is not None and self._clock.monotonic() - self._looked_at < LOOK_EVERY:
                continue
            try:
                await self._look(source)
            except StateUnavailable:
                pass  # the API says so, and the reader of status logs it once
            except Exception:
                _logger.exception("a change of the status could not be made into Events")

    async def _look(self, source: StatusSource) -> None:
        _, status = await source.read()
        before, self._known = self._known, status
        self._looked_at = self._clock.monotonic()
        settled, self._has_settled = self._has_settled, before is not None
        events = [leads(self._replica)] if before is None else changes(before, status, findings=settled)
        for event in events:
            await self._writer.write(event, permitted=self._leading)
