"""Asks for every route of the table as one caller, and what each has to answer by the right that the caller has."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from federation.status.routes import Right, Route, page_routes
from tests.status.openapi_file import routes

ROUTES = [*routes(), *page_routes()]


def allowed(route: Route, right: Right | None) -> bool:
    return route.right is None or right is Right.OPERATE or route.right is right


def due(right: Right | None, *, otherwise: int) -> dict[str, int]:
    """The status of each route for a caller with that right, and ``otherwise`` where it may not have the answer."""
    return {
        f"{route.method} {route.path}": (415 if route.method == "POST" else 200)
        if allowed(route, right)
        else otherwise
        for route in ROUTES
    }  # without a body an operation is refused for that, and not for its caller


async def answers(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> dict[str, int]:
    found = {}
    for route in ROUTES:
        method = "HEAD" if route.operation == "events" else route.method
        path = url + route.path.replace("{name}", "east")
        async with session.request(method, path, headers=headers) as response:
            found[f"{route.method} {route.path}"] = response.status
    return found
