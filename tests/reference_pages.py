"""Pages of the site that are made of the code whenever it is built, and are not kept: commands, metrics, status API.

``python -m tests.reference_pages`` writes them below ``docs``; ``make docs`` does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from federation.cli.main import build_parser
from federation.core.rotation.record import State
from tests.last_version.names import metrics_in_code
from tests.status.rotations import rotate
from tests.status.serving import serving

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = DOCS / "commands.md"
METRICS = DOCS / "metrics.md"
STATUS_API = DOCS / "status-api.md"
OPENAPI = DOCS / "openapi.json"
EXAMPLE_REQUEST: Final = {
    "operate": {"verb": "start", "arguments": {"reason": "the yearly rotation of the root"}}
}
"""What is sent where a route takes a body."""

TOKEN: Final = ' -H "Authorization: Bearer $TOKEN"'

MOST_LINES: Final = 60
"""Of an example; the answers of a whole federation are longer than a page."""

NOT_ASKED: Final = frozenset({"openapi", "events", "metrics"})
"""What an example of would be another page, or never ends."""
SUFFIX = {"counter": "_total", "gauge": "", "histogram": ""}
COLUMNS = "100"


def children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and all below it, as help lists them."""
    yield parser
    for child in children(parser).values():
        yield from parsers(child)


def commands() -> str:
    """What ``--help`` of each verb prints."""
    os.environ |= {"COLUMNS": COLUMNS, "NO_COLOR": "1"}
    parts = ["# Commands\n\nWhat `--help` of each verb prints. Exit codes stand with each.\n"]
    for parser in parsers(build_parser()):
        level = "##" if len(parser.prog.split()) < 3 else "###"
        parts.append(f"{level} {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def metrics() -> str:
    """Every metric with its type, labels and text."""
    head = (
        "# Metrics\n\nWhat `/metrics` of the status address serves, and of each signer's health address for that "
        "signer. Each controller knows the\nfigures of all processes, so queries take `max by (...)` over those that "
        "answer. What is not known has no series.\n\n| metric | type | labels | is |\n|---|---|---|---|\n"
    )
    rows = [
        f"| `{name}{SUFFIX[each['type']]}` | {each['type']} | "
        f"{', '.join(f'`{label}`' for label in each['labels'])} | {each['text']} |\n"
        for name, each in sorted(metrics_in_code().items())
    ]
    return head + "".join(rows)


def status_api() -> str:
    """Every route of ``docs/openapi.json``: its right, parameters, body, answers, and what it answered to a request."""
    document = json.loads(OPENAPI.read_text("utf-8"))
    examples = asyncio.run(answers(document))
    head = (
        "# Status API\n\nMade of [openapi.json](openapi.json), which a hub serves at `/openapi.json` and generators "
        "of clients take. Examples are answers to\na hub of two clusters that rotates its root, lists cut to their "
        "first element. [Security](security.md) says which callers there are.\n\nEvery error is a problem (RFC 9457, "
        "`application/problem+json`): `detail` says what is wrong, mostly with a `remedy`.\nTimes are RFC 3339 in UTC, "
        "`null` where an instant is not known.\n"
    )
    parts = [head]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"## {method.upper()} {path}\n\n{_route(document, operation)}")
            if (example := examples.get(operation["operationId"])) is not None:
                parts.append(example)
    return "\n".join(parts)


def _route(document: Mapping[str, Any], operation: Mapping[str, Any]) -> str:
    right = operation.get("x-right")
    lines = [
        operation["summary"],
        "",
        f"Right: {f'`{right}`' if right else 'none, it answers everyone'}.",
        "",
    ]
    if parameters := operation.get("parameters"):
        lines += ["| parameter | in | type | is |", "|---|---|---|---|"]
        lines += [
            f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | {each.get('description', 'required')} |"
            for each in parameters
        ]
        lines.append("")
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        lines += ["Takes JSON:", "", *_fields(document, schema), ""]
    lines += ["| status | answers | when |", "|---|---|---|"]
    for status, answer in operation["responses"].items():
        media = ", ".join(f"`{name}`" for name in answer.get("content", {}))
        lines.append(f"| {status} | {media} | {answer['description']} |")
    content = operation["responses"]["200"].get("content", {}).get("application/json", {})
    if schema := content.get("schema"):
        lines += ["", "Fields of the answer:", "", *_fields(document, schema)]
    return "\n".join(lines) + "\n"


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """The fields of a struct, a line each; those of what is in it are in the OpenAPI document."""
    resolved = _resolved(document, schema)
    rows = [f"| `{name}` | {_type(each)} |" for name, each in sorted(resolved.get("properties", {}).items())]
    return ["| field | type |", "|---|---|", *rows]


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    for each in schema.get("anyOf", []):
        if each.get("type") != "null":
            return _resolved(document, each)
    if "$ref" in schema:
        found: Mapping[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _type(schema: Mapping[str, Any]) -> str:
    """In a few words: the name of a struct, a list, a mapping, or a plain type."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return f"{schema['$ref'].rpartition('/')[2]}"
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(below := schema.get("additionalProperties"), dict):
        return f"mapping to {_type(below)}"
    return f"{kind}, {schema['format']}" if "format" in schema else str(kind)


async def answers(document: Mapping[str, Any]) -> dict[str, str]:
    """A request and its answer for each operation, of a hub that rotates."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        async with serving(Path(place), ("east", "west")) as running:
            rotate(running.world, State.CANARY)
            await running.settle()
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    name = operation["operationId"]
                    if name in NOT_ASKED:
                        continue
                    request = path.replace("{name}", "east") + ("?limit=1" if _is_paged(operation) else "")
                    if method != "get":
                        body = json.dumps(EXAMPLE_REQUEST[name])
                        found[name] = _asked(request, f"{TOKEN} --json '{body}'", "")
                        continue
                    status, answer, _ = await running.get(request)
                    assert status == 200, (request, status, answer)
                    found[name] = _asked(request, TOKEN if "x-right" in operation else "", _shown(answer))
    return found


def _is_paged(operation: Mapping[str, Any]) -> bool:
    return any(each["name"] == "limit" for each in operation.get("parameters", []))


def _asked(request: str, options: str, answer: str) -> str:
    command = f"$ curl{options} 'https://hub.example.com{request}'"
    return f"```console\n{command}\n{answer}```\n"


def _shown(answer: Any) -> str:
    text = answer.decode() if isinstance(answer, bytes) else json.dumps(_cut(answer), indent=1)
    lines = text.splitlines()
    more = [f"... and {len(lines) - MOST_LINES} lines more"] if len(lines) > MOST_LINES else []
    return "\n".join([*lines[:MOST_LINES], *more]) + "\n"


def _cut(value: Any) -> Any:
    """The same with lists of one element."""
    if isinstance(value, dict):
        return {name: _cut(each) for name, each in value.items()}
    return [_cut(each) for each in value[:1]] if isinstance(value, list) else value


if __name__ == "__main__":
    COMMANDS.write_text(commands(), "utf-8")
    METRICS.write_text(metrics(), "utf-8")
    STATUS_API.write_text(status_api(), "utf-8")
