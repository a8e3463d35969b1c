"""YAML that others wrote, read as kubectl and istiod read it, with a bound on its size, depth and expansion.

Both use sigs.k8s.io/yaml over go-yaml v2, and PyYAML's loaders differ from those in what a plain scalar means: ``y`` is
a boolean there, ``1:30`` and ``2026-01-01`` are strings, a tag that is not known is ignored. So libyaml's events are
read here and scalars are resolved by go-yaml's rules (go-yaml v2, ``resolve.go`` and ``decode.go``). As there, only the
first document counts, the last of two equal keys wins, and a merge key (``<<``) takes effect at its position.

What differs is for safety: nesting and what aliases expand to are bounded.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import yaml

from federation.core.errors import InvalidValue

MAX_DEPTH: Final = 100
"""An exec plugin's environment is at depth 7, a mesh's settings at 9; extensions of other tools go deeper. The reader
recurses, so there has to be an end."""

MAX_NODES: Final = 200_000
"""Keys and values, each alias counted as everything it refers to. Two hundred clusters are about 10,000; a few lines of
nested aliases would be any number."""

_LOADER: Final = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml is ten times faster, where it is there

_TAG: Final = "tag:yaml.org,2002:"
_WORDS: Final[dict[str, Any]] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True)
    | dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False)
    | dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
    | dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf)
    | dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf)
)
_INTEGER: Final = re.compile(
    r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([1-9][0-9]*|0))\Z", re.ASCII
)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
_LONGEST_NUMBER: Final = 400
"""Characters; the digits of the largest float are 309. Python refuses to convert thousands of digits."""


class _Node(NamedTuple):
    value: Any
    size: int
    """How many nodes it expands to."""


def load_yaml(text: bytes, *, longest: int) -> Any:
    """The first document of ``text``, of at most ``longest`` bytes, as JSON values: the keys of mappings are strings.

    Raises InvalidValue, which repeats nothing of it.
    """
    if len(text) > longest:
        raise InvalidValue(f"is larger than {longest} bytes")
    try:
        return _Document(yaml.parse(text, Loader=_LOADER)).read()
    except InvalidValue:
        raise
    except Exception as error:  # noqa: BLE001  PyYAML raises what its scalars meet: KeyError, AttributeError...
        raise InvalidValue(f"is not YAML{_line(error)}") from None


class _Document:
    """One pass over the events of the first document. The rest of the stream is never read."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, _Node | None] = {}  # None: begun, and so holding itself
        self._read = 0

    def read(self) -> Any:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.version not in (None, (1, 1)):
                    raise yaml.YAMLError("a version that go-yaml does not read")
                return self._node(next(self._events), 1).value
        return None

    def _node(self, event: Any, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            aliased = self._anchors.get(event.anchor or "")
            if aliased is None:
                raise yaml.YAMLError("an alias of what is not there, or of what it is part of")
            self._count(aliased.size)
            return aliased
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._count(1)
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(_scalar(event), 1)
        elif depth > MAX_DEPTH:
            raise InvalidValue(f"is nested more than {MAX_DEPTH} deep, which is not read for safety")
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(depth + 1)
        else:
            node = self._mapping(depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _count(self, nodes: int) -> None:
        self._read += nodes
        if self._read > MAX_NODES:
            raise InvalidValue(
                f"holds more than {MAX_NODES} values where aliases are expanded, which is not read for safety"
            )

    def _sequence(self, depth: int) -> _Node:
        found, size = [], 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            node = self._node(event, depth)
            found.append(node.value)
            size += node.size
        return _Node(found, size)

    def _mapping(self, depth: int) -> _Node:
        found: dict[str, Any] = {}
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            merges = _is_merge(event)
            key = self._node(event, depth)
            following = next(self._events)
            value = self._node(following, depth)
            size += key.size + value.size
            if merges:
                _merge(found, value.value, from_alias=isinstance(following, yaml.AliasEvent))
            else:
                found[_key(key.value)] = value.value
        return _Node(found, size)


def _is_merge(event: Any) -> bool:
    return (
        isinstance(event, yaml.ScalarEvent)
        and event.value == "<<"
        and ((event.tag is None and event.implicit[0]) or event.tag == f"{_TAG}merge")
    )


def _merge(found: dict[str, Any], value: Any, *, from_alias: bool) -> None:
    """go-yaml v2 overwrites what comes before the merge key, and takes no alias of a sequence.

    Of a sequence of mappings, those that come first win.
    """
    mappings = reversed(value) if isinstance(value, list) and not from_alias else [value]
    for mapping in mappings:
        if not isinstance(mapping, dict):
            raise yaml.YAMLError("a merge key without a mapping")
        found.update(mapping)


def _key(value: Any) -> str:
    """Keys become strings, as sigs.k8s.io/yaml makes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise yaml.YAMLError("a key that is neither a string, a number nor a boolean")


def _scalar(event: Any) -> Any:
    text: str = event.value
    tag = event.tag
    if tag is None and event.implicit[0]:
        return _plain(text)
    if tag in {None, "!"}:
        return text
    short = tag.removeprefix(_TAG) if tag.startswith(_TAG) else ""
    if short == "binary":
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True).decode(
            "utf-8", "replace"
        )
    if short not in {"bool", "int", "float", "null"}:
        return text  # str, timestamp, and tags that go-yaml does not know
    value = _plain(text)
    if short == "float" and type(value) is int:
        value = float(value)
    if type(value) is not {"bool": bool, "int": int, "float": float, "null": type(None)}[short]:
        raise yaml.YAMLError("a tag that does not fit its scalar")
    return value


def _plain(text: str) -> Any:
    if text in _WORDS:
        value = _WORDS[text]
        if isinstance(value, float):
            raise yaml.YAMLError("a number that JSON does not have")
        return value
    if text[0] not in "+-.0123456789":
        return text
    # Underscores between digits are dropped, but not where a point comes first.
    plain = text if text[0] == "." else text.replace("_", "")
    if len(plain) > _LONGEST_NUMBER:
        return text
    if (whole := _INTEGER.match(plain)) is not None and (number := _integer(whole)) is not None:
        return number
    if _FLOAT.match(plain) and math.isfinite(fraction := float(plain)):
        return fraction
    return text


def _integer(match: re.Match[str]) -> int | None:
    """The number, or None where it fits neither int64 nor, without a sign, uint64."""
    sign, hexadecimal, binary, octal, decimal = match.groups()
    for digits, base in ((hexadecimal, 16), (binary, 2), (octal, 8), (decimal, 10)):
        if digits is not None:
            number = int(f"{sign}{digits}", base)
            return number if -(2**63) <= number < 2**63 or (not sign and number < 2**64) else None
    return None


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" (line {mark.line + 1})" if mark is not None else ""
