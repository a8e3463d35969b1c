"""Objects as Istio's charts make them, cut down to what says how a control plane is set up."""

from __future__ import annotations

import base64
import json
from typing import Any

import yaml

LISTENER = "hub.example.org:15443"
TRUST_DOMAIN = "mesh.example.org"

Object = dict[str, Any]


def suffix(revision: str) -> str:
    return "" if revision == "default" else f"-{revision}"


def istiod(
    cluster: str = "east",
    *,
    revision: str = "default",
    namespace: str = "istio-system",
    **environment: str | None,
) -> Object:
    """Deployment ``istiod`` for the hub; a variable given as None is left out."""
    name = f"istiod{suffix(revision)}"
    variables: dict[str, str | None] = {
        "REVISION": revision,
        "PILOT_CERT_PROVIDER": "istiod",
        "CA_TRUSTED_NODE_ACCOUNTS": f"{namespace}/ztunnel",
        "ENABLE_CA_SERVER": "false",
        "CLUSTER_ID": cluster,
        "SOME_PASSWORD": "hunter2",
        **environment,
    }
    own = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    volumes = [
        {"name": "local-certs", "emptyDir": {"medium": "Memory"}},
        {"name": "cacerts", "secret": {"secretName": "cacerts", "optional": True}},
        {"name": "istio-csr-dns-cert", "secret": {"secretName": "istiod-tls", "optional": True}},
        {"name": "istio-csr-ca-configmap", "configMap": {"name": "istio-ca-root-cert", "optional": True}},
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app": "istiod", "istio.io/rev": revision},
        },
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "istiod", "istio.io/rev": revision}},
            "template": {
                "metadata": {"labels": {"app": "istiod", "istio.io/rev": revision}},
                "spec": {
                    "serviceAccountName": name,
                    "containers": [
                        {
                            "name": "discovery",
                            "image": "registry.istio.io/release/pilot:1.31.0",
                            "env": [own, *_variables(variables)],
                        }
                    ],
                    "volumes": volumes,
                },
            },
        },
    }


def ztunnel(
    cluster: str = "east",
    *,
    namespace: str = "istio-system",
    account: str = "ztunnel",
    **environment: str | None,
) -> Object:
    """DaemonSet ``ztunnel`` for the hub."""
    variables: dict[str, str | None] = {
        "CA_ADDRESS": LISTENER,
        "XDS_ADDRESS": "istiod.istio-system.svc:15012",
        "ISTIO_META_CLUSTER_ID": cluster,
        **environment,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": account, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "ztunnel"}},
            "template": {
                "metadata": {"labels": {"app": "ztunnel"}},
                "spec": {
                    "serviceAccountName": account,
                    "containers": [
                        {
                            "name": "istio-proxy",
                            "image": "registry.istio.io/release/ztunnel:1.31.0",
                            "env": _variables(variables),
                        }
                    ],
                    "volumes": [{"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}],
                },
            },
        },
    }


def mesh(
    trust_domain: str | None = TRUST_DOMAIN,
    *,
    aliases: tuple[str, ...] = (),
    revision: str = "default",
    namespace: str = "istio-system",
) -> Object:
    """ConfigMap ``istio``."""
    settings: Object = {"rootNamespace": namespace, "enablePrometheusMerge": True}
    if trust_domain is not None:
        settings["trustDomain"] = trust_domain
    if aliases:
        settings["trustDomainAliases"] = list(aliases)
    data = {"meshNetworks": "networks: {}", "mesh": yaml.safe_dump(settings)}
    return _config_map("istio", revision, namespace, data)


def injection(
    cluster: str = "east",
    *,
    ca_address: str = LISTENER,
    network: str = "",
    audience: str = "istio-ca",
    provider: str = "istiod",
    revision: str = "default",
    namespace: str = "istio-system",
    **further: Any,
) -> Object:
    """ConfigMap ``istio-sidecar-injector``."""
    values = {
        "global": {
            "caAddress": ca_address,
            "multiCluster": {"clusterName": cluster},
            "network": network,
            "meshID": TRUST_DOMAIN,
            "pilotCertProvider": provider,
            "sds": {"token": {"aud": audience}},
            **further,
        },
        "revision": "" if revision == "default" else revision,
    }
    data = {"values": json.dumps(values, indent=2), "config": "policy: enabled"}
    return _config_map("istio-sidecar-injector", revision, namespace, data)


def injector(
    ca_bundle: bytes = b"",
    *,
    revision: str = "default",
    namespace: str = "istio-system",
    kind: str = "Mutating",
) -> Object:
    """A webhook configuration that calls istiod."""
    service = {"name": f"istiod{suffix(revision)}", "namespace": namespace, "path": "/inject", "port": 443}
    client: Object = {"service": service}
    if ca_bundle:
        client["caBundle"] = base64.b64encode(ca_bundle).decode()
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {
            "name": f"istio-sidecar-injector{suffix(revision)}-{namespace}",
            "labels": {"istio.io/rev": revision, "app": "sidecar-injector"},
        },
        "webhooks": [
            {
                "name": f"{name}.sidecar-injector.istio.io",
                "clientConfig": client,
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
            for name in ("rev.namespace", "rev.object")
        ],
    }


def _variables(variables: dict[str, str | None]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in variables.items() if value is not None]


def _config_map(name: str, revision: str, namespace: str, data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{name}{suffix(revision)}",
            "namespace": namespace,
            "labels": {"istio.io/rev": revision},
        },
        "data": data,
    }
