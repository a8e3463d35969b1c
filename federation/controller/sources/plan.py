"""From what sources gave to the bundle that should be in force: a failing source never makes it smaller."""

from __future__ import annotations

from dataclasses import dataclass

from federation.controller.sources.pinned import Gathered
from federation.core.errors import InvalidValue
from federation.core.trust.bundle import TrustBundle, diff


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """The bundle that should be in force; where it cannot be made now, None and the reason in words."""

    bundle: TrustBundle | None
    held_back: str = ""


def plan_bundle(gathered: Gathered, in_force: TrustBundle | None) -> BundlePlan:
    """Merge the anchors, or hold back what a source that fails could have made smaller.

    Only the record of the rotation removes an anchor (``core/trust/rotation/effects.py``), and only while every source
    that the configuration names has given its own: else a root could be replaced by nothing, where the file of its
    successor cannot be read. What adds and removes at once is done in two generations, the larger one first: istiod
    takes a new bundle only where one of old and new holds the other, and nobody is to trust less before everybody
    trusts more.
    """
    if gathered.lacking and in_force is None:
        return BundlePlan(
            None, f"the first generation waits until every pinned anchor was read: {_first(gathered)}"
        )
    try:
        bundle = TrustBundle.merge(gathered.anchors)
    except InvalidValue as error:
        return BundlePlan(None, f"no bundle can be made of the sources: {error.diagnostics()}")
    change = diff(in_force, bundle)
    removed = change.removed
    if gathered.lacking and removed:
        names = ", ".join(anchor.certificate.subject for anchor in removed[:3])
        return BundlePlan(None, f"{names} stays until every pinned anchor was read: {_first(gathered)}")
    if change.added and removed:
        return BundlePlan(TrustBundle.merge((*gathered.anchors, *removed)))
    return BundlePlan(bundle)


def combine(*parts: Gathered) -> Gathered:
    """All of them as one."""
    return Gathered(
        anchors=tuple(anchor for part in parts for anchor in part.anchors),
        sources={name: state for part in parts for name, state in part.sources.items()},
        lacking=tuple(name for part in parts for name in part.lacking),
    )


def _first(gathered: Gathered) -> str:
    source = gathered.lacking[0]
    return f"{source}: {gathered.sources[source]}"
