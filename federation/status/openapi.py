"""The OpenAPI 3.1 document, made from the table of routes and the structs that make the answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from federation.status.encoding import answer_schemas
from federation.status.model import ProblemDetails
from federation.status.routes import EVENT_SCHEMAS, Right, Route

TEMPLATE: Final = "#/components/schemas/{name}"
_PROBLEMS: Final = {
    400: "The request is not one that this route takes.",
    401: "No credential that lets its caller in.",
    403: "This caller may not do that.",
    404: "There is none of that name.",
    408: "The body did not arrive in time.",
    410: "The item to continue after is gone: start again without the token.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "Too many requests; Retry-After says how long to wait.",
    503: "Not known, or not possible now: the detail says why.",
}


def openapi_document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The whole document as plain JSON values."""
    shown = [route for route in routes if route.shown]
    structs = [kind for route in shown for kind in (route.answer, route.request) if isinstance(kind, type)]
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Federation hub status",
            "version": version,
            "summary": "Whether every cluster can talk to every other, and if not, why.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": answer_schemas([*structs, ProblemDetails, *EVENT_SCHEMAS], TEMPLATE),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the hub's configuration, of a Kubernetes account or of an OIDC "
                    "issuer, as the hub is set up.",
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    content = _content(route)
    responses: dict[str, Any] = {"200": {"description": route.summary, "content": content}}
    if route.conditional and route.method == "GET":
        responses["200"]["headers"] = {
            "ETag": {"description": "For If-None-Match.", "schema": {"type": "string"}}
        }
        responses["304"] = {"description": "The caller holds it already (If-None-Match)."}
    for status in route.also:
        responses[str(status)] = {"description": "The same answer, where it is not so.", "content": content}
    for status in sorted(_problems(route)):
        responses.setdefault(str(status), _problem(status))
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "responses": responses,
    }
    if route.right is not None:
        operation["security"] = [{"bearer": []}, {}]
        operation["x-right"] = route.right.value
    if route.parameters:
        operation["parameters"] = list(route.parameters)
    if route.request is not None:
        reference = {"$ref": TEMPLATE.format(name=route.request.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return operation


def _problems(route: Route) -> set[int]:
    found = {429, *route.problems}
    if route.right is not None:
        found |= {401, 403, 503}
    if route.right is Right.OPERATE or route.paged:
        found.add(400)
    if route.paged:
        found.add(410)
    return found


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": TEMPLATE.format(name=ProblemDetails.__name__)}
    described: dict[str, Any] = {
        "description": _PROBLEMS[status],
        "content": {"application/problem+json": {"schema": schema}},
    }
    if status == 429:
        described["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
        }
    return described


def _content(route: Route) -> dict[str, Any]:
    if route.answer == "application/json":
        return {"application/json": {"schema": {"type": "object"}}}
    if isinstance(route.answer, str):
        return {route.answer: {"schema": {"type": "string"}}}
    schema: dict[str, Any] = {"$ref": TEMPLATE.format(name=route.answer.__name__)}
    if route.nullable:
        schema = {"anyOf": [schema, {"type": "null"}]}
    return {"application/json": {"schema": schema}}
