"""What is written from the tables of the configuration: its reference page, and the schema that editors complete by.

``python -m tests.core.config.pages`` writes both; a test compares them.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import MISSING
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from federation.core.config.hub import HubTable
from federation.core.config.tables import Key, Section, keys_of
from federation.core.config.types import Array, Value, in_units
from federation.core.errors import InvalidValue
from federation.core.pki.keys import KeyKind

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "configuration.md"
SCHEMA = DOCS / "clusters.schema.json"
DRAFT = "http://json-schema.org/draft-07/schema#"  # which editors of TOML know

HEAD = """# The configuration, key by key

Written from the code by `python -m tests.core.config.pages`; a test compares it.
[clusters.example.toml](../clusters.example.toml) is a whole file with every key, and says more about how they belong
together. [clusters.schema.json](clusters.schema.json) is the same for editors: those that know
[Taplo](https://taplo.tamasfe.dev) complete and check keys where the first line of a file is

```toml
#:schema ./docs/clusters.schema.json
```

with the path, or an address, at which that file is. An editor cannot check what must hold between keys; the hub does,
and `federation clusters list` reads a file and reports every mistake at once.

Durations are numbers of seconds or strings: `90`, `"90s"`, `"15m"`, `"1h30m"`, `"24h"`, `"7d"`, `"500ms"`. Paths that
are not absolute start from the file's directory. An unknown key is a mistake.
"""


class _Schema(GenerateJsonSchema):
    """Pydantic's, without defaults: they are values of the hub's there, and not what a file holds."""

    ignored_warning_kinds = {"non-serializable-default"}  # noqa: RUF012 - as pydantic declares it


@cache
def classes(module: str) -> dict[str, ast.ClassDef]:
    """The source of each class of a module."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def meanings(section: type[Section]) -> dict[str, str]:
    """What is written below each field of a table, and of the classes that it is made of."""
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if not issubclass(kind, Section) or kind is Section:
            continue
        body = classes(kind.__module__)[kind.__name__]
        for field, text in zip(body.body, body.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(meaning))
                ):
                    found[name] = " ".join(meaning.split())
    return found


def default_of(key: Key) -> Any:
    """The default as TOML has it; None where none can be written, for then it means that the key is unset."""
    default = written(key, key.default)
    try:
        if isinstance(key.value, Value) and default is not None:
            key.value(default)
    except InvalidValue:
        return None
    return None if isinstance(key.value, Array) and key.value.empty and not default else default


def written(key: Key, value: Any) -> Any:
    """A value as TOML has it."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return in_units(value) if value and is_duration(key) else value if value != int(value) else int(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, frozenset):
        order = {kind: place for place, kind in enumerate(KeyKind)}
        return [written(key, each) for each in sorted(value, key=lambda each: order.get(each, 0))]
    if isinstance(value, tuple):
        return [written(key, each) for each in value]
    return str(value)


def is_duration(key: Key) -> bool:
    return key.value is not None and key.value.what.startswith("duration")


def is_table(key: Key) -> bool:
    return key.section is not None or key.forms is not None


def below(key: Key) -> list[type[Section]]:
    """The tables that a key may hold."""
    if key.forms is not None:
        return list(dict.fromkeys(key.forms.forms.values()))
    return [key.section] if key.section is not None else []


def sections(section: type[Section] = HubTable) -> Iterator[type[Section]]:
    """Every table of the file, once."""
    seen: dict[type[Section], None] = {}

    def collect(each: type[Section]) -> None:
        if each not in seen:
            seen[each] = None
            for key in keys_of(each).values():
                for more in below(key):
                    collect(more)

    collect(section)
    return iter(seen)


def schema() -> dict[str, Any]:
    """JSON Schema of a whole file."""
    found = TypeAdapter(HubTable).json_schema(schema_generator=_Schema)
    for section in sections():
        table = found if section is HubTable else found["$defs"][section.__name__]
        table.pop("title", None)
        table["description"] = first_line(section)
        for key in keys_of(section).values():
            entry = table["properties"][key.name]
            entry.pop("title", None)
            entry.pop("default", None)
            entry["description"] = meanings(section)[key.name]
            if key.default is not MISSING and not is_table(key) and (default := default_of(key)) is not None:
                entry["default"] = default
    return {"$schema": DRAFT, "title": "clusters.toml", **found}


def first_line(section: type[Section]) -> str:
    text = inspect.getdoc(section)
    assert text, section
    return " ".join(text.partition("\n\n")[0].split())


def page() -> str:
    """The reference page."""
    return HEAD + "".join(_tables(HubTable, ""))


def _tables(section: type[Section], header: str) -> Iterator[str]:
    keys = keys_of(section).values()
    rows = [_row(section, key) for key in keys if not is_table(key)]
    if rows:
        yield "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(rows)
    for key in keys:
        name = f"{header}.{key.name}" if header else key.name
        brackets = f"[[{name}]]" if key.tables else f"[{name}]"
        if key.section is None and key.forms is None:
            continue
        yield f"\n{'#' * (2 + name.count('.'))} `{brackets}`\n\n{meanings(section)[key.name]}\n"
        if name == "signer.successor":
            yield "\nIts keys are those of `[signer.authority]`, of any kind.\n"
            continue
        if key.forms is None:
            yield from _tables(below(key)[0], name)
            continue
        for form in below(key):
            tags = [tag for tag, other in key.forms.forms.items() if other is form]
            shown = " or ".join(f'`{key.forms.tag} = "{tag}"`' for tag in tags)
            default = ", the default" if key.forms.default in tags else ""
            yield f"\n{'#' * (3 + name.count('.'))} `{brackets}` with {shown}{default}\n\n{first_line(form)}\n"
            yield from _tables(form, name)


def _row(section: type[Section], key: Key) -> str:
    tags = get_args(key.annotation)  # of kind or method
    what = " or ".join(f'`"{tag}"`' for tag in tags) if key.value is None else key.value.what
    cells = [f"`{key.name}`", what, _default(key), meanings(section)[key.name]]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(key: Key) -> str:
    if key.default is MISSING:
        return "required"
    default = default_of(key)
    return "" if default is None else f"`{json.dumps(default)}`"


def schema_text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    SCHEMA.write_text(schema_text(), "utf-8")
