"""What ``federation clusters remove`` does: the hub lets go of the cluster first, then what ``add`` made there goes.

HubObjects are deleted by the hub's mark alone, each only if it still is the one that was found.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from federation.cli.administrator import administrator
from federation.cli.prompts import agreed
from federation.cli.registration import LOOK_EVERY, Journal, RunningHub, Say, opened_hub
from federation.cli.registration_progress import holders
from federation.clusters.registration import ROLES, MarkedObject, Registrar
from federation.core.config.entries import without_cluster
from federation.core.config.hub import HubConfig
from federation.core.errors import FederationError
from federation.core.identity import ClusterName
from federation.kubernetes.role_kubeconfig import is_made
from federation.status.client import StatusClient, StatusUnavailable
from federation.status.model import FederationStatus
from federation.status.snapshot import instant_text

REPORTED_WITHIN: Final = 30.0
"""Seconds in which a leader reports until when certificates of a cluster live that was just removed."""


@dataclass(frozen=True)
class _ToRemove:
    """Everything that would be done."""

    text: str | None
    objects: list[MarkedObject]
    credentials: list[str]  # roles

    @property
    def anything(self) -> bool:
        """Whether there is anything to do."""
        return self.text is not None or bool(self.objects or self.credentials)


async def remove_cluster(args: argparse.Namespace, say: Say, journal: Journal) -> int:
    """Find what there is of it, show it, ask, and undo it; the exit code. Raises FederationError."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(opened_hub(args))
        registrar = None
        if not args.lost:
            session, _ = await administrator(stack, args.kubeconfig, args.context, name=args.name)
            registrar = Registrar(session, hub=hub.identity, cluster=args.name)
        found = await _find(args, hub, registrar)
        if not found.anything:
            say(f"{args.name} is not registered, and nothing of it is left: nothing was changed")
            return 0
        _show_removal(args, hub, found, say)
        if found.text is not None and hub.places.owner:
            say(
                f"{hub.places.label} belongs to {hub.places.owner}, which would put the entry back: take it out of"
            )
            say("the list `clusters` of its values, apply them, and run this again: it removes the rest")
            say("nothing was done")
            return 1
        if not args.yes and not agreed("Remove it?"):
            say("nothing was done")
            return 1
        if found.text is not None:
            await hub.places.replace(found.text)
            journal.add(f"took {args.name} out of {hub.places.label}")
            say(f"out   the entry {args.name} in {hub.places.label}")
        await _let_go(args, hub.client, say)
        for role in found.credentials:
            await hub.places.remove_credential(role)
            journal.add(f"removed {hub.places.described(role)}")
            say(f"gone  {hub.places.described(role)}")
        if registrar is not None:
            await _delete(registrar, found.objects, hub.config, say, journal)
        await _say_what_remains(args, hub.client, say)
    return 0


async def _find(args: argparse.Namespace, hub: RunningHub, registrar: Registrar | None) -> _ToRemove:

    name = ClusterName(args.name)
    text = None
    if hub.config.cluster(name) is not None:
        text, _ = without_cluster(hub.text, name, file=hub.places.label)
    credentials = []
    for role in ROLES:
        content = await hub.places.credential(role)
        if content is not None and is_made(content.kubeconfig):
            credentials.append(role)
    return _ToRemove(text, await registrar.own_objects() if registrar else [], credentials)


def _show_removal(args: argparse.Namespace, hub: RunningHub, found: _ToRemove, say: Say) -> None:
    if found.text is not None:
        say(f"the entry {args.name} in {hub.places.label}: the hub signs and publishes for it no more")
    for role in found.credentials:
        say(f"  delete  {hub.places.described(role)}")
    for item in found.objects:
        say(f"  delete  {item} in {args.name}")
    if not found.objects and not args.lost:
        say(f"  nothing in {args.name} bears this hub's mark: what was made by hand stays there")


async def _let_go(args: argparse.Namespace, client: StatusClient, say: Say) -> None:
    """Wait until no process of the hub works with the cluster: then its accounts can go without an error there."""
    until, said = time.monotonic() + args.wait, ""
    while True:
        problem, who = "", ""
        try:
            status = await client.get("/api/v1/status", FederationStatus)
            problem = status.config_problems[0] if status.config_problems else ""
            who = ", ".join(holders(status, args.name))
        except StatusUnavailable as error:
            who = error.diagnostics()
        if problem:
            raise FederationError(f"the hub refuses the configuration without it: {problem}", where=args.name)
        if not who:
            say("  the hub has let go of it")
            return
        if said != who:
            say(f"  waits for the hub to let go of it: {who}")
            said = who
        if time.monotonic() >= until:
            raise FederationError(
                f"the hub has not let go of it within {args.wait:g} s: {who}",
                where=args.name,
                remedy="see `federation status`",
            )
        await asyncio.sleep(LOOK_EVERY)


async def _delete(
    registrar: Registrar, objects: Sequence[MarkedObject], config: HubConfig, say: Say, journal: Journal
) -> None:
    """Bindings first, so that the rights end at once; the namespace last, and only if nothing else is in it."""
    for item in objects:
        if item.kind == "Namespace":
            left = await registrar.left_in(item.name, config_map=config.controller.publication.config_map)
            if left:
                say(f"stays {item}: it holds {', '.join(left[:5])}{' and more' if len(left) > 5 else ''}")
                continue
        await registrar.delete(item)
        journal.add(f"deleted {item}")
        say(f"gone  {item}")


async def _say_what_remains(args: argparse.Namespace, client: StatusClient, say: Say) -> None:
    until = await _certificates_end(args.name, client, within=min(REPORTED_WITHIN, args.wait))
    if until:
        leaves = f"certificates that its workloads have got are valid in the other clusters until {instant_text(until)}"
    else:
        leaves = "the hub does not say until when certificates of its workloads live: see `federation status`"
    say(f"{args.name} is removed. What remains: {leaves}. None is renewed from now on.")
    if not args.lost:
        say(
            "In the cluster stay the bundle (ConfigMap in each namespace) and istiod's Secret, so that what runs there "
            "goes on; delete them where it is to trust the mesh no longer."
        )


async def _certificates_end(name: str, client: StatusClient, *, within: float) -> float:
    """When the last certificate of the cluster ends; 0 where the hub does not say so soon after the removal.

    The leader counts them at its next look, so nothing is concluded from a report that does not name the cluster yet.
    """
    until = time.monotonic() + within
    while True:
        with contextlib.suppress(StatusUnavailable):
            status = await client.get("/api/v1/status", FederationStatus)
            for removed in status.removed_clusters:
                if removed.cluster == name:
                    return removed.until
        if time.monotonic() >= until:
            return 0.0
        await asyncio.sleep(LOOK_EVERY)
