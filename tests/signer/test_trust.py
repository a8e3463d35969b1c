"""The generation for each cluster: the newest, or an older one while a cluster waits for its wave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from federation.core.documents.encoding import encode
from federation.core.documents.keys import generation_key
from federation.core.documents.trust import Current, Generation
from federation.core.errors import NotReady, StateUnavailable
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.signer.generations import MOST_OLDER, TrustInForce, TrustPoller
from federation.state.files import FileStore
from tests.signer.running_signer import TRUST_DOMAIN
from tests.support import pki
from tests.support.clock import VirtualClock

A, B, STRANGE = pki.root("trust a"), pki.root("trust b"), pki.root("trust strange")
PINS = frozenset({A.root.sha256, B.root.sha256})


class Controller:
    """Writes generations by hand, and a signer that follows them."""

    def __init__(self, directory: Path) -> None:
        clock = VirtualClock(pki.NOW)
        self.directory = directory
        self.store = FileStore(directory, clock)
        self.changes: list[TrustInForce] = []
        self.poller = self.make()

    def make(self) -> TrustPoller:
        self.poller = TrustPoller(
            self.store,
            clock=VirtualClock(pki.NOW),
            trust_domain=TRUST_DOMAIN,
            pins=PINS,
            on_trust=self.changes.append,
        )
        return self.poller

    async def write(self, number: int, /, *roots: pki.Authority, **wrong: object) -> Generation:
        bundle = TrustBundle.merge(
            Anchor(certificate=r.root, origin="test", kind="root", trust_domain=TRUST_DOMAIN) for r in roots
        )
        fields: dict[str, object] = {
            "number": number,
            "created": 0.0,
            "reason": "test",
            "author": "test",
            "trust_domain": str(TRUST_DOMAIN),
            "sha256": bundle.sha256,
            "bundle_pem": bundle.pem.decode(),
            "anchors": [],
        } | wrong
        generation = Generation(**fields)  # type: ignore[arg-type]
        await self.store.write(generation_key(number), encode(generation))
        return generation

    async def put(self, generation: Generation, behind: Mapping[str, int] | None = None) -> None:
        current = Current(number=generation.number, sha256=generation.sha256, behind=dict(behind or {}))
        await self.store.write("current", encode(current))
        await self.poller.poll()

    def given(self, cluster: str) -> int:
        assert self.poller.generations.in_force is not None
        return self.poller.generations.in_force.for_cluster(cluster).number

    def refused(self, cluster: str) -> str:
        assert self.poller.generations.in_force is not None
        with pytest.raises(NotReady) as refused:
            self.poller.generations.in_force.for_cluster(cluster)
        assert refused.value.where == cluster
        return refused.value.reason


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path / "state")


async def test_a_cluster_behind_is_given_the_older_generation(controller: Controller) -> None:
    both, one = await controller.write(1, A, B), await controller.write(2, B)
    await controller.put(both)
    await controller.put(one, {"west": 1, "north": 1})
    assert [controller.given(name) for name in ("east", "west", "north")] == [2, 1, 1]
    in_force = controller.poller.generations.in_force
    assert in_force is not None
    assert set(in_force.anchors) == {A.root, B.root}, (
        "an authority is judged by all that some cluster is given"
    )
    assert in_force.for_cluster("west").bundle_pem == both.bundle_pem.encode()
    await controller.put(one, {"north": 1})
    assert [controller.given(name) for name in ("east", "west", "north")] == [2, 2, 1]
    await controller.put(one)
    assert controller.given("north") == 2
    assert len(controller.changes) == 4
    assert controller.poller.generations.problem is None


async def test_after_a_restart_it_is_the_same(controller: Controller) -> None:
    await controller.write(1, A, B)
    await controller.put(await controller.write(2, B), {"west": 1})
    controller.make()
    await controller.poller.poll()
    assert (controller.given("east"), controller.given("west")) == (2, 1)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"bundle_pem": "garbage"}, "generation_digest"),
        ({"trust_domain": "elsewhere.example"}, "generation_trust_domain"),
        ({"number": 7}, "generation_digest"),
        ({}, "generation_unpinned"),
    ],
)
async def test_an_older_one_that_is_not_believed_stops_those_clusters_alone(
    controller: Controller, wrong: dict[str, object], reason: str
) -> None:
    await controller.write(1, *((A, B) if wrong else (A, STRANGE)), **wrong)
    new = await controller.write(2, B)
    await controller.put(new, {"west": 1})
    assert controller.given("east") == 2
    assert controller.refused("west") == reason
    changes = len(controller.changes)
    await controller.poller.poll()
    assert len(controller.changes) == changes, "the same as before is no change"
    await controller.write(1, A, B)
    await controller.poller.poll()
    assert controller.given("west") == 1, "it is looked at again"


@pytest.mark.parametrize("number", [3, 0, -1])
async def test_an_entry_that_is_no_earlier_generation_is_refused(controller: Controller, number: int) -> None:
    await controller.write(3, A)
    await controller.put(await controller.write(2, B), {"west": number})
    assert controller.given("east") == 2
    assert controller.refused("west") == "generation_ahead"


async def test_one_that_is_gone_is_refused_and_one_in_memory_is_not_read_again(
    controller: Controller,
) -> None:
    both, one = await controller.write(1, A, B), await controller.write(2, B)
    await controller.put(one, {"west": 1})
    await controller.store.delete(generation_key(1))
    await controller.put(one, {"west": 1, "north": 1})
    assert controller.given("west") == 1
    controller.make()
    await controller.put(one, {"west": 1})
    assert controller.refused("west") == "generation_missing"
    assert both.number == 1


async def test_no_cluster_goes_back(controller: Controller) -> None:
    one, two = await controller.write(1, A), await controller.write(2, A, B)
    three = await controller.write(3, B)
    await controller.put(one)
    await controller.put(two)
    await controller.put(three, {"west": 1, "north": 2})
    assert (controller.given("west"), controller.given("north")) == (2, 2), "the last good one stays"
    problem = controller.poller.generations.problem
    assert problem is not None
    assert problem.reason == "generation_backwards"
    await controller.poller.poll()
    assert controller.given("west") == 2
    await controller.put(three, {"west": 2})
    assert controller.poller.generations.problem is None
    await controller.put(three)
    await controller.put(three, {"west": 2})
    assert controller.given("west") == 3


async def test_no_cluster_goes_back_by_way_of_one_that_is_not_believed(controller: Controller) -> None:
    await controller.write(1, A)
    two = await controller.write(2, A, B)
    await controller.put(two)
    three = await controller.write(3, B)
    await controller.put(three, {"west": 5})
    assert controller.refused("west") == "generation_ahead"
    await controller.put(three, {"west": 1})
    assert controller.refused("west") == "generation_ahead"
    await controller.put(three, {"west": 2})
    assert controller.given("west") == 2


async def test_pins_are_looked_at_again_for_older_ones_as_well(controller: Controller) -> None:
    await controller.write(1, A, B)
    await controller.put(await controller.write(2, B), {"west": 1})
    controller.poller.generations.configure(pins=frozenset({B.root.sha256}))
    await controller.poller.poll()
    assert controller.given("east") == 2
    assert controller.refused("west") == "generation_unpinned"


async def test_more_generations_than_fit_into_memory_are_refused(controller: Controller) -> None:
    count = MOST_OLDER + 2
    for number in range(1, count + 1):
        newest = await controller.write(number, A, *((B,) if number % 2 else ()))
    await controller.put(newest, {f"c{number:02}": number for number in range(1, count)})
    assert [controller.given(f"c{number:02}") for number in range(1, count - 1)] == list(range(1, count - 1))
    assert controller.refused(f"c{count - 1:02}") == "generation_excess"


async def test_catching_up_says_what_the_store_says_even_where_it_is_not_believed(
    controller: Controller,
) -> None:
    assert await controller.poller.generations.catch_up() is None
    await controller.put(await controller.write(1, A))
    bad = await controller.write(2, A, STRANGE)
    await controller.store.write("current", encode(Current(number=2, sha256=bad.sha256)))
    current = await controller.poller.generations.catch_up()
    assert current is not None
    assert (current.number, controller.given("east")) == (2, 1)
    (controller.directory / "documents" / "current").write_bytes(b"damaged")
    with pytest.raises(StateUnavailable):
        await controller.poller.generations.catch_up()
    assert controller.given("east") == 1
