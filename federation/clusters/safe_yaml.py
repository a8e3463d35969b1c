"""YAML that others wrote, loaded with a bound on its size, its depth and what it may expand to."""

from __future__ import annotations

from typing import Any, Final

import yaml

from federation.core.errors import InvalidValue

MAX_DEPTH: Final = 20
"""An exec plugin's environment is at depth 7, a mesh's settings at 9; extensions of other tools may go deeper."""

_LOADER: Final = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml is ten times faster, where it is there


def load_yaml(text: bytes, *, longest: int) -> Any:
    """The document of ``text``, of at most ``longest`` bytes. Raises InvalidValue, which repeats nothing of it."""
    if len(text) > longest:
        raise InvalidValue(f"is larger than {longest} bytes")
    try:
        _check_shape(text)
        return yaml.load(text, Loader=_LOADER)  # noqa: S506  one of the two safe loaders
    except Exception as error:  # noqa: BLE001  PyYAML raises what its scalars meet: KeyError, AttributeError...
        raise InvalidValue(f"is not YAML{_line(error)}") from None


def _check_shape(text: bytes) -> None:
    """Refuse aliases (a few lines of them fill any memory) and depth (the loaders recurse) before loading."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise yaml.YAMLError("nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" (line {mark.line + 1})" if mark is not None else ""
