"""Objects by which clusters are discovered, as istioctl, Cluster API and Open Cluster Management write them."""

from __future__ import annotations

import base64
from typing import Any

import yaml

from federation_sandbox.apiserver.resources import Resource
from tests.support import pki

ISTIO_SYSTEM = "istio-system"
PROFILES = Resource(
    group="multicluster.x-k8s.io",
    version="v1alpha1",
    plural="clusterprofiles",
    kind="ClusterProfile",
    singular="clusterprofile",
    strategic=False,
)


def ca_pem(name: str = "api server") -> bytes:
    """A CA of an API server."""
    return pki.root(name).pem


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def kubeconfig(
    server: str, *, ca: bytes | None = None, token: str = "eyJ.of.the-reader", name: str = "east"
) -> dict[str, Any]:
    """As ``istioctl create-remote-secret`` writes it."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority-data": encoded(ca or ca_pem())},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        "preferences": {},
        "users": [{"name": name, "user": {"token": token}}],
    }


def text_of(document: object) -> bytes:
    return yaml.safe_dump(document).encode()


def secret(
    name: str, data: dict[str, bytes], *, namespace: str = ISTIO_SYSTEM, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "type": "Opaque",
        "data": {key: encoded(text) for key, text in data.items()},
    }


def remote_secret(
    cluster: str, server: str, *, ca: bytes | None = None, namespace: str = ISTIO_SYSTEM
) -> dict[str, Any]:
    """As ``istioctl create-remote-secret --name CLUSTER`` prints it."""
    config = text_of(kubeconfig(server, ca=ca, name=cluster))
    found = secret(
        f"istio-remote-secret-{cluster}",
        {cluster: config},
        namespace=namespace,
        labels={"istio/multiCluster": "true"},
    )
    found["metadata"]["annotations"] = {"networking.istio.io/cluster": cluster}
    return found


def cluster_api_secret(cluster: str, server: str, *, namespace: str) -> dict[str, Any]:
    """As Cluster API writes it, which has an administrator's certificate in it."""
    config = kubeconfig(server, name=cluster)
    config["users"][0]["user"] = {
        "client-certificate-data": encoded(ca_pem()),
        "client-key-data": encoded(b"a key"),
    }
    return secret(
        f"{cluster}-kubeconfig",
        {"value": text_of(config)},
        namespace=namespace,
        labels={"cluster.x-k8s.io/cluster-name": cluster},
    )


def cluster_profile(cluster: str, server: str, *, namespace: str, ca: bytes | None = None) -> dict[str, Any]:
    """As Open Cluster Management fills it, with its cluster-proxy as access provider."""
    return {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ClusterProfile",
        "metadata": {
            "name": cluster,
            "namespace": namespace,
            "labels": {
                "open-cluster-management.io/cluster-name": cluster,
                "x-k8s.io/cluster-manager": "open-cluster-management",
            },
        },
        "spec": {"clusterManager": {"name": "open-cluster-management"}, "displayName": cluster},
        "status": {
            "version": {"kubernetes": "v1.35.1"},
            "properties": [{"name": "cluster.clusterset.k8s.io", "value": cluster}],
            "accessProviders": [
                {
                    "name": "open-cluster-management",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": encoded(ca or ca_pem()),
                        "extensions": [
                            {
                                "name": "client.authentication.k8s.io/exec",
                                "extension": {"clusterName": cluster},
                            }
                        ],
                    },
                }
            ],
        },
    }


def grants(
    namespace: str,
    group: str,
    resource: str,
    *,
    account: str = "federation-controller",
    of: str = "federation-system",
) -> list[dict[str, Any]]:
    """As the chart grants the controller what a source takes."""
    name, api = f"federation-discovery-{resource}", "rbac.authorization.k8s.io"
    rule = {"apiGroups": [group], "resources": [resource], "verbs": ["get", "list"]}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": of}
    meta = {"name": name, "namespace": namespace}
    return [
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": meta, "rules": [rule]},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]
