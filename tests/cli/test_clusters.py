"""``federation clusters``: who is registered, and whether the hub can work there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.cli.main import main
from federation_sandbox.cluster import SandboxCluster
from tests.core.config.texts import EAST, HUB, WEST


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clusters.toml"
    path.write_text(HUB + EAST + WEST)
    return path


@pytest.fixture
async def east() -> AsyncIterator[SandboxCluster]:
    async with SandboxCluster("east") as cluster:
        yield cluster


def test_the_list(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clusters", "list", "--config", str(file)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "CLUSTER_ID", "NETWORK", "ATTESTATION", "SIGNER", "CONTROLLER"]
    assert [row.split()[:4] for row in rows] == [
        ["east", "east-id", "-", "auto"],
        ["west", "west-id", "-", "auto"],
    ]


def test_the_list_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(HUB + EAST.replace('kubeconfig = "east-signer"', 'kubeconfig = "k"\ncontext = "c"'))
    assert main(["clusters", "list", "--config", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["trust_domain"] == "mesh.example"
    (cluster,) = document["clusters"]
    assert cluster["name"] == "east"
    assert cluster["signer"] == f"{file.parent / 'k'}#c"
    assert cluster["allow"] == ["*/*"]
    assert cluster["trusted_node_accounts"] == []


def test_warnings_go_to_stderr(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(HUB + '[[clusters]]\nname = "c"\ncluster_id = "c"\nkubeconfig = "k"\n')
    assert main(["clusters", "list", "--config", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert err.startswith("warning: clusters[0].kubeconfig: ")


def test_no_cluster_of_that_name(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clusters", "check", "north", "--config", str(file)]) == 2
    assert "no cluster is named north; there are: east, west" in capsys.readouterr().err


async def check(file: Path, *arguments: str) -> int:
    return await asyncio.to_thread(main, ["clusters", "check", "--config", str(file), *arguments])


async def test_a_cluster_that_answers_and_one_that_does_not(
    file: Path, east: SandboxCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for role in ("signer", "controller"):
        east.write_kubeconfig(file.parent / f"east-{role}")
    assert await check(file, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    outcomes = {
        name: {result["outcome"] for result in document["results"] if result["cluster"] == name}
        for name in ("east", "west")
    }
    assert "ok" in outcomes["east"]
    assert "failed" in outcomes["west"]  # its kubeconfigs are not there
    assert all(result["remedy"] for result in document["results"] if result["outcome"] == "failed")


async def test_a_named_cluster_alone_is_checked_and_printed_with_remedies(
    file: Path, east: SandboxCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for role in ("signer", "controller"):
        east.write_kubeconfig(file.parent / f"east-{role}")
    code = await check(file, "east")
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["CLUSTER", "ROLE", "CHECK", "OUTCOME", "DETAIL"]
    assert "west" not in out
    assert ("FAILED" in out) is (code == 1)
    # An administrator's credential can do far more than the hub's roles need, and is warned about.
    assert "WARNING" in out
    assert "what to do:" in out
