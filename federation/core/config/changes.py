"""What one configuration has that another one has not, in a line for the audit. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Final

from federation.core.config.hub import HubConfig

MOST_NAMED: Final = 10
"""Of each kind; the rest is a number."""

_OF_THE_TEXT: Final = frozenset({"file", "digest", "warnings", "notices"})
"""What follows from the file's text, and is no setting."""


def changes(before: HubConfig, after: HubConfig) -> tuple[str, str]:
    """Both by their digests, each with the pins, the staged pins and the clusters that the other one lacks.

    The second one has what both have and what differs: names of tables and of clusters, never a value.
    """
    return _lacking(before, after), "; ".join([_lacking(after, before), *_differing(before, after)])


def _lacking(config: HubConfig, other: HubConfig) -> str:
    pins = config.trust.pins - other.trust.pins
    staged = config.trust.staged - other.trust.staged
    clusters = {str(cluster.name) for cluster in config.clusters} - {str(c.name) for c in other.clusters}
    named = (("pin", pins), ("staged", staged), ("cluster", clusters))
    return "; ".join([f"digest {config.digest[:16]}", *(_named(kind, of) for kind, of in named if of)])


def _differing(before: HubConfig, after: HubConfig) -> list[str]:
    found = {
        field.name
        for field in fields(HubConfig)
        if field.name not in _OF_THE_TEXT | {"clusters"}
        if getattr(before, field.name) != getattr(after, field.name)
    }
    then = {cluster.name: cluster for cluster in before.clusters}
    found |= {f"clusters.{now.name}" for now in after.clusters if then.get(now.name, now) != now}
    return [_named("changed", found)] if found else []


def _named(kind: str, names: Collection[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{kind} {', '.join(sorted(names)[:MOST_NAMED])}{more}"
