"""Names and types of documents as they are written, without the names of the classes that hold them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from msgspec import inspect


def fields_of(kind: type[Any]) -> dict[str, str]:
    """Every field of a document by its path: ``[]`` for elements of a list, ``{}`` for values of a mapping."""
    return dict(_walk(inspect.type_info(kind), ""))


def _walk(kind: inspect.Type, path: str) -> Iterator[tuple[str, str]]:
    match kind:
        case inspect.StructType(fields=fields, array_like=array_like):
            for place, field in enumerate(fields):
                name = f"[{place}]" if array_like else f".{field.encode_name}"
                yield from _walk(field.type, f"{path}{name}".removeprefix("."))
        case inspect.ListType(item_type=item):
            yield from _walk(item, f"{path}[]")
        case inspect.DictType(value_type=value):
            yield from _walk(value, path + "{}")
        case inspect.UnionType(types=types):
            for each in types:
                if not isinstance(each, inspect.NoneType):
                    yield from (
                        (at, f"{name} or null") if at == path else (at, name)
                        for at, name in _walk(each, path)
                    )
        case inspect.Metadata(type=bare):  # says how the status API shows it, and nothing of what is written
            yield from _walk(bare, path)
        case inspect.EnumType(cls=cls):
            yield path, _words(cls)
        case _:
            yield path, type(kind).__name__.removesuffix("Type").lower()


def _words(words: type[Enum]) -> str:
    return " | ".join(str(word.value) for word in words)


def misread(document: Any, fields: Mapping[str, str]) -> Iterator[str]:
    """Where a reader that knows these fields (as ``fields_of`` lists them) would not find what it expects.

    It passes over what it does not know. A field that every writer writes and that is not there counts, whether or
    not there is a default: the default would be taken for what is the case.
    """
    for path, kind in fields.items():
        yield from (f"{path}: {problem}" for problem in _look(document, STEP.findall(path), kind))


STEP: Final = re.compile(r"\[\d+\]|\[\]|\{\}|[^.\[\]{}]+")


def _look(value: Any, steps: Sequence[str], kind: str) -> Iterator[str]:
    if not steps:
        if not _is_of(value, kind):
            yield f"{value!r} is not of type {kind}"
        return
    step, below = steps[0], steps[1:]
    if value is None:  # a part that may be absent as a whole
        return
    if step in {"[]", "{}"}:
        if isinstance(value, list if step == "[]" else dict):
            for each in value.values() if isinstance(value, dict) else value:
                yield from _look(each, below, kind)
        else:
            yield f"{value!r} is no {'list' if step == '[]' else 'mapping'}"
    elif step.startswith("["):
        yield from _within(value, int(step[1:-1]), isinstance(value, list), below, kind)
    else:
        yield from _within(value, step, isinstance(value, dict), below, kind)


def _within(value: Any, name: str | int, is_holder: bool, below: Sequence[str], kind: str) -> Iterator[str]:
    is_there = is_holder and (name < len(value) if isinstance(name, int) else name in value)
    if is_there:
        yield from _look(value[name], below, kind)
    else:
        yield f"{name!r} is gone"


def _is_of(value: Any, kind: str) -> bool:
    if value is None:
        return kind.endswith(" or null")
    kind = kind.removesuffix(" or null")
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "str" | "bytes":
            return isinstance(value, str)
        case "any":
            return True
        case _:
            return value in kind.split(" | ")
