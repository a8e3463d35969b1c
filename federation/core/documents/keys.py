"""Documents that are there and cannot be used: what an operator does about each, which depends on its key.

One damaged document is not a store that is down: a reader of many goes on without it where that is safe.
"""

from __future__ import annotations

from typing import Final

from federation.core.errors import StateUnavailable

DAMAGED: Final = "the document is damaged"
"""How every process says it."""

RESTORE: Final = "restore it from a backup"

BOUNDS: Final = (
    "leave it: until it is gone, leaves count as living on. Where its signer runs, restart that; where it does not, "
    "remove it once the longest TTL, 15 minutes and the clock skew have passed since it was last written. The bounds "
    "in a backup are too early"
)
"""For how far leaves reach. A bound that is lost or too early lets a rotation go on before the last leaf has expired;
a signer writes its bounds ahead by up to 15 minutes (``core/trust/expiry_bounds.py``)."""

REPORT: Final = "remove it if its writer is gone; one that runs writes it anew within seconds"
CALLERS: Final = (
    "remove it: until the certificates of that signer have ended, it is not known which pods hold one; a signer that "
    "runs writes it anew"
)
FOUND: Final = (
    "restore it from a backup, or remove it: what is still there is found again, what was written over is not"
)
PINS: Final = (
    "remove it: a signer that runs writes it anew, and one that is started refuses a bundle with an anchor that its "
    "configuration pins no more until that is pinned again"
)
HUB: Final = (
    "restore it from a backup; or remove it, and name the identity on the hub's objects (annotation "
    "federation-hub/hub) in controller.adopt_hubs, since another one is drawn"
)
PENDING_CHANGE: Final = "ask for the operation again, and remove this one"


class StateDamaged(StateUnavailable):
    """One document cannot be used, which says nothing about the others."""


def remedy_for(key: str) -> str:
    """What to do about the document of that key where it is damaged."""
    kind, slash, _ = key.partition("/")
    if not slash:
        return HUB if kind == "hub" else RESTORE
    return {
        "horizons": BOUNDS,
        "callers": CALLERS,
        "pins": PINS,
        "signers": REPORT,
        "controllers": REPORT,
        "operations": PENDING_CHANGE,
        "proposals": FOUND,
    }.get(kind, RESTORE)


def damaged(what: str, *, key: str, where: str, first: str = "") -> StateDamaged:
    """The error for it; ``first`` is what to look at before anything is done to it."""
    remedy = remedy_for(key)
    return StateDamaged(
        f"{DAMAGED}: {what}", where=where, remedy=f"{first}, then {remedy}" if first else remedy
    )


def unknown_format(where: str) -> StateDamaged:
    """The error for what a newer hub has written."""
    return StateDamaged(
        "the document was written by another release of the hub, in a format this one does not know",
        where=where,
        remedy="run the release that wrote it, or a newer one",
    )


def generation_key(number: int) -> str:
    """The key of a generation; zero-padded so that keys sort as numbers do."""
    return f"generations/{number:012d}"
