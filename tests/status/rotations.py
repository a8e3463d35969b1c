"""Rotations as a leader and signers write them down, for a world of ``worlds.py``, and a leader that decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from federation.controller.rotation.operations import OperationQueue
from federation.core.documents.controller import LossReport, Operation, PlanReport, RotationReport
from federation.core.documents.signer import AuthorityReport
from federation.core.errors import FederationError
from federation.core.rotation.effects import signing_directives
from federation.core.rotation.record import (
    Condition,
    Quarantine,
    Rotation,
    RotationRecord,
    Side,
    State,
    Transition,
)
from federation.runtime.clock import SystemClock
from federation.state.store import StateStore
from tests.status.worlds import DAY, INTERMEDIATE, ROOT, World
from tests.support.seals import SEAL

NEW_ROOT = "d4" * 32
NEW_INTERMEDIATE = "e5" * 32
OLD = Side(root=ROOT, intermediate=INTERMEDIATE, subject="CN=Mesh M3", root_subject="CN=Root R1")
NEW = Side(root=NEW_ROOT, intermediate=NEW_INTERMEDIATE, subject="CN=Mesh M4", root_subject="CN=Root R2")
WAY = (
    State.STAGED,
    State.PUBLISHING,
    State.SOAKED,
    State.CANARY,
    State.ACTIVE,
    State.UNPUBLISHING,
    State.RETIRED,
)


def rotation(state: State, now: float, **changes: object) -> Rotation:
    """A root rotation that came to that state on its usual way, an hour a step, a minute ago."""
    way = [*WAY[: WAY.index(state) + 1]] if state in WAY else [*WAY[:5], state]
    steps = [
        Transition(
            before=way[number - 1] if number else State.STABLE,
            after=after,
            at=now - 60 - 3600 * (len(way) - 1 - number),
            author="the controller" if number else "status token, from 127.0.0.1",
            reason="its gate is open" if number else "yearly",
            evidence=[
                Condition(name="read_back", met=True, detail="every namespace holds both", cluster=name)
                for name in ("east", "west")
            ],
        )
        for number, after in enumerate(way)
    ]
    made = Rotation(
        number=3,
        trust_domain="mesh.example.org",
        state=state,
        since=now - 60,
        old=OLD,
        new=NEW,
        author="status token, from 127.0.0.1",
        reason="yearly",
        automatic=True,
        soak=3600.0,
        canary=["east"],
        waves=[["east"], ["north", "west"]],
        wave=1 if state is State.UNPUBLISHING else 0,
        history=steps,
    )
    return replace(made, **changes)


def met(name: str, detail: str = "it is so") -> Condition:
    """A condition that holds."""
    return Condition(name=name, met=True, detail=detail)


def unmet(name: str, cluster: str = "", until: float = 0.0, detail: str = "not yet") -> Condition:
    """A condition that does not."""
    return Condition(name=name, met=False, detail=detail, cluster=cluster, until=until)


def rotate(
    world: World, state: State, *conditions: Condition, opens_at: float = 0.0, **changes: object
) -> None:
    """Have the world rotate: its record, the directives, the leader's gate, and signers that follow."""
    quarantined = world.record.quarantined if world.record else {}
    record = RotationRecord(rotation=rotation(state, world.now, **changes), quarantined=quarantined)
    if state is State.RETIRED:
        record = replace(record, retired=[ROOT], admitted=[NEW_ROOT])
    hold(world, record)
    reported = conditions or (met("read_back"),)
    report_rotation(
        world,
        RotationReport(
            computed=world.now - 1,
            number=3,
            state=state.value,
            open=all(condition.met for condition in reported),
            opens_at=opens_at,
            conditions=list(reported),
        ),
    )


def hold(world: World, record: RotationRecord) -> None:
    """The record and what follows from it; both signers have a successor and follow."""
    world.record, world.directives = record, signing_directives(record)
    for replica in world.signers:
        world.edit_signer(
            replica,
            rotation=world.directives.rotation,
            directives=world.directives.state,
            successor=AuthorityReport(
                name="next",
                kind="local",
                state="ready",
                subject="CN=Mesh M4",
                sha256=NEW_INTERMEDIATE,
                not_after=world.now + 700 * DAY,
            ),
        )


def report_rotation(world: World, report: RotationReport) -> None:
    """Have the leader report this of the rotation."""
    world.edit_leader(rotation=report)


def quarantine(world: World, *names: str, returning: bool = False) -> None:
    """Have these clusters quarantined."""
    record = world.record or RotationRecord()
    added = {
        name: Quarantine(
            reason="burnt down", author="no token, from 127.0.0.1", since=world.now - 90, returning=returning
        )
        for name in names
    }
    hold(world, replace(record, quarantined=record.quarantined | added))


def plan(now: float, **changes: object) -> RotationReport:
    """The report of a leader without a rotation under way, where one could be started."""
    proposed = PlanReport(
        old=Side(root=ROOT, intermediate=INTERMEDIATE, subject="CN=Mesh M3", root_subject="CN=Root R1"),
        new=Side(
            root=NEW_ROOT, intermediate=NEW_INTERMEDIATE, subject="CN=Mesh M4", root_subject="CN=Root R2"
        ),
        canary=["east"],
        waves=[["east"], ["north", "west"]],
        soak=3600.0,
        longest_leaf=7200.0,
        rate=1.5,
        quota=20.0,
        conditions=[met("validated", "CN=Mesh M4 may sign and does")],
    )
    return RotationReport(computed=now - 1, open=True, plan=replace(proposed, **changes))


LOSSES = [
    LossReport(side="old", what="its leaves are refused by others", at_removal=True, clusters={"west": 2e9}),
    LossReport(
        side="old", what="its workloads refuse the other authority", at_removal=False, clusters={"east": 0.0}
    ),
    LossReport(
        side="new", what="its leaves of the new one are refused", at_removal=True, clusters={"north": 2e9}
    ),
]


@asynccontextmanager
async def deciding(
    store: StateStore, decide: Callable[[Operation], FederationError | None]
) -> AsyncIterator[list[Operation]]:
    """A leader's queue that decides every operation with ``decide``; yields the operations it got."""
    requested: list[Operation] = []
    queue = OperationQueue(store, clock=SystemClock(), mac=SEAL)

    async def run() -> None:
        while True:
            for operation, version in await queue.pending():
                requested.append(operation)
                await queue.decide(operation, version, decide(operation))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(run())
    try:
        yield requested
    finally:
        task.cancel()
        await asyncio.wait([task])
