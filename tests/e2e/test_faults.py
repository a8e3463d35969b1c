"""One member is in trouble: status says which and how, the others go on, and it is caught up when it returns."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Answer, Garbage, Hang
from federation_sandbox.box import ROOT_CONFIG_MAP, Box, DevelopmentCa
from federation_sandbox.cluster import SandboxCluster
from tests.e2e.conftest import members_of
from tests.support.patience import PATIENCE, UNDELAYED

TIMEOUTS = 'connect = "1s"\nrequest = "2s"\nwatch_silence = "4s"\nbackoff_longest = "2s"'


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """Two clusters in a box, with timeouts short enough that a test need not wait for real ones."""
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 2) as members:
        ca = DevelopmentCa.create(tmp_path / "first-ca", name="first", clock=clock)
        federation = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=1.0)
        federation.timeout_lines = TIMEOUTS
        await federation.register()
        await federation.start_hub()
        try:
            await federation.wait_proved()
            yield federation
        finally:
            await federation.stop_hub()


def sandbox(box: Box, name: str) -> SandboxCluster:
    found = box.members[name].sandbox
    assert found is not None
    return found


@contextmanager
def troubled(cluster: SandboxCluster, trouble: str):  # type: ignore[no-untyped-def]
    """Put the cluster into that trouble: nothing of it answers as it should, watches under way included."""
    effects: dict[str, Any] = {
        "hung": Hang(),
        "forbidden": Answer.forbidden(),
        "throttled": Answer.throttled(),
        "server_error": Answer.server_error(),
        "garbage": Garbage(code=200),
    }
    with cluster.faults.inject(effects[trouble]):
        cluster.end_watches()
        yield


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("hung", "timeout"),
        ("forbidden", "forbidden"),
        ("throttled", "throttled"),
        ("server_error", "server_error"),
        ("garbage", "garbage"),
    ],
)
async def test_a_failing_cluster_is_reported_with_its_reason_and_delays_no_other(
    box: Box, trouble: str, reason: str
) -> None:
    east = await box.workload("east", "shop", "frontend")
    await east.renew()
    west = sandbox(box, "west")
    with troubled(west, trouble):
        seen = await box.wait_for(
            "/api/v1/clusters/west",
            lambda answer: reason in (answer["connection"]["reason"], answer["signing"]["reason"]),
            what=f"{reason} as the reason for west",
        )
        assert seen["health"] in {"degraded", "failing", "unknown"}
        async with asyncio.timeout(UNDELAYED):
            await east.renew()
        await box.members["east"].world.add_namespace("new-in-east")
        await box.wait_for_trust("east", "new-in-east", limit=UNDELAYED)
        west.create_namespace("new-in-west")
    await box.wait_for_trust("west", "new-in-west")
    await box.wait_proved()


async def test_a_cluster_that_is_down_turns_unknown_and_is_caught_up(box: Box) -> None:
    west = sandbox(box, "west")
    await west.down()
    await box.wait_for(
        "/api/v1/clusters/west", lambda answer: answer["connection"]["reason"] == "unreachable"
    )
    matrix = await box.wait_for("/api/v1/matrix", lambda answer: answer["valid"] < answer["pairs"])
    assert {reason["result"] for reason in matrix["reasons"]} <= {"unknown", "failed"}
    west.create_namespace("born-in-the-dark")
    await west.up()
    await box.wait_for_trust("west", "born-in-the-dark")
    await box.wait_proved(
        limit=20
    )  # well below the minute after which a cluster is asked again without a cause


async def test_an_outage_of_token_review_is_unavailable_not_refused(box: Box) -> None:
    box.cluster_lines = 'attestation = "token-review"'
    workload = await box.workload("east", "shop", "frontend")
    await workload.renew()
    box.write_config()
    await asyncio.sleep(3)
    with sandbox(box, "east").faults.inject(Answer.server_error(), resource="tokenreviews"):
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await workload.renew()  # the configuration, or a cached review, still lets it through
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    break
                await asyncio.sleep(0.5)
    async with asyncio.timeout(PATIENCE):
        renewed = await workload.renew()
    assert renewed.chain


async def test_a_bundle_is_restored_in_every_namespace_after_a_sweep(box: Box) -> None:
    west = sandbox(box, "west")
    for number in range(20):
        west.create_namespace(f"team-{number}")
    for number in range(20):
        await box.wait_for_trust("west", f"team-{number}")
    for number in range(20):
        west.delete("configmaps", f"team-{number}", ROOT_CONFIG_MAP)
    for number in range(20):
        assert await box.wait_for_trust("west", f"team-{number}")


async def test_broken_authority_files_keep_the_last_good_authority(box: Box) -> None:
    workload = await box.workload("east", "shop", "frontend")
    first = await workload.renew()
    key = box.ca.directory / "key.pem"
    good = key.with_suffix(".good")
    shutil.copy2(key, good)
    key.write_bytes(good.read_bytes()[:40])
    status = await box.wait_for(
        "/api/v1/status", lambda answer: any(a["state"] != "ready" for a in answer["authorities"])
    )
    assert "key.pem" in str(status["attention"])
    second = await workload.renew()
    assert second.chain[1] == first.chain[1]
    good.rename(key)
    await box.wait_for(
        "/api/v1/status", lambda answer: all(a["state"] == "ready" for a in answer["authorities"])
    )


async def test_a_vanished_anchor_file_never_shrinks_the_bundle(box: Box) -> None:
    before = await box.get("/api/v1/bundle")
    root = box.ca.directory / "root.pem"
    hidden = root.with_suffix(".hidden")
    root.rename(hidden)
    status = await box.wait_for(
        "/api/v1/status",
        lambda answer: any("root.pem" in a["detail"] + a["where"] for a in answer["attention"]),
    )
    assert status["bundle"]["sha256"] == before["sha256"]
    workload = await box.workload("east", "shop", "frontend")
    assert (await workload.renew()).trust
    hidden.rename(root)
    after = await box.wait_for(
        "/api/v1/status",
        lambda answer: not any("root.pem" in a["detail"] + a["where"] for a in answer["attention"]),
    )
    assert after["bundle"]["generation"] == before["generation"]
