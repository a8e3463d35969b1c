"""The keys of the documents in the state store, and what to do about a document that cannot be used.

A key is one word, or a folder and a name: ``hub``, ``signers/signer-0``. The keys are part of the format of the state:
processes of two neighbouring releases read each other's, so ``orders`` and ``horizons/`` keep the names that they had
before their contents were called signing directives and expiry bounds (docs/decisions/0055). Each document has one
writer, or is swapped against the version that was read.

============================  ==================  =============================================  ======================
key                           written by          holds                                          read by
============================  ==================  =============================================  ======================
``generations/<number>``      leading controller  one generation of trust, never changed         signers, status
``current``                   leading controller  number and digest of the generation in force   signers, status
``rotation``                  leading controller  the rotation under way or the last one,        status
                                                  and quarantines
``orders``                    leading controller  what signers are to sign with, and where they  signers, status
                                                  are to stop
``takeovers``                 leading controller  since when the hub issues for each cluster,    the next leader
                                                  and how it joined
``proposals/<cluster>``       leading controller  anchors found in that cluster, or named by     status
                                                  back ends (``proposals/_authorities``)
``discovered``                leading controller  clusters that were found and could be          status
                                                  registered
``hub``                       leading controller  this hub's identity, drawn once                signers, controllers
``operations/<id>``           any controller      what an operator requested, and its outcome    the leader, status
``controllers/<replica>``     that controller     what it sees: clusters, publication, proof     status, the leader
``signers/<replica>``         that signer         what it uses and how it fares                  controllers, signers,
                                                                                                 status
``horizons/<replica>``        that signer         until when its leaves may live, written ahead  the leader, signers
                                                  of issuing
``callers/<replica>``         that signer         which pods it has issued certificates to       signers
``pins/<replica>``            that signer         which anchors in force its configuration       that signer, when it
                                                  pins, or pinned                                starts; other signers
============================  ==================  =============================================  ======================

The leading controller removes what processes that are gone have left (``controller/rotation/cleanup.py``).

One damaged document is not a store that is down: a reader of many goes on without it where that is safe, and what an
operator does about it depends on its key.
"""

from __future__ import annotations

from typing import Final

from federation.core.errors import StateUnavailable

CURRENT: Final = "current"
ROTATION: Final = "rotation"
DIRECTIVES: Final = "orders"
TAKEOVERS: Final = "takeovers"
HUB: Final = "hub"
DISCOVERED: Final = "discovered"

GENERATIONS: Final = "generations/"
PROPOSALS: Final = "proposals/"
OPERATIONS: Final = "operations/"
CONTROLLERS: Final = "controllers/"
SIGNERS: Final = "signers/"
EXPIRY_BOUNDS: Final = "horizons/"
CALLERS: Final = "callers/"
PINS: Final = "pins/"

OF_SIGNERS: Final = (SIGNERS, EXPIRY_BOUNDS, CALLERS, PINS)
"""What signers write; everything else is the controllers'. The rights in Kubernetes follow this line."""

DAMAGED: Final = "the document is damaged"
"""How every process reports it."""

_RESTORE: Final = "restore it from a backup"
_WRITTEN_ANEW: Final = "remove it if its writer is gone; one that runs writes it anew within seconds"

_REMEDIES: Final = {
    EXPIRY_BOUNDS: (
        # A bound that is lost or too early lets a rotation go on before the last leaf has expired; a signer writes its
        # bounds ahead by up to 15 minutes (``core/trust/expiry_bounds.py``).
        "leave it: until it is gone, leaves count as living on. Where its signer runs, restart that; where it does "
        "not, remove it once the longest TTL, 15 minutes and the clock skew have passed since it was last written. "
        "The bounds in a backup are too early"
    ),
    CALLERS: (
        "remove it: until the certificates of that signer have ended, it is not known which pods hold one; a signer "
        "that runs writes it anew"
    ),
    PINS: (
        "remove it: a signer that runs writes it anew, and one that is started refuses a bundle with an anchor that "
        "its configuration pins no more until that is pinned again"
    ),
    SIGNERS: _WRITTEN_ANEW,
    CONTROLLERS: _WRITTEN_ANEW,
    OPERATIONS: "ask for the operation again, and remove this one",
    PROPOSALS: (
        "restore it from a backup, or remove it: what is still there is found again, what was written over "
        "is not"
    ),
    DISCOVERED: "remove it: the leader looks for clusters again, and writes it anew",
    HUB: (
        "restore it from a backup; or remove it, and name the identity on the hub's objects (annotation "
        "federation-hub/hub) in controller.adopt_hubs, since another one is drawn"
    ),
}


class StateDamaged(StateUnavailable):
    """One document cannot be used, which says nothing about the others."""


def generation_key(number: int) -> str:
    """The key of a generation; zero-padded so that keys sort as numbers do."""
    return f"{GENERATIONS}{number:012d}"


def remedy_for(key: str) -> str:
    """What to do about the document of that key where it is damaged."""
    folder, slash, _ = key.partition("/")
    return _REMEDIES.get(folder + slash, _RESTORE)


def damaged(what: str, *, key: str, where: str, first: str = "") -> StateDamaged:
    """The error for it; ``first`` is what to check before anything is done to it."""
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
