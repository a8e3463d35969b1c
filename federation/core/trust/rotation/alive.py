"""Whether the workloads of each cluster still get certificates: nothing depends on an anchor where they do not. Pure.

A drain waits until every leaf that needs a side has ended. In a mesh that gets no certificates all of them have, and
an abort or a removal would seem safe: it would seal what is broken, and a later proof with the hub's own probes would
call it green.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.core.trust.life import judge
from federation.core.trust.rotation.consumers import consumers, met, time_of, unmet
from federation.core.trust.rotation.record import Condition, Rotation, RotationBook, State
from federation.core.trust.rotation.world import ClusterFacts, World


def renewing(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """At least half of the workloads of each cluster hold a certificate that has not ended, or it has none.

    Together with the drain these certificates are of the side that stays. An abort asks before its removal alone:
    after it, the old side signs again in any case.
    """
    if rotation.state is State.ABORTING and rotation.wave:
        return
    for name, facts in consumers(book, world):
        yield alive_in(name, facts, world, condition="alive")


def alive_in(name: str, facts: ClusterFacts, world: World, *, condition: str) -> Condition:
    """Whether one cluster's workloads get certificates, as a condition of that name."""
    found = judge(facts.life, world.now)
    if found.fine:
        return met(condition, found.detail, name)
    until = f"; more is known at {time_of(found.until)}" if found.until else ""
    remedy = f"; {found.remedy}" if found.remedy else ""
    return unmet(condition, f"{found.detail}{until}{remedy}", name, found.until)
