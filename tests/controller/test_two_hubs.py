"""Objects of another hub, known by their mark: left alone until this hub has published everywhere, then restored."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.controller.in_force import TrustState
from federation.controller.publication.cluster_trust_bundle import BundleDecoder, BundleTarget
from federation.controller.publication.config_map import ConfigMapDecoder, Contents, ObservedConfigMap, Target
from federation.controller.publication.joining import CLAIM, CLAIM_LIMIT, Joining, JoiningMemory
from federation.controller.publication.publisher import CLAIM_AGAIN, QUIET, RIVAL_WAIT, Contention, Publisher
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.config.hub import PublicationConfig
from federation.core.documents.controller import HubRecord
from federation.core.documents.encoding import encode
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import ANNOTATION, NUMBER, ClusterName, HubIdentity, check_id, mark_in, new_id
from federation.kubernetes.objects import FIELD_MANAGER, ObjectKey, ObjectMeta
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.state.hub_identity import own_identity, read_identity
from tests.controller.world import World, eventually
from tests.support import pki
from tests.support.clock import VirtualClock

OWN, OTHER = "1" * 32, "2" * 32
HUB = HubIdentity(OWN)
MINE = pki.root("two hubs, mine")
THEIRS = pki.root("two hubs, theirs")
FIRST = "istio-system"


def generation(pem: str) -> Generation:
    return Generation(
        number=1,
        created=1.0,
        reason="test",
        author="test",
        trust_domain="mesh.example",
        sha256=hashlib.sha256(pem.encode()).hexdigest(),
        bundle_pem=pem,
        anchors=[],
    )


@dataclass
class Case:
    """A cluster that this hub has not published to yet."""

    hub: HubIdentity = HUB
    joined: bool = False
    replaces: bool = False
    exists: Callable[[str], bool] = lambda _: True
    clock: VirtualClock = field(default_factory=VirtualClock)

    def __post_init__(self) -> None:
        self.contents = Contents()
        trust = TrustState()
        trust.adopt(generation(MINE.pem.decode()))
        self.joining = Joining(
            "east",
            replaces=self.replaces,
            contents=self.contents,
            trust=trust,
            remembered=lambda _: JoiningMemory(joined=self.joined),
            clock=self.clock,
            hub=self.hub,
            first=[FIRST],
            exists=self.exists,
        )

    def observed(self, pem: bytes, hub: str = "", *, ours: bool = True) -> ObservedConfigMap:
        return ObservedConfigMap(self.contents.note(pem.decode()), labelled=True, ours=ours, hub=hub)

    def show(self, namespace: str, observed: ObservedConfigMap | None) -> None:
        self.joining.notice(namespace, observed)


@pytest.mark.parametrize("replaces", [False, True])
def test_one_mark_of_another_hub_holds_the_whole_cluster(replaces: bool) -> None:
    case = Case(replaces=replaces)
    case.show("shop", case.observed(THEIRS.pem, OTHER))
    assert case.joining.other_hub == OTHER
    for namespace, observed in (("shop", case.observed(THEIRS.pem, OTHER)), ("bank", None), (FIRST, None)):
        assert case.joining.stays(namespace, observed)
    health = case.joining.health({case.observed(THEIRS.pem).sha256})
    assert (health.reason, OTHER in health.detail, OTHER in health.remedy) == ("other_hub", True, True)
    case.show("shop", None)
    assert not case.joining.other_hub


@pytest.mark.parametrize("mark", ["", "theirs", "\x1b[2J"])
def test_a_mark_that_is_no_identity_can_be_removed_and_not_adopted(mark: str) -> None:
    """With an empty one the claim of the first namespace met a conflict for ever, and the others waited in silence."""
    case = Case()
    read = mark_in({ANNOTATION: mark})
    case.show(FIRST, case.observed(THEIRS.pem, read))
    assert case.joining.stays("shop", None)
    assert not case.joining.must_claim(FIRST, case.observed(THEIRS.pem, read))
    health = case.joining.health({case.observed(THEIRS.pem).sha256})
    assert health.reason == "other_hub"
    assert f"metadata.name=istio-ca-root-cert {ANNOTATION}-" in health.remedy
    assert "adopt_hubs" not in health.remedy
    assert health.detail.isprintable()
    case.show(FIRST, case.observed(THEIRS.pem, mark_in({})))
    assert not case.joining.other_hub


def test_another_hub_with_the_very_same_bundle_holds_nothing_back() -> None:
    """A hub that is started over an empty state finds what its forerunner wrote: what either signs is trusted there."""
    case = Case()
    case.show("shop", case.observed(MINE.pem, OTHER))
    assert not case.joining.other_hub
    case.show("shop", case.observed(THEIRS.pem, OTHER))
    assert case.joining.other_hub == OTHER


def test_once_published_everywhere_a_mark_is_an_edit() -> None:
    """A writer of one ConfigMap can write any mark, and must not keep an anchor in it by that."""
    case = Case(joined=True)
    case.show("shop", case.observed(THEIRS.pem, OTHER))
    case.show(FIRST, case.observed(THEIRS.pem, OTHER))
    assert not case.joining.other_hub
    assert not case.joining.stays("shop", case.observed(THEIRS.pem, OTHER))


def test_objects_of_an_adopted_hub_are_taken_over_but_not_its_roots() -> None:
    case = Case(hub=HubIdentity(OWN, frozenset({OTHER})))
    case.show("shop", case.observed(THEIRS.pem, OTHER))
    assert not case.joining.other_hub
    assert case.joining.keeps("shop", case.observed(THEIRS.pem, OTHER)), "hold means hold"
    assert not case.joining.keeps("shop", case.observed(MINE.pem, OTHER))


def test_unmarked_content_counts_as_this_hubs_only_if_this_hub_published_it() -> None:
    case = Case()
    assert case.joining.keeps("shop", case.observed(THEIRS.pem)), "a field manager's name proves nothing"
    assert not case.joining.keeps("shop", case.observed(MINE.pem))


async def test_the_other_namespaces_wait_until_the_mark_has_stood() -> None:
    case = Case()
    assert case.joining.stays("shop", None)
    assert not case.joining.stays(FIRST, None)
    case.show(FIRST, case.observed(MINE.pem, OWN))
    assert case.joining.stays("shop", None)
    await case.clock.advance(CLAIM)
    assert not case.joining.stays("shop", None)
    case.show(FIRST, case.observed(THEIRS.pem, OTHER))
    assert case.joining.stays("shop", None), "the other one wrote last"


async def test_what_waited_for_the_mark_is_looked_at_again_once_however_short_the_wait_was() -> None:
    case = Case()
    assert not case.joining.released(), "nothing has waited"
    assert case.joining.stays("shop", None)
    assert not case.joining.released(), "it waits"
    case.show(FIRST, case.observed(MINE.pem, OWN))
    await case.clock.advance(CLAIM)
    assert case.joining.released()
    assert not case.joining.released(), "once"


async def test_a_namespace_that_refuses_the_first_write_holds_up_no_other_for_long() -> None:
    case = Case()
    assert case.joining.stays("shop", None)
    await case.clock.advance(CLAIM_LIMIT)
    assert not case.joining.stays("shop", None)
    assert case.joining.must_claim(FIRST, None), "the mark has to be won there all the same"
    case.joining.claim_lost()
    assert case.joining.stays("shop", None), "another hub has won it, and the watch has not shown it yet"
    assert not Case(exists=lambda _: False).joining.stays("shop", None), "there is no such namespace"
    assert not Case(joined=True).joining.stays("shop", None)
    assert not Case(hub=HubIdentity()).joining.stays("shop", None)


class NothingSeen:
    """What a hub sees whose watch is behind: namespaces, and nothing in them."""

    synced = True
    namespaces: Mapping[ObjectKey, ObjectMeta] = {ObjectKey("", FIRST): ObjectMeta("", FIRST, b"")}

    def observed_in(self, namespace: str) -> None:
        return None


async def test_of_two_that_see_no_mark_one_alone_writes(one: World) -> None:
    """However late the watch of one is: the API server decides, not the time."""
    view: Any = NothingSeen()
    credentials = Credentials(kubeconfig=one.directory / "east.kubeconfig")
    timeouts, clock = ClusterTimeouts(), SystemClock()
    publishers = []
    async with AsyncExitStack() as stack:
        for number, (hub, authority) in enumerate(((HUB, MINE), (HubIdentity(OTHER), THEIRS))):
            session = await ClusterSession.open(
                credentials, cluster=ClusterName("east"), timeouts=timeouts, clock=clock, connections=2
            )
            stack.push_async_callback(session.close)
            publisher = Publisher(
                session,
                view,
                excluded=(),
                concurrency=2,
                timeouts=timeouts,
                clock=clock,
                jitter=random.Random(number),
                allowed=lambda: True,
                stays=lambda _namespace, _observed: False,
                joins=lambda: False,
                must_claim=lambda namespace, _: namespace == FIRST,
            )
            publisher.aim(Target.of(generation(authority.pem.decode()), PublicationConfig(), hub))
            publishers.append(publisher)
        tasks = [asyncio.create_task(publisher.run()) for publisher in publishers]
        await eventually(lambda: any(publisher.tally.writes for publisher in publishers))
        await asyncio.sleep(2 * CLAIM_AGAIN)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(bool(publisher.tally.writes) for publisher in publishers) == [False, True]
    assert not any(publisher.tally.failed for publisher in publishers)
    (writer,) = (each for each in publishers if each.tally.writes)
    assert writer.target is not None
    assert one.observed("east", FIRST) == (MINE if writer.target.hub == HUB else THEIRS).pem.decode()


def test_a_rival_is_answered_once_and_then_ever_more_slowly() -> None:
    """Every answer of the other hub comes at once, in every namespace."""
    contention, now, writes = Contention(), 0.0, 0
    namespaces = [f"n{number}" for number in range(20)]
    while now < 3600:
        for namespace in namespaces:
            contention.strike(namespace, now, rival=OTHER)
        wait = max(contention.wait(namespace, now) for namespace in namespaces)
        assert {contention.wait(namespace, now) for namespace in namespaces} == {wait}
        writes += len(namespaces)
        now += wait + 0.1
        assert contention.rival(now) == OTHER
    assert writes <= 17 * len(namespaces)
    assert not contention.contested(now), "it is the other hub, not twenty fights"
    assert contention.rival(now + QUIET + 1) == ""
    assert contention.wait("n1", now + QUIET + 1) == 0


def test_the_first_minute_of_a_fight_costs_three_rounds() -> None:
    contention = Contention()
    contention.strike("a", 0.0, rival=OTHER)
    assert contention.wait("a", 0.0) == 0
    contention.strike("a", 1.0, rival=OTHER)
    contention.strike("b", 1.5, rival=OTHER)
    assert contention.wait("a", 1.0) == RIVAL_WAIT
    assert contention.wait("b", 1.5) == pytest.approx(RIVAL_WAIT - 0.5)
    contention.strike("c", 2.0)
    assert contention.wait("c", 2.0) == 0, "an edit by hand is another matter"


def test_every_object_bears_the_mark_and_is_read_with_it() -> None:
    publication = PublicationConfig()
    target = Target.of(generation(MINE.pem.decode()), publication, HUB)
    bundle = BundleTarget.of(generation(MINE.pem.decode()), publication, HUB)
    cases: tuple[tuple[bytes, Callable[[bytes], Any], Callable[[Any], bool]], ...] = (
        (target.body, ConfigMapDecoder(publication.key, Contents()), target.is_met_by),
        (bundle.body("v1"), BundleDecoder(Contents()), bundle.is_met_by),
    )
    for body, decode, is_met_by in cases:
        written: dict[str, Any] = msgspec.json.decode(body)
        number = {NUMBER: "1"} if body is target.body else {}  # no more than one object need say it
        assert written["metadata"]["annotations"] == {ANNOTATION: OWN} | number

        def seen(
            mark: str | None,
            written: dict[str, Any] = written,
            decode: Callable[[bytes], Any] = decode,
        ) -> Any:
            meta = written["metadata"] | {
                "resourceVersion": "1",
                "managedFields": [{"manager": FIELD_MANAGER}],
            }
            meta["annotations"] = {} if mark is None else {ANNOTATION: mark}
            return decode(msgspec.json.encode(written | {"metadata": meta})).value

        assert is_met_by(seen(OWN))
        assert not is_met_by(seen(None)), "of an earlier release: it gets the mark"
        assert is_met_by(seen(OTHER)), "another hub's mark is not taken for the sake of the mark"


@given(
    st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.none()), max_size=3),
    st.text(),
)
def test_any_annotation_is_read_and_bounded(annotations: dict[str, object], mark: str) -> None:
    read = mark_in(annotations | {ANNOTATION: mark})
    assert 0 < len(read) <= 64
    assert mark.startswith(read) or not mark
    assert HubIdentity("ab" * 16).is_other(read) == (mark != "ab" * 16), (
        "nothing but its absence reads as no mark"
    )


async def test_the_identity_is_drawn_once_and_kept(tmp_path: Path) -> None:
    clock = VirtualClock()
    store = FileStore(tmp_path, clock)
    assert await read_identity(store) is None
    first = await own_identity(store, clock=clock, random_bytes=lambda n: b"\x01" * n)
    again = await own_identity(store, clock=clock, random_bytes=lambda n: b"\x02" * n)
    assert first == again == await read_identity(store) == HubIdentity(new_id(lambda n: b"\x01" * n))


@pytest.mark.parametrize("content", [b"garbage", encode(HubRecord(id="short", created=0.0))])
async def test_one_that_is_damaged_is_not_drawn_anew(tmp_path: Path, content: bytes) -> None:
    clock = VirtualClock()
    store = FileStore(tmp_path, clock)
    await store.write("hub", content)
    with pytest.raises(StateUnavailable):
        await own_identity(store, clock=clock, random_bytes=lambda n: b"\x02" * n)


@pytest.mark.parametrize("text", ["", "1" * 31, "1" * 33, "G" * 32, "A" * 32, "é" * 32])
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        check_id(text)
