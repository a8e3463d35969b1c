"""``federation signer``: one signer process, which attests, checks and signs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
from functools import partial
from typing import TYPE_CHECKING

from federation.cli.options import add_config, add_logs, add_probes, add_replica, address, host_replica

if TYPE_CHECKING:
    from federation.cli.process import Process
    from federation.signer.role import SignerRole

ANNOUNCE_POLL = 0.1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "signer",
        help="run one signer: attest callers, check their requests, sign",
        description="Runs one signer process. It holds the authority and reads tokens, pods and service accounts of "
        "the member clusters; it can publish nothing. The listener opens once there is a bundle and an authority that "
        "can sign under it. SIGTERM drains, SIGHUP reloads the configuration.",
    )
    add_config(parser)
    add_replica(parser, "signer")
    parser.add_argument(
        "--listen",
        type=address,
        metavar="HOST:PORT",
        help="where the listener listens (default: listener.listen)",
    )
    parser.add_argument(
        "--health",
        type=address,
        metavar="HOST:PORT",
        help="where /healthz, /readyz and /metrics are served (default: signer.health_listen, else nowhere)",
    )
    add_probes(parser)
    add_logs(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until stopped."""
    from federation.cli.process import run_process

    replica = args.replica or host_replica()
    return run_process(
        args, role="signer", replica=replica, body=lambda process: _serve(args, process, replica)
    )


async def _serve(args: argparse.Namespace, process: Process, replica: str) -> int:
    from federation.cli.process import announce, listening, open_secret, open_store, serve_probes
    from federation.signer.registry import connect
    from federation.signer.role import SignerRole
    from federation.signer.tracing import open_tracing
    from federation.status.authorization import check_tokens
    from federation.status.server import create_health_app, serve

    config, clock = process.config, process.clock
    await check_tokens(config.current.status)
    tracing = open_tracing(os.environ, replica=replica)
    async with contextlib.AsyncExitStack() as stack:
        secret = await stack.enter_async_context(open_secret(config.current, "signer", clock))
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)  # sends what is left, bounded in time
        role = SignerRole(
            config=config,
            store=await stack.enter_async_context(open_store(config.current.state, clock)),
            clock=clock,
            replica=replica,
            random_bytes=os.urandom,
            jitter=random.SystemRandom(),
            listen=args.listen,
            connect=partial(connect, secret=secret),
            tracing=tracing,
        )
        await serve_probes(stack, args.probes, clock, partial(_is_ready, role))
        health = args.health or config.current.signer.health_listen
        if health is not None:
            app = create_health_app(role.report, config=config, clock=clock)
            server = serve(app, listen=health, clock=clock)
            bound = await listening(stack, server, listen=health, option="--health or signer.health_listen")
            announce("health", f"http://{bound}")
        group = await stack.enter_async_context(asyncio.TaskGroup())
        listener = group.create_task(_announce_listener(role, process))
        try:
            await role.run(process.stop)
        finally:
            listener.cancel()
    return 0


async def _is_ready(role: SignerRole) -> bool:
    return role.report().ready


async def _announce_listener(role: SignerRole, process: Process) -> None:
    """Say where the listener is once it is open: before there is a bundle it is not."""
    from federation.cli.process import announce

    while role.address is None:
        await process.clock.sleep(ANNOUNCE_POLL)
    announce("listener", role.address)
