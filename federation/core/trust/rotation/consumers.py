"""What consumers of trust are known to trust: the conditions that G1 and the way back from a quarantine share. Pure.

A condition that holds says what it was seen by; one that does not says which cluster is in the way and, where
only time has to pass, until when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from federation.core.trust.horizons import ANY_REMOVED, alive
from federation.core.trust.rotation.record import Condition, RotationBook
from federation.core.trust.rotation.world import ClusterFacts, World

NOT_REGISTERED: Final = "it is not registered any more, and others still talk to its workloads"
NOT_KNOWN: Final = "a table that cannot be read may hold some, and others still talk to their workloads"


def consumers(book: RotationBook, world: World) -> Iterator[tuple[str, ClusterFacts]]:
    """The registered clusters that are not quarantined: those that a gate waits for."""
    for name, facts in sorted(world.clusters.items()):
        if name not in book.quarantined:
            yield name, facts


def held(name: str, facts: ClusterFacts, roots: frozenset[str], world: World, *, since: float) -> Condition:
    """Every place that the cluster's trust comes from was read back to hold the roots, lately and after ``since``.

    What was read before the present state began, or at that very instant, may have been replaced by what the
    state before it published.
    """
    if facts.held is None:
        return unmet("held", f"what it holds is not known: {facts.detail or 'it was not read back'}", name)
    age = world.now - facts.read_back_at
    if age > world.fresh:
        return unmet("held", f"it was last read back {age:.0f} s ago", name)
    if facts.read_back_at <= since:
        return unmet("held", f"it was not read back since {time_of(since)}", name)
    missing = roots - facts.held
    if missing:
        where = f": {facts.detail}" if facts.detail and not facts.current else ""
        return unmet("held", f"{shas(missing)} is not held everywhere{where}", name)
    return met("held", f"{shas(roots)} was read back everywhere", name)


def leaves_without(roots: frozenset[str], world: World) -> Mapping[str, Mapping[int, float]]:
    """Per cluster, the generations that lack one of the roots and until when leaves delivered so may live.

    A generation that is not known lacks everything.
    """
    late: dict[str, dict[int, float]] = {}
    for delivered, until in alive(world.horizons, world.now, skew=world.skew).items():
        if roots <= world.generations.get(delivered.generation, frozenset()):
            continue
        of_cluster = late.setdefault(delivered.cluster, {})
        last = of_cluster.get(delivered.generation, 0.0)
        of_cluster[delivered.generation] = max(until + world.skew, last)
    return late


def delivered_with(
    name: str, roots: frozenset[str], late: Mapping[str, Mapping[int, float]]
) -> list[Condition]:
    """Every unexpired leaf of the cluster was delivered with all the roots; ``late`` is :func:`leaves_without`."""
    if name not in late:
        return [met("leaves", f"every leaf alive was delivered with {shas(roots)}", name)]
    return [
        unmet(
            "leaves",
            f"leaves delivered with generation {generation}, which lacks one of {shas(roots)}, may live until"
            f" {time_of(until)}",
            name,
            until,
        )
        for generation, until in sorted(late[name].items())
    ]


def delivered_in_removed(
    book: RotationBook, world: World, roots: frozenset[str], late: Mapping[str, Mapping[int, float]]
) -> Iterator[Condition]:
    """The same for clusters that are not registered any more, but for those that were quarantined before."""
    for name in sorted(late.keys() - world.clusters.keys() - book.quarantined.keys()):
        why = NOT_REGISTERED if name != ANY_REMOVED else NOT_KNOWN
        for condition in delivered_with(name, roots, late):
            yield replace(condition, detail=f"{why}; {condition.detail}")


def in_force(roots: frozenset[str], world: World) -> Condition:
    """What is delivered from now on holds the roots; leaves alive say nothing about the next one."""
    missing = roots - world.generations.get(world.in_force, frozenset())
    if missing:
        return unmet("in_force", f"generation {world.in_force}, which is in force, lacks {shas(missing)}")
    return met("in_force", f"generation {world.in_force}, which is in force, holds {shas(roots)}")


def earlier(name: str, facts: ClusterFacts, world: World) -> Condition:
    """No leaf from before the hub is alive: it may need any root, and trust none of the hub's."""
    if facts.own_issues:
        return unmet(
            "earlier",
            f"its own CA issues there until somebody says that it does not: federation rotate takeover {name}",
            name,
        )
    until = facts.unknown_until + world.skew if facts.unknown_until else 0.0
    if until > world.now:
        return unmet("earlier", f"leaves from before the hub may live until {time_of(until)}", name, until)
    return met("earlier", "no leaf from before the hub can be alive", name)


def earlier_in_removed(world: World, *, without: frozenset[str] = frozenset()) -> Iterator[Condition]:
    """No leaf from before the hub is alive in a cluster that is not registered any more: others still talk to it."""
    for name, end in sorted(world.gone.items()):
        until = end + world.skew
        if until > world.now and name not in without:
            detail = f"{NOT_REGISTERED}; leaves from before the hub may live until {time_of(until)}"
            yield unmet("earlier", detail, name, until)


def met(name: str, detail: str, cluster: str = "") -> Condition:
    """A condition that holds."""
    return Condition(name=name, met=True, detail=detail, cluster=cluster)


def unmet(name: str, detail: str, cluster: str = "", until: float = 0.0) -> Condition:
    """A condition that does not hold, and may from ``until`` on (0: that cannot be told)."""
    return Condition(name=name, met=False, detail=detail, cluster=cluster, until=until)


def in_words(condition: Condition) -> str:
    """A condition in a sentence: with its cluster, where it is about one."""
    return f"{condition.cluster}: {condition.detail}" if condition.cluster else condition.detail


def shas(roots: Iterable[str]) -> str:
    """Fingerprints as a person reads them."""
    return " and ".join(sorted(root[:12] for root in roots)) or "nothing"


def time_of(seconds: float) -> str:
    """An instant as a person reads it, whatever the number is."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "a time that no calendar holds"
