"""What a request asks for: the verb, resource and names that authorization, faults and routing all go by.

Source: k8s.io/apiserver ``pkg/endpoints/request/requestinfo.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.sandbox.apiserver.selectors import field_terms
from federation.sandbox.apiserver.status import ApiError

_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})
_TRUE = frozenset({"1", "true", "True"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """One request, read. ``resource`` is empty for a path outside the resource API, such as ``/version``."""

    path: str
    verb: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    collection: bool = False
    field_selector: str = ""

    @property
    def full_resource(self) -> str:
        """``pods`` or ``pods/status``, as RBAC rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def is_true(query: Mapping[str, str], key: str) -> bool:
    """Whether a boolean query parameter is set."""
    return query.get(key, "") in _TRUE


def read_request(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """What a method, a path and a query ask for; what makes no sense is a non-resource request."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return RequestInfo(path=path, verb=method.lower())
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    collection = not name
    verb = (_COLLECTION_VERBS if collection else _OBJECT_VERBS).get(method, method.lower())
    if verb == "list" and is_true(query, "watch"):
        verb = "watch"
    if verb in {"list", "watch", "deletecollection"}:
        name = _selected_name(query.get("fieldSelector", ""))
    return RequestInfo(
        path=path,
        verb=verb,
        group=group,
        version=version,
        namespace=namespace,
        resource=resource,
        subresource=subresource,
        name=name,
        collection=collection,
        field_selector=query.get("fieldSelector", ""),
    )


def _selected_name(selector: str) -> str:
    """The one name a field selector asks for: ``resourceNames`` applies to such lists and watches too."""
    try:
        names = [
            value
            for field, operator, value in field_terms(selector)
            if (field, operator) == ("metadata.name", "=")
        ]
    except ApiError:
        return ""
    return names[0] if len(names) == 1 else ""
