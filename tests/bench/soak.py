"""An hour under load: does the hub stay as it is, and is any call refused, at a fixed rate of certificates?

`python -m tests.bench.soak --minutes 60 --rate 300` (`make bench-soak ARGS=...`) starts a signer and a controller
beside the stand-in for a few clusters. Their pods renew certificates at that rate, each by a caller that keeps its
connection for a while and tries again as Istio's agents do; a call is due at its time whether or not those before it
were answered. At a quarter of the time the controller is restarted, at half of it a whole rotation begins, at three
quarters, or once the rotation has ended, the bundle changes. The restart comes first, so that it is one controller
whose quarters are compared.

Memory, descriptors and threads of each process are looked at all the time. A process is flat if the median of its last
quarter is above that of its second quarter by no more than :data:`ALLOWED` says; the first quarter, in which caches
fill, does not count, and nothing is judged where a step took longer than its quarter. The callers are in this process:
where their CPU comes near a core, they are what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop

from federation.core.identity import ServiceAccountRef
from federation.core.istio.ca_protocol import decode_response
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.path_rules import Purpose
from federation.core.pki.pem import parse_certificates
from federation_sandbox.box import SERVER_NAME
from tests.bench.agents import Agent, Endpoint, Renewal
from tests.bench.callers import Call, Load, cycle
from tests.bench.processes import (
    Others,
    allow_many_files,
    cpu_seconds,
    descriptors,
    memory_bytes,
    threads,
)
from tests.bench.report import Line, Report, Target, at_most, facts, number
from tests.bench.rig import Rig, stand_in_rig
from tests.bench.scale import PROOF_INTERVAL, ROTATION_LIMIT, Hub, running_hub
from tests.bench.signing import calls_of
from tests.bench.stand_in import SYSTEM, namespace_name, pod_name

GROUP: Final = "Under load for a long time"
QUARTERS: Final = 4
CALLS_PER_CONNECTION: Final = 100
"""Then a caller opens another one, as a new pod would: what a connection leaves behind would add up."""

LOG_LIMIT: Final = 64 * 2**20
"""Bytes after which a role's log is emptied. A million certificates leave more than half a gigabyte of audit lines."""

SIGNER, CONTROLLER, STAND_IN, CALLERS = "signer", "controller", "stand-in", "callers"
JUDGED: Final = (SIGNER, CONTROLLER)


@dataclass(frozen=True)
class Allowance:
    """How far the last quarter's median may be above the second's: both hold."""

    share: float
    more: float

    def bound(self, second: float) -> float:
        return second + min(self.share * second, self.more)


ALLOWED: Final[Mapping[str, Allowance]] = {
    "own memory, MiB": Allowance(0.05, 5.0),
    "descriptors": Allowance(1.0, 5.0),
    "threads": Allowance(1.0, 2.0),
}
"""Memory: 5 % and 5 MiB. Descriptors and threads come and go with requests under way: as many as a few of them take."""


@dataclass(frozen=True)
class Plan:
    """How long, how much, and for how many."""

    seconds: float
    rate: float
    clusters: int = 3
    namespaces: int = 20
    pods: int = 200
    callers: int = 32

    @property
    def names(self) -> list[str]:
        return [f"c{number:03}" for number in range(self.clusters)]

    @property
    def warm_up(self) -> float:
        """Seconds of load before the first quarter begins."""
        return min(60.0, self.seconds / 10)

    @property
    def leaf(self) -> int:
        """Seconds that certificates live: a rotation waits for the last one, and has a quarter of the time."""
        return max(10, min(120, int(self.seconds / 60)))

    @property
    def proof_interval(self) -> float:
        return max(5.0, min(PROOF_INTERVAL, self.seconds / 60))

    @property
    def sample_every(self) -> float:
        return min(10.0, max(0.5, self.seconds / 240))

    def quarter(self, elapsed: float) -> int:
        return max(0, min(QUARTERS - 1, int(elapsed / self.seconds * QUARTERS)))


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at one moment."""

    elapsed: float
    values: tuple[float, ...]


MEASURES: Final = ("own memory, MiB", "RSS, MiB", "descriptors", "threads")


def look_at(pid: int) -> tuple[float, ...]:
    """The :data:`MEASURES` of a process. Raises OSError where it is not there."""
    return (
        memory_bytes(pid, "RssAnon") / 2**20,  # what a file backs is shared with whatever else runs
        memory_bytes(pid, "VmRSS") / 2**20,
        descriptors(pid),
        threads(pid),
    )


@dataclass
class Series:
    """One process over the whole time, and the CPU that it took."""

    plan: Plan
    samples: list[Sample] = field(default_factory=list)
    cpu: float = 0.0
    _pid: int = 0
    _cpu_before: float = 0.0

    def add(self, elapsed: float, pid: int) -> None:
        """Look at the process, if it is there: between its stop and its start it is not."""
        with contextlib.suppress(OSError, AssertionError):
            used = cpu_seconds([pid])
            self.samples.append(Sample(elapsed, look_at(pid)))
            if pid == self._pid:
                self.cpu += used - self._cpu_before
            self._pid, self._cpu_before = pid, used

    def columns(self, measure: str) -> list[float]:
        """At the start, the median of each quarter, at the end; a quarter without a sample is as the one before it."""
        at = MEASURES.index(measure)
        quarters: list[list[float]] = [[] for _ in range(QUARTERS)]
        for sample in self.samples:
            quarters[self.plan.quarter(sample.elapsed)].append(sample.values[at])
        first, last = self.samples[0].values[at], self.samples[-1].values[at]
        columns = [first]
        for each in quarters:
            columns.append(statistics.median(each) if each else columns[-1])
        return [*columns, last]


def growth(columns: Sequence[float], allowance: Allowance) -> tuple[float, Target]:
    """The last quarter's median, and what it may be at most."""
    _, _, second, _, last, _ = columns
    return last, at_most(round(allowance.bound(second), 1))


@dataclass
class Calls:
    """What came of the calls that were due in one quarter."""

    latencies: array[float] = field(default_factory=lambda: array("f"))
    refused: Counter[str] = field(default_factory=Counter)
    """After all attempts, by the last one's status."""

    attempts: Counter[str] = field(default_factory=Counter)
    """Attempts that failed, by status, whether or not a later one was answered."""

    @property
    def made(self) -> int:
        return len(self.latencies) + self.refused.total()

    def add(self, done: Renewal, seconds: float) -> None:
        self.attempts.update(done.failures)
        if done.answered:
            self.latencies.append(seconds)
        else:
            self.refused[done.failures[-1]] += 1

    def quantiles(self) -> tuple[float, float]:
        """p50 and p99 in milliseconds."""
        load = Load(0.0, list(self.latencies))
        return load.quantile(0.5) * 1e3, load.quantile(0.99) * 1e3

    @classmethod
    def sum(cls, parts: Sequence[Calls]) -> Calls:
        whole = cls()
        for part in parts:
            whole.latencies += part.latencies
            whole.refused += part.refused
            whole.attempts += part.attempts
        return whole


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "none"


class Renewals:
    """Callers who renew certificates at a fixed rate together, each with one call at a time."""

    def __init__(
        self, endpoint: Endpoint, calls: Iterator[Call], plan: Plan, roots: Sequence[Certificate]
    ) -> None:
        self._endpoint, self._calls, self._plan = endpoint, calls, plan
        self._end = math.inf
        self._roots = frozenset(root.sha256 for root in roots)
        self.quarters = [Calls() for _ in range(QUARTERS)]
        self.checked = 0
        self.problems: Counter[str] = Counter()
        """What was wrong with replies that were looked at."""

    async def run(self, enough: asyncio.Event, *, counted: bool) -> float:
        """Make the calls that are due until that is set, which count or warm up; for how many seconds that was."""
        began = time.perf_counter()
        self._end = math.inf
        async with asyncio.TaskGroup() as group:
            for one in range(self._plan.callers):
                group.create_task(self._keep_calling(one, began, counted=counted))
            await enough.wait()
            self._end = time.perf_counter()
        return self._end - began

    async def _keep_calling(self, one: int, began: float, *, counted: bool) -> None:
        """One caller. It is late after an answer that was late, and catches up: no call is left out."""
        every = self._plan.callers / self._plan.rate
        due = began + one / self._plan.rate
        agent: Agent | None = None
        checked: Agent | None = None
        while due < self._end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if due >= self._end:
                break
            done = await self._endpoint.renew(next(self._calls), agent)
            if counted:
                took = time.perf_counter() - due
                self.quarters[self._plan.quarter(due - began)].add(done, took)
                if done.agent is not None and done.answered and done.agent is not checked:
                    checked = done.agent
                    self._check(checked)
            agent = done.agent
            if agent is not None and agent.calls >= CALLS_PER_CONNECTION * (1 + one / self._plan.callers):
                agent.close()
                agent = None
            due += every
        if agent is not None:
            agent.close()

    def _check(self, agent: Agent) -> None:
        """Verify the first reply of a connection as a workload would, by the bundle that came with it."""
        self.checked += 1
        try:
            elements = decode_response(agent.first_reply[5:])
            leaf, *issuers = [parse_certificates(e.encode(), where="reply")[0] for e in elements[:-1]]
            bundle = parse_certificates(elements[-1].encode(), where="bundle")
            if not self._roots & {root.sha256 for root in bundle}:
                self.problems["a bundle without a root of the hub"] += 1
            verify_chain((leaf, *issuers), bundle, datetime.now(UTC), purpose=Purpose.CLIENT)
        except Exception as error:  # whatever is wrong with a reply is a finding
            self.problems[str(error) or type(error).__name__] += 1


@dataclass(frozen=True)
class Event:
    """What was done meanwhile: when it began, and how long it took; why it failed where it did."""

    name: str
    elapsed: float
    took: float
    refused: int
    problem: str = ""


class Soak:
    """One run on a hub that is there and green."""

    def __init__(self, hub: Hub, plan: Plan, renewals: Renewals, say: Callable[[str], None]) -> None:
        self.hub, self.plan, self.renewals = hub, plan, renewals
        self.series = {name: Series(plan) for name in (SIGNER, CONTROLLER, STAND_IN, CALLERS)}
        self.events: list[Event] = []
        self.took = plan.seconds
        """Seconds of load that counted; more than planned where what was done meanwhile took longer."""

        self.steps: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            ("restart of the controller", self._restart),
            ("whole rotation", self._rotate),
            ("change of the bundle", self._change),
        )
        """What is done meanwhile, each when one more quarter is over."""

        self._say = say
        self._began = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    async def run(self) -> None:
        """Warm up, then hold the load for as long as is planned, and until what is done meanwhile is done."""
        warm, enough = asyncio.Event(), asyncio.Event()
        asyncio.get_running_loop().call_later(self.plan.warm_up, warm.set)
        await self.renewals.run(warm, counted=False)
        self._began = time.monotonic()
        watching = asyncio.create_task(self._watch())
        calling = asyncio.create_task(self.renewals.run(enough, counted=True))
        try:
            await self._disturb()
            await asyncio.sleep(max(0.0, self.plan.seconds - self.elapsed))
            enough.set()
            self.took = await calling
        finally:
            for task in (watching, calling):
                task.cancel()
            await asyncio.gather(watching, calling, return_exceptions=True)

    async def _watch(self) -> None:
        for taken in itertools.count(1):
            hub, elapsed = self.hub, self.elapsed
            pids = {
                SIGNER: hub.signer,
                CONTROLLER: hub.controller,
                STAND_IN: hub.stand_in,
                CALLERS: os.getpid(),
            }
            for name, pid in pids.items():
                self.series[name].add(elapsed, pid)
            for log in self.hub.rig.directory.glob("*.log"):
                if log.stat().st_size > LOG_LIMIT:
                    os.truncate(log, 0)  # roles append to it
            await asyncio.sleep(max(0.1, taken * self.plan.sample_every - self.elapsed))

    async def _disturb(self) -> None:
        for quarter, (name, step) in enumerate(self.steps, 1):
            await asyncio.sleep(max(0.0, self.plan.seconds * quarter / QUARTERS - self.elapsed))
            began, refused = self.elapsed, self._refused
            problem = await self._try(step)
            event = Event(name, began, self.elapsed - began, self._refused - refused, problem)
            self.events.append(event)
            self._say(f"  {event.name} at {began:.0f} s took {event.took:.1f} s {problem}".rstrip())

    @property
    def _refused(self) -> int:
        return sum(part.attempts.total() for part in self.renewals.quarters)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> str:
        try:
            await step()
        except (RuntimeError, TimeoutError, aiohttp.ClientError) as error:
            return str(error) or type(error).__name__
        return ""

    async def _restart(self) -> None:
        await self.hub.end("controller")
        await self.hub.start("controller")
        await self.hub.green()

    async def _rotate(self) -> None:
        await self.hub.rig.operate("start")
        state = ""
        async with asyncio.timeout(ROTATION_LIMIT):
            while state != "RETIRED":
                await asyncio.sleep(0.5)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    state = (await self.hub.rig.get("/api/v1/rotation"))["state"]

    async def _change(self) -> None:
        hub = self.hub
        selected = sum(
            cluster["publication"]["selected"]
            for cluster in (await hub.rig.get("/api/v1/status"))["clusters"]
        )
        await hub.rig.order(do="reset")
        hub.rig.add_root("another")
        await hub.written(selected)

    @property
    def overrun(self) -> str:
        """Why the quarters cannot be compared, where something took longer than its own; or nothing."""
        quarter = self.plan.seconds / QUARTERS
        late = [event.name for event in self.events if event.took > quarter]
        return f"the {late[0]} took longer than a quarter" if late else ""

    def report(self, report: Report) -> list[str]:
        """Add every line; the tables."""

        def add(
            name: str, value: float | None, unit: str = "", target: Target | None = None, note: str = ""
        ) -> None:
            report.add(Line(GROUP, name, value, unit, target, note))

        quarters = self.renewals.quarters
        whole = Calls.sum(quarters)
        p50, p99 = whole.quantiles()
        add("calls made", whole.made, "", note=f"{whole.made / self.took:.1f}/s for {self.took:.0f} s")
        add("calls refused", whole.refused.total(), "", at_most(0), listed(whole.refused))
        add(
            "attempts refused, before agents try again",
            whole.attempts.total(),
            "",
            note=listed(whole.attempts),
        )
        add("latency of a call, from when it was due, p50", p50, "ms")
        add("latency of a call, p99", p99, "ms")
        checked = self.renewals
        note = f"of {checked.checked} that were looked at; {listed(checked.problems)}"
        add("replies that a workload could not use", checked.problems.total(), "", at_most(0), note)
        for event in self.events:
            value = None if event.problem else event.took
            note = event.problem or f"{event.refused} attempts refused meanwhile"
            add(
                f"{event.name} at {event.elapsed:.0f} s",
                value,
                "s",
                at_most(self.plan.seconds / QUARTERS),
                note,
            )
        for name, series in self.series.items():
            add(f"CPU of the {name}", series.cpu / self.took * 100, "% of a core")
            for measure, allowance in ALLOWED.items():
                if name in JUDGED:
                    last, target = growth(series.columns(measure), allowance)
                    value = None if self.overrun else last
                    add(f"{name}: {measure}, median of the last quarter", value, "", target, self.overrun)
        return [*self._calls_table(whole), "", *self._processes_table()]

    def _calls_table(self, whole: Calls) -> Iterator[str]:
        yield "| calls | made | refused | attempts refused | p50 / p99, ms |"
        yield "|---|---|---|---|---|"
        names = [f"quarter {each}" for each in range(1, QUARTERS + 1)]
        for name, part in zip([*names, "whole"], [*self.renewals.quarters, whole], strict=True):
            p50, p99 = part.quantiles()
            refused = f"{part.refused.total()} | {listed(part.attempts)}"
            yield f"| {name} | {part.made:,} | {refused} | {number(p50)} / {number(p99)} |"

    def _processes_table(self) -> Iterator[str]:
        yield "| process | | start | quarter 1 | 2 | 3 | 4 | end | |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for name, series in self.series.items():
            for measure in MEASURES:
                columns = series.columns(measure)
                verdict = ""
                if name in JUDGED and measure in ALLOWED:
                    last, target = growth(columns, ALLOWED[measure])
                    verdict = "flat" if target.verdict(last) == "met" else f"GROWS: wanted {target}"
                    verdict = f"not judged: {self.overrun}" if self.overrun else verdict
                shown = " | ".join(number(round(value, 1)) for value in columns)
                yield f"| {name} | {measure} | {shown} | {verdict} |"


async def calls_of_all(rig: Rig, plan: Plan) -> list[Call]:
    """A call of each pod in each cluster, whose token lives longer than the run; clusters by turns."""
    life = int(plan.seconds + plan.warm_up) + 3600

    async def one(cluster: str, pod: int) -> list[Call]:
        account = ServiceAccountRef(namespace_name(len(SYSTEM) + pod % plan.namespaces), "default")
        return await calls_of(rig, cluster, account, pod_name(pod), 1, life=life)

    made: list[Call] = []
    for pod in range(plan.pods):
        made += itertools.chain(*await asyncio.gather(*(one(name, pod) for name in plan.names)))
    return made


@contextlib.asynccontextmanager
async def soaking(directory: Path, plan: Plan, say: Callable[[str], None]) -> AsyncIterator[Soak]:
    """A hub that is green, and callers for it."""
    async with (
        stand_in_rig(
            directory / "soak",
            plan.names,
            namespaces=plan.namespaces,
            pods=plan.pods,
            proof_interval=plan.proof_interval,
            leaf=plan.leaf,
        ) as rig,
        running_hub(rig) as hub,
    ):
        await asyncio.gather(hub.start("controller"), hub.start("signer"))
        await hub.green()
        roots = [rig.ca.root, rig.successor.root]
        trust = "".join(root.pem.decode() for root in roots)
        endpoint = Endpoint.trusting("127.0.0.1", rig.listener_port, server_name=SERVER_NAME, trust=trust)
        calls = cycle(await calls_of_all(rig, plan))
        yield Soak(hub, plan, Renewals(endpoint, calls, plan, roots), say)


async def run(report: Report, directory: Path, plan: Plan, say: Callable[[str], None]) -> list[str]:
    """The whole of it; the tables. SIGTERM ends it early, and the processes that it started with it."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    async with soaking(directory, plan, say) as soak:
        say(
            f"{plan.clusters} clusters x {plan.namespaces} namespaces x {plan.pods} pods, {plan.rate:g} certificates/s "
            f"by {plan.callers} callers, leaves of {plan.leaf} s, {plan.seconds:.0f} s after {plan.warm_up:.0f} s"
        )
        await soak.run()
        return soak.report(report)


def as_json(report: Report, tables: Sequence[str]) -> str:
    document: dict[str, Any] = json.loads(report.as_json())
    return json.dumps(document | {"tables": list(tables)}, indent=2) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--rate", type=float, default=300.0, help="certificates per second, of all callers together"
    )
    parser.add_argument("--clusters", type=int, default=3)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every line and the tables there as well"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="keep configuration, state and logs there"
    )
    options = parser.parse_args()
    allow_many_files()
    plan = Plan(options.minutes * 60, options.rate, clusters=options.clusters)

    def say(text: str) -> None:
        print(text, flush=True)

    report = Report(say, facts())
    say("  ".join(f"{name} {value}" for name, value in report.facts.items()))
    others = Others()
    with tempfile.TemporaryDirectory(prefix="federation-bench-") as directory:
        try:
            tables = uvloop.run(run(report, Path(directory), plan, say))
        finally:
            if options.keep is not None:
                shutil.copytree(directory, options.keep, dirs_exist_ok=True)
    report.facts["other processes"] = f"{others.share():.0%} of the cores"
    say("\n".join(["", *tables, *report.summary()]))
    say(f"other processes took {report.facts['other processes']} meanwhile")
    if options.json is not None:
        options.json.write_text(as_json(report, tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
