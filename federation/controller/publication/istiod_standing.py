"""The state of istiod's certificate in one namespace, in words that an operator can act on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from federation.controller.publication.istiod_secret import Examined, Wanted, is_of_another_issuer
from federation.core.errors import ClusterError, ClusterForbidden, ClusterInvalid, FederationError

MOST_TEXT: Final = 400
MOST_NAMES: Final = 32
MOST_CHARACTERS: Final = 253  # of a DNS name: in a certificate it may have any length

_APPLY: Final = "apply manifests/member to that cluster"
_STOP_WRITER: Final = "stop the other writer, or set provide_certificate = false in its [clusters.istio]"


@dataclass(frozen=True, slots=True)
class Standing:
    """One of the states of a ControlPlaneReport; ``attention`` says that an operator has to act."""

    state: str
    detail: str = ""
    remedy: str = ""
    attention: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is known of one Secret at an instant.

    ``present`` says whether its namespace exists, ``unwatched`` why the Secret is not watched, ``fresh`` that the
    rest was read back. ``examined`` is None where there is none. ``held_back`` says why the hub must not write one
    yet, ``problem`` what went wrong with it last, ``writers`` who else keeps changing it.
    """

    namespace: str
    secret: str
    now: datetime
    present: bool | None = None
    unwatched: ClusterError | None = None
    fresh: bool = False
    wanted: Wanted | None = None
    examined: Examined | None = None
    renew_at: datetime | None = None
    held_back: str = ""
    problem: FederationError | None = None
    writers: str = ""

    @property
    def own_way(self) -> str:
        """What to do where the hub is not to provide it."""
        return (
            "or set provide_certificate = false in its [clusters.istio] and make the Secret "
            f"{self.namespace}/{self.secret} with another issuer before istiod starts"
        )


def standing(sight: Sight) -> Standing:
    """Its state now."""
    unread = _unread(sight)
    if unread is not None:
        return unread
    examined = sight.examined
    if examined is not None and examined.foreign:
        return _foreign(sight, examined)
    if examined is not None and sight.wanted is not None and examined.serves:
        return _serving(sight, examined, sight.wanted)
    return _missing(sight, "there is no certificate" if examined is None else _what_is_wrong(examined))


def _unread(sight: Sight) -> Standing | None:
    if isinstance(sight.unwatched, ClusterForbidden):
        detail = f"the Secret may not be watched: {sight.unwatched.what}"
        return _standing("forbidden", detail, f"{_APPLY}; {sight.own_way}")
    if sight.present is False:
        detail = f"there is no namespace {sight.namespace}: the Secret is written as soon as there is one"
        return Standing("waiting", detail)
    if not sight.fresh:
        why = sight.unwatched.what if sight.unwatched is not None else "it is being listed"
        return _standing("waiting", f"it is not read back: {why}")
    if sight.wanted is None:
        return _standing("waiting", "there is no bundle yet")
    return None


def _foreign(sight: Sight, examined: Examined) -> Standing:
    issuer = examined.chain[0].issuer if examined.chain else ""
    named = f" ({issuer})" if issuer else ""
    detail = f"istiod is served by another CA{named}: the hub's bundle does not verify its certificate"
    remedy = (
        "have the mesh trust the hub first (federation clusters join), then delete that Secret, and the hub writes it; "
        f"{sight.own_way}"
    )
    return _standing("foreign", detail, remedy)


def _serving(sight: Sight, examined: Examined, wanted: Wanted) -> Standing:
    """Of one that serves, and may be about to be replaced."""
    problem = f": {sight.problem.diagnostics()}" if sight.problem is not None else ""
    if sight.writers:
        problem = f", and {sight.writers} keeps changing it{problem}"
    if sight.renew_at is not None and sight.now >= sight.renew_at:
        detail = f"it is due to be renewed{problem}"
    elif is_of_another_issuer(examined, wanted):
        detail = f"by order another intermediate signs than issued it{problem}"
    elif not examined.current:
        detail = f"ca.crt is not the bundle{problem}"
    elif sight.writers:
        return _standing("provided", f"{sight.writers} keeps changing it", _STOP_WRITER)
    else:
        return Standing("provided")
    if sight.held_back:
        return _standing("provided", f"{detail}; nothing is written yet: {sight.held_back}")
    return _standing(
        "provided", detail, _remedy(sight) if problem else "", attention=bool(problem) or not examined.current
    )


def _missing(sight: Sight, what: str) -> Standing:
    if sight.held_back:
        remedy = "nothing while the cluster joins: it is written once its namespaces hold the hub's bundle"
        return _standing("waiting", f"{what}; none is written yet: {sight.held_back}", remedy)
    if isinstance(sight.problem, ClusterForbidden):
        detail = f"{what}, and the hub may not provide one: {sight.problem.what}"
        return _standing("forbidden", detail, f"{_APPLY}; {sight.own_way}")
    if sight.problem is not None:
        return _standing("failed", f"{what}: {sight.problem.diagnostics()}", _remedy(sight))
    if sight.writers:
        return _standing("failed", f"{what}: {sight.writers} keeps changing it", _STOP_WRITER)
    return _standing("waiting", f"{what}; one is being requested")


def _standing(state: str, detail: str, remedy: str = "", *, attention: bool = True) -> Standing:
    return Standing(state, detail[:MOST_TEXT], remedy, attention)


def _what_is_wrong(examined: Examined) -> str:
    if examined.problem:
        return f"the certificate cannot serve: {examined.problem}"
    return f"the certificate does not cover {', '.join(examined.lacking[:MOST_NAMES])}"


def _remedy(sight: Sight) -> str:
    if isinstance(sight.problem, ClusterForbidden):
        return _APPLY
    if isinstance(sight.problem, ClusterInvalid):
        return f"see what refuses {sight.secret} there; if it is immutable, delete it, and the hub writes it anew"
    if sight.problem is not None:
        return sight.problem.remedy
    return _STOP_WRITER if sight.writers else ""
