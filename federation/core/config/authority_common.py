"""The keys that several kinds of authority share: a name, and a remote back end's limits."""

from __future__ import annotations

from typing import TypedDict

from federation.core.config.authority_model import RemoteAuthorityConfig
from federation.core.config.references import AuthorityContext
from federation.core.config.tables import Table
from federation.core.config.values import integer, label, number, seconds


class RemoteKeys(TypedDict):
    """What :class:`RemoteAuthorityConfig` has beside its name."""

    quota: float
    max_in_flight: int
    max_queued: int
    timeout: float
    poll_seconds: float


def read_name(table: Table) -> str | None:
    """The authority's name; None, with a finding, where there is none to be used."""
    return table.require(
        "name",
        label("a name for an authority"),
        "name it: status, metrics and the accounting of leaves use the name",
    )


def read_remote(table: Table, defaults: RemoteAuthorityConfig, context: AuthorityContext) -> RemoteKeys:
    """A remote back end's limits; ``defaults`` are its kind's. Its timeout must be below the door's deadline."""
    timeout = table.get("timeout", seconds(0.1, 120), defaults.timeout)
    if timeout >= context.door_deadline:
        table.mistake(
            "timeout",
            f"is {timeout:g} s and door.deadline {context.door_deadline:g} s: the door would give up first",
            "lower it, or raise door.deadline",
        )
    return RemoteKeys(
        quota=table.get("quota", number(0, 100_000), defaults.quota),
        max_in_flight=table.get("max_in_flight", integer(1, 10_000), defaults.max_in_flight),
        max_queued=table.get("max_queued", integer(1, 100_000), defaults.max_queued),
        timeout=timeout,
        poll_seconds=table.get("poll_seconds", seconds(0.1, 3600), defaults.poll_seconds),
    )
