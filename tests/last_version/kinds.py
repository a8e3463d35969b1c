"""Which class of this version reads which document of the state: the one place to change where a class is renamed."""

from __future__ import annotations

from typing import Any, Final

from federation.controller.rotation.store import Arrivals
from federation.core.documents import controller, signer, trust
from federation.core.rotation.effects import SigningDirectives
from federation.core.rotation.record import RotationRecord

KINDS: Final[dict[str, type[Any]]] = {
    "callers/": signer.CallersTable,
    "controllers/": controller.ControllerReport,
    "current": trust.Current,
    "generations/": trust.Generation,
    "horizons/": signer.ExpiryBoundTable,
    "hub": controller.HubRecord,
    "operations/": controller.Operation,
    "orders": SigningDirectives,
    "pins/": signer.PinsTable,
    "proposals/": trust.FoundAnchors,
    "rotation": RotationRecord,
    "signers/": signer.SignerReport,
    "takeovers": Arrivals,
}
"""By how the keys of its documents begin, or the whole key where there is one."""


def prefix_of(key: str) -> str:
    """The entry of :data:`KINDS` that a key belongs to."""
    first, slash, _ = key.partition("/")
    return first + slash
