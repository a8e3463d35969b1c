"""What the leader does about a store that fails, forgets, or was written by another leader, one step at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from federation.controller.rotation.driver import IssuingRate, RotationDriver, Seen
from federation.controller.rotation.observer import Proved
from federation.controller.rotation.store import RotationStore
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.documents.controller import Matrix, Operation
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import DIRECTIVES, ROTATION
from federation.core.documents.signer import AuthorityReport, SignerReport
from federation.core.documents.trust import Current
from federation.core.errors import StateUnavailable
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import RotationRecord, Side, State
from federation.core.rotation.world import ClusterFacts
from federation.state.files import FileStore
from federation.state.store import StateConflict
from tests.controller.test_arrivals import CONFIG
from tests.controller.test_rotation import NEW, OLD, SAME_ROOT, rotation
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.seals import SEAL


@pytest.fixture
def config() -> HubConfig:
    return parse_config(CONFIG, file="clusters.toml")


class FailingStore(FileStore):
    """Writes below ``failing`` are lost; with ``answers_lost`` they are done, and only their answer is lost."""

    failing = "nothing"
    answers_lost = False

    async def write(self, key: str, data: bytes, *, expected: str | None = None, create: bool = False) -> str:
        if key.startswith(self.failing):
            if self.answers_lost:
                await super().write(key, data, expected=expected, create=create)
            raise StateUnavailable("the disk is full", where=key)
        return await super().write(key, data, expected=expected, create=create)


class Leading:
    """A leader's rotation over that store; nothing can be published, and it sees three clusters that hold nothing."""

    def __init__(self, store: FileStore, clock: VirtualClock, config: HubConfig) -> None:
        self.store, self.clock, self.config = store, clock, config
        self.driver = RotationDriver(store, clock, lambda: True, SEAL)
        self.seen = Seen(
            clusters=dict.fromkeys(["east", "west", "north"], ClusterFacts(anchors=frozenset())),
            proved=Proved(Matrix(), {}),
            roots=(),
            current=Current(number=0, sha256=""),
        )

    async def step(self) -> bool:
        async def enact() -> None:
            return

        return await self.driver.step(self.config, lambda: self.seen, enact)

    async def ask(self, verb: str, **arguments: str) -> None:
        now = self.clock.now().timestamp()
        operation = Operation(id=f"2026{verb}", verb=verb, author="test", asked=now, arguments=arguments)
        await self.store.write(f"operations/{operation.id}", encode(await SEAL.set(operation)), create=True)

    async def answer(self, verb: str) -> str:
        stored = await self.store.read(f"operations/2026{verb}")
        assert stored is not None
        return decode(stored.data, Operation, key=verb).outcome


@pytest.mark.parametrize("verb", ["quarantine", "takeover"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_an_operation_done_but_not_answered_is_answered_and_not_repeated(
    tmp_path: Path, config: HubConfig, verb: str, restarted: bool
) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading = Leading(store, clock, config)
    await leading.ask(verb, cluster="west", reason="burnt down")
    store.failing = "operations/"
    await leading.step()
    assert "disk is full" in leading.driver.report.problem
    store.failing = "nothing"
    await clock.advance(100.0)  # longer than an operation that no leader has read may wait
    if restarted:
        leading = Leading(store, clock, config)
    before = await store.read(ROTATION), await store.read("takeovers")
    await leading.step()
    assert await leading.answer(verb) == "done"
    assert (await store.read(ROTATION), await store.read("takeovers")) == before


async def test_a_write_whose_answer_is_lost_is_read_again(tmp_path: Path, config: HubConfig) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading = Leading(store, clock, config)
    await leading.ask("quarantine", cluster="west", reason="burnt down")
    store.failing, store.answers_lost = ROTATION, True
    await leading.step()
    assert leading.driver.record == RotationRecord()
    store.failing = "nothing"
    await leading.step()
    assert "west" in leading.driver.record.quarantined
    assert await leading.answer("quarantine") == "done"


async def test_a_soak_without_an_observer_starts_again(tmp_path: Path, config: HubConfig) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading = Leading(store, clock, config)
    await leading.step()
    now = clock.now().timestamp()
    await leading.driver.rotation_store.save(
        RotationRecord(rotation=rotation(since=now, conditions_met_since=now))
    )
    store.failing = DIRECTIVES
    await leading.step()
    await clock.advance(config.controller.rotation.fresh + 1.0)
    store.failing = "nothing"
    observed: list[float] = []

    async def enact() -> None:
        current = leading.driver.record.rotation
        observed.append(current.conditions_met_since if current is not None else -1.0)

    await leading.driver.step(config, lambda: leading.seen, enact)
    assert observed[0] == 0.0


async def recorded(tmp_path: Path) -> tuple[FileStore, RotationStore]:
    """A store with a rotation in ACTIVE and its directives."""
    store = FileStore(tmp_path, VirtualClock())
    rotation_store = RotationStore(store)
    await rotation_store.load()
    await rotation_store.save(RotationRecord(rotation=rotation(State.ACTIVE, number=2)))
    await rotation_store.issue_directives()
    return store, rotation_store


async def directives(store: FileStore) -> SigningDirectives:
    stored = await store.read(DIRECTIVES)
    assert stored is not None
    return decode(stored.data, SigningDirectives, key=DIRECTIVES)


async def test_a_record_that_is_gone_is_not_one_that_never_was(tmp_path: Path) -> None:
    store, rotation_store = await recorded(tmp_path)
    before = await directives(store)
    await store.delete(ROTATION)
    for leader in (rotation_store, RotationStore(store)):
        with pytest.raises(StateUnavailable, match="it is gone") as lost:
            await leader.load()
        assert "backup" in lost.value.remedy
    assert await directives(store) == before


async def test_a_record_older_than_its_directives_issues_none(tmp_path: Path) -> None:
    store, rotation_store = await recorded(tmp_path)
    await store.write(ROTATION, encode(changed(rotation_store.record, rotation=rotation(State.RETIRED))))
    with pytest.raises(StateUnavailable, match="an older one"):
        await RotationStore(store).load()
    assert (await directives(store)).rotation == 2


async def test_a_former_leader_that_wakes_up_writes_no_directives(tmp_path: Path) -> None:
    store, former = await recorded(tmp_path)
    leader = RotationStore(store)
    assert leader.record == RotationRecord()
    record = await leader.load()
    assert record.rotation is not None
    await leader.save(changed(record, rotation=changed(record.rotation, state=State.UNPUBLISHING)))
    await leader.issue_directives()
    with pytest.raises(StateConflict):
        await former.issue_directives()
    assert (await directives(store)).state == "UNPUBLISHING"
    await former.load()
    assert (await former.issue_directives()).state == "UNPUBLISHING"


async def test_directives_that_were_deleted_are_issued_again(tmp_path: Path, config: HubConfig) -> None:
    store, rotation_store = await recorded(tmp_path)
    given = await directives(store)
    leading = Leading(store, VirtualClock(), config)
    await leading.step()
    await store.delete(DIRECTIVES)
    await leading.step()
    await leading.step()
    assert await directives(store) == given
    assert rotation_store.record.rotation is not None


async def test_the_reason_for_an_unwritten_bundle_reaches_the_gates(
    tmp_path: Path, config: HubConfig
) -> None:
    store, _ = await recorded(tmp_path)
    leading = Leading(store, VirtualClock(), config)
    leading.seen = replace(leading.seen, unwritten="root.pem cannot be read")
    await leading.step()
    [condition] = [c for c in leading.driver.report.conditions if c.name == "enacted"]
    assert not condition.met
    assert condition.detail.endswith("is not known: root.pem cannot be read")


def test_a_lull_is_not_what_a_rotation_will_ask_for() -> None:
    rate = IssuingRate()
    assert rate.note(1000.0, 500) == 0.0
    assert rate.known_from == 1060.0
    for second in range(1, 301):
        found = rate.note(1000.0 + second, 500 + 20 * second)
    assert found == pytest.approx(20.0, rel=0.01)
    quiet = 500 + 20 * 300
    assert rate.note(1400.0, quiet) == found
    assert rate.note(1500.0, 10) == found, "a signer that ended takes its counter with it"
    assert rate.note(1500.0 + 3600.0, 10) < 1.0


def signer(now: float, successor: pki.Authority, **changes: object) -> SignerReport:
    def reported(authority: pki.Authority, **changes: object) -> AuthorityReport:
        return AuthorityReport(
            name="next",
            kind="local",
            state="ready",
            sha256=authority.certificate.sha256,
            chain_pem=authority.chain_pem.decode(),
            **changes,  # type: ignore[arg-type]
        )

    return SignerReport(
        replica="one",
        started=now,
        updated=now,
        heartbeat=1e6,
        ready=True,
        authority=reported(OLD),
        successor=reported(successor, **changes),
    )


async def test_the_new_side_is_what_the_rotation_is_to_and_not_what_is_configured_now(
    tmp_path: Path, config: HubConfig
) -> None:
    clock = VirtualClock()
    now, store = clock.now().timestamp(), FileStore(tmp_path, clock)
    leading = Leading(store, clock, config)
    leading.seen = replace(leading.seen, roots=(OLD.root, NEW.root))
    rotation_store = RotationStore(store)
    await rotation_store.load()
    new = Side(root=NEW.root.sha256, intermediate=NEW.certificate.sha256)
    await rotation_store.save(RotationRecord(rotation=rotation(State.STAGED, new=new, automatic=False)))
    for successor, reported in ((NEW, ""), (SAME_ROOT, "another [signer.successor] than rotation 1")):
        await store.write("signers/one", encode(signer(now, successor, quota=20.0)))
        await leading.step()
        found = {c.name: c for c in leading.driver.report.conditions}
        assert found["validated"].met == (not reported)
        assert reported in found["validated"].detail
        assert (found["capacity"].met, found["capacity"].until) == (False, now + 60.0)


async def test_at_rest_all_clusters_are_looked_at_twice_a_step(tmp_path: Path, config: HubConfig) -> None:
    """Once before effects are written and once after; each look puts the facts of every cluster together."""
    leading, looks = Leading(FailingStore(tmp_path, VirtualClock()), VirtualClock(), config), 0

    def see() -> Seen:
        nonlocal looks
        looks += 1
        return leading.seen

    async def enact() -> None:
        return

    await leading.step()
    assert not await leading.driver.step(config, see, enact)
    assert looks == 2
