"""Whether a leaf may still be delivered, by what is read to be in force once its expiry bound is written. Pure.

The controller writes what is in force (``current``, ``directives``) and then reads until when leaves may live. A signer
writes until when its leaves may live and then reads what is in force. So one of the two always sees the other: either
the controller counts the leaf, or the leaf is not delivered. ``expiry_bounds.py`` calls :func:`revalidate` with what it
read after it wrote; ``issuance.py`` and the listener's certificate call :func:`require_directed` once there is a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from federation.core.documents.trust import Current
from federation.core.errors import NotReady
from federation.core.identity import ClusterName
from federation.core.pki.certificate import Certificate
from federation.core.rotation.effects import SigningDirectives
from federation.signer.authorities.selection import not_in_force


class Superseded(NotReady):
    """The generation or the directives that a leaf was made by are not in force any more: it has to be made anew."""

    default_reason = "superseded"


class Delivery(msgspec.Struct, frozen=True):
    """A leaf about to be handed out: signed by whom, with which trust, usable until when, on which directives."""

    cluster: ClusterName
    authority: str  # SHA-256 of the issuer's certificate; empty while it is not known
    generation: int
    not_after: datetime
    directives: SigningDirectives


def revalidate(delivery: Delivery, current: Current | None, directives: SigningDirectives) -> None:
    """Raise Superseded where the delivery is not what ``current`` and ``directives``, as just read, ask for."""
    cluster = str(delivery.cluster)
    if current is None:
        raise Superseded("the state store names no generation any more", where=cluster)
    if cluster in directives.stopped:
        raise Superseded("the cluster was quarantined meanwhile", where=cluster)
    if not directives.serve(cluster):
        raise Superseded("it is not known any more that the cluster is this hub's", where=cluster)
    number = current.number_for(cluster)
    if number != delivery.generation:
        raise Superseded(
            f"it is made for generation {delivery.generation}, and {number} is in force there",
            where=cluster,
            remedy="where this lasts, the signer's report says why it does not take up that generation",
        )
    _require_named(delivery.authority, directives, cluster)
    made = delivery.directives
    if _asked_of(made, cluster) != _asked_of(directives, cluster):
        raise Superseded(
            f"it is made by the directives of rotation {made.rotation} in {made.state or 'no state'},"
            f" and those of rotation {directives.rotation} in {directives.state or 'no state'} hold",
            where=cluster,
        )


def require_directed(issuers: Sequence[Certificate], directives: SigningDirectives, cluster: str) -> None:
    """Raise where a leaf below these issuers (issuer first, root last) must not be handed out by these directives.

    Raises Superseded where they forbid the issuer or name another, and NotReady where that is not what is in force:
    a back end may sign with something else than it did a moment ago.
    """
    _require_named(issuers[0].sha256, directives, cluster)
    problem = not_in_force(issuers, directives)
    if problem is not None:
        raise NotReady(problem.what, where=cluster, remedy=problem.remedy, reason=problem.reason)


def _require_named(issuer: str, directives: SigningDirectives, cluster: str) -> None:
    """Raise Superseded where the directives forbid the issuer (SHA-256; empty while unknown), or name another."""
    if issuer in directives.forbidden:
        raise Superseded(
            f"it is signed by {issuer[:16]}, against which an emergency was declared",
            where=cluster,
            remedy="take that authority out of this signer's configuration",
            reason="compromised_authority",
        )
    ordered = directives.issuer_for(cluster)
    if directives.strict and ordered and issuer and issuer != ordered:
        raise Superseded(
            f"it is signed by {issuer[:16]}, and {ordered[:16]} is ordered",
            where=cluster,
            remedy="where this lasts, the back end has another intermediate than the rotation was begun with",
        )


def _asked_of(directives: SigningDirectives, cluster: str) -> tuple[str, bool, float]:
    return directives.issuer_for(cluster), directives.strict, directives.ttl_cap
