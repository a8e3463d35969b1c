"""The real charts, rendered with what ``federation clusters istio`` prints, are what ``clusters check`` wants to see.

Runs where FEDERATION_ISTIOCTL names istioctl, and FEDERATION_ISTIO_MANIFESTS the ``manifests`` of that version.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from federation.clusters.istio_findings import compare_istio
from federation.clusters.istio_inventory import (
    IstioFound,
    read_injection,
    read_istiod,
    read_mesh,
    read_webhook,
    read_ztunnel,
)
from federation.core.config.clusters import ClusterConfig, IstioConfig
from federation.core.identity import ServiceAccountRef
from federation.core.istio.settings import Form, settings_files, settings_of
from tests.clusters.test_istio_findings import EAST, HUB
from tests.support.patience import PATIENCE

ISTIOCTL = os.environ.get("FEDERATION_ISTIOCTL", "")
CHARTS = os.environ.get("FEDERATION_ISTIO_MANIFESTS", "")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (ISTIOCTL and CHARTS), reason="FEDERATION_ISTIOCTL names no istioctl"),
]


async def rendered(directory: Path, operator: str) -> list[dict[str, Any]]:
    file = directory / "operator.yaml"
    file.write_text(operator)
    process = await asyncio.create_subprocess_exec(
        *(ISTIOCTL, "manifest", "generate", f"--manifests={CHARTS}", "-f", str(file)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    return [item for item in yaml.load_all(out, Loader=yaml.CSafeLoader) if item]


def read(objects: list[dict[str, Any]]) -> IstioFound:
    """As ``read_istio`` does it, from what the charts made instead of an API server."""
    found: dict[str, list[Any]] = {
        kind: [] for kind in ("istiods", "ztunnels", "meshes", "injections", "webhooks")
    }
    for item in objects:
        kind, name = item["kind"], item["metadata"]["name"]
        raw = msgspec.Raw(json.dumps(item).encode())
        if kind == "Deployment" and name.startswith("istiod"):
            found["istiods"].append(read_istiod(raw))
        elif kind == "DaemonSet" and name in {"ztunnel", "tunnel"}:
            found["ztunnels"].append(read_ztunnel(raw))
        elif kind == "ConfigMap" and name.startswith("istio-sidecar-injector"):
            found["injections"].append(read_injection(raw))
        elif kind == "ConfigMap" and name in {"istio", "istio-canary"}:
            found["meshes"].append(read_mesh(raw))
        elif kind == "MutatingWebhookConfiguration" and (webhook := read_webhook(raw, "mutatingwebhook")):
            found["webhooks"].append(webhook)
    return IstioFound(**{kind: tuple(values) for kind, values in found.items()})


SIDECARS = replace(EAST, policy=replace(EAST.policy, trusted_node_accounts=()))
CONFIGURED = {
    "sidecars": SIDECARS,
    "sidecars of a network": replace(SIDECARS, network="net-a"),
    "ambient": EAST,
    "ambient of a network": replace(EAST, network="net-a"),
    "ztunnel of its own namespace and name": replace(
        EAST, policy=replace(EAST.policy, trusted_node_accounts=(ServiceAccountRef("mesh", "tunnel"),))
    ),
    "a revision in a namespace": replace(
        EAST, istio=IstioConfig(revisions=("canary",), namespaces=("mesh",))
    ),
    "an audience": replace(SIDECARS, audience="hub"),
}


@pytest.mark.parametrize("form", ["istioctl", "helm"])
@pytest.mark.parametrize("config", CONFIGURED.values(), ids=CONFIGURED)
async def test_what_is_printed_makes_a_control_plane_that_the_check_finds_nothing_in(
    tmp_path: Path, config: ClusterConfig, form: Form
) -> None:
    files = {file.name: file.text for file in settings_files(settings_of(HUB, config), form)}
    operator = files["istioctl.yaml"] if form == "istioctl" else as_operator(files, config)
    found = read(await rendered(tmp_path, operator))

    assert found.istiods
    assert found.meshes
    assert found.injections
    assert bool(found.ztunnels) is bool(config.policy.trusted_node_accounts)
    wrong = [result for result in compare_istio(found, config, HUB) if result.outcome != "ok"]
    assert {result.check for result in wrong} <= {"istio_webhooks"}  # istiod writes the caBundle once it runs


def as_operator(files: dict[str, str], config: ClusterConfig) -> str:
    """The values of the charts in the one file that istioctl takes: nothing of ours is added but where ztunnel goes."""
    values = yaml.safe_load(files["helm-istiod.yaml"])
    spec: dict[str, Any] = {"values": values}
    if revision := values.pop("revision", ""):
        spec["revision"] = revision
    if config.istio.namespaces != ("istio-system",):
        spec["namespace"] = config.istio.namespaces[0]
    if config.policy.trusted_node_accounts:
        values["ztunnel"] = yaml.safe_load(files["helm-ztunnel.yaml"])
        place = config.policy.trusted_node_accounts[0].namespace
        spec["components"] = {"ztunnel": {"enabled": True, "namespace": place}, "cni": {"enabled": True}}
    return yaml.safe_dump({"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator", "spec": spec})


async def test_the_east_west_gateway_is_injected_and_serves_its_network(tmp_path: Path) -> None:
    config = replace(SIDECARS, network="net-a")
    files = {file.name: file.text for file in settings_files(settings_of(HUB, config), "istioctl")}
    objects = await rendered(tmp_path, files["istioctl-eastwest.yaml"])
    (gateway,) = [item for item in objects if item["kind"] == "Deployment"]
    assert gateway["metadata"]["labels"]["topology.istio.io/network"] == "net-a"
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "auto"
    assert {"name": "ISTIO_META_REQUESTED_NETWORK_VIEW", "value": "net-a"} in container["env"]
