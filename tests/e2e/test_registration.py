"""``federation clusters add`` and ``remove`` on a running hub: from an administrator's kubeconfig to the matrix."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

from federation.cli.main import build_parser
from federation.core.config.load import parse_config
from federation.core.identity import ANNOTATION
from federation.runtime.clock import SystemClock
from federation_sandbox.box import Box, DevelopmentCa
from federation_sandbox.demo import open_demo, rehearsal, sandbox_members
from tests.cli.running import federation
from tests.support.found_clusters import grants, remote_secret
from tests.support.patience import PATIENCE

COMMENT = "\n# a comment of the operator's, which stays\n"


async def test_a_cluster_is_registered_by_one_command_and_removed_by_another(tmp_path: Path) -> None:
    clock = SystemClock()
    async with sandbox_members(tmp_path, ("east", "west"), clock=clock) as members:
        ca = DevelopmentCa.create(tmp_path / "ca", name="first", clock=clock)
        box = Box(directory=tmp_path, members=members, ca=ca, clock=clock, proof_interval=2.0)
        await box.register(["east"])
        before = box.config_file.read_text("utf-8") + COMMENT
        box.config_file.write_text(before, "utf-8")
        await box.start_hub()
        try:
            await box.wait_ready()
            await added_and_removed(box, before)
            await discovered_and_admitted(box, before)
        finally:
            await box.stop_hub()


async def added_and_removed(box: Box, before: str) -> None:
    west = box.members["west"].sandbox
    assert west is not None
    objects = {kind: len(west.objects(kind)) for kind in ("serviceaccounts", "clusterroles", "rolebindings")}
    words = ("--config", str(box.config_file), "--kubeconfig", str(box.directory / "west-admin.kubeconfig"))

    code, printed, said = await federation("clusters", "add", "west", *words, "--dry-run")
    assert code == 0, said
    assert "kind: ClusterRoleBinding" in printed
    assert {kind: len(west.objects(kind)) for kind in objects} == objects
    assert box.config_file.read_text("utf-8") == before

    code, said, error = await federation("clusters", "add", "west", *words)
    assert (code, "it needs --yes" in error) == (1, True), "there is no terminal"
    code, said, error = await federation("clusters", "add", "west", *words, "--yes")
    assert code == 0, said + error
    assert "the context mesh.example is in" in said
    await box.wait_proved()
    code, _, error = await federation("status")
    assert code == 0, error
    for stage in ("configuration read", "connected", "namespaces provided", "pairs proved"):
        assert f"{stage}: done" in said
    text = box.config_file.read_text("utf-8")
    assert text.startswith(before)
    cluster = parse_config(text, file=str(box.config_file)).clusters[1]
    for role, credentials in (("signer", cluster.signer), ("controller", cluster.controller)):
        file = credentials.kubeconfig
        assert file == box.directory / "kubeconfigs" / f"west-{role}"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "client-key" not in file.read_text("utf-8"), "nothing of the administrator's"
    hub = (await box.get("/api/v1/status"))["controllers"][0]["hub"]
    made = west.get("clusterroles", "", "federation-signer")
    assert made is not None
    assert made["metadata"]["annotations"][ANNOTATION] == hub

    files = [p.read_bytes() for p in sorted((box.directory / "kubeconfigs").iterdir())]
    versions = [o["metadata"]["resourceVersion"] for o in west.objects("clusterroles")]
    code, said, error = await federation("clusters", "add", "west", *words, "--yes")
    assert code == 0, said + error
    assert "nothing was changed" in said
    assert box.config_file.read_text("utf-8") == text
    assert [p.read_bytes() for p in sorted((box.directory / "kubeconfigs").iterdir())] == files
    assert [o["metadata"]["resourceVersion"] for o in west.objects("clusterroles")] == versions

    code, said, error = await federation("clusters", "remove", "west", *words, "--yes")
    assert code == 0, said + error
    assert box.config_file.read_text("utf-8") == before
    assert not list((box.directory / "kubeconfigs").iterdir())
    assert west.get("namespaces", "", "federation-system") is None
    assert west.get("clusterrolebindings", "", "federation-controller") is None
    assert west.get("namespaces", "", "istio-system") is not None
    assert west.config_map("istio-system", "istio-ca-root-cert") is not None, "what runs there goes on"
    assert "valid in the other clusters until" in said
    code, said, error = await federation("clusters", "remove", "west", *words, "--yes")
    assert (code, "nothing was changed" in said) == (0, True)


async def discovered_and_admitted(box: Box, before: str) -> None:
    """East is the hub's own cluster here: a remote secret there names west, and decides nothing."""
    east, west = box.members["east"].sandbox, box.members["west"].sandbox
    assert east is not None
    assert west is not None
    east.create_service_account("istio-system", "discovery")
    east.apply_manifest(grants("istio-system", "", "secrets", account="discovery", of="istio-system"))
    own = box.directory / "own"
    own.touch(mode=0o600)
    own.write_text(json.dumps(east.service_account_kubeconfig("istio-system", "discovery")), "utf-8")
    east.create("secrets", remote_secret("west", west.url, ca=west.ca_pem))
    table = f'\n[discovery]\nkubeconfig = "{own}"\nistio_secrets = ["istio-system"]\n'
    box.config_file.write_text(before + table, "utf-8")
    await until_state(box, "open")

    words = ("--config", str(box.config_file), "--yes")
    code, printed, error = await federation("clusters", "discovered", "--json")
    assert code == 0, error
    (found,) = json.loads(printed)["clusters"]
    assert (found["name"], found["server"], found["disagreements"]) == ("west", west.url, [])
    code, printed, error = await federation("status")
    assert code == 0, error
    assert "federation clusters admit" in printed

    wrong = ("--kubeconfig", str(box.directory / "east-admin.kubeconfig"))
    code, said, error = await federation("clusters", "admit", "west", *words, *wrong)
    assert (code, "by another CA than was found" in error, "nothing was done" in error) == (1, True, True), (
        error
    )
    code, said, error = await federation("clusters", "admit", "nowhere", *words, *wrong)
    assert (code, "no cluster was discovered as nowhere" in error) == (1, True)
    assert box.config_file.read_text("utf-8") == before + table

    right = ("--kubeconfig", str(box.directory / "west-admin.kubeconfig"))
    code, said, error = await federation("clusters", "admit", "west", *words, *right)
    assert code == 0, said + error
    assert "pairs proved: done" in said
    assert "the CA of your kubeconfig" in said
    await until_state(box, "registered")


async def until_state(box: Box, state: str) -> None:
    """Wait until west was discovered and is in that state."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = (await box.get("/api/v1/discovered"))["clusters"]
            if [(cluster["name"], cluster["state"]) for cluster in found] == [("west", state)]:
                return
            await asyncio.sleep(0.2)


async def test_the_demo_says_how_to_rehearse_with_files_that_are_there(tmp_path: Path) -> None:
    said: list[str] = []
    async with open_demo(tmp_path, clusters=2, say=said.append, clock=SystemClock(), spare=True) as demo:
        lines = rehearsal(demo.box, command="federation")
        files = lines[0].removeprefix("export KUBECONFIG=").split(":")
        assert [Path(file).name.partition("-")[0] for file in files] == ["east", "west", "spare"]
        assert "spare" not in demo.box.members
        assert all(Path(file).is_file() for file in files)
        directories = {word for line in lines for word in line.split() if word.endswith("/manifests/member")}
        assert all((Path(directory) / "kustomization.yaml").is_file() for directory in directories)
        assert directories
        called = [line.split()[1:] for line in lines if line.startswith("federation ")]
        assert [" ".join(words[:2]) for words in called] == [
            "clusters add",
            "verify --url",
            "clusters remove",
        ]
        for words in called:
            build_parser().parse_args(words)
    assert not said, "nothing was started but the clusters"
