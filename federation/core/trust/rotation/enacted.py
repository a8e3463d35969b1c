"""Whether what the record asks for is what is in force: what was only decided has not happened. Pure.

A bundle may be held back (a pin that cannot be read or was taken out, a store that cannot be written) while the
record goes on. Read-backs do not show that: the clusters then hold what is meant for them, which is the old one.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.core.trust.rotation.consumers import met, shas, unmet
from federation.core.trust.rotation.effects import kept_behind, published
from federation.core.trust.rotation.record import Condition, Rotation, RotationBook, State
from federation.core.trust.rotation.world import World


def enacted(book: RotationBook, rotation: Rotation, world: World) -> Iterator[Condition]:
    """What is in force holds of both roots what it is to hold, and no cluster is kept behind without need."""
    found = list(_problems(book, rotation, world))
    why = f": {world.unwritten}" if world.unwritten else ""
    for problem, cluster in found:
        yield unmet("enacted", f"{problem}{why}", cluster)
    if not found:
        yield met(
            "enacted", f"generation {world.in_force}, which is in force, is what {rotation.state} asks for"
        )


def _problems(book: RotationBook, rotation: Rotation, world: World) -> Iterator[tuple[str, str]]:
    """What is in the way, with the cluster that it is about."""
    both = frozenset({rotation.old.root, rotation.new.root})
    staying = rotation.old.root if rotation.state is State.ABORTING else rotation.new.root
    if staying not in world.pins:
        yield f"the configuration no longer pins {shas({staying})}, which is to stay", ""
    holds = world.generations.get(world.in_force)
    if holds is None:
        yield f"what generation {world.in_force} holds, which is in force, is not known", ""
        return
    asked = published(book, world.pins, world.staged, holds) & both
    if asked - holds:
        yield f"generation {world.in_force}, which is in force, lacks {shas(asked - holds)}", ""
    if (holds & both) - asked:
        yield (
            f"generation {world.in_force}, which is in force, holds {shas((holds & both) - asked)} still",
            "",
        )
    for name in sorted(world.behind.keys() - kept_behind(book)):
        yield f"it still gets generation {world.behind[name]}, and its wave has come", name
