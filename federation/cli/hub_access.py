"""Which hub a verb asks, and how: its options, the environment, the file of contexts, else the default address.

The first of these that names a hub is taken: ``--url``, ``--hub``, ``FEDERATION_URL``, ``FEDERATION_CONTEXT``, the
current context, ``http://127.0.0.1:8080``. A token, a CA and a server name belong to the hub that they were named with:
those of a context go to its URL alone, those of the environment only where no context is used. An option replaces any.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from federation.core.errors import (
    ClusterForbidden,
    ClusterGarbage,
    ClusterNotFound,
    ClusterUnreachable,
    ConfigurationError,
)

if TYPE_CHECKING:
    from federation.cli.context_file import HubContext
    from federation.kubernetes.session import ClusterSession
    from federation.status.client import StatusClient

EXIT_REFUSED: Final = 1
EXIT_UNKNOWN: Final = 2
OPENING: Final = 20.0  # seconds until a port-forward is open


class _ServicePort(msgspec.Struct, rename="camel"):
    port: int
    target_port: int | str = 0


class _ServiceSpec(msgspec.Struct):
    ports: list[_ServicePort] = []
    selector: dict[str, str] = {}


class _Service(msgspec.Struct):
    spec: _ServiceSpec


class _ContainerPort(msgspec.Struct, rename="camel"):
    container_port: int
    name: str = ""


class _Container(msgspec.Struct):
    ports: list[_ContainerPort] = []


class _PodSpec(msgspec.Struct):
    containers: list[_Container] = []


class _Condition(msgspec.Struct):
    type: str
    status: str


class _PodStatus(msgspec.Struct):
    conditions: list[_Condition] = []


class _PodMeta(msgspec.Struct, rename="camel"):
    name: str
    deletion_timestamp: str | None = None


class _Pod(msgspec.Struct):
    metadata: _PodMeta
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)

    @property
    def ready(self) -> bool:
        """Whether its kubelet says so, and it is not being deleted."""
        ready = any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)
        return ready and self.metadata.deletion_timestamp is None

    def port(self, target: int | str) -> int:
        """The number of a Service's target port in it; 0 where it has none of that name."""
        if isinstance(target, int):
            return target
        ports = (each for container in self.spec.containers for each in container.ports)
        return next((each.container_port for each in ports if each.name == target), 0)


class _Pods(msgspec.Struct):
    items: list[_Pod]


STATUS_SERVICE: Final = "federation-status"
"""The Service of the status API, as the chart names it."""


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that asks the status API."""
    from federation.cli.options import completes
    from federation.status.client import DEFAULT_URL

    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--url",
        help="the status API (default: environment variable FEDERATION_URL, else as for --hub, else "
        f"{DEFAULT_URL})",
    )
    completes(
        which.add_argument(
            "--hub",
            metavar="NAME",
            help="the hub of that context (default: FEDERATION_CONTEXT, else what `federation context use` chose)",
        ),
        "contexts",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file that holds the token that reads, or the one that operates, which reads as well (default: the "
        "context's; without a context FEDERATION_TOKEN_FILE)",
    )
    parser.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="CA certificates to verify an https URL by (default: the context's; without a context "
        "FEDERATION_CA_FILE, or the system's)",
    )
    parser.add_argument(
        "--server-name",
        metavar="NAME",
        help="the name that the certificate there has to have (default: the context's; without a context "
        "FEDERATION_SERVER_NAME, or the URL's host)",
    )


def hub_client(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> StatusClient:
    """The client of the hub that the options and the environment name. Raises ConfigurationError."""
    return client_of(hub_context(args, environment))


def is_hub_named(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the command line or the environment names the hub, so that nothing else may choose it."""
    given = ("FEDERATION_URL", "FEDERATION_CONTEXT")
    return bool(args.url or args.hub or any(environment.get(name) for name in given))


def hub_context(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> HubContext:
    """The hub that the options and the environment name. Raises ConfigurationError."""
    from federation.cli.context_file import Contexts, check_token_file
    from federation.status.client import DEFAULT_URL

    url = args.url or ("" if args.hub else environment.get("FEDERATION_URL", ""))
    found = None
    if not url:
        contexts = Contexts.load(environment)
        name = args.hub or environment.get("FEDERATION_CONTEXT") or contexts.current
        found = contexts.named(name) if name else None
    if found is None:
        return with_options(args, url or DEFAULT_URL, environment)
    chosen = with_options(args, found)
    if chosen.token_file and chosen.token_file == found.token_file:
        check_token_file(Path(chosen.token_file))
    return chosen


def with_options(
    args: argparse.Namespace, hub: HubContext | str, environment: Mapping[str, str] | None = None
) -> HubContext:
    """That hub, or the one at that URL, with what the options replace; the environment's where one is given."""
    from federation.cli.context_file import HubContext

    context = HubContext(url=hub.rstrip("/")) if isinstance(hub, str) else hub
    changes = {}
    for key in ("token_file", "ca_file", "server_name"):
        given = getattr(args, key) or (environment or {}).get(f"FEDERATION_{key.upper()}")
        if given:
            changes[key] = str(given)
    return msgspec.structs.replace(context, **changes)


def client_of(hub: HubContext) -> StatusClient:
    """What asks that hub."""
    from federation.status.client import StatusClient

    return StatusClient(
        url=hub.url.rstrip("/"),
        token_file=Path(hub.token_file) if hub.token_file else None,
        ca_file=Path(hub.ca_file) if hub.ca_file else None,
        server_name=hub.server_name,
        way=partial(_forwarded, hub) if hub.forwarded else None,
    )


def operate(args: argparse.Namespace, said_by: str, verb: str, arguments: Mapping[str, str]) -> int:
    """Ask for an operation and print what was decided; the exit code: 0 done, 1 refused, 2 not known.

    Empty arguments are left out, but for a canary: an empty one means that there is to be none.
    """
    from federation.status.client import StatusUnavailable
    from federation.status.encoding import encode_answer
    from federation.status.text import operation_text

    given = {name: value for name, value in arguments.items() if value or name == "canary"}
    try:
        decided = asyncio.run(hub_client(args).operate(verb, given))
    except StatusUnavailable as error:
        print(f"{said_by}: UNKNOWN: {error.diagnostics()}", file=sys.stderr)
        return EXIT_UNKNOWN
    print(encode_answer(decided).decode() if args.json else operation_text(decided))
    return 0 if decided.outcome == "done" else EXIT_REFUSED


@asynccontextmanager
async def _forwarded(hub: HubContext) -> AsyncIterator[socket.socket]:
    """A connection to a pod behind the Service of that hub. Raises ClusterError."""
    from federation.cli.administrator import administrator
    from federation.kubernetes.port_forward import RIGHTS, forwarded

    where = hub.kube_context or hub.kubeconfig
    async with AsyncExitStack() as stack:
        file = Path(hub.kubeconfig) if hub.kubeconfig else None
        try:
            session, loaded = await administrator(stack, file, hub.kube_context or None, name="hub")
        except ConfigurationError as error:
            raise ClusterUnreachable(error.what, where=where, remedy=error.remedy) from error
        try:
            namespace, pod, port = await behind_service(session, hub.url, where=where)
        except ClusterForbidden as error:
            raise ClusterForbidden(error.what, where=where, remedy=RIGHTS) from error
        way = forwarded(loaded, namespace=namespace, pod=pod, port=port, limit=OPENING, where=where)
        yield await stack.enter_async_context(way)


async def service_url(session: ClusterSession, *, namespace: str, tls: bool) -> str:
    """The URL of the hub's status by its Service in that cluster. Raises ClusterError."""
    where = f"Service {namespace}/{STATUS_SERVICE}"
    try:
        found = msgspec.json.decode(
            await session.get(f"/api/v1/namespaces/{namespace}/services/{STATUS_SERVICE}"), type=_Service
        )
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ClusterGarbage("an object is not what the API promises", where=where) from None
    if not found.spec.ports:
        raise ClusterNotFound("has no port", where=where)
    scheme = "https" if tls else "http"
    return f"{scheme}://{STATUS_SERVICE}.{namespace}.svc:{found.spec.ports[0].port}"


async def behind_service(session: ClusterSession, url: str, *, where: str) -> tuple[str, str, int]:
    """Namespace, name and port of a ready pod behind the Service that ``url`` names, as kubectl chooses it.

    Raises ClusterError.
    """
    from federation.cli.context_file import SERVICE_HOST
    from federation.kubernetes.port_forward import RIGHTS

    parts = urlsplit(url)
    named = SERVICE_HOST.fullmatch(parts.hostname or "")
    if named is None:
        raise ClusterNotFound(f"{url} names no Service", where=where)
    service, namespace = named["service"], named["namespace"]
    number = parts.port or (443 if parts.scheme == "https" else 80)
    core = f"/api/v1/namespaces/{namespace}"
    try:
        found = msgspec.json.decode(await session.get(f"{core}/services/{service}"), type=_Service).spec
        target = next((each.target_port for each in found.ports if each.port == number), None)
        if target is None or not found.selector:
            ports = ", ".join(str(each.port) for each in found.ports)
            raise ClusterNotFound(
                f"Service {namespace}/{service} has no port {number} of pods",
                where=where,
                remedy=f"it has {ports}: correct the port of the context's URL",
            )
        selector = ",".join(f"{key}={value}" for key, value in sorted(found.selector.items()))
        answer = await session.get(f"{core}/pods", params={"labelSelector": selector, "limit": "500"})
        pods = msgspec.json.decode(answer, type=_Pods).items
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ClusterGarbage("an object is not what the API promises", where=where) from None
    for pod in sorted(pods, key=lambda each: each.metadata.name):
        port = pod.port(target or number)
        if pod.ready and port:
            return namespace, pod.metadata.name, port
    raise ClusterUnreachable(
        f"no pod behind Service {namespace}/{service} is ready",
        where=where,
        remedy=f"see what keeps the pods in {namespace} from being ready; {RIGHTS}",
    )
