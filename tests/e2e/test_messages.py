"""What status and ``verify`` say of a running hub: each cause once, with what is really to be done about it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Answer
from federation_sandbox.box import ROOT_CONFIG_MAP, Box, DevelopmentCa
from federation_sandbox.cluster import SandboxCluster
from tests.e2e.conftest import members_of

TIMEOUTS = 'connect = "5s"\nrequest = "20s"\nwatch_silence = "60s"\nbackoff_longest = "2s"'
"""Long enough that no other cluster counts as silent on a loaded machine: a dead one refuses connections at once."""
QUOTA = Answer(
    403,
    "Forbidden",
    'configmaps "istio-ca-root-cert" is forbidden: exceeded quota: team, requested: count/configmaps=1, '
    "used: count/configmaps=4, limited: count/configmaps=4",
)
TIME = r"(\d{4}-\d\d-\d\d )?\d\d:\d\d UTC"


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Box]:
    """A running hub of three clusters, proved."""
    clock = SystemClock()
    async with members_of("sandbox", tmp_path, 3) as members:
        ca = DevelopmentCa.create(tmp_path / "first-ca", name="first", clock=clock)
        box = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=1.0)
        box.timeout_lines = TIMEOUTS
        await box.register()
        await box.start_hub()
        try:
            await box.wait_proved()
            await box.wait_for("/api/v1/status", lambda s: not codes(s), what="nothing that needs attention")
            yield box
        finally:
            await box.stop_hub()


def sandbox(box: Box, name: str) -> SandboxCluster:
    found = box.members[name].sandbox
    assert found is not None
    return found


async def command(box: Box, verb: str, *options: str) -> tuple[int | None, list[str]]:
    """Exit code and lines of a verb of the command line, asked of this hub."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "federation",
        verb,
        "--url",
        box.status_url,
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode().splitlines()


def codes(status: Any) -> list[str]:
    return [item["code"] for item in status["attention"] if item["severity"] != "notice"]


async def test_one_dead_cluster_of_three_is_one_critical_entry(three: Box) -> None:
    workload = await three.workload("west", "shop", "frontend")
    await workload.renew()
    await sandbox(three, "west").down()

    def settled(status: Any) -> bool:
        matrix = status["matrix"]
        followed = [each["code"] for item in status["attention"] for each in item["consequences"]]
        known = "certificates there last until" in status["summary"]
        return matrix["unknown"] == 4 and {"signing_unavailable", "pairs_unknown"} <= {*followed} and known

    status = await three.wait_for("/api/v1/status", settled, what="the dead cluster with what follows")
    assert codes(status) == ["cluster_unavailable"], status["attention"]
    (cause,) = [item for item in status["attention"] if item["severity"] != "notice"]
    assert cause["severity"] == "critical"
    said = rf"west is unreachable since {TIME}; certificates there last until {TIME}"
    assert re.match(said, cause["detail"])
    assert re.match(said, status["summary"][:1].lower() + status["summary"][1:])
    assert "network path" in cause["remedy"]
    assert len(status["matrix"]["reasons"]) == 4
    code, lines = await command(three, "verify")
    assert code == 1
    causes = [line for line in lines if line.startswith(("FAIL", "WARN"))]
    assert len(causes) == 1, causes
    (line,) = causes
    assert re.match(rf"FAIL  {said}", line)
    assert "(affects 4 pairs) (do: " in line
    code, lines = await command(three, "status")
    assert code == 1
    assert re.match(rf"FAILING: W{said[1:]}", lines[0])
    assert re.match(rf"CRITICAL  {said}", lines[2])


async def test_an_exceeded_quota_is_reported_and_a_freed_namespace_is_retried_promptly(
    three: Box,
) -> None:
    east = sandbox(three, "east")
    faults = [
        east.faults.inject(QUOTA, verb="patch", resource="configmaps", namespace=f"team-{n}")
        for n in range(5)
    ]
    for number in range(5):
        east.create_namespace(f"team-{number}")
    status = await three.wait_for(
        "/api/v1/status",
        lambda s: s["clusters"][0]["publication"]["failed"] == 5 and codes(s) == ["publication_failed"],
        what="five namespaces that refuse the bundle",
    )
    publication = status["clusters"][0]["publication"]
    assert publication["selected"] == publication["current"] + 5  # the refused ones are counted
    (cause,) = [item for item in status["attention"] if item["severity"] != "notice"]
    assert (cause["code"], cause["where"]) == ("publication_failed", "east")
    assert f"5 of {publication['selected']} namespaces refuse the bundle" in cause["detail"]
    assert "exceeded quota: team" in cause["detail"]
    assert "ResourceQuota" in cause["remedy"]
    assert "manifests" not in cause["remedy"]
    code, lines = await command(three, "verify")
    assert code == 1
    assert (
        next(line for line in lines if line.startswith(("FAIL", "WARN"))).count("exceeded quota: team") == 1
    )
    faults[3].lift()
    tried = {n: patches(east, n) for n in range(5)}
    await three.wait_for_trust("east", "team-3")
    # Namespaces are retried in turns, so the attempts at its neighbours show how long this one waited.
    assert max(patches(east, n) - tried[n] for n in range(5)) <= 3
    for fault in faults:
        fault.lift()
    for number in range(5):
        assert await three.wait_for_trust("east", f"team-{number}")
    await three.wait_for("/api/v1/status", lambda s: not codes(s), what="nothing that needs attention")
    code, lines = await command(three, "verify", "--wait", "240")
    assert code == 0, lines


def patches(cluster: SandboxCluster, number: int) -> int:
    """How often the bundle was sent to that namespace."""
    return sum(
        record.info.verb == "patch" and record.info.namespace == f"team-{number}"
        for record in cluster.requests.recent
        if record.info.resource == "configmaps" and record.info.name == ROOT_CONFIG_MAP
    )
