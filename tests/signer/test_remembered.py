"""What a signer remembers of its own pins: enough to be started after an edit, and nothing that others can bring in."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import PINS
from federation.core.documents.signer import PinsTable
from federation.signer.generations import PinHistory, TrustPoller
from federation.state.kubernetes_store import Namespaces
from tests.controller.test_rotation_driver import FailingStore
from tests.signer.running_signer import TRUST_DOMAIN
from tests.signer.test_trust import STRANGE, A, B, Controller
from tests.support import pki
from tests.support.clock import VirtualClock

ONLY_B = frozenset({B.root.sha256})
BOTH = frozenset({A.root.sha256, B.root.sha256})


class Remembering(Controller):
    """The same with a signer that remembers, named ``replica``, of a configuration with these ``pins``."""

    replica = "one"
    pins = BOTH

    def make(self) -> TrustPoller:
        self.poller = TrustPoller(
            self.store,
            clock=VirtualClock(pki.NOW),
            trust_domain=TRUST_DOMAIN,
            pins=self.pins,
            on_trust=self.changes.append,
            history=PinHistory(self.store, replica=self.replica),
        )
        return self.poller

    async def start(self, replica: str = "one", pins: frozenset[str] = ONLY_B) -> int:
        """A signer is started; the generation that it believes, 0 for none."""
        self.replica, self.pins = replica, pins
        await self.make().poll()
        return self.poller.generations.newest.number if self.poller.generations.newest is not None else 0

    async def remembered(self, replica: str = "one") -> set[str]:
        stored = await self.store.read(f"{PINS}{replica}")
        assert stored is not None
        return set(decode(stored.data, PinsTable, key=PINS).anchors)


@pytest.fixture
def hub(tmp_path: Path) -> Remembering:
    return Remembering(tmp_path / "state")


async def test_a_pin_that_was_taken_out_is_believed_as_long_as_it_is_in_force(hub: Remembering) -> None:
    await hub.put(await hub.write(1, A, B))
    hub.poller.generations.configure(pins=ONLY_B)
    await hub.put(await hub.write(2, A, B))
    assert hub.given("east") == 2
    assert await hub.start() == 2
    assert await hub.start("another") == 2, "a replica that was started later reads what the others knew"
    await hub.put(await hub.write(3, B))
    assert await hub.remembered("another") == ONLY_B
    await hub.put(await hub.write(4, A, B))
    assert hub.given("east") == 3, (
        "once it is removed it is forgotten, and does not come back without its pin"
    )


async def test_a_pin_that_was_there_too_short_a_time_is_known_by_another_signer(hub: Remembering) -> None:
    """It was read and published, and taken out before this signer looked at its configuration."""
    await hub.put(await hub.write(1, B))
    assert await hub.start() == 1
    late = hub.poller
    await hub.start("another", BOTH)
    await hub.put(await hub.write(2, A, B))
    await late.poll()
    await late.poll()
    assert late.generations.newest is not None
    assert late.generations.newest.number == 2


async def test_it_is_remembered_while_a_wave_still_gets_it(hub: Remembering) -> None:
    await hub.put(await hub.write(1, A, B))
    await hub.put(await hub.write(2, B), {"west": 1})
    assert await hub.start() == 2
    assert hub.given("west") == 1
    await hub.put(await hub.write(3, B))
    assert await hub.remembered() == ONLY_B


async def test_what_was_never_pinned_is_never_remembered(hub: Remembering) -> None:
    await hub.put(await hub.write(1, A, B))
    await hub.put(await hub.write(2, A, B, STRANGE))
    assert hub.given("east") == 1
    assert hub.poller.generations.problem is not None
    assert hub.poller.generations.problem.reason == "generation_unpinned"
    assert await hub.remembered() == BOTH
    assert await hub.start(pins=BOTH) == 0, "nor after a restart"


async def test_what_says_that_it_is_of_another_signer_counts_for_nothing(hub: Remembering) -> None:
    forged = PinsTable(replica="another", anchors=[STRANGE.root.sha256])
    await hub.store.write(f"{PINS}one", encode(forged))
    await hub.write(1, B, STRANGE)
    await hub.put(await hub.write(1, B, STRANGE))
    assert await hub.start() == 0


async def test_a_damaged_memory_remembers_nothing_and_stops_nothing(hub: Remembering) -> None:
    await hub.store.write(f"{PINS}one", b"garbage")
    await hub.put(await hub.write(1, B))
    assert await hub.start() == 1
    assert await hub.remembered() == ONLY_B


async def test_what_cannot_be_remembered_now_is_remembered_later(tmp_path: Path) -> None:
    store = FailingStore(tmp_path, VirtualClock())
    remembered = PinHistory(store, replica="one")
    await remembered.load()
    store.failing = PINS
    await remembered.keep([A.root, B.root], BOTH)
    assert (remembered.known, await store.read(f"{PINS}one")) == (BOTH, None)
    store.failing = "nothing"
    await remembered.keep([A.root, B.root], BOTH)
    stored = await store.read(f"{PINS}one")
    assert stored is not None
    assert set(decode(stored.data, PinsTable, key=PINS).anchors) == BOTH


def test_in_kubernetes_it_is_where_only_signers_write() -> None:
    """RBAC gives controllers no right to write there: a stolen one cannot forge it."""
    places = Namespaces("federation-state")
    assert places.of(f"{PINS}one") == places.signers != places.of("current")
