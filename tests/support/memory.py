"""What an object keeps in memory: a bound on what callers can have kept is asserted on the memory itself."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import TypeVar

T = TypeVar("T")


def kept_by(root: object, kind: type[T], *, depth: int | None = None) -> list[T]:
    """Every object of that kind that ``root`` keeps alive, at most ``depth`` references away.

    Classes, modules and functions are passed by, since what they lead to does not belong to ``root``.
    """
    seen, found, level = {id(root)}, list[T](), [root]
    while level and depth != 0:
        names = [
            key for each in level if isinstance(each, dict) for key in each
        ]  # strings among them are no referents
        level = [
            each
            for each in [*gc.get_referents(*level), *names]
            if not isinstance(each, type | ModuleType | FunctionType)
        ]
        level = list({id(each): each for each in level if id(each) not in seen}.values())
        seen.update(id(each) for each in level)
        found += [each for each in level if isinstance(each, kind)]
        depth = depth - 1 if depth is not None else None
    return found
