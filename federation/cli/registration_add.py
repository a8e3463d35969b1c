"""What ``federation clusters add`` does: everything planned and shown first, then done in an order that can go on.

Objects come first, then credentials, then the configuration: the hub reads of a cluster once all that it needs is
there. A run that ended between two of these left nothing that the hub would stumble over.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from federation.cli.administrator import REQUEST, administrator
from federation.cli.context_file import Contexts
from federation.cli.pinning import read_bounded
from federation.cli.prompts import agreed
from federation.cli.registration import DAY, LOOK_EVERY, MARKS, Journal, RunningHub, Say, opened_hub
from federation.cli.registration_progress import NAMES, Stage, stages
from federation.clusters.member_objects import ISTIO_NAMESPACE, member_objects, rights, to_yaml
from federation.clusters.permissions import CheckResult
from federation.clusters.registration import ROLES, PlannedObject, Registrar, account_of, cluster_names
from federation.core.config.clusters import ClusterConfig, ClusterTimeouts
from federation.core.config.entries import NewCluster, with_cluster
from federation.core.config.hub import HubConfig
from federation.core.errors import ClusterUnauthorized, FederationError, InvalidValue
from federation.core.identity import ClusterName
from federation.core.istio.settings import settings_files, settings_of
from federation.kubernetes.credentials import LoadedCredentials
from federation.kubernetes.kubeconfig import MAX_KUBECONFIG_BYTES, parse_kubeconfig
from federation.kubernetes.role_kubeconfig import (
    ServerConnection,
    entry_with_token,
    is_made,
    read_role_credential,
    role_credential,
)
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.status.client import StatusClient, StatusUnavailable
from federation.status.model import FederationStatus

OPEN_POLICY: Final = (
    "without --allow callers there may have every identity that is not reserved, those of other clusters too"
)


Confirm: TypeAlias = Callable[[RunningHub, LoadedCredentials], Awaitable[None]]


async def add_cluster(
    args: argparse.Namespace, say: Say, journal: Journal, *, confirm: Confirm | None = None
) -> int:
    """Plan it, show it, ask, do it, and wait for the proof; the exit code. Raises FederationError.

    ``confirm`` is called with the hub and the administrator's credentials before anything is planned.
    """
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(opened_hub(args))
        session, loaded = await administrator(stack, args.kubeconfig, args.context, name=args.name)
        if confirm is not None:
            await confirm(hub, loaded)
        adding = _Adding(args, hub, Registrar(session, hub=hub.identity, cluster=args.name), loaded, say)
        wanted = await adding.plan()
        adding.show(wanted)
        if wanted.text is not None and hub.places.owner:
            say(
                f"{hub.places.label} belongs to {hub.places.owner}, which would take the entry out again: put"
            )
            say(f"  {wanted.entry.values}")
            say(
                "at the end of the list `clusters` of its values, apply them, and run this again: it makes the rest"
            )
            say("nothing was done")
            return 1
        if wanted.failed:
            failed = ", ".join(finding.check for finding in wanted.findings if finding.outcome == "failed")
            say(f"nothing was done: correct what failed ({failed}, above), and run this again")
            return 1
        if args.dry_run:
            print(to_yaml(planned.item for planned in wanted.objects), end="")
            return 0
        if not wanted.changes:
            say(f"{args.name} is registered as it should be: nothing was changed")
        elif not args.yes and not agreed("Do this?"):
            say("nothing was done")
            return 1
        else:
            await adding.do(wanted, journal)
        remember(hub, say)
        if args.wait:
            await _until_proved(args, hub.client, say)
        return _print_settings(args, wanted, say)


@dataclass(frozen=True)
class _Wanted:
    """Everything that would be done, nothing of which is."""

    config: HubConfig
    cluster: ClusterConfig
    text: str | None  # the configuration's new text; None where the cluster is in it
    entry: NewCluster
    objects: list[PlannedObject]
    roles: list[str]  # that get a new credential
    findings: list[CheckResult]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        changed = any(planned.state != "unchanged" for planned in self.objects)
        return self.text is not None or bool(self.roles) or changed

    @property
    def failed(self) -> bool:
        """Whether something keeps it from being done."""
        return any(finding.outcome == "failed" for finding in self.findings)


class _Adding:
    """One run of the command."""

    def __init__(
        self,
        args: argparse.Namespace,
        hub: RunningHub,
        registrar: Registrar,
        loaded: LoadedCredentials,
        say: Say,
    ) -> None:
        self._args = args
        self._hub = hub
        self._registrar = registrar
        self._own_way = ServerConnection(
            loaded.server, loaded.authority, loaded.tls_server_name or "", loaded.proxy_url or ""
        )
        self._connection = ServerConnection.of(loaded, server=args.server)
        self._say = say

    async def plan(self) -> _Wanted:
        """What would be done, by what is there. Raises FederationError where it cannot be, or is another's."""
        args, hub = self._args, self._hub
        registered = hub.config.cluster(ClusterName(args.name))
        if registered is not None:
            self._check_registered(registered)
        await asyncio.to_thread(self._check_others)
        entry = NewCluster(
            name=args.name,
            cluster_id=args.cluster_id or args.found_cluster_id or args.name,
            signer_kubeconfig=hub.places.kubeconfig("signer"),
            controller_kubeconfig=hub.places.kubeconfig("controller"),
            network=args.network,
            allow=tuple(args.allow),
            istio_namespaces=tuple(args.istio_namespace),
        )
        text, config, cluster = self._with(entry, registered)
        publication = config.controller.publication
        findings, istio = await self._registrar.check(cluster, publication)
        names = cluster_names(istio)
        if args.cluster_id is None and len(names) == 1:
            entry = replace(entry, cluster_id=names[0])
            text, config, cluster = self._with(entry, registered)
        findings += _cluster_id_findings(cluster, names)
        namespaces = cluster.istio.namespaces or (ISTIO_NAMESPACE,)
        objects = member_objects(
            istio_namespaces=namespaces,
            config_map=publication.config_map,
            trust_bundle=args.cluster_trust_bundle,
        )
        planned = await self._registrar.plan(objects, namespaces)
        roles = [role for role in ROLES if not await self._is_usable(role)]
        return _Wanted(config, cluster, text, entry, planned, roles, findings)

    def _with(
        self, entry: NewCluster, registered: ClusterConfig | None
    ) -> tuple[str | None, HubConfig, ClusterConfig]:
        """The configuration with the cluster: as it is, where the cluster is in it."""
        if registered is not None:
            return None, self._hub.config, registered
        text, config = with_cluster(self._hub.text, entry, file=self._hub.places.label)
        return text, config, config.clusters[-1]

    def _check_registered(self, cluster: ClusterConfig) -> None:
        """Raise where the entry that is there is not what this command would go on with."""
        args, places = self._args, self._hub.places
        directory = Path(places.label).parent
        for role, credentials in zip(ROLES, (cluster.signer, cluster.controller), strict=True):
            if credentials.kubeconfig != directory / places.kubeconfig(role):
                raise FederationError(
                    f"{args.name} is registered already, with credentials that this command did not make",
                    where=places.label,
                    remedy=f"`federation clusters check {args.name}` says whether the hub can work there; to have this "
                    "command register it, take the entry out first",
                )
        if args.cluster_id not in {None, str(cluster.cluster_id)}:
            raise FederationError(
                f"{args.name} is registered already with cluster_id {cluster.cluster_id}",
                where=places.label,
                remedy="edit the entry: the running hub takes it up",
            )

    def _check_others(self) -> None:
        """Raise where another entry leads to the same API server, as far as its kubeconfig can be read here."""
        for cluster in self._hub.config.clusters:
            path = cluster.controller.kubeconfig
            if str(cluster.name) == self._args.name or path is None or not path.is_file():
                continue
            try:
                text = read_bounded(path, MAX_KUBECONFIG_BYTES)
                entry = parse_kubeconfig(
                    text,
                    file=str(path),
                    context=cluster.controller.context,
                    allowed_exec=cluster.controller.allowed_exec,
                )
            except FederationError:
                continue  # the hub reports it
            if entry.server in {self._connection.server, self._own_way.server}:
                raise FederationError(
                    f"{entry.server} is registered already, as {cluster.name}",
                    where=self._hub.places.label,
                    remedy="name another cluster with --kubeconfig and --context",
                )

    async def _is_usable(self, role: str) -> bool:
        """Whether the credential that is there does: made by this command, for that server, young, and accepted."""
        places = self._hub.places
        content, where = await places.credential(role), places.described(role)
        if content is None:
            return False
        if not is_made(content.kubeconfig):
            raise FederationError(
                "is there already, and was not made by this command",
                where=where,
                remedy="move it away if nothing needs it, or register that cluster by hand",
            )
        found = read_role_credential(content, file=where)
        if found is None or not found.token or found.connection != self._connection:
            return False
        if found.life.due <= SystemClock().now().timestamp():
            return False
        return await self._is_accepted(found.token, where)

    async def _is_accepted(self, token: str, where: str) -> bool:
        """Whether the API server takes it, asked by the administrator's way: the hub's may not lead there from here."""
        cluster, clock = ClusterName(self._args.name), SystemClock()
        credentials = LoadedCredentials(
            entry_with_token(self._own_way, token),
            cluster=cluster,
            source=where,
            directory=Path(),
            clock=clock,
            environ={},
        )
        timeouts = ClusterTimeouts(request=REQUEST)
        async with ClusterSession(
            credentials, cluster=cluster, timeouts=timeouts, clock=clock, connections=1
        ) as session:
            try:
                await session.get("/version")
            except ClusterUnauthorized:
                return False
        return True

    def show(self, wanted: _Wanted) -> None:
        """Say everything that would be done, and what was found of the cluster."""
        args, say, places = self._args, self._say, self._hub.places
        say(f"{args.name}: {self._own_way.server}")
        for finding in wanted.findings:
            say(f"  {MARKS[finding.outcome]:<8}{finding.check}: {finding.detail}")
            if finding.remedy and finding.outcome != "ok":
                say(f"          do: {finding.remedy}")
        say("objects there:")
        for planned in wanted.objects:
            say(f"  {planned}")
        say("rights that these give the hub, and no others:")
        for line in rights(planned.item for planned in wanted.objects):
            say(f"  {line}")
        if wanted.roles:
            say(
                f"credentials, each a token of {args.token_life / DAY:g} days, or of what the API server gives:"
            )
        for role in wanted.roles:
            say(f"  {account_of(role)}: {places.described(role)}")
        if wanted.text is not None:
            say(f"at the end of {places.label}:")
            for line in wanted.entry.table.splitlines():
                say(f"  {line}".rstrip())
            if not args.allow:
                say(OPEN_POLICY)

    async def do(self, wanted: _Wanted, journal: Journal) -> None:
        """Do it; the journal has what was done where that raises FederationError."""

        def done(what: str) -> None:
            self._say(f"made  {what}")
            journal.add(f"made {what}")

        places = self._hub.places
        await self._registrar.apply(wanted.objects, done)
        for role in wanted.roles:
            account = account_of(role)
            token = await self._registrar.issue(account, seconds=self._args.token_life)
            credential = role_credential(
                self._connection,
                cluster=self._args.name,
                account=account,
                token=token.text,
                name=Path(places.kubeconfig(role)).name,
            )
            await places.put_credential(role, credential)
            done(
                f"{places.described(role)}, with a token of {account} until {token.expires:%Y-%m-%d %H:%M} UTC"
            )
        if wanted.text is not None:
            await places.replace(wanted.text)
            done(f"the entry {self._args.name} in {places.label}")


def remember(hub: RunningHub, say: Say) -> None:
    """Write the hub down as a context, named after its trust domain, unless it is one or the name is taken."""
    name = str(hub.config.trust_domain)
    if hub.known:
        return
    try:
        contexts = Contexts.load()
        if hub.context in contexts.by_name.values():
            return
        if name in contexts.by_name:
            say(f"the context {name} names another address than {hub.context.url}, and was left as it is")
            return
        contexts.put(name, hub.context)
        contexts.save()
    except FederationError as error:
        say(f"no context was written: {error.diagnostics()}")
        return
    how = "commands ask it from now on" if contexts.current == name else f"--hub {name} asks it"
    say(f"the context {name} is in {contexts.path}: {how}")


def _cluster_id_findings(cluster: ClusterConfig, names: Sequence[str]) -> list[CheckResult]:
    """Whether the istiods there call the cluster as the hub does."""
    others = [found for found in names if found != str(cluster.cluster_id)]
    if not others:
        return []
    return [
        CheckResult(
            str(cluster.name),
            "administrator",
            "cluster_id",
            "warning",
            f"istiod there calls the cluster {', '.join(others)[:100]}, and the hub {cluster.cluster_id}",
            "give --cluster-id as global.multiCluster.clusterName is set there, or set that",
        )
    ]


async def _until_proved(args: argparse.Namespace, client: StatusClient, say: Say) -> None:
    """Follow the stages until the last is reached. Raises FederationError where one stops it, or time is up."""
    until = time.monotonic() + args.wait
    said: dict[str, str] = {}
    while True:
        try:
            reached = stages(await client.get("/api/v1/status", FederationStatus), args.name)
        except StatusUnavailable as error:
            reached = (Stage(NAMES[0], error.diagnostics()),)
        for stage in reached:
            if said.get(stage.name) != str(stage):
                said[stage.name] = str(stage)
                say(f"  {stage}")
        last = reached[-1]
        if len(reached) == len(NAMES) and last.reached:
            say(f"{args.name} is registered, and every pair with it is proved")
            return
        if last.stop:
            raise FederationError(
                f"it is registered, and not proved: {last.waits}", where=args.name, remedy=last.remedy
            )
        if time.monotonic() >= until:
            raise FederationError(
                f"it is registered, and within {args.wait:g} s not proved: {last}",
                where=args.name,
                remedy="the hub goes on by itself: `federation status` shows how far it is, and "
                f"`federation clusters check {args.name}` what is wrong there",
            )
        await asyncio.sleep(LOOK_EVERY)


def _print_settings(args: argparse.Namespace, wanted: _Wanted, say: Say) -> int:
    """Istio's settings, or how they are printed."""
    if args.istio is None:
        say(f"Istio's settings: federation clusters istio {args.name} --directory settings/{args.name}")
        return 0
    try:
        files = settings_files(settings_of(wanted.config, wanted.cluster, listener=args.listener), args.istio)
    except InvalidValue as error:
        say(f"Istio's settings cannot be printed: {error.diagnostics()}")
        return 1
    for number, file in enumerate(files):
        print(f"{'---' + chr(10) if number else ''}# {file.name}\n{file.text}", end="")
    return 0
