"""``federation clusters add`` and ``remove``: from an administrator's kubeconfig to a proven cluster, and back.

The administrator's kubeconfig is used on this machine and stored nowhere. Nothing is written before everything was
asked and a person has agreed; what was done by then is said wherever it ends, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from federation.cli.administrator import administrator, default_kubeconfig
from federation.cli.hub_access import add_hub_options, client_of
from federation.cli.options import add_config, address, completes, duration

if TYPE_CHECKING:
    from federation.cli.context_file import HubContext
    from federation.cli.registration_places import Places
    from federation.core.config.hub import HubConfig
    from federation.core.identity import HubIdentity
    from federation.kubernetes.session import ClusterSession
    from federation.status.client import StatusClient
    from federation.status.model import FederationStatus

EXIT_USAGE: Final = 2
DAY: Final = 86400.0
TOKEN_LIFE: Final = 365 * DAY
WAIT: Final = 300.0
LOOK_EVERY: Final = 1.0
MARKS: Final = {"ok": "ok", "warning": "WARNING", "failed": "FAILED"}

Say = Callable[[str], None]


def add_registration_questions(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both verbs and their options."""
    adding = questions.add_parser(
        "add",
        help="register a cluster, from its administrator's kubeconfig to the proof",
        description="Registers a cluster with the running hub: checks it, shows the objects and rights that the hub "
        "gets there, asks, makes them, gives each role a kubeconfig of its own with a token that ends, writes the "
        "cluster into the configuration, and waits until every pair with it is proved. Run twice it changes nothing; "
        "run again after a failure it goes on. The administrator's kubeconfig is used here and stored nowhere. "
        "Without --url and --hub the hub is asked where --config says that it serves status, or with --hub-context "
        "through that cluster's API server; the first time that is written down as a context. Exit codes: 0 proved "
        "(with --wait 0: registered); 1 not, or not yet; 2 what was written on the command line or in the "
        "configuration cannot be used.",
    )
    _add_name(adding)
    add_adding_options(adding)
    adding.set_defaults(run=_run_add)
    removing = questions.add_parser(
        "remove",
        help="take a cluster out again, with everything that `add` made",
        description="Takes the cluster out of the configuration, waits until the hub has let go of it, deletes the "
        "objects there that bear the hub's mark and the credentials that `add` made, and says what trust remains until "
        "when. What others made stays, and so does the bundle in the cluster's namespaces. Run again after a failure "
        "it goes on. Exit codes: 0 removed; 1 not, or not all of it; 2 what was written on the command line or in the "
        "configuration cannot be used.",
    )
    _add_name(removing)
    _add_common(removing)
    removing.add_argument(
        "--lost",
        action="store_true",
        help="the cluster is gone or cannot be reached: leave it alone, and remove what is on the hub's side",
    )
    removing.set_defaults(run=_run_remove)


def add_adding_options(adding: argparse.ArgumentParser) -> None:
    """The options of ``add``, without the cluster's name."""
    _add_common(adding)
    adding.add_argument(
        "--cluster-id",
        metavar="ID",
        help="global.multiCluster.clusterName of its mesh (default: what its istiod says, else NAME)",
    )
    adding.add_argument("--network", default="", metavar="NETWORK", help="Istio's network, shown in status")
    adding.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAMESPACE/NAME",
        help="which service accounts may have certificates there, with * and ?; may be repeated (default: all that are "
        "not reserved)",
    )
    adding.add_argument(
        "--istio-namespace",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="where istiod runs, or will run; may be repeated (default: istio-system)",
    )
    adding.add_argument(
        "--cluster-trust-bundle",
        action="store_true",
        help="grant the right to publish the bundle as a ClusterTrustBundle too",
    )
    adding.add_argument(
        "--server",
        default="",
        metavar="URL",
        help="the address by which the hub reaches the API server (default: the kubeconfig's)",
    )
    adding.add_argument(
        "--token-life",
        type=duration(600, 3650 * DAY),
        default=TOKEN_LIFE,
        metavar="DURATION",
        help="how long the hub's two tokens there are to live; the API server may give less (default: 365d)",
    )
    adding.add_argument(
        "--dry-run",
        action="store_true",
        help="check and show everything, print the objects as YAML on stdout, and write nothing",
    )
    adding.add_argument(
        "--istio",
        choices=("helm", "istioctl", "sail"),
        help="print Istio's settings for that cluster in the end (default: say which command prints them)",
    )
    adding.add_argument(
        "--listener",
        type=address,
        metavar="HOST:PORT",
        help="for --istio: how workloads there reach the listener (default: as for `federation clusters istio`)",
    )
    adding.set_defaults(found_cluster_id="")


def _add_name(parser: argparse.ArgumentParser) -> None:
    completes(parser.add_argument("name", metavar="NAME", help="the cluster's name in the hub"), "clusters")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="an administrator's kubeconfig of that cluster (default: KUBECONFIG, or ~/.kube/config)",
    )
    parser.add_argument("--context", metavar="NAME", help="the context in it (default: the current one)")
    add_config(parser)
    parser.add_argument(
        "--hub-kubeconfig",
        type=Path,
        metavar="FILE",
        help="the hub runs in a cluster: change its ConfigMap and Secrets there, with this administrator's kubeconfig, "
        "instead of the file --config (default: --kubeconfig where --hub-context is given)",
    )
    parser.add_argument("--hub-context", metavar="NAME", help="the context in it")
    parser.add_argument(
        "--hub-namespace",
        default="federation-system",
        metavar="NAMESPACE",
        help="the hub's namespace in that cluster (default: federation-system)",
    )
    add_hub_options(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--wait",
        type=duration(0, DAY),
        default=WAIT,
        metavar="DURATION",
        help="how long to wait for the hub (default: 5m)",
    )


def _run_add(args: argparse.Namespace) -> int:
    from federation.cli.registration_add import add_cluster

    say: Say = to_stderr if args.dry_run else to_stdout
    undo = f"federation clusters remove {args.name}"
    return guarded("federation clusters add", undo, lambda journal: add_cluster(args, say, journal))


def _run_remove(args: argparse.Namespace) -> int:
    from federation.cli.registration_remove import remove_cluster

    return guarded("federation clusters remove", "", lambda journal: remove_cluster(args, to_stdout, journal))


@dataclass
class Journal:
    """What was done so far, for the case that it ends there."""

    done: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        """One more thing that was done."""
        self.done.append(what)


def guarded(verb: str, undo: str, body: Callable[[Journal], Coroutine[Any, Any, int]]) -> int:
    """Run it; where it fails or is interrupted, say what was done by then and how to go on or undo it."""
    from federation.core.errors import ConfigurationError, FederationError

    journal = Journal()
    try:
        return asyncio.run(body(journal))
    except FederationError as error:
        print(f"{verb}: {_printable(error.diagnostics())}", file=sys.stderr)
        code = EXIT_USAGE if isinstance(error, ConfigurationError) else 1
    except KeyboardInterrupt:
        print(f"{verb}: interrupted", file=sys.stderr)
        code = 130
    if not journal.done:
        print("nothing was done", file=sys.stderr)
        return code
    print("done by then:", *(f"  {_printable(line)}" for line in journal.done), sep="\n", file=sys.stderr)
    print(f"to go on: the same command again{f'; to undo: {undo}' if undo else ''}", file=sys.stderr)
    return code


def _printable(text: str) -> str:
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))


def to_stdout(text: str) -> None:
    """Say it on stdout."""
    print(_printable(text), flush=True)


def to_stderr(text: str) -> None:
    """Say it on stderr."""
    print(_printable(text), file=sys.stderr, flush=True)


@dataclass(frozen=True)
class RunningHub:
    """The running hub, and where its configuration is."""

    places: Places
    text: str
    config: HubConfig
    client: StatusClient
    identity: HubIdentity
    context: HubContext
    """How it is asked."""
    known: bool
    """Whether that is a context of the file, or was named as one."""


@asynccontextmanager
async def opened_hub(args: argparse.Namespace) -> AsyncIterator[RunningHub]:
    """The hub as it runs and is configured. Raises FederationError where the two do not belong together."""
    from dataclasses import replace

    from federation.cli.registration_places import HubFiles, HubObjects
    from federation.core.config.load import parse_config
    from federation.core.errors import FederationError
    from federation.core.identity import HubIdentity, check_id
    from federation.status.model import FederationStatus

    async with AsyncExitStack() as stack:
        places: Places
        session: ClusterSession | None = None
        if args.hub_kubeconfig is None and args.hub_context is None:
            places = HubFiles(args.config, args.name)
        else:
            file = args.hub_kubeconfig or args.kubeconfig
            session, _ = await administrator(stack, file, args.hub_context, name="hub")
            places = HubObjects(session, namespace=args.hub_namespace, cluster=args.name)
        text = await places.read()
        config = parse_config(text, file=places.label)
        context, known = await _hub_context(args, config, session)
        client = client_of(context)
        status = await client.get("/api/v1/status", FederationStatus)
        _check_same(status, config, args.name, client.url, places.label)
        leader = next((c for c in status.controllers if c.leader and c.hub), None)
        if leader is None:
            raise FederationError(
                "no controller leads, so the hub's identity is not known",
                where=client.url,
                remedy="see `federation status`; run this again once one leads",
            )
        identity = replace(HubIdentity(check_id(leader.hub)), adopts=config.controller.adopt_hubs)
        yield RunningHub(places, text, config, client, identity, context, known)


async def _hub_context(
    args: argparse.Namespace, config: HubConfig, session: ClusterSession | None
) -> tuple[HubContext, bool]:
    """The hub of the options, else of the configuration; and whether a context named it.

    A configuration on this machine says where its hub listens, one in a cluster where its Service is: that is
    reached through the API server that ``session`` is for.
    """
    from federation.cli.context_file import Contexts, HubContext
    from federation.cli.hub_access import hub_context, is_hub_named, service_url, with_options

    status = config.status
    if is_hub_named(args):
        return hub_context(args), not (args.url or (not args.hub and "FEDERATION_URL" in os.environ))
    here = session is None and status.certificate_file is None
    if not here and (session is None or Contexts.load().current):
        return hub_context(args), bool(Contexts.load().current)
    if session is None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(status.listen.host, status.listen.host)  # noqa: S104
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{status.listen.port}"
        token = str(status.read_token_file.absolute()) if status.read_token_file else ""
        return with_options(args, HubContext(url=url, token_file=token), dict(os.environ)), False
    tls = status.certificate_file is not None
    url = await service_url(session, namespace=args.hub_namespace, tls=tls)
    file = args.hub_kubeconfig or args.kubeconfig or default_kubeconfig()
    found = HubContext(url=url, kubeconfig=str(file.absolute()), kube_context=args.hub_context or "")
    return with_options(args, found, dict(os.environ)), False


def _check_same(status: FederationStatus, config: HubConfig, name: str, url: str, label: str) -> None:
    """Raise where the hub that answers is not the one with this configuration: its clusters are others."""
    from federation.core.errors import FederationError

    if status.config_problems:
        raise FederationError(
            f"the hub refuses its newest configuration: {status.config_problems[0]}",
            where=label,
            remedy="correct it first; `federation clusters list` shows every mistake",
        )
    runs = {view.name for view in status.clusters}
    wanted = {str(cluster.name) for cluster in config.clusters}
    if status.trust_domain != str(config.trust_domain) or (runs ^ wanted) - {name}:
        other = ", ".join(sorted((runs ^ wanted) - {name})) or status.trust_domain
        raise FederationError(
            f"the hub at {url} is another than the one that {label} configures: they differ in {other}",
            remedy="name that hub with --url, or its configuration with --config; wait where it was just edited",
        )
