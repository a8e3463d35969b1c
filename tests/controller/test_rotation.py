"""The rotation at the edge: the record in the store, operations, and a whole rotation with real publication.

The signer's part (directives followed, expiry bounds written ahead, reports) is played here by its protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from federation.controller.rotation.driver import problem_of
from federation.controller.rotation.operations import OperationDesk, OperationQueue, check_operation, waves_of
from federation.controller.rotation.store import RotationStore
from federation.core.documents.controller import ControllerReport, Operation
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import DIRECTIVES, ROTATION
from federation.core.documents.signer import (
    AuthorityReport,
    ExpiryBound,
    ExpiryBoundTable,
    SignerClusterReport,
    SignerReport,
    WorkloadsReport,
)
from federation.core.documents.trust import Current
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import Rotation, RotationRecord, Side, State
from federation.core.trust.expiry_bounds import Delivered, step_for
from federation.state.files import FileStore
from federation.state.store import StateConflict
from tests.controller.world import TRUST_DOMAIN, World, intermediate, root
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE
from tests.support.seals import OPERATOR, SEAL

A = Side(root="a" * 64, intermediate="1" * 64)
B = Side(root="b" * 64, intermediate="2" * 64)


def rotation(state: State = State.PUBLISHING, **changes: Any) -> Rotation:
    fields: dict[str, Any] = {
        "number": 1,
        "trust_domain": TRUST_DOMAIN,
        "state": state,
        "since": 0.0,
        "old": A,
        "new": B,
        "author": "test",
        "reason": "test",
        "automatic": True,
        "soak": 1.0,
    }
    return Rotation(**(fields | changes))


async def test_the_record_is_swapped_and_directives_follow_from_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path, VirtualClock())
    rotation_store, other = RotationStore(store), RotationStore(store)
    await rotation_store.load()
    await other.load()
    assert await rotation_store.issue_directives() == SigningDirectives()
    assert await store.read(DIRECTIVES) is None, "where no rotation ever was there is nothing to order"
    await rotation_store.save(RotationRecord(rotation=rotation(State.CANARY, canary=["east"])))
    directives = await rotation_store.issue_directives()
    assert (directives.issuer, directives.issuer_for("east"), directives.strict) == (
        A.intermediate,
        B.intermediate,
        True,
    )
    with pytest.raises(StateConflict):
        await other.save(RotationRecord(rotation=rotation(State.STAGED)))
    again = RotationStore(store)
    assert await again.load() == rotation_store.record
    stored = await store.read(DIRECTIVES)
    assert stored is not None
    assert decode(stored.data, SigningDirectives, key=DIRECTIVES) == directives


async def test_a_takeover_is_remembered_from_its_first_moment(tmp_path: Path) -> None:
    rotation_store = RotationStore(FileStore(tmp_path, VirtualClock()))
    assert await rotation_store.takeovers(["east"], 100.0) == {"east": 100.0}
    assert await rotation_store.takeovers(["east", "west"], 200.0) == {"east": 100.0, "west": 200.0}
    assert await rotation_store.takeovers(["west"], 300.0) == {"west": 200.0}
    again = {"west": 200.0, "east": 400.0}  # which CA issued in between is not known
    assert await rotation_store.takeovers(["east", "west"], 400.0) == again


async def test_an_operation_is_answered_by_what_the_leader_decided(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = FileStore(tmp_path, clock)
    desk = OperationDesk(store, clock=clock, random_bytes=os.urandom, mac=SEAL)
    queue = OperationQueue(store, clock=clock, mac=SEAL)
    waiting = asyncio.create_task(desk.submit("abort", {"reason": "enough"}, requester=OPERATOR))
    await clock.until_sleeping()
    [(operation, version)] = await queue.pending()
    assert (operation.verb, operation.author) == ("abort", OPERATOR.author)
    refused = InvalidValue("nothing is under way", remedy="start one")
    await queue.decide(operation, version, refused)
    with pytest.raises(StateConflict):
        await queue.decide(operation, version, None)
    while not waiting.done():
        await clock.advance(0.3)
        await asyncio.sleep(0.01)
    decided: Operation = await waiting
    assert (decided.outcome, decided.detail, decided.remedy) == (
        "refused",
        "nothing is under way",
        "start one",
    )
    assert await queue.pending() == []


async def test_a_damaged_operation_is_left_and_stops_no_other(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = FileStore(tmp_path, clock)
    await store.write("operations/20261124120000.aa", b"garbage")
    good = await SEAL.set(
        Operation(id="20261124120001.bb", verb="abort", author="test", asked=clock.now().timestamp())
    )
    await store.write(f"operations/{good.id}", encode(good))
    queue = OperationQueue(store, clock=clock, mac=SEAL)
    assert [operation for operation, _ in await queue.pending()] == [good]


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("explode", {}),
        ("abort", {"reason": "x" * 3000}),
        ("abort", {"reason": "a\x1b[31mb"}),
        ("abort", {"Reason": "x"}),
        ("abort", {"reason": 7}),
    ],
)
def test_what_is_no_operation_is_refused(verb: str, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidValue):
        check_operation(verb, arguments)


def report(successor: pki.Authority | None, state: str = "ready") -> dict[str, SignerReport]:
    authority = (
        AuthorityReport(name="next", kind="local", state=state, sha256=successor.certificate.sha256)
        if successor is not None
        else None
    )
    return {
        "one": SignerReport(
            replica="one", started=0.0, updated=0.0, heartbeat=2.0, ready=True, successor=authority
        )
    }


def chain(authority: pki.Authority) -> tuple[Certificate, ...]:
    return (*authority.chain, authority.root)


OLD = pki.intermediate()
NEW = pki.intermediate("next", pki.root("next"))
SHORT = pki.intermediate("short", pki.root("next"), not_after=pki.NOW + timedelta(hours=12))
SAME_ROOT = pki.intermediate("another of a")
EARLY = pki.intermediate("early", pki.root("next"), not_before=pki.NOW + pki.DAY)


@pytest.mark.parametrize(
    ("new", "signers", "reported"),
    [
        (NEW, report(NEW), None),
        (SAME_ROOT, report(SAME_ROOT), None),
        (SHORT, report(SHORT), "ends at"),
        (EARLY, report(EARLY), "valid"),
        (OLD, report(OLD), None),  # the same one: refused by the machine, not here
        (NEW, report(None), "no [signer.successor]"),
        (NEW, report(SHORT), "has another one"),
        (NEW, report(NEW, "degraded"), "has not signed with it"),
    ],
)
def test_a_candidate_is_judged_before_anything_is_published(
    new: pki.Authority, signers: dict[str, SignerReport], reported: str | None
) -> None:
    problem = problem_of(
        chain(OLD),
        chain(new),
        signers=signers,
        trust_domain=TrustDomain(TRUST_DOMAIN),
        hosts=("hub.example",),
        ztunnel=False,
        longest_ttl=timedelta(hours=24),
        soak=timedelta(hours=1),
        at=pki.NOW,
    )
    assert problem is None if reported is None else reported in (problem or "")


def test_a_key_or_a_name_that_is_used_again_is_refused() -> None:
    reused = pki.Authority(NEW.certificate, OLD.key, NEW.chain, NEW.root)
    own = pki.certificate(
        pki.root("next"),
        [(pki.CA_KEY_USAGE, True), (x509.BasicConstraints(ca=True, path_length=0), True)],
        public_key=OLD.key.public_key(),
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")]),
        not_after=pki.NOW + pki.YEAR,
    )
    named = pki.certificate(
        pki.root("next"),
        [(pki.CA_KEY_USAGE, True), (x509.BasicConstraints(ca=True, path_length=0), True)],
        public_key=pki.key("another key").public_key(),
        subject=OLD.certificate.x509.subject,
        not_after=pki.NOW + pki.YEAR,
    )
    assert reused.key is OLD.key
    for certificate, reported in ((own, "has the key of"), (named, "bears the name")):
        problem = problem_of(
            chain(OLD),
            (certificate, NEW.root),
            signers={},
            trust_domain=TrustDomain(TRUST_DOMAIN),
            hosts=(),
            ztunnel=False,
            longest_ttl=timedelta(hours=1),
            soak=timedelta(0),
            at=pki.NOW,
        )
        assert problem is not None
        assert reported in problem


@pytest.mark.parametrize(
    ("count", "waves", "sizes"),
    [(1, 3, [1]), (2, 3, [1, 1]), (5, 3, [1, 2, 2]), (10, 1, [1, 9]), (0, 3, []), (200, 4, [1, 67, 67, 65])],
)
def test_the_first_wave_is_a_single_cluster(count: int, waves: int, sizes: list[int]) -> None:
    names = [f"c{number:03}" for number in range(count)]
    made = waves_of(names, waves)
    assert [len(wave) for wave in made] == sizes
    assert [name for wave in made for name in wave] == names


RENEWING = WorkloadsReport(workloads=3, with_certificate=3, detail="")
CUT_OFF = WorkloadsReport(workloads=3, lapsed=3, detail="")


class Signer:
    """Plays a signer by its protocol: follows directives, accounts ahead, and reports."""

    LIFE = 2.0

    def __init__(self, world: World, old: pki.Authority, new: pki.Authority) -> None:
        self.world, self.store = world, world.store
        self.old, self.new = old, new
        self.expiry_bounds: dict[Delivered, float] = {}
        self.directives = SigningDirectives()
        self.workloads = dict.fromkeys(world.clusters, RENEWING)

    async def step(self) -> None:
        stored = await self.store.read(DIRECTIVES)
        self.directives = (
            decode(stored.data, SigningDirectives, key=DIRECTIVES) if stored else SigningDirectives()
        )
        stored = await self.store.read("current")
        if stored is None:
            return
        current = decode(stored.data, Current, key="current")
        now = self.world.clock.now().timestamp()
        for cluster in self.world.clusters:
            if cluster in self.directives.stopped:
                continue
            issuer = self.directives.issuer_for(cluster) or self.old.certificate.sha256
            by_new = issuer == self.new.certificate.sha256
            self.world.listener.authorities[cluster] = self.new if by_new else self.old
            delivered = Delivered(cluster, issuer, current.number_for(cluster))
            self.world.listener.show(
                self.new if self.directives.issuer_for("") == self.new.certificate.sha256 else self.old
            )
            self.expiry_bounds[delivered] = now + self.LIFE + step_for(self.LIFE) / 10
        rows = [
            ExpiryBound(cluster=d.cluster, issuer=d.issuer, generation=d.generation, until=until)
            for d, until in self.expiry_bounds.items()
        ]
        await self.store.write("horizons/one", encode(ExpiryBoundTable(replica="one", rows=rows)))
        await self.store.write("signers/one", encode(self._report(current, now)))

    def _report(self, current: Current, now: float) -> SignerReport:
        def authority(ca: pki.Authority, name: str) -> AuthorityReport:
            return AuthorityReport(
                name=name,
                kind="local",
                state="ready",
                sha256=ca.certificate.sha256,
                subject=ca.certificate.subject,
                not_after=ca.certificate.not_after.timestamp(),
                chain_pem=ca.chain_pem.decode(),
            )

        return SignerReport(
            replica="one",
            started=now,
            updated=now,
            heartbeat=2.0,
            ready=True,
            address=f"127.0.0.1:{self.world.listener.port}",
            serving_pem=self.world.listener.chain_pem,
            generation=current.number,
            authority=authority(self.old, "a"),
            successor=authority(self.new, "b"),
            rotation=self.directives.rotation,
            directives=self.directives.state,
            clusters={
                name: SignerClusterReport(state="ready", workloads=workloads)
                for name, workloads in self.workloads.items()
            },
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Signer]:
        async def keep() -> None:
            while True:
                with contextlib.suppress(StateUnavailable):  # as a signer does where the disk is slow
                    await self.step()
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(keep())
            yield self
            task.cancel()


def prepare(world: World) -> Signer:
    """Short leaves, short soak, nothing from before the hub, and a successor under a staged root."""
    world.staged = [root("b")]
    world.anchor_file(root("b")).write_bytes(root("b").pem)
    world.successor = intermediate("b")
    world.rotation = {"soak": 0.3, "skew": 0.2, "fresh": 20, "waves": 2}
    world.proof_interval = 0.5
    world.listener.lifetime = timedelta(seconds=30)
    for name in world.clusters:
        world.extra[name] = {
            "earlier_longest_ttl": 0,
            "policy": {"longest_ttl": 60, "default_ttl": 60},
            "timeouts": {"watch_silence": 3},  # lists anew so often: read-backs of a quiet cluster stay fresh
        }
    world.write_config()
    return Signer(world, intermediate(), intermediate("b"))


async def record_of(world: World) -> RotationRecord:
    stored = await world.store.read(ROTATION)
    return decode(stored.data, RotationRecord, key=ROTATION) if stored else RotationRecord()


async def until_state(world: World, state: State, *, limit: float = PATIENCE) -> Rotation:
    seen: RotationRecord = RotationRecord()
    try:
        async with asyncio.timeout(limit):
            while True:
                seen = await record_of(world)
                if seen.rotation is not None and seen.rotation.state is state:
                    return seen.rotation
                await asyncio.sleep(0.05)
    except TimeoutError:
        report = await world.report()
        raise AssertionError(
            f"not {state} in {limit:g} s; {seen.rotation}\n{report.rotation if report else None}"
        ) from None


async def operate(world: World, verb: str, **arguments: str) -> Operation:
    desk = OperationDesk(world.store, clock=world.clock, random_bytes=os.urandom, mac=SEAL)
    return await desk.submit(verb, arguments, requester=OPERATOR)


async def advance(world: World) -> None:
    """Advance once: on a loaded machine a gate that was seen open may be shut again for a moment."""
    async with asyncio.timeout(PATIENCE):
        while (asked := await operate(world, "advance")).outcome != "done":
            assert "cannot leave" in asked.detail, asked
            await asyncio.sleep(0.2)


def anchors_observed(world: World, cluster: str) -> int:
    return (world.observed(cluster, "default") or "").count("BEGIN CERTIFICATE")


async def test_a_whole_rotation_goes_through_every_state_and_removes_the_old_root(two: World) -> None:
    signer = prepare(two)
    async with signer.running(), two.controller():
        await two.published()
        assert anchors_observed(two, "east") == 1, "a staged root is not published by itself"
        await two.until(lambda r: r.matrix.valid == 2)
        started = await operate(two, "start", reason="yearly")
        assert started.outcome == "done", started
        refused = await operate(two, "start")
        assert (refused.outcome, "under way" in refused.detail) == ("refused", True)
        ended = await until_state(two, State.RETIRED)
        await two.until(lambda r: r.matrix.valid == 2)
    states = [step.after.value for step in ended.history]
    assert states == [
        "STAGED",
        "PUBLISHING",
        "SOAKED",
        "CANARY",
        "ACTIVE",
        "UNPUBLISHING",
        "UNPUBLISHING",
        "RETIRED",
    ]
    assert all(step.evidence for step in ended.history[1:])
    for cluster in two.clusters:
        assert two.observed(cluster, "default") == root("b").pem.decode()
    record = await record_of(two)
    assert record.retired == [root().certificate.sha256]


async def test_a_rotation_does_not_go_past_active_where_workloads_stopped_renewing(two: World) -> None:
    """No leaf needs the old root, every namespace holds both, and each pair of probes validates."""
    signer = prepare(two)
    two.rotation["automatic"] = False
    two.write_config()
    async with signer.running(), two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        assert (await operate(two, "start")).outcome == "done"
        for state in ("STAGED", "PUBLISHING", "SOAKED", "CANARY"):
            await two.until(lambda r, state=state: r.rotation.open and r.rotation.state == state)  # type: ignore[misc]
            await advance(two)
        signer.workloads["west"] = CUT_OFF

        def waits_for_west_alone(report: ControllerReport) -> bool:
            unmet = {(c.name, c.cluster) for c in report.rotation.conditions if not c.met}
            return report.rotation.state == "ACTIVE" and unmet == {("alive", "west")}

        await two.until(waits_for_west_alone)
        async with asyncio.timeout(PATIENCE):
            while (
                "0 of 3 workloads hold a certificate" not in (refused := await operate(two, "advance")).detail
            ):
                assert refused.outcome == "refused", refused
        assert refused.outcome == "refused"
        assert anchors_observed(two, "west") == 2
        signer.workloads["west"] = RENEWING
        await two.until(lambda r: r.rotation.open)
        await advance(two)
        await until_state(two, State.UNPUBLISHING)


async def test_a_removal_that_is_deferred_is_not_reported_as_done(two: World) -> None:
    signer = prepare(two)
    two.rotation["automatic"] = False
    two.write_config()
    async with signer.running(), two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        await operate(two, "start")
        for state in ("STAGED", "PUBLISHING", "SOAKED", "CANARY"):
            await two.until(lambda r, state=state: r.rotation.open and r.rotation.state == state)  # type: ignore[misc]
            await advance(two)
        await two.until(lambda r: r.rotation.open and r.rotation.state == "ACTIVE")
        two.staged, two.anchors, pins = [], [root()], [root(), root("b")]
        # The new root's pin is taken out: the bundle stays as it is, and no step leads to that root.
        two.write_config()

        def waits(report: ControllerReport) -> bool:
            return any(
                c.name == "enacted" and "no longer pins" in c.detail for c in report.rotation.conditions
            )

        await two.until(waits)
        refused = await operate(two, "advance")
        assert (refused.outcome, "no longer pins" in refused.detail) == ("refused", True)
        assert anchors_observed(two, "west") == 2
        two.anchors = pins
        two.write_config()
        async with asyncio.timeout(PATIENCE):
            while (await record_of(two)).under_way is not None:
                await operate(two, "advance")
        await until_state(two, State.RETIRED)
    assert two.observed("west", "default") == root("b").pem.decode()


async def test_the_next_controller_continues_a_rotation_where_the_last_one_ended(two: World) -> None:
    signer = prepare(two)
    two.rotation["automatic"] = False
    two.write_config()
    async with signer.running():
        async with two.controller():
            await two.until(lambda r: r.matrix.valid == 2)
            assert (await operate(two, "start")).outcome == "done"
            await advance(two)
            await until_state(two, State.PUBLISHING)
        async with two.controller("two"):
            await two.until(lambda r: anchors_observed(two, "west") == 2, replica="two")
            await two.until(lambda r: r.rotation.open, replica="two")
            await advance(two)
            await until_state(two, State.SOAKED)
            aborted = await operate(two, "abort", reason="changed our minds")
            assert aborted.outcome == "done"
            await until_state(two, State.ABORTING)
            await two.until(lambda r: r.rotation.open, replica="two")
            await advance(two)
            await two.until(lambda r: anchors_observed(two, "west") == 1, replica="two")
            await two.until(lambda r: r.rotation.open, replica="two")
            await advance(two)
            await until_state(two, State.STABLE)
    assert two.observed("east", "default") == root().pem.decode()


async def test_an_unreachable_cluster_blocks_until_it_is_quarantined_and_returns(two: World) -> None:
    signer = prepare(two)
    async with signer.running(), two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        await two.clusters["west"].stop()
        await two.until(lambda r: r.clusters["west"].state != "ready")
        assert (await operate(two, "start")).outcome == "done"
        await until_state(two, State.PUBLISHING)

        def blocked_by_west_alone(report: ControllerReport) -> bool:
            lacking = {c.cluster for c in report.rotation.conditions if not c.met and c.name == "read_back"}
            return report.rotation.state == "PUBLISHING" and lacking == {"west"}

        await two.until(blocked_by_west_alone)
        assert (await operate(two, "quarantine", cluster="west")).outcome == "refused", "it needs a reason"
        assert (await operate(two, "quarantine", cluster="west", reason="burnt down")).outcome == "done"
        await until_state(two, State.RETIRED)
        assert "west" in signer.directives.stopped
        await two.clusters["west"].start()
        assert (await operate(two, "release", cluster="west")).outcome == "done"
        async with asyncio.timeout(PATIENCE):
            while "west" in (await record_of(two)).quarantined:
                await asyncio.sleep(0.1)
        assert two.observed("west", "default") == root("b").pem.decode()


async def test_a_damaged_record_stops_the_rotation_and_nothing_else(two: World) -> None:
    signer = prepare(two)
    async with signer.running():
        async with two.controller():
            await two.published()
        await two.store.write(ROTATION, b"garbage")
        async with two.controller("two"):
            report = await two.until(lambda r: bool(r.rotation.problem), replica="two")
            assert "rotation" in report.rotation.problem
            await two.until(lambda r: r.matrix.valid == 2, replica="two")
            two.clusters["east"].create_namespace("later")
            async with asyncio.timeout(PATIENCE):
                while two.observed("east", "later") is None:
                    await asyncio.sleep(0.05)
