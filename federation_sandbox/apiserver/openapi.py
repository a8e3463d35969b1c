"""OpenAPI v3: what clients ask before they write, and no more.

kubectl looks here whether an API server validates fields and dry-runs by itself, and leaves validation to it then; so
``kubectl apply`` needs these documents, and ``kubectl explain`` shows them. The sandbox has no schemas: it keeps the
fields that it is given, as a custom resource with ``x-kubernetes-preserve-unknown-fields`` does, and the documents
say so. A manifest with a misspelt field is taken here and refused by a real API server.

Strategic merge is not among the types of a patch: kubectl would merge by the schemas, which know no keys of lists.
Where it is not named it merges by its own types, which do.

Source: "The Kubernetes API", section OpenAPI V3, and k8s.io/kube-openapi ``pkg/handler3``.
"""

from __future__ import annotations

from typing import Any, Final

from federation_sandbox.apiserver.resources import Resource, ResourceTable
from federation_sandbox.apiserver.store import Obj

ROOT: Final = "/openapi/v3"
_PATCHES: Final = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)
_QUERY: Final = ("dryRun", "fieldManager", "fieldValidation", "force")


def openapi(table: ResourceTable, path: str) -> Obj | None:
    """The index or one group version's document, or None where the path is neither."""
    versions = {_place(resource): resource.api_version for resource in table}
    if path == ROOT:
        return {"paths": {place: {"serverRelativeURL": f"{ROOT}/{place}"} for place in sorted(versions)}}
    version = versions.get(path.removeprefix(f"{ROOT}/"))
    if version is None:
        return None
    served = [resource for resource in table if resource.api_version == version]
    paths: Obj = {}
    for resource in served:
        paths |= _paths(resource)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes in a box", "version": version},
        "paths": paths,
        "components": {"schemas": {_schema_name(resource): _schema(resource) for resource in served}},
    }


def _place(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"


def _schema_name(resource: Resource) -> str:
    return f"{resource.group or 'core'}.{resource.version}.{resource.kind}"


def _kind(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _schema(resource: Resource) -> Obj:
    return {
        "description": f"{resource.kind} as it is given: the sandbox has no schema of it.",
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
        "x-kubernetes-preserve-unknown-fields": True,
        "x-kubernetes-group-version-kind": [_kind(resource)],
    }


def _paths(resource: Resource) -> Obj:
    names = ["namespace"] if resource.namespaced else []
    collection = f"/{_place(resource)}{'/namespaces/{namespace}' if names else ''}/{resource.plural}"
    return {
        collection: {
            "parameters": _in_path(*names),
            "get": _operation(resource, "list"),
            "post": _operation(resource, "post", "application/json", "application/yaml"),
        },
        f"{collection}/{{name}}": {
            "parameters": _in_path(*names, "name"),
            "get": _operation(resource, "get"),
            "put": _operation(resource, "put", "application/json", "application/yaml"),
            "patch": _operation(resource, "patch", *_PATCHES),
            "delete": _operation(resource, "delete"),
        },
    }


def _in_path(*names: str) -> list[Obj]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _operation(resource: Resource, action: str, *bodies: str) -> Obj:
    schema = {"schema": {"$ref": f"#/components/schemas/{_schema_name(resource)}"}}
    operation: dict[str, Any] = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _kind(resource),
        "responses": {"200": {"description": "OK", "content": {"application/json": schema}}},
    }
    if bodies:
        query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _QUERY]
        operation |= {
            "parameters": query,
            "requestBody": {"content": {body: schema if action != "patch" else {} for body in bodies}},
        }
    return operation
