"""How a role reaches one cluster's API server: with whose credentials, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How one role reaches one cluster: a kubeconfig and a context in it, or the pod's service account."""

    kubeconfig: Path | None
    context: str | None = None
    in_cluster: bool = False
    allowed_exec: tuple[str, ...] = ()  # commands an exec plugin may run; empty: none


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTimeouts:
    """Every wait for one cluster's API server."""

    connect: float = 5.0
    request: float = 15.0
    watch: float = 270.0  # what the server is asked for; real ones pick 5 to 10 minutes when not asked
    watch_silence: float = 90.0  # bookmarks come about once a minute: past this the watch is taken for dead
    backoff_first: float = 0.5
    backoff_longest: float = 60.0
