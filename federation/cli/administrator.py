"""A person's kubeconfig, as kubectl would use it: for commands that a person runs, and never for a role."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.core.errors import FederationError

if TYPE_CHECKING:
    from federation.kubernetes.credentials import LoadedCredentials
    from federation.kubernetes.session import ClusterSession

REQUEST: Final = 30.0  # seconds for one request of an administrator, whose API server may be far away


async def administrator(
    stack: AsyncExitStack, file: Path | None, context: str | None, *, name: str
) -> tuple[ClusterSession, LoadedCredentials]:
    """A session with a person's kubeconfig, exec plugin included: the person named the file, as for kubectl."""
    from federation.cli.pinning import read_bounded
    from federation.core.config.clusters import ClusterTimeouts, Credentials
    from federation.core.identity import ClusterName
    from federation.kubernetes.credentials import load_credentials
    from federation.kubernetes.kubeconfig import MAX_KUBECONFIG_BYTES, exec_command
    from federation.kubernetes.session import ClusterSession
    from federation.runtime.clock import SystemClock

    path = file or default_kubeconfig()
    text = await asyncio.to_thread(read_bounded, path, MAX_KUBECONFIG_BYTES)
    command = exec_command(text, file=str(path), context=context)
    credentials = Credentials(kubeconfig=path, context=context, allowed_exec=(command,) if command else ())
    clock, cluster = SystemClock(), ClusterName(name)
    loaded = await load_credentials(credentials, cluster=cluster, clock=clock)
    session = ClusterSession(
        loaded, cluster=cluster, timeouts=ClusterTimeouts(request=REQUEST), clock=clock, connections=4
    )
    await stack.enter_async_context(session)
    return session, loaded


def default_kubeconfig(environment: Mapping[str, str] = os.environ) -> Path:
    """The one that ``KUBECONFIG`` names, else ``~/.kube/config``. Raises FederationError where it names several."""
    named = [path for path in environment.get("KUBECONFIG", "").split(os.pathsep) if path]
    if len(named) > 1:
        raise FederationError(
            "KUBECONFIG names several files, and this reads one",
            remedy="name it with --kubeconfig",
        )
    return Path(named[0]) if named else Path.home() / ".kube" / "config"
