"""What will fail, and until when, if a side of a rotation is removed at a given time. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from federation.core.trust.horizons import alive
from federation.core.trust.rotation.conditions import needs_old
from federation.core.trust.rotation.record import Rotation
from federation.core.trust.rotation.world import World


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Leaves of one cluster that stop validating, or stop trusting, from ``begins`` until they are renewed.

    Both in seconds since the epoch; ``ends`` is when the last such leaf has expired by the slowest clock, 0
    where it ends with a publication that cannot be foretold.
    """

    cluster: str
    what: str
    begins: float
    ends: float


def losses(rotation: Rotation, world: World, *, at: float, leaving_new: bool = False) -> list[Loss]:
    """What fails if the old side is no longer trusted from ``at`` on, and the new one signs from now on.

    With ``leaving_new`` it is the new side that is left, and the old one that signs. Where both are under one
    root nothing stops being trusted.
    """
    if not rotation.changes_root:
        return []
    if leaving_new:
        rotation = replace(rotation, old=rotation.new, new=rotation.old)
    found: dict[tuple[str, str], Loss] = {}

    def note(cluster: str, what: str, begins: float, ends: float) -> None:
        known = found.get((cluster, what))
        last = max(ends, known.ends) if known else ends
        found[cluster, what] = Loss(cluster=cluster, what=what, begins=begins, ends=last)

    for delivered, until in alive(world.horizons, world.now, skew=world.skew).items():
        ends = until + world.skew
        if needs_old(rotation, delivered.issuer) and ends > at:
            note(
                delivered.cluster, "its leaves of the authority that is left are refused by others", at, ends
            )
        if rotation.new.root not in world.generations.get(delivered.generation, frozenset()):
            note(
                delivered.cluster,
                "its workloads refuse the other authority until they renew",
                world.now,
                ends,
            )
    for name, facts in world.clusters.items():
        ends = facts.unknown_until + world.skew if facts.unknown_until else 0.0
        if ends > at:
            note(name, "its leaves from before the hub may be refused by others", at, ends)
        if ends > world.now:
            note(name, "its workloads from before the hub may refuse the other authority", world.now, ends)
        if facts.held is None or rotation.new.root not in facts.held:
            what = "some namespace may refuse the other authority until it is published there"
            note(name, what, world.now, 0.0)
    return sorted(found.values(), key=lambda loss: (loss.cluster, loss.what))
