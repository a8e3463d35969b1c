"""``federation controller``: one controller process, which publishes trust, proves it and answers for it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from functools import partial
from typing import TYPE_CHECKING, Final

from federation.cli.options import add_config, add_logs, add_probes, add_replica, address, host_replica
from federation.core.documents.keys import CURRENT
from federation.core.errors import FederationError

if TYPE_CHECKING:
    from federation.cli.process import Process
    from federation.controller.role import ControllerRole
    from federation.state.store import StateStore

READ_LIMIT: Final = 2.0
"""Seconds for reading the state for a probe; a kubelet waits three."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "controller",
        help="run one controller: publish the bundle, prove it, serve status",
        description="Runs one controller process. It holds no key; it reads namespaces and writes the bundle's "
        "objects in the member clusters, proves every ordered pair of them, and serves the status API. One "
        "controller leads, any other waits and serves status as well. SIGTERM gives leadership up, SIGHUP reloads "
        "the configuration.",
    )
    add_config(parser)
    add_replica(parser, "controller")
    parser.add_argument(
        "--signer-address",
        type=address,
        metavar="HOST:PORT",
        help="where the signer's listener is reached (default: controller.proof.signer_address, else listener.listen)",
    )
    parser.add_argument(
        "--status",
        type=address,
        metavar="HOST:PORT",
        help="where the status API and page are served (default: status.listen)",
    )
    add_probes(parser)
    add_logs(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until stopped."""
    from federation.cli.process import run_process

    replica = args.replica or host_replica()
    return run_process(
        args, role="controller", replica=replica, body=lambda process: _serve(args, process, replica)
    )


async def _serve(args: argparse.Namespace, process: Process, replica: str) -> int:
    from federation.cli.mounted_operations import operation_mac, operations
    from federation.cli.process import (
        announce,
        listening,
        open_authenticators,
        open_events,
        open_secret,
        open_store,
        serve_probes,
    )
    from federation.controller.member import Member
    from federation.controller.role import ControllerRole
    from federation.status.app import create_app
    from federation.status.authorization import check_tokens
    from federation.status.object_events import Announcer
    from federation.status.server import serve

    config, clock = process.config, process.clock
    status = config.current.status
    listen = args.status or status.listen
    await check_tokens(status)
    mac = operation_mac(config)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(config.current.state, clock))
        secret = await stack.enter_async_context(open_secret(config.current, "controller", clock))
        role = ControllerRole(
            config=config,
            store=store,
            clock=clock,
            replica=replica,
            jitter=random.SystemRandom(),
            mac=mac,
            signer_address=args.signer_address,
            open_member=partial(Member.open, secret=secret),
        )
        await serve_probes(stack, args.probes, clock, partial(_is_ready, role, store))
        authenticators = await stack.enter_async_context(open_authenticators(config, clock))
        events = await stack.enter_async_context(open_events(config.current.state, clock, replica))
        announcer = (
            Announcer(events, clock, replica=replica, leading=lambda: role.leads)
            if events is not None
            else None
        )
        server = serve(
            create_app(
                store=store,
                config=config,
                clock=clock,
                report=role.report,
                mounted=operations(store, config, clock, mac, leads=lambda: role.leads),
                authenticators=authenticators,
                announcer=announcer,
            ),
            listen=listen,
            clock=clock,
            certificate_file=status.certificate_file,
            key_file=status.key_file,
        )
        bound = await listening(stack, server, listen=listen, option="--status or status.listen")
        announce("status", f"{'https' if status.certificate_file else 'http'}://{bound}")
        await role.run(process.stop)
    return 0


async def _is_ready(role: ControllerRole, store: StateStore) -> bool:
    """As ``/readyz`` of the status server: ready, and able to read the state."""
    if not role.report().ready:
        return False
    try:
        async with asyncio.timeout(READ_LIMIT):
            await store.read(CURRENT)
    except (FederationError, TimeoutError):
        return False
    return True
