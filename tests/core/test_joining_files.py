"""What an operator applies in a cluster that joins: scripts that a shell takes, the bundle to the byte, and no key."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from federation.core.istio.operator_files import SCRIPT, JoinFile, Merged, files_for
from federation.core.istio.settings import IstioSettings
from federation.core.trust.joining import ISTIOD, JoinStep
from tests.support import pki

HUB, OWN = pki.root("hub"), pki.root("own")
MERGED = Merged(generation=7, sha256="ab" * 32, pem=HUB.pem + OWN.pem, own_pem=OWN.pem)
WEST = IstioSettings(
    cluster="west",
    listener="hub.example.org:15443",
    trust_domain="mesh.example",
    cluster_id="west",
    mesh_id="mesh.example",
)
ELSEWHERE = IstioSettings(
    cluster="west",
    listener="hub.example.org:15443",
    trust_domain="mesh.example",
    cluster_id="west",
    mesh_id="mesh.example",
    namespace="mesh-two",
)


def made(step: JoinStep, *settings: IstioSettings, writers: tuple[str, ...] = (ISTIOD,)) -> list[JoinFile]:
    return list(files_for(step, settings or (WEST,), MERGED, distributors=writers))


@pytest.mark.parametrize("step", JoinStep)
def test_every_script_is_one_that_a_shell_takes(step: JoinStep, tmp_path: Path) -> None:
    for file in made(step, WEST, ELSEWHERE):
        assert not re.search(r"@[A-Z0-9]+@", file.text), "a value is missing"
        if file.mode == SCRIPT:
            place = tmp_path / "script.sh"
            place.write_text(file.text)
            subprocess.run(["sh", "-n", str(place)], check=True)
            assert file.text.startswith("#!/bin/sh\n# Cluster west: ")


def test_the_bundle_is_in_it_to_the_byte_and_the_own_root_to_compare_with() -> None:
    (file,) = made(JoinStep.SERVE)
    assert file.name == "1-cacerts.sh"
    (encoded,) = re.findall(r"^bundle=(\S+)$", file.text, re.MULTILINE)
    assert base64.b64decode(encoded) == MERGED.pem
    assert f"cat >\"$work/own.pem\" <<'PEM'\n{OWN.pem.decode()}PEM\n" in file.text
    assert "PRIVATE KEY" not in file.text
    assert file.text.count("ca-key.pem") == 2, "from one Secret to the other, in one template"


def test_each_namespace_with_an_istiod_has_a_script_of_its_own() -> None:
    assert [file.name for file in made(JoinStep.SERVE, WEST, ELSEWHERE)] == [
        "1-cacerts.sh",
        "1-cacerts-mesh-two.sh",
    ]
    assert "namespace=mesh-two\n" in made(JoinStep.SERVE, WEST, ELSEWHERE)[1].text
    assert [file.name for file in made(JoinStep.CONTROL_PLANE, WEST, ELSEWHERE)] == [
        "2-restart-istiod.sh",
        "2-restart-istiod-mesh-two.sh",
    ]


@pytest.mark.parametrize(
    ("step", "folder", "ca_server"),
    [(JoinStep.MOVE, "3-move", "true"), (JoinStep.SWITCH_OFF, "4-switch-off", "false")],
)
def test_istiods_ca_stays_on_until_every_pod_has_moved(step: JoinStep, folder: str, ca_server: str) -> None:
    files = {file.name: file.text for file in made(step)}
    helm = yaml.safe_load(files[f"{folder}/helm-istiod.yaml"])
    assert helm["pilot"]["env"]["ENABLE_CA_SERVER"] == ca_server
    assert helm["global"]["caAddress"] == WEST.listener
    assert (f"{folder}/restart-pods.sh" in files) is (step is JoinStep.MOVE)


def test_a_ca_that_is_not_istiods_gets_the_bundle_as_a_config_map() -> None:
    (file,) = made(JoinStep.SERVE, writers=("cert-manager-istio-csr",))
    found = yaml.safe_load(file.text)
    assert (found["kind"], found["data"]["ca.pem"]) == ("ConfigMap", MERGED.pem.decode())


@pytest.mark.parametrize("step", [JoinStep.ACCEPT, JoinStep.RENEW, JoinStep.TAKEOVER])
def test_where_the_hub_or_time_does_it_nothing_is_written(step: JoinStep) -> None:
    assert made(step) == []
