"""Leadership by a Lease: never two at once under any fault of the API server, the clocks or the processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from federation.core.errors import StateUnavailable
from federation.state.kubernetes_lease import LeaseLeadership, LeaseTimings
from federation.state.kubernetes_store import KubernetesStore
from federation.state.store import Leadership
from federation_sandbox.apiserver.faults import Answer, Cut, Garbage, Hang
from federation_sandbox.cluster import SandboxCluster
from tests.state.places import Objects
from tests.support.clock import VirtualClock
from tests.support.clusters import eventually
from tests.support.patience import PATIENCE

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/federation.controller"
TIMINGS = LeaseTimings()


class Candidate:
    """A process that wants to lead, on a clock of its own."""

    def __init__(self, store: KubernetesStore, clock: VirtualClock, identity: str) -> None:
        self.clock = clock
        self.leadership: Leadership | None = None
        self.leave = asyncio.Event()
        self._task = asyncio.create_task(self._lead(store, identity))

    @property
    def observed(self) -> bool:
        return self.leadership is not None and self.leadership.leading

    async def _lead(self, store: KubernetesStore, identity: str) -> None:
        async with store.lead("controller", identity=identity) as self.leadership:
            await self.leave.wait()

    async def pass_time(self, seconds: float, *, step: float = 0.5) -> None:
        """Let time pass in steps, each long enough for the API server to answer."""
        for _ in range(round(seconds / step)):
            await self.clock.advance(step)
            await self.settled()

    async def settled(self) -> None:
        """Wait until nothing is on its way to the API server."""
        for _ in range(60_000):
            lost = self.leadership is not None and not self.leadership.leading
            if self.clock.sleeping or self._task.done() or lost:
                return
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def result(self) -> None:
        await asyncio.wait_for(self._task, PATIENCE)


@pytest.fixture
async def place(boxed: Objects) -> Objects:
    """Time is virtual; an answer has as much of the real one as a busy machine takes."""
    return replace(boxed, timings=TIMINGS, options={"timeout": 60.0, "request_timeout": 30.0})


@pytest.fixture
async def hasty(place: Objects) -> Objects:
    """Where an answer that never comes is waited for."""
    return replace(place, options={"timeout": 3.0, "request_timeout": 2.0})


@asynccontextmanager
async def candidate(place: Objects, identity: str) -> AsyncIterator[Candidate]:
    clock = VirtualClock()
    async with place.opened(clock) as store:
        found = Candidate(store, clock, identity)
        try:
            yield found
        finally:
            await found.end()


@asynccontextmanager
async def leader(place: Objects, identity: str = "a") -> AsyncIterator[Candidate]:
    async with candidate(place, identity) as found:
        await eventually(lambda: found.observed)
        await found.settled()
        yield found


async def lease(place: Objects) -> dict[str, Any]:
    assert place.api is not None
    answer = await place.api.get(LEASES.format(place.namespace))
    assert answer.status == 200, answer.raw
    found: dict[str, Any] = answer.json["spec"]
    return found


async def edit(place: Objects, **spec: Any) -> None:
    assert place.api is not None
    answer = await place.api.patch(LEASES.format(place.namespace), {"spec": spec})
    assert answer.status == 200, answer.raw


async def test_the_lease_says_who_leads_and_is_renewed(place: Objects) -> None:
    async with leader(place, "controller-0") as first:
        before = await lease(place)
        assert before["holderIdentity"].startswith("controller-0_")
        assert before["leaseDurationSeconds"] == 15
        assert before["leaseTransitions"] == 0
        await first.pass_time(30)
        after = await lease(place)
        assert first.observed
        assert after["renewTime"] > before["renewTime"]
        assert after["acquireTime"] == before["acquireTime"]
    assert "holderIdentity" not in await lease(place)  # given back


async def test_the_next_one_leads_at_once_where_it_was_given_back(place: Objects) -> None:
    async with leader(place, "a") as first:
        first.leave.set()
        await first.result()
        async with leader(place, "b") as second:
            assert second.observed
            assert not first.observed
            assert (await lease(place))["leaseTransitions"] == 1


@pytest.mark.parametrize(
    "effect", [Hang(), Answer.server_error(), Answer.throttled(1), Garbage(code=200), Cut(0)], ids=str
)
async def test_leadership_ends_by_the_deadline_where_it_cannot_be_renewed(
    box: SandboxCluster, place: Objects, effect: Any
) -> None:
    async with leader(place) as first:
        await first.pass_time(4)
        # The last renewal that was confirmed: a busy machine misses some.
        renewed = datetime.fromisoformat((await lease(place))["renewTime"])
        began = first.clock.monotonic() - (first.clock.now() - renewed).total_seconds()
        with (
            box.faults.inject(effect, verb="update", resource="leases"),
            box.faults.inject(Hang(), verb="get", resource="leases"),
        ):
            while first.clock.monotonic() - began < TIMINGS.deadline - TIMINGS.every:
                assert first.observed
                await first.clock.advance(0.5)
                await asyncio.sleep(0)
            await first.clock.advance(TIMINGS.every)
            assert not first.observed
        await first.pass_time(20)
        assert not first.observed  # nor later: it has to be elected again


async def test_a_short_outage_ends_no_leadership(box: SandboxCluster, place: Objects) -> None:
    async with leader(place) as first:
        await first.pass_time(4)
        with box.faults.inject(Answer.server_error(), resource="leases"):
            await first.pass_time(5)
        await first.pass_time(20)
        assert first.observed


async def test_a_blocked_process_no_longer_leads_when_it_wakes(place: Objects) -> None:
    """No task has run since; the query compares the clock itself."""
    async with leader(place) as first:
        first.clock.jump(TIMINGS.deadline)  # no sleeper was woken
        assert not first.observed


async def test_a_process_on_a_machine_that_slept_no_longer_leads(place: Objects) -> None:
    """The monotonic clock stands still meanwhile; the wall clock continues."""
    async with leader(place) as first:
        first.clock.step(TIMINGS.deadline)
        assert not first.observed
        first.clock.step(-TIMINGS.deadline)
        assert not first.observed


async def test_a_wall_clock_that_was_set_back_prolongs_nothing(place: Objects) -> None:
    async with leader(place) as first:
        first.clock.step(-3600)
        assert first.observed
        first.clock.jump(TIMINGS.deadline)
        assert not first.observed


@pytest.mark.parametrize("skew", [-86400.0, 0.0, 86400.0])
async def test_who_waits_trusts_no_clock_but_its_own(
    box: SandboxCluster, place: Objects, skew: float
) -> None:
    """A dead leader's lease is taken over after its duration has been seen to pass, regardless of the times in it."""
    async with leader(place, "dead") as dead:
        await dead.end()
        await edit(place, holderIdentity="dead_0", leaseDurationSeconds=20)
        async with candidate(place, "b") as second:
            second.clock.step(skew)
            await second.settled()
            await second.pass_time(19.5)
            early = second.observed
            await second.pass_time(4)
            assert second.observed > early
            assert (await lease(place))["holderIdentity"].startswith("b_")


async def test_a_candidate_never_takes_over_a_lease_that_is_renewed(place: Objects) -> None:
    async with leader(place, "a") as first, candidate(place, "b") as second:
        for _ in range(30):
            await first.pass_time(2)
            await second.pass_time(2)
            assert first.observed
            assert not second.observed


async def test_there_are_never_two_where_the_leader_is_cut_off(box: SandboxCluster, place: Objects) -> None:
    """Both clocks run alike; the leader's requests fail from some moment on."""
    async with leader(place, "a") as first, candidate(place, "b") as second:
        await second.settled()
        await first.pass_time(2)
        with box.faults.inject(Answer.server_error(), verb="update", resource="leases", times=10_000) as cut:
            handed_over = False
            for _ in range(60):
                await first.clock.advance(0.5)
                await second.clock.advance(0.5)
                await second.settled()
                assert not (first.observed and second.observed)
                if second.clock.monotonic() > 16:
                    cut.lift()
                handed_over = handed_over or second.observed
            assert handed_over
            assert not first.observed


async def test_a_leader_whose_lease_was_taken_knows_at_the_next_renewal(place: Objects) -> None:
    async with leader(place, "a") as first:
        await edit(place, holderIdentity="another")
        await first.pass_time(3)
        assert not first.observed
        await first.end()
    assert (await lease(place))["holderIdentity"] == "another"  # what is not ours is not given back


async def test_a_deleted_lease_is_created_again_by_its_holder_while_a_candidate_waits(
    place: Objects,
) -> None:
    """A PUT of a Lease that is not there makes it: the holder's next renewal, unless another was first."""
    assert place.api is not None
    async with leader(place, "a") as first, candidate(place, "b") as second:
        await second.settled()
        await second.pass_time(2)
        await place.api.delete(LEASES.format(place.namespace))
        await second.pass_time(10)
        assert not second.observed  # the first may not know yet
        await first.pass_time(3)
        assert first.observed
        assert (await lease(place))["holderIdentity"].startswith("a_")
        await place.api.delete(LEASES.format(place.namespace))
        async with leader(place, "new") as third:  # saw no Lease before, so it does not wait
            assert third.observed
            await first.pass_time(3)
            assert not first.observed


async def test_an_edit_of_its_metadata_ends_no_leadership(place: Objects) -> None:
    assert place.api is not None
    async with leader(place) as first:
        await place.api.patch(LEASES.format(place.namespace), {"metadata": {"labels": {"team": "mesh"}}})
        await first.pass_time(30)
        assert first.observed


async def test_a_renewal_whose_answer_was_lost_ends_no_leadership(
    box: SandboxCluster, place: Objects
) -> None:
    async with leader(place) as first:
        with box.faults.inject(Cut(after=0), verb="update", resource="leases", times=1) as fault:
            await first.pass_time(4)
        assert fault.hits == 1
        await first.pass_time(20)
        assert first.observed


@pytest.mark.parametrize("verb", ["create", "update"])
async def test_a_takeover_whose_answer_was_lost_is_found_to_be_ours(
    box: SandboxCluster, place: Objects, verb: str
) -> None:
    if verb == "update":
        async with leader(place, "before"):
            pass
    with box.faults.inject(Cut(after=0), verb=verb, resource="leases", times=1) as fault:
        async with candidate(place, "a") as first:
            await first.settled()
            await first.pass_time(4)
            assert first.observed
    assert fault.hits == 1


async def test_two_processes_of_one_name_are_two(place: Objects) -> None:
    async with leader(place, "same") as first, candidate(place, "same") as second:
        for _ in range(10):
            await first.pass_time(2)
            await second.pass_time(2)
        assert first.observed
        assert not second.observed


async def test_an_outage_while_waiting_does_not_start_the_wait_anew(
    box: SandboxCluster, place: Objects
) -> None:
    async with leader(place, "dead") as dead:
        await dead.end()
        await edit(place, holderIdentity="dead_0", leaseDurationSeconds=15)
        async with candidate(place, "b") as second:
            await second.settled()
            await second.pass_time(6)
            with box.faults.inject(Answer.server_error(), verb="get", resource="leases"):
                await second.pass_time(4)
            await second.pass_time(9)
            assert second.observed


@pytest.mark.parametrize(
    ("effect", "remedy"),
    [(Answer.forbidden(), "manifests/hub"), (Hang(), "API server"), (Garbage(code=200), "proxies")],
    ids=str,
)
async def test_a_lease_that_cannot_be_read_is_an_error(
    box: SandboxCluster, hasty: Objects, effect: Any, remedy: str
) -> None:
    async with candidate(hasty, "a") as first:
        with box.faults.inject(effect, resource="leases"), pytest.raises(StateUnavailable) as caught:
            await first.result()
    assert remedy in caught.value.remedy
    assert caught.value.where == f"Lease {hasty.namespace}/federation.controller"


async def test_an_outage_longer_than_the_lease_ends_the_waiting(box: SandboxCluster, place: Objects) -> None:
    async with leader(place, "a"), candidate(place, "b") as second:
        await second.settled()
        with box.faults.inject(Answer.server_error(), resource="leases"):
            await second.pass_time(TIMINGS.duration + 2 * TIMINGS.every)
            with pytest.raises(StateUnavailable, match="500"):
                await second.result()


async def test_in_a_missing_namespace_leading_is_an_error(box: SandboxCluster, place: Objects) -> None:
    options = {"timeout": 20.0, "request_timeout": 10.0}  # how soon it fails is not tested here
    async with replace(place, namespace="missing", options=options).opened() as store:
        with pytest.raises(StateUnavailable, match="namespace is not there"):
            async with store.lead("controller", identity="a"):
                pytest.fail("leading in a missing namespace")


async def test_leaving_does_not_hang_with_the_api_server(box: SandboxCluster, hasty: Objects) -> None:
    async with leader(hasty) as first:
        with box.faults.inject(Hang(), resource="leases"):
            first.leave.set()
            await first.result()
    assert not first.observed


def test_a_renewal_that_comes_too_late_is_no_renewal() -> None:
    clock = VirtualClock()
    leadership = LeaseLeadership(clock, deadline=10.0)
    clock.jump(10.0)
    leadership.renewed(9.9, clock.now() - timedelta(seconds=0.1))
    assert not leadership.leading
