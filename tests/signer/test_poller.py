"""What requests are given: the generation and the directives in force, each kept up to date whatever the other does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.core.documents.encoding import encode
from federation.core.errors import NotReady, StateUnavailable
from federation.core.rotation.effects import SigningDirectives
from federation.signer import generations
from federation.signer.generations import POLL, TrustPoller
from federation.state.files import FileStore
from federation.state.store import Stored
from tests.signer.running_signer import TRUST_DOMAIN
from tests.signer.test_trust import PINS, A, B, Controller
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

QUARANTINED = SigningDirectives(rotation=1, state="ACTIVE", issuer="b" * 64, stopped={"west": "stolen"})


class Hanging(FileStore):
    """A store in which reads of some documents never end."""

    hangs = "nothing"

    async def read(self, key: str) -> Stored | None:
        if key == self.hangs:
            await asyncio.Event().wait()
        return await super().read(key)


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path / "state")


def reason(controller: Controller, cluster: str) -> str:
    with pytest.raises(NotReady) as refused:
        controller.poller.context(cluster)
    return refused.value.reason


async def test_a_context_is_both_or_none(controller: Controller) -> None:
    poller = controller.poller
    assert reason(controller, "east") == "no_bundle"
    await controller.store.write("orders", b"damaged")
    await controller.put(await controller.write(1, A))
    assert poller.directives.problem is not None
    assert poller.generations.newest is not None, "what is damaged keeps the other document from nothing"
    assert reason(controller, "east") == "no_directives"
    await controller.store.write("orders", encode(QUARANTINED))
    await poller.poll()
    context = poller.context("east")
    assert (context.trust.number, context.directives) == (1, QUARANTINED)
    assert reason(controller, "west") == "quarantined"


async def test_a_context_does_not_change_with_what_is_in_force(controller: Controller) -> None:
    await controller.put(await controller.write(1, A))
    before = controller.poller.context("east")
    await controller.put(await controller.write(2, A, B))
    assert (before.trust.number, controller.poller.context("east").trust.number) == (1, 2)


async def test_what_is_caught_up_with_was_read_after_the_call(controller: Controller) -> None:
    """A signer writes its expiry bound first: one of signer and controller always sees the other (0023)."""
    await controller.put(await controller.write(1, A))
    await controller.store.write("orders", encode(QUARANTINED))
    current, directives = await controller.poller.catch_up()
    assert current is not None
    assert (current.number, directives) == (1, QUARANTINED)
    assert controller.poller.directives.in_force == QUARANTINED, "and it is taken up"
    await controller.store.delete("orders")
    with pytest.raises(StateUnavailable, match="no directives"):
        await controller.poller.catch_up()


@pytest.mark.parametrize("hangs", ["current", "orders"])
async def test_a_document_that_hangs_does_not_delay_the_other(
    tmp_path: Path, hangs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "READ_TIMEOUT", 10 * PATIENCE)  # a read that hangs is not given up here
    controller = Controller(tmp_path / "state")
    clock = VirtualClock(pki.NOW)
    store = Hanging(tmp_path / "state", clock)
    await controller.put(await controller.write(1, A))
    poller = TrustPoller(store, clock=clock, trust_domain=TRUST_DOMAIN, pins=PINS)
    await poller.poll()
    first, before = poller.generations.newest, poller.directives.in_force
    store.hangs = hangs
    running = asyncio.create_task(poller.run())
    try:
        await controller.put(await controller.write(2, A, B))
        await store.write("orders", encode(QUARANTINED))
        async with asyncio.timeout(PATIENCE):
            while True:
                await clock.advance(POLL)
                generation = poller.generations.newest
                seen = poller.directives.in_force == QUARANTINED
                if seen if hangs == "current" else generation is not None and generation.number == 2:
                    break
                await asyncio.sleep(0.01)
        assert not running.done()
        late = poller.generations.newest if hangs == "current" else poller.directives.in_force
        assert late == (first if hangs == "current" else before), "what hangs is not there yet"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
