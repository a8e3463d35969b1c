"""What an administrator and the kubelet do in a member cluster: namespaces, service accounts, pods, tokens, grants.

It speaks the Kubernetes API only, with an administrator's kubeconfig, so that the demo and the end-to-end tests run the
same steps on a cluster in a box and on a real one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec
import yaml

from federation.clusters.session import ClusterSession
from federation.core.clock import Clock
from federation.core.config.access import ClusterTimeouts, Credentials
from federation.core.errors import ClusterNotFound, InvalidValue
from federation.core.identity import ClusterName

FIELD_MANAGER: Final = "cluster-administrator"
APPLY: Final = "application/apply-patch+yaml"
PLURALS: Final = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "Namespace": "namespaces",
    "Pod": "pods",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ServiceAccount": "serviceaccounts",
}


def object_path(item: Mapping[str, Any]) -> str:
    """The API path of a Kubernetes object given as a dictionary."""
    kind, version = item["kind"], item["apiVersion"]
    if kind not in PLURALS:
        raise InvalidValue(f"objects of kind {kind!r} are not known here")
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    metadata = item["metadata"]
    place = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{prefix}{place}/{PLURALS[kind]}/{quote(metadata['name'])}"


def read_kustomization(directory: Path) -> list[dict[str, Any]]:
    """Every object of a Kustomize directory that only lists resources."""
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text("utf-8"))
    objects: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        objects.extend(item for item in yaml.safe_load_all((directory / name).read_text("utf-8")) if item)
    return objects


class MemberWorld:
    """One member cluster through its administrator's eyes."""

    def __init__(self, name: ClusterName, session: ClusterSession, kubeconfig: Path) -> None:
        self.name = name
        self.kubeconfig = kubeconfig
        self._session = session

    @classmethod
    async def open(cls, name: ClusterName, kubeconfig: Path, *, clock: Clock) -> Self:
        """Connect as the administrator of that kubeconfig."""
        session = await ClusterSession.open(
            Credentials(kubeconfig=kubeconfig), cluster=name, timeouts=ClusterTimeouts(), clock=clock
        )
        return cls(name, session, kubeconfig)

    async def close(self) -> None:
        """Close the connection; what was created stays."""
        await self._session.close()

    async def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Server-side apply each object, in order, as an administrator would with kubectl."""
        for item in objects:
            await self._session.request(
                "PATCH",
                object_path(item),
                params={"fieldManager": FIELD_MANAGER, "force": "true"},
                body=msgspec.json.encode(item),
                content_type=APPLY,
            )

    async def add_namespace(self, name: str, **labels: str) -> None:
        """Create a namespace, or set its labels."""
        await self.apply(
            [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}]
        )

    async def add_workload(self, namespace: str, service_account: str) -> str:
        """Create a namespace, a service account and a pod that runs as it; returns the pod's name."""
        await self.add_namespace(namespace)
        pod = f"{service_account}-0"
        place = {"namespace": namespace}
        await self.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": service_account, **place},
                },
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": pod, **place},
                    "spec": {
                        "serviceAccountName": service_account,
                        "automountServiceAccountToken": False,
                        "containers": [{"name": "app", "image": "app"}],
                    },
                },
            ]
        )
        return pod

    async def token(
        self,
        namespace: str,
        service_account: str,
        *,
        pod: str | None = None,
        audience: str = "",
        seconds: int = 3600,
    ) -> str:
        """A token of the service account by TokenRequest, bound to the pod where one is named."""
        spec: dict[str, Any] = {"audiences": [audience] if audience else [], "expirationSeconds": seconds}
        if pod is not None:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
        answer = await self._session.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token",
            body=msgspec.json.encode(
                {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            ),
        )
        token: str = msgspec.json.decode(answer)["status"]["token"]
        return token

    async def config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A ConfigMap as the cluster holds it, or None."""
        try:
            answer = await self._session.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        except ClusterNotFound:
            return None
        held: dict[str, Any] = msgspec.json.decode(answer)
        return held

    async def delete(self, path: str) -> None:
        """Delete the object at that API path, at once."""
        await self._session.request("DELETE", path, params={"gracePeriodSeconds": "0"})

    async def write_role_kubeconfig(self, path: Path, *, service_account: str, seconds: int = 86400) -> Path:
        """A kubeconfig that holds nothing but the cluster's address, its CA and a token of that service account."""
        admin = yaml.safe_load(self.kubeconfig.read_text("utf-8"))
        cluster = dict(admin["clusters"][0]["cluster"])
        if "certificate-authority" in cluster:
            authority = Path(cluster.pop("certificate-authority"))
            cluster["certificate-authority-data"] = base64.b64encode(authority.read_bytes()).decode("ascii")
        token = await self.token("federation-system", service_account, seconds=seconds)
        name = str(self.name)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": service_account, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": service_account}}],
            "current-context": name,
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document), "utf-8")
        return path
