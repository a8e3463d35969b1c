"""Opens the state store that the configuration names."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from federation.core.clock import Clock
from federation.core.config.model import StateConfig
from federation.core.errors import ConfigurationError, Finding

if TYPE_CHECKING:
    from federation.state.store import StateStore

CONNECTIONS: Final = 16
"""Requests under way at once: a controller reads many small documents one beside the other."""


@contextlib.asynccontextmanager
async def open_store(state: StateConfig, clock: Clock) -> AsyncIterator[StateStore]:
    """The store, for as long as the block runs; nothing is sent before it is used.

    Raises ConfigurationError for credentials that cannot be used.
    """
    if state.kind == "kubernetes":
        async with _objects(state, clock) as store:
            yield store
        return
    from federation.state.files import FileStore

    if state.directory is None:
        raise _missing("directory")
    yield FileStore(state.directory, clock)


@contextlib.asynccontextmanager
async def _objects(state: StateConfig, clock: Clock) -> AsyncIterator[StateStore]:
    from federation.clusters.followed import followed
    from federation.core.config.access import ClusterTimeouts
    from federation.core.identity import ClusterName
    from federation.state.kubernetes import KubernetesStore

    if state.credentials is None:
        raise _missing("kubeconfig")
    async with followed(
        state.credentials,
        cluster=ClusterName("state"),
        timeouts=ClusterTimeouts(),
        clock=clock,
        connections=CONNECTIONS,
    ) as session:
        yield KubernetesStore(session, clock, namespace=state.namespace, jitter=random.SystemRandom())


def _missing(key: str) -> ConfigurationError:
    return ConfigurationError(
        [Finding("clusters.toml", f"state.{key}", "is missing", "say where the state is")]
    )
