"""Which class of this version reads which document of the state: the one place to change where a class is renamed."""

from __future__ import annotations

from typing import Any, Final

from federation.controller.rotation.books import Arrivals
from federation.core.trust.rotation.effects import Orders
from federation.core.trust.rotation.record import RotationBook
from federation.state import documents

KINDS: Final[dict[str, type[Any]]] = {
    "callers/": documents.CallersTable,
    "controllers/": documents.ControllerReport,
    "current": documents.Current,
    "generations/": documents.Generation,
    "horizons/": documents.HorizonTable,
    "hub": documents.HubRecord,
    "operations/": documents.Operation,
    "orders": Orders,
    "pins/": documents.PinsTable,
    "proposals/": documents.FoundAnchors,
    "rotation": RotationBook,
    "signers/": documents.SignerReport,
    "takeovers": Arrivals,
}
"""By how the keys of its documents begin, or the whole key where there is one."""


def prefix_of(key: str) -> str:
    """The entry of :data:`KINDS` that a key belongs to."""
    first, slash, _ = key.partition("/")
    return first + slash
