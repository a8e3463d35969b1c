"""A whole federation in a box: member clusters, a development CA, the hub as its own processes, and workloads.

The demo shows it, and the end-to-end tests run it, with clusters of the sandbox or with real ones: the steps are an
operator's, and every part of the hub that takes part is the real one. Only the hub's own command starts the hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from federation.core.clock import Clock
from federation.core.errors import ClusterNotFound, NotReady
from federation.core.identity import ClusterId, ClusterName, ServiceAccountRef, SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.development import create_intermediate, create_root, generate_key
from federation.core.pki.keys import KeyKind, PrivateKey
from federation_sandbox.cluster import MemberWorld, SandboxCluster, read_kustomization
from federation_sandbox.mesh import Workload
from federation_sandbox.ports import free_port

SERVER_NAME: Final = "federation-hub.federation-system.svc"
ROOT_CONFIG_MAP: Final = "istio-ca-root-cert"
MEMBER_MANIFESTS: Final = Path(__file__).resolve().parent / "manifests" / "member"
"""In a clone a link to ``manifests/member``; in the wheel a copy of it."""
ISTIO_SYSTEM: Final = "istio-system"
POLL: Final = 0.1
LIMIT: Final = 180.0
"""Seconds for what takes a few, on a machine that may be busy; it costs time only where something never comes."""

ANSWER_LIMIT: Final = 60.0  # seconds, the same for one answer of the status API


@dataclass(frozen=True)
class DevelopmentCa:
    """A root and an intermediate under it, written as an operator would mount them."""

    root: Certificate
    root_key: PrivateKey
    intermediate: Certificate
    directory: Path

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        name: str,
        clock: Clock,
        lifetime: timedelta = timedelta(days=3650),
        kind: KeyKind = KeyKind.EC_P256,
    ) -> DevelopmentCa:
        """Make both, with their keys readable by this user only."""
        begin, end = clock.now() - timedelta(minutes=5), clock.now() + lifetime
        root_key = generate_key(kind)
        root = create_root(
            common_name=f"{name} root", key=root_key, serial=_serial(), not_before=begin, not_after=end
        )
        return cls._under(root, root_key, directory, name=name, kind=kind)

    def another(self, directory: Path, *, name: str, kind: KeyKind = KeyKind.EC_P256) -> DevelopmentCa:
        """One more intermediate under the same root, with its own key."""
        return self._under(self.root, self.root_key, directory, name=name, kind=kind)

    @classmethod
    def _under(
        cls, root: Certificate, root_key: PrivateKey, directory: Path, *, name: str, kind: KeyKind
    ) -> DevelopmentCa:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = generate_key(kind)
        intermediate = create_intermediate(
            issuer=root,
            issuer_key=root_key,
            common_name=f"{name} intermediate",
            key=key,
            serial=_serial(),
            not_before=root.not_before,
            not_after=root.not_after,
        )
        (directory / "root.pem").write_bytes(root.pem)
        (directory / "chain.pem").write_bytes(intermediate.pem)
        (directory / "key.pem").touch(mode=0o600)
        (directory / "key.pem").write_bytes(private_key_pem(key))
        return cls(root, root_key, intermediate, directory)


def _serial() -> int:
    return int.from_bytes(os.urandom(16)) >> 1


def private_key_pem(key: PrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 PEM."""
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Member:
    """A member cluster as the box knows it."""

    name: ClusterName
    world: MemberWorld
    sandbox: SandboxCluster | None = None  # None for a real one

    @property
    def cluster_id(self) -> ClusterId:
        """The box gives every cluster its own name as its ID."""
        return ClusterId(self.name.value)


@dataclass
class Box:
    """The federation: its members, its CA, its configuration and the hub's process."""

    directory: Path
    members: Mapping[str, Member]
    ca: DevelopmentCa
    clock: Clock
    trust_domain: TrustDomain = field(default_factory=lambda: TrustDomain("mesh.example"))
    listener_port: int = field(default_factory=free_port)
    status_port: int = field(default_factory=free_port)
    signers: int = 1
    proof_interval: float = 2.0
    extra_anchors: list[Path] = field(default_factory=list)
    successor: DevelopmentCa | None = (
        None  # what a rotation is to sign with in the end; its root is pinned as staged
    )
    cluster_lines: str = ""  # more TOML for every cluster's table
    signer_lines: str = ""  # more TOML for the signer's table
    listener_lines: str = ""
    policy_lines: str = ""  # more TOML for every cluster's policy
    timeout_lines: str = ""
    proof_lines: str = ""
    rotation_lines: str = ""
    state_lines: str = ""  # where the state is; default: a directory beside the configuration
    operate_token_file: Path | None = None  # default: anyone on loopback may request an operation
    hub_output: int | None = None  # a file descriptor for the hub's log; default: hub.log in the directory
    hub_command: Sequence[str] = (sys.executable, "-m", "federation")  # what starts the hub
    _hub: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        self.state_lines = self.state_lines or f'directory = "{self.directory / "state"}"'

    @property
    def config_file(self) -> Path:
        """What the hub reads."""
        return self.directory / "clusters.toml"

    @property
    def status_url(self) -> str:
        """Where the status API answers."""
        return f"http://127.0.0.1:{self.status_port}"

    @property
    def listener(self) -> str:
        """Where the listener answers."""
        return f"127.0.0.1:{self.listener_port}"

    async def register(self, names: Sequence[str] | None = None) -> None:
        """Grant the hub's two roles what they need in each member, and write the configuration that names them."""
        for name in self.members if names is None else names:
            member = self.members[name]
            await member.world.add_namespace(ISTIO_SYSTEM)
            await member.world.apply(read_kustomization(MEMBER_MANIFESTS))
            for role in ("signer", "controller"):
                await member.world.write_role_kubeconfig(
                    self.directory / f"{name}-{role}.kubeconfig", service_account=f"federation-{role}"
                )
        self.write_config(names)

    def write_config(self, names: Sequence[str] | None = None) -> None:
        """Write ``clusters.toml`` with these members (default: all), in one atomic replacement."""
        anchors = [self.ca.directory / "root.pem", *self.extra_anchors]
        tables = [
            f'trust_domain = "{self.trust_domain}"',
            *(_anchor_table(path) for path in anchors),
            *self._successor_tables(),
            f'[listener]\nlisten = "{self.listener}"\nserver_names = ["{SERVER_NAME}"]\n{self.listener_lines}',
            f"[signer]\nprocesses = {self.signers}\n{self.signer_lines}",
            self._authority_table(),
            f"[controller.proof]\ninterval = {self.proof_interval}\n{self.proof_lines}",
            *([f"[controller.rotation]\n{self.rotation_lines}"] if self.rotation_lines else []),
            f'[status]\nlisten = "127.0.0.1:{self.status_port}"{self._operate_token_line()}',
            f"[state]\n{self.state_lines}",
            *(self._cluster_table(name) for name in (self.members if names is None else names)),
        ]
        staged = self.config_file.with_suffix(".new")
        staged.write_text("\n\n".join(tables) + "\n", "utf-8")
        staged.rename(self.config_file)

    def _operate_token_line(self) -> str:
        file = self.operate_token_file
        return "" if file is None else f'\noperate_token_file = "{file}"'

    def _successor_tables(self) -> list[str]:
        if self.successor is None:
            return []
        anchor = _anchor_table(self.successor.directory / "root.pem") + "\nstaged = true"
        return [anchor] if self.successor.root != self.ca.root else []

    def _authority_table(self) -> str:
        own = _files_table("authority", self.ca.directory)
        return (
            own
            if self.successor is None
            else f"{own}\n\n{_files_table('successor', self.successor.directory)}"
        )

    def _cluster_table(self, name: str) -> str:
        lines = [
            f'[[clusters]]\nname = "{name}"\ncluster_id = "{self.members[name].cluster_id}"',
            self.cluster_lines,
        ]
        lines += [
            f'[clusters.{role}]\nkubeconfig = "{self.directory / f"{name}-{role}.kubeconfig"}"'
            for role in ("signer", "controller")
        ]
        lines += [f"[clusters.policy]\n{self.policy_lines}"] if self.policy_lines else []
        lines += [f"[clusters.timeouts]\n{self.timeout_lines}"] if self.timeout_lines else []
        return "\n".join(lines)

    async def start_hub(self) -> None:
        """Start ``federation hub`` as a separate process."""
        with (self.directory / "hub.log").open("ab") as log:
            self._hub = await asyncio.create_subprocess_exec(
                *(*self.hub_command, "hub", "--config", str(self.config_file)),
                stdout=self.hub_output if self.hub_output is not None else log,
                stderr=self.hub_output if self.hub_output is not None else log,
                start_new_session=True,
            )

    @property
    def hub_pid(self) -> int | None:
        """The process ID of the supervisor, None while it is not running."""
        return self._hub.pid if self._hub is not None and self._hub.returncode is None else None

    async def stop_hub(self, *, limit: float = LIMIT) -> int | None:
        """Ask the hub to end, wait until it has drained, and return its exit code."""
        if self._hub is None or self._hub.returncode is not None:
            return self._hub.returncode if self._hub is not None else None
        self._hub.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit):
                return await self.hub_ended()
        except TimeoutError:
            os.killpg(self._hub.pid, signal.SIGKILL)
            return await self.hub_ended()

    async def hub_ended(self) -> int | None:
        """Wait until the hub's process has ended; its exit code, None where none was started."""
        return await self._hub.wait() if self._hub is not None else None

    def hub_log(self) -> str:
        """The end of what the hub has logged."""
        log = self.directory / "hub.log"
        return log.read_text("utf-8", errors="replace")[-4000:] if log.exists() else ""

    async def get(self, path: str) -> Any:
        """An answer of the status API; raises ``aiohttp.ClientError`` where there is none, or none in time.

        What cannot be said at the moment (503) is asked for again: on a busy machine a report may be late.
        """
        try:
            async with (
                asyncio.timeout(ANSWER_LIMIT),
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
            ):
                while True:
                    async with session.get(f"{self.status_url}{path}") as answer:
                        if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                            answer.raise_for_status()
                            return msgspec.json.decode(await answer.read())
                    await asyncio.sleep(POLL)
        except TimeoutError as error:
            raise aiohttp.ServerTimeoutError(f"{path}: no answer in {ANSWER_LIMIT:g} s") from error

    async def operate(self, verb: str, **arguments: str) -> Any:
        """Ask for an operation; the decided one. Raises NotReady where it was refused."""
        timeout = aiohttp.ClientTimeout(total=40)
        body = {"verb": verb, "arguments": arguments}
        file = self.operate_token_file
        headers = {"Authorization": f"Bearer {file.read_text()}"} if file is not None else {}
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(f"{self.status_url}/api/v1/operations", json=body) as answer,
        ):
            document = msgspec.json.decode(await answer.read())
            if answer.status != 200:
                raise NotReady(f"{verb} was not done: {document}", where="the hub")
            return document

    async def wait_for(self, path: str, wanted: Any, *, limit: float = LIMIT, what: str = "") -> Any:
        """Poll the status API until ``wanted(document)`` holds; raises NotReady that says what was seen last."""
        seen: Any = None
        try:
            async with asyncio.timeout(limit):
                while True:
                    self._check_alive()
                    with contextlib.suppress(aiohttp.ClientError):
                        seen = await self.get(path)
                        if wanted(seen):
                            return seen
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise NotReady(
                f"{what or path} did not come in {limit:g} s; last seen: {str(seen)[:2000]}\n{self.hub_log()}",
                where="the hub",
            ) from None

    def _check_alive(self) -> None:
        if self._hub is not None and self._hub.returncode is not None:
            raise NotReady(
                f"it ended with exit code {self._hub.returncode}\n{self.hub_log()}", where="the hub"
            )

    async def wait_ready(self, *, limit: float = LIMIT) -> None:
        """Wait until the controller is ready and every signer process has said that it is."""
        await self.wait_for("/readyz", lambda _: True, limit=limit, what="a ready controller")

        def signing(status: Any) -> bool:
            ready = [signer for signer in status["signers"] if signer["ready"]]
            return len(ready) >= self.signers

        await self.wait_for("/api/v1/status", signing, limit=limit, what=f"{self.signers} ready signers")

    async def wait_proved(self, *, limit: float = LIMIT) -> Any:
        """Wait until every ordered pair is valid and the proof covers every registered member."""

        def proved(matrix: Any) -> bool:
            pairs: int = matrix["pairs"]
            return pairs > 0 and pairs == matrix["valid"] and len(matrix["clusters"]) == len(self.members)

        return await self.wait_for(
            "/api/v1/matrix", proved, limit=limit, what="a matrix in which every pair is valid"
        )

    async def workload(self, name: str, namespace: str, service_account: str) -> Workload:
        """Create a workload in that member and wait until its namespace holds the trust for the listener."""
        member = self.members[name]
        pod = await member.world.add_workload(namespace, service_account)
        token = await member.world.token(namespace, service_account, pod=pod, audience="istio-ca")
        trust = await self.wait_for_trust(name, namespace)
        return Workload(
            cluster_id=member.cluster_id,
            identity=SpiffeId(self.trust_domain, ServiceAccountRef(namespace, service_account)),
            listener=self.listener,
            server_name=SERVER_NAME,
            token=lambda: token,
            listener_trust=lambda: trust,
        )

    async def wait_for_trust(self, name: str, namespace: str, *, limit: float = LIMIT) -> bytes:
        """The published bundle of a namespace, once it is there."""
        try:
            async with asyncio.timeout(limit):
                while True:
                    self._check_alive()
                    with contextlib.suppress(ClusterNotFound):
                        found = await self.members[name].world.config_map(namespace, ROOT_CONFIG_MAP)
                        if found is not None and found.get("data", {}).get("root-cert.pem"):
                            return str(found["data"]["root-cert.pem"]).encode("ascii")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise NotReady(
                f"no bundle came to namespace {namespace} in {limit:g} s\n{self.hub_log()}", where=name
            ) from None


def _files_table(name: str, directory: Path) -> str:
    """The ``[signer.<name>]`` of an intermediate in a directory."""
    return "\n".join(
        (
            f"[signer.{name}]",
            'kind = "local"',
            f'name = "{directory.name}"',
            f'certificate_file = "{directory / "chain.pem"}"',
            f'key_file = "{directory / "key.pem"}"',
        )
    )


def _anchor_table(path: Path) -> str:
    from federation.core.pki.pem import parse_certificates

    (anchor,) = parse_certificates(path.read_bytes(), where=str(path))
    return f'[[trust.anchors]]\nfile = "{path}"\nsha256 = "{anchor.sha256}"'


@contextlib.asynccontextmanager
async def open_members(
    kubeconfigs: Mapping[str, Path], *, clock: Clock, sandboxes: Mapping[str, SandboxCluster] | None = None
) -> AsyncIterator[dict[str, Member]]:
    """Connect to each cluster as its administrator; ``sandboxes`` are those of them that are in a box."""
    async with contextlib.AsyncExitStack() as stack:
        members: dict[str, Member] = {}
        for text, path in kubeconfigs.items():
            name = ClusterName(text)
            world = await MemberWorld.open(name, path, clock=clock)
            stack.push_async_callback(world.close)
            members[text] = Member(name, world, (sandboxes or {}).get(text))
        yield members
