"""The three older kinds of PATCH: JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch.

Pure: each takes a value it may change and returns the patched one.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from federation_sandbox.apiserver import field_ownership
from federation_sandbox.apiserver.status import ApiError, bad_request


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises ApiError 400 for a malformed patch and 422 for one that does not fit the object."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    for operation in operations:
        if not isinstance(operation, dict) or "op" not in operation or "path" not in operation:
            raise bad_request("error decoding patch: an operation needs op and path")
        if not all(isinstance(operation.get(field, ""), str) for field in ("op", "path", "from")):
            raise bad_request("error decoding patch: op, path and from are strings")
        target = _operate(target, operation)
    return target


def _operate(target: Any, operation: dict[str, Any]) -> Any:
    kind, path = operation["op"], _pointer(operation["path"])
    if kind in {"move", "copy"}:
        source = _pointer(operation.get("from", ""))
        value = deepcopy(_resolve(target, source))
        if kind == "move":
            target = _change(target, source, "remove", None)
        return _change(target, path, "add", value)
    if kind == "test":
        if _resolve(target, path) != operation.get("value"):
            raise _unprocessable(f"testing path {operation['path']} failed")
        return target
    if kind not in {"add", "replace", "remove"}:
        raise bad_request(f"error decoding patch: unknown operation {kind!r}")
    return _change(target, path, kind, operation.get("value"))


def _unprocessable(why: str) -> ApiError:
    return ApiError(
        422, "Invalid", f"the server rejected our request due to an error in our request: {why}", details={}
    )


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(items: list[Any], part: str, *, append: bool) -> int:
    if append and part == "-":
        return len(items)
    if not part.isdigit() or int(part) >= len(items) + append:
        raise _unprocessable(f"no element {part!r} in the list")
    return int(part)


def _resolve(target: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(target, list):
            target = target[_index(target, part, append=False)]
        elif isinstance(target, dict) and part in target:
            target = target[part]
        else:
            raise _unprocessable(f"no field {part!r}")
    return target


def _change(target: Any, path: list[str], kind: str, value: Any) -> Any:
    if not path:
        return value
    parent, last = _resolve(target, path[:-1]), path[-1]
    if isinstance(parent, list):
        index = _index(parent, last, append=kind == "add")
        if kind == "add":
            parent.insert(index, value)
        elif kind == "remove":
            del parent[index]
        else:
            parent[index] = value
    elif isinstance(parent, dict):
        if kind != "add" and last not in parent:
            raise _unprocessable(f"no field {last!r}")
        if kind == "remove":
            del parent[last]
        else:
            parent[last] = value
    else:
        raise _unprocessable(f"no field {last!r}")
    return target


def strategic_merge(target: Any, patch: Any, path: str = "") -> Any:
    """A merge patch that merges associative lists by key, with the ``$patch: delete|replace`` directives."""
    if isinstance(patch, dict):
        directive = patch.get("$patch")
        body = {key: value for key, value in patch.items() if not key.startswith("$")}
        result = target if isinstance(target, dict) and directive != "replace" else {}
        for key, value in body.items():
            if value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
                result.pop(key, None)
            else:
                result[key] = strategic_merge(result.get(key), value, field_ownership.descend(path, key))
        return result
    if isinstance(patch, list) and isinstance(target, list):
        return _merge_lists(target, patch, path)
    return patch


def _merge_lists(target: list[Any], patch: list[Any], path: str) -> list[Any]:
    if field_ownership.is_set(path):
        return target + [item for item in patch if item not in target]
    if not field_ownership.list_keys(path):
        return patch
    result = {field_ownership.item_key(path, item): item for item in target}
    for item in patch:
        key = field_ownership.item_key(path, item)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            result.pop(key, None)
        else:
            result[key] = strategic_merge(result.get(key), item, path)
    return list(result.values())
