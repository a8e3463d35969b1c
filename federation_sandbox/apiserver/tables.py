"""Tables: what ``kubectl get`` prints, made by the server.

A real API server has columns for each of its types; here those that people look at in a federation have theirs, and
every other type has name and age. A table holds each object's metadata, as a client that says nothing else gets it.

Source: "Kubernetes API Concepts", "Receiving resources as Tables"; columns of k8s.io/kubernetes
``pkg/printers/internalversion/printers.go``; ages of k8s.io/apimachinery ``pkg/util/duration``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from federation_sandbox.apiserver.resources import Resource
from federation_sandbox.apiserver.store import Obj, encode

Cell = str | int
_DAY: Final = 24 * 60 * 60
_UNKNOWN: Final = "<unknown>"
_NONE: Final = "<none>"


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    cell: Callable[[Mapping[str, Any]], Cell]
    wide: bool = False  # shown by `-o wide` alone
    number: bool = False

    def definition(self) -> Obj:
        return {
            "name": self.name,
            "type": "integer" if self.number else "string",
            "format": "name" if self.name == "Name" else "",
            "description": "",
            "priority": int(self.wide),
        }


def _field(*path: str, default: Cell = _NONE) -> Callable[[Mapping[str, Any]], Cell]:
    def cell(obj: Mapping[str, Any]) -> Cell:
        found: Any = obj
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, str):
            return str(found) or default
        return int(found) if isinstance(found, int) else default

    return cell


def _containers_ready(pod: Mapping[str, Any]) -> Cell:
    ready = sum(bool(status.get("ready")) for status in pod.get("status", {}).get("containerStatuses") or ())
    return f"{ready}/{len(pod.get('spec', {}).get('containers') or ())}"


def _restarts(pod: Mapping[str, Any]) -> Cell:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return sum(int(status.get("restartCount", 0)) for status in statuses)


def _pod_status(pod: Mapping[str, Any]) -> Cell:
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    return _field("status", "phase", default=_UNKNOWN)(pod)


def _replicas_ready(deployment: Mapping[str, Any]) -> Cell:
    ready = _field("status", "readyReplicas", default=0)(deployment)
    return f"{ready}/{_field('spec', 'replicas', default=1)(deployment)}"


def _role(binding: Mapping[str, Any]) -> Cell:
    role = binding.get("roleRef") or {}
    return f"{role.get('kind', '')}/{role.get('name', '')}"


def _data(obj: Mapping[str, Any]) -> Cell:
    return len(obj.get("data") or ()) + len(obj.get("binaryData") or ())


_COLUMNS: Final[Mapping[str, tuple[_Column, ...]]] = {
    "pods": (
        _Column("Ready", _containers_ready),
        _Column("Status", _pod_status),
        _Column("Restarts", _restarts, number=True),
        _Column("IP", _field("status", "podIP"), wide=True),
        _Column("Node", _field("spec", "nodeName"), wide=True),
    ),
    "namespaces": (_Column("Status", _field("status", "phase")),),
    "configmaps": (_Column("Data", _data, number=True),),
    "secrets": (_Column("Type", _field("type")), _Column("Data", _data, number=True)),
    "leases": (_Column("Holder", _field("spec", "holderIdentity", default="")),),
    "deployments": (
        _Column("Ready", _replicas_ready),
        _Column("Up-to-date", _field("status", "updatedReplicas", default=0), number=True),
        _Column("Available", _field("status", "availableReplicas", default=0), number=True),
    ),
    "rolebindings": (_Column("Role", _role),),
    "clusterrolebindings": (_Column("Role", _role),),
    "clustertrustbundles": (_Column("SignerName", _field("spec", "signerName", default="")),),
}
"""What is between the name and the age, by the plural of the resource."""


def age(seconds: float) -> str:  # noqa: PLR0911 - a return for each span that has its own form
    """A duration as kubectl shows it: the two largest units where they say something, else one."""
    if seconds < -1:
        return "<invalid>"
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // _DAY
    if minutes < 2:
        return f"{whole}s"
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    if days < 8 * 365:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


class Tables:
    """Makes tables as of now."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    def table(self, resource: Resource, meta: Mapping[str, Any], objects: Iterable[Obj]) -> bytes:
        """The table of these objects, in their order; ``meta`` is that of the list."""
        columns = (
            _Column("Name", _field("metadata", "name")),
            *_COLUMNS.get(resource.plural, ()),
            _Column("Age", self._age),
        )
        shown = [column for column in columns if not column.wide] + [
            column for column in columns if column.wide
        ]
        head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        return encode(
            {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": dict(meta),
                "columnDefinitions": [column.definition() for column in shown],
                "rows": [
                    {
                        "cells": [column.cell(obj) for column in shown],
                        "object": head | {"metadata": obj["metadata"]},
                    }
                    for obj in objects
                ],
            }
        )

    def one(self, resource: Resource, obj: Obj) -> bytes:
        """The table of one object."""
        return self.table(resource, {"resourceVersion": obj["metadata"].get("resourceVersion", "")}, (obj,))

    def _age(self, obj: Mapping[str, Any]) -> Cell:
        created = obj["metadata"].get("creationTimestamp")
        if not created:
            return _UNKNOWN
        return age((self._now() - datetime.fromisoformat(created)).total_seconds())
