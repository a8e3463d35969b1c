"""Clusters that are down, slow, hung, forbidden, throttled or lying: reported as such, without effect on the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from federation.controller.proof.matrix import prove
from federation.controller.proof.probe import Probe
from federation.controller.publication.namespace_count import LONGEST_COUNT_AGE
from federation.core.documents.controller import ControllerReport, Matrix
from federation.core.identity import ClusterName
from federation_sandbox.apiserver.faults import Answer, Cut, Delay, Effect, Garbage, Gone, Hang, Lost, Silence
from tests.controller.world import KEY, NAME, World, eventually, in_force, open_world, root
from tests.support.patience import PATIENCE, UNDELAYED

QUICK = {"connect": "1s", "request": "1s", "watch": "20s", "watch_silence": "4s"}


def quick(world: World, name: str = "west") -> None:
    """Shorter timeouts for that cluster, so that a test need not wait for the usual ones."""
    world.extra[name] = {"timeouts": QUICK}
    world.write_config()


def state(report: ControllerReport, name: str = "west") -> tuple[str, str]:
    return report.clusters[name].state, report.clusters[name].reason


def everywhere(report: ControllerReport, name: str) -> int:
    """How many namespaces there hold the bundle, where all do."""
    publication = report.clusters[name].publication
    return publication.current if publication.current == publication.selected else 0


async def east_still_works(world: World) -> None:
    """A new namespace of the other cluster gets its bundle at once."""
    name = f"shop-{time.monotonic_ns()}"
    world.clusters["east"].create_namespace(name)
    await eventually(lambda: world.observed("east", name) is not None, limit=UNDELAYED)


FAILURES: dict[str, tuple[Effect, str]] = {
    "failing": (Answer.server_error(), "server_error"),
    "forbidden": (Answer.forbidden(), "forbidden"),
    "unauthorized": (Answer.unauthorized(), "unauthorized"),
    "throttled": (Answer.throttled(), "throttled"),
    "garbage": (Garbage(code=200), "garbage"),
    "nested": (Garbage(code=200, body=b"[" * 5000), "garbage"),
    "proxy": (Garbage(), "server_error"),
    "hung": (Hang(), "timeout"),
    "slow": (Delay(30.0), "timeout"),
}


async def test_clusters_that_fail_from_the_start_are_reported_with_the_right_reason(tmp_path: Path) -> None:
    async with open_world(tmp_path, "east", "west", *FAILURES) as world:
        faults = {name: world.clusters[name].faults.inject(effect) for name, (effect, _) in FAILURES.items()}
        for name in FAILURES:
            quick(world, name)
        async with world.controller():
            report = await world.until(
                lambda r: (
                    all(state(r, name)[1] == reason for name, (_, reason) in FAILURES.items())
                    and r.matrix.valid == 2
                )
            )
            await east_still_works(world)
            for name in FAILURES:
                assert report.clusters[name].state != "ready"
                assert report.clusters[name].detail
                assert report.clusters[name].publication.current == 0
                assert f"{name}: not read back" in report.matrix.reasons[f"east>{name}"]
            assert report.matrix.rows[0] == "-v" + "?" * len(FAILURES)
            for fault in faults.values():
                fault.lift()
            report = await world.until(
                lambda r: (
                    r.matrix.valid == 110 and {r.clusters[name].state for name in world.clusters} == {"ready"}
                )
            )
            assert report.matrix.handshakes == 1


async def test_a_cluster_that_was_down_is_caught_up_within_seconds(two: World) -> None:
    quick(two)
    async with two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        west = two.clusters["west"]
        await eventually(lambda: two.observed("west", "default") is not None)
        await west.down()
        await two.until(lambda r: state(r) == ("unavailable", "unreachable"))
        west.create_namespace("new")
        west.delete("configmaps", "default", NAME)
        two.anchors.append(root("b"))
        two.anchor_file(root("b")).write_bytes(root("b").pem)
        two.write_config()
        await two.until(lambda r: r.generation == 2)
        await asyncio.sleep(3)
        await west.up()
        began = time.monotonic()
        generation = await in_force(two.store)
        assert generation is not None
        for namespace in ("default", "new"):
            await eventually(lambda n=namespace: two.observed("west", n) == generation.bundle_pem)  # type: ignore[misc]
        assert time.monotonic() - began < 20
        await two.until(lambda r: r.matrix.valid == 2 and r.generation == 2)


async def test_a_write_that_was_done_and_not_answered_leaves_no_trouble_behind(two: World) -> None:
    """Seen at 200 clusters: five had the bundle everywhere, and were reported as unavailable until the hub ended."""
    quick(two)
    async with two.controller():
        before = (await two.until(lambda r: r.matrix.valid == 2)).clusters["west"].publication.selected
        west = two.clusters["west"]
        fault = west.faults.inject(Cut(0), verb="patch", resource="configmaps", times=1)
        west.create_namespace("new")
        await eventually(lambda: fault.hits == 1 and two.observed("west", "new") is not None)
        report = await two.until(
            lambda r: state(r) == ("ready", "") and r.clusters["west"].publication.current == before + 1
        )
        assert report.clusters["west"].publication.problems == []


async def test_a_cluster_that_hangs_is_unknown_within_its_limits(two: World) -> None:
    quick(two)
    async with two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        with two.clusters["west"].hung():
            await two.until(lambda r: state(r) == ("unavailable", "timeout"))
            await two.until(lambda r: r.matrix.rows == ["-?", "?-"])
            await east_still_works(two)
        back = await two.until(lambda r: r.matrix.valid == 2)
        assert back.matrix.rows == ["-v", "v-"]


async def test_what_a_silent_watch_kept_back_is_found_by_the_next_resync(two: World) -> None:
    two.publication["resync"] = "4s"
    quick(two)
    west = two.clusters["west"]
    async with two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        await eventually(lambda: two.observed("west", "default") is not None)
        with west.faults.inject(Silence()):
            west.delete("configmaps", "default", NAME)
            await eventually(lambda: two.observed("west", "default") is not None)
        assert two.observed("west", "default") == two.observed("east", "default")


async def test_a_lost_event_is_made_up_for_where_a_write_is_not_confirmed(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next resync, which would find it, is ten minutes away."""
    monkeypatch.setattr("federation.controller.publication.publisher.CONFIRM", 1.0)
    east = one.clusters["east"]
    async with one.controller():
        await one.until(lambda r: everywhere(r, "east") == 4)
        lists = east.requests.count(verb="list", resource="configmaps")
        lost = east.faults.inject(Lost(), verb="watch", resource="configmaps", times=1)
        east.create_namespace("new")
        await eventually(lambda: lost.hits == 1 and one.observed("east", "new") is not None)
        await one.until(lambda r: everywhere(r, "east") == 5)
        assert east.requests.count(verb="list", resource="configmaps") == lists + 1


async def test_a_write_that_the_watch_does_not_show_yet_is_not_made_again(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All namespaces are checked when the API server is back from an error: what is on its way to be seen can wait."""
    monkeypatch.setattr("federation.controller.publication.publisher.CONFIRM", PATIENCE)
    east = one.clusters["east"]
    async with one.controller():
        await one.until(lambda r: everywhere(r, "east") == 4)
        lost = east.faults.inject(Lost(), verb="watch", resource="configmaps", times=1)
        east.create_namespace("new")
        await eventually(lambda: lost.hits == 1 and one.observed("east", "new") is not None)
        away = Answer(500, "InternalError", "etcd is away")
        asked = east.faults.inject(away, path="/version", times=1)
        with east.faults.inject(away, verb="patch", namespace="other"):
            east.create_namespace("other")
            await eventually(lambda: asked.hits == 1)
        await one.until(lambda r: everywhere(r, "east") == 6)
        written = [each.info.namespace for each in east.requests.recent if each.info.verb == "patch"]
        assert written.count("new") == 1


async def test_a_storm_of_410_loses_nothing(two: World) -> None:
    west = two.clusters["west"]
    async with two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        with west.faults.inject(Gone(), verb="watch", times=6):
            west.end_watches()
            west.compact()
            west.create_namespace("during")
            await eventually(lambda: two.observed("west", "during") is not None)
        await two.until(lambda r: state(r) == ("ready", "") and r.matrix.valid == 2)
        assert two.observed("west", "during") == two.observed("east", "default")


async def test_forbidden_writes_are_counted_and_caught_up_once_granted(one: World) -> None:
    east = one.clusters["east"]
    with east.faults.inject(Answer.forbidden(), verb="patch", resource="configmaps"):
        async with one.controller():
            report = await one.until(lambda r: r.clusters["east"].publication.forbidden == 4)
            assert state(report, "east") == ("degraded", "forbidden_writes")
            assert (
                report.clusters["east"].publication.selected,
                report.clusters["east"].publication.current,
            ) == (4, 0)
            assert "manifests/member" in report.clusters["east"].remedy
            tried = east.requests.count(verb="patch", status=403)
            await asyncio.sleep(1)
            assert east.requests.count(verb="patch", status=403) <= tried + 1
            east.faults.clear()
            await one.published()
            await one.until(lambda r: state(r, "east") == ("ready", ""))


async def test_one_forbidden_namespace_stops_no_other(one: World) -> None:
    east = one.clusters["east"]
    east.create_namespace("closed")
    with east.faults.inject(Answer.forbidden(), verb="patch", namespace="closed"):
        async with one.controller():
            report = await one.until(
                lambda r: (
                    r.clusters["east"].publication.forbidden == 1
                    and r.clusters["east"].publication.current == 4
                )
            )
    assert report.clusters["east"].publication.selected == 5  # what refuses the bundle is counted
    assert report.clusters["east"].publication.problems[0].startswith("closed: ")


async def test_a_namespace_that_refuses_the_bundle_is_no_reason_to_count_all_again(one: World) -> None:
    """What is counted is true until the watch shows something else or another attempt ends otherwise."""
    east = one.clusters["east"]
    east.create_namespace("closed")
    with east.faults.inject(Answer.forbidden(), verb="patch", namespace="closed") as refusing:
        async with one.controller():
            await one.until(
                lambda r: (
                    r.clusters["east"].publication.forbidden == 1
                    and r.clusters["east"].publication.current == 4
                )
            )
            member = one.members["east"]
            before, tried = member.readings.count.recounts, refusing.hits
            await eventually(lambda: refusing.hits > tried)
            for _ in range(100):
                member.readings.report()
                member.readings.facts()
            assert (
                member.readings.count.recounts <= before + 1
            )  # one for what was under way when it was first reported
            counted = member.readings.count.recounts
            east.create_namespace("later")
            await one.until(lambda r: r.clusters["east"].publication.current == 5)
            assert member.readings.count.recounts > counted
            east.faults.clear()
            await one.until(lambda r: r.clusters["east"].publication.current == 6)
            assert member.readings.report().publication.forbidden == 0


async def test_a_count_that_lacks_a_namespace_is_used_for_a_moment(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a bundle is written to 200 clusters, counting each anew for every answer took half of a core."""
    monkeypatch.setattr(
        "federation.controller.publication.namespace_count.COUNT_SPACING", 1e9
    )  # for as long as a count may be used
    monkeypatch.setattr("federation.controller.publication.publisher.CONFIRM", PATIENCE)
    east = one.clusters["east"]
    async with one.controller():
        await one.until(lambda r: everywhere(r, "east") == 4)
        member = one.members["east"]
        lost = east.faults.inject(Lost(), verb="watch", resource="configmaps", times=1)
        east.create_namespace("later")  # written to, which the watch does not show
        await eventually(lambda: lost.hits == 1)
        await one.until(lambda r: r.clusters["east"].publication.selected == 5)
        counted, began = member.readings.count.recounts, one.clock.monotonic()
        for number in range(10):
            east.create_namespace(f"more-{number}")
            await eventually(lambda number=number: one.observed("east", f"more-{number}") is not None)  # type: ignore[misc]
            member.readings.facts()
        assert (
            member.readings.count.recounts - counted
            <= 1 + (one.clock.monotonic() - began) / LONGEST_COUNT_AGE
        )
        east.faults.inject(Gone(), verb="watch", resource="configmaps", times=1)
        east.end_watches()  # all is listed anew, and what was lost is found
        await one.until(lambda r: everywhere(r, "east") == 15)


async def test_a_webhook_that_cannot_be_called_for_one_namespace_stops_no_other(one: World) -> None:
    """A 500 of the API server lets the cluster rest; this one comes from something that one namespace has."""
    east = one.clusters["east"]
    east.create_namespace("guarded")
    uncalled = Answer(
        500, "InternalError", 'Internal error occurred: failed calling webhook "x": no endpoints'
    )
    with east.faults.inject(uncalled, verb="patch", resource="configmaps", namespace="guarded"):
        async with one.controller():
            report = await one.until(
                lambda r: (
                    r.clusters["east"].publication.failed == 1 and r.clusters["east"].publication.current == 4
                ),
            )
            assert state(report, "east") == ("degraded", "publication")
            assert "webhook that is named" in report.clusters["east"].remedy
            east.faults.clear()
            await one.until(lambda r: r.clusters["east"].publication.current == 5)


async def test_throttling_is_honoured(one: World) -> None:
    east = one.clusters["east"]
    with east.faults.inject(Answer.throttled(retry_after=2), verb="patch", times=16):
        async with one.controller():
            report = await one.until(lambda r: state(r, "east")[1] == "throttled")
            refused = east.requests.count(verb="patch", resource="configmaps", status=429)
            assert refused <= 4
            assert report.clusters["east"].publication.current == 0
            await asyncio.sleep(1)
            assert east.requests.count(verb="patch", resource="configmaps", status=429) == refused
            assert east.requests.count(verb="patch", resource="secrets") == 0, "the bundle comes first"
            east.faults.clear()
            await one.published()


async def test_throttling_of_istiods_secret_is_honoured(one: World) -> None:
    east = one.clusters["east"]
    with east.faults.inject(Answer.throttled(retry_after=60), verb="patch", resource="secrets"):
        async with one.controller():
            await one.published()
            await eventually(lambda: east.requests.count(verb="patch", resource="secrets", status=429) > 0)
            await asyncio.sleep(1.5)
    assert east.requests.count(verb="patch", resource="secrets", status=429) == 1


async def test_conflicts_and_server_errors_are_tried_again(one: World) -> None:
    east = one.clusters["east"]
    conflict = Answer(409, "Conflict", "the object has been modified")
    east.faults.inject(conflict, verb="patch", times=2)
    east.faults.inject(Answer.server_error(), verb="patch", namespace="kube-system", times=1)
    async with one.controller():
        await one.published()
    assert east.requests.count(verb="patch", status=409) == 2


async def test_a_refused_object_counts_as_failed_and_is_reported(one: World) -> None:
    """As an immutable ConfigMap is, or what an admission webhook does not like."""
    invalid = Answer(422, "Invalid", "data: Forbidden: field is immutable when `immutable` is set")
    with one.clusters["east"].faults.inject(invalid, verb="patch", namespace="default"):
        async with one.controller():
            report = await one.until(
                lambda r: (
                    r.clusters["east"].publication.failed == 1 and r.clusters["east"].publication.current == 3
                )
            )
    assert state(report, "east") == ("degraded", "publication")
    assert report.clusters["east"].publication.problems[0].startswith("default: ")
    assert report.clusters["east"].publication.current == 3


async def test_a_writer_that_fights_is_answered_ever_more_slowly_and_named(one: World) -> None:
    east = one.clusters["east"]
    stop = asyncio.Event()

    async def fight() -> None:
        while not stop.is_set():
            if one.observed("east", "default") not in {None, "mine"}:
                east.patch("configmaps", "default", NAME, {"data": {KEY: "mine"}}, manager="pilot-discovery")
            await asyncio.sleep(0.01)

    async with one.controller(), asyncio.TaskGroup() as group:
        await one.published()
        group.create_task(fight())
        report = await one.until(lambda r: state(r, "east") == ("degraded", "other_writers"))
        assert report.clusters["east"].publication.other_writers == ["pilot-discovery"]
        assert "pilot-discovery" in report.clusters["east"].detail
        before = east.requests.count(verb="patch", status=200)
        await asyncio.sleep(1.5)
        assert east.requests.count(verb="patch", status=200) <= before + 1
        report = await one.until(lambda r: len(r.clusters["east"].publication.contents) == 2)
        assert report.clusters["east"].publication.current == 3
        stop.set()


async def test_a_failing_state_store_is_reported_and_nothing_is_lost(one: World) -> None:
    async with one.controller():
        generation = await one.published()
        documents = one.directory / "state" / "documents"
        (current,) = documents.glob("current")
        whole = current.read_bytes()
        current.write_bytes(whole[: len(whole) // 2])
        report = await one.until(lambda r: not r.ready)
        assert "current" in report.reasons[0]
        one.clusters["east"].create_namespace("meanwhile")
        await eventually(lambda: one.observed("east", "meanwhile") == generation.bundle_pem)
        current.write_bytes(whole)
        await one.until(lambda r: r.ready)
    latest = await in_force(one.store)
    assert latest == generation


async def test_fifteen_hundred_namespaces_are_published_and_nothing_is_written_twice(one: World) -> None:
    east = one.clusters["east"]
    for number in range(1500):
        east.create_namespace(f"shop-{number:04}")
    one.publication["max_concurrent_per_cluster"] = 32
    one.write_config()
    began = time.process_time()
    async with one.controller():
        await one.published()
        took = time.process_time() - began
        report = await one.until(lambda r: r.clusters["east"].publication.current == 1504)
        assert report.clusters["east"].publication.writes == 1504
        written = east.requests.count(verb="patch", resource="configmaps")
        secrets = east.requests.count(verb="patch", resource="secrets")
    assert (written, secrets) == (1505, 1), "each namespace once, and one claim of the mark in the first"
    assert took < 45
    async with one.controller("two"):
        await one.published(replica="two")
    assert east.requests.count(verb="patch", resource="configmaps") == written
    assert east.requests.count(verb="patch", resource="secrets") == secrets


async def test_no_pair_is_green_with_content_that_was_not_there_when_it_was_proved(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 6: it is proved with one bundle, another is read back since, and the next proof is slow to come."""
    may_prove = asyncio.Event()
    may_prove.set()

    async def slow(*args: Any, **more: Any) -> Matrix:
        await may_prove.wait()
        return await prove(*args, **more)

    monkeypatch.setattr("federation.controller.leader.prove", slow)
    east = two.clusters["east"]
    async with two.controller():
        await two.published()
        await two.until(lambda r: r.matrix.valid == 2)
        may_prove.clear()
        with east.faults.inject(Answer.forbidden(), verb="patch", resource="configmaps"):
            east.patch("configmaps", "default", NAME, {"data": {KEY: root("c").pem.decode()}})
            await two.until(lambda r: len(r.clusters["east"].publication.contents) == 2)
            report = await two.report()
            assert report is not None
            assert (report.matrix.valid, report.matrix.rows) == (0, ["-?", "?-"])
            assert (
                "east: not proved again since namespace default got another"
                in report.matrix.reasons["west>east"]
            )
            may_prove.set()
            await two.until(lambda r: r.matrix.rows == ["-x", "x-"])
        await two.until(lambda r: r.matrix.valid == 2)


async def test_no_pair_is_green_while_a_namespace_holds_nothing(two: World) -> None:
    """Promise 6: a workload there trusts no peer, even if every other namespace has the bundle."""
    east = two.clusters["east"]
    async with two.controller():
        await two.until(lambda r: r.matrix.valid == 2)
        with east.faults.inject(Answer.forbidden(), verb="patch", namespace="closed"):
            east.create_namespace("closed")
            report = await two.until(lambda r: r.clusters["east"].publication.selected == 5)
            report = await two.until(lambda r: r.matrix.valid == 0)
            assert report.matrix.rows == ["-?", "?-"]
            assert "east: 1 of 5 namespaces hold no bundle, not closed" in report.matrix.reasons["east>west"]
        await two.until(lambda r: r.matrix.valid == 2)


async def ends(_: Probe) -> None:
    return


async def ends_as_cancelled(_: Probe) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("work", [ends, ends_as_cancelled])
async def test_work_for_a_cluster_that_ends_by_itself_is_a_crash_and_begins_anew(
    one: World, monkeypatch: pytest.MonkeyPatch, work: Callable[[Probe], Awaitable[None]]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Probe, "run", work)
        async with one.controller():
            report = await one.until(lambda r: state(r, "east") == ("unavailable", "crashed"))
            assert "RuntimeError" in report.clusters["east"].detail
            patched.undo()
            await one.published()
            report = await one.until(lambda r: state(r, "east")[0] == "ready")
    assert not one.members, "cancelled, it ends"


async def test_a_member_that_is_connected_anew_goes_on_with_what_it_has_used(two: World) -> None:
    """A new budget's second was free each time, and that it had been over its budget was forgotten."""
    async with two.controller():
        await two.published()
        assert two.dependencies is not None
        before, budgets = two.members["west"], two.dependencies.budgets
        budget = budgets.of(ClusterName("west"))
        budget.charge(100.0)
        assert budget.due() is not None
        await two.until(lambda r: state(r)[1] == "over_budget")
        two.extra["west"] = {"network": "other"}
        two.write_config()
        await eventually(lambda: two.members.get("west") not in {None, before})
        assert two.dependencies.budgets is budgets
        assert budget.problem is not None
        now = two.clock.now().timestamp()
        report = await two.until(lambda r: r.updated > now and two.members["west"].config.network == "other")
        assert state(report)[1] == "over_budget"
        assert budgets.of(ClusterName("east")).problem is None
