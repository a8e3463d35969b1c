"""``federation clusters discovered`` and ``admit``: clusters that the hub found, and how a person registers one.

What was found decides nothing: ``admit`` is ``add``, with the address that was found, where that is the API server of
the administrator's own kubeconfig by its CA. The hub gets that kubeconfig's CA, never the one that was found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Final

from federation.cli.hub_access import add_hub_options, hub_client
from federation.cli.registration import Journal, Say, add_adding_options, guarded, to_stderr, to_stdout
from federation.cli.tables import Rows, add_table_options

if TYPE_CHECKING:
    from federation.cli.registration import RunningHub
    from federation.core.documents.discovery import DiscoveredCluster, Sighting
    from federation.kubernetes.credentials import LoadedCredentials
    from federation.kubernetes.role_kubeconfig import ServerConnection
    from federation.status.model import DiscoveryView

COLUMNS: Final = ("name", "state", "server", "ca", "found_in", "note")
ROUTE: Final = "/api/v1/discovered"
NOT_ENABLED: Final = "the hub looks for no clusters: [discovery] of its configuration names no source"


def add_discovery_questions(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both questions and their options."""
    listing = questions.add_parser(
        "discovered",
        help="list clusters that the hub found and could be registered",
        description="Lists the clusters that the sources of [discovery] name, with the address and the CA of each API "
        "server, where they were found, and what the sources disagree about. A source that cannot be read is said on "
        "stderr. Exit codes: 0 listed; 1 a source cannot be read, or the hub looks for none; 2 the status API cannot "
        "be reached.",
    )
    add_hub_options(listing)
    add_table_options(listing, COLUMNS)
    listing.set_defaults(run=_run_discovered)
    admitting = questions.add_parser(
        "admit",
        help="register a cluster that the hub found",
        description="Registers a cluster that the hub discovered, as `federation clusters add` does, with the API "
        "server's address that was found. The administrator's kubeconfig has to verify that server by the CA that was "
        "found: so a person's own knowledge of the cluster decides, and no credential that was found is used. What the "
        "sources disagree about is shown, and has to be decided with --server. Exit codes: 0 proved (with --wait 0: "
        "registered); 1 not, or not yet; 2 what was written on the command line or in the configuration cannot be "
        "used.",
    )
    admitting.add_argument("found", metavar="FOUND", help="the name under which it was discovered")
    admitting.add_argument(
        "--as", dest="name", metavar="NAME", help="the cluster's name in the hub (default: FOUND)"
    )
    add_adding_options(admitting)
    admitting.set_defaults(run=_run_admit)


def _run_discovered(args: argparse.Namespace) -> int:
    from federation.status.client import StatusUnavailable
    from federation.status.encoding import encode_answer
    from federation.status.model import DiscoveryView

    try:
        view = asyncio.run(hub_client(args).get(ROUTE, DiscoveryView))
    except StatusUnavailable as error:
        print(f"federation clusters discovered: {error.diagnostics()}", file=sys.stderr)
        return 2
    rows = Rows(
        COLUMNS,
        [_cells(cluster) for cluster in view.clusters],
        [json.loads(encode_answer(cluster)) for cluster in view.clusters],
    )
    rows.chosen(args).print(
        args,
        key="clusters",
        empty="no cluster was found",
        enabled=view.enabled,
        sources=json.loads(encode_answer(view.sources)),
    )
    problems = [NOT_ENABLED] if not view.enabled else list(_unread(view))
    for problem in problems:
        print(f"federation clusters discovered: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _unread(view: DiscoveryView) -> list[str]:
    if not view.updated:
        return ["no controller has looked yet"]
    return [
        f"{reading.problem.detail}" + (f" ({reading.problem.remedy})" if reading.problem.remedy else "")
        for reading in view.sources
        if reading.problem is not None
    ]


def _cells(cluster: DiscoveredCluster) -> tuple[str, ...]:
    usable = cluster.usable
    notes = [
        *cluster.disagreements,
        *dict.fromkeys(each.problem for each in cluster.sightings if each.problem),
    ]
    servers = sorted({sighting.server for sighting in usable})
    return (
        cluster.name,
        cluster.state,
        cluster.server or (f"{len(servers)} differ" if servers else "-"),
        ",".join(each[:16] for each in cluster.ca) or "-",
        ", ".join(sighting.place for sighting in cluster.sightings[:2])
        + (f" and {len(cluster.sightings) - 2} more" if len(cluster.sightings) > 2 else ""),
        notes[0] + (f" (and {len(notes) - 1} more)" if len(notes) > 1 else "") if notes else "",
    )


def _run_admit(args: argparse.Namespace) -> int:
    args.name = args.name or args.found
    say: Say = to_stderr if args.dry_run else to_stdout
    undo = f"federation clusters remove {args.name}"
    return guarded("federation clusters admit", undo, lambda journal: _admit(args, say, journal))


async def _admit(args: argparse.Namespace, say: Say, journal: Journal) -> int:
    from federation.cli.registration_add import add_cluster
    from federation.clusters.discovery import same_server
    from federation.core.errors import FederationError, InvalidValue
    from federation.core.identity import ClusterName

    try:
        ClusterName(args.name)
    except InvalidValue as error:
        raise FederationError(error.what, remedy=f"name it with --as: {error.remedy}") from None

    async def confirm(hub: RunningHub, loaded: LoadedCredentials) -> None:
        from federation.kubernetes.role_kubeconfig import ServerConnection
        from federation.status.model import DiscoveryView

        view = await hub.client.get(ROUTE, DiscoveryView)
        cluster = proposal_named(args.found, view)
        own = ServerConnection.of(loaded)
        sighting = confirmed_sighting(cluster, own, server=args.server, say=say)
        args.found_cluster_id = sighting.cluster_id
        args.server = "" if same_server(sighting.server, own.server) else sighting.server

    return await add_cluster(args, say, journal, confirm=confirm)


def proposal_named(name: str, view: DiscoveryView) -> DiscoveredCluster:
    """The cluster of that name. Raises FederationError where there is none to register."""
    from federation.core.config.mistakes import nearest
    from federation.core.errors import FederationError

    if not view.enabled:
        raise FederationError(
            NOT_ENABLED, remedy="switch it on, or use `federation clusters add`, which needs none"
        )
    cluster = next((cluster for cluster in view.clusters if cluster.name == name), None)
    if cluster is None:
        near = nearest(name, [cluster.name for cluster in view.clusters])
        raise FederationError(
            f"no cluster was discovered as {name}",
            remedy=f"did you mean {near}?"
            if near
            else "`federation clusters discovered` lists those that were",
        )
    if cluster.state == "ignored":
        raise FederationError(
            f"{name} is ignored by the configuration",
            remedy="correct discovery.names or discovery.ignore first, if it belongs to the mesh",
        )
    if not cluster.usable:
        raise FederationError(
            f"what was found of {name} cannot be used: {cluster.sightings[0].problem}",
            where=cluster.sightings[0].place,
            remedy="correct that object, or use `federation clusters add`, which needs none",
        )
    return cluster


def confirmed_sighting(
    cluster: DiscoveredCluster, own: ServerConnection, *, server: str, say: Say
) -> Sighting:
    """The sighting at ``server`` (empty: at the one that all name) that the administrator's own connection confirms.

    Raises FederationError where it confirms none.
    """
    from federation.clusters.discovery import fingerprints, same_server
    from federation.core.errors import FederationError

    for disagreement in cluster.disagreements:
        say(f"note: {disagreement}")
    meant = [each for each in cluster.usable if not server or same_server(each.server, server)]
    if not meant:
        raise FederationError(
            f"{cluster.name} was not found at {server}",
            remedy="name one of the addresses that `federation clusters discovered` shows, or use `federation clusters "
            "add --server`",
        )
    if any(not same_server(each.server, meant[0].server) for each in meant):
        servers = ", ".join(sorted({each.server for each in meant}))
        raise FederationError(
            f"the sources name different API servers of {cluster.name}: {servers}",
            remedy="choose one with --server",
        )
    own_ca = set(fingerprints(own.authority))
    for sighting in meant:
        if set(sighting.ca) & own_ca or not (sighting.ca or own_ca):
            say(f"{sighting.place} names {sighting.server}, and the CA of your kubeconfig")
            return sighting
    raise FederationError(
        f"your kubeconfig verifies {own.server} by another CA than was found for {meant[0].server}",
        where=meant[0].place,
        remedy="name the kubeconfig and context of that cluster; if these are it, the address that was found leads "
        "elsewhere or through a proxy: use `federation clusters add` with an address of its API server",
    )
