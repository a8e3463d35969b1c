"""A rendered tree of manifests/, with the questions that tests ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.manifests.kustomize import Object, render

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
TREES = [
    *(".", "hub", "member", "member/guard", "member/guard-every-writer", "volume", "in-cluster", "openshift"),
    "discovery",
]
ROLES = ("signer", "controller")


@dataclass(frozen=True)
class Tree:
    objects: tuple[Object, ...]

    @classmethod
    def of(cls, name: str) -> Tree:
        return cls(tuple(render(MANIFESTS / name)))

    def all(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str, namespace: str = "") -> Object:
        (found,) = [
            item
            for item in self.all(kind)
            if item["metadata"]["name"] == name and namespace in {"", item["metadata"].get("namespace")}
        ]
        return found

    def deployment(self, role: str) -> Object:
        return self.one("Deployment", f"federation-{role}")

    def pod(self, role: str) -> Object:
        spec: Object = self.deployment(role)["spec"]["template"]["spec"]
        return spec

    def container(self, role: str) -> Object:
        (container,) = self.pod(role)["containers"]
        found: Object = container
        return found

    def arguments(self, role: str) -> dict[str, str]:
        """--name=value arguments of the role's container."""
        verb, *options = self.container(role)["args"]
        assert verb == role
        return dict(option.removeprefix("--").split("=", 1) for option in options)

    def ports(self, role: str) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container(role)["ports"]}

    def volumes(self, role: str) -> dict[str, Object]:
        return {volume["name"]: volume for volume in self.pod(role)["volumes"]}

    def mounts(self, role: str) -> dict[str, Object]:
        """Mount path -> volume."""
        volumes = self.volumes(role)
        return {mount["mountPath"]: volumes[mount["name"]] for mount in self.container(role)["volumeMounts"]}

    def secrets(self, role: str) -> set[str]:
        """Names of every Secret that the role's pod can see."""
        names = {v["secret"]["secretName"] for v in self.volumes(role).values() if "secret" in v}
        container = self.container(role)
        names |= {
            entry["secretRef"]["name"] for entry in container.get("envFrom", []) if "secretRef" in entry
        }
        for entry in container.get("env", []):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                names.add(reference["name"])
        return names


def selects(selector: Any, labels: dict[str, str]) -> bool:
    """Does a selector of matchLabels select these labels?"""
    return all(labels.get(name) == value for name, value in selector.items())
