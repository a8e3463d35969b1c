"""What every long-running verb has around it: logs, event loop, signals, configuration and reloads, state store."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from federation.core.clock import Clock
from federation.core.config.hub import HubConfig, StateConfig
from federation.core.config.types import Address
from federation.core.errors import ConfigurationError, Mistake, NotReady
from federation.runtime import logs, processes
from federation.runtime.clock import SystemClock
from federation.runtime.config_source import ConfigSource
from federation.runtime.processes import handled

if TYPE_CHECKING:
    from federation.clusters.members import FollowedSession
    from federation.core.config.clusters import Credentials
    from federation.kubernetes.token_places import KubeconfigSecret
    from federation.state.kubernetes_events import EventWriter
    from federation.state.store import StateStore
    from federation.status.callers import Authenticator

_logger = logging.getLogger(__name__)

COLLECT_AFTER: Final = 10_000
"""New objects before garbage is collected. With Python's 700 a tenth of a role's start is spent on modules that are
being made, where there is no garbage."""

ORPHAN_GRACE: Final = 60.0
"""Seconds a role whose supervisor died may drain, before it exits all the same."""


@dataclass(slots=True)
class Process:
    """What a running verb is given. ``stop`` is set by SIGTERM and SIGINT."""

    config: ConfigSource
    clock: Clock
    stop: asyncio.Event
    on_hangup: list[Callable[[], None]] = field(default_factory=list)
    """Called on SIGHUP; the reload of the configuration is the first."""

    def hang_up(self) -> None:
        """What SIGHUP does."""
        for call in self.on_hangup:
            call()


Body = Callable[[Process], Awaitable[int]]


def quieten_libraries() -> None:
    """Set what libraries read once, when they are first imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def run_process(args: argparse.Namespace, *, role: str, replica: str, body: Body) -> int:
    """Run ``body`` in an event loop with all that belongs around it; returns its exit code.

    Raises ConfigurationError where the file cannot be used at the start.
    """
    quieten_libraries()
    logs.configure(args.log_format, args.log_level, fields={"role": role, "replica": replica})
    gc.set_threshold(COLLECT_AFTER)
    processes.hold(grace=ORPHAN_GRACE)
    processes.raise_limit()
    processes.return_large_blocks()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(ConfigSource(args.config, SystemClock()), SystemClock(), body))


async def _run(config: ConfigSource, clock: Clock, body: Body) -> int:
    await config.load()
    hangup = asyncio.Event()
    process = Process(config=config, clock=clock, stop=asyncio.Event(), on_hangup=[hangup.set])
    with handled(process.stop, hangup=process.hang_up):
        async with asyncio.TaskGroup() as group:
            background = (
                group.create_task(config.watch()),
                group.create_task(_reload_on(hangup, config)),
            )
            try:
                return await body(process)
            finally:
                for task in background:
                    task.cancel()


async def _reload_on(hangup: asyncio.Event, config: ConfigSource) -> None:
    while True:
        await hangup.wait()
        hangup.clear()
        if not await config.reload() and not config.problems:
            _logger.info("SIGHUP: the configuration file has not changed")


async def listening(
    stack: contextlib.AsyncExitStack,
    server: AbstractAsyncContextManager[Address],
    *,
    listen: Address,
    option: str,
) -> Address:
    """Enter a server's context; NotReady, naming the key to change, where its address cannot be bound."""
    try:
        return await stack.enter_async_context(server)
    except OSError as error:
        raise NotReady(
            f"cannot listen at {listen}: {error.strerror or error}",
            reason="address_in_use",
            remedy=f"see who listens there, or change {option}",
        ) from error


async def serve_probes(
    stack: contextlib.AsyncExitStack,
    listen: Address | None,
    clock: Clock,
    ready: Callable[[], Awaitable[bool]],
) -> None:
    """Answer a kubelet's probes there while the stack is open, and nothing else; nowhere where ``listen`` is None."""
    from federation.status.server import create_probes_app, serve

    if listen is None:
        return
    server = serve(create_probes_app(ready), listen=listen, clock=clock)
    announce("probes", f"http://{await listening(stack, server, listen=listen, option='--probes')}")


def announce(what: str, where: object) -> None:
    """One line on stdout for a person, or for the supervisor to hand on: ``listener 127.0.0.1:15443``."""
    print(f"{what} {where}", flush=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not built for this platform
        return None
    return uvloop.new_event_loop


SECRET_CONNECTIONS: Final = 4
EVENT_CONNECTIONS: Final = 1
CONNECTIONS: Final = 16
"""Requests under way at once: a controller reads many small documents one beside the other."""


@contextlib.asynccontextmanager
async def open_store(state: StateConfig, clock: Clock) -> AsyncIterator[StateStore]:
    """The store, while the block runs; nothing is sent before it is used.

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


def _own_cluster(
    credentials: Credentials, name: str, clock: Clock, connections: int
) -> contextlib.AbstractAsyncContextManager[FollowedSession]:
    """A session at the hub's own cluster, called ``name`` in what is logged; nothing is sent yet."""
    from federation.clusters.members import followed
    from federation.core.config.clusters import ClusterTimeouts
    from federation.core.identity import ClusterName

    return followed(
        credentials,
        cluster=ClusterName(name),
        timeouts=ClusterTimeouts(),
        clock=clock,
        connections=connections,
    )


@contextlib.asynccontextmanager
async def _objects(state: StateConfig, clock: Clock) -> AsyncIterator[StateStore]:
    from federation.state.kubernetes_store import KubernetesStore

    if state.credentials is None:
        raise _missing("kubeconfig")
    async with _own_cluster(state.credentials, "state", clock, CONNECTIONS) as session:
        yield KubernetesStore(session, clock, namespace=state.namespace, jitter=random.SystemRandom())


@contextlib.asynccontextmanager
async def open_events(state: StateConfig, clock: Clock, replica: str) -> AsyncIterator[EventWriter | None]:
    """What writes Events beside the state, None where that is not in objects; nothing is sent yet.

    Raises ConfigurationError for credentials that cannot be used.
    """
    if state.kind != "kubernetes" or state.credentials is None:
        yield None
        return
    from federation.state.kubernetes_events import EventWriter

    async with _own_cluster(state.credentials, "state", clock, EVENT_CONNECTIONS) as session:
        yield EventWriter(session, clock, state.namespace, replica)


@contextlib.asynccontextmanager
async def open_secret(
    config: HubConfig, role: Literal["signer", "controller"], clock: Clock
) -> AsyncIterator[KubeconfigSecret | None]:
    """The Secret that the role's kubeconfigs are mounted from, None where none is configured; nothing is sent yet.

    Raises ConfigurationError for credentials that cannot be used.
    """
    secrets = config.kubeconfig_secrets
    if secrets is None:
        yield None
        return
    from federation.kubernetes.token_places import KubeconfigSecret

    async with _own_cluster(secrets.credentials, "hub", clock, SECRET_CONNECTIONS) as session:
        name = secrets.signer if role == "signer" else secrets.controller
        yield KubeconfigSecret(session, namespace=secrets.namespace, name=name)


@contextlib.asynccontextmanager
async def open_authenticators(config: ConfigSource, clock: Clock) -> AsyncIterator[list[Authenticator]]:
    """What verifies callers of the status API, while the block runs; nothing is sent before a caller comes.

    What is configured by now is opened; what is taken out of the configuration later lets no one in any more.

    Raises ConfigurationError for credentials that cannot be used.
    """
    status = config.current.status
    found: list[Authenticator] = []
    async with contextlib.AsyncExitStack() as stack:
        if status.oidc is not None:
            from federation.status.oidc import OidcCallers

            found.append(OidcCallers(lambda: config.current.status.oidc, clock))
        if status.kubernetes is not None:
            from federation.clusters.members import followed
            from federation.core.config.clusters import ClusterTimeouts
            from federation.core.identity import ClusterName
            from federation.status.kubernetes_callers import KubernetesCallers

            session = await stack.enter_async_context(
                followed(
                    status.kubernetes.credentials,
                    cluster=ClusterName("hub"),
                    timeouts=ClusterTimeouts(),
                    clock=clock,
                    connections=CONNECTIONS,
                )
            )

            def audience() -> str | None:
                kubernetes = config.current.status.kubernetes
                return None if kubernetes is None else kubernetes.audience

            found.append(KubernetesCallers(session, clock, audience=audience))
        yield found


def _missing(key: str) -> ConfigurationError:
    return ConfigurationError(
        [Mistake("clusters.toml", f"state.{key}", "is missing", "say where the state is")]
    )
