"""The last hours, minute by minute: what is counted, what is not, and that it stays bounded."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from federation.core.documents.signer import SignerClusterReport, SignerReport, WorkloadsReport
from federation.status.history import EVERY, KEPT, LONGEST_GAP, MOST_REASONS, STEP, History
from tests.status.conftest import Start
from tests.support.patience import PATIENCE

NOW = 1_800_000_000.0  # the beginning of a minute


def report(
    issued: int = 0, *, at: float = NOW, started: float = NOW - 7200, **changes: object
) -> SignerReport:
    cluster = replace(SignerClusterReport(state="ready", issued=issued), **changes)
    return SignerReport(
        replica="signer-0", started=started, updated=at, heartbeat=2.0, ready=True, clusters={"east": cluster}
    )


def test_what_happened_between_two_readings_belongs_to_the_minute_of_the_later_one() -> None:
    history = History(NOW)
    history.observe({"signer-0": report(100, refused={"policy": 7})}, NOW + 10)
    history.observe({"signer-0": report(103, refused={"policy": 7, "attestation": 2})}, NOW + 50)
    history.observe({"signer-0": report(108, refused={"policy": 8, "attestation": 2})}, NOW + 70)
    view = history.view(NOW + 75)
    assert (view.since, view.first, view.step) == (NOW, NOW, STEP)
    assert view.issued == [3, 5], "what was issued before the first reading belongs to no minute"
    assert view.refused == [2, 1]
    assert view.refusals == {"attestation": 2, "policy": 1}


def test_the_hubs_own_accounts_are_not_counted() -> None:
    history = History(NOW)
    history.observe({"signer-0": report(10, own_issued=4)}, NOW)
    own = report(15, own_issued=6, refused={"policy": 3}, own_refused={"policy": 2})
    history.observe({"signer-0": own}, NOW + 20)
    view = history.view(NOW + 20)
    assert (view.issued, view.refused) == ([3], [1])


def test_a_signer_that_was_started_again_is_counted_from_its_start() -> None:
    history = History(NOW)
    history.observe({"signer-0": report(1000)}, NOW)
    history.observe({"signer-0": report(4, started=NOW + 5)}, NOW + 20)
    assert history.view(NOW + 20).issued == [4]
    strange = report(900, started=NOW - 50)
    history.observe({"signer-0": report(6, started=NOW + 5), "signer-1": strange}, NOW + 40)
    assert history.view(NOW + 40).issued == [6], "one from before that is met for the first time adds nothing"
    history.observe({"signer-0": report(2, started=NOW + 5)}, NOW + 60)
    assert history.view(NOW + 60).issued == [6, 0], "a count that falls takes nothing back"


def test_a_minute_without_a_reading_is_not_zero() -> None:
    history = History(NOW)
    history.observe({"signer-0": report(1)}, NOW)
    history.observe({"signer-0": report(500)}, NOW + LONGEST_GAP + 60)
    history.observe({"signer-0": report(501)}, NOW + LONGEST_GAP + 80)
    assert history.view(NOW + LONGEST_GAP + 80).issued == [0, None, None, None, 1]


def test_pods_whose_certificate_ended_are_counted_as_they_are_and_only_by_live_signers() -> None:
    history = History(NOW)
    ended = WorkloadsReport(workloads=12, with_certificate=9, lapsed=3, detail="")
    history.observe({"signer-0": report(workloads=ended)}, NOW)
    history.observe({"signer-0": report(at=NOW + 20)}, NOW + 20)
    history.observe({"signer-0": report(workloads=ended)}, NOW + 65)
    assert history.view(NOW + 65).ended == [3, 0]


def test_hours_and_reasons_are_bounded_and_a_clock_that_goes_back_is_borne() -> None:
    history = History(NOW)
    for minute in range(KEPT + 40):
        refused = {f"reason-{n}": minute for n in range(3 * MOST_REASONS)}
        history.observe({"signer-0": report(minute, refused=refused)}, NOW + STEP * minute)
    view = history.view(NOW + STEP * (KEPT + 39))
    assert len(view.issued) == len(view.refused) == len(view.ended) == KEPT
    assert (view.first, sum(filter(None, view.issued))) == (NOW + STEP * 40, KEPT)
    assert len(view.refusals) == MOST_REASONS
    assert sum(filter(None, view.refused)) == 3 * MOST_REASONS * KEPT
    history.observe({"signer-0": report(9)}, NOW)
    assert history.view(NOW).issued == [0]


async def test_the_api_counts_by_itself_and_a_store_that_fails_leaves_a_gap(start: Start) -> None:
    async with start() as hub:
        _, body, _ = await hub.get("/api/v1/history")
        assert (body["issued"], body["since"]) == ([None], "2026-11-24T12:00:00Z")

        async def pass_until(count: int) -> None:
            """Let the hub read once more."""
            before = hub.store.readings
            await hub.clock.advance(EVERY)
            async with asyncio.timeout(PATIENCE):
                while hub.store.readings - before < count:
                    await asyncio.sleep(0.01)

        await pass_until(4)
        for replica in hub.world.signers:
            hub.world.edit_on_signer(replica, "west", issued=44)
        await hub.store.put(hub.world.document_set())
        await hub.clock.advance(EVERY)
        async with asyncio.timeout(PATIENCE):
            while (await hub.get("/api/v1/history"))[1]["issued"] != [8]:
                await asyncio.sleep(0.01)
