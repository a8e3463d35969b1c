"""``federation clusters add`` and ``remove``: what they refuse, where they end half-way, and what they leave alone.

That they lead to a proven matrix and back is shown in ``tests/e2e/test_registration.py``.
"""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from federation.cli import clusters
from federation.cli.pinning import FileChanged
from federation.cli.registration_places import HubObjects
from federation.cli.registration_progress import NAMES, Stage, stages
from federation.clusters.member_objects import CLUSTER, describe, member_objects
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.identity import ANNOTATION, ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.status.view import compose
from federation_sandbox.apiserver.faults import Answer
from federation_sandbox.cluster import SandboxCluster
from tests.cli.asking import asked
from tests.status.worlds import World
from tests.support import pki

HUB = pki.root("hub")
ID = "ab" * 16
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SIGNER = "ServiceAccount federation-system/federation-signer"
Run = Callable[..., Awaitable[int]]
OBJECTS = [describe(item) for item in member_objects()]


@dataclass
class Place:
    """A cluster to register, and the configuration of a hub that runs with one other."""

    west: SandboxCluster
    config: Path
    directory: Path
    run: Run
    world: World

    def words(self, *more: str) -> list[str]:
        return ["--config", str(self.config), "--kubeconfig", str(self.directory / "admin"), *more]

    async def add(self, *more: str, name: str = "west") -> int:
        return await self.run("clusters", "add", name, *self.words("--wait", "0", "--yes", *more))

    async def remove(self, *more: str) -> int:
        return await self.run("clusters", "remove", "west", *self.words("--wait", "0", "--yes", *more))

    @property
    def kubeconfigs(self) -> dict[str, bytes]:
        found = self.directory / "kubeconfigs"
        return {path.name: path.read_bytes() for path in found.iterdir()} if found.exists() else {}

    @property
    def made(self) -> list[str]:
        """The objects of the manifests that are there."""
        return [describe(item) for item in member_objects() if self.live(item) is not None]

    def live(self, item: dict[str, object]) -> dict[str, object] | None:
        plural = f"{str(item['kind']).lower()}s"
        meta = item["metadata"]
        assert isinstance(meta, dict)
        return self.west.get(plural, meta.get("namespace", ""), meta["name"])


def registered(*names: str) -> str:
    return "".join(
        f'[[clusters]]\nname = "{name}"\ncluster_id = "{name}"\n'
        f'[clusters.signer]\nkubeconfig = "{name}-s"\n[clusters.controller]\nkubeconfig = "{name}-c"\n'
        for name in names
    )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    config = tmp_path / "clusters.toml"
    config.write_text(
        'trust_domain = "mesh.example.org"\n[[trust.anchors]]\nfile = "root.pem"\n'
        f'sha256 = "{HUB.certificate.sha256}"\n[listener]\nlisten = "127.0.0.1:15443"\n'
        'server_names = ["hub.example.org"]\n[signer.authority]\nkind = "local"\nname = "x"\n'
        'certificate_file = "c"\nkey_file = "k"\n[state]\ndirectory = "hub-state"\n' + registered("east")
    )
    world = World(["east"], datetime.now(UTC).timestamp())
    world.edit_leader(hub=ID)
    async with SandboxCluster("west") as west, asked(clusters, world, tmp_path) as (run, _):
        west.write_kubeconfig(tmp_path / "admin")
        yield Place(west, config, tmp_path, run, world)


Said = pytest.CaptureFixture[str]


async def test_it_makes_what_the_manifests_hold_each_with_the_hubs_mark(place: Place, capsys: Said) -> None:
    assert await place.add("--istio-namespace", "istio-a", "--istio-namespace", "istio-b") == 0
    for item in member_objects(istio_namespaces=("istio-a", "istio-b")):
        live = place.live(item)
        assert live is not None, describe(item)
        meta = live["metadata"]
        assert isinstance(meta, dict)
        assert (meta["annotations"][ANNOTATION], meta["annotations"][CLUSTER]) == (ID, "west")
        assert meta["managedFields"][0]["manager"] == "federation-clusters-add"
        assert all(live[key] == item[key] for key in ("rules", "roleRef", "subjects") if key in item)
    entry = yaml.safe_load(place.kubeconfigs["west-signer"])
    assert entry["users"][0]["user"] == {"tokenFile": "west-signer.token"}
    assert entry["clusters"][0]["cluster"]["server"] == place.west.url
    directory = place.directory / "kubeconfigs"
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    said = capsys.readouterr().out
    assert "federation-controller may list, watch, create, patch secrets named istiod-tls in istio-b" in said
    assert place.kubeconfigs["west-signer.token"].decode() not in said


async def test_who_has_no_rights_there_changes_nothing(place: Place, capsys: Said) -> None:
    place.west.write_kubeconfig(place.directory / "admin", "viewer")
    before = place.config.read_text()
    assert await place.add() == 1
    said = capsys.readouterr().err
    assert "cluster-admin" in said
    assert "nothing was done" in said
    assert (place.made, place.kubeconfigs, place.config.read_text()) == ([], {}, before)


async def test_a_failure_half_way_says_what_was_done_and_the_same_command_goes_on(
    place: Place, capsys: Said
) -> None:
    before = place.config.read_text()
    with place.west.faults.inject(
        Answer.forbidden(), verb="create", resource="serviceaccounts/token", name="federation-controller"
    ):
        assert await place.add() == 1
    said = capsys.readouterr().err
    assert "done by then:\n  made Namespace istio-system in west" in said
    assert "to go on: the same command again; to undo: federation clusters remove west" in said
    assert place.config.read_text() == before, "the configuration comes last"
    first = place.kubeconfigs
    assert set(first) == {"west-signer", "west-signer.token"}
    assert await place.add() == 0
    assert first.items() <= place.kubeconfigs.items(), "what is good is kept"
    assert place.made == OBJECTS
    capsys.readouterr()
    assert await place.add() == 0
    assert "nothing was changed" in capsys.readouterr().out


async def test_a_failure_half_way_can_be_undone(place: Place) -> None:
    with place.west.faults.inject(Answer.server_error(), verb="create", resource="serviceaccounts/token"):
        assert await place.add() == 1
    assert place.made == OBJECTS
    assert await place.remove() == 0
    assert (place.made, place.kubeconfigs) == ([], {})


async def test_what_someone_else_made_is_used_and_never_taken_away(place: Place, capsys: Said) -> None:
    (account,) = [item for item in member_objects() if describe(item) == SIGNER]
    place.west.create_namespace("federation-system")
    place.west.create("serviceaccounts", account)
    assert await place.add() == 0
    assert "made by someone else" in capsys.readouterr().out
    assert await place.remove() == 0
    assert place.made == ["Namespace federation-system", SIGNER]


async def test_a_namespace_that_holds_something_else_stays(place: Place, capsys: Said) -> None:
    assert await place.add() == 0
    place.west.create("configmaps", {"metadata": {"name": "federation-guard"}}, namespace="federation-system")
    assert await place.remove() == 0
    assert (
        "stays Namespace federation-system: it holds configmaps/federation-guard" in capsys.readouterr().out
    )
    assert place.made == ["Namespace federation-system"]


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({ANNOTATION: "cd" * 16, CLUSTER: "west"}, "was made by the hub with the identity cdcd"),
        ({ANNOTATION: ID, CLUSTER: "occident"}, "has registered that cluster already, as occident"),
    ],
)
async def test_a_cluster_that_is_registered_is_left_alone(
    place: Place, capsys: Said, annotations: dict[str, str], said: str
) -> None:
    place.west.create("clusterroles", {"metadata": {"name": "federation-signer", "annotations": annotations}})
    assert await place.add() == 1
    assert said in capsys.readouterr().err
    assert place.made == ["ClusterRole federation-signer"]
    assert await place.remove() == 0
    assert place.made == ["ClusterRole federation-signer"], "by its own mark only"


async def test_a_server_that_another_entry_leads_to_is_refused(place: Place, capsys: Said) -> None:
    place.west.write_kubeconfig(place.directory / "east-c")
    assert await place.add() == 1
    assert "is registered already, as east" in capsys.readouterr().err


async def test_the_configuration_of_another_hub_is_refused(place: Place, capsys: Said) -> None:
    text = place.config.read_text()
    place.config.write_text(text + registered("north"))
    assert await place.add() == 1
    assert "they differ in north" in capsys.readouterr().err
    assert place.made == []


async def test_a_credential_that_it_did_not_make_is_not_replaced(place: Place, capsys: Said) -> None:
    (place.directory / "kubeconfigs").mkdir()
    (place.directory / "kubeconfigs" / "west-signer").write_text("mine")
    assert await place.add() == 1
    assert "was not made by this command" in capsys.readouterr().err
    assert place.kubeconfigs == {"west-signer": b"mine"}
    assert await place.remove() == 0
    assert place.kubeconfigs == {"west-signer": b"mine"}


async def test_a_token_that_is_taken_no_longer_is_made_anew(place: Place) -> None:
    assert await place.add() == 0
    before = place.kubeconfigs
    place.west.delete("serviceaccounts", "federation-system", "federation-signer")
    assert await place.add() == 0
    after = place.kubeconfigs
    assert {name for name in after if after[name] != before[name]} == {"west-signer.token"}


async def test_the_hub_may_reach_the_server_by_another_address(place: Place) -> None:
    assert await place.add("--server", "https://api.west.example:6443") == 0
    entry = yaml.safe_load(place.kubeconfigs["west-controller"])
    assert entry["clusters"][0]["cluster"]["server"] == "https://api.west.example:6443"


async def test_an_administrator_with_an_exec_plugin_works_and_is_not_handed_on(place: Place) -> None:
    credential = {
        "kind": "ExecCredential",
        "apiVersion": "client.authentication.k8s.io/v1",
        "status": {"token": place.west.user_token("admin", ("system:masters",))},
    }
    plugin = place.directory / "plugin"
    plugin.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(credential)}\nEND\n")
    plugin.chmod(0o700)
    document = place.west.kubeconfig(token="x")
    run = {"apiVersion": credential["apiVersion"], "command": "./plugin", "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": run}
    (place.directory / "admin").write_text(json.dumps(document))
    assert await place.add() == 0
    assert b"exec" not in place.kubeconfigs["west-signer"]


async def test_a_lost_cluster_is_removed_on_the_hubs_side(place: Place) -> None:
    before = place.config.read_text()
    assert await place.add() == 0
    await place.west.stop()
    assert await place.remove() == 1
    assert place.kubeconfigs
    assert await place.remove("--lost") == 0
    assert (place.config.read_text(), place.kubeconfigs) == (before, {})


async def test_a_hub_in_a_cluster_gets_it_by_its_config_map_and_its_secrets(place: Place) -> None:
    async with SandboxCluster("hub") as hub:
        hub.write_kubeconfig(place.directory / "hub-admin")
        hub.create_namespace("hub-system")
        text = place.config.read_text() + "# kept\n"
        hub.create(
            "configmaps",
            {"metadata": {"name": "federation-config"}, "data": {"clusters.toml": text, "other": "x"}},
            namespace="hub-system",
        )
        theirs = {"east": base64.b64encode(b"theirs").decode()}
        secret = {"metadata": {"name": "federation-signer-kubeconfigs"}, "data": theirs}
        hub.create("secrets", secret, namespace="hub-system")
        more = ("--hub-kubeconfig", str(place.directory / "hub-admin"), "--hub-namespace", "hub-system")

        def kept_in(role: str) -> dict[str, str]:
            found = hub.get("secrets", "hub-system", f"federation-{role}-kubeconfigs")
            assert found is not None
            data: dict[str, str] = found.get("data") or {}
            return data

        assert await place.add(*more) == 0
        config = hub.config_map("hub-system", "federation-config")
        assert config is not None
        assert config["data"]["clusters.toml"].startswith(text)
        assert 'kubeconfig = "/etc/federation/signer-kubeconfigs/west"' in config["data"]["clusters.toml"]
        assert config["data"]["other"] == "x"
        assert (kept_in("signer")["east"], set(kept_in("controller"))) == (
            theirs["east"],
            {"west", "west.token"},
        )
        assert b"tokenFile: west.token" in base64.b64decode(kept_in("signer")["west"])
        assert place.kubeconfigs == {}
        assert await place.remove(*more) == 0
        config = hub.config_map("hub-system", "federation-config")
        assert config is not None
        assert config["data"] == {"clusters.toml": text, "other": "x"}
        assert (kept_in("signer"), kept_in("controller")) == (theirs, {})


HELM = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "hub"},
}


async def test_what_a_release_would_take_back_is_not_written_and_its_values_are_said(
    place: Place, capsys: Said
) -> None:
    async with SandboxCluster("hub") as hub:
        hub.write_kubeconfig(place.directory / "hub-admin")
        hub.create_namespace("hub-system")
        text = place.config.read_text()
        made = {"metadata": {"name": "federation-config", **HELM}, "data": {"clusters.toml": text}}
        hub.create("configmaps", made, namespace="hub-system")
        more = ("--hub-kubeconfig", str(place.directory / "hub-admin"), "--hub-namespace", "hub-system")

        def write(text: str) -> None:
            meta = {"name": "federation-config", "namespace": "hub-system", **HELM}
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": meta,
                "data": {"clusters.toml": text},
            }
            hub.apply_manifest([body])

        assert await place.add("--allow", "shop/*", *more) == 1
        said = capsys.readouterr().out
        (line,) = [line for line in said.splitlines() if line.startswith("  - ")]
        assert yaml.safe_load(line) == [
            {"name": "west", "cluster_id": "west", "policy": {"allow": ["shop/*"]}}
        ]
        assert "the Helm release hub" in said
        assert (place.made, hub.get("secrets", "hub-system", "federation-signer-kubeconfigs")) == ([], None)

        mounted = "/etc/federation/{}-kubeconfigs/west"
        entry = registered("west").replace('"west-s"', f'"{mounted.format("signer")}"')
        write(text + entry.replace('"west-c"', f'"{mounted.format("controller")}"'))
        assert await place.add(*more) == 0
        assert len(place.made) == len(OBJECTS)
        assert await place.remove(*more) == 1
        assert "the list `clusters`" in capsys.readouterr().out
        assert len(place.made) == len(OBJECTS)
        write(text)
        assert await place.remove(*more) == 0

        hub.apply_manifest(
            [
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "federation-signer-kubeconfigs", "namespace": "hub-system", **HELM},
                }
            ]
        )
        assert await place.add(*more) == 1
        assert "take that Secret out" in capsys.readouterr().err


async def test_a_config_map_that_a_hook_of_a_release_made_is_written(tmp_path: Path) -> None:
    """What the chart makes with `configuration.mode: once`: no upgrade touches it."""
    async with SandboxCluster("hub") as hub:
        hub.create_namespace("hub-system")
        annotations = {**HELM["annotations"], "helm.sh/hook": "pre-install"}
        hook = {**HELM, "annotations": annotations}
        made = {"metadata": {"name": "federation-config", **hook}, "data": {"clusters.toml": "a = 1"}}
        hub.create("configmaps", made, namespace="hub-system")
        session = await ClusterSession.open(
            Credentials(kubeconfig=hub.write_kubeconfig(tmp_path / "admin")),
            cluster=ClusterName("hub"),
            timeouts=ClusterTimeouts(),
            clock=SystemClock(),
        )
        async with session:
            objects = HubObjects(session, namespace="hub-system", cluster="west")
            await objects.read()
            assert objects.owner == ""


async def test_a_config_map_that_another_writer_has_changed_is_not_replaced(tmp_path: Path) -> None:
    async with SandboxCluster("hub") as hub:
        hub.create_namespace("hub-system")
        made = {"metadata": {"name": "federation-config"}, "data": {"clusters.toml": "a = 1"}}
        hub.create("configmaps", made, namespace="hub-system")
        session = await ClusterSession.open(
            Credentials(kubeconfig=hub.write_kubeconfig(tmp_path / "admin")),
            cluster=ClusterName("hub"),
            timeouts=ClusterTimeouts(),
            clock=SystemClock(),
        )
        async with session:
            first, second = (HubObjects(session, namespace="hub-system", cluster="west") for _ in range(2))
            assert await first.read() == await second.read() == "a = 1"
            await first.replace("a = 2")
            with pytest.raises(FileChanged):
                await second.replace("a = 3")
            assert await second.read() == "a = 2"


def test_the_stages_say_what_each_waits_for() -> None:
    def last(**changes: dict[str, object]) -> Stage:
        world = World(["east", "west"], NOW.timestamp())
        for edit, fields in changes.items():
            getattr(world, edit)(*(["west"] if edit != "edit_signer" else ["signer-0"]), **fields)
        return stages(compose(world.document_set(), world.config, NOW), "west")[-1]

    assert (last().name, last().reached) == (NAMES[3], True)
    cut = last(edit_seen={"state": "unavailable", "reason": "timeout", "detail": "no answer"})
    assert (cut.name, "controller: no answer" in str(cut)) == (NAMES[1], True)
    behind = last(edit_signer={"config_digest": "older"})
    assert (behind.name, "signer-0 runs the configuration before it" in str(behind)) == (NAMES[0], True)
    pending = last(edit_publication={"current": 40, "pending": 8})
    assert (pending.name, pending.reached, pending.stop) == (NAMES[2], False, False)
    joining = last(edit_publication={"current": 40, "pending": 8, "joining": 8})
    assert (joining.name, joining.stop, "clusters join west" in joining.remedy) == (NAMES[2], True, True)
