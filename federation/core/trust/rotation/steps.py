"""A transition as it is recorded: who took it, when, and on which evidence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from federation.core.errors import Refused
from federation.core.trust.rotation.record import Condition, RotationBook, State, Transition

MOST_HISTORY: Final = 100
WHOLE_HISTORY: Final = 12
"""The last transitions keep all their evidence; of earlier ones one condition of each name stays."""

MOST_EVIDENCE: Final = 64
"""Conditions kept with a transition: unmet ones and one of each name come first, so that 200 clusters fit."""

MOST_TEXT: Final = 300
"""Characters of a condition's detail and of a reason: the record is one object of bounded size."""


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


def enter(book: RotationBook, state: State, step: Step, **changes: object) -> RotationBook:
    """The book with its rotation in that state, and the transition in its history."""
    rotation = book.rotation
    if rotation is None:
        return book
    taken = Transition(
        before=rotation.state,
        after=state,
        at=step.at,
        author=cut(step.author),
        reason=cut(step.reason),
        evidence=bounded(step.evidence),
    )
    fresh = {"since": step.at, "held_since": 0.0, "paused": ""}
    history = _thinned([*rotation.history, taken])
    return replace(book, rotation=replace(rotation, state=state, history=history, **(fresh | changes)))


def admit(book: RotationBook, root: str) -> RotationBook:
    """The book with that root published by a rotation from now on."""
    return replace(
        book,
        admitted=sorted({*book.admitted, root}),
        withdrawn=[sha256 for sha256 in book.withdrawn if sha256 != root],
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
