"""The first hour of a new user on real API servers: the chart, three clusters, green; steps and minutes counted.

    python -m tests.e2e.newcomer --hub hub.kubeconfig --member east=east.kubeconfig --member west=west.kubeconfig \
        --kubectl .../kubectl --helm .../helm

The commands of the installation are those of ``charts/federation-hub/README.md``, read from that page; those after it
are the ones that the chart's notes print. Each is run by a shell and timed. What a cluster would do beside its API
server is done here: the pods are run by ``tests.e2e.pods`` in the image's file system, with volumes that follow a
minute late, and a hosts file takes the place of the cluster's DNS. Left out is the port-forward to status
(``--kube-context``), for which a kubelet is needed: the commands reach it by its address.

Containers listen on every address, so run it as root in a network namespace of its own (``unshare --net``) with the API
servers; it makes a mount namespace by itself. Exit code 0: every pair was proved, ``verify`` said so, and a cluster was
removed again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from release.image_root import build, missing
from tests.e2e.pods import POLL, Kubectl, Node

ROOT: Final = Path(__file__).resolve().parents[2]
NAMESPACE: Final = "federation-system"
HUB: Final = "hub"
LISTENER: Final = "hub.example.org"
STATUS: Final = f"federation-status.{NAMESPACE}.svc"
OWN_MOUNTS: Final = "NEWCOMER_OWN_MOUNTS"
LIMIT: Final = 900.0  # seconds for one step


@dataclass
class Step:
    """What the user does at one place, and how long it took."""

    name: str
    commands: list[str]
    seconds: float = 0.0


@dataclass
class Trial:
    """The user's shell, with what has been done in it."""

    directory: Path
    environment: dict[str, str]
    steps: list[Step] = field(default_factory=list)

    def do(self, name: str, *commands: str) -> str:
        """Run the commands of one step; what the last one printed. Raises RuntimeError where one fails."""
        step = Step(name, list(commands))
        self.steps.append(step)
        began, said = time.monotonic(), ""
        for command in commands:
            print(f"$ {command}", flush=True)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.directory,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            said = done.stdout
            print("".join(f"    {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="")
            if done.returncode:
                raise RuntimeError(f"{name}: exit code {done.returncode}")
        step.seconds = time.monotonic() - began
        return said

    def table(self) -> str:
        """Steps, commands and seconds."""
        lines = ["| step | commands | seconds |", "|---|---|---|"]
        lines += [f"| {each.name} | {len(each.commands)} | {each.seconds:.0f} |" for each in self.steps]
        commands, seconds = (
            sum(len(each.commands) for each in self.steps),
            sum(each.seconds for each in self.steps),
        )
        return "\n".join([*lines, f"| **in all** | {commands} | {seconds:.0f} ({seconds / 60:.1f} min) |"])


def installation() -> list[str]:
    """The commands of the chart's page, each with its continued lines."""
    page = (ROOT / "charts/federation-hub/README.md").read_text("utf-8")
    found = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found.group(1).replace("\\\n", "").strip().splitlines()


def merged(kubeconfigs: dict[str, Path]) -> dict[str, object]:
    """One kubeconfig with a context for each cluster, as an administrator has it."""
    made: dict[str, list[object]] = {"clusters": [], "users": [], "contexts": []}
    for name, file in kubeconfigs.items():
        read = yaml.safe_load(file.read_text("utf-8"))
        made["clusters"].append({"name": name, "cluster": read["clusters"][0]["cluster"]})
        made["users"].append({"name": f"{name}-admin", "user": read["users"][0]["user"]})
        made["contexts"].append({"name": name, "context": {"cluster": name, "user": f"{name}-admin"}})
    return {"apiVersion": "v1", "kind": "Config", "current-context": HUB, **made}


@contextlib.contextmanager
def running(node: Node, failures: list[str]) -> Iterator[None]:
    """Have the node look after its pods until the end."""
    ended = threading.Event()

    def look_on() -> None:
        while not ended.wait(POLL):
            try:
                node.look()
            except RuntimeError as error:
                failures.append(str(error))
                print(f"node: {error}", file=sys.stderr, flush=True)
                return

    thread = threading.Thread(target=look_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        node.close()


def run(args: argparse.Namespace, directory: Path) -> int:
    """Go the whole way; the exit code."""
    home = directory / "home"
    home.mkdir()
    for name in ("charts", "manifests"):
        (home / name).symlink_to(ROOT / name)
    members: dict[str, Path] = dict(each.split("=", 1) for each in args.member)
    kubeconfig = home / "kubeconfig"
    kubeconfig.write_text(json.dumps(merged({HUB: args.hub, **{n: Path(p) for n, p in members.items()}})))
    kubeconfig.chmod(0o600)
    tools = home / "bin"
    tools.mkdir()
    (tools / "kubectl").symlink_to(args.kubectl)
    (tools / "helm").symlink_to(args.helm)
    (tools / "federation").symlink_to(Path(sys.executable).parent / "federation")
    hosts = directory / "hosts"
    names = ["localhost", LISTENER, STATUS, f"federation-hub.{NAMESPACE}.svc"]
    hosts.write_text(f"127.0.0.1 {' '.join(names)}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    trial = Trial(
        home,
        {
            "HOME": str(home),
            "PATH": f"{tools}:/usr/bin:/bin",
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": str(ROOT),
        },
    )
    packages = Path(sysconfig.get_paths()["purelib"])
    arguments = {"REVISION": "trial", "CREATED": "2026-12-01T00:00:00Z"}
    image = build(ROOT, directory / "image", arguments=arguments, packages=packages)
    pods = directory / "pods"
    pods.mkdir()
    kubectl = Kubectl(args.kubectl, str(kubeconfig), HUB)
    node = Node(kubectl, NAMESPACE, image, pods, hosts=hosts, lag=args.lag)
    failures: list[str] = []
    with running(node, failures):
        commands = [each.replace("REGISTRY/", "registry.example/") for each in installation()]
        trial.do("the hub, by the chart", *commands)
        trial.do(
            "until both roles run",
            f"kubectl -n {NAMESPACE} wait --for=create pod -l app.kubernetes.io/name=federation-hub --timeout=60s",
            f"kubectl -n {NAMESPACE} wait --for=condition=Ready pod --all --timeout=180s",
        )
        trial.do(
            "the context",
            f"federation context add federation-hub --url https://{STATUS}:8080"
            " --token-file token --ca-file status/ca.crt",
        )
        for name in members:
            hub = f"--hub-context {HUB} --hub-namespace {NAMESPACE}"
            trial.do(f"cluster {name}", f"federation clusters add {name} --context {name} {hub} --yes")
        trial.do("is it true?", "federation status", "federation verify --wait 300")
        reached = sum(each.seconds for each in trial.steps)
        last = list(members)[-1]
        trial.do(
            f"cluster {last} removed",
            f"federation clusters remove {last} --context {last} {hub} --yes",
            "federation status",
        )
    print(trial.table())
    print(f"green after {reached / 60:.1f} minutes")
    for log in pods.glob("*.log"):
        print(f"{log.name}: {len(log.read_text().splitlines())} lines")
    return 1 if failures else 0


def main() -> int:
    """Parse the arguments, and run it in a directory of its own."""
    parser = argparse.ArgumentParser(description="The first hour of a new user, on real API servers.")
    parser.add_argument("--hub", type=Path, required=True, metavar="KUBECONFIG")
    parser.add_argument("--member", action="append", required=True, metavar="NAME=KUBECONFIG")
    parser.add_argument("--kubectl", type=Path, required=True)
    parser.add_argument("--helm", type=Path, required=True)
    parser.add_argument("--lag", type=float, default=60.0, metavar="SECONDS", help="how late volumes follow")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="work there, and keep it")
    args = parser.parse_args()
    if {name for _, name in socket.if_nameindex()} != {"lo"}:
        print("run it in a network namespace of its own: unshare --net", file=sys.stderr)
        return 2
    if lacks := missing():
        print(f"the image's file system cannot be made here: {lacks}", file=sys.stderr)
        return 2
    if os.environ.get(OWN_MOUNTS) != "1":  # names lead to loopback for this process and its own alone
        os.environ[OWN_MOUNTS] = "1"
        words = [sys.executable, "-m", "tests.e2e.newcomer", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "--propagation=private", *words])
    if args.keep is not None:
        args.keep.mkdir(parents=True)
        return run(args, args.keep.resolve())
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        return run(args, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
