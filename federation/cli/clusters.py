"""``federation clusters``: which are registered, whether the hub can work there, how to set Istio up, how one joins.

``istio NAME`` writes what Istio of a cluster has to be set to, as files of values with comments.

``join NAME`` takes a mesh that runs on another CA to the hub, one step after the other. Which step the cluster is at
follows from what the hub has seen, so this can be stopped and continued at every step, on any machine that has the
configuration. It does what the hub may do (pin a root that a person has compared, declare the takeover), writes files
for what an operator has to apply there, and goes on once that was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from federation.cli.discovered import add_discovery_questions
from federation.cli.hub_access import add_hub_options, hub_client
from federation.cli.options import add_config, address, completes, load_config, whole_fingerprint
from federation.cli.prompts import typed_name
from federation.cli.registration import add_registration_questions
from federation.cli.tables import Rows, add_table_options

if TYPE_CHECKING:
    from federation.clusters.permissions import CheckResult
    from federation.core.config.clusters import ClusterConfig, Credentials
    from federation.core.config.hub import HubConfig
    from federation.core.identity import HubIdentity
    from federation.core.istio.operator_files import JoinFile, Merged
    from federation.core.istio.settings import SettingsFile
    from federation.core.trust.joining import JoinStep
    from federation.status.client import StatusClient
    from federation.status.model import ClusterView, FederationStatus, JoiningView


def add_istio_question(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the question and its options."""
    parser = questions.add_parser(
        "istio",
        help="print what Istio of a cluster has to be set to",
        description="Prints the settings with which Istio of that cluster has its certificates signed by the hub, "
        "with a reason for each: values for Istio's Helm charts, operator files for istioctl, and resources for the "
        "Sail operator (OpenShift Service Mesh 3). Reads the configuration only and changes nothing; `federation "
        "clusters check` compares the cluster with it. Ambient is part of it where the cluster's policy names "
        "trusted_node_accounts. What is printed is YAML, one document after another. Exit codes: 0 printed or "
        "written; 1 a file could not be written; 2 the configuration cannot be used, or no cluster has that name.",
    )
    completes(parser.add_argument("name", metavar="NAME", help="the cluster"), "clusters")
    add_config(parser)
    parser.add_argument(
        "--format",
        choices=("helm", "istioctl", "sail", "all"),
        default="all",
        help="for which way to install Istio (default: all)",
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="write the files there instead of printing them"
    )
    parser.add_argument(
        "--listener",
        "--door",
        type=address,
        metavar="HOST:PORT",
        help="how workloads of this cluster reach the listener (default: a name of listener.server_names that can be "
        "reached from there, with the port of listener.listen)",
    )
    parser.add_argument(
        "--namespace", default="", help="the control plane's namespace, where more than one is configured"
    )
    parser.add_argument(
        "--revision", default="", help="the control plane's revision, where more than one is configured"
    )
    parser.set_defaults(run=_run_istio)


def _run_istio(args: argparse.Namespace) -> int:
    from federation.core.errors import InvalidValue
    from federation.core.identity import ClusterName

    config = asyncio.run(load_config(args.config))
    try:
        files = _files(args, config, ClusterName(args.name))
    except InvalidValue as error:
        remedy = f": {error.remedy}" if error.remedy else ""
        print(f"federation clusters istio: {error.what}{remedy}", file=sys.stderr)
        return 2
    if args.directory is not None:
        return _write_settings(files, args.directory)
    for number, file in enumerate(files):
        print(f"{'---' + chr(10) if number else ''}# {file.name}\n{file.text}", end="")
    return 0


def _files(args: argparse.Namespace, config: HubConfig, name: object) -> list[SettingsFile]:
    from federation.core.config.types import label
    from federation.core.errors import InvalidValue
    from federation.core.istio.settings import FORMS, settings_files, settings_of

    cluster = next((cluster for cluster in config.clusters if cluster.name == name), None)
    if cluster is None:
        raise InvalidValue(unknown_cluster(str(name), config))
    settings = settings_of(
        config,
        cluster,
        listener=args.listener,
        namespace=args.namespace,
        revision=label("a revision of Istio")(args.revision) if args.revision else "",
    )
    return [file for form in FORMS if args.format in {form, "all"} for file in settings_files(settings, form)]


def unknown_cluster(name: str, config: HubConfig) -> str:
    """What to say of a name that no cluster of the configuration has."""
    from federation.core.config.mistakes import nearest

    names = [str(cluster.name) for cluster in config.clusters]
    near = nearest(name, names)
    there = f"did you mean {near}?" if near else f"there are: {', '.join(names) or 'none'}"
    return f"no cluster is named {name}; {there}"


def _write_settings(files: list[SettingsFile], directory: Path) -> int:
    """Write each file, or none: one that is there with other content may hold an operator's own changes."""
    from federation.files import read_now

    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            path = directory / file.name
            text = file.text.encode()
            if path.exists() and read_now(path, len(text)) != text:
                print(
                    f"federation clusters istio: {path} is there and holds something else: "
                    "move it away, or choose another directory",
                    file=sys.stderr,
                )
                return 1
        for file in files:
            (directory / file.name).write_bytes(file.text.encode())
            print(directory / file.name)
    except OSError as error:
        print(f"federation clusters istio: {directory}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


EXIT_WAITS: Final = 1
EXIT_UNKNOWN: Final = 2
LOOK_EVERY: Final = 2.0
LONGEST_WAIT: Final = 14 * 86400.0


def add_join_question(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the question and its options."""
    parser = questions.add_parser(
        "join",
        help="bring a mesh that runs on another CA to the hub, step by step",
        description="For a registered cluster whose mesh has certificates of istiod's own CA (self-signed, or plugged "
        "in by cacerts) or of another one. Shows which step it is at, by what the hub has seen there, does what the "
        "hub may do, and writes into the directory what an operator has to apply with their own rights. Run it again "
        "whenever something was applied: you can stop at every step. Exit codes: 0 it has joined; 1 something has "
        "to be done there, or time has to pass; 2 its step is not known, or the configuration cannot be used.",
    )
    completes(
        parser.add_argument("name", metavar="NAME", help="the cluster, as it is registered"), "clusters"
    )
    add_config(parser)
    add_hub_options(parser)
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where files are written (default: join-NAME)"
    )
    parser.add_argument(
        "--accept",
        type=whole_fingerprint,
        metavar="FINGERPRINT",
        help="pin the root of the cluster's own CA: the whole SHA-256, compared with the CA's owner",
    )
    parser.add_argument(
        "--listener",
        "--door",
        type=address,
        metavar="HOST:PORT",
        help="how workloads of this cluster reach the listener (default: as for `federation clusters istio`)",
    )
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before a root is pinned or the takeover declared"
    )
    parser.add_argument(
        "--wait", action="store_true", help="stay, and go on with each step once the one before it was seen"
    )
    parser.set_defaults(run=_run_join)


def _run_join(args: argparse.Namespace) -> int:
    from federation.core.errors import FederationError
    from federation.status.client import StatusUnavailable

    config = asyncio.run(load_config(args.config))
    cluster = next((cluster for cluster in config.clusters if str(cluster.name) == args.name), None)
    if cluster is None:
        print(f"federation clusters join: {unknown_cluster(args.name, config)}", file=sys.stderr)
        return EXIT_UNKNOWN
    end = time.monotonic() + LONGEST_WAIT
    said = ""
    while True:
        try:
            said, answer = _step(args, config, cluster, said)
        except StatusUnavailable as error:
            print(f"federation clusters join: {error.diagnostics()}", file=sys.stderr)
            answer = EXIT_UNKNOWN
        except FederationError as error:
            print(f"federation clusters join: {error.diagnostics()}", file=sys.stderr)
            return EXIT_WAITS
        if answer == 0 or not args.wait or time.monotonic() > end:
            return answer
        time.sleep(LOOK_EVERY)
        config = asyncio.run(load_config(args.config))
        cluster = next((each for each in config.clusters if each.name == cluster.name), cluster)


def _step(args: argparse.Namespace, config: HubConfig, cluster: ClusterConfig, said: str) -> tuple[str, int]:
    """Do what can be done now; what was said, which is not said twice, and the exit code."""
    from federation.core.trust.joining import JoinStep
    from federation.status.model import FederationStatus

    client = hub_client(args)
    status = asyncio.run(client.get("/api/v1/status", FederationStatus))
    view = next((view for view in status.clusters if view.name == args.name), None)
    if view is None:
        return _say(
            f"the hub there does not know {args.name} yet: give it this configuration", said
        ), EXIT_UNKNOWN
    if view.joining is None:
        return _without_steps(view, said)
    joins = view.joining
    doing = _Attempt(args, config, cluster, client, status, view, JoinStep(joins.step)).do()
    text = "\n".join([*_lines(view.name, joins), *doing])
    return _say(text, said), EXIT_WAITS


def _without_steps(view: ClusterView, said: str) -> tuple[str, int]:
    known = view.publication.state != "unknown" and view.connection.state in {"ready", "degraded"}
    if not known or view.publication.state == "joining":
        return _say(f"it is not known which step {view.name} is at: {view.summary}", said), EXIT_UNKNOWN
    return _say(f"{view.name} has no CA of its own: nothing but the hub counts as issuing there", said), 0


def _say(text: str, said: str) -> str:
    from federation.status.text import printable

    if text != said:
        print("\n".join(printable(line) for line in text.splitlines()), flush=True)
    return text


def _lines(name: str, joins: JoiningView) -> list[str]:
    lines = [f"{name}: step {joins.number} of {joins.of}"]
    for number, step in enumerate(joins.steps, start=1):
        mark = "done" if number < joins.number else "NOW" if number == joins.number else ""
        lines.append(f"  {mark:<4}  {step.step:<13}  {step.what}")
        if number == joins.number:
            lines += [f"{'':23}{_evidence(name, c.cluster, c.detail)}" for c in step.conditions if not c.met]
    return lines


def _evidence(name: str, cluster: str, detail: str) -> str:
    return f"{cluster}: {detail}" if cluster not in {"", name} else detail


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one call of ``join`` found, and what can be done about it."""

    args: argparse.Namespace
    config: HubConfig
    cluster: ClusterConfig
    client: StatusClient
    status: FederationStatus
    view: ClusterView
    step: JoinStep

    def do(self) -> list[str]:
        """Do what the hub may do in the present step; returns the text to print. Raises FederationError."""
        from federation.core.trust.joining import JoinStep

        match self.step:
            case JoinStep.ACCEPT:
                return self._accept()
            case JoinStep.TAKEOVER:
                return self._declare()
            case JoinStep.RENEW if self.view.publication.state != "joining":
                return ["wait: certificates have to be renewed or to end"]
            case JoinStep.CONTROL_PLANE if self._waits_for(
                "provided"
            ):  # restarted before, istiod would not find it
                return ["wait: the hub has to provide istiod's certificate first"]
        directory = self.args.directory or Path(f"join-{self.args.name}")
        if self.step is JoinStep.RENEW:
            again = _write_join_files(directory, self._files(JoinStep.SERVE))
            return ["its own CA delivers an older bundle than the one in force; give it this one:", *again]
        written = _write_join_files(directory, self._files(self.step))
        if self.step is JoinStep.DROP:
            return [
                "wait: it leaves the bundle by itself. The key of its former CA is needed no more:",
                *written,
            ]
        return ["apply there, with your own rights, then run this again:", *written] if written else []

    def _waits_for(self, condition: str) -> bool:
        """Whether the present step waits for a condition of that name."""
        steps = self.view.joining.steps if self.view.joining is not None else []
        return any(
            c.name == condition and not c.met for s in steps if s.step == self.step for c in s.conditions
        )

    def _accept(self) -> list[str]:
        from federation.cli.trust import accept_found

        name, sha256 = self.args.name, self.args.accept
        if sha256 is None:
            found = [proposal for proposal in self.status.proposals if proposal.cluster == name]
            return [
                *(f"found: {p.subject}, SHA-256 {p.sha256}, in {p.origin}" for p in found),
                (
                    "compare the fingerprint with the CA's owner, then: "
                    f"federation clusters join {name} --accept FINGERPRINT"
                ),
            ]
        if sha256 in self.config.trust.pins:
            return ["it is pinned in this configuration; every replica of both roles has to be given it"]
        return [] if accept_found(self.args, sha256, cluster=name) == 0 else ["it was not accepted"]

    def _declare(self) -> list[str]:
        name = self.args.name
        question = (
            f"Everything was seen that can be. Does nothing but the hub issue in {name}? Type its name:"
        )
        if not self.args.yes and not typed_name(question, name):
            return ["the takeover was not declared: it needs --yes, or the cluster's name typed"]
        done = asyncio.run(self.client.operate("takeover", {"cluster": self.args.name}))
        return [f"the takeover is {done.outcome}{f': {done.detail}' if done.detail else ''}"]

    def _files(self, step: JoinStep) -> tuple[JoinFile, ...]:
        from federation.core.istio.operator_files import files_for
        from federation.core.istio.settings import settings_of

        istio = self.cluster.istio
        settings = [
            settings_of(
                self.config, self.cluster, listener=self.args.listener, namespace=namespace, revision=revision
            )
            for namespace in istio.namespaces or ("",)
            for revision in istio.revisions or ("",)
        ]
        pem = asyncio.run(self.client.get_bytes("/api/v1/bundle.pem"))
        merged = _merged(self.config, self.cluster, self.status, pem)
        return files_for(step, settings, merged, distributors=self.view.publication.other_writers)


def _merged(config: HubConfig, cluster: ClusterConfig, status: FederationStatus, pem: bytes) -> Merged:
    """The bundle in force. Raises FederationError where it is not what this configuration allows."""
    from hashlib import sha256

    from federation.core.errors import FederationError
    from federation.core.istio.operator_files import Merged
    from federation.core.pki.pem import parse_certificates

    bundle = status.bundle
    if bundle is None or sha256(pem).hexdigest() != bundle.sha256:
        raise FederationError(
            "the bundle has just changed", where="the hub's answer", remedy="run this again"
        )
    certificates = parse_certificates(pem, where="the bundle in force")
    strange = [c for c in certificates if c.is_self_signed and c.sha256 not in config.trust.pins]
    if strange:
        raise FederationError(
            f"the bundle in force holds {strange[0].subject}, which {config.file} does not pin",
            where="the hub's answer",
            remedy="name the right hub with --url, or its configuration with --config",
        )
    own = {pin.sha256 for pin in config.trust.anchors if cluster.name in pin.clusters}
    own = own or {pin.sha256 for pin in config.trust.anchors if not pin.clusters}
    own_pem = b"".join(c.pem for c in certificates if c.sha256 in own)
    return Merged(generation=bundle.generation, sha256=bundle.sha256, pem=pem, own_pem=own_pem)


def _write_join_files(directory: Path, files: tuple[JoinFile, ...]) -> list[str]:
    """Write them; the lines that name them. Values that an operator has changed stay, scripts are made anew."""
    from federation.core.errors import FederationError
    from federation.core.istio.operator_files import SCRIPT
    from federation.files import read_now

    lines = []
    try:
        for file in files:
            path = directory / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = file.text.encode()
            if path.exists() and read_now(path, len(text)) != text and file.mode != SCRIPT:
                lines.append(f"  {path}   (was there with other content, and is left as it is)")
                continue
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_bytes(text)
            draft.chmod(file.mode)
            draft.replace(path)
            lines.append(f"  {path}")
    except OSError as error:
        raise FederationError(str(error.strerror or error), where=str(directory)) from error
    return lines


AT_ONCE: Final = 16
"""Clusters checked at the same time; each check waits mostly."""

CHECK_LIMIT: Final = 120.0
"""Seconds for all the checks of one cluster together, beyond every timeout of a single request."""

STATE_LIMIT: Final = 10.0  # seconds for reading the hub's identity from its state

LISTED: Final = ("name", "cluster_id", "network", "attestation", "signer", "controller")
CHECKED: Final = ("cluster", "role", "check", "outcome", "detail")

_MARKS: Final = {"ok": "ok", "warning": "WARNING", "failed": "FAILED"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb, its questions and their options."""
    parser = subparsers.add_parser(
        "clusters",
        help="register and remove clusters, list them, check that the hub can work with them, print Istio's settings",
        description="Registers clusters with the running hub, and answers questions about those that are registered.",
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
    completes(
        checking.add_argument("name", nargs="?", metavar="NAME", help="the cluster to check (default: all)"),
        "clusters",
    )
    for question, handler, columns in ((listing, _list, LISTED), (checking, _check, CHECKED)):
        add_config(question)
        add_table_options(question, columns)
        question.set_defaults(run=handler)
    add_registration_questions(questions)
    add_discovery_questions(questions)
    add_istio_question(questions)
    add_join_question(questions)


def _list(args: argparse.Namespace) -> int:
    config = asyncio.run(load_config(args.config))
    clusters = [_describe(cluster) for cluster in config.clusters]
    rows = Rows(LISTED, [[str(each[column]) or "-" for column in LISTED] for each in clusters], clusters)
    rows.chosen(args).print(
        args, key="clusters", empty="no cluster is registered", trust_domain=str(config.trust_domain)
    )
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
        print(f"federation clusters check: {unknown_cluster(args.name, config)}", file=sys.stderr)
        return 2
    turn = asyncio.Semaphore(AT_ONCE)
    identity = await _identity(config)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_check_one(cluster, config, turn, identity)) for cluster in chosen]
    results = [result for task in tasks for result in task.result()]
    failed = any(result.outcome == "failed" for result in results)
    rows = Rows(
        CHECKED,
        [(r.cluster, r.role, r.check, _MARKS[r.outcome], r.detail) for r in results],
        [_as_json(result) for result in results],
    ).chosen(args)
    rows.print(args, key="results", ok=not failed)
    if not args.json:
        _print_remedies(rows.documents)
    return 1 if failed else 0


async def _identity(config: HubConfig) -> HubIdentity | None:
    """The configured hub's, without an ID where none is drawn yet; None where its state cannot be read here."""
    from dataclasses import replace

    from federation.cli.process import open_store
    from federation.core.errors import FederationError
    from federation.core.identity import NO_HUB
    from federation.runtime.clock import SystemClock
    from federation.state.hub_identity import read_identity

    try:
        async with asyncio.timeout(STATE_LIMIT), open_store(config.state, SystemClock()) as store:
            found = await read_identity(store)
    except (FederationError, TimeoutError):
        return None
    return replace(found or NO_HUB, adopts=config.controller.adopt_hubs)


async def _check_one(
    cluster: ClusterConfig, config: HubConfig, turn: asyncio.Semaphore, identity: HubIdentity | None
) -> tuple[CheckResult, ...]:
    from federation.clusters.permissions import CheckResult
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


def _print_remedies(results: Sequence[dict[str, str]]) -> None:
    remedies = [r for r in results if r["outcome"] != "ok" and r["remedy"]]
    if remedies:
        print("\nwhat to do:")
    for result in remedies:
        print(f"  {result['cluster']}, {result['role']}, {result['check']}: {result['remedy']}")
