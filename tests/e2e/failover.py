"""Failover of a whole hub: its leader and its signers are killed, stopped, cut off and replaced under 64 callers.

    python -m tests.e2e.failover                                        # clusters in a box, with the hub's own timings
    python -m tests.e2e.failover --kubeconfigs a:b --audit-logs a.log:b.log

Two controllers and two signers, each a process with the rights of ``manifests``, and the state in objects of the first
cluster. Every process reaches API servers from a loopback address of its own, by links that can be cut; callers reach
signers by a balancer, and behave as Istio's agents do. What was written, when, and from where is what the API servers
say: the journal of the sandbox, or the audit logs of real API servers (policy: :data:`AUDIT_POLICY`).

It prints a table and exits non-zero where a call failed after all attempts of its agent, where a process wrote as the
leader that was none, or where something did not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from federation.core.documents.keys import CONTROLLERS, OPERATIONS
from federation.core.errors import ClusterNotFound, NotReady
from federation.core.identity import ClusterName
from federation.runtime.clock import SystemClock
from federation.state.kubernetes_lease import LeaseTimings
from federation.state.kubernetes_store import key_of, object_name
from federation_sandbox import demo
from federation_sandbox.apiserver.server import Record
from federation_sandbox.box import SERVER_NAME, Box, DevelopmentCa, Member, open_members
from federation_sandbox.cluster import MemberWorld, SandboxCluster
from federation_sandbox.ports import free_port
from tests.support.istio_agent import Agent, Called, Keepalive
from tests.support.network import LOOPBACK, Balancer, Checks, Cut, Link, Way, redirected

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests" / "hub"
STATE = "federation-state"
CONTROLLER = "system:serviceaccount:federation-system:federation-controller"
MEMBERS = ("east", "west")
LEASE = object_name("controller")
STATES = ("STABLE", "STAGED", "PUBLISHING", "SOAKED", "CANARY", "ACTIVE", "UNPUBLISHING", "RETIRED")

AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: RequestResponse
    verbs: [create, update, patch, delete]
    resources: [{group: coordination.k8s.io, resources: [leases]}]
    namespaces: [federation-state]
  - level: Metadata
    verbs: [create, update, patch, delete, deletecollection]
    users: ["system:serviceaccount:federation-system:federation-controller"]
  - level: None
"""

START = """import sys
from federation.state import kubernetes_lease, kubernetes_store
duration, deadline, every = (float(text) for text in sys.argv.pop(1).split(","))
timings = kubernetes_lease.LeaseTimings(duration=int(duration), deadline=deadline, every=every)
kubernetes_store.KubernetesStore.__init__.__kwdefaults__["lease"] = timings
from federation.cli.main import main
sys.exit(main())"""
"""A role with other timings of the Lease; nothing else than a test has a use for them."""


@dataclass(frozen=True)
class Settings:
    """How much is run, and by which clocks. The defaults are those of the product, of its chart and of Istio."""

    callers: int = 64
    pause: float = 1.0
    """Seconds between two calls of one caller."""
    lease: LeaseTimings = field(default_factory=LeaseTimings)
    keepalive: Keepalive = field(default_factory=Keepalive)
    checks: Checks = field(default_factory=Checks)
    leaf: int = 60
    dwell: float = 10.0
    """Seconds for which a signer is killed, or cut off in a way that callers notice at once."""
    silence: float = 45.0
    """Seconds for which a signer is silent to callers: stopped, or cut off by a black hole."""
    longer: float = 5.0
    """Seconds for which a leader stays stopped or cut off after another one has taken over."""
    pre_stop: float = 5.0
    rotated: str = "RETIRED"
    """The state that the rotation has to reach at least."""
    listener: str = ""
    """More lines of the listener's table."""
    stalls: float = 0.0
    """Share of calls whose five attempts, 1.5 s in all, may fall into a stall of the process that answers for the API
    servers and the balancer: no listener takes the connection, or no signer reaches the state."""
    limit: float = 900.0
    """Seconds within which each step has to come to its end: with leaves of a minute a rotation takes six."""


@dataclass(frozen=True)
class Write:
    """What an API server took from a controller. ``at`` in seconds since the epoch, when it had been done."""

    at: float
    source: str
    cluster: str
    what: str
    holder: str | None = None
    """Of the Lease, who holds it by then: empty where no process does; None where it is no write of the Lease."""
    leaders: bool = True
    """Whether only the leader may do it."""


def write_of(
    *, at: float, source: str, cluster: str, verb: str, resource: str, namespace: str, name: str, holder: str
) -> Write:
    """A write with what it means."""
    what = f"{verb} {resource} {namespace}/{name} in {cluster}"
    if resource == "leases":
        return Write(at, source, cluster, what, holder=holder)
    key = (key_of(name) or "") if namespace == STATE else ""
    any_controller = key.startswith(CONTROLLERS) or (key.startswith(OPERATIONS) and verb == "create")
    return Write(at, source, cluster, what, leaders=not any_controller)


class Journal:
    """The writes of controllers by what sandboxes recorded."""

    def __init__(self, sandboxes: dict[str, SandboxCluster]) -> None:
        self._writes: list[Write] = []
        for name, cluster in sandboxes.items():
            cluster.requests.on_record = partial(self._note, name, cluster)

    def _note(self, name: str, cluster: SandboxCluster, record: Record) -> None:
        if record.user != CONTROLLER or not record.writes or not 200 <= record.status < 300:
            return
        info, holder, name_of = record.info, "", record.info.name
        if info.resource == "leases":
            lease = cluster.get("leases", info.namespace, LEASE)
            holder = (lease or {}).get("spec", {}).get("holderIdentity") or ""
        elif info.verb == "create":  # by a request that names none: it is the newest
            newest = max(
                cluster.objects(info.resource, info.namespace),
                key=lambda found: int(found["metadata"]["resourceVersion"]),
            )
            name_of = newest["metadata"]["name"]
        self._writes.append(
            write_of(
                at=time.time(),
                source=record.source,
                cluster=name,
                verb=info.verb,
                resource=info.resource,
                namespace=info.namespace,
                name=name_of,
                holder=holder,
            )
        )

    def writes(self) -> list[Write]:
        """All of them, in order."""
        return list(self._writes)


class AuditLogs:
    """The same by the audit logs of kube-apiservers, from now on."""

    def __init__(self, logs: Iterable[Path]) -> None:
        self._logs = {log: log.stat().st_size for log in dict.fromkeys(logs)}

    def writes(self) -> list[Write]:
        """All of them, in order."""
        found: list[Write] = []
        for log, begin in self._logs.items():
            with log.open("rb") as file:
                file.seek(begin)
                events = [json.loads(line) for line in file if line.endswith(b"\n")]
            found += [write for event in events if (write := self._write(log.name, event)) is not None]
        return sorted(found, key=lambda write: write.at)

    def _write(self, log: str, event: dict[str, Any]) -> Write | None:
        target = event.get("objectRef") or {}
        if (
            event["stage"] != "ResponseComplete"
            or event["user"]["username"] != CONTROLLER
            or not 200 <= event["responseStatus"].get("code", 0) < 300
            or target.get("subresource") == "token"
            or target.get("apiGroup", "").endswith(("authentication.k8s.io", "authorization.k8s.io"))
        ):
            return None
        spec = (event.get("responseObject") or {}).get("spec") or {}
        return write_of(
            at=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
            source=event["sourceIPs"][0],
            cluster=log,
            verb=event["verb"],
            resource=target["resource"],
            namespace=target.get("namespace", ""),
            name=target.get("name", ""),
            holder=spec.get("holderIdentity") or "",
        )


def two_leaders(writes: Sequence[Write], names: dict[str, str]) -> list[str]:
    """Each write that only the leader may do, by a process that did not hold the Lease then. ``names`` by source."""
    found, holder = [], ""
    for write in writes:
        name = names.get(write.source, write.source)
        if write.holder is not None:
            if write.holder.rpartition("_")[0] not in {"", name}:
                found.append(f"{name} wrote the Lease of {write.holder}")
            holder = write.holder.rpartition("_")[0]
        elif write.leaders and name != holder:
            found.append(f"{name}, while {holder or 'no process'} led: {write.what}")
    return found


class Role:
    """One process of the hub, its links, and the folder with its configuration."""

    def __init__(self, role: str, name: str, directory: Path, source: str) -> None:
        self.role, self.name, self.source = role, name, source
        self.directory = directory / name
        self.home, self.members = Way(), {member: Way() for member in MEMBERS}
        """The ways to the hub's own API server, and to those of members."""
        self.listen, self.probes, self.status = free_port(), free_port(), free_port()
        self.process: asyncio.subprocess.Process | None = None
        self._links: list[Link] = []

    async def configure(self, box: Box, home: MemberWorld) -> None:
        """Write the configuration, whose every kubeconfig leads through a link of this process alone."""
        self.directory.mkdir()
        text = box.config_file.read_text("utf-8")
        for member in MEMBERS:
            whole = box.directory / f"{member}-{self.role}.kubeconfig"
            own = await self._through(self.members[member], whole, self.directory / whole.name)
            text = text.replace(str(whole), str(own))
        (self.directory / "clusters.toml").write_text(text, "utf-8")
        made = await home.write_role_kubeconfig(
            self.directory / "home", service_account=f"federation-{self.role}"
        )
        await self._through(self.home, made, self.directory / "state.kubeconfig")

    async def _through(self, way: Way, whole: Path, own: Path) -> Path:
        links: list[Link] = []

        def port(host: str, number: int) -> int:
            links.append(Link(lambda: (host, number), way=way, source=self.source))
            return links[0].port

        own.touch(mode=0o600)
        own.write_text(redirected(whole, port), "utf-8")
        for link in links:
            await link.start()
        self._links += links
        return own

    async def start(self, settings: Settings) -> None:
        """Start the process."""
        lease = settings.lease
        starts = ["-m", "federation"]
        if lease != LeaseTimings():
            starts = ["-c", START, f"{lease.duration},{lease.deadline},{lease.every}"]
        options = ["--config", str(self.directory / "clusters.toml"), "--replica", self.name]
        options += ["--probes", f"{LOOPBACK}:{self.probes}"]
        if self.role == "signer":
            options += ["--listen", f"{LOOPBACK}:{self.listen}"]
        else:
            options += ["--status", f"{LOOPBACK}:{self.status}"]
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *starts, self.role, *options), stdout=log, stderr=log
            )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: int, *, limit: float) -> None:
        """Send it a signal, and wait until it has ended."""
        if self.process is None or self.process.returncode is not None:
            return
        self.signal(number)
        try:
            async with asyncio.timeout(limit):
                await self.process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.process.wait()
            raise NotReady(f"{self.name} did not end within {limit:g} s", where="the hub") from None

    async def close(self) -> None:
        """Close its links."""
        for link in self._links:
            await link.close()


Fault = Callable[[Role], AbstractAsyncContextManager[None]]
"""What is wrong with a process while the block runs."""


@dataclass(frozen=True)
class Step:
    """What was done, and its figures: seconds, and calls that began in it."""

    what: str
    began: float
    ended: float
    takeover: float | None = None
    published: float | None = None


@dataclass
class Rig:
    """The hub and its callers. Made by :func:`open_rig`."""

    settings: Settings
    box: Box
    home: MemberWorld
    balancer: Balancer
    record: Journal | AuditLogs
    directory: Path
    say: Callable[[str], None] = lambda _: None
    """Is given a line for people after each step."""
    roles: dict[str, Role] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    agents: list[Agent] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    """When each agent's last call began that has ended."""

    # --- processes ---------------------------------------------------------------------------------------------------

    async def add(self, role: str) -> Role:
        """One more process, started and not yet ready."""
        number = len(self.names)
        name = f"{role}-{sum(known.startswith(role) for known in self.names.values())}"
        made = Role(role, name, self.directory, f"127.0.1.{number + 1}")
        self.names[made.source] = name
        await made.configure(self.box, self.home)
        await made.start(self.settings)
        self.roles[name] = made
        if role == "signer":
            await self.balancer.add(name, port=made.listen, probes=made.probes)
        return made

    async def ready(self, role: Role) -> None:
        """Wait until it is: for a signer, until the balancer knows."""
        if role.role == "signer":
            await self.balancer.wait_ready(role.name, limit=self.settings.limit)
            return
        await self.until(lambda: self._answers(role), f"{role.name} ready")

    async def _answers(self, role: Role) -> bool:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(f"http://{LOOPBACK}:{role.probes}/readyz") as answer,
        ):
            return answer.status == 200

    async def remove(self, role: Role, number: int) -> None:
        """End it by a signal."""
        await role.end(number, limit=self.settings.limit)
        await role.close()
        del self.roles[role.name]

    async def until(self, wanted: Callable[[], Awaitable[bool]], what: str) -> float:
        """Wait for a condition; the seconds that it took. Raises NotReady."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.limit):
                while True:
                    with contextlib.suppress(aiohttp.ClientError, KeyError, TypeError, TimeoutError):
                        if await wanted():
                            return time.monotonic() - began
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise NotReady(
                f"did not come within {self.settings.limit:g} s: {what}", where="the hub"
            ) from None

    async def leader(self, *, but: str = "") -> Role:
        """The controller that holds the Lease; another one than ``but``."""
        found: list[Role] = []

        async def leads() -> bool:
            holder = await self._holder()
            if holder != but and holder in self.roles:
                found.append(self.roles[holder])
            return bool(found)

        await self.until(leads, f"a leader that is not {but}" if but else "a leader")
        self.box.status_port = found[0].status
        return found[0]

    async def _holder(self) -> str:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{STATE}/leases/{LEASE}"
        try:
            lease = msgspec.json.decode(await self.home.session.get(path))
        except ClusterNotFound:
            return ""
        return str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]

    async def follows(self, role: Role) -> None:
        """Wait until a controller that was away says that it is back and does not lead."""
        since = time.time()

        async def seen() -> bool:
            url = f"http://{LOOPBACK}:{role.status}/api/v1/status"
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(url) as answer,
            ):
                found = {each["replica"]: each for each in (await answer.json())["controllers"]}[role.name]
            return not found["leader"] and datetime.fromisoformat(found["updated"]).timestamp() > since

        await self.until(seen, f"{role.name} as a follower")

    # --- callers -----------------------------------------------------------------------------------------------------

    async def add_callers(self) -> None:
        """As many as are set, in all members."""
        namespace = f"failover-{uuid.uuid4().hex[:6]}"
        names = [(MEMBERS[i % len(MEMBERS)], f"caller-{i}") for i in range(self.settings.callers)]
        workloads = await asyncio.gather(*(self.box.workload(m, namespace, name) for m, name in names))
        self.agents = [
            Agent(
                workload,
                listener=f"{LOOPBACK}:{self.balancer.port}",
                server_name=SERVER_NAME,
                keepalive=self.settings.keepalive,
            )
            for workload in workloads
        ]
        self.begun = [0.0] * len(self.agents)

    async def keep_calling(self, number: int) -> None:
        """One caller, for ever."""
        agent, pause = self.agents[number], self.settings.pause
        await asyncio.sleep(pause * number / len(self.agents))
        while True:
            called = await agent.call()
            self.calls.append(called)
            self.begun[number] = called.began
            await asyncio.sleep(pause)

    async def all_called(self, since: float) -> None:
        """Wait until every caller has had the answer to a call that began after that."""

        async def called() -> bool:
            return min(self.begun) > since

        await self.until(called, "an answer to each caller")

    # --- steps -------------------------------------------------------------------------------------------------------

    async def lose_leader(self, what: str, fault: Fault) -> None:
        """Take the leader away; another one takes over and publishes, and the first one comes back as a follower."""
        old = await self.leader()
        began = time.monotonic()
        async with fault(old):
            await self.leader(but=old.name)
            takeover = time.monotonic() - began
            namespace = f"made-{uuid.uuid4().hex[:8]}"
            for member in self.box.members.values():
                await member.world.add_namespace(namespace)
            for name in self.box.members:
                await self.box.wait_for_trust(name, namespace, limit=self.settings.limit)
            published = time.monotonic() - began
            await asyncio.sleep(self.settings.longer)
        if old.name in self.roles:
            await self.follows(old)
        else:
            await self.ready(await self.add("controller"))
        await self.all_called(began)
        self._done(Step(f"leader: {what}", began, time.monotonic(), takeover, published))

    async def lose_signer(self, what: str, fault: Fault, *, dwell: float) -> None:
        """Take a signer away for that many seconds."""
        old = next(role for role in self.roles.values() if role.role == "signer")
        began = time.monotonic()
        async with fault(old):
            await asyncio.sleep(dwell)
        if old.name in self.roles:
            await self.ready(old)
        else:
            self.balancer.backends[old.name].removed = True
            await self.ready(await self.add("signer"))
        await self.all_called(began)
        self._done(Step(f"signer: {what}", began, time.monotonic()))

    def _done(self, step: Step) -> None:
        self.steps.append(step)
        self.say(step.what)

    @contextlib.asynccontextmanager
    async def killed(self, role: Role) -> AsyncIterator[None]:
        """``kill -9``: it gives nothing up and says nothing."""
        await self.remove(role, signal.SIGKILL)
        yield

    @contextlib.asynccontextmanager
    async def stopped(self, role: Role) -> AsyncIterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        role.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            role.signal(signal.SIGCONT)

    def cut_callers(self, how: Cut) -> Fault:
        """A signer cannot be reached by callers, nor by the balancer's checks."""
        return lambda role: self.balancer.backends[role.name].way.cut(how)

    async def update_in_rotation(self) -> None:
        """Replace every process, one after the other, in the middle of a rotation, and see the rotation to its end."""
        began = time.monotonic()
        await self._start_rotation()
        await self.until(lambda: self._has_reached("PUBLISHING"), "a rotation")
        replaced = [*self.roles.values()]
        for old in replaced:
            new = await self.add(old.role)
            await self.ready(new)
            if old.role == "signer":
                self.balancer.backends[old.name].removed = True
            await asyncio.sleep(self.settings.pre_stop)
            await self.remove(old, signal.SIGTERM)
            if old.role == "controller":
                await self.leader()
        updated = time.monotonic()
        self._done(Step("rolling update, in a rotation", began, updated))
        last = self.settings.rotated
        await self.until(lambda: self._has_reached(last), f"a rotation in the state {last}")
        await self.all_called(updated)
        self._done(Step("the rest of the rotation", updated, time.monotonic()))

    async def _start_rotation(self) -> None:
        """Ask for it until there is one: no controller may lead for a moment, and one of that time may do it still."""

        async def started() -> bool:
            if await self._has_reached("STAGED"):
                return True
            await self.leader()
            try:
                await self.box.operate("start", reason="failover")
            except NotReady as error:
                if "No leader" not in error.what:
                    raise
                return False
            return True

        await self.until(started, "a rotation that is started")

    async def _has_reached(self, state: str) -> bool:
        rotation = await self.box.get("/api/v1/rotation")
        return rotation is not None and STATES.index(rotation["state"]) >= STATES.index(state)

    # --- results -----------------------------------------------------------------------------------------------------

    def broken(self) -> list[str]:
        """The promises that were broken; empty for none."""
        by_agent: dict[str, int] = {}
        for called in self.calls:
            if called.error and not called.roots_of_dial:
                by_agent[called.error] = by_agent.get(called.error, 0) + 1
        failed = [f"{count} calls failed after all attempts: {error}" for error, count in by_agent.items()]
        stalled = ("failed to connect", "temporarily unavailable")
        if all(any(each in error for each in stalled) for error in by_agent):
            few = self.settings.stalls * len(self.calls)
            failed = failed if sum(by_agent.values()) > few else []
        return failed + two_leaders(self.record.writes(), self.names)

    def table(self) -> str:
        """The figures of each step."""
        heads = (
            "step",
            "takes",
            "takeover",
            "published",
            "calls",
            "again",
            "failed",
            "p50",
            "p99",
            "longest",
        )
        rows = [heads]
        for step in self.steps:
            calls = [c for c in self.calls if step.began <= c.began < step.ended]
            took = sorted(c.seconds for c in calls) or [0.0]
            rows.append(
                (
                    step.what,
                    f"{step.ended - step.began:.1f} s",
                    f"{step.takeover:.1f} s" if step.takeover is not None else "",
                    f"{step.published:.1f} s" if step.published is not None else "",
                    str(len(calls)),
                    str(sum(c.attempts - 1 for c in calls)),
                    str(sum(bool(c.error) and not c.roots_of_dial for c in calls)),
                    f"{1000 * statistics.median(took):.0f} ms",
                    f"{1000 * took[min(len(took) - 1, int(0.99 * len(took)))]:.0f} ms",
                    f"{took[-1]:.2f} s",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        writes = self.record.writes()
        counted = sum(write.leaders for write in writes)
        late = sum(c.roots_of_dial for c in self.calls)
        return "\n".join(
            [
                *lines,
                f"{counted} writes of leaders, {len(writes) - counted} of any controller",
                f"{late} calls met the new root with the roots of their dial, and were made again",
            ]
        )


@contextlib.asynccontextmanager
async def open_clusters(
    directory: Path, kubeconfigs: Sequence[Path]
) -> AsyncIterator[tuple[dict[str, Member], MemberWorld, dict[str, SandboxCluster]]]:
    """Two members and the hub's own cluster: real ones, of which the first is the hub's, or three in a box."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        sandboxes: dict[str, SandboxCluster] = {}
        paths = dict(zip((*MEMBERS, "hub"), (*kubeconfigs, *kubeconfigs[:1]), strict=False))
        if not kubeconfigs:
            for name in (*MEMBERS, "hub"):
                sandboxes[name] = await stack.enter_async_context(SandboxCluster(name, clock=clock))
                paths[name] = sandboxes[name].write_kubeconfig(directory / f"{name}-administrator.kubeconfig")
        home = await MemberWorld.open(ClusterName("hub"), paths.pop("hub"), clock=clock)
        stack.push_async_callback(home.close)
        members = await stack.enter_async_context(open_members(paths, clock=clock, sandboxes=sandboxes))
        yield members, home, sandboxes


@contextlib.asynccontextmanager
async def open_rig(
    directory: Path,
    settings: Settings,
    *,
    kubeconfigs: Sequence[Path] = (),
    audit_logs: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Rig]:
    """The hub with two controllers and two signers, all proved, and its callers at work."""
    clock, unique = SystemClock(), uuid.uuid4().hex[:6]
    async with AsyncExitStack() as stack:
        members, home, sandboxes = await stack.enter_async_context(open_clusters(directory, kubeconfigs))
        record = AuditLogs(audit_logs) if kubeconfigs else Journal(sandboxes)
        ca = DevelopmentCa.create(directory / "first-ca", name=f"first {unique}", clock=clock)
        balancer = Balancer(settings.checks)
        box = Box(directory=directory, members=members, ca=ca, clock=clock, proof_interval=1.0)
        box.successor = DevelopmentCa.create(directory / "second-ca", name=f"second {unique}", clock=clock)
        box.listener_port = balancer.port
        box.listener_lines = (
            f'min_keepalive_interval = "{min(10.0, settings.keepalive.interval):g}s"\n{settings.listener}'
        )
        # Shared by both controllers: what one of them has received, the other one decides where the leader changes.
        box.operate_token_file = directory / "operate-token"
        box.operate_token_file.touch(mode=0o600)
        box.operate_token_file.write_text(secrets.token_urlsafe(32))
        demo.prepare(box, life=timedelta(seconds=settings.leaf))
        box.timeout_lines, box.rotation_lines = "", 'soak = "3s"\nskew = "2s"\nwaves = 2'
        box.state_lines = f'kind = "kubernetes"\nnamespace = "{STATE}"\nkubeconfig = "state.kubeconfig"'
        await box.register()
        await home.add_namespace("federation-system")
        for name in ("accounts.yaml", "state.yaml"):
            await home.apply(
                item for item in yaml.safe_load_all((MANIFESTS / name).read_text("utf-8")) if item
            )
        if kubeconfigs:  # what an earlier run has left there is another hub's
            for namespace in (STATE, f"{STATE}-signers"):
                await home.delete(f"/api/v1/namespaces/{namespace}/configmaps")
        rig = Rig(settings, box, home, balancer, record, directory, say)
        await stack.enter_async_context(balancer.running())
        try:
            for role in ("controller", "signer", "controller", "signer"):
                await rig.add(role)
            say("processes started")
            await rig.leader()
            say("there is a leader")
            for started in [*rig.roles.values()]:
                await rig.ready(started)
            say("ready")
            await box.wait_proved(limit=settings.limit)
            say("proved")
            await rig.add_callers()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(rig.keep_calling(i)) for i in range(len(rig.agents))]
                try:
                    began = time.monotonic()
                    await rig.all_called(began)
                    yield rig
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            for agent in rig.agents:
                await agent.close()
            for running in [*rig.roles.values()]:
                with contextlib.suppress(ProcessLookupError):
                    running.signal(signal.SIGCONT)
                with contextlib.suppress(NotReady):
                    await running.end(signal.SIGTERM, limit=60)
                await running.close()


def cut_home(how: Cut) -> Fault:
    """A process cannot reach the hub's API server."""
    return lambda role: role.home.cut(how)


def cut_member(how: Cut) -> Fault:
    """A process cannot reach the API server of one member."""
    return lambda role: role.members[MEMBERS[0]].cut(how)


async def lose_leaders(rig: Rig) -> None:
    """Every way to lose a leader."""
    await rig.lose_leader("kill -9", rig.killed)
    await rig.lose_leader("SIGSTOP, SIGCONT", rig.stopped)
    for how in Cut:
        await rig.lose_leader(f"cut off from the hub's API server, {how.value}", cut_home(how))


async def lose_signers(rig: Rig) -> None:
    """Every way to lose a signer."""
    dwell, silence = rig.settings.dwell, rig.settings.silence
    await rig.lose_signer("kill -9", rig.killed, dwell=dwell)
    await rig.lose_signer("SIGSTOP, SIGCONT", rig.stopped, dwell=silence)
    for how in Cut:
        what = f"cut off from a member's API server, {how.value}"
        await rig.lose_signer(what, cut_member(how), dwell=dwell)
    what = "cut off from callers"
    await rig.lose_signer(f"{what}, reset", rig.cut_callers(Cut.RESET), dwell=dwell)
    await rig.lose_signer(f"{what}, black hole", rig.cut_callers(Cut.BLACK_HOLE), dwell=silence)


async def lose_both(rig: Rig) -> None:
    """All of that, leaders and signers at the same time."""
    async with asyncio.TaskGroup() as group:
        group.create_task(lose_leaders(rig))
        group.create_task(lose_signers(rig))


async def run(args: argparse.Namespace, directory: Path) -> int:
    """The whole of it, with the timings of the product; the exit code."""
    settings = Settings(callers=args.callers)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    print(f"load at the start: {os.getloadavg()}", flush=True)
    async with open_rig(
        directory, settings, kubeconfigs=args.kubeconfigs, audit_logs=args.audit_logs, say=say
    ) as rig:
        print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
        try:
            await lose_both(rig)
            await rig.update_in_rotation()
        finally:
            print(rig.table(), flush=True)
        broken = rig.broken()
    print(f"load at the end: {os.getloadavg()}; {time.monotonic() - began:.0f} s")
    print("\n".join(broken) or "no promise was broken")
    return 1 if broken else 0


def paths(text: str) -> list[Path]:
    """Paths separated as in PATH."""
    return [Path(part) for part in text.split(os.pathsep) if part]


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kubeconfigs", type=paths, default=[], help="two real API servers (default: in a box)"
    )
    parser.add_argument("--audit-logs", type=paths, default=[], help="their audit logs, in the same order")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--directory", type=Path, help="where logs stay (default: nowhere)")
    args = parser.parse_args()
    if args.kubeconfigs and not len(args.kubeconfigs) == len(args.audit_logs) == len(MEMBERS):
        parser.error(f"--kubeconfigs and --audit-logs have to name {len(MEMBERS)} files each")
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run(args, directory))


if __name__ == "__main__":
    raise SystemExit(main())
