"""Who owns which field: ``metadata.managedFields`` read, kept up to date by every write, and written back.

Source: "Server-Side Apply" in the Kubernetes documentation and structured-merge-diff ``merge/update.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from federation.sandbox.apiserver import field_sets
from federation.sandbox.apiserver.field_sets import EMPTY, FieldSet
from federation.sandbox.apiserver.objects import Obj, metadata

Operation = Literal["Apply", "Update"]


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes: the field manager's name, how, in which version and through which subresource."""

    name: str
    operation: Operation
    api_version: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Ownership:
    """The fields one manager owns, and when that set last changed."""

    fields: FieldSet
    time: str


Managers = dict[Manager, Ownership]


def read(obj: Mapping[str, Any]) -> Managers:
    """The managers of a stored object."""
    found: Managers = {}
    for entry in metadata(obj).get("managedFields") or ():
        manager = Manager(
            entry["manager"], entry["operation"], entry["apiVersion"], entry.get("subresource", "")
        )
        found[manager] = Ownership(field_sets.from_fields_v1(entry["fieldsV1"]), entry["time"])
    return found


def write(obj: Obj, managers: Managers) -> None:
    """Replace the object's managedFields; no entry is written for a manager that owns nothing."""
    entries = []
    kept = ((manager, owned) for manager, owned in managers.items() if owned.fields)
    for manager, owned in sorted(kept, key=lambda item: (item[0].operation, item[1].time, item[0].name)):
        entry = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": owned.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": field_sets.to_fields_v1(owned.fields),
        }
        entries.append(entry | ({"subresource": manager.subresource} if manager.subresource else {}))
    if entries:
        metadata(obj)["managedFields"] = entries
    else:
        metadata(obj).pop("managedFields", None)


def adopt_version(managers: Managers, manager: Manager) -> None:
    """One who applies is the same in every version of the API: an earlier entry is taken over."""
    for other in list(managers):
        if other != manager and replace(other, api_version=manager.api_version) == manager:
            managers[manager] = managers.pop(other)


def give(managers: Managers, manager: Manager, fields: FieldSet, now: str) -> None:
    """Let a manager own exactly ``fields``; its time changes only where the set does."""
    before = managers.get(manager)
    if before is None or before.fields != fields:
        managers[manager] = Ownership(fields, now)


def take_from_others(managers: Managers, manager: Manager, fields: FieldSet) -> None:
    """Nobody but ``manager`` owns these any more."""
    for other, owned in list(managers.items()):
        if other != manager and owned.fields & fields:
            managers[other] = replace(owned, fields=owned.fields - fields)


def record_update(old: Mapping[str, Any], new: Obj, manager: Manager, now: str) -> None:
    """Record in ``new`` a write that was no apply: the writer owns what it changed, others lose it."""
    managers = read(old) if old.get("metadata") else {}
    skip = "" if manager.subresource == "status" else "status" if "status" in old else ""
    changes = field_sets.compare(old, new)
    written = field_sets.without_ignored(changes.written, skip)
    removed = field_sets.without_ignored(changes.removed, skip)
    if written or removed:
        take_from_others(managers, manager, written | removed)
        owned = managers.get(manager)
        give(managers, manager, ((owned.fields if owned else EMPTY) | written) - removed, now)
    write(new, managers)
