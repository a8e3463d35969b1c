"""``federation hub``: both roles on one machine, as separate processes."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
from typing import TYPE_CHECKING, Final

from federation.cli.options import add_config, add_logs, add_replica, host_replica

if TYPE_CHECKING:
    from federation.cli.process import Process
    from federation.core.config.hub import HubConfig
    from federation.core.config.types import Address
    from federation.runtime.forking import ForkServer
    from federation.runtime.processes import ChildSpec

_logger = logging.getLogger(__name__)

DRAIN_MARGIN: Final = 10.0
"""Seconds beyond listener.drain for a role to write its last report and close its connections."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "hub",
        help="start and supervise signers and the controller on this machine",
        description="Starts the signer processes (signer.processes, one per core by default) and the controller, "
        "restarts one that ends, and prints a line for each address once it is ready. The processes share the state "
        "directory and nothing else. SIGTERM drains all of them, SIGHUP makes them reload the configuration.",
    )
    add_config(parser)
    add_replica(parser, "hub")
    add_logs(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Supervise until stopped; 0 if every process drained in time, 2 if one could not use what is configured."""
    from federation.cli.main import main
    from federation.runtime import forking

    server = forking.start(import_roles, main)  # before there is a thread or a loop
    try:
        return _run(args, server)
    finally:
        if server is not None:
            server.close()


ROLES: Final = (
    "federation.cli.process",
    "federation.cli.signer",
    "federation.cli.controller",
    "federation.signer.role",
    "federation.controller.role",
    "federation.status.app",
    "federation.status.server",
    "federation.state.files",
    "uvloop",
)
"""What both roles import whatever the configuration says. What it names, a back end or a store, each imports itself."""


def import_roles() -> None:
    """Import what signers and controller have in common with one another, and with this process."""
    from importlib import import_module

    from federation.cli.process import quieten_libraries
    from federation.core.config.load import prepare

    quieten_libraries()
    for module in ROLES:
        with contextlib.suppress(ModuleNotFoundError):  # uvloop, where it is not built for this platform
            import_module(module)
    prepare()


def _run(args: argparse.Namespace, server: ForkServer | None) -> int:
    from federation.cli.process import run_process

    replica = args.replica or host_replica()
    return run_process(
        args, role="hub", replica=replica, body=lambda process: _supervise(args, process, replica, server)
    )


async def _supervise(
    args: argparse.Namespace, process: Process, replica: str, server: ForkServer | None
) -> int:
    import asyncio

    from federation.runtime.processes import UNUSABLE, Supervisor, executing, reserved

    config = process.config.current
    with reserved(config.listener.listen) as listener:
        printed = Printed()
        supervisor = Supervisor(
            child_specs(args, config, listener=listener, replica=replica),
            clock=process.clock,
            jitter=random.SystemRandom(),
            drain=config.listener.drain + DRAIN_MARGIN,
            on_line=printed,
            launch=server.launch if server is not None else executing(),
        )
        process.on_hangup.append(lambda: supervisor.forward(signal.SIGHUP))
        async with asyncio.TaskGroup() as group:
            following = group.create_task(_say_what_needs_a_restart(process, config))
            try:
                drained = await supervisor.run(process.stop)
            finally:
                following.cancel()
    if supervisor.refused:
        return UNUSABLE
    return 0 if drained else 1


class Printed:
    """Prints what the children announce, each line once: all signers share one listener."""

    def __init__(self) -> None:
        self._lines: set[str] = set()

    def __call__(self, line: str) -> None:
        """Hand on one line of a child's standard output."""
        if line not in self._lines:
            self._lines.add(line)
            print(line, flush=True)


def child_specs(
    args: argparse.Namespace, config: HubConfig, *, listener: Address, replica: str
) -> list[ChildSpec]:
    """The processes to run: signers first, since the controller's proof needs one."""
    from federation.core.config.types import Address
    from federation.runtime.processes import ChildSpec, reachable

    common = ("--config", str(args.config), "--log-format", args.log_format, "--log-level", args.log_level)
    specs: list[ChildSpec] = []
    for number in range(config.signer.processes or cores()):
        name = f"signer-{number}"
        options = ["signer", *common, "--replica", f"{replica}-{name}", "--listen", str(listener)]
        health = config.signer.health_listen
        if health is not None:
            port = health.port + number if health.port else 0
            options += ["--health", str(Address(health.host, port))]
        specs.append(ChildSpec(name, tuple(options)))
    options = ["controller", *common, "--replica", f"{replica}-controller"]
    if config.controller.proof.signer_address is None:
        options += ["--signer-address", str(reachable(listener))]
    specs.append(ChildSpec("controller", tuple(options)))
    return specs


def cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def _say_what_needs_a_restart(process: Process, began: HubConfig) -> None:
    """The roles take up their own changes; what this process has fixed for them, they cannot."""
    digest = began.digest
    while True:
        now = await process.config.changed(digest)
        digest = now.digest
        for key, fixed in (
            ("listener.listen", now.listener.listen == began.listener.listen),
            ("signer.processes", now.signer.processes == began.signer.processes),
            ("signer.health_listen", now.signer.health_listen == began.signer.health_listen),
            ("status.listen", now.status.listen == began.status.listen),
        ):
            if not fixed:
                _logger.warning("%s was changed and takes effect after a restart of the hub", key)
