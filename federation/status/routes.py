"""The routes of the status API in one table: what each is for, who may call it, what it takes and answers. Pure.

The server, the guard, the OpenAPI document and the tests of every route with every caller are made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import msgspec

from federation.status import model, rotation_model
from federation.status.events import StatusEvent
from federation.status.pages import MOST_ITEMS, MOST_TOKEN

Struct: TypeAlias = type[msgspec.Struct]


class Right(Enum):
    """What a caller may do."""

    READ = "read"
    OPERATE = "operate"  # and read


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path. ``operation`` names it; handlers are found by that name.

    ``right`` is what a caller needs, None for what is answered to everyone. ``answer`` is the struct of a JSON answer,
    else its media type. A ``paged`` list takes ``limit`` and ``continue``. ``also`` are statuses with the same answer.
    ``problems`` are statuses that it may refuse with, beside those of every route.
    """

    operation: str
    path: str
    summary: str
    answer: Struct | str
    method: str = "GET"
    right: Right | None = Right.READ
    nullable: bool = False
    paged: bool = False
    conditional: bool = True
    also: tuple[int, ...] = ()
    problems: tuple[int, ...] = ()
    request: Struct | None = None
    shown: bool = True
    """Whether it is in the OpenAPI document; the page's files are not."""

    @property
    def parameters(self) -> Sequence[dict[str, Any]]:
        """As OpenAPI has them."""
        found: list[dict[str, Any]] = []
        if "{name}" in self.path:
            schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 63}
            found.append({"name": "name", "in": "path", "required": True, "schema": schema})
        if self.paged:
            found += [
                {
                    "name": "limit",
                    "in": "query",
                    "description": "The largest number of items in the answer. Unset: all of them.",
                    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_ITEMS},
                },
                {
                    "name": "continue",
                    "in": "query",
                    "description": "The continue_token of the answer before; 410 where that item is gone: start again.",
                    "schema": {"type": "string", "minLength": 1, "maxLength": MOST_TOKEN},
                },
            ]
        return found


API: Final = (
    Route(
        operation="healthz",
        path="/healthz",
        summary="The process answers.",
        answer=model.Readiness,
        right=None,
    ),
    Route(
        operation="readyz",
        path="/readyz",
        summary="The process can serve; 503 with the reasons where it cannot.",
        answer=model.Readiness,
        right=None,
        conditional=False,
        also=(503,),
    ),
    Route(operation="metrics", path="/metrics", summary="Prometheus metrics.", answer="text/plain"),
    Route(
        operation="status",
        path="/api/v1/status",
        summary="The verdict and everything it rests on.",
        answer=model.FederationStatus,
    ),
    Route(
        operation="clusters",
        path="/api/v1/clusters",
        summary="Every registered cluster.",
        answer=model.Clusters,
        paged=True,
    ),
    Route(
        operation="cluster",
        path="/api/v1/clusters/{name}",
        summary="One registered cluster.",
        answer=model.ClusterView,
        problems=(404,),
    ),
    Route(
        operation="discovered",
        path="/api/v1/discovered",
        summary="Clusters that were discovered, and what their sources disagree about.",
        answer=model.DiscoveryView,
        paged=True,
    ),
    Route(
        operation="matrix",
        path="/api/v1/matrix",
        summary="Every ordered pair of clusters.",
        answer=model.MatrixView,
    ),
    Route(
        operation="bundle",
        path="/api/v1/bundle",
        summary="The bundle in force, with provenance and expiries.",
        answer=model.BundleView,
    ),
    Route(
        operation="bundle_pem",
        path="/api/v1/bundle.pem",
        summary="The bundle in force as PEM.",
        answer="application/x-pem-file",
    ),
    Route(
        operation="generations",
        path="/api/v1/generations",
        summary="The newest generations of trust.",
        answer=model.GenerationsView,
        paged=True,
    ),
    Route(
        operation="rotation",
        path="/api/v1/rotation",
        summary="The rotation under way or the last one with all evidence; null where none ever was.",
        answer=rotation_model.RotationView,
        nullable=True,
    ),
    Route(
        operation="history",
        path="/api/v1/history",
        summary="Issuance, refusals and expiries of the last hours.",
        answer=model.HistoryView,
    ),
    Route(
        operation="operations",
        path="/api/v1/operations",
        summary="The newest operations, as an audit.",
        answer=rotation_model.Operations,
        paged=True,
    ),
    Route(
        operation="events",
        path="/api/v1/events",
        summary="Server-Sent Events: which kinds of the status changed, never what they hold.",
        answer="text/event-stream",
        conditional=False,
    ),
    Route(
        operation="openapi",
        path="/openapi.json",
        summary="This document.",
        answer="application/json",
    ),
)

SCRIPTS: Final = (
    "app",
    "charts",
    "details",
    "dom",
    "groups",
    "matrix",
    "operate",
    "rotation",
    "sections",
    "session",
    "source",
    "trust",
)
PAGE: Final = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
"""The files of the page, which hold no data, and so are answered to everyone."""

EVENT_SCHEMAS: Final[tuple[Struct, ...]] = (StatusEvent,)


def page_routes() -> list[Route]:
    """A route for each file of the page."""
    return [
        Route(operation=name, path=path, summary="A file of the page.", answer=kind, right=None, shown=False)
        for path, (name, kind) in PAGE.items()
    ]


def open_paths(routes: Sequence[Route]) -> frozenset[str]:
    """What is answered to everyone."""
    return frozenset(route.path for route in routes if route.right is None)
