"""Who owns which field (``metadata.managedFields``), server-side apply, and how lists and maps merge.

**Sets of fields** say what a manager owns and what a write changed. A set's member is the tuple of FieldsV1 elements
that leads to it, for example ``("f:data", "f:root-cert.pem")``. Source: KEP-555 and sigs.k8s.io/structured-merge-diff
(typed/tofieldset.go, typed/compare.go).

**managedFields** are read, kept up to date by every write, and written back. Source: "Server-Side Apply" in the
Kubernetes documentation and structured-merge-diff ``merge/update.go``.

**Server-side apply** merges a configuration into an object, and refuses what another manager owns. Pure: values in, a
value or :class:`ApplyConflictError` out. Source: KEP-555 and structured-merge-diff ``merge/update.go`` (Apply, prune,
update).

**The schema** has the ``x-kubernetes-list-type`` and ``-map-type`` markers of built-in types. Paths are field names
joined with dots; the indices of lists do not count. What is not listed here follows the general rule: lists are
atomic, maps are granular.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from federation_sandbox.apiserver.status import ApiError
from federation_sandbox.apiserver.store import Obj, metadata

_KEYED: Final[Mapping[str, tuple[str, ...]]] = {
    "metadata.ownerReferences": ("uid",),
    "spec.containers": ("name",),
    "spec.containers.env": ("name",),
    "spec.containers.ports": ("containerPort", "protocol"),
    "spec.containers.volumeMounts": ("mountPath",),
    "spec.initContainers": ("name",),
    "spec.initContainers.env": ("name",),
    "spec.initContainers.volumeMounts": ("mountPath",),
    "spec.volumes": ("name",),
    "spec.imagePullSecrets": ("name",),
    "status.conditions": ("type",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "webhooks": ("name",),
}
_SETS: Final = frozenset({"metadata.finalizers"})
_ATOMIC_MAPS: Final = frozenset({"roleRef", "spec.nodeSelector", "spec.issuerRef"})
_KEY_DEFAULTS: Final = {"protocol": "TCP"}

# Go structs that are never omitted when empty, so their appearance is no change of its own.
STRUCTS: Final = frozenset({"metadata", "spec", "status", "spec.containers"})


def list_keys(path: str) -> tuple[str, ...]:
    """The key fields of an associative list; empty for any other list."""
    return _KEYED.get(path, ())


def is_set(path: str) -> bool:
    """Whether the list at that path is a set of scalars."""
    return path in _SETS


def is_atomic_map(path: str) -> bool:
    """Whether the map at that path is owned and replaced as a whole."""
    return path in _ATOMIC_MAPS


def descend(path: str, field: str) -> str:
    """The path of a field."""
    return f"{path}.{field}" if path else field


def item_key(path: str, item: Any) -> str:
    """The FieldsV1 element that names a list item: ``k:{...}`` in an associative list, ``v:...`` in a set."""
    keys = list_keys(path)
    if keys and isinstance(item, dict):
        values = {key: item.get(key, _KEY_DEFAULTS.get(key)) for key in sorted(keys)}
        return "k:" + json.dumps(values, separators=(",", ":"))
    return "v:" + json.dumps(item, separators=(",", ":"))


def children(path: str, value: Any) -> dict[str, tuple[str, Any]] | None:
    """The parts of a granular value, element to (path, value); None for anything owned as a whole."""
    if isinstance(value, dict):
        if is_atomic_map(path):
            return None
        return {f"f:{field}": (descend(path, field), part) for field, part in value.items()}
    if isinstance(value, list) and (list_keys(path) or is_set(path)):
        return {item_key(path, item): (path + "[]", item) for item in value}
    return None


Path = tuple[str, ...]
FieldSet = frozenset[Path]

EMPTY: Final[FieldSet] = frozenset()

_IGNORED: Final = frozenset(
    {
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(
            ("f:metadata", f"f:{field}")
            for field in (
                "creationTimestamp",
                "deletionGracePeriodSeconds",
                "deletionTimestamp",
                "generateName",
                "generation",
                "managedFields",
                "name",
                "namespace",
                "resourceVersion",
                "selfLink",
                "uid",
            )
        ),
    }
)


def _names(path: str) -> str:
    return path.replace("[]", "")


def without_ignored(fields: Iterable[Path], skip: str = "") -> FieldSet:
    """Leave out what no manager owns: identity, server-set metadata, and the top-level field ``skip``."""
    prefix = f"f:{skip}"
    return frozenset(
        path for path in fields if path not in _IGNORED and path[:2] not in _IGNORED and path[0] != prefix
    )


def of_object(value: Mapping[str, Any]) -> FieldSet:
    """Every field that an applied configuration names: its leaves, and the identity of its list items."""
    found: set[Path] = set()

    def walk(at: Path, path: str, part: Any) -> None:
        parts = children(_names(path), part)
        if not parts:
            found.add(at)
            return
        if at and at[-1].startswith("k:"):
            found.add(at)
        for element, (below, item) in parts.items():
            if element.startswith("v:"):
                found.add((*at, element))
            else:
                walk((*at, element), below, item)

    for element, (below, part) in (children("", value) or {}).items():
        walk((element,), below, part)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two values of an object."""

    written: FieldSet  # added or modified
    removed: FieldSet


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """The fields that differ from ``old`` to ``new``; containers that appear or vanish count as fields."""
    written: set[Path] = set()
    removed: set[Path] = set()

    def whole(at: Path, path: str, part: Any, into: set[Path]) -> None:
        parts = None if at[-1].startswith("v:") else children(_names(path), part)
        if path.endswith("[]") or _names(path) not in STRUCTS:
            into.add(at)
        for element, (below, item) in (parts or {}).items():
            whole((*at, element), below, item, into)

    def walk(at: Path, before: dict[str, tuple[str, Any]], after: dict[str, tuple[str, Any]]) -> None:
        for element, (path, value) in before.items():
            if element not in after:
                whole((*at, element), path, value, removed)
        for element, (path, value) in after.items():
            here = (*at, element)
            if element not in before:
                whole(here, path, value, written)
                continue
            was = before[element][1]
            if was == value:
                continue
            inner_before, inner_after = (
                children(_names(path), was),
                children(_names(path), value),
            )
            if inner_before is None or inner_after is None:
                written.add(here)
            else:
                walk(here, inner_before, inner_after)

    walk((), children("", old) or {}, children("", new) or {})
    return Changes(frozenset(written), frozenset(removed))


def to_fields_v1(fields: FieldSet) -> dict[str, Any]:
    """The FieldsV1 tree of a set."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    return _trim(tree)


def _trim(node: dict[str, Any]) -> dict[str, Any]:
    """A lone ``.`` is written as an empty node."""
    return {key: ({} if set(below) == {"."} else _trim(below)) for key, below in node.items()}


def from_fields_v1(tree: Mapping[str, Any]) -> FieldSet:
    """The set of a FieldsV1 tree."""
    found: set[Path] = set()

    def walk(at: Path, node: Mapping[str, Any]) -> None:
        if at and (not node or "." in node):
            found.add(at)
        for element, below in node.items():
            if element != ".":
                walk((*at, element), below)

    walk((), tree)
    return frozenset(found)


def pretty(path: Path) -> str:
    """A path as messages write it: ``.data.root-cert.pem``, ``.spec.containers[name="c"].image``."""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            text += "[" + rest.strip("{}").replace('":', "=").replace('"', "", 1) + "]"
        else:
            text += f"[={rest}]"
    return text


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
        found[manager] = Ownership(from_fields_v1(entry["fieldsV1"]), entry["time"])
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
            "fieldsV1": to_fields_v1(owned.fields),
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
    """Remove every other manager's ownership of these."""
    for other, owned in list(managers.items()):
        if other != manager and owned.fields & fields:
            managers[other] = replace(owned, fields=owned.fields - fields)


def record_update(old: Mapping[str, Any], new: Obj, manager: Manager, now: str) -> None:
    """Record in ``new`` a write that was no apply: the writer owns what it changed, others lose it."""
    managers = read(old) if old.get("metadata") else {}
    skip = "" if manager.subresource == "status" else "status" if "status" in old else ""
    changes = compare(old, new)
    written = without_ignored(changes.written, skip)
    removed = without_ignored(changes.removed, skip)
    if written or removed:
        take_from_others(managers, manager, written | removed)
        owned = managers.get(manager)
        give(managers, manager, ((owned.fields if owned else EMPTY) | written) - removed, now)
    write(new, managers)


class ApplyConflictError(ApiError):
    """409: the configuration changes fields that other managers own."""

    def __init__(self, conflicts: list[tuple[Manager, Ownership, list[Path]]]) -> None:
        causes, parts, count = [], [], 0
        for manager, owned, paths in conflicts:
            who = _describe(manager, owned)
            count += len(paths)
            causes += [
                {
                    "reason": "FieldManagerConflict",
                    "message": f"conflict with {who}",
                    "field": pretty(path),
                }
                for path in paths
            ]
            if len(paths) == 1:
                parts.append(f"conflict with {who}: {pretty(paths[0])}")
            else:
                listed = "".join(f"\n- {pretty(path)}" for path in paths)
                parts.append(f"conflicts with {who}:{listed}")
        plural = "" if count == 1 else "s"
        message = f"Apply failed with {count} conflict{plural}: " + "\n".join(parts)
        super().__init__(409, "Conflict", message, details={"causes": causes})


def _describe(manager: Manager, owned: Ownership) -> str:
    who = f'"{manager.name}"'
    if manager.subresource:
        who += f' with subresource "{manager.subresource}"'
    if manager.operation == "Update":
        who += f" using {manager.api_version}"
        if manager.subresource:
            who += f" at {owned.time}"
    return who


def apply(
    live: Mapping[str, Any], config: Mapping[str, Any], manager: Manager, *, force: bool, now: str
) -> Obj:
    """The object after applying ``config``, managedFields included. Raises :class:`ApplyConflictError`.

    ``live`` is not changed; for an object that does not exist yet it is empty.
    """
    managers = read(live) if live else {}
    adopt_version(managers, manager)
    skip = "" if manager.subresource == "status" else "status"
    wanted = without_ignored(of_object(config), skip)
    last = managers[manager].fields if manager in managers else EMPTY
    merged: Obj = _merge("", _clean(live), config)
    others: FieldSet = EMPTY.union(*(owned.fields for other, owned in managers.items() if other != manager))
    for path in sorted(last - wanted - others, key=len):  # a list item goes as a whole, before its parts
        _prune(merged, path, wanted | others)
    changes = compare(live, merged)
    written = without_ignored(changes.written, skip)
    conflicts = _conflicts(managers, manager, written)
    if conflicts and not force:
        raise ApplyConflictError(conflicts)
    take_from_others(managers, manager, written | changes.removed)
    give(managers, manager, wanted, now)
    write(merged, managers)
    return merged


def _conflicts(
    managers: Managers, manager: Manager, written: FieldSet
) -> list[tuple[Manager, Ownership, list[Path]]]:
    found = []
    for other, owned in sorted(managers.items(), key=lambda item: item[0].name):
        paths = sorted(owned.fields & written)
        if other != manager and paths:
            found.append((other, owned, paths))
    return found


def _merge(path: str, live: Any, config: Any) -> Any:
    """``config`` laid over ``live``; granular parts are merged, everything else is replaced."""
    names = path.replace("[]", "")
    if isinstance(live, dict) and isinstance(config, dict) and not is_atomic_map(names):
        result = dict(live)
        for field, value in config.items():
            below = descend(path, field)
            result[field] = _merge(below, live[field], value) if field in live else _clean(value)
        return result
    if isinstance(live, list) and isinstance(config, list) and (list_keys(names) or is_set(names)):
        wanted = {item_key(names, item): item for item in config}
        result_list = []
        for item in live:
            key = item_key(names, item)
            result_list.append(_merge(path + "[]", item, wanted.pop(key)) if key in wanted else item)
        return result_list + [_clean(item) for item in wanted.values()]
    return _clean(config)


def _clean(value: Any) -> Any:
    """A copy that shares nothing with the configuration."""
    if isinstance(value, dict):
        return {key: _clean(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_clean(part) for part in value]
    return value


def _prune(obj: Obj, path: Path, kept: FieldSet) -> None:
    """Remove a field that no manager names or owns any more, and the containers it leaves empty."""
    trail: list[tuple[Any, str]] = []
    node: Any = obj
    names = ""
    for element in path:
        trail.append((node, element))
        if element.startswith("f:"):
            names = descend(names, element[2:])
            node = node.get(element[2:]) if isinstance(node, dict) else None
        else:
            node = _item(node, names, element)
        if node is None:
            return
    if any(len(other) > len(path) and other[: len(path)] == path for other in kept):
        return
    for depth in range(len(path) - 1, -1, -1):
        parent, element = trail[depth]
        child = _child(parent, _names_of(path[:depth]), element)
        if depth < len(path) - 1 and (child or _names_of(path[: depth + 1]) == "metadata"):
            return
        _remove(parent, _names_of(path[:depth]), element)


def _names_of(path: Path) -> str:
    return ".".join(element[2:] for element in path if element.startswith("f:"))


def _item(items: Any, names: str, element: str) -> Any:
    for item in items if isinstance(items, list) else ():
        if item_key(names, item) == element:
            return item
    return None


def _child(parent: Any, names: str, element: str) -> Any:
    return parent.get(element[2:]) if element.startswith("f:") else _item(parent, names, element)


def _remove(parent: Any, names: str, element: str) -> None:
    if element.startswith("f:"):
        parent.pop(element[2:], None)
    else:
        parent[:] = [item for item in parent if item_key(names, item) != element]
