"""State that is set back or restored recovers, and the setback is reported: when, what was found, what the hub did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace as replace_struct

from federation.controller.publication.config_map import ObservedConfigMap, Target
from federation.controller.publication.joining import MemberFacts
from federation.controller.publication.namespace_count import ReadBack
from federation.controller.rotation.observer import ahead_of, met_of, others_of
from federation.controller.rotation.store import RotationStore
from federation.core.config.hub import HubConfig, PublicationConfig
from federation.core.config.load import parse_config
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import CURRENT, DIRECTIVES, ROTATION, generation_key
from federation.core.documents.signer import SignerReport
from federation.core.documents.trust import Current, Generation
from federation.core.errors import NotReady, StateUnavailable
from federation.core.identity import NUMBER, HubIdentity, number_in
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import Rotation, RotationRecord, Setback, Side, State
from federation.core.rotation.world import ClusterFacts
from federation.signer.authorities.selection import require_served
from federation.state.files import FileStore
from tests.controller.test_arrivals import CONFIG
from tests.controller.test_rotation_driver import FailingStore, Leading
from tests.controller.test_trust_sources import configured, sources
from tests.controller.test_two_hubs import FIRST, HUB, MINE, OWN, Case, generation
from tests.controller.world import root
from tests.support import pki
from tests.support.clock import VirtualClock


@pytest.fixture
def config() -> HubConfig:
    return parse_config(CONFIG, file="clusters.toml")


async def current(store: FileStore) -> Current:
    stored = await store.read(CURRENT)
    assert stored is not None
    return decode(stored.data, Current, key=CURRENT)


async def observed(store: FileStore) -> set[str]:
    number = (await current(store)).number
    stored = await store.read(generation_key(number))
    assert stored is not None
    return {a.sha256 for a in decode(stored.data, Generation, key="generation").anchors}


async def test_current_is_set_back_under_a_leader(tmp_path: Path) -> None:
    """The newer generation's root is not lost with it, and its number is not used again."""
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    made, _ = sources(store, clock)
    assert await made.update(configured(tmp_path, "a"), RotationRecord())
    older = await store.read(CURRENT)
    assert older is not None
    assert await made.update(configured(tmp_path, "a", "b"), RotationRecord())
    assert made.setbacks == []
    await store.write(CURRENT, older.data)
    assert await made.update(configured(tmp_path, "a"), RotationRecord()), (
        "the pin of the second is gone as well"
    )
    assert (await current(store)).number == 3
    assert await observed(store) == {root("a").certificate.sha256, root("b").certificate.sha256}
    (found,) = made.setbacks
    assert (found.at, "generation 1 " in found.what) == (clock.now().timestamp(), True)
    assert found.done
    await made.update(configured(tmp_path, "a"), RotationRecord())
    assert len(made.setbacks) == 1


async def test_current_is_set_back_while_no_controller_leads(tmp_path: Path) -> None:
    """A leader that begins knows it from the signers alone."""
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    before, _ = sources(store, clock)
    await before.update(configured(tmp_path, "a"), RotationRecord())
    older = await store.read(CURRENT)
    assert older is not None
    await before.update(configured(tmp_path, "a", "b"), RotationRecord())
    await store.write(CURRENT, older.data)
    later, trust = sources(store, clock)
    assert await later.update(configured(tmp_path, "a"), RotationRecord())
    assert (trust.number, later.setbacks) == (1, [])
    trust.delivered = 2
    assert await later.update(configured(tmp_path, "a"), RotationRecord())
    assert await observed(store) == {root("a").certificate.sha256, root("b").certificate.sha256}
    assert ((await current(store)).number, len(later.setbacks)) == (3, 1)


@pytest.mark.parametrize("led", [True, False], ids=["under a leader", "without a leader"])
async def test_no_number_is_used_again_after_a_restored_backup(tmp_path: Path, led: bool) -> None:
    """The later generation is gone with what named it: its number is known to the leader, or to signers."""
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    made, trust = sources(store, clock)
    await made.update(configured(tmp_path, "a"), RotationRecord())
    older = await store.read(CURRENT)
    assert older is not None
    await made.update(configured(tmp_path, "a", "b"), RotationRecord())
    await store.write(CURRENT, older.data)
    await store.delete(generation_key(2))
    if not led:
        made, trust = sources(store, clock)
        trust.delivered = 2
    assert await made.update(configured(tmp_path, "a", "b"), RotationRecord())
    assert ((await current(store)).number, trust.number) == (3, 3)
    assert await observed(store) == {root("a").certificate.sha256, root("b").certificate.sha256}


async def test_a_setback_that_cannot_be_healed_yet_is_noted_once(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    made, _ = sources(store, clock)
    await made.update(configured(tmp_path, "a"), RotationRecord())
    older = await store.read(CURRENT)
    assert older is not None
    await made.update(configured(tmp_path, "a", "b"), RotationRecord())
    await store.write(CURRENT, older.data)
    for _ in range(3):
        assert not await made.update(configured(tmp_path, "a", "b"), None), "the record cannot be read"
    assert ((await current(store)).number, len(made.setbacks)) == (1, 1)


def removing(old: Side, new: Side) -> RotationRecord:
    """The record of a rotation that removes the old root in waves; that of ``west`` has not come."""
    return RotationRecord(
        rotation=Rotation(
            number=1,
            trust_domain="mesh.example",
            old=old,
            new=new,
            author="test",
            reason="test",
            state=State.UNPUBLISHING,
            since=0.0,
            automatic=False,
            soak=1.0,
            waves=[["east"], ["west"]],
            wave=1,
        )
    )


@pytest.mark.parametrize("gone", [False, True], ids=["no longer named", "gone"])
async def test_who_waits_for_a_wave_is_not_given_what_was_set_back_to(tmp_path: Path, gone: bool) -> None:
    """It lacks the new root, and others sign under that: the cluster keeps what it was given before."""
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    made, trust = sources(store, clock)
    await made.update(configured(tmp_path, "a"), RotationRecord())
    older = await store.read(CURRENT)
    assert older is not None
    both = configured(tmp_path, "a", "b")
    await made.update(both, RotationRecord())
    old, new = (
        Side(intermediate=name * 32, root=root(name).certificate.sha256, subject=name) for name in ("a", "b")
    )
    await made.update(both, removing(old, new))
    assert (await current(store)).behind == {"west": 2}
    await store.write(CURRENT, older.data)
    if gone:
        await store.delete(generation_key(2))
        await store.delete(generation_key(3))
    assert await made.update(both, removing(old, new))
    now = await current(store)
    assert (now.number, now.behind) == (4, {"west": 2})
    assert trust.current == now
    given = trust.for_cluster("west")
    assert given is not None
    assert {anchor.sha256 for anchor in given.anchors} == {old.root, new.root}
    stored = await store.read(generation_key(2))
    assert stored is not None
    assert decode(stored.data, Generation, key="generation") == given


async def test_who_waits_for_a_wave_gets_from_a_new_leader_what_signers_deliver(tmp_path: Path) -> None:
    """It does not know who was given what: the removal comes there early, and nothing that was set back to."""
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    before, _ = sources(store, clock)
    await before.update(configured(tmp_path, "a"), RotationRecord())
    older = await store.read(CURRENT)
    assert older is not None
    both = configured(tmp_path, "a", "b")
    await before.update(both, RotationRecord())
    old, new = (
        Side(intermediate=name * 32, root=root(name).certificate.sha256, subject=name) for name in ("a", "b")
    )
    await before.update(both, removing(old, new))
    await store.write(CURRENT, older.data)
    later, trust = sources(store, clock)
    trust.delivered = 3
    assert await later.update(both, removing(old, new))
    now = await current(store)
    assert (now.number, now.behind) == (4, {"west": 3})
    given = trust.for_cluster("west")
    assert given is not None
    assert {anchor.sha256 for anchor in given.anchors} == {new.root}


async def test_setbacks_are_in_the_record(tmp_path: Path, config: HubConfig) -> None:
    """Each once, so that status reports it under any leader."""
    clock = VirtualClock()
    leading = Leading(FailingStore(tmp_path, clock), clock, config)
    found = Setback(at=clock.now().timestamp(), what="generation 1 was found", done="a new one is made")
    leading.seen = replace(leading.seen, setbacks=[found])
    await leading.step()
    await leading.step()
    assert leading.driver.record.setbacks == [found]
    later = replace_struct(found, at=found.at + 1)
    leading.seen = replace(leading.seen, setbacks=[found, later])
    await leading.step()
    assert leading.driver.record.setbacks == [found, later]


async def test_a_state_of_another_mesh_that_is_put_under_a_leader_is_left_alone(tmp_path: Path) -> None:
    """Its generation is of another trust domain: nothing is taken from it, and nothing is written over it."""
    clock = VirtualClock()
    store = FailingStore(tmp_path / "state", clock)
    made, trust = sources(store, clock)
    await made.update(configured(tmp_path, "a"), RotationRecord())
    stored = await store.read(generation_key(1))
    assert stored is not None
    foreign = replace_struct(
        decode(stored.data, Generation, key="generation"), number=2, trust_domain="elsewhere.example"
    )
    await store.write(generation_key(2), encode(foreign), create=True)
    await store.write(CURRENT, encode(Current(number=2, sha256=foreign.sha256)))
    before = {key: await store.read(key) for key in await store.keys("")}
    assert not await made.update(configured(tmp_path, "a", "b"), RotationRecord())
    assert {key: await store.read(key) for key in await store.keys("")} == before
    assert trust.number == 1
    assert made.unwritten is not None
    assert "elsewhere.example" in made.unwritten


async def test_signers_that_use_a_later_generation_are_believed_at_the_second_look(
    tmp_path: Path, config: HubConfig
) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading = Leading(store, clock, config)

    async def reports(generation: int) -> None:
        report = SignerReport(
            replica="one",
            started=0.0,
            updated=clock.now().timestamp(),
            heartbeat=60.0,
            ready=True,
            generation=generation,
        )
        await store.write("signers/one", encode(report))

    leading.seen = replace(leading.seen, current=Current(number=3, sha256=""))
    await reports(7)
    await leading.step()
    assert leading.driver.delivered == 0
    await leading.step()
    assert leading.driver.delivered == 7
    await reports(10**11)
    await leading.step()
    await leading.step()
    assert leading.driver.delivered == 0, "a signer that lies does not use up all numbers"


async def recorded(store: FileStore, clock: VirtualClock, config: HubConfig) -> tuple[Leading, bytes]:
    """A leader whose record has moved on, and the record before."""
    leading = Leading(store, clock, config)
    await leading.ask("quarantine", cluster="west", reason="burnt down")
    await leading.step()
    older = await store.read(ROTATION)
    assert older is not None
    await leading.ask("release", cluster="west")
    await leading.step()
    return leading, older.data


async def test_a_record_that_is_set_back_under_a_leader_is_written_again(
    tmp_path: Path, config: HubConfig
) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading, older = await recorded(store, clock, config)
    known = leading.driver.record
    await store.write(ROTATION, older)
    await leading.step()
    record = leading.driver.record
    assert msgspec.structs.replace(record, setbacks=[], revision=known.revision) == known
    (found,) = record.setbacks
    assert (found.at, "set back" in found.what) == (clock.now().timestamp(), True)
    assert found.done
    stored = await store.read(ROTATION)
    assert stored is not None
    assert decode(stored.data, RotationRecord, key=ROTATION) == record


async def test_a_record_older_than_the_directives_does_not_advance(tmp_path: Path, config: HubConfig) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    _, older = await recorded(store, clock, config)
    await store.write(ROTATION, older)
    with pytest.raises(StateUnavailable, match="revision"):
        await RotationStore(store).load()
    assert await store.read(DIRECTIVES) is not None


async def test_a_record_of_an_earlier_release_is_read(tmp_path: Path, config: HubConfig) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading, _ = await recorded(store, clock, config)
    uncounted = msgspec.structs.replace(leading.driver.record, revision=0)
    await store.write(ROTATION, encode(uncounted))
    assert await RotationStore(store).load() == uncounted
    await leading.step()
    assert leading.driver.record.setbacks == []


LATER, KNOWN = pki.root("published later"), pki.root("known to the state")


def cluster(*, hub: HubIdentity = HUB, joined: bool = True) -> Case:
    """One in which this hub had published everywhere, by a state that knows one generation."""
    return Case(hub=hub, joined=joined)


def published(case: Case, pem: bytes, number: int, *, hub: str = OWN) -> ObservedConfigMap:
    return msgspec.structs.replace(case.observed(pem, hub), generation=number)


def test_a_cluster_with_a_later_generation_than_the_state_is_left_unchanged() -> None:
    """A state that was restored as a whole remembers nothing of what was published since; the members do."""
    case = cluster()
    later = published(case, LATER.pem, 3)
    for namespace in ("shop", FIRST):
        case.show(namespace, later)
    assert case.joining.ahead == 3
    assert case.joining.stays("shop", later)
    assert case.joining.stays("new", None)
    health = case.joining.health({later.sha256})
    assert (health.reason, "generation 3" in health.detail, OWN in health.remedy) == (
        "state_older",
        True,
        True,
    )
    case.joining.complete(ReadBack(selected=2, current=2))
    assert case.joining.ahead == 3, "nothing is complete while it is left"


@pytest.mark.parametrize(
    ("other", "number", "hub"),
    [(LATER, 0, OWN), (LATER, 1, OWN), (MINE, 3, OWN), (MINE, 0, "")],
    ids=["no number", "a number that is known", "known content", "known content without a mark"],
)
def test_one_object_alone_does_not_make_a_cluster_ahead_of_the_state(
    other: pki.Authority, number: int, hub: str
) -> None:
    case = cluster()
    case.show("shop", published(case, LATER.pem, 10**9))
    assert case.joining.ahead, "as far as is seen until now"
    case.show(FIRST, published(case, other.pem, number, hub=hub))
    assert case.joining.ahead == 0
    assert not case.joining.stays("shop", published(case, LATER.pem, 10**9))


def test_a_later_number_is_an_edit_once_known_content_was_seen() -> None:
    case = cluster()
    case.show(FIRST, published(case, MINE.pem, 1))
    for namespace in ("shop", FIRST):
        case.show(namespace, published(case, LATER.pem, 3))
    assert case.joining.ahead == 0


def test_an_interrupted_publication_is_recognised_by_the_first_namespace_and_another() -> None:
    """Or one that some namespace refused: it holds what the state knows, and proves nothing for the others."""
    case = cluster()
    case.show("refuses", published(case, MINE.pem, 1))
    case.show(FIRST, published(case, LATER.pem, 4))
    assert case.joining.ahead == 0, "one writer of one object, be it istiod's"
    case.show("shop", published(case, LATER.pem, 3))
    assert case.joining.ahead == 4
    assert case.joining.stays("refuses", published(case, MINE.pem, 1))
    case.show(FIRST, published(case, MINE.pem, 1))
    case.show(FIRST, published(case, LATER.pem, 4))
    assert case.joining.ahead == 0, "what it knows was seen in the first one: the rest is an edit"


def test_other_namespaces_alone_do_not_make_a_cluster_ahead_of_the_state() -> None:
    case = cluster()
    case.show(FIRST, published(case, MINE.pem, 1))
    for namespace in ("shop", "bank", "stall"):
        case.show(namespace, published(case, LATER.pem, 3))
    assert case.joining.ahead == 0


def test_adopting_the_hubs_own_identity_accepts_the_state_as_it_is() -> None:
    case = cluster(hub=HubIdentity(OWN, frozenset({OWN})))
    case.show(FIRST, published(case, LATER.pem, 3))
    assert case.joining.ahead == 0


def test_a_generation_is_written_with_its_number_and_read_back_within_bounds() -> None:
    body = msgspec.json.decode(Target.of(generation(MINE.pem.decode()), PublicationConfig(), HUB).body)
    assert number_in(body["metadata"]["annotations"]) == 1
    for text in ("", "-1", "1" * 13, "1e3", "\u0661", 7, None):
        assert number_in({NUMBER: text}) == 0
    assert number_in({NUMBER: "9" * 12}) == 10**12 - 1


async def test_nothing_is_issued_in_a_cluster_ahead_of_the_state_also_after_a_restart(
    tmp_path: Path, config: HubConfig
) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    rotation_store = RotationStore(store)
    await rotation_store.load()
    rotation_store.ahead = {"west": 3}
    directives = await rotation_store.issue_directives()
    with pytest.raises(NotReady, match="set back") as refused:
        require_served(directives, "west")
    assert refused.value.reason == "state_older"
    require_served(directives, "east")
    again = RotationStore(store)
    await again.load()
    assert again.ahead == {"west": 3}

    unknown, healed = MemberFacts(anchors=None, ahead=None), MemberFacts(anchors=frozenset(), ahead=0)
    assert ahead_of({"west": unknown}, again.ahead) == {"west": 3}
    assert ahead_of({"west": ClusterFacts(anchors=None)}, again.ahead) == {"west": 3}
    assert ahead_of({"west": healed, "east": MemberFacts(anchors=None, ahead=4)}, again.ahead) == {"east": 4}
    again.ahead = {}
    assert await again.issue_directives() == SigningDirectives()


async def test_nothing_is_issued_where_another_hub_publishes_also_after_a_restart(
    tmp_path: Path, config: HubConfig
) -> None:
    store = FailingStore(tmp_path, VirtualClock())
    rotation_store = RotationStore(store)
    await rotation_store.load()
    rotation_store.others = {"west": "f" * 32}
    directives = await rotation_store.issue_directives()
    with pytest.raises(NotReady, match="another hub publishes there") as refused:
        require_served(directives, "west")
    assert refused.value.reason == "other_hub"
    require_served(directives, "east")
    again = RotationStore(store)
    await again.load()
    assert again.others == rotation_store.others

    unknown, own = MemberFacts(anchors=None, other=None), MemberFacts(anchors=frozenset(), other="")
    assert others_of({"west": unknown}, again.others) == again.others
    assert others_of({"west": ClusterFacts(anchors=None)}, again.others) == again.others
    assert others_of({"west": own, "east": MemberFacts(anchors=None, other="e" * 32)}, again.others) == {
        "east": "e" * 32
    }
    again.others = {}
    assert await again.issue_directives() == SigningDirectives()


async def test_with_a_fresh_state_nothing_is_issued_in_a_cluster_before_it_was_read(
    tmp_path: Path, config: HubConfig
) -> None:
    """It may be another hub's: one that has lost its state is another one."""
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading = Leading(store, clock, config)
    names = [str(cluster.name) for cluster in config.clusters]
    await leading.driver.withhold(names)
    for name in names:
        with pytest.raises(NotReady) as refused:
            require_served(await ordered(store), name)
        assert refused.value.reason == "cluster_unread"
    require_served(await ordered(store), "")  # the hub's own listener

    read = MemberFacts(anchors=frozenset(), ahead=0, other="")
    leading.seen = replace(
        leading.seen, clusters={"east": read, "west": ClusterFacts(anchors=None, detail="is unreachable")}
    )
    await leading.step()
    require_served(await ordered(store), "east")
    with pytest.raises(NotReady):
        require_served(await ordered(store), "west")

    again = Leading(store, clock, config)  # a restart: what was read before need not be read again
    await again.driver.withhold(names)
    again.seen = replace(leading.seen, clusters=dict.fromkeys(["east", "west"], ClusterFacts(anchors=None)))
    await again.step()
    require_served(await ordered(store), "east")
    with pytest.raises(NotReady):
        require_served(await ordered(store), "west")
    assert met_of({"west": read}, ["east", "west"]) == ["west"], "one that is removed starts over"


async def test_after_an_upgrade_no_cluster_waits(tmp_path: Path, config: HubConfig) -> None:
    clock = VirtualClock()
    store = FailingStore(tmp_path, clock)
    leading = Leading(store, clock, config)
    await (
        leading.step()
    )  # as an earlier release: it is recorded when each cluster was registered, and no more
    assert (await ordered(store)).met is None
    later = Leading(store, clock, config)
    await later.driver.withhold(["east", "west", "new"])
    directives = await ordered(store)
    for name in ("east", "west"):
        require_served(directives, name)
    with pytest.raises(NotReady):
        require_served(directives, "new")


async def ordered(store: FileStore) -> SigningDirectives:
    stored = await store.read(DIRECTIVES)
    return SigningDirectives() if stored is None else decode(stored.data, SigningDirectives, key=DIRECTIVES)
