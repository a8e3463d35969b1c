"""Runs a planned proof off the event loop, in batches, so that everything else gets its turn meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from federation.controller.proof.explain import Explainer
from federation.controller.proof.handshake import handshake
from federation.controller.proof.matrix import Failure, ProofPlan, run_cases
from federation.controller.proof.participants import Absent, Case, Participant
from federation.core.pki.certificate import Certificate
from federation.state.documents import Generation, Matrix

BATCH: Final = 16
"""Pairs of classes in one go: some tens of milliseconds, after which a cancellation is noticed."""


async def prove(
    parties: Sequence[Participant | Absent],
    *,
    generation: Generation | None,
    anchors: Sequence[Certificate],
    at: datetime,
) -> Matrix:
    """The matrix of these clusters as of ``at``; ``anchors`` are those of ``generation``, which is in force."""
    plan = await asyncio.to_thread(ProofPlan.of, parties, at=at)
    pairs = list(plan.cases.items())
    outcomes: dict[tuple[tuple[object, ...], tuple[object, ...]], Failure | None] = {}
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        results = await asyncio.to_thread(_run, [cases for _, cases in batch])
        outcomes.update(zip((pair for pair, _ in batch), results, strict=True))
    explainer = Explainer(generation, anchors, at)
    return await asyncio.to_thread(plan.matrix, outcomes, explainer)


def _run(batch: Sequence[Sequence[Case]]) -> list[Failure | None]:
    return [run_cases(cases, handshake) for cases in batch]
