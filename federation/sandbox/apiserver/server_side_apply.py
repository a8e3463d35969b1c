"""Server-side apply: merge a configuration into an object, and refuse what another manager owns.

Pure: values in, a value or :class:`ApplyConflictError` out. Source: KEP-555 and structured-merge-diff
``merge/update.go`` (Apply, prune, update).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.sandbox.apiserver import field_sets, managed_fields, schema
from federation.sandbox.apiserver.field_sets import EMPTY, FieldSet, Path
from federation.sandbox.apiserver.managed_fields import Manager, Managers, Ownership
from federation.sandbox.apiserver.objects import Obj
from federation.sandbox.apiserver.status import ApiError


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
                    "field": field_sets.pretty(path),
                }
                for path in paths
            ]
            if len(paths) == 1:
                parts.append(f"conflict with {who}: {field_sets.pretty(paths[0])}")
            else:
                listed = "".join(f"\n- {field_sets.pretty(path)}" for path in paths)
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
    managers = managed_fields.read(live) if live else {}
    managed_fields.adopt_version(managers, manager)
    skip = "" if manager.subresource == "status" else "status"
    wanted = field_sets.without_ignored(field_sets.of_object(config), skip)
    last = managers[manager].fields if manager in managers else EMPTY
    merged: Obj = _merge("", _clean(live), config)
    others: FieldSet = EMPTY.union(*(owned.fields for other, owned in managers.items() if other != manager))
    for path in sorted(last - wanted - others, key=len):  # a list item goes as a whole, before its parts
        _prune(merged, path, wanted | others)
    changes = field_sets.compare(live, merged)
    written = field_sets.without_ignored(changes.written, skip)
    conflicts = _conflicts(managers, manager, written)
    if conflicts and not force:
        raise ApplyConflictError(conflicts)
    managed_fields.take_from_others(managers, manager, written | changes.removed)
    managed_fields.give(managers, manager, wanted, now)
    managed_fields.write(merged, managers)
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
    if isinstance(live, dict) and isinstance(config, dict) and not schema.is_atomic_map(names):
        result = dict(live)
        for field, value in config.items():
            below = schema.descend(path, field)
            result[field] = _merge(below, live[field], value) if field in live else _clean(value)
        return result
    if (
        isinstance(live, list)
        and isinstance(config, list)
        and (schema.list_keys(names) or schema.is_set(names))
    ):
        wanted = {schema.item_key(names, item): item for item in config}
        result_list = []
        for item in live:
            key = schema.item_key(names, item)
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
    """Remove a field nobody names or owns any more, and the containers it leaves empty."""
    trail: list[tuple[Any, str]] = []
    node: Any = obj
    names = ""
    for element in path:
        trail.append((node, element))
        if element.startswith("f:"):
            names = schema.descend(names, element[2:])
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
        if schema.item_key(names, item) == element:
            return item
    return None


def _child(parent: Any, names: str, element: str) -> Any:
    return parent.get(element[2:]) if element.startswith("f:") else _item(parent, names, element)


def _remove(parent: Any, names: str, element: str) -> None:
    if element.startswith("f:"):
        parent.pop(element[2:], None)
    else:
        parent[:] = [item for item in parent if schema.item_key(names, item) != element]
