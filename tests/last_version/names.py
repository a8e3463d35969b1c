"""Names that dashboards, alerts and scripts rely on: of the status API's fields, and of metrics."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import federation

CODE: Final = Path(federation.__file__).parent
MAKERS: Final = {"gauge": "gauge", "counter": "counter", "histogram": "histogram"}
"""Functions of this version that make a metric of a name, a text and its labels, and of which type that is."""

MADE_WITH: Final = "federation.status.exposition"
"""The module of these functions, which a module that has metrics imports."""

SUFFIXES: Final = re.compile(r"_(?:total|bucket|count|sum|created)$")


def fields_of(document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Of an OpenAPI document: each request and answer in JSON, with its fields by their paths and their types."""
    found: dict[str, dict[str, str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = {"answer": operation["responses"]["200"], "request": operation.get("requestBody", {})}
            for which, body in bodies.items():
                schema = body.get("content", {}).get("application/json", {}).get("schema")
                if schema is not None:
                    found[f"{method.upper()} {path} {which}"] = dict(_walk(document, schema, ""))
    return found


def _walk(document: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from _walk(document, document["components"]["schemas"][name], path)
    elif "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each != {"type": "null"}]
        for each in kinds:
            yield from _walk(document, each, path)
    elif schema.get("type") == "array":
        yield from _walk(document, schema.get("items", {}), f"{path}[]")
    elif "properties" in schema:
        for name, each in schema["properties"].items():
            yield from _walk(document, each, f"{path}.{name}".removeprefix("."))
    elif isinstance(schema.get("additionalProperties"), dict):
        yield from _walk(document, schema["additionalProperties"], path + "{}")
    elif "enum" in schema:
        yield path, " | ".join(sorted(map(str, schema["enum"])))
    else:
        yield path, str(schema.get("type", "anything"))


def metrics_in_code() -> dict[str, dict[str, Any]]:
    """Every metric that this version can expose, with its type, its labels and what it says of itself.

    From the code and not from an answer: what is not known has no series, so no answer has them all.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(CODE.rglob("*.py")):
        text = file.read_text("utf-8")
        if MADE_WITH not in text:  # to parse all modules takes more than a second
            continue
        tree = ast.parse(text)
        for function in (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)):
            constants = _constants(function)
            for call in (each for each in ast.walk(function) if isinstance(each, ast.Call)):
                name = call.args[0] if len(call.args) > 2 else None
                if (
                    isinstance(call.func, ast.Name)
                    and call.func.id in MAKERS
                    and isinstance(name, ast.Constant)
                ):
                    labels = call.args[2]
                    given = constants[labels.id] if isinstance(labels, ast.Name) else ast.literal_eval(labels)
                    found[str(name.value)] = {
                        "type": MAKERS[call.func.id],
                        "labels": sorted(given),
                        "text": ast.literal_eval(call.args[1]),
                    }
    return found


def _constants(function: ast.FunctionDef) -> dict[str, Any]:
    """Names that are given a tuple of texts in a function."""
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        for target in node.targets
        if isinstance(target, ast.Name) and all(isinstance(each, ast.Constant) for each in node.value.elts)
    }


def metrics_in(exposition: str) -> set[str]:
    """The metrics of an answer to ``/metrics``, by the names of their families."""
    lines = (line.split(" ") for line in exposition.splitlines() if line.startswith("# TYPE "))
    return {SUFFIXES.sub("", name) for _, _, name, kind in lines if kind != "unknown"}


def codes_in(page: str) -> list[str]:
    """The codes of all findings, from the page that a test compares with the code."""
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return sorted({code for row in rows for code in re.findall(r"`([a-z0-9_]+)`", row.split("|")[1])})
