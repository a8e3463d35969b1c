"""One member is hostile or compromised: it gets no tokens of the others and does not affect them.

A running hub, clusters in a box. ``west`` is the hostile one, ``east`` and everything of it is honest.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from federation.core.identity import ClusterId
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Answer, Gone
from federation_sandbox.box import ROOT_CONFIG_MAP, Box, DevelopmentCa
from federation_sandbox.cluster import SandboxCluster
from federation_sandbox.hostile import churning, giant_page, publish_keys_of, roots_pem
from tests.e2e.conftest import members_of
from tests.support.patience import UNDELAYED

JWKS = "/openid/v1/jwks"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 2) as members:
        ca = DevelopmentCa.create(tmp_path / "first-ca", name="first", clock=clock)
        federation = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=1.0)
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


def shown(cluster: SandboxCluster, *, of: SandboxCluster) -> int:
    """How many tokens of the other cluster its API server has received; its own probe's are not counted."""
    accounts = {account["metadata"]["uid"] for account in of.objects("serviceaccounts")}
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in cluster.tokens_shown]
    return sum(each["kubernetes.io"]["serviceaccount"]["uid"] in accounts for each in claims)


def codes(status: Any, cluster: str) -> set[str]:
    return {item["code"] for item in status["attention"] if cluster == item["where"]}


async def test_tokens_of_a_reconnecting_member_are_not_sent_to_one_that_published_its_key(
    box: Box,
) -> None:
    """A member that saw such a token could replay it and get the other cluster's certificate."""
    east, west = sandbox(box, "east"), sandbox(box, "west")
    callers = [await box.workload("east", "shop", "frontend") for _ in range(2)]
    callers[1].cluster_id = ClusterId("Kubernetes")  # what Istio sends if its cluster has no configured name
    for caller in callers:
        await caller.renew()
    assert shown(west, of=east) == 0
    publish_keys_of(east, on=west)
    await box.stop_hub()
    with east.faults.inject(Answer.server_error(), path=JWKS):
        await box.start_hub()
        await box.wait_ready()
        for caller in callers:
            for _ in range(3):
                await caller.renew()
    assert shown(west, of=east) == 0, "no token of east was shown to west"
    status = await box.wait_for(
        "/api/v1/status",
        lambda status: any(item["code"] == "token_key_shared" for item in status["attention"]),
        what="the finding that names both",
    )
    (finding,) = [item for item in status["attention"] if item["code"] == "token_key_shared"]
    assert (finding["severity"], finding["where"]) == ("critical", "east, west")
    assert "key of east" in finding["detail"]


def used_by_roles(box: Box) -> float:
    """Processor seconds that the hub's roles have used."""
    pid, ticks = box.hub_pid, os.sysconf("SC_CLK_TCK")
    assert pid is not None
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    assert children
    times = [Path(f"/proc/{child}/stat").read_text("ascii").rpartition(")")[2].split() for child in children]
    return sum(int(fields[11]) + int(fields[12]) for fields in times) / ticks


async def test_a_member_that_floods_the_hub_costs_the_others_nothing(box: Box) -> None:
    """Giant pages at the signers; at the controller one tenant's ConfigMap, another one ten times a second."""
    east, west = sandbox(box, "east"), sandbox(box, "west")
    caller = await box.workload("east", "shop", "frontend")
    await caller.renew()
    started = [one["started"] for one in (await box.get("/api/v1/status"))["controllers"]]
    west.create_namespace("tenant")
    rogue = roots_pem(300, at=SystemClock().now())
    page = giant_page("PartialObjectMetadataList", 360_000)
    with west.faults.inject(page, verb="list", resource="pods"):
        west.faults.inject(Gone(), verb="watch", resource="pods", times=2)  # so that it is listed again
        west.end_watches()
        async with churning(west, "tenant", ROOT_CONFIG_MAP, lambda number: rogue + "\n" * (number + 1)):
            await box.wait_for(
                "/api/v1/clusters/west",
                lambda view: "larger than" in str(view["signing"]),
                what="the finding that names the limit",
            )
            used, began = used_by_roles(box), time.monotonic()
            for number in range(2):
                async with asyncio.timeout(UNDELAYED):
                    await caller.renew()
                east.delete("configmaps", "shop", ROOT_CONFIG_MAP)
                await box.wait_for_trust("east", "shop", limit=UNDELAYED)
                east.create_namespace(f"new-{number}")
                await box.wait_for_trust("east", f"new-{number}", limit=UNDELAYED)
                status = await box.wait_for(  # a namespace is pending until it was read back
                    "/api/v1/status", lambda status: not codes(status, "east"), limit=UNDELAYED
                )
            await asyncio.sleep(max(0.0, began + 8 - time.monotonic()))
            share = (used_by_roles(box) - used) / (time.monotonic() - began)
    east_view = next(view for view in status["clusters"] if view["name"] == "east")
    assert east_view["signing"]["state"] == "ready"
    assert not codes(status, "east")
    assert [one["started"] for one in status["controllers"]] == started, "leadership did not change hands"
    assert share < 0.7, (
        "each of three processes reads that member within its budget; without one they take all there is"
    )
