"""Which Events follow from a change of the status: what an operator looks for, once, and no signs of life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from federation.core.rotation.record import Quarantine, RotationRecord, State
from federation.state.kubernetes_events import About, EventCounts, StateEvent
from federation.status.model import FederationStatus
from federation.status.object_events import LOOK_EVERY, TICK, Announcer, changes
from federation.status.snapshot import SnapshotReader
from federation.status.view import StatusSource, compose
from tests.status.rotations import WAY, rotate
from tests.status.worlds import CountingStore, FixedConfig, World, generation
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

T = 1_790_000_000.0
NAMES = ["east", "north", "west"]


def status(change: Callable[[World], Any] = lambda _: None, *, now: float = T) -> FederationStatus:
    world = World(NAMES, now)
    change(world)
    return compose(world.document_set(), world.config, datetime.fromtimestamp(now, UTC))


def written(before: FederationStatus, after: FederationStatus) -> list[tuple[About, str, bool]]:
    return [(event.about, event.reason, event.is_warning) for event in changes(before, after)]


def rotating(state: State, **changed: Any) -> FederationStatus:
    """A rotation that takes a step each hour from ``T`` on."""
    hours = WAY.index(state) if state in WAY else 5
    return status(lambda world: rotate(world, state, **changed), now=T + 3600 * hours)


def only_rotation(events: list[tuple[About, str, bool]]) -> list[tuple[str, bool]]:
    return [(reason, warning) for about, reason, warning in events if about is About.ROTATION]


def test_signs_of_life_are_no_event() -> None:
    assert written(status(), status(now=T + 30)) == []


def test_another_generation_in_force_is_an_event_on_the_trust() -> None:
    def newer(world: World) -> None:
        world.generations[8] = generation(8, T)
        assert world.current is not None
        world.current = replace(world.current, number=8)

    (event, *_) = changes(status(), status(newer))
    assert (event.about, event.reason, event.is_warning) == (About.TRUST, "GenerationInForce", False)
    assert event.note == "generation 8 is in force, by controller: the pinned anchors changed"


def test_each_step_of_a_rotation_is_an_event_in_its_order() -> None:
    events = [
        event for event in changes(status(), rotating(State.PUBLISHING)) if event.about is About.ROTATION
    ]
    assert [event.reason for event in events] == ["RotationStarted", "RotationAdvanced", "RotationAdvanced"]
    assert events[0].note.startswith("rotation 3 of the root has begun, from CN=Root R1 to CN=Root R2, by ")
    assert "from STAGED to PUBLISHING" in events[2].note
    assert only_rotation(written(rotating(State.CANARY), rotating(State.RETIRED))) == [
        ("RotationAdvanced", False),
        ("RotationAdvanced", False),
        ("RotationRetired", False),
    ]
    assert only_rotation(written(rotating(State.ACTIVE), rotating(State.ABORTING))) == [
        ("RotationAborting", True)
    ]


def test_a_rotation_that_stops_going_on_by_itself_is_a_warning() -> None:
    before, after = rotating(State.CANARY), rotating(State.CANARY, paused="the canary failed twice")
    assert only_rotation(written(before, after)) == [("RotationPaused", True)]
    assert only_rotation(written(after, after)) == []


def test_what_is_not_known_of_a_rotation_is_no_step() -> None:
    unknown = replace(status(), rotation_problem="the record is damaged")
    assert only_rotation(written(rotating(State.CANARY), unknown)) == []
    assert only_rotation(written(unknown, rotating(State.CANARY))) == []


def test_a_quarantine_and_its_end_are_events() -> None:
    def quarantined(world: World) -> None:
        record = Quarantine(reason="its nodes are replaced", author="ann", since=T)
        world.record = RotationRecord(quarantined={"west": record})

    after = status(quarantined)
    assert ("ClusterQuarantined", True) in only_rotation(written(status(), after))
    assert ("ClusterReturned", False) in only_rotation(written(after, status()))


def test_a_finding_is_an_event_when_it_comes_and_when_it_goes() -> None:
    broken = status(lambda world: world.set_cells({("east", "west"): "f"}))
    raised = [event for event in changes(status(), broken) if event.about is About.LEADER]
    cleared = [event for event in changes(broken, status()) if event.about is About.LEADER]
    codes = {item.code for item in broken.attention if item.severity != "notice"}
    assert codes
    assert all(event.is_warning and event.note.startswith(("critical: ", "warning: ")) for event in raised)
    assert not any(event.is_warning for event in cleared)
    assert {event.reason for event in cleared} == {f"{event.reason}Cleared" for event in raised}
    assert written(broken, broken) == []


def test_another_wording_of_a_finding_and_a_notice_are_no_event() -> None:
    broken = status(lambda world: world.set_cells({("east", "west"): "f"}))
    reworded = replace(broken, attention=[replace(item, detail="another") for item in broken.attention])
    notices = replace(
        broken, attention=[replace(item, severity="notice", code="other") for item in broken.attention]
    )
    assert written(broken, reworded) == []
    assert written(status(), notices) == []


class Kept:
    """Keeps the Events that it is given."""

    def __init__(self) -> None:
        self.counts = EventCounts()
        self.events: list[StateEvent] = []
        self.fails = False

    async def write(self, event: StateEvent, *, permitted: Callable[[], bool]) -> None:
        assert permitted()
        self.events.append(event)
        if self.fails:
            raise RuntimeError("a mistake of the writer")


async def test_only_a_leader_writes_and_what_it_found_is_no_news(tmp_path: Any) -> None:
    clock = VirtualClock()
    config = World(NAMES, clock.now().timestamp()).config
    store = CountingStore(tmp_path / "state", clock)
    source = StatusSource(SnapshotReader(store, clock), FixedConfig(config), clock)
    kept, leading = Kept(), False
    announcer = Announcer(kept, clock, replica="controller-0", leading=lambda: leading)
    task = asyncio.create_task(announcer.run(source))
    try:
        await clock.advance(2 * LOOK_EVERY)
        assert kept.events == []
        leading = True
        await _look(clock, store, _failing("east", "west"))
        assert [event.reason for event in kept.events] == ["LeaderElection"]
        await _look(clock, store, _failing("west", "north"))  # what is found at first may go by itself
        assert [event.reason for event in kept.events] == ["LeaderElection"]
        await _look(clock, store)
        cleared = kept.events[1:]
        assert cleared
        assert all(event.reason.endswith("Cleared") for event in cleared)
        kept.fails = True
        await _look(clock, store, _failing("east", "west"))
        kept.fails = False
        assert kept.events[-1].is_warning
        await _look(clock, store, lambda world: rotate(world, State.PUBLISHING))
        assert "RotationStarted" in [event.reason for event in kept.events]
    finally:
        task.cancel()
        await asyncio.wait([task])


def _failing(client: str, server: str) -> Callable[[World], None]:
    return lambda world: world.set_cells({(client, server): "f"})


async def _look(
    clock: VirtualClock, store: CountingStore, change: Callable[[World], Any] = lambda _: None
) -> None:
    """One look at a world that is of now, until the next one is waited for: the store is read in threads."""
    before = store.readings
    async with asyncio.timeout(PATIENCE):
        while store.readings == before:
            world = World(NAMES, clock.now().timestamp())
            change(world)
            await store.put(world.document_set())
            await clock.advance(TICK)
        while not clock.sleeping:
            await asyncio.sleep(0.001)
