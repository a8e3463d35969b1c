"""Whatever crashes, fails or changes meanwhile: the controller knows of every leaf that it has to wait for.

Two properties, after every step. Every leaf that was delivered lies within what is persisted. And a leaf that
is not as the controller's last change asks lies within what it read right after it had written that change.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.core.documents.encoding import decode
from federation.core.documents.signer import ExpiryBoundTable
from federation.core.documents.trust import Current
from federation.core.errors import StateUnavailable
from federation.core.identity import ClusterName
from federation.core.rotation.effects import SigningDirectives
from federation.core.trust.expiry_bounds import Delivered
from federation.signer.expiry_bounds import RETRY, PersistedExpiryBounds
from federation.signer.revalidation import Delivery, Superseded
from federation.state.store import StateConflict, Stored
from tests.support import pki
from tests.support.clock import VirtualClock

CLUSTERS = ("east", "west")
ISSUERS = ("a" * 64, "b" * 64)
KEY = "horizons/signer-0"


@dataclass(frozen=True)
class Change:
    """What the controller has written, and what it read of the expiry bounds right after that."""

    current: Current
    directives: SigningDirectives
    known: dict[Delivered, float]

    def asks_for(self, leaf: Delivery) -> bool:
        cluster = leaf.cluster.value
        return (
            cluster not in self.directives.stopped
            and leaf.generation == self.current.number_for(cluster)
            and leaf.authority == self.directives.issuer_for(cluster)
        )

    def knows(self, leaf: Delivery) -> bool:
        row = Delivered(leaf.cluster.value, leaf.authority, leaf.generation)
        return self.known.get(row, 0.0) >= leaf.not_after.timestamp()


@dataclass
class Memory:
    """A store with compare-and-swap in which things go wrong at chosen moments."""

    data: bytes | None = None
    version: int = 0
    faults: list[str] = field(default_factory=list)
    between: list[tuple[str, str]] = field(default_factory=list)
    world: World | None = None

    async def read(self, key: str) -> Stored | None:
        await asyncio.sleep(0)
        if self._next() == "read fails":
            raise StateUnavailable("no answer", where=key)
        return Stored(self.data, str(self.version)) if self.data is not None else None

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        await asyncio.sleep(0)
        fault = self._next()
        if fault == "write fails":
            raise StateUnavailable("the disk is full", where=key)
        if (expected or (None if create else "")) != (str(self.version) if self.data is not None else None):
            raise StateConflict("it was written since", where=key)
        self.data, self.version = data, self.version + 1
        if fault == "write lands and seems to fail":
            raise StateUnavailable("no answer in time", where=key)
        if self.between and self.world is not None:
            self.world.change(*self.between.pop())
        return str(self.version)

    def _next(self) -> str:
        return self.faults.pop() if self.faults else ""

    def table(self) -> dict[Delivered, float]:
        if self.data is None:
            return {}
        rows = decode(self.data, ExpiryBoundTable, key=KEY).rows
        return {Delivered(row.cluster, row.issuer, row.generation): row.until for row in rows}


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock(pki.NOW)
        self.store = Memory(world=self)
        self.current = Current(number=1, sha256="")
        self.directives = SigningDirectives(rotation=1, state="PUBLISHING", issuer=ISSUERS[0], strict=True)
        self.changes: list[Change] = []
        self.delivered: list[Delivery] = []
        self.view = (self.current, self.directives)
        self.bounds = self._make()
        self.task: asyncio.Task[None] | None = None

    def _make(self) -> PersistedExpiryBounds:
        look = self.look
        return PersistedExpiryBounds(self.store, replica="signer-0", clock=self.clock, read_in_force=look)  # type: ignore[arg-type]

    async def look(self) -> tuple[Current, SigningDirectives]:
        await asyncio.sleep(0)
        return self.current, self.directives

    def change(self, what: str, cluster: str) -> None:
        """The controller writes what is to hold, then reads how far leaves reach."""
        if what == "generation":
            self.current = Current(number=self.current.number + 1, sha256="")
        elif what == "generation for others":
            behind = {cluster: self.current.number_for(cluster)}
            self.current = Current(number=self.current.number + 1, sha256="", behind=behind)
        elif what == "issuer":
            other = ISSUERS[self.directives.issuer == ISSUERS[0]]
            self.directives = SigningDirectives(rotation=1, state=other[:1], issuer=other, strict=True)
        elif what == "canary":
            other = ISSUERS[self.directives.issuer == ISSUERS[0]]
            self.directives = SigningDirectives(
                rotation=1,
                state="CANARY",
                issuer=self.directives.issuer,
                strict=True,
                clusters={cluster: other},
            )
        else:
            issuer = self.directives.issuer
            self.directives = SigningDirectives(
                rotation=1, issuer=issuer, strict=True, stopped={cluster: "broken into"}
            )
        self.changes.append(Change(self.current, self.directives, self.store.table()))

    async def restart(self) -> None:
        """Kill the process wherever it is, and start another one."""
        await self.stop()
        self.bounds = self._make()
        self.task = asyncio.create_task(self.bounds.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def deliver(self, cluster: str, lifetime: float) -> None:
        """One leaf, made by what the signer saw last."""
        current, directives = self.view
        if cluster in directives.stopped:
            return
        ends = self.clock.now().replace(microsecond=0) + timedelta(seconds=lifetime)
        leaf = Delivery(
            ClusterName(cluster),
            directives.issuer_for(cluster),
            current.number_for(cluster),
            ends,
            directives,
        )
        with contextlib.suppress(StateUnavailable, Superseded):
            await self.bounds.cover(leaf)
            self.delivered.append(leaf)
            for change in self.changes[-1:]:
                assert change.asks_for(leaf) or change.knows(leaf), (change, leaf)

    def check(self) -> None:
        persisted = self.store.table()
        for leaf in self.delivered:
            row = Delivered(leaf.cluster.value, leaf.authority, leaf.generation)
            assert persisted.get(row, 0.0) >= leaf.not_after.timestamp(), leaf


CLUSTER = st.sampled_from(CLUSTERS)
WHAT = st.sampled_from(("generation", "generation for others", "issuer", "canary", "stop"))
FAULTS = st.sampled_from(("read fails", "write fails", "write lands and seems to fail"))
STEP = st.one_of(
    st.tuples(
        st.just("deliver"),
        st.lists(st.tuples(CLUSTER, st.sampled_from((60, 600, 3600))), min_size=1, max_size=4),
    ),
    st.tuples(st.just("see"), st.none()),
    st.tuples(st.just("change"), st.tuples(WHAT, CLUSTER)),
    st.tuples(st.just("change during the next write"), st.tuples(WHAT, CLUSTER)),
    st.tuples(st.just("faults"), FAULTS),
    st.tuples(st.just("pass"), st.sampled_from((1.0, 30.0, 300.0))),
    st.tuples(st.just("kill"), st.integers(0, 6)),
)


async def live(steps: list[tuple[str, object]]) -> World:
    world = World()
    await world.restart()
    await world.clock.advance(0)
    for what, how in steps:
        match what:
            case "deliver":
                await asyncio.gather(*(world.deliver(cluster, life) for cluster, life in how))  # type: ignore[attr-defined]
            case "see":
                world.view = (world.current, world.directives)
            case "change":
                world.change(*how)  # type: ignore[misc]
            case "change during the next write":
                world.store.between = [how]  # type: ignore[list-item]
            case "faults":
                world.store.faults.append(how)  # type: ignore[arg-type]
            case "pass":
                await world.clock.advance(how)  # type: ignore[arg-type]
            case _:
                leaves = [asyncio.create_task(world.deliver(cluster, 1800)) for cluster in CLUSTERS]
                for _ in range(how):  # type: ignore[call-overload]
                    await asyncio.sleep(0)
                await world.restart()
                for leaf in leaves:
                    leaf.cancel()
                await asyncio.gather(*leaves, return_exceptions=True)
                await world.clock.advance(RETRY)
        world.check()
    await world.stop()
    return world


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, min_size=5, max_size=25))
def test_the_controller_knows_of_every_leaf(steps: list[tuple[str, object]]) -> None:
    world = asyncio.run(live(steps))
    world.check()


def test_the_check_can_fail(monkeypatch: object) -> None:
    """Without the look after the write, a leaf leaves that the controller knows nothing of."""
    import pytest

    from federation.signer import expiry_bounds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expiry_bounds, "revalidate", lambda *_: None)
        steps: list[tuple[str, object]] = [
            ("change during the next write", ("issuer", "east")),
            ("deliver", [("east", 60)]),
            ("pass", 1.0),
            ("deliver", [("east", 600)]),
        ]
        with pytest.raises(AssertionError):
            asyncio.run(live(steps))
