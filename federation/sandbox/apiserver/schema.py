"""How lists and maps merge: the ``x-kubernetes-list-type`` and ``-map-type`` markers of built-in types.

Paths are field names joined with dots; the indices of lists do not count. What is not listed here follows the
general rule: lists are atomic, maps are granular.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

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
