"""The OpenAPI 3.1 document of the status API, generated from the structs that make its answers."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from federation.status import model, rotation_model
from federation.status.mounted import NOTHING, Mounted

PATHS: Final[dict[str, tuple[str, type[msgspec.Struct] | str]]] = {
    "/healthz": ("The process answers.", model.Readiness),
    "/readyz": ("The process can serve; 503 with the reasons where it cannot.", model.Readiness),
    "/metrics": ("Prometheus metrics.", "text/plain"),
    "/api/v1/status": ("The verdict and everything it rests on.", model.FederationStatus),
    "/api/v1/clusters": ("Every registered cluster.", model.Clusters),
    "/api/v1/clusters/{name}": ("One registered cluster.", model.ClusterView),
    "/api/v1/matrix": ("Every ordered pair of clusters.", model.MatrixView),
    "/api/v1/bundle": ("The bundle in force, with provenance and expiries.", model.BundleView),
    "/api/v1/bundle.pem": ("The bundle in force as PEM.", "application/x-pem-file"),
    "/api/v1/generations": ("The newest generations of trust.", model.Generations),
    "/api/v1/rotation": (
        "The rotation under way or the last one with all evidence; null where none ever was, 503 where not known.",
        rotation_model.RotationView,
    ),
    "/api/v1/operations": ("The newest operations, as an audit.", rotation_model.Operations),
}
NULLABLE: Final = frozenset({"/api/v1/rotation"})
PROBES: Final = frozenset({"/healthz", "/readyz"})  # what a kubelet asks without a token
TEMPLATE: Final = "#/components/schemas/{name}"


def document(version: str, mounted: Mounted = NOTHING) -> dict[str, Any]:
    """The whole document as plain JSON values, with what is mounted."""
    structs = [answer for _, answer in PATHS.values() if not isinstance(answer, str)]
    _, components = msgspec.json.schema_components(
        [*structs, model.Problem, *mounted.schemas], ref_template=TEMPLATE
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Federation hub status",
            "version": version,
            "summary": "Whether every cluster can talk to every other, and if not, why.",
        },
        "paths": {
            path: {"get": _operation(path, *told), **mounted.operations.get(path, {})}
            for path, told in PATHS.items()
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: str, summary: str, answer: type[msgspec.Struct] | str) -> dict[str, Any]:
    if isinstance(answer, str):
        content: dict[str, Any] = {answer: {"schema": {"type": "string"}}}
    else:
        schema: dict[str, Any] = {"$ref": TEMPLATE.format(name=answer.__name__)}
        if path in NULLABLE:
            schema = {"anyOf": [schema, {"type": "null"}]}
        content = {"application/json": {"schema": schema}}
    problem = {
        "description": "What went wrong (RFC 9457).",
        "content": {"application/problem+json": {"schema": {"$ref": TEMPLATE.format(name="Problem")}}},
    }
    responses: dict[str, Any] = {"200": {"description": summary, "content": content}, "default": problem}
    if path == "/readyz":
        responses["503"] = {"description": "Not ready, with the reasons.", "content": content}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if path not in PROBES:
        operation["security"] = [{"bearer": []}, {}]
    if "{name}" in path:
        operation["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 63}}
        ]
    return operation
