"""Sets of fields: what a manager owns, what a write changed; FieldsV1 in ``metadata.managedFields``.

A set's member is the tuple of FieldsV1 elements that leads to it, for example ``("f:data",
"f:root-cert.pem")``. Source: KEP-555 and sigs.k8s.io/structured-merge-diff (typed/tofieldset.go,
typed/compare.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.sandbox.apiserver import schema

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
    """Leave out what nobody owns: identity, server-set metadata, and the top-level field ``skip``."""
    prefix = f"f:{skip}"
    return frozenset(
        path for path in fields if path not in _IGNORED and path[:2] not in _IGNORED and path[0] != prefix
    )


def of_object(value: Mapping[str, Any]) -> FieldSet:
    """Every field that an applied configuration names: its leaves, and the identity of its list items."""
    found: set[Path] = set()

    def walk(at: Path, path: str, part: Any) -> None:
        parts = schema.children(_names(path), part)
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

    for element, (below, part) in (schema.children("", value) or {}).items():
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
        parts = None if at[-1].startswith("v:") else schema.children(_names(path), part)
        if path.endswith("[]") or _names(path) not in schema.STRUCTS:
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
                schema.children(_names(path), was),
                schema.children(_names(path), value),
            )
            if inner_before is None or inner_after is None:
                written.add(here)
            else:
                walk(here, inner_before, inner_after)

    walk((), schema.children("", old) or {}, schema.children("", new) or {})
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
