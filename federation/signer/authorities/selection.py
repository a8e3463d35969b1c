"""Which authority signs for a cluster, by the directives of the rotation, and which ones are not in force. Pure.

``[signer.authority]`` comes first, ``[signer.successor]`` second. While a rotation is under way only the directed
intermediate may sign. At rest the one in force signs wherever it is configured. Where it is not, or cannot, another
intermediate under the same root does, if no rotation has left it (:meth:`SigningDirectives.permit`); that of
``[signer.successor]`` only after a rotation that ended with the new side, until it has become ``[signer.authority]``.
Everything else that is configured is a pending change: it signs nothing until a rotation leads to it. Nothing has made
sure that every workload trusts what it signs, and an earlier one may be what was rotated away from because it was
stolen.

Before it is recorded what is in force, ``[signer.authority]`` signs. What an emergency named never signs again,
whatever else is down. Nothing is signed under a root that the generation delivered with it lacks.

What a file or a back end holds by now is a pending change as well. A running signer goes on with the authority that it
has while that can sign, and says what it has not taken up, and what an operator does about it. One that has nothing
else issues nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from federation.core.errors import AuthorityMisconfigured, NotReady
from federation.core.pki.certificate import Certificate
from federation.core.rotation.effects import NOT_IN_FORCE, SigningDirectives
from federation.core.rotation.record import State

_AFTER: Final = State.RETIRED.value  # a rotation that ended with the new side

CHANGE_OVER: Final = (
    "put the former authority back; to change over, keep that one as [signer.authority], configure the new one as"
    " [signer.successor], pin its root with staged = true, and run `federation rotate start`"
)

GO_BACK: Final = (
    "put the authority back that signs since the last rotation; only a rotation brings the other one back"
)

WAIT: Final = (
    "let the rotation end, or abort it, before an authority is exchanged; put the former one back meanwhile"
)


def not_in_force(
    issuers: Sequence[Certificate], directives: SigningDirectives
) -> AuthorityMisconfigured | None:
    """Why an authority below these issuers (issuer first, root last) may not sign by these directives.

    None where it may, where its issuers are not known yet (its leaves are judged then), and where it is not known
    what is in force. An emergency against it is another matter: it is said where the authority is chosen.
    """
    if not issuers or not directives.binding:
        return None
    own, root = issuers[0], issuers[-1]
    if directives.permit(own.sha256, root.sha256) or not {own.sha256, root.sha256}.isdisjoint(
        directives.forbidden
    ):
        return None
    if directives.strict:
        return _under_way(own, directives)
    if root.sha256 == directives.root:
        return _problem(
            f"{own.subject} ({own.sha256[:16]}) was left by a rotation, and {directives.issuer[:16]} is in force",
            GO_BACK,
        )
    return _problem(
        f"{own.subject} ({own.sha256[:16]}) is under the root {root.subject} ({root.sha256[:16]}), and in force is"
        f" {directives.issuer[:16]} under the root {directives.root[:16]}",
        CHANGE_OVER,
    )


def exchange(
    old: Sequence[Certificate],
    new: Sequence[Certificate],
    directives: SigningDirectives | None,
    *,
    reserve: bool,
) -> AuthorityMisconfigured | None:
    """Why an authority below ``new`` must not take the place of one below ``old``; None where it may.

    It may where ``old`` signs nothing. While a rotation is under way what its directives name is never exchanged.
    ``reserve`` says that the place is that of ``[signer.successor]``, which signs only where the directives name it.
    Where it is not known what is in force, what has the place is.
    """
    if not old or not new or old[0] == new[0]:
        return None
    if directives is not None and directives.strict:
        named = {directives.issuer, *directives.clusters.values()}
        return _under_way(new[0], directives) if old[0].sha256 in named else None
    if directives is not None and new[0].sha256 == directives.issuer:
        return None
    if directives is None or not directives.root:
        if reserve or old[-1] == new[-1]:
            return None
        return _problem(
            f"{new[0].subject} ({new[0].sha256[:16]}) is under the root {new[-1].subject} ({new[-1].sha256[:16]}), and"
            f" what signs is under {old[-1].subject} ({old[-1].sha256[:16]})",
            CHANGE_OVER,
        )
    idle = reserve and directives.state != State.RETIRED.value
    used = old[0].sha256 == directives.issuer if idle else directives.permit(old[0].sha256, old[-1].sha256)
    return not_in_force(new, directives) if used else None


def _under_way(own: Certificate, directives: SigningDirectives) -> AuthorityMisconfigured:
    named = " and ".join(sorted(sha256[:16] for sha256 in {directives.issuer, *directives.clusters.values()}))
    return _problem(
        f"rotation {directives.rotation} is under way in {directives.state} and names {named}, and this is"
        f" {own.subject} ({own.sha256[:16]})",
        WAIT,
    )


def _problem(what: str, remedy: str) -> AuthorityMisconfigured:
    return AuthorityMisconfigured(what, remedy=remedy, reason=NOT_IN_FORCE)


class Available(Protocol):
    """An authority as far as the choice depends on it."""

    @property
    def usable(self) -> bool:
        """True while it can sign and may be asked to."""
        ...

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while they are not known."""
        ...


One = TypeVar("One", bound=Available)


def choose(
    directives: SigningDirectives, cluster: str, authorities: Sequence[One], anchors: tuple[Certificate, ...]
) -> One:
    """The authority that signs for that cluster (empty: for the hub itself) under these anchors.

    One that cannot sign is chosen where no other may: asked, it says why it cannot. Raises NotReady with the
    reason ``quarantined``, ``directed_authority_missing``, ``compromised_authority``, ``authority_not_in_force`` or
    ``unpublished_anchor``.
    """
    require_served(directives, cluster)
    directed = directives.issuer_for(cluster)
    found = _signing_with(directed, authorities) if directed else None
    binding = directives.strict or (directives.state == _AFTER and not directives.root)
    if found is not None and (binding or (found.usable and _published(found, anchors))):
        return _require_published(found, anchors, cluster)
    if directives.strict and directed:
        raise NotReady(
            f"the directives name the intermediate {directed[:16]}, which this signer has not got ready",
            where=cluster,
            remedy="look at [signer.authority] and [signer.successor] in this signer's report",
            reason="directed_authority_missing",
        )
    first = authorities[0]
    barred = _forbidden(first, directives)
    problem = None if directives.strict else not_in_force(first.issuers, directives)
    if not barred and problem is None and first.usable and _published(first, anchors):
        return first
    if directives.state == _AFTER:
        for other in authorities[1:]:
            known = other.usable and other.issuers and not _forbidden(other, directives)
            if known and not_in_force(other.issuers, directives) is None and _published(other, anchors):
                return other
    if found is not None and directives.root:
        return _require_published(found, anchors, cluster)
    if barred:
        raise NotReady(
            f"an emergency was declared against {first.issuers[0].subject}, and nothing else may sign there now",
            where=cluster,
            remedy="make the authority that the last rotation led to [signer.authority], and see why it cannot sign",
            reason="compromised_authority",
        )
    if problem is not None:
        raise NotReady(problem.what, where=cluster, remedy=problem.remedy, reason=problem.reason)
    return _require_published(first, anchors, cluster)


def require_served(directives: SigningDirectives, cluster: str) -> None:
    """Raise NotReady where the directives are that this cluster gets nothing."""
    if cluster in directives.stopped:
        raise NotReady(
            f"the cluster is quarantined: {directives.stopped[cluster][:200]}",
            where=cluster,
            remedy="`federation rotate release` lets it return once it is caught up",
            reason="quarantined",
        )
    if cluster in directives.ahead:
        raise NotReady(
            f"the state was set back: this hub has published generation {directives.ahead[cluster]} there, "
            f"which is later"
            " than any that it knows",
            where=cluster,
            remedy="restore the newest backup of the state, and restart every role",
            reason="state_older",
        )
    if cluster in directives.others:
        raise NotReady(
            f"another hub publishes there, of the identity {directives.others[cluster]}: no workload there would "
            "trust what this one signs",
            where=cluster,
            remedy="see what the controller says of this cluster: stop that hub there and adopt its identity, or "
            "remove the cluster here",
            reason="other_hub",
        )
    if not directives.serve(cluster):
        raise NotReady(
            "no controller has looked into it yet, so that it may be another hub's",
            where=cluster,
            remedy="nothing, right after it was registered; else see why the controller cannot read it",
            reason="cluster_unread",
        )


def _signing_with(issuer: str, authorities: Sequence[One]) -> One | None:
    """The authority with that intermediate; one that is usable before one that is not."""
    found = None
    for one in authorities:
        issuers = one.issuers
        if issuers and issuers[0].sha256 == issuer:
            if one.usable:
                return one
            found = found or one
    return found


def _forbidden(one: Available, directives: SigningDirectives) -> bool:
    """True where its intermediate or a root above it is one that an emergency named."""
    return any(issuer.sha256 in directives.forbidden for issuer in one.issuers)


def _published(one: Available, anchors: tuple[Certificate, ...]) -> bool:
    """False where its root is known and not among the anchors."""
    issuers = one.issuers
    return not issuers or issuers[-1] in anchors


def _require_published(one: One, anchors: tuple[Certificate, ...], cluster: str) -> One:
    if _published(one, anchors):
        return one
    raise NotReady(
        f"the root above {one.issuers[0].subject} is not in the generation that is delivered there",
        where=cluster,
        remedy="an authority signs only under anchors that all hold: publish its root, by a rotation",
        reason="unpublished_anchor",
    )
