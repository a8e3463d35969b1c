"""Names and types of documents as they are written, without the names of the classes that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

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
