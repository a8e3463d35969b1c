"""What the status API says about rotations, quarantines and operations, as typed structs.

Times are RFC 3339 in UTC, ``null`` where an instant is not known; durations are in seconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from federation.core.clock import Instant
from federation.core.documents.controller import Dependent
from federation.core.rotation.record import Condition, Side

RotationKind = Literal["root", "intermediate"]
StepMark = Literal["done", "current", "ahead"]
WaveState = Literal["removed", "removing", "waiting"]


class GateView(msgspec.Struct, frozen=True, kw_only=True):
    """The gate out of the present state, as the leader sees it.

    Where it is not ``known``, ``detail`` says why and it is not open. ``opens_at`` is the earliest instant, null
    where that cannot be determined. ``waits_for`` names clusters.
    """

    known: bool
    open: bool
    opens_at: Instant
    computed: Instant
    detail: str
    conditions: list[Condition]
    waits_for: list[str]


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """One state on the way of this rotation, in order; ``since`` is when it was last entered."""

    state: str
    mark: StepMark
    since: Instant


class WaveView(msgspec.Struct, frozen=True, kw_only=True):
    """Clusters that lose the old root together."""

    clusters: list[str]
    state: WaveState


class TransitionView(msgspec.Struct, frozen=True, kw_only=True):
    """A step that was taken, by whom and on which evidence; ``/api/v1/rotation`` leaves no evidence out."""

    before: str
    after: str
    at: Instant
    author: str
    reason: str
    evidence: list[Condition]
    evidence_omitted: int = 0


class ClusterUntil(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster and until when something lasts there: a loss, or certificates of a cluster that was removed."""

    cluster: str
    until: Instant = 0.0


class LossView(msgspec.Struct, frozen=True, kw_only=True):
    """What fails if a side is left at the emergency's deadline, or now where there is none.

    With ``at_removal`` it begins when that side's root is removed, else as soon as the other side signs.
    """

    side: str
    what: str
    at_removal: bool
    clusters: list[ClusterUntil]


class RotationView(msgspec.Struct, frozen=True, kw_only=True):
    """The rotation under way, or the last one. ``paused`` says why automatic advance has stopped.

    ``expected`` is how long its state lasts as a rule; ``gate`` is null at rest. ``history`` is newest first.
    """

    number: int
    kind: RotationKind
    state: str
    under_way: bool
    since: Instant
    expected: float
    old: Side
    new: Side
    author: str
    reason: str
    automatic: bool
    paused: str
    soak: float
    canary: list[str]
    canary_failures: int
    waves: list[WaveView]
    deadline: Instant
    ttl_cap: float
    steps: list[StepView]
    gate: GateView | None
    losses: list[LossView]
    history: list[TransitionView]


class QuarantineView(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster that a person took out: nothing is issued there. ``waits_for``: what a return still needs."""

    cluster: str
    reason: str
    author: str
    since: Instant
    returning: bool
    waits_for: list[Condition]


class MemberCaView(msgspec.Struct, frozen=True, kw_only=True):
    """The accepted CA of a cluster that joined, still in the bundle; ``waits_for`` is what keeps it there.

    ``undeclared`` names clusters whose takeover a person has yet to declare.
    """

    sha256: str
    subject: str
    undeclared: list[str]
    waits_for: list[Condition]


class UnpinnedView(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor that is published although its pin is gone: since when, what it waits for, what fails without it.

    ``clusters`` are those whose own CA it was; none: a root of the hub's. ``leaves_at`` is when it leaves at the
    earliest, null where that cannot be determined. Where it is not ``known``, no leader reports what it waits for.
    """

    sha256: str
    subject: str
    clusters: list[str]
    since: Instant
    known: bool
    leaves_at: Instant
    waits_for: list[Condition]
    losses: list[LossView]


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """What a start would do now, as the leader says; ``ready`` is false where it would be refused, or waits at once.

    ``takes`` is the least it takes in all; ``longest_leaf`` is for how long a leaf that is out may have to be
    reckoned with. ``rate`` is asked of the new authority and ``quota`` what it allows, in certificates per
    second (0: no limit known). ``dependents`` are the control planes, webhooks and bundles that were found.
    """

    ready: bool
    kind: RotationKind | None
    old: Side | None
    new: Side | None
    problem: str
    remedy: str
    canary: list[str]
    waves: list[list[str]]
    automatic: bool
    soak: float
    longest_leaf: float
    takes: float
    rate: float
    quota: float
    conditions: list[Condition]
    dependents: list[Dependent] = []


class DirectivesView(msgspec.Struct, frozen=True, kw_only=True):
    """What signers are to sign with.

    ``issuer`` is an intermediate (SHA-256), ``clusters`` are exceptions from it, ``stopped`` get nothing. With
    ``strict`` no other one may sign. At rest another one under the same ``root`` may, but for those that rotations
    have ``left``.
    """

    rotation: int
    state: str
    issuer: str
    clusters: dict[str, str]
    strict: bool
    stopped: dict[str, str]
    ttl_cap: float
    root: str = ""
    left: list[str] = []


class OperationView(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asked for and what became of it: ``outcome`` is empty until a leader has decided.

    ``sealed`` says whether it bears the seal of a controller on exactly what it says, by the operate token of now; what
    was sealed by a former token does not. It is null where that is not known here: without an operate token a seal is
    of one process alone. A leader seals what it has refused as well.
    """

    id: str
    verb: str
    author: str
    asked: Instant
    arguments: dict[str, str]
    decided: Instant
    outcome: str
    detail: str
    remedy: str
    sealed: bool | None = None


class Operations(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/api/v1/operations``, newest first.

    ``accepted`` says whether this caller could ask for one, ``with_token`` whether the bearer of a token could.
    ``remaining`` come after the last one, by ``continue_token``.
    """

    accepted: bool
    with_token: bool = False
    operations: list[OperationView]
    continue_token: str = ""
    remaining: int = 0
