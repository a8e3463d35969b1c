"""The bytes of an answer of the status API, and back: documents as they are, but for instants and names.

State documents hold instants as seconds since the epoch, 0 where one is not known, and some of their fields keep an
older name there (decision 0055). Answers hold the same structs, with instants (:data:`~federation.core.clock.Instant`)
in RFC 3339 or null, and each field under the name that the code has for it. So a document needs no copy of its class to
be shown. What holds neither instants nor renamed fields goes to msgspec as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Final, TypeVar, cast, get_args, get_origin

import msgspec

from federation.core.clock import DATE_TIME

T = TypeVar("T")
Conversion = Callable[[Any], Any]

_MILLISECOND: Final = 1e-3  # less would be written as the epoch, and read as 0, which is not known
_LAST_INSTANT: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def instant(seconds: float) -> datetime | None:
    """Seconds since the epoch as an aware datetime; None for 0 (not known) and for what no calendar holds.

    To the millisecond: what is finer says nothing, and does not compress.
    """
    return (
        datetime.fromtimestamp(round(seconds, 3), UTC) if _MILLISECOND <= seconds <= _LAST_INSTANT else None
    )


def encode_answer(answer: object) -> bytes:
    """An answer as JSON: a struct, or lists and dicts that hold structs."""
    return msgspec.json.encode(_rendered(answer))


def decode_answer(data: bytes | str, kind: type[T]) -> T:
    """An answer of that kind back from JSON. Raises msgspec.MsgspecError where the bytes are not one."""
    parse = _parser(cast("Any", kind))
    if parse is None:
        return msgspec.json.decode(data, type=kind)
    return msgspec.convert(parse(msgspec.json.decode(data)), type=kind)


def answer_schemas(kinds: list[type[msgspec.Struct]], ref_template: str) -> dict[str, Any]:
    """The JSON schemas of answers, by name, as :func:`encode_answer` writes them."""
    _, components = msgspec.json.schema_components(kinds, ref_template=ref_template)
    for schema in components.values():
        for name, value in schema.get("properties", {}).items():
            if value.get("format") == DATE_TIME and value.get("type") == "number":
                nullable = {"anyOf": [{"type": "string", "format": DATE_TIME}, {"type": "null"}]}
                schema["properties"][name] = nullable | ({"default": None} if "default" in value else {})
            elif "enum" in value and value.get("default", value["enum"][0]) not in value["enum"]:
                del value[
                    "default"
                ]  # of a document of before the field; an answer always says one of the words
    return components


def _rendered(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        render = _renderer(type(value))
        return value if render is None else render(value)
    if isinstance(value, Mapping):
        return {key: _rendered(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rendered(each) for each in value]
    return value


@cache
def _renderer(kind: Any) -> Conversion | None:
    """How a value of that type is written; None where msgspec writes it as it has to be."""
    if _is_instant(kind):
        return instant
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        each = [(f.name, _renderer(f.type)) for f in fields]
        if all(f.name == f.encode_name for f in fields) and not any(render for _, render in each):
            return None
        return lambda struct: {
            name: getattr(struct, name) if render is None else render(getattr(struct, name))
            for name, render in each
        }
    return _inside(kind, _renderer)


@cache
def _parser(kind: Any) -> Conversion | None:
    """How the JSON of a value of that type becomes what msgspec converts; None where it is that already."""
    if _is_instant(kind):
        return _seconds
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        named = {f.name: (f.encode_name, _parser(f.type)) for f in fields}
        if not any(parse or name != encoded for name, (encoded, parse) in named.items()):
            return None
        return lambda raw: _parsed(raw, named)
    return _inside(kind, _parser)


def _parsed(raw: Any, named: Mapping[str, tuple[str, Conversion | None]]) -> Any:
    if not isinstance(raw, dict):
        return raw  # msgspec says what it should be
    found: dict[str, Any] = {}
    for name, value in raw.items():
        encoded, parse = named.get(name, (name, None))
        found[encoded] = value if parse is None else parse(value)
    return found


def _seconds(raw: Any) -> Any:
    if raw is None:
        return 0.0
    return msgspec.convert(raw, datetime).timestamp()


def _is_instant(kind: Any) -> bool:
    if get_origin(kind) is not Annotated:
        return False
    meta = [each for each in get_args(kind)[1:] if isinstance(each, msgspec.Meta)]
    return any((each.extra_json_schema or {}).get("format") == DATE_TIME for each in meta)


def _inside(kind: Any, conversion_of: Callable[[Any], Conversion | None]) -> Conversion | None:
    """The conversion of lists, dicts and optional values, by that of what they hold."""
    origin, arguments = get_origin(kind), get_args(kind)
    found = [convert for convert in map(conversion_of, arguments) if convert is not None]
    if not found:
        return None
    convert = found[0]  # of a union one is a struct or an instant, and null the other
    if origin is list:
        return lambda raw: [convert(value) for value in raw] if isinstance(raw, list) else raw
    if origin is dict:
        return lambda raw: {k: convert(value) for k, value in raw.items()} if isinstance(raw, dict) else raw
    return lambda raw: None if raw is None else convert(raw)
