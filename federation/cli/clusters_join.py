"""``federation clusters join NAME``: the way of a mesh that runs on another CA to the hub, one step after the other.

Which step the cluster is at follows from what the hub has seen, so this can be stopped and continued at every step,
on any machine that has the configuration. It does what the hub may do (pin a root that a person has compared, declare
the takeover), writes files for what an operator has to apply there, and goes on once that was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.cli.options import add_config, address, load_config

if TYPE_CHECKING:
    from federation.core.config.model import ClusterConfig, HubConfig
    from federation.core.joining_files import JoinFile, Merged
    from federation.core.trust.joining import JoinStep
    from federation.status.client import StatusClient
    from federation.status.model import ClusterView, FederationStatus, JoiningView

EXIT_WAITS: Final = 1
EXIT_UNKNOWN: Final = 2
LOOK_EVERY: Final = 2.0
LONGEST_WAIT: Final = 14 * 86400.0


def add_question(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the question and its options."""
    from federation.cli.trust import whole_fingerprint
    from federation.status.client import add_client_arguments

    parser = questions.add_parser(
        "join",
        help="bring a mesh that runs on another CA to the hub, step by step",
        description="For a registered cluster whose mesh has certificates of istiod's own CA (self-signed, or plugged "
        "in by cacerts) or of another one. Shows which step it is at, by what the hub has seen there, does what the "
        "hub may do, and writes into the directory what an operator has to apply with their own rights. Run it again "
        "whenever something was applied: you can stop at every step. Exit codes: 0 it has joined; 1 something has "
        "to be done there, or time has to pass; 2 its step is not known, or the configuration cannot be used.",
    )
    parser.add_argument("name", metavar="NAME", help="the cluster, as it is registered")
    add_config(parser)
    add_client_arguments(parser)
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
        "--door",
        type=address,
        metavar="HOST:PORT",
        help="how workloads of this cluster reach the door (default: as for `federation clusters istio`)",
    )
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before a root is pinned or the takeover declared"
    )
    parser.add_argument(
        "--wait", action="store_true", help="stay, and go on with each step once the one before it was seen"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from federation.core.errors import FederationError
    from federation.status.client import StatusUnavailable

    config = asyncio.run(load_config(args.config))
    cluster = next((cluster for cluster in config.clusters if str(cluster.name) == args.name), None)
    if cluster is None:
        known = ", ".join(str(cluster.name) for cluster in config.clusters) or "none"
        print(
            f"federation clusters join: no cluster is named {args.name}; there are: {known}", file=sys.stderr
        )
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
    from federation.status.client import StatusClient
    from federation.status.model import FederationStatus

    client = StatusClient.from_arguments(args)
    status = asyncio.run(client.get("/api/v1/status", FederationStatus))
    view = next((view for view in status.clusters if view.name == args.name), None)
    if view is None:
        return _say(
            f"the hub there does not know {args.name} yet: give it this configuration", said
        ), EXIT_UNKNOWN
    if view.joining is None:
        return _without_steps(view, said)
    joins = view.joining
    doing = _Look(args, config, cluster, client, status, view, JoinStep(joins.step)).do()
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
class _Look:
    """What was seen at one look, and what can be done about it."""

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
        directory = self.args.directory or Path(f"join-{self.args.name}")
        if self.step is JoinStep.RENEW:
            again = _write(directory, self._files(JoinStep.SERVE))
            return ["its own CA delivers an older bundle than the one in force; give it this one:", *again]
        written = _write(directory, self._files(self.step))
        if self.step is JoinStep.DROP:
            return [
                "wait: it leaves the bundle by itself. The key of its former CA is needed no more:",
                *written,
            ]
        return ["apply there, with rights of your own, then look again:", *written] if written else []

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
        if not self.args.yes and not _confirmed(self.args.name):
            return ["the takeover was not declared: it needs --yes, or the cluster's name typed"]
        done = asyncio.run(self.client.operate("takeover", {"cluster": self.args.name}))
        return [f"the takeover is {done.outcome}{f': {done.detail}' if done.detail else ''}"]

    def _files(self, step: JoinStep) -> tuple[JoinFile, ...]:
        from federation.core.istio_settings import settings_of
        from federation.core.joining_files import files_for

        istio = self.cluster.istio
        settings = [
            settings_of(
                self.config, self.cluster, door=self.args.door, namespace=namespace, revision=revision
            )
            for namespace in istio.namespaces or ("",)
            for revision in istio.revisions or ("",)
        ]
        pem = asyncio.run(self.client.get_bytes("/api/v1/bundle.pem"))
        merged = _merged(self.config, self.cluster, self.status, pem)
        return files_for(step, settings, merged, distributors=self.view.publication.other_writers)


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        return False
    print(
        f"Everything was seen that can be. Does nothing but the hub issue in {name}? Type its name: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip() == name


def _merged(config: HubConfig, cluster: ClusterConfig, status: FederationStatus, pem: bytes) -> Merged:
    """The bundle in force. Raises FederationError where it is not what this configuration allows."""
    from hashlib import sha256

    from federation.core.errors import FederationError
    from federation.core.joining_files import Merged
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


def _write(directory: Path, files: tuple[JoinFile, ...]) -> list[str]:
    """Write them; the lines that name them. Values that an operator has changed stay, scripts are made anew."""
    from federation.core.errors import FederationError
    from federation.core.joining_files import SCRIPT
    from federation.files.reading import read_now

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
