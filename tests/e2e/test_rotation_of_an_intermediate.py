"""An intermediate is rotated under an unchanged root, under real traffic: nothing is published or taken away."""

from __future__ import annotations

from pathlib import Path

from federation_sandbox import demo
from tests.e2e.rotating import LIMIT, open_mesh


async def test_no_connection_fails_and_the_bundle_stays(tmp_path: Path) -> None:
    async with open_mesh(tmp_path, count=2, start=lambda box: box.start_hub(), same_root=True) as mesh:
        box = mesh.box
        before = await box.get("/api/v1/bundle")
        async with mesh.busy():
            rotated = await demo.rotate(box, print, limit=LIMIT)
            for name in mesh.workloads:
                await mesh.renew(name)
            await box.wait_proved()
        after = await box.get("/api/v1/bundle")
        chains = [w.current.chain for w in mesh.workloads.values() if w.current is not None]
    print(f"\nrotation: {rotated}; {mesh.tried} connections tried, {len(mesh.failures)} failed")
    print(f"{mesh.expired} had a certificate that had expired")
    assert mesh.failures == []
    assert mesh.tried - mesh.expired > 50
    assert not {"PUBLISHING", "UNPUBLISHING"} & {step["state"] for step in rotated["states"]}
    assert after["sha256"] == before["sha256"]
    assert box.successor is not None
    assert [chain[1] for chain in chains] == [box.successor.intermediate] * 2
