"""``federation clusters``: which clusters are registered, whether the hub can work there, and how to set Istio up."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from federation.cli import clusters_istio, clusters_join
from federation.cli.options import add_config, load_config

if TYPE_CHECKING:
    from federation.clusters.check_results import CheckResult
    from federation.core.config.access import Credentials
    from federation.core.config.model import ClusterConfig, HubConfig
    from federation.core.hub_identity import HubIdentity

AT_ONCE: Final = 16
"""Clusters checked at the same time; each check waits mostly."""

CHECK_LIMIT: Final = 120.0
"""Seconds for all the checks of one cluster together, beyond every timeout of a single request."""

STATE_LIMIT: Final = 10.0  # seconds for reading the hub's identity from its state

_MARKS: Final = {"ok": "ok", "warning": "WARNING", "failed": "FAILED"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb, its questions and their options."""
    parser = subparsers.add_parser(
        "clusters",
        help="list the registered clusters, check that the hub can work with them, print Istio's settings",
        description="Reads the configuration; needs no running hub.",
    )
    questions = parser.add_subparsers(title="questions", metavar="QUESTION", required=True)
    listing = questions.add_parser(
        "list",
        help="who is registered",
        description="Lists the clusters of the configuration. Exit codes: 0 listed; 2 the configuration cannot "
        "be used.",
    )
    checking = questions.add_parser(
        "check",
        help="ask each cluster whether the hub can do its job there",
        description="Checks one cluster, or all: reachability, version, clock skew, permissions of each role (missing "
        "and excessive), issuer and token keys, colliding cluster IDs, who else writes the bundle's ConfigMap, and "
        "what runs of Istio there, compared with what the hub needs: trust domain, cluster name, CA, webhooks, "
        "ztunnel. Changes nothing. Exit codes: 0 nothing failed (there may be warnings); 1 something failed; 2 the "
        "configuration cannot be used, or no cluster has that name.",
    )
    checking.add_argument("name", nargs="?", metavar="NAME", help="the cluster to check (default: all)")
    for question, handler in ((listing, _list), (checking, _check)):
        add_config(question)
        question.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        question.set_defaults(run=handler)
    clusters_istio.add_question(questions)
    clusters_join.add_question(questions)


def _list(args: argparse.Namespace) -> int:
    config = asyncio.run(load_config(args.config))
    clusters = [_describe(cluster) for cluster in config.clusters]
    if args.json:
        print(json.dumps({"trust_domain": str(config.trust_domain), "clusters": clusters}, indent=2))
        return 0
    columns = ("name", "cluster_id", "network", "attestation", "signer", "controller")
    rows = [[str(cluster[column]) or "-" for column in columns] for cluster in clusters]
    _print_table([[column.upper() for column in columns], *rows])
    return 0


def _describe(cluster: ClusterConfig) -> dict[str, Any]:
    return {
        "name": str(cluster.name),
        "cluster_id": str(cluster.cluster_id),
        "network": cluster.network,
        "attestation": cluster.attestation,
        "signer": _reached_by(cluster.signer),
        "controller": _reached_by(cluster.controller),
        "allow": list(cluster.policy.allow),
        "deny": list(cluster.policy.deny),
        "trusted_node_accounts": [str(account) for account in cluster.policy.trusted_node_accounts],
        "longest_ttl": cluster.policy.longest_ttl,
        "namespace_selector": cluster.namespace_selector,
    }


def _reached_by(credentials: Credentials) -> str:
    if credentials.in_cluster:
        return "in-cluster"
    context = f"#{credentials.context}" if credentials.context else ""
    return f"{credentials.kubeconfig}{context}"


def _check(args: argparse.Namespace) -> int:
    return asyncio.run(_check_all(args))


async def _check_all(args: argparse.Namespace) -> int:
    config = await load_config(args.config)
    chosen = [cluster for cluster in config.clusters if args.name in {None, str(cluster.name)}]
    if args.name is not None and not chosen:
        known = ", ".join(str(cluster.name) for cluster in config.clusters) or "none"
        print(
            f"federation clusters check: no cluster is named {args.name}; there are: {known}", file=sys.stderr
        )
        return 2
    turn = asyncio.Semaphore(AT_ONCE)
    identity = await _identity(config)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_check_one(cluster, config, turn, identity)) for cluster in chosen]
    results = [result for task in tasks for result in task.result()]
    failed = any(result.outcome == "failed" for result in results)
    if args.json:
        print(json.dumps({"ok": not failed, "results": [_as_json(result) for result in results]}, indent=2))
    else:
        _print_results(results)
    return 1 if failed else 0


async def _identity(config: HubConfig) -> HubIdentity | None:
    """The configured hub's, without an ID where none is drawn yet; None where its state cannot be read here."""
    from dataclasses import replace

    from federation.cli.stores import open_store
    from federation.core.errors import FederationError
    from federation.core.hub_identity import NO_HUB
    from federation.runtime.clock import SystemClock
    from federation.state.identity import read_identity

    try:
        async with asyncio.timeout(STATE_LIMIT), open_store(config.state, SystemClock()) as store:
            found = await read_identity(store)
    except (FederationError, TimeoutError):
        return None
    return replace(found or NO_HUB, adopts=config.controller.adopt_hubs)


async def _check_one(
    cluster: ClusterConfig, config: HubConfig, turn: asyncio.Semaphore, identity: HubIdentity | None
) -> tuple[CheckResult, ...]:
    from federation.clusters.check_results import CheckResult
    from federation.clusters.preflight import check_cluster
    from federation.runtime.clock import SystemClock

    async with turn:
        try:
            async with asyncio.timeout(CHECK_LIMIT):
                return await check_cluster(cluster, config, clock=SystemClock(), identity=identity)
        except TimeoutError:
            return (
                CheckResult(
                    cluster=str(cluster.name),
                    role="hub",
                    check="reachable",
                    outcome="failed",
                    detail=f"its checks did not end within {CHECK_LIMIT:g} s",
                    remedy="check the load of its API server and the network path to it",
                ),
            )


def _as_json(result: CheckResult) -> dict[str, str]:
    return {
        "cluster": result.cluster,
        "role": result.role,
        "check": result.check,
        "outcome": result.outcome,
        "detail": result.detail,
        "remedy": result.remedy,
    }


def _print_results(results: Sequence[CheckResult]) -> None:
    _print_table(
        [
            ["CLUSTER", "ROLE", "CHECK", "OUTCOME", "DETAIL"],
            *([r.cluster, r.role, r.check, _MARKS[r.outcome], r.detail] for r in results),
        ]
    )
    remedies = [r for r in results if r.outcome != "ok" and r.remedy]
    if remedies:
        print("\nwhat to do:")
    for result in remedies:
        print(f"  {result.cluster}, {result.role}, {result.check}: {result.remedy}")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())
