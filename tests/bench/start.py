"""How long `federation hub` takes from its start to the first certificate, and what it holds in memory at rest.

The whole hub as an operator starts it: supervisor, two signers and the controller, state in files, three clusters of
the stand-in. A workload that has its token calls the listener again and again, as Istio's agent does: what counts is
when the first call is answered with a certificate. Memory is the proportional set size (PSS) of all its processes
together: pages that processes share count once.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from federation.core.identity import ServiceAccountRef
from tests.bench.callers import Call
from tests.bench.processes import descendants, proportional_bytes
from tests.bench.report import Line, Report, at_most
from tests.bench.rig import Child, Rig, child, stand_in_rig
from tests.bench.signing import calls_of
from tests.bench.stand_in import SYSTEM, namespace_name, pod_name

GROUP = "A whole hub: two signers, controller, supervisor"
NAMES = ["c000", "c001", "c002"]
LIMIT = 60.0
SETTLED = 15.0
"""Seconds after the first certificate, until every cluster is read and proved and memory is that of rest."""


async def first_certificate(rig: Rig, call: Call, began: float) -> float:
    """Seconds from then until a call was answered with a certificate. Tries again as soon as one was not."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                async with rig.crowd(iter([call])) as crowd:
                    await crowd.grow(1)
                    if (await crowd.closed_loop(1, LIMIT)).latencies:
                        return time.monotonic() - began
            except* OSError:  # nothing listens yet
                pass
            await asyncio.sleep(0.02)


async def green(rig: Rig, began: float) -> float:
    """Seconds from then until the status says that all is well."""
    async with asyncio.timeout(LIMIT):
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                if (await rig.get("/api/v1/status"))["verdict"] == "healthy":
                    return time.monotonic() - began
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def hub(rig: Rig) -> Iterator[Child]:
    """The hub's own command, on a state directory that is as it was left."""
    command = ("federation", "hub", "--config", str(rig.directory / "clusters.toml"), "--replica", "hub")
    with child(rig.directory, "hub", *command) as started:
        yield started


def memory(supervisor: int) -> dict[str, float]:
    """MiB of each process of a hub, by what it is."""
    found = {"supervisor": proportional_bytes(supervisor) / 2**20}
    for pid in descendants(supervisor):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        found[name] = found.get(name, 0.0) + proportional_bytes(pid) / 2**20
    return found


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    """Fresh starts, then starts on a state that is there; the least of each, for other processes only add to it."""
    rounds = 3 if quick else 7
    fresh, again, healthy, at_rest = [], [], [], []
    async with stand_in_rig(directory / "start", NAMES, namespaces=5, pods=25, proof_interval=30.0) as rig:
        rig.signers_count = 2
        rig.write_config()
        account = ServiceAccountRef(namespace_name(len(SYSTEM)), "default")
        (call,) = await calls_of(rig, NAMES[0], account, pod_name(0), 1)
        for _ in range(rounds):
            shutil.rmtree(rig.directory / "state", ignore_errors=True)
            began = time.monotonic()
            with hub(rig) as started:
                fresh.append(await first_certificate(rig, call, began))
                healthy.append(await green(rig, began))
                await asyncio.sleep(SETTLED)
                at_rest.append(memory(started.pid))
            began = time.monotonic()
            with hub(rig):
                again.append(await first_certificate(rig, call, began))
    for name, values, target in (
        ("first certificate after a start without state", fresh, at_most(1.2)),
        ("first certificate after a restart", again, at_most(1.2)),
        ("all is well after a start without state", healthy, None),
    ):
        note = f"the least of {rounds}, median {sorted(values)[rounds // 2]:.2f}"
        report.add(Line(GROUP, name, min(values), "s", target, note))
    least = min(at_rest, key=lambda each: sum(each.values()))
    note = ", ".join(f"{name} {value:.0f}" for name, value in sorted(least.items()))
    report.add(Line(GROUP, "memory at rest (PSS)", sum(least.values()), "MiB", at_most(110), note))
