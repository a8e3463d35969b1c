"""The soak's instruments: what counts as flat, what agents' attempts came to, and one short run on a real hub."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from federation.core.call_slots import CallSlot
from federation.core.config.hub import ListenerConfig
from federation.core.config.types import Address
from federation.core.errors import NotReady, PolicyRefused
from federation.core.istio.ca_protocol import METHOD
from federation.runtime.clock import SystemClock
from federation.signer.listeners.listener import Listener
from federation.signer.listeners.tls import ServingCredentials, ServingPair
from federation_sandbox.box import SERVER_NAME, DevelopmentCa
from tests.bench.agents import ATTEMPTS, Endpoint
from tests.bench.callers import Call, cycle, header_block
from tests.bench.empty_listener import EmptyListener
from tests.bench.report import Report
from tests.bench.signing import serving_pair_files
from tests.bench.soak import (
    ALLOWED,
    CONTROLLER,
    MEASURES,
    Event,
    Plan,
    Renewals,
    Sample,
    Series,
    as_json,
    growth,
    soaking,
)

CALL = Call(header_block(METHOD, SERVER_NAME, {"authorization": "Bearer x"}), b"message")


class Refusing(EmptyListener):
    """Answers every call with the next of these errors, and once they have ended with one byte."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = iter(errors)

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, slot: CallSlot
    ) -> bytes:
        error = next(self._errors, None)
        if error is not None:
            raise error
        return b"\x00"


@asynccontextmanager
async def endpoint(directory: Path, handler: EmptyListener) -> AsyncIterator[Endpoint]:
    """The signer's own listener around that handler."""
    ca = DevelopmentCa.create(directory / "ca", name="bench", clock=SystemClock(), lifetime=timedelta(days=1))
    chain, key = serving_pair_files(ca, directory)
    config = ListenerConfig(listen=Address("127.0.0.1", 0), server_names=())
    credentials = ServingCredentials(ServingPair(chain.read_bytes(), key.read_bytes()))
    server = Listener(handler, config=config, listen=config.listen, credentials=credentials)
    address = await server.start()
    try:
        yield Endpoint.trusting(
            address.host, address.port, server_name=SERVER_NAME, trust=ca.root.pem.decode()
        )
    finally:
        await server.stop(1)


async def test_an_agent_tries_again_after_what_may_pass_and_every_attempt_is_listed(tmp_path: Path) -> None:
    async with endpoint(tmp_path, Refusing(NotReady("a"), NotReady("b"))) as opened:
        done = await opened.renew(CALL, None)

        assert done.answered
        assert done.failures == ["Unavailable", "Unavailable"]
        assert done.agent is not None
        assert done.agent.calls == 3, "on one connection"
        done.agent.close()


async def test_an_agent_gives_up_at_once_where_its_identity_is_refused_and_at_last_where_it_is_not(
    tmp_path: Path,
) -> None:
    errors = [PolicyRefused("no"), *(NotReady(str(number)) for number in range(ATTEMPTS))]
    async with endpoint(tmp_path, Refusing(*errors)) as opened:
        refused = await opened.renew(CALL, None)
        tried = await opened.renew(CALL, refused.agent)

        assert (refused.answered, refused.failures) == (False, ["Unauthenticated"])
        assert (tried.answered, tried.failures) == (False, ["Unavailable"] * ATTEMPTS)
        assert tried.agent is not None
        tried.agent.close()


async def test_renewals_keep_their_rate_and_count_what_was_refused(tmp_path: Path) -> None:
    plan = Plan(600.0, 100.0, callers=4)
    async with endpoint(tmp_path, Refusing(PolicyRefused("no"), NotReady("wait"))) as opened:
        renewals = Renewals(opened, cycle([CALL]), plan, [])
        enough = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, enough.set)
        took = await renewals.run(enough, counted=True)

        calls = renewals.quarters[0]
        assert calls.made == pytest.approx(100 * took, abs=1), "what is due is made, however late it is"
        assert calls.refused == Counter(Unauthenticated=1)
        assert calls.attempts == Counter(Unauthenticated=1, Unavailable=1)
        assert len(calls.latencies) == calls.made - 1
        assert renewals.checked == renewals.problems.total() == 4, "one byte is no certificate"


@pytest.mark.parametrize(
    ("measure", "second", "last", "verdict"),
    [
        ("own memory, MiB", 80.0, 84.0, "met"),
        ("own memory, MiB", 80.0, 84.1, "MISSED"),  # more than 5 %
        ("own memory, MiB", 200.0, 205.0, "met"),
        ("own memory, MiB", 200.0, 205.1, "MISSED"),  # more than 5 MiB
        ("own memory, MiB", 80.0, 60.0, "met"),
        ("descriptors", 40.0, 45.0, "met"),
        ("descriptors", 40.0, 46.0, "MISSED"),
        ("threads", 3.0, 5.0, "met"),
        ("threads", 3.0, 6.0, "MISSED"),
    ],
)
def test_flat_is_a_last_quarter_that_is_hardly_above_the_second(
    measure: str, second: float, last: float, verdict: str
) -> None:
    series, at = Series(Plan(400.0, 1.0)), MEASURES.index(measure)
    levels = [
        1.0,
        10.0,
        second,
        500.0,
        last,
    ]  # how it begins, and what a rotation takes for a while, do not count
    for elapsed in range(0, 400, 10):
        values = [0.0] * len(MEASURES)
        values[at] = levels[elapsed // 100 + 1] + (
            1000.0 if elapsed % 100 == 50 else 0.0
        )  # nor does one moment
        series.samples.append(Sample(elapsed, tuple(values)))
    columns = series.columns(measure)

    assert columns[1:5] == levels[1:]
    value, target = growth(columns, ALLOWED[measure])
    assert target.verdict(value) == verdict


def test_a_quarter_without_a_sample_is_as_the_one_before_it() -> None:
    series = Series(Plan(400.0, 1.0))
    series.samples = [
        Sample(at, (value,) * len(MEASURES)) for at, value in ((0, 1.0), (150, 2.0), (399, 4.0))
    ]

    assert series.columns("threads") == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


async def test_a_short_run_on_a_real_hub_reports_every_call_and_every_process(tmp_path: Path) -> None:
    said: list[str] = []
    report = Report(said.append, {})
    plan = Plan(4.0, 40.0, clusters=2, namespaces=2, pods=4, callers=4)
    async with soaking(tmp_path, plan, said.append) as soak:
        soak.steps = soak.steps[-1:]  # a rotation takes minutes
        await soak.run()
        soak.events = [replace(event, took=0.5) for event in soak.events]  # it may be a busy machine
        tables = soak.report(report)

    values = {line.name: line.value for line in report.lines}
    assert values["calls made"] == pytest.approx(40 * soak.took, abs=1)
    assert values["calls refused"] == 0, [line.note for line in report.lines]
    assert values["replies that a workload could not use"] == 0, [line.note for line in report.lines]
    assert [line.note for line in report.lines if line.name.startswith("change of the bundle")] == [
        "0 attempts refused meanwhile"
    ]
    for process, measure in itertools.product(("signer", CONTROLLER), ALLOWED):
        assert values[f"{process}: {measure}, median of the last quarter"]
    assert json.loads(as_json(report, tables))["tables"] == tables

    soak.events.append(Event("whole rotation", 1.0, 360.0, 0))
    overrun = Report(said.append, {})
    assert any("not judged: the whole rotation took longer" in row for row in soak.report(overrun))
    assert [line.verdict for line in overrun.lines if line.name.startswith("signer: ")] == [
        "not measured"
    ] * 3
