"""Memory and idle CPU of both roles with many clusters."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.bench.processes import cpu_seconds, resident_bytes
from tests.bench.publishing import settled
from tests.bench.report import Line, Report
from tests.bench.rig import sandbox_rig

GROUP = "Many clusters"
NAMESPACES = 5
IDLE = 10.0


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    count = 20 if quick else 100
    names = [f"c{number:03}" for number in range(count)]
    async with (
        sandbox_rig(directory / "scale", names, namespaces=NAMESPACES) as rig,
        rig.role("controller", "controller-0") as controller,
        rig.signers(1) as (signer,),
    ):
        await settled(rig, NAMESPACES)
        await asyncio.sleep(3.0)
        roles = {"signer": signer, "controller": controller}
        before = {name: cpu_seconds([role.pid]) for name, role in roles.items()}
        await asyncio.sleep(IDLE)
        for name, role in roles.items():
            cpu = (cpu_seconds([role.pid]) - before[name]) / IDLE * 100
            note = f"{cpu:.1f} % of a core while nothing changes"
            size = resident_bytes(role.pid) / 2**20
            report.add(Line(GROUP, f"memory of the {name}, {count} clusters", size, "MiB", note=note))
