"""What the tables of all authorities behind a network or a device share."""

from __future__ import annotations

from typing import TypedDict

from federation.core.config.authorities.settings import RemoteAuthorityConfig


class Limits(TypedDict):
    """What :class:`RemoteAuthorityConfig` has."""

    name: str
    quota: float
    max_in_flight: int
    max_queued: int
    timeout: float
    poll_seconds: float


def limits_of(table: RemoteAuthorityConfig) -> Limits:
    """An authority's name and limits, as they are in its table."""
    return Limits(
        name=table.name,
        quota=table.quota,
        max_in_flight=table.max_in_flight,
        max_queued=table.max_queued,
        timeout=table.timeout,
        poll_seconds=table.poll_seconds,
    )
