"""Whether an authority is another one than the one in force, and what an operator does about it. Pure.

What is configured, and what a file or a back end holds by now, is a wish. Who signs changes by a rotation; without
one only to another intermediate under the root in force (:meth:`Orders.permit`). A running signer goes on with the
authority that it has as long as that can sign, and says what it has not taken up. One that has nothing else issues
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from federation.core.errors import AuthorityMisconfigured
from federation.core.pki.certificate import Certificate
from federation.core.trust.rotation.effects import Orders
from federation.core.trust.rotation.record import State
from federation.core.trust.rotation.signing import NOT_IN_FORCE

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


def not_in_force(issuers: Sequence[Certificate], orders: Orders) -> AuthorityMisconfigured | None:
    """Why an authority below these issuers (issuer first, root last) may not sign by these orders.

    None where it may, where its issuers are not known yet (its leaves are judged then), and where it is not known
    what is in force. An emergency against it is another matter: it is said where the authority is chosen.
    """
    if not issuers or not orders.binding:
        return None
    own, root = issuers[0], issuers[-1]
    if orders.permit(own.sha256, root.sha256) or not {own.sha256, root.sha256}.isdisjoint(orders.forbidden):
        return None
    if orders.strict:
        return _under_way(own, orders)
    if root.sha256 == orders.root:
        return _problem(
            f"{own.subject} ({own.sha256[:16]}) was left by a rotation, and {orders.issuer[:16]} is in force",
            GO_BACK,
        )
    return _problem(
        f"{own.subject} ({own.sha256[:16]}) is under the root {root.subject} ({root.sha256[:16]}), and in force is"
        f" {orders.issuer[:16]} under the root {orders.root[:16]}",
        CHANGE_OVER,
    )


def exchange(
    old: Sequence[Certificate], new: Sequence[Certificate], orders: Orders | None, *, reserve: bool
) -> AuthorityMisconfigured | None:
    """Why an authority below ``new`` must not take the place of one below ``old``; None where it may.

    It may where ``old`` signs nothing. While a rotation is under way what its orders name is never exchanged.
    ``reserve`` says that the place is that of ``[signer.successor]``, which signs only where the orders name it.
    Where it is not known what is in force, what has the place is.
    """
    if not old or not new or old[0] == new[0]:
        return None
    if orders is not None and orders.strict:
        named = {orders.issuer, *orders.clusters.values()}
        return _under_way(new[0], orders) if old[0].sha256 in named else None
    if orders is not None and new[0].sha256 == orders.issuer:
        return None
    if orders is None or not orders.root:
        if reserve or old[-1] == new[-1]:
            return None
        return _problem(
            f"{new[0].subject} ({new[0].sha256[:16]}) is under the root {new[-1].subject} ({new[-1].sha256[:16]}), and"
            f" what signs is under {old[-1].subject} ({old[-1].sha256[:16]})",
            CHANGE_OVER,
        )
    idle = reserve and orders.state != State.RETIRED.value
    used = old[0].sha256 == orders.issuer if idle else orders.permit(old[0].sha256, old[-1].sha256)
    return not_in_force(new, orders) if used else None


def _under_way(own: Certificate, orders: Orders) -> AuthorityMisconfigured:
    named = " and ".join(sorted(sha256[:16] for sha256 in {orders.issuer, *orders.clusters.values()}))
    return _problem(
        f"rotation {orders.rotation} is under way in {orders.state} and names {named}, and this is"
        f" {own.subject} ({own.sha256[:16]})",
        WAIT,
    )


def _problem(what: str, remedy: str) -> AuthorityMisconfigured:
    return AuthorityMisconfigured(what, remedy=remedy, reason=NOT_IN_FORCE)
