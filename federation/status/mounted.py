"""Routes of another room behind the status server's guard: nothing in ``status`` changes anything itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from federation.state.documents import Operation

Schemas = Sequence[type[msgspec.Struct]]


async def _nobody_vouches(operations: Sequence[Operation]) -> Sequence[bool | None]:
    return [None] * len(operations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """What is mounted: its routes, and how OpenAPI tells them.

    ``methods`` are those that a path answers besides GET and HEAD, by path. ``operations`` are OpenAPI operation
    objects by path and method in lower case; they may refer to ``schemas`` and to what the status API answers.
    ``accepts`` says whether that caller could use the routes at all, ``with_token`` whether another token would do it.
    ``vouches`` says of operations whether the seal of each verifies, None where that is not known.
    """

    routes: Sequence[web.RouteDef] = ()
    methods: Mapping[str, frozenset[str]] = field(default_factory=dict)
    operations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schemas: Schemas = ()
    accepts: Callable[[web.Request], bool] = lambda _: False
    with_token: Callable[[], bool] = lambda: False
    vouches: Callable[[Sequence[Operation]], Awaitable[Sequence[bool | None]]] = _nobody_vouches


NOTHING = Mounted()
