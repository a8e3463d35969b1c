"""The examples of entrances lead to the hub's Service and do not open TLS."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.manifests.tree import MANIFESTS, Tree

FOLDER = MANIFESTS / "passthrough"
NAME = "hub.example.org"


def objects(name: str) -> dict[str, Any]:
    """The objects of an example, by kind."""
    return {item["kind"]: item for item in yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text("utf-8"))}


def host(service: dict[str, Any]) -> str:
    return f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"


@pytest.fixture
def service(hub: Tree) -> dict[str, Any]:
    return hub.one("Service", "federation-hub")


def test_gateway_api(service: dict[str, Any]) -> None:
    found = objects("gateway-api")
    (listener,) = found["Gateway"]["spec"]["listeners"]
    route = found["TLSRoute"]
    (parent,) = route["spec"]["parentRefs"]
    (backend,) = route["spec"]["rules"][0]["backendRefs"]

    assert (listener["protocol"], listener["tls"]) == ("TLS", {"mode": "Passthrough"})
    assert [listener["hostname"]] == route["spec"]["hostnames"] == [NAME]
    assert parent == {
        "name": found["Gateway"]["metadata"]["name"],
        "namespace": found["Namespace"]["metadata"]["name"],
        "sectionName": listener["name"],
    }
    assert found["Gateway"]["metadata"]["namespace"] == parent["namespace"]
    assert route["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert backend == {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}


def test_istio(service: dict[str, Any]) -> None:
    found = objects("istio")
    (server,) = found["Gateway"]["spec"]["servers"]
    (rule,) = found["VirtualService"]["spec"]["tls"]
    (match,), (route,) = rule["match"], rule["route"]
    port = service["spec"]["ports"][0]["port"]

    assert server["tls"] == {"mode": "PASSTHROUGH"}
    assert server["hosts"] == found["VirtualService"]["spec"]["hosts"] == match["sniHosts"] == [NAME]
    assert found["VirtualService"]["spec"]["gateways"] == [found["Gateway"]["metadata"]["name"]]
    assert server["port"]["number"] == match["port"] == port
    assert route["destination"] == {"host": host(service), "port": {"number": port}}
    assert found["DestinationRule"]["spec"]["host"] == host(service)
    assert found["DestinationRule"]["spec"]["trafficPolicy"] == {"tls": {"mode": "DISABLE"}}


def test_openshift(service: dict[str, Any]) -> None:
    route = objects("openshift")["Route"]

    assert route["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert route["spec"]["tls"]["termination"] == "passthrough"
    assert route["spec"]["to"]["name"] == service["metadata"]["name"]
    assert route["spec"]["port"]["targetPort"] == service["spec"]["ports"][0]["name"]
    assert route["spec"]["host"] == NAME


def test_the_page_lists_every_example() -> None:
    page = (FOLDER / "README.md").read_text("utf-8")

    assert set(re.findall(r"^\| `([\w-]+\.yaml)`", page, re.MULTILINE)) == {
        path.name for path in FOLDER.glob("*.yaml")
    }
