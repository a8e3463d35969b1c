"""A whole root rotation under real traffic: Envoys that open a new mutual TLS connection for every request.

Meanwhile one cluster is cut off and comes back, and the hub is killed in every state.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from federation_sandbox import demo
from federation_sandbox.box import ROOT_CONFIG_MAP, Box
from tests.e2e.conftest import REAL
from tests.e2e.rotating import LIMIT, kill_hub, open_mesh
from tests.support.patience import PATIENCE


async def test_no_connection_fails_while_a_cluster_is_cut_off_and_the_hub_is_killed_in_every_state(
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    async with open_mesh(tmp_path, count=3, start=lambda box: box.start_hub()) as mesh:
        box = mesh.box
        west = box.members["west"].sandbox
        assert west is not None
        killed: Counter[str] = Counter()
        cut_off = False
        async with mesh.busy():
            await box.operate("start", reason="under traffic")
            state = ""
            async with asyncio.timeout(LIMIT):
                while state != "RETIRED":
                    with contextlib.suppress(aiohttp.ClientError, KeyError, TypeError):
                        state = (await box.get("/api/v1/rotation"))["state"]
                    if not mesh.states or mesh.states[-1]["state"] != state:
                        mesh.states.append({"state": state, "after": round(time.monotonic() - began, 1)})
                    if state == "PUBLISHING" and not cut_off:
                        cut_off = True
                        await west.down()
                        await asyncio.sleep(4)
                        await west.up()
                    if state and state != "RETIRED" and not killed[state]:
                        killed[state] += 1
                        await kill_hub(box)
                        await box.start_hub()
                    await asyncio.sleep(0.1)
            await box.wait_proved()
            await asyncio.sleep(2)
        anchors = (await box.get("/api/v1/bundle"))["anchors"]
    print(f"\nrotation: {mesh.states}; {mesh.tried} connections tried, {len(mesh.failures)} failed")
    print(f"{mesh.expired} had a certificate that had expired")
    assert mesh.failures == []
    assert mesh.tried - mesh.expired > 500
    assert cut_off
    assert set(killed) >= {"PUBLISHING", "SOAKED", "CANARY", "ACTIVE", "UNPUBLISHING"}, killed
    assert [anchor["sha256"] for anchor in anchors] == [box.successor.root.sha256]  # type: ignore[union-attr]


@pytest.mark.skipif(len(REAL) < 2, reason="FEDERATION_REAL_KUBECONFIGS names no two real API servers")
async def test_a_rotation_against_two_real_api_servers(tmp_path: Path) -> None:
    async with open_mesh(tmp_path, count=2, start=lambda box: box.start_hub(), target="real") as mesh:
        async with mesh.busy():
            rotated = await demo.rotate(mesh.box, print, limit=LIMIT)
            await mesh.box.wait_proved()
        published = [await m.world.config_map("default", ROOT_CONFIG_MAP) for m in mesh.box.members.values()]
    print(f"\nrotation: {rotated}; {mesh.tried} connections tried, {len(mesh.failures)} failed")
    print(f"{mesh.expired} had a certificate that had expired")
    assert mesh.failures == []
    assert mesh.tried - mesh.expired > 200
    successor = mesh.box.successor
    assert successor is not None
    for config_map in published:
        assert config_map is not None
        assert config_map["data"]["root-cert.pem"].encode() == successor.root.pem


async def test_without_one_safety_the_same_rotation_breaks_connections(tmp_path: Path) -> None:
    """Shows that the check can fail: without waiting for leaves delivered without the new root, connections fail."""

    async def start(box: Box) -> None:
        with (box.directory / "hub.log").open("ab") as log:
            common = ("--config", str(box.config_file))
            processes = [
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", *module, *common, stdout=log, stderr=log, start_new_session=True
                )
                for module in (
                    ("federation", "signer", "--replica", "unsafe-signer"),
                    ("tests.support.unsafe",),
                )
            ]
        stack.extend(processes)

    stack: list[asyncio.subprocess.Process] = []
    try:
        # Leaves outlive the test, so that west trusts the first bundle until the end.
        life = timedelta(hours=1)
        async with open_mesh(tmp_path, count=2, start=start, life=life) as mesh, mesh.busy():
            # No canary: it is another safety, which would catch the mistake before workloads do.
            await mesh.box.operate("start", reason="carelessly", canary="")
            rotation = await mesh.box.wait_for(
                "/api/v1/rotation",
                lambda view: view is not None and view["state"] == "ACTIVE",
                what="the new root in use",
            )
            # A new pod: the one that runs knows the first root alone, and no listener under another.
            await mesh.replace("east", issuer=rotation["new"]["intermediate"])
            async with asyncio.timeout(PATIENCE):
                while not mesh.failures:
                    await asyncio.sleep(0.1)
        assert mesh.failures
    finally:
        for process in stack:
            process.terminate()
            await process.wait()
