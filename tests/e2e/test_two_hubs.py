"""Two hubs with different roots on one cluster: the later one, and one of two that begin at once, write nothing."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation.runtime.clock import SystemClock
from federation_sandbox.box import ROOT_CONFIG_MAP, Box, DevelopmentCa, Member
from tests.e2e.conftest import members_of
from tests.support.patience import PATIENCE

ANNOTATION = "federation-hub/hub"


@dataclass
class Hubs:
    """Two on the cluster ``east``, each with a state, a configuration and a root of its own."""

    first: Box
    second: Box


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[Hubs]:
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 1) as members:
        boxes: list[Box] = []
        for name in ("first", "second"):
            directory = tmp_path / name
            directory.mkdir()
            ca = DevelopmentCa.create(directory / "ca", name=f"{name} {uuid.uuid4().hex[:6]}", clock=clock)
            box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=1.0)
            await box.register()
            boxes.append(box)
        try:
            yield Hubs(*boxes)
        finally:
            for box in boxes:
                await box.stop_hub()


async def bundles(member: Member) -> dict[str, tuple[str, str, str]]:
    """What each namespace holds: the version of its object, its content, and the mark on it."""
    answer = await member.world.session.get(
        "/api/v1/configmaps", params={"fieldSelector": f"metadata.name={ROOT_CONFIG_MAP}"}
    )
    return {
        item["metadata"]["namespace"]: (
            item["metadata"]["resourceVersion"],
            item["data"]["root-cert.pem"],
            item["metadata"].get("annotations", {}).get(ANNOTATION, ""),
        )
        for item in msgspec.json.decode(answer)["items"]
    }


async def istiods(member: Member) -> tuple[str, str]:
    """The version of the Secret that istiod serves with, and the mark on it."""
    answer = await member.world.session.get("/api/v1/namespaces/istio-system/secrets/istiod-tls")
    metadata = msgspec.json.decode(answer)["metadata"]
    return metadata["resourceVersion"], metadata.get("annotations", {}).get(ANNOTATION, "")


def identity(status: Any) -> str:
    (controller,) = status["controllers"]
    return str(controller["hub"])


def published(status: Any) -> bool:
    (cluster,) = status["clusters"]
    publication = cluster["publication"]
    everywhere = 0 < publication["selected"] == publication["current"]
    return bool(everywhere and cluster["connection"]["state"] == "ready")


def left_to(hub: str) -> Any:
    def seen(status: Any) -> bool:
        (cluster,) = status["clusters"]
        connection = cluster["connection"]
        return connection["reason"] == "other_hub" and hub in connection["detail"]

    return seen


async def federation(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "federation", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_a_second_hub_writes_nothing_until_it_is_configured_to_take_over(hubs: Hubs) -> None:
    member = hubs.first.members["east"]
    await hubs.first.start_hub()
    earlier = identity(await hubs.first.wait_for("/api/v1/status", published))
    before = await bundles(member)
    assert {mark for _, _, mark in before.values()} == {earlier}
    secret = await istiods(member)
    assert secret[1] == earlier

    code, said = await federation("clusters", "check", "--config", str(hubs.second.config_file))
    assert code == 1
    assert earlier in said

    await hubs.second.start_hub()
    status = await hubs.second.wait_for("/api/v1/status", left_to(earlier))
    root = hubs.first.ca.root.sha256
    status = await hubs.second.wait_for(
        "/api/v1/status", lambda s: any(p["sha256"] == root for p in s["proposals"])
    )
    later = identity(status)
    assert later != earlier
    await asyncio.sleep(3)
    await member.world.add_namespace("made-later")
    await hubs.first.wait_for_trust("east", "made-later")
    await asyncio.sleep(1)
    after = await bundles(member)
    assert after.pop("made-later")[2] == earlier
    assert after == before, "neither has written anything"
    assert await istiods(member) == secret

    await hubs.first.stop_hub()
    config = hubs.second.config_file.read_text()
    adopts = f'\n[controller]\nadopt_hubs = ["{earlier}"]\n'
    hubs.second.config_file.write_text(config + adopts)
    await hubs.second.wait_for(
        "/api/v1/status", lambda s: s["clusters"][0]["connection"]["reason"] == "joining"
    )
    assert await bundles(member) == before | {"made-later": (await bundles(member))["made-later"]}, (
        "the root of the earlier hub is not accepted"
    )
    hubs.second.extra_anchors = [hubs.first.ca.directory / "root.pem"]
    hubs.second.write_config()
    hubs.second.config_file.write_text(hubs.second.config_file.read_text() + adopts)
    roots = [hub.ca.root.pem.decode() for hub in (hubs.first, hubs.second)]
    async with asyncio.timeout(PATIENCE):
        while not all(
            mark == later and all(root in pem for root in roots)
            for _, pem, mark in (await bundles(member)).values()
        ):
            await asyncio.sleep(0.2)


async def test_of_two_that_begin_at_once_at_most_one_publishes(hubs: Hubs) -> None:
    both = [hubs.first, hubs.second]
    await asyncio.gather(*(box.start_hub() for box in both))

    def settled(status: Any) -> bool:
        return published(status) or left_to("")(status)

    statuses = [await box.wait_for("/api/v1/status", settled) for box in both]
    statuses = [await box.wait_for("/api/v1/status", settled) for box in both]
    assert sum(map(published, statuses)) <= 1
    before = await bundles(hubs.first.members["east"])
    await asyncio.sleep(5)
    assert await bundles(hubs.first.members["east"]) == before, "they do not fight"
    writes = [(await box.get("/api/v1/status"))["clusters"][0]["publication"]["writes"] for box in both]
    assert sum(writes) <= len(before) + 1, "one wrote to each namespace, the other at most to the first"
