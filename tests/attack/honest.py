"""Honest callers of the listener, in a separate process: a steady pace, and retries as Istio's agents do.

`python -m tests.attack.honest FILE` reads who calls from a JSON file and then measures as lines of JSON on standard
input say: `{"seconds": 5, "rate": 50, "fresh": 4}`. Callers keep their connection; ``fresh`` is how many callers a
second open a new one for their call, as new pods do. A call counts as refused if none of its attempts brought a
certificate.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from federation.core.istio.ca_protocol import METHOD
from tests.bench.agents import Agent, Endpoint
from tests.bench.callers import Call, header_block


@dataclass
class Measured:
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    retried: int = 0

    def document(self) -> dict[str, Any]:
        ordered = sorted(self.latencies)
        return {
            "answered": len(ordered),
            "refused": self.refused,
            "reasons": dict(self.reasons),
            "retried": self.retried,
            "p50": quantile(ordered, 0.5),
            "p99": quantile(ordered, 0.99),
        }


def quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


class Mesh:
    """All honest callers."""

    def __init__(self, described: dict[str, Any]) -> None:
        self._endpoint = Endpoint.trusting(
            described["host"],
            int(described["port"]),
            server_name=described["server_name"],
            trust=described["trust"],
        )
        self._agents: list[Agent | None] = [None] * int(described["agents"])
        calls = [
            Call(
                header_block(
                    METHOD,
                    self._endpoint.server_name,
                    {"authorization": f"Bearer {each['token']}"}
                    | ({"clusterid": each["cluster_id"]} if each["cluster_id"] else {}),
                ),
                base64.b64decode(each["message"]),
            )
            for each in described["calls"]
        ]
        self._calls = itertools.cycle(calls)

    async def measure(self, seconds: float, rate: float, fresh: float) -> dict[str, Any]:
        standing, new = Measured(), Measured()
        begin = time.perf_counter() + 0.1
        async with asyncio.TaskGroup() as group:
            share = rate / len(self._agents)
            for number in range(len(self._agents)):
                offset = number / rate
                group.create_task(self._keep_asking(standing, number, begin + offset, begin + seconds, share))
            if fresh:
                group.create_task(self._keep_coming(new, begin, begin + seconds, fresh))
        return {"standing": standing.document(), "fresh": new.document()}

    async def _keep_asking(self, measured: Measured, number: int, at: float, end: float, rate: float) -> None:
        while at < end:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            self._agents[number] = await self._renew(measured, at, self._agents[number])
            at = max(at + 1 / rate, time.perf_counter())  # an agent has one call at a time

    async def _keep_coming(self, measured: Measured, at: float, end: float, rate: float) -> None:
        async with asyncio.TaskGroup() as group:
            while at < end:
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                group.create_task(self._come_once(measured, at))
                at += 1 / rate

    async def _come_once(self, measured: Measured, at: float) -> None:
        agent = await self._renew(measured, at, None)
        if agent is not None:
            agent.close()

    async def _renew(self, measured: Measured, planned: float, agent: Agent | None) -> Agent | None:
        """One renewal with its attempts; returns the connection to use next."""
        done = await self._endpoint.renew(next(self._calls), agent)
        measured.retried += max(0, len(done.failures) - (not done.answered))
        if done.answered:
            measured.latencies.append(time.perf_counter() - planned)
        else:
            measured.refused += 1
            measured.reasons[done.failures[-1]] += 1
        return done.agent


async def serve(file: Path) -> None:
    mesh = Mesh(json.loads(file.read_text()))
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    while line := await lines.readline():
        order = json.loads(line)
        answer = await mesh.measure(order["seconds"], order["rate"], order["fresh"])
        print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(Path(sys.argv[1])))
