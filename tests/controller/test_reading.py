"""What other writers put into a member's ConfigMaps is read in slices, within bounds, and delays no other member."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest

from federation.controller.publication import observed as module
from federation.controller.publication.config_map import Contents
from federation.controller.publication.observed import MOST_READ, ForeignContents
from federation.core.errors import ClusterOverBudget
from federation.core.pki.pem import parse_certificates
from federation.kubernetes.budget import CpuBudget
from federation.runtime.clock import SystemClock
from federation_sandbox.hostile import roots_pem
from tests.controller.world import KEY, NAME, open_world
from tests.support import pki
from tests.support.patience import PATIENCE
from tests.support.pauses import pauses


@cache
def roots(count: int) -> str:
    return roots_pem(count, at=SystemClock().now())


class Tenant:
    """One member whose contents are read, and what was read."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.contents = Contents()
        self.present: set[str] = set()
        self.read: list[str] = []
        self.reading = ForeignContents(
            self.contents,
            where="west",
            budget=CpuBudget("west", clock=self.clock),
            present=lambda: self.present,
            on_read=lambda digest, _: self.read.append(digest),
        )

    def writes(self, text: str) -> str:
        digest = self.contents.note(text)
        self.present.add(digest)
        assert self.reading.of(digest) is None
        return digest


@asynccontextmanager
async def tenant() -> AsyncIterator[Tenant]:
    made = Tenant()
    task = asyncio.create_task(made.reading.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():
            await asyncio.sleep(0.005)


async def test_what_is_read_is_what_is_there() -> None:
    texts = [
        roots(3),
        pki.root("a").pem.decode() + "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n",
        "no PEM",
        "",
        "-----BEGIN CERTIFICATE-----\nn!ne\n-----END CERTIFICATE-----\n" + pki.root("a").pem.decode(),
    ]
    async with tenant() as west:
        digests = [west.writes(text) for text in texts]
        await until(lambda: len(west.read) == len(texts))
        found = [west.reading.of(digest) for digest in digests]
        assert found[0] is not None
        assert found[0].certificates == parse_certificates(texts[0].encode(), where="")
        assert found[1] is not None
        assert (found[1].certificates, found[1].readable) == ((), (pki.root("a").root,))
        assert found[4] is not None
        assert found[4].readable == (pki.root("a").root,)
        assert all(read is not None and read.problem for read in found[1:])


async def test_a_large_content_is_read_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with reading it at once on this machine, by the best of three: other load only adds to a measurement."""

    async def longest() -> float:
        async with tenant() as west, pauses() as seen:
            digest = west.writes(text)
            await until(lambda: west.reading.of(digest))
        return seen.longest

    async def no_turn(_: CpuBudget) -> None:
        """Yield no turn to other tasks."""

    text = roots(400)
    slices = min([await longest() for _ in range(3)])
    monkeypatch.setattr(CpuBudget, "turn", no_turn)
    at_once = min([await longest() for _ in range(3)])
    assert slices < at_once / 3, (slices, at_once)


async def test_contents_that_change_faster_than_they_are_read_are_left_out() -> None:
    async with tenant() as west:
        for number in range(300):
            west.present.clear()
            last = west.writes(roots(40) + "\n" * number)
        await until(lambda: west.reading.of(last))
        assert len(west.read) <= MOST_READ + 1
        assert west.reading.problem is None


async def test_more_contents_than_are_read_of_one_member_are_its_problem() -> None:
    async with tenant() as west:
        for number in range(MOST_READ + 20):
            west.writes(pki.root("a").pem.decode() + "\n" * number)
            await asyncio.sleep(0)
        await until(lambda: len(west.read) == MOST_READ)
        for digest in west.present:  # as each report asks
            west.reading.of(digest)
        await until(lambda: west.reading.problem is not None)
        problem = west.reading.problem
        assert isinstance(problem, ClusterOverBudget)
        assert problem.where == "west"
        assert str(MOST_READ) in problem.what
        west.present = set(list(west.present)[-2:])
        for digest in west.present:
            west.reading.of(digest)
        await until(
            lambda: all(west.reading.of(digest) for digest in west.present) and west.reading.problem is None
        )


async def test_certificates_are_counted_not_only_contents() -> None:
    async with tenant() as west:
        each = 200
        for number in range(module.MOST_CERTIFICATES // each + 3):
            west.writes(roots(each) + "\n" * number)
        await until(lambda: west.reading.problem is not None)
        assert len(west.read) <= module.MOST_CERTIFICATES // each + 1


async def test_a_cluster_that_joins_with_thousands_of_roots_costs_no_other_its_turn(tmp_path: Path) -> None:
    """Seen once: 300 namespaces with 46 roots each, all different, cost the controller its leadership."""
    certificates = roots(300).split("-----BEGIN CERTIFICATE-----")[1:]
    chosen = random.Random(1)
    async with open_world(tmp_path, "east", "west") as world:
        west = world.clusters["west"]
        for number in range(300):
            west.create_namespace(f"team-{number}")
            text = "".join(f"-----BEGIN CERTIFICATE-----{body}" for body in chosen.sample(certificates, 46))
            meta = {"name": NAME, "labels": {"istio.io/config": "true"}}
            west.create("configmaps", {"metadata": meta, "data": {KEY: text}}, namespace=f"team-{number}")
        async with pauses() as seen, world.controller():
            await world.until(lambda report: report.clusters["west"].publication.joining >= 299)
            used, began = time.thread_time(), time.monotonic()
            await asyncio.sleep(6)
            share = (time.thread_time() - used) / (time.monotonic() - began)
            report = await world.until(lambda report: report.clusters["east"].publication.current > 0)
            assert report.leader
            assert report.ready
            assert report.clusters["east"].publication.current == report.clusters["east"].publication.selected
            assert report.clusters["west"].publication.joining >= 299, "nothing of it is overwritten"
            assert report.clusters["west"].reason in {"joining", "over_budget"}, "or more than is read of one"
    assert seen.longest < 0.4
    assert share < 0.5
