"""What most measurements stand on: member clusters, a development CA, and the hub's roles as real processes.

The steps are an operator's: the member manifests are applied, each role gets a kubeconfig of its own, and the
roles are started by the hub's own command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from federation.core.documents.encoding import encode
from federation.core.documents.keys import generation_key
from federation.core.documents.trust import AnchorRecord, Current, Generation
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation_sandbox.box import (
    ISTIO_SYSTEM,
    MEMBER_MANIFESTS,
    SERVER_NAME,
    DevelopmentCa,
    Member,
    open_members,
)
from federation_sandbox.cluster import read_kustomization
from federation_sandbox.ports import free_port
from tests.bench.callers import Crowd
from tests.bench.handler import TRUST_DOMAIN

START_LIMIT = 60.0
REPOSITORY = Path(__file__).resolve().parents[2]


class Child:
    """A process of ours, which ends with the context it was started in."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def order(self, line: dict[str, Any]) -> Any:
        """Send a line to a process that answers each with one."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()["answer"]

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended: {self.log.read_text()[-3000:]}")
        return json.loads(line)


@contextlib.contextmanager
def child(directory: Path, name: str, *command: str) -> Iterator[Child]:
    """Run a Python module in a process of its own; terminated, then killed, at the end."""
    log = directory / f"{name}.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=REPOSITORY,
        )
    try:
        yield Child(process, log)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass
class Rig:
    """Members with the hub's rights in them, and a place for the hub's files."""

    directory: Path
    members: dict[str, Member]
    boxes: Child | None
    attestation: str = "token-keys"
    resync: float = 600.0
    proof_interval: float = 3600.0
    leaf: int = 0
    """Seconds that leaves live where the rig is for a rotation, to a successor of another root; 0: it is not."""

    signers_count: int = 0
    """Signer processes that the hub starts; 0: one for each core."""

    listener_port: int = field(default_factory=free_port)
    status_port: int = field(default_factory=free_port)
    anchors: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = SystemClock()
        self._asking = asyncio.Lock()
        self.ca = DevelopmentCa.create(self.directory / "ca", name="bench", clock=self.clock)
        self.anchors.append(self.ca.directory / "root.pem")
        if self.leaf:
            self.successor = DevelopmentCa.create(self.directory / "next", name="next", clock=self.clock)

    async def ask(self, name: str, what: str) -> Any:
        """Have the clusters carry out an order and return its answer; see `members`."""
        return await self.order(cluster=name, do=what)

    async def order(self, **order: Any) -> Any:
        """Have the process of the clusters carry out an order; see `members` and `stand_in`."""
        assert self.boxes is not None
        async with self._asking:
            return await asyncio.to_thread(self.boxes.order, order)

    def add_root(self, name: str) -> None:
        """Pin one more root, which changes the bundle."""
        ca = DevelopmentCa.create(self.directory / name, name=name, clock=self.clock)
        self.anchors.append(ca.directory / "root.pem")
        self.write_config()

    async def register(self) -> None:
        """Grant both roles their rights in every member, and write their kubeconfigs."""
        manifest = read_kustomization(MEMBER_MANIFESTS)
        for name, member in self.members.items():
            await member.world.add_namespace(ISTIO_SYSTEM)
            await member.world.apply(manifest)
            for role in ("signer", "controller"):
                await member.world.write_role_kubeconfig(
                    self.directory / f"{name}-{role}.kubeconfig", service_account=f"federation-{role}"
                )
        self.write_config()

    def write_config(self) -> None:
        """Write clusters.toml, at once as a whole."""
        from federation.core.pki.pem import parse_certificates

        tables = [f'trust_domain = "{TRUST_DOMAIN}"']
        for path in self.anchors:
            (anchor,) = parse_certificates(path.read_bytes(), where=str(path))
            tables.append(f'[[trust.anchors]]\nfile = "{path}"\nsha256 = "{anchor.sha256}"')
        tables += [
            f'[listener]\nlisten = "127.0.0.1:{self.listener_port}"\nserver_names = ["{SERVER_NAME}"]',
            "drain = 1\nmax_concurrent = 2000\nmax_concurrent_per_cluster = 2000",
            f'[signer]\nprocesses = {self.signers_count}\n[signer.authority]\nkind = "local"\nname = "bench"',
            f'certificate_file = "{self.ca.directory / "chain.pem"}"',
            f'key_file = "{self.ca.directory / "key.pem"}"',
            f"[controller.publication]\nresync = {self.resync}",
            f"[controller.proof]\ninterval = {self.proof_interval}"
            + (f"\nleaf_ttl = {self.leaf}" if self.leaf else ""),
            f'[status]\nlisten = "127.0.0.1:{self.status_port}"',
            f'[state]\ndirectory = "{self.directory / "state"}"',
        ]
        if self.leaf:
            tables += self._rotation_tables()
        for name, member in self.members.items():
            tables.append(
                f'[[clusters]]\nname = "{name}"\ncluster_id = "{member.cluster_id}"\n'
                f'attestation = "{self.attestation}"'
            )
            if self.leaf:
                ttl = f"longest_ttl = {self.leaf}\ndefault_ttl = {self.leaf}"
                tables.append(f"earlier_longest_ttl = 0\n[clusters.policy]\n{ttl}")
            for role in ("signer", "controller"):
                kubeconfig = self.directory / f"{name}-{role}.kubeconfig"
                tables.append(f'[clusters.{role}]\nkubeconfig = "{kubeconfig}"')
        config = self.directory / "clusters.toml"
        config.with_suffix(".new").write_text("\n\n".join(tables) + "\n")
        config.with_suffix(".new").rename(config)

    def _rotation_tables(self) -> list[str]:
        """The staged root, the authority under it, and waits that are short beside such leaves."""
        from federation.core.pki.pem import parse_certificates

        root = self.successor.directory / "root.pem"
        (anchor,) = parse_certificates(root.read_bytes(), where=str(root))
        return [
            f'[[trust.anchors]]\nfile = "{root}"\nsha256 = "{anchor.sha256}"\nstaged = true',
            '[signer.successor]\nkind = "local"\nname = "next"',
            f'certificate_file = "{self.successor.directory / "chain.pem"}"',
            f'key_file = "{self.successor.directory / "key.pem"}"',
            '[controller.rotation]\nsoak = "3s"\nskew = "2s"',
        ]

    async def write_generation(self) -> None:
        """The first generation of trust, as a controller would write it, for signers that run without one."""
        root = self.ca.root
        bundle = TrustBundle.merge(
            [Anchor(certificate=root, origin="bench", kind="root", trust_domain=TRUST_DOMAIN)]
        )
        record = AnchorRecord(
            sha256=root.sha256,
            subject=root.subject,
            kind="root",
            origin="bench",
            trust_domain=str(TRUST_DOMAIN),
            not_before=root.not_before.timestamp(),
            not_after=root.not_after.timestamp(),
        )
        generation = Generation(
            number=1,
            created=time.time(),
            reason="bench",
            author="bench",
            trust_domain=str(TRUST_DOMAIN),
            sha256=bundle.sha256,
            bundle_pem=bundle.pem.decode(),
            anchors=[record],
        )
        store = FileStore(self.directory / "state", self.clock)
        await store.write(generation_key(1), encode(generation))
        await store.write("current", encode(Current(number=1, sha256=bundle.sha256)))

    @contextlib.asynccontextmanager
    async def role(self, role: str, replica: str, *options: str) -> AsyncIterator[Child]:
        """A role, once it serves: the signer its listener, the controller its status."""
        command = (
            "federation",
            role,
            "--config",
            str(self.directory / "clusters.toml"),
            "--replica",
            replica,
        )
        with child(self.directory, replica, *command, "--log-level", "info", *options) as started:
            port = self.listener_port if role == "signer" else self.status_port
            await serves(port, started)
            yield started

    @contextlib.asynccontextmanager
    async def signers(self, count: int) -> AsyncIterator[list[Child]]:
        """``count`` signers on one port, each with caches of its own."""
        async with contextlib.AsyncExitStack() as stack:
            started: list[Child] = []
            for number in range(count):
                health = free_port()
                role = self.role("signer", f"signer-{number}", "--health", f"127.0.0.1:{health}")
                started.append(await stack.enter_async_context(role))
                await wait_ready(f"http://127.0.0.1:{health}/readyz", started[-1])
            yield started

    def crowd(self, calls: Iterator[Any]) -> Crowd:
        """Callers of the listener, who trust this rig's root, and the one that it rotates to."""
        trust = self.ca.root.pem + (self.successor.root.pem if self.leaf else b"")
        return Crowd("127.0.0.1", self.listener_port, trust=trust, server_name=SERVER_NAME, calls=calls)

    async def get(self, path: str) -> Any:
        """An answer of the status API; raises aiohttp.ClientError, and TimeoutError, where there is none."""
        url = f"http://127.0.0.1:{self.status_port}{path}"
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def operate(self, verb: str) -> None:
        """Ask for an operation; raises RuntimeError where it was not done."""
        url = f"http://127.0.0.1:{self.status_port}/api/v1/operations"
        body = {"verb": verb, "arguments": {"reason": "bench"}}
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{verb} was not done: {await answer.text()}")


async def serves(port: int, started: Child) -> None:
    """Wait until something listens there."""
    async with asyncio.timeout(START_LIMIT):
        while True:
            if started.process.poll() is not None:
                raise RuntimeError(f"{started.log.name} ended: {started.log.read_text()[-3000:]}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


async def wait_ready(url: str, started: Child) -> None:
    """Wait until a role says that it is ready."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with asyncio.timeout(START_LIMIT), aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            if started.process.poll() is not None:
                raise RuntimeError(f"{started.log.name} ended: {started.log.read_text()[-3000:]}")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def sandbox_rig(
    directory: Path, names: list[str], *, namespaces: int = 0, nice: int = 0, **options: Any
) -> AsyncIterator[Rig]:
    """A rig on clusters in a box; ``nice`` makes them yield the cores to the hub."""
    directory.mkdir(exist_ok=True)
    command = ("tests.bench.members", str(directory), str(namespaces), str(nice), *names)
    with child(directory, "members", *command) as boxes:
        await asyncio.to_thread(boxes.answer)
        kubeconfigs = {name: directory / f"{name}-admin.kubeconfig" for name in names}
        async with open_members(kubeconfigs, clock=SystemClock()) as members:
            rig = Rig(directory, members, boxes, **options)
            await rig.register()
            yield rig


@contextlib.asynccontextmanager
async def stand_in_rig(
    directory: Path, names: list[str], *, namespaces: int, pods: int, **options: Any
) -> AsyncIterator[Rig]:
    """A rig on the stand-in, where nothing has to be registered: its kubeconfigs are there from the beginning."""
    directory.mkdir(exist_ok=True)
    command = ("tests.bench.stand_in", str(directory), str(namespaces), str(pods), *names)
    with child(directory, "stand-in", *command) as boxes:
        await asyncio.to_thread(boxes.answer)
        kubeconfigs = {name: directory / f"{name}-admin.kubeconfig" for name in names}
        async with open_members(kubeconfigs, clock=SystemClock()) as members:
            rig = Rig(directory, members, boxes, **options)
            rig.write_config()
            yield rig


def real_kubeconfigs() -> list[Path]:
    """Real API servers that were named for this run."""
    named = os.environ.get("FEDERATION_REAL_KUBECONFIGS", "")
    return [Path(part) for part in named.split(":") if part]


@contextlib.asynccontextmanager
async def real_rig(directory: Path, **options: Any) -> AsyncIterator[Rig]:
    """A rig on the first real API server that was named."""
    directory.mkdir(exist_ok=True)
    async with open_members({"real": real_kubeconfigs()[0]}, clock=SystemClock()) as members:
        rig = Rig(directory, members, None, **options)
        await rig.register()
        yield rig
