"""Publication by the whole hub: a changed bundle to three clusters, and what it costs signing meanwhile.

Both roles run as their own processes against clusters in a box. Clusters, callers and the hub share this
machine's cores, where in production each has its own, so the clusters run at a lower priority. Times are from the
change of the configuration until every namespace really has the new bundle, as the clusters count it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.bench.callers import Load, cycle
from tests.bench.processes import cpu_seconds
from tests.bench.report import Line, Report, at_most
from tests.bench.rig import Child, Rig, sandbox_rig
from tests.bench.signing import prepare_calls

GROUP = "Publication by the whole hub"
CLUSTERS = ["east", "west", "north"]
LIMIT = 120.0
CALLS_PER_SECOND = 100.0
RESYNC = 3.0


async def most_common_content(rig: Rig, name: str) -> tuple[str, int]:
    """The bundle that most namespaces of a cluster have, and in how many it is."""
    found = await rig.ask(name, "contents")
    return (found[0][0], found[0][1]) if found else ("", 0)


async def settled(rig: Rig, namespaces: int) -> dict[str, int]:
    """Wait until all namespaces have the same bundle; returns how many each cluster has."""
    async with asyncio.timeout(LIMIT):
        while True:
            now = {name: await most_common_content(rig, name) for name in rig.members}
            if len({text for text, _ in now.values()}) == 1 and all(n > namespaces for _, n in now.values()):
                await asyncio.sleep(1.0)
                return {name: (await most_common_content(rig, name))[1] for name in rig.members}
            await asyncio.sleep(0.2)


async def published(rig: Rig, counts: dict[str, int]) -> None:
    """Wait until every namespace was written since the last reset."""
    async with asyncio.timeout(LIMIT):
        for name, count in counts.items():
            while await rig.ask(name, "patched") < count:
                await asyncio.sleep(0.05)


async def change(rig: Rig, counts: dict[str, int], root: str) -> float:
    """Pin another root and wait until it is everywhere: seconds."""
    for name in counts:
        await rig.ask(name, "reset")
    rig.add_root(root)
    began = time.perf_counter()
    await published(rig, counts)
    return time.perf_counter() - began


async def beside_signing(
    report: Report, rig: Rig, controller: Child, counts: dict[str, int], *, seconds: float
) -> None:
    """Publication, and the latency of calls at a fixed rate at rest and during it."""
    calls = await prepare_calls(rig, CLUSTERS[0], 500)
    total = sum(counts.values())
    at_rest, during = Load(0.0), Load(0.0)
    ratios: list[float] = []
    took: list[float] = []
    async with rig.crowd(cycle(calls)) as crowd:
        await crowd.grow(64)
        await crowd.steady(CALLS_PER_SECOND, 2.0)
        for turn in range(3):
            resting = await crowd.steady(CALLS_PER_SECOND, seconds)
            at_rest.latencies += resting.latencies
            cpu = cpu_seconds([controller.pid])
            done = asyncio.Event()
            loading = asyncio.create_task(crowd.steady(CALLS_PER_SECOND, LIMIT, until=done))
            took.append(await change(rig, counts, f"root-{turn}"))
            done.set()
            part = await loading
            during.latencies += part.latencies
            during.failed += part.failed
            ratios.append(part.quantile(0.99) / resting.quantile(0.99))
            cpu = (cpu_seconds([controller.pid]) - cpu) / total * 1e6
    seconds_taken = sorted(took)[1]
    note = f"{total} namespaces, {total / seconds_taken:.0f}/s, {cpu:.0f} us CPU of the controller each"
    report.add(Line(GROUP, "a changed bundle is everywhere after", seconds_taken, "s", note=note))
    rest, busy = at_rest.quantile(0.99), during.quantile(0.99)
    note = f"{CALLS_PER_SECOND:.0f} calls/s, p50 {at_rest.quantile(0.5) * 1e3:.1f} ms"
    report.add(Line(GROUP, "signing p99 at rest", rest * 1e3, "ms", note=note))
    note = f"{len(during.latencies)} calls, p50 {during.quantile(0.5) * 1e3:.1f} ms, {during.failed} failed"
    report.add(Line(GROUP, "signing p99 while it is published", busy * 1e3, "ms", note=note))
    note = "the middle one of three turns: " + ", ".join(f"{ratio:.1f}" for ratio in ratios)
    ratio = sorted(ratios)[1]
    report.add(Line(GROUP, "signing p99 while publishing over at rest", ratio, "x", at_most(2), note))


async def no_change(report: Report, rig: Rig) -> None:
    """Full passes over clusters in which nothing has changed."""
    for name in rig.members:
        await rig.ask(name, "reset")
    await asyncio.sleep(3 * RESYNC)
    lists = sum([await rig.ask(name, "listed") for name in rig.members])
    writes = sum([await rig.ask(name, "writes") for name in rig.members])
    assert lists >= len(rig.members), "no pass took place"
    note = f"{lists} lists of every namespace's bundle"
    report.add(Line(GROUP, "writes by passes in which nothing changed", writes, "", at_most(0), note))


async def catch_up(report: Report, rig: Rig, counts: dict[str, int]) -> None:
    """A cluster goes down, the bundle changes, the cluster comes back."""
    away = CLUSTERS[-1]
    await rig.ask(away, "down")
    await change(rig, {name: count for name, count in counts.items() if name != away}, "root-away")
    await asyncio.sleep(5.0)
    await rig.ask(away, "reset")
    began = time.perf_counter()
    await rig.ask(away, "up")
    await published(rig, {away: counts[away]})
    note = f"{counts[away]} namespaces; back-off up to its return included"
    report.add(
        Line(GROUP, "a cluster that returns is caught up after", time.perf_counter() - began, "s", note=note)
    )


@contextlib.asynccontextmanager
async def hub(rig: Rig) -> AsyncIterator[tuple[Child, Child]]:
    """Controller and signer, ready; the controller first, since it writes the first generation."""
    async with rig.role("controller", "controller-0") as controller, rig.signers(1) as (signer,):
        yield controller, signer


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    namespaces = 100 if quick else 500
    async with sandbox_rig(
        directory / "publishing", CLUSTERS, namespaces=namespaces, nice=10, resync=RESYNC
    ) as rig:
        began = time.perf_counter()
        async with hub(rig) as (controller, _):
            counts = await settled(rig, namespaces)
            note = f"{sum(counts.values())} namespaces, roles' start included"
            report.add(Line(GROUP, "first publication", time.perf_counter() - began, "s", note=note))
            await no_change(report, rig)
            await beside_signing(report, rig, controller, counts, seconds=3.0 if quick else 8.0)
            counts = await settled(rig, namespaces)  # the workload's namespace is new
            await catch_up(report, rig, counts)
