"""How the hub's cost grows with clusters, namespaces and pods: one controller and one signer against a stand-in.

`python -m tests.bench.scale --clusters 50 --namespaces 100 --pods 500` (`make bench-scale ARGS=...`) measures all of
it, with `--rotation` one whole rotation instead, and `make bench` the start and what the roles cost at rest. Both roles
are real processes with a configuration as an operator would write it, and state in files. CPU, memory and descriptors
of each process are Linux's own figures in `/proc`; what was written and when is what the stand-in has seen. Its own CPU
is printed beside the hub's, since it shares the cores: where it came near the hub's, the hub's times would be its own.

Targets are those for 200 clusters with 1,000 namespaces and 5,000 pods each. At smaller sizes that they are met says
little.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from federation.core.config.hub import PublicationConfig
from federation.core.documents.keys import CONTROLLERS
from federation.core.identity import ServiceAccountRef
from federation.state.files import FileStore
from federation_sandbox.ports import free_port
from tests.bench.callers import Load, cycle
from tests.bench.processes import Others, cpu_seconds, descriptors, memory_bytes
from tests.bench.report import Line, Report, Target, at_most, facts, number
from tests.bench.rig import Child, Rig, stand_in_rig, wait_ready
from tests.bench.signing import calls_of
from tests.bench.stand_in import SYSTEM, namespace_name, pod_name

LIMIT = 600.0
"""Seconds for whatever has to come; it costs time only where something never does."""

NOT_ALL = "what was not measured:"
SAID_EVERY = 15.0
"""Seconds between two lines that say how far a wait has come."""

STALLED = 120.0
PROOF_INTERVAL = 30.0  # the hub's default
CONTROLLER = "controller-0"
LAG_EVERY = 0.05
CALLS_PER_SECOND = 20.0
ROTATION_LEAF = 60  # seconds; most of a rotation is waiting until leaves of the former root have ended
ROTATION_LIMIT = 1800.0
ROLES = 2
MOST_CALLING = 50
"""Clusters whose pods ask for certificates while the bundle changes."""


@dataclass(frozen=True)
class Sizes:
    """How many clusters, and how many namespaces and pods each has beside those of the system."""

    clusters: int
    namespaces: int
    pods: int

    def __str__(self) -> str:
        return f"{self.clusters} x {self.namespaces:,} x {self.pods:,}"

    @property
    def names(self) -> list[str]:
        return [f"c{number:03}" for number in range(self.clusters)]


class Lag(threading.Thread):
    """How late the controller answers ``/healthz``, which takes no more than its loop's turn.

    Asked on one connection every :data:`LAG_EVERY` seconds, and an answer that is late delays no question: those that
    could not be sent meanwhile count from when they were due. So a stall of a second is twenty late answers, not one.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = int(port)  # the socket module takes no subclass
        self._ended = threading.Event()
        self.seconds: list[float] = []
        self.problem = ""

    def run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 10) as connection:
                connection.settimeout(60)
                self._ask_on(connection)
        except OSError as error:
            self.problem = str(error) or type(error).__name__

    def _ask_on(self, connection: socket.socket) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            exchange(connection, "/healthz")
            now = time.monotonic()
            while due <= now:
                self.seconds.append(now - due)
                due += LAG_EVERY

    async def end(self) -> None:
        self._ended.set()
        await asyncio.to_thread(self.join)
        if self.problem or not self.seconds:
            raise RuntimeError(f"the controller's lag was not measured: {self.problem or 'no answer'}")

    def quantile(self, q: float) -> float:
        return Load(0.0, self.seconds).quantile(q)


def exchange(connection: socket.socket, path: str, headers: str = "") -> tuple[bytes, bytes]:
    """Head and body of a GET on a connection that stays open. Raises ConnectionError for an answer that is an error."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _more(connection)
    head, body = received[: end + 4], received[end + 4 :]
    if head.split(b" ", 2)[1] not in {b"200", b"304"}:
        raise ConnectionError(f"{path}: {head.decode('latin-1').splitlines()[0]}")
    found = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    length = int(found[1]) if found is not None else 0
    if b"transfer-encoding: chunked" in head.lower():
        while not body.endswith(b"0\r\n\r\n"):
            body += _more(connection)
    while len(body) < length:
        body += _more(connection)
    return head, body


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 20)
    if not received:
        raise ConnectionError("the connection was closed")
    return received


class Page:
    """The status page as a browser keeps it open: what it polls, with what a browser would send."""

    PATHS = ("/api/v1/status", "/api/v1/operations")

    def __init__(self, port: int) -> None:
        self._port = int(port)  # the socket module takes no subclass
        self._tags: dict[str, str] = {}

    async def poll(self) -> int:
        """Poll once; the bytes that came, heads included."""
        return await asyncio.to_thread(self._poll)

    def _poll(self) -> int:
        total = 0
        with socket.create_connection(("127.0.0.1", self._port), 60) as connection:
            for path in self.PATHS:
                known = self._tags.get(path)
                headers = "Accept-Encoding: gzip, deflate\r\n" + (
                    f"If-None-Match: {known}\r\n" if known else ""
                )
                head, body = exchange(connection, path, headers)
                total += len(head) + len(body)
                for line in head.decode("latin-1").split("\r\n"):
                    name, _, value = line.partition(":")
                    if name.lower() == "etag":
                        self._tags[path] = value.strip()
        return total


@dataclass
class Usage:
    """CPU of the three processes over some time."""

    seconds: float
    controller: float
    signer: float
    stand_in: float

    def per_minute(self, cpu: float) -> float:
        return cpu / self.seconds * 60


class Progress:
    """Says on standard error what is done now, and since when the run began: one of 200 clusters takes half an hour."""

    def __init__(
        self, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
    ) -> None:
        self._say = say
        self._began = time.monotonic()
        self._said = float("-inf")

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        self._say(f"[{self._said - self._began:6.0f} s] {text}")

    def now_and_then(self, text: str, put: Callable[[Any], object], value: object) -> None:
        """Say it with ``put(value)`` in its place, where nothing was said for a while."""
        if time.monotonic() - self._said >= SAID_EVERY:
            self.say(text.format(put(value)))


class Hub:
    """One controller and one signer on a rig."""

    def __init__(self, rig: Rig, progress: Progress) -> None:
        self.rig = rig
        self.progress = progress
        self._stacks: dict[str, AsyncExitStack] = {}
        self._roles: dict[str, Child] = {}
        self._health = free_port()

    @property
    def controller(self) -> int:
        return self._roles["controller"].pid

    @property
    def signer(self) -> int:
        return self._roles["signer"].pid

    @property
    def runs(self) -> bool:
        """Whether both roles were started and have not ended."""
        return len(self._stacks) == ROLES and all(
            role.process.poll() is None for role in self._roles.values()
        )

    @property
    def stand_in(self) -> int:
        assert self.rig.boxes is not None
        return self.rig.boxes.pid

    async def start(self, role: str) -> None:
        """Start a role; it is there once its port is."""
        stack = self._stacks[role] = AsyncExitStack()
        replica = CONTROLLER if role == "controller" else "signer-0"
        options = ("--health", f"127.0.0.1:{self._health}") if role == "signer" else ()
        self._roles[role] = await stack.enter_async_context(self.rig.role(role, replica, *options))

    async def stop(self, role: str) -> None:
        stack = self._stacks.pop(role, None)
        if stack is not None:
            await stack.aclose()

    async def end(self, role: str) -> None:
        """Stop a role without stopping this process meanwhile, in which callers may be."""
        process = self._roles[role].process
        process.terminate()
        async with asyncio.timeout(LIMIT):
            while process.poll() is None:
                await asyncio.sleep(0.05)
        await self.stop(role)

    async def signer_ready(self) -> None:
        await wait_ready(f"http://127.0.0.1:{self._health}/readyz", self._roles["signer"])

    async def green(self) -> Any:
        """Wait until the status says that all is well with every cluster and every pair; that status.

        A status of many clusters costs the controller something: it is asked for a fifth of the time at most.
        """
        count = len(self.rig.members)
        seen: Any = None
        try:
            async with asyncio.timeout(LIMIT):
                while True:
                    began = time.monotonic()
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                        seen = await self.rig.get("/api/v1/status")
                        if (
                            seen["verdict"] == "healthy"
                            and len(seen["clusters"]) == count
                            and seen["matrix"]["valid"] == count * (count - 1)
                        ):
                            return seen
                    self.progress.now_and_then("not green yet: {}", _why, seen)
                    await asyncio.sleep(max(0.1, 4 * (time.monotonic() - began)))
        except TimeoutError:
            raise RuntimeError(f"not green in {LIMIT:g} s: {_why(seen)}") from None

    async def written(self, count: int) -> float:
        """Wait until so many namespaces were written; when the last one was, by the monotonic clock.

        Raises RuntimeError where none was for :data:`STALLED` seconds.
        """
        known, since = -1, time.monotonic()
        while (seen := await self.rig.order(do="written"))["count"] < count:
            now = time.monotonic()
            if seen["count"] > known:
                known, since = seen["count"], now
            elif now - since > STALLED:
                raise RuntimeError(
                    f"{known:,} of {count:,} namespaces are written, and no more in {STALLED:g} s"
                )
            self.progress.now_and_then(f"{{:,}} of {count:,} namespaces are written", int, known)
            await asyncio.sleep(0.05)
        return float(seen["last"])

    def cpu(self) -> tuple[float, float, float]:
        return cpu_seconds([self.controller]), cpu_seconds([self.signer]), cpu_seconds([self.stand_in])

    async def usage(self, seconds: float) -> Usage:
        """What the processes take in that time, in which nothing else is done."""
        before, began = self.cpu(), time.monotonic()
        await asyncio.sleep(seconds)
        return self.used(before, began)

    def used(self, before: tuple[float, float, float], began: float) -> Usage:
        took = time.monotonic() - began
        return Usage(took, *(now - then for now, then in zip(self.cpu(), before, strict=True)))


def _why(seen: Any) -> str:
    if not isinstance(seen, dict):
        return "no status"
    causes = [f"{each['code']}: {each['detail']}" for each in seen.get("attention", [])[:5]]
    return f"{seen.get('verdict')}, {seen.get('summary')}; {causes}"


@contextlib.asynccontextmanager
async def running_hub(rig: Rig, progress: Progress | None = None) -> AsyncIterator[Hub]:
    """A hub whose roles end with the context."""
    hub = Hub(rig, progress or Progress())
    try:
        yield hub
    finally:
        for role in ("signer", "controller"):
            await hub.stop(role)


@dataclass
class Bench:
    """The steps, in order. Each waits until the hub is green again."""

    report: Report
    hub: Hub
    sizes: Sizes
    rest: float
    rows: list[tuple[str, str]] = field(default_factory=list)
    poll_every: float = 2.0
    """Seconds between two polls of the page: as its script has it."""

    @property
    def namespaces(self) -> int:
        """How many the hub publishes to, in all clusters."""
        system = set(SYSTEM) - set(PublicationConfig().excluded_namespaces)
        return self.sizes.clusters * (self.sizes.namespaces + len(system))

    @property
    def group(self) -> str:
        return f"Many clusters: {self.sizes} (clusters x namespaces x pods of each)"

    def add(
        self, name: str, value: float, unit: str = "", target: Target | None = None, note: str = ""
    ) -> None:
        self.report.add(Line(self.group, name, value, unit, target, note))

    def row(self, name: str, *values: float) -> None:
        """One row of the table at the end."""
        self.rows.append((name, " / ".join(number(value) for value in values)))

    async def start(self) -> None:
        began = time.monotonic()
        await asyncio.gather(self.hub.start("controller"), self.hub.start("signer"))
        first = await self.hub.written(self.namespaces) - began
        note = f"{self.namespaces:,} namespaces; the start of both roles included"
        self.add("first publication", first, "s", note=note)
        await self.hub.green()
        green = time.monotonic() - began
        self.add("green: everything published and every pair proved", green, "s")
        self.row("first publication / green, s", first, green)

    async def at_rest(self) -> None:
        await asyncio.sleep(5.0)
        hub = self.hub
        rewrites = asyncio.create_task(self._report_rewrites(self.rest))
        used = await hub.usage(self.rest)
        note = f"over {used.seconds:.0f} s; the stand-in {used.per_minute(used.stand_in):.1f}"
        controller, signer = used.per_minute(used.controller), used.per_minute(used.signer)
        self.add("CPU of the controller at rest", controller, "s/min", at_most(3.0), note)
        self.add("CPU of the signer at rest", signer, "s/min")
        self.add("rewrites of the controller's report at rest", (await rewrites) / used.seconds * 60, "/min")
        memory = [memory_bytes(pid, "VmRSS") / 2**20 for pid in (hub.controller, hub.signer)]
        peak = [memory_bytes(pid, "VmHWM") / 2**20 for pid in (hub.controller, hub.signer)]
        self.add(
            "memory of the controller", memory[0], "MiB", at_most(500), f"RSS; {peak[0]:.0f} at most so far"
        )
        self.add("memory of the signer", memory[1], "MiB", at_most(450), f"RSS; {peak[1]:.0f} at most so far")
        open_files = descriptors(hub.controller), descriptors(hub.signer)
        note = f"{open_files[0] / self.sizes.clusters:.1f} for each cluster; the signer {open_files[1]}"
        self.add("descriptors of the controller at rest", open_files[0], "", at_most(1000), note)
        self.row("descriptors at rest, controller / signer", *open_files)
        self.row("RSS controller / signer, MiB", *memory)
        self.row("controller CPU at rest, s per minute", controller)
        self.row("signer CPU at rest, s per minute", signer)

    async def _report_rewrites(self, seconds: float) -> int:
        """How often the controller's report is replaced in that time."""
        file = self.hub.rig.directory / "state" / "documents" / f"{CONTROLLERS}{CONTROLLER}".replace("/", "@")
        seen, count, end = file.stat().st_ino, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(0.1)
            now = file.stat().st_ino
            count, seen = count + (now != seen), now
        return count

    async def report_size(self) -> None:
        store = FileStore(self.hub.rig.directory / "state", self.hub.rig.clock)
        found = await store.read(f"{CONTROLLERS}{CONTROLLER}")
        assert found is not None, "the controller reports"
        raw, compressed = len(found.data) / 1000, len(zlib.compress(found.data, 1)) / 1000
        self.add("the controller's report", raw, "KB", note=f"compressed {compressed:.1f} KB")
        self.row("controller's report, KB / compressed", raw, compressed)

    async def change(self, root: str) -> None:
        """A changed bundle, everywhere; what the page is sent before and after it."""
        hub, page = self.hub, Page(self.hub.rig.status_port)
        opened = await page.poll()
        quiet = []
        for _ in range(3):
            await asyncio.sleep(self.poll_every)
            quiet.append(await page.poll())
        lag = Lag(hub.rig.status_port)
        lag.start()
        await hub.rig.order(do="reset")
        before, began = hub.cpu(), time.monotonic()
        hub.rig.add_root(root)
        took = await hub.written(self.namespaces) - began
        used = hub.used(before, began)
        await lag.end()
        open_files = descriptors(hub.controller), descriptors(hub.signer)
        each = used.controller / self.namespaces * 1e6
        note = f"{self.namespaces / took:,.0f} namespaces/s"
        self.add("a changed bundle is everywhere after", took, "s", at_most(30), note)
        own = used.stand_in / self.namespaces * 1e6
        note = f"{each:.0f} us for each namespace, of the stand-in {own:.0f}"
        self.add("CPU of the controller for that", used.controller, "s", note=note)
        p50, p99, most = (lag.quantile(q) * 1e3 for q in (0.5, 0.99, 1.0))
        note = f"p50 {p50:.1f} ms, at most {most:.0f} ms, {len(lag.seconds)} questions"
        self.add("lag of the controller meanwhile, p99", p99, "ms", at_most(100), note)
        note = f"right after; the signer {open_files[1]}"
        self.add("descriptors of the controller", open_files[0], "", at_most(1000), note)
        self.row("changed bundle everywhere, s / controller CPU, s", took, used.controller)
        self.row("controller's lag meanwhile, p50 / p99 / max, ms", p50, p99, most)
        self.row("descriptors after a fan-out, controller / signer", *open_files)
        await self.hub.green()
        changed = await page.poll()
        note = f"the first one {opened / 1000:.1f} KB"
        self.add("bytes of a poll where nothing changed", sorted(quiet)[1] / 1000, "KB", at_most(1), note)
        self.add("bytes of a poll where something did", changed / 1000, "KB", at_most(20))
        self.row(
            "poll of the page, KB: nothing changed / something did", sorted(quiet)[1] / 1000, changed / 1000
        )

    @contextlib.asynccontextmanager
    async def callers(self) -> AsyncIterator[Load]:
        """Pods of many clusters that ask for certificates at a fixed rate while the context is entered."""
        rig = self.hub.rig
        account = ServiceAccountRef(namespace_name(len(SYSTEM)), "default")
        names = self.sizes.names[:MOST_CALLING]
        calls = [await calls_of(rig, name, account, pod_name(0), 1) for name in names]
        total = Load(0.0)
        async with rig.crowd(cycle(list(itertools.chain(*calls)))) as crowd:
            await crowd.grow(16)
            await crowd.steady(CALLS_PER_SECOND, 1.0)
            done = asyncio.Event()
            loading = asyncio.create_task(crowd.steady(CALLS_PER_SECOND, ROTATION_LIMIT, until=done))
            try:
                yield total
            finally:
                done.set()
                load = await loading
                total.seconds, total.latencies, total.failed = load.seconds, load.latencies, load.failed

    async def change_under_load(self, root: str) -> None:
        """Another change, while pods ask for certificates, and each cluster refuses it in one namespace.

        As where a member has taken a right back. What that costs at rest is measured while no pod asks any more.
        """
        hub = self.hub
        await hub.rig.order(do="reset")
        await hub.rig.order(do="refuse", namespaces=[namespace_name(len(SYSTEM))])
        try:
            async with self.callers() as load:
                await asyncio.sleep(1.0)
                began = time.monotonic()
                hub.rig.add_root(root)
                took = await hub.written(self.namespaces - self.sizes.clusters) - began
                await asyncio.sleep(2.0)
            self._refused_calls(
                "calls refused at a change of the bundle", load, f"everywhere after {took:.1f} s"
            )
            await asyncio.sleep(5.0)
            used = await hub.usage(self.rest)
        finally:
            await hub.rig.order(do="refuse", namespaces=[])
        cpu, refused = used.per_minute(used.controller), self.sizes.clusters
        note = f"{refused} namespaces answer 403; the stand-in {used.per_minute(used.stand_in):.1f}"
        self.add("CPU of the controller at rest, one namespace refused", cpu, "s/min", at_most(3.6), note)
        self.row("controller CPU at rest with one refused namespace per cluster, s per minute", cpu)
        await hub.green()

    def _refused_calls(self, name: str, load: Load, note: str) -> None:
        made = len(load.latencies) + load.failed
        p50, p99 = (load.quantile(q) * 1e3 for q in (0.5, 0.99))
        rate = f"of {made} at {CALLS_PER_SECOND:.0f}/s from {min(MOST_CALLING, self.sizes.clusters)} clusters"
        self.add(name, load.failed, "", at_most(0), f"{rate}, p50 {p50:.1f} ms, p99 {p99:.0f} ms; {note}")
        self.row(f"{name} / calls", load.failed, made)

    async def rotation(self) -> None:
        """A whole rotation to another root, while pods ask for certificates."""
        hub = self.hub
        lag = Lag(hub.rig.status_port)
        states: list[str] = []
        async with self.callers() as load:
            lag.start()
            before, began = hub.cpu(), time.monotonic()
            await hub.rig.operate("start")
            async with asyncio.timeout(ROTATION_LIMIT):
                while not states or not states[-1].startswith("RETIRED"):
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                        state = (await hub.rig.get("/api/v1/rotation"))["state"]
                        if not states or not states[-1].startswith(state):
                            states.append(f"{state} {time.monotonic() - began:.0f}")
                            hub.progress.say(state)
                    await asyncio.sleep(1.0)
            took = time.monotonic() - began
            used = hub.used(before, began)
        await lag.end()
        self.add("a whole rotation, until RETIRED", took, "s", note=", ".join(states) + " s")
        note = f"the signer {used.per_minute(used.signer):.1f}, the stand-in {used.per_minute(used.stand_in):.1f}"
        self.add("CPU of the controller during it", used.per_minute(used.controller), "s/min", note=note)
        p50, p99, most = (lag.quantile(q) * 1e3 for q in (0.5, 0.99, 1.0))
        note = f"p50 {p50:.1f} ms, at most {most:.0f} ms"
        self.add("lag of the controller during it, p99", p99, "ms", at_most(250), note)
        self.row("a whole rotation, s", took)
        self.row("controller's lag meanwhile, p50 / p99 / max, ms", p50, p99, most)
        self._refused_calls("calls refused during a rotation", load, f"leaves of {hub.rig.leaf} s")

    async def restarts(self) -> None:
        hub = self.hub
        await hub.stop("controller")
        began = time.monotonic()
        await hub.start("controller")
        await hub.green()
        took = time.monotonic() - began
        self.add("restart of the controller until green", took, "s")
        self.row("controller restart to green, s", took)
        await hub.stop("signer")
        began = time.monotonic()
        await hub.start("signer")
        await hub.signer_ready()
        ready = time.monotonic() - began
        async with asyncio.timeout(LIMIT):
            while True:
                watched = await hub.rig.order(do="watched")
                if watched["pods"] == watched["serviceaccounts"] == self.sizes.clusters:
                    break
                await asyncio.sleep(0.05)
        caches = time.monotonic() - began
        self.add("restart of the signer until ready", ready, "s")
        self.add("restart of the signer until it watches every cluster", caches, "s")
        self.row("signer restart: ready / all caches, s", ready, caches)

    async def unanswered(self) -> None:
        missing = await self.hub.rig.order(do="unanswered")
        note = ", ".join(missing) or "the stand-in has what the hub asks for"
        self.add("requests that the stand-in has no answer for", sum(missing.values()), "", at_most(0), note)

    async def go_through(self, steps: Iterable[Callable[[], Awaitable[None]]]) -> list[str]:
        """Take each step; the table. What one of them could not measure is said, and keeps no other from it.

        Nothing is left to measure where a role could not be started.
        """
        for step in steps:
            name = getattr(step.func if isinstance(step, partial) else step, "__name__", "a step")
            name = name.replace("_", " ")
            self.hub.progress.say(name)
            try:
                await step()
            except (RuntimeError, TimeoutError, OSError, aiohttp.ClientError) as error:
                why = str(error) or f"what had to come did not in {LIMIT:g} s"
                self.report.add(Line(self.group, f"{NOT_ALL} {name}", None, "", at_most(0), why))
                if not self.hub.runs:
                    break
        return list(self.table())

    def table(self) -> Iterator[str]:
        """What was measured as a table in Markdown."""
        yield f"| clusters x namespaces x pods per cluster | {self.sizes} |"
        yield "|---|---|"
        yield from (f"| {name} | {value} |" for name, value in self.rows)


@contextlib.asynccontextmanager
async def bench(
    report: Report, directory: Path, sizes: Sizes, *, rest: float, leaf: int = 0
) -> AsyncIterator[Bench]:
    """A stand-in of those sizes and a hub that is not started yet; with ``leaf`` one that can rotate."""
    async with (
        stand_in_rig(
            directory / "scale",
            sizes.names,
            namespaces=sizes.namespaces,
            pods=sizes.pods,
            proof_interval=PROOF_INTERVAL,
            leaf=leaf,
        ) as rig,
        running_hub(rig) as hub,
    ):
        yield Bench(report, hub, sizes, rest)


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    """As much as `make bench` has of it."""
    sizes = Sizes(20 if quick else 100, 5, 25)
    async with bench(report, directory, sizes, rest=10.0) as measured:
        await measured.start()
        await measured.at_rest()


async def run_all(report: Report, directory: Path, sizes: Sizes, *, rest: float) -> list[str]:
    """Everything; the table."""
    async with bench(report, directory, sizes, rest=rest) as measured:
        steps = (
            measured.start,
            measured.at_rest,
            measured.report_size,
            partial(measured.change, "root-one"),
            partial(measured.change_under_load, "root-two"),
            measured.restarts,
            measured.unanswered,
        )
        return await measured.go_through(steps)


async def run_rotation(report: Report, directory: Path, sizes: Sizes) -> list[str]:
    """One rotation; the table."""
    async with bench(report, directory, sizes, rest=0.0, leaf=ROTATION_LEAF) as measured:
        return await measured.go_through((measured.start, measured.rotation, measured.unanswered))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--namespaces", type=int, default=20, help="of each cluster, beside the system's six")
    parser.add_argument("--pods", type=int, default=50, help="of each cluster")
    parser.add_argument(
        "--rest", type=float, default=10.0, metavar="SECONDS", help="how long CPU at rest is counted"
    )
    parser.add_argument(
        "--rotation", action="store_true", help="measure one whole rotation instead, with leaves of a minute"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every line there as well, as it comes"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="keep configuration, state and logs there"
    )
    options = parser.parse_args()
    sizes = Sizes(options.clusters, options.namespaces, options.pods)
    report = Report(lambda text: print(text, flush=True), facts(), options.json)
    print("  ".join(f"{name} {value}" for name, value in report.facts.items()))
    began, others = time.monotonic(), Others()
    with tempfile.TemporaryDirectory(prefix="federation-bench-") as directory:
        try:
            table = uvloop.run(
                run_rotation(report, Path(directory), sizes)
                if options.rotation
                else run_all(report, Path(directory), sizes, rest=options.rest)
            )
        finally:
            if options.keep is not None:
                shutil.copytree(directory, options.keep, dirs_exist_ok=True)
    report.facts["other processes"] = f"{others.share():.0%} of the cores"
    print("\n".join(["", *table, *report.summary()]))
    print(f"other processes took {report.facts['other processes']} meanwhile")
    print(f"took {time.monotonic() - began:.0f} s")
    report.write()
    return 1 if any(line.name.startswith(NOT_ALL) for line in report.lines) else 0


if __name__ == "__main__":
    sys.exit(main())
