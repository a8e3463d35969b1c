"""Discovery: which groups, versions and resources this server has, and what version it says it is; OpenAPI of them."""

from __future__ import annotations

from collections.abc import Iterable

from federation_sandbox.apiserver.openapi import openapi
from federation_sandbox.apiserver.resources import VERBS, ResourceTable
from federation_sandbox.apiserver.reviews import AUTHENTICATION, AUTHORIZATION, Reviews
from federation_sandbox.apiserver.store import Obj

_SUBRESOURCE_VERBS = ["get", "patch", "update"]


class Discovery:
    """Answers ``/version``, ``/api``, ``/apis`` and what lies directly below them, and ``/openapi/v3``."""

    def __init__(self, table: ResourceTable, reviews: Reviews, version: str) -> None:
        self._table = table
        self._reviews = reviews
        self._version = version

    def answer(self, path: str, address: str) -> Obj | None:
        """The body for a path, or None where the path is no discovery."""
        parts = [part for part in path.split("/") if part]
        if parts == ["version"]:
            return self._about()
        if parts == ["api"]:
            route = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [route]}
        if parts == ["apis"]:
            groups = [self._group(group) for group in self._groups() if group]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if parts == ["api", "v1"]:
            return self._resources("", "v1")
        if parts[:1] == ["apis"] and len(parts) == 2 and parts[1] in self._groups():
            return {"kind": "APIGroup", "apiVersion": "v1"} | self._group(parts[1])
        if parts[:1] == ["apis"] and len(parts) == 3 and parts[2] in self._versions(parts[1]):
            return self._resources(parts[1], parts[2])
        return openapi(self._table, path)

    def serves(self, group: str) -> bool:
        """Whether there is such a group at all: the aggregator answers for each of its versions."""
        return group in self._groups()

    def _about(self) -> Obj:
        major, minor, *_ = self._version.removeprefix("v").split(".")
        return {
            "major": major,
            "minor": minor,
            "gitVersion": self._version,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": "sandbox",
        }

    def _groups(self) -> list[str]:
        return sorted({resource.group for resource in self._table} | {AUTHENTICATION, AUTHORIZATION})

    def _versions(self, group: str) -> list[str]:
        found = {resource.version for resource in self._table if resource.group == group}
        found |= {"v1"} if group in {AUTHENTICATION, AUTHORIZATION} else set()
        return sorted(found, key=lambda version: ("alpha" in version, "beta" in version, version))

    def _group(self, group: str) -> Obj:
        versions = [
            {"groupVersion": f"{group}/{version}", "version": version} for version in self._versions(group)
        ]
        return {"name": group, "versions": versions, "preferredVersion": versions[0]}

    def _resources(self, group: str, version: str) -> Obj:
        entries = [
            entry
            for resource in self._table
            if (resource.group, resource.version) == (group, version)
            for entry in (
                _entry(
                    resource.plural, resource.kind, VERBS, resource.singular, namespaced=resource.namespaced
                )
                | ({"shortNames": list(resource.short_names)} if resource.short_names else {})
                | ({"categories": list(resource.categories)} if resource.categories else {}),
                *(
                    _subresource_entry(
                        f"{resource.plural}/{sub}", resource.kind, namespaced=resource.namespaced
                    )
                    for sub in sorted(resource.subresources)
                ),
            )
        ]
        if version == "v1":
            entries += [
                _entry(plural, kind, ["create"], kind.lower(), namespaced=plural.startswith("local"))
                for (one_group, plural), (kind, _) in self._reviews.kinds.items()
                if one_group == group
            ]
        full = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": full, "resources": entries}


def _entry(name: str, kind: str, verbs: Iterable[str], singular: str, *, namespaced: bool) -> Obj:
    singular = singular or kind.lower()
    return {
        "name": name,
        "singularName": singular,
        "namespaced": namespaced,
        "kind": kind,
        "verbs": list(verbs),
    }


def _subresource_entry(name: str, kind: str, *, namespaced: bool) -> Obj:
    if name.endswith("/token"):
        entry = _entry(name, "TokenRequest", ["create"], "", namespaced=namespaced)
        entry |= {"group": AUTHENTICATION, "version": "v1"}
    elif name.endswith("/portforward"):
        entry = _entry(name, "PodPortForwardOptions", ["create", "get"], "", namespaced=namespaced)
    else:
        entry = _entry(name, kind, _SUBRESOURCE_VERBS, "", namespaced=namespaced)
    return entry | {"singularName": ""}
