"""A rotation as it is persisted: the only memory of the state machine. Values; nothing here decides.

With how a transition is recorded: who took it, when, and on which evidence. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from federation.core.clock import Instant
from federation.core.errors import Refused


class State(StrEnum):
    """The state that a rotation is in; the rules are in the package's docstring."""

    STABLE = "STABLE"
    STAGED = "STAGED"
    PUBLISHING = "PUBLISHING"
    SOAKED = "SOAKED"
    CANARY = "CANARY"
    ACTIVE = "ACTIVE"
    UNPUBLISHING = "UNPUBLISHING"
    RETIRED = "RETIRED"
    ABORTING = "ABORTING"
    EMERGENCY = "EMERGENCY"


AT_REST = frozenset({State.STABLE, State.RETIRED})
"""States in which another rotation may begin."""

ABORTABLE = frozenset({State.STAGED, State.PUBLISHING, State.SOAKED, State.CANARY, State.ACTIVE})
SIGNS_WITH_NEW = frozenset({State.ACTIVE, State.UNPUBLISHING, State.RETIRED, State.EMERGENCY})
MOST_HISTORY: Final = 100

WHOLE_HISTORY: Final = 12
"""The last transitions keep all their evidence; of earlier ones one condition of each name stays."""

MOST_EVIDENCE: Final = 64
"""Conditions recorded with a transition: unmet ones and one of each name come first, so that 200 clusters fit."""

MOST_TEXT: Final = 300
"""Characters of a condition's detail and of a reason: the record is one object of bounded size."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One authority of a rotation: its root and its intermediate, by SHA-256 of the certificate."""

    root: str
    intermediate: str
    subject: str = ""
    root_subject: str = ""


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster that a person took out: issuing stops there. ``returning`` while it is caught up again."""

    reason: str
    author: str
    since: float
    returning: bool = False


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a gate, with its evidence. ``until`` is when it is met at the earliest; 0: not known."""

    name: str
    met: bool
    detail: str
    cluster: str = ""
    until: Instant = 0.0


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A step that was taken, by whom, and on which evidence."""

    before: State
    after: State
    at: float
    author: str
    reason: str
    evidence: list[Condition] = []


class Rotation(msgspec.Struct, frozen=True, kw_only=True, rename={"conditions_met_since": "held_since"}):
    """One rotation of a trust domain.

    ``soak`` is in seconds, ``deadline`` and ``conditions_met_since`` are in seconds since the epoch.
    ``conditions_met_since`` is written in PUBLISHING alone: since when every condition of its gate but the soak time
    has been met without a break (0: one is not met). ``wave`` counts the waves that may lose the old root by now, the
    last of which may not have been observed yet; in ABORTING, and in STABLE after it, it is 1 once the new root is
    removed.
    """

    number: int
    trust_domain: str
    state: State
    since: float
    old: Side
    new: Side
    author: str
    reason: str
    automatic: bool
    soak: float
    canary: list[str] = []
    waves: list[list[str]] = []
    wave: int = 0
    conditions_met_since: float = 0.0
    canary_failures: int = 0
    removed: bool = False  # the old root has been taken away somewhere, if only for a while
    paused: str = ""  # why automatic advance has stopped, until a person advances it
    deadline: float = 0.0  # of an emergency
    ttl_cap: float = 0.0  # seconds; 0: none
    history: list[Transition] = []

    @property
    def changes_root(self) -> bool:
        """False for a new intermediate under the same root: then every consumer trusts it already."""
        return self.old.root != self.new.root


class Unpinned(msgspec.Struct, frozen=True, kw_only=True):
    """A published anchor that the configuration pins no more. It stays until nothing needs it.

    ``since`` (seconds since the epoch) is when that was noticed, ``generation`` one that holds its bytes.
    ``clusters`` are those whose own CA it was; none: a root that the hub itself signed under.
    """

    since: float
    generation: int
    subject: str = ""
    clusters: list[str] = []


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor that was removed without a rotation: when, by whom, and on which evidence."""

    sha256: str
    at: Instant
    author: str
    reason: str
    subject: str = ""
    evidence: list[Condition] = []


class Setback(msgspec.Struct, frozen=True, kw_only=True):
    """State that was found to be older than what had been in force: when it was found, what, and what was done."""

    at: Instant
    what: str
    done: str


class RotationRecord(msgspec.Struct, frozen=True, kw_only=True, rename={"applied_ids": "heard"}):
    """What is persisted under ``rotation``: the rotation under way or the last one, and the quarantines.

    ``retired`` are roots that a rotation has removed: pinned still, and not published any more. ``admitted``
    are roots that are pinned as staged and that a rotation has published. ``compromised`` are the roots and
    intermediates (SHA-256) that emergencies were declared against: nothing is ever signed with them again.
    ``applied_ids`` are the operations (ids) that were applied last, so that none is applied twice.

    ``unpinned`` are anchors (SHA-256) that are published although their pin is gone. ``withdrawn`` are those that were
    removed and may come back: a rotation brings them again, or a pin that is not staged. ``departures`` are the last
    removals of anchors without a rotation. ``setbacks`` are the last times that state was found to be set back, and
    ``revision`` counts the writes of the record: a lower one than before is a record that was set back.

    ``signing`` is the authority that is in force at rest, None until signers were seen to sign. ``left`` are the
    intermediates (SHA-256) that rotations have led away from, or that were aborted: only a rotation brings one back.
    """

    rotation: Rotation | None = None
    signing: Side | None = None
    left: list[str] = []
    quarantined: dict[str, Quarantine] = {}
    retired: list[str] = []
    admitted: list[str] = []
    compromised: list[str] = []
    applied_ids: list[str] = []
    unpinned: dict[str, Unpinned] = {}
    withdrawn: list[str] = []
    departures: list[Departure] = []
    setbacks: list[Setback] = []
    revision: int = 0

    @property
    def under_way(self) -> Rotation | None:
        """The rotation that has not ended; None at rest."""
        rotation = self.rotation
        return rotation if rotation is not None and rotation.state not in AT_REST else None


class OperationRefused(Refused):
    """An operator asked for what the present state does not allow; the text says why and what to do."""

    default_reason = "operation_refused"


def cut(text: str) -> str:
    """A text of a person's as it is recorded: no longer than :data:`MOST_TEXT`."""
    return text[:MOST_TEXT]


@dataclass(frozen=True, slots=True)
class Step:
    """Who takes a step, when, and on which evidence."""

    author: str
    at: float
    reason: str = ""
    evidence: Sequence[Condition] = ()


def enter(record: RotationRecord, state: State, step: Step, **changes: object) -> RotationRecord:
    """The record with its rotation in that state, and the transition in its history."""
    rotation = record.rotation
    if rotation is None:
        return record
    taken = Transition(
        before=rotation.state,
        after=state,
        at=step.at,
        author=cut(step.author),
        reason=cut(step.reason),
        evidence=bounded(step.evidence),
    )
    fresh = {"since": step.at, "conditions_met_since": 0.0, "paused": ""}
    history = _thinned([*rotation.history, taken])
    return replace(record, rotation=replace(rotation, state=state, history=history, **(fresh | changes)))


def admit(record: RotationRecord, root: str) -> RotationRecord:
    """The record with that root published by a rotation from now on."""
    return replace(
        record,
        admitted=sorted({*record.admitted, root}),
        withdrawn=[sha256 for sha256 in record.withdrawn if sha256 != root],
    )


def bounded(evidence: Sequence[Condition]) -> list[Condition]:
    """The evidence as it is recorded: at most :data:`MOST_EVIDENCE`, unmet ones and one of each name first."""
    first = {condition.name: condition for condition in reversed(evidence)}
    ranked = sorted(evidence, key=lambda c: (c.met, first[c.name] is not c))
    return [replace(condition, detail=cut(condition.detail)) for condition in ranked[:MOST_EVIDENCE]]


def _thinned(history: list[Transition]) -> list[Transition]:
    history = history[-MOST_HISTORY:]
    if len(history) > WHOLE_HISTORY:
        old = history[-WHOLE_HISTORY - 1]
        one_each = {condition.name: condition for condition in reversed(old.evidence)}
        history[-WHOLE_HISTORY - 1] = replace(old, evidence=list(one_each.values()))
    return history
