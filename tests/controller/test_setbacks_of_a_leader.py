"""A running controller whose state is set back: it recovers, whichever replica led before, and records the setback."""

from __future__ import annotations

import asyncio

from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import CURRENT, ROTATION
from federation.core.documents.signer import SignerReport
from federation.core.rotation.record import RotationRecord, Setback
from tests.controller.world import World, eventually, in_force, root
from tests.support.patience import PATIENCE


async def two_generations(world: World) -> bytes:
    """Publish one root and then two; what named the first generation."""
    await world.published()
    older = await world.store.read(CURRENT)
    assert older is not None
    world.anchors = [root(), root("b")]
    world.register()
    await world.until(lambda report: report.generation == 2)
    return older.data


async def healed(world: World, replica: str) -> list[Setback]:
    """The setbacks in the record once a generation above both is published, with both roots."""
    await world.until(lambda report: report.generation == 3, replica=replica)
    generation = await in_force(world.store)
    assert generation is not None
    assert {anchor.sha256 for anchor in generation.anchors} == {
        anchor.certificate.sha256 for anchor in (root(), root("b"))
    }
    await eventually(lambda: world.observed("east", "default") == generation.bundle_pem)
    record = RotationRecord()
    async with asyncio.timeout(PATIENCE):
        while not record.setbacks:
            stored = await world.store.read(ROTATION)
            record = decode(stored.data, RotationRecord, key=ROTATION) if stored is not None else record
            await asyncio.sleep(0.05)
    return record.setbacks


async def test_state_set_back_under_a_leader_recovers(one: World) -> None:
    async with one.controller():
        older = await two_generations(one)
        await one.store.write(CURRENT, older)
        (found,) = await healed(one, "one")
        assert "generation 1 was found in force" in found.what


async def test_state_set_back_before_a_leader_began_recovers(one: World) -> None:
    """It knows it from the signers alone; the pin of the second root is gone meanwhile."""
    async with one.controller():
        older = await two_generations(one)
    await one.store.write(CURRENT, older)
    now = one.clock.now().timestamp()
    signer = SignerReport(
        replica="signer", started=now, updated=now, heartbeat=60.0, ready=True, generation=2
    )
    await one.store.write("signers/signer", encode(signer))
    one.anchors = [root()]
    one.write_config()
    async with one.controller("two"):
        (found,) = await healed(one, "two")
        assert "and 2 had been" in found.what
