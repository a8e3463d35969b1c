"""What the hub lives through before its state is taken for the fixtures: run by ``make.py`` alone.

Three clusters; one is quarantined. A root that is not pinned is found in one and listed, another is dismissed. Then
a rotation of the root begins under traffic, and the hub is killed in two of its states, with leaves under the old root
alive each time.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from federation.core.pki.development import create_root
from federation_sandbox import demo
from federation_sandbox.box import ROOT_CONFIG_MAP, Box
from federation_sandbox.demo import sandbox_members
from federation_sandbox.mesh import Workload
from tests.last_version import mesh
from tests.last_version.documents import MOMENTS, STATE

SINCE_ENTERED: Final = (
    6.0  # seconds that a state lasts before the hub is killed in it: all is published by then
)
LIMIT: Final = 120.0


async def run() -> None:
    """Write the state of each moment again."""
    for moment in MOMENTS:
        shutil.rmtree(STATE / moment, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="federation-fixture-") as place:
        directory = Path(place)
        async with sandbox_members(directory, mesh.CLUSTERS, clock=mesh.CLOCK) as members:
            box = await mesh.open_box(directory, members)
            roles = mesh.Roles(box)
            await start(roles)
            try:
                await live(box, roles)
            finally:
                await roles.stop()


async def start(roles: mesh.Roles) -> None:
    """Both roles, under the names of before."""
    await roles.start(signer="signer-0", controller="controller-0")
    await roles.box.wait_ready()


async def live(box: Box, roles: mesh.Roles) -> None:
    """All that leaves something in the state."""
    workloads: dict[str, list[Workload]] = {}
    for name in mesh.CLUSTERS:
        workload = await box.workload(name, mesh.NAMESPACE, mesh.ACCOUNT)
        await workload.renew()
        workloads[name] = [workload]
    await box.wait_proved()
    await find(box)
    await operate(box, "quarantine", cluster=mesh.QUARANTINED, reason="its nodes are being replaced")
    with suppress(AssertionError):  # refused, and kept as that
        await operate(box, "abort", reason="there is nothing to abort")
    traffic = {name: each for name, each in workloads.items() if name != mesh.QUARANTINED}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(demo.busy(traffic, box, print))
        await operate(box, "start", reason="the yearly rotation of the root")
        for moment in MOMENTS:
            await reach(box, moment.upper())
            await roles.kill()
            keep(box, moment)
            await start(roles)


async def find(box: Box) -> None:
    """Two roots that are not pinned, in namespaces of one cluster; one is dismissed."""
    for number, name in enumerate(("found", "dismissed")):
        root = create_root(
            common_name=f"{name} root",
            key=mesh.key_of(name),
            serial=31 + number,
            not_before=mesh.BEGIN,
            not_after=mesh.END,
        )
        bundle = await box.wait_for_trust("east", mesh.NAMESPACE)
        change = {"data": {"root-cert.pem": bundle.decode() + root.pem.decode()}}
        await box.members["east"].world.session.request(
            "PATCH",
            f"/api/v1/namespaces/{mesh.NAMESPACE}/configmaps/{ROOT_CONFIG_MAP}",
            body=msgspec.json.encode(change),
            content_type="application/merge-patch+json",
        )
        await box.wait_for(
            "/api/v1/status", lambda s, sha=root.sha256: any(p["sha256"] == sha for p in s["proposals"])
        )
        if name == "dismissed":
            await operate(box, "dismiss", anchor=root.sha256, reason="an attempt, reported")


async def operate(box: Box, verb: str, **arguments: str) -> None:
    """Ask for an operation with the token that its seal follows from."""
    timeout = aiohttp.ClientTimeout(total=40)
    headers = {"Authorization": f"Bearer {mesh.operate_token()}"}
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.post(
            f"{box.status_url}/api/v1/operations", json={"verb": verb, "arguments": arguments}
        ) as answer,
    ):
        print(verb, answer.status, await answer.text())
        assert answer.status == 200


async def reach(box: Box, state: str) -> None:
    """Wait until the rotation has been in that state for a while."""
    await box.wait_for("/api/v1/rotation", lambda r: bool(r) and r["state"] == state, limit=LIMIT, what=state)
    await asyncio.sleep(SINCE_ENTERED)
    assert (await box.get("/api/v1/rotation"))["state"] == state


def keep(box: Box, moment: str) -> None:
    """Copy the documents, and what one of the namespaces holds, as it was when the hub was killed."""
    place = STATE / moment
    shutil.copytree(box.directory / "state" / "documents", place / "documents")
    east = box.members["east"].sandbox
    assert east is not None
    published = east.config_map(mesh.NAMESPACE, ROOT_CONFIG_MAP)
    (place / "config-map.json").write_text(json.dumps(published, indent=1, sort_keys=True) + "\n", "utf-8")
    taken = {"taken": round(time.time(), 3), "leaves_live_for": timedelta(seconds=mesh.LIFE).total_seconds()}
    (place / "taken.json").write_text(json.dumps(taken, indent=1) + "\n", "utf-8")
