"""The circuit and the limiter of an authority, by a clock that a test moves."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from federation.core.documents.signer import AuthorityReport
from federation.core.errors import (
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    FederationError,
)
from federation.core.pki.certificate import Certificate
from federation.signer.authorities.authority import (
    AuthorityBasics,
    BackEndContext,
    IssuedLeaf,
    LeafRequest,
    ManagedAuthority,
)
from federation.signer.authorities.limiter import (
    FAILURES,
    LONGEST_PROBE,
    Limiter,
)
from tests.authorities.back_end import back_end_context, order
from tests.support import pki
from tests.support.clock import VirtualClock

DOWN = AuthorityUnavailable("no answer", reason="timeout", remedy="start it")


class Scripted(ManagedAuthority):
    """An authority that answers as a test scripts it."""

    def __init__(self, context: BackEndContext, limiter: Limiter) -> None:
        super().__init__(
            AuthorityBasics(name="inner", kind="test", poll_seconds=30.0, context=context, limiter=limiter)
        )
        self.fails: FederationError | None = None
        self.sick: FederationError | None = None
        self.blind = False
        self.asked = 0
        self.polled = 0

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        return self._anchors

    @property
    def _has_what_it_needs(self) -> bool:
        return self.sick is None

    def _describe(self) -> AuthorityReport:
        if self.sick is None:
            return AuthorityReport(name="inner", kind="test", state="ready")
        return AuthorityReport(
            name="inner", kind="test", state="unavailable", reason=self.sick.reason, detail=str(self.sick)
        )

    def _judge_again(self) -> None:
        """What it is does not depend on anchors."""

    async def _issue(self, order: LeafRequest) -> IssuedLeaf:
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        return IssuedLeaf(b"leaf", (), built_by_hub=True)

    async def _poll(self) -> bool:
        self.polled += 1
        return self.sick is None and not self.blind

    async def close(self) -> None:
        self.polled = -1


def scripted(clock: VirtualClock, *, quota: float = 0.0) -> Scripted:
    limiter = Limiter(
        quota=quota,
        max_in_flight=100,
        max_queued=100,
        patience=5.0,
        lifetime=lambda: 3600.0,
        clock=clock,
        jitter=random.Random(7),
        where="inner",
    )
    return Scripted(back_end_context(clock), limiter)


async def refused(authority: Scripted) -> FederationError:
    with pytest.raises(FederationError) as caught:
        await authority.issue(order(now=pki.NOW))
    return caught.value


async def break_it(authority: Scripted, error: FederationError = DOWN) -> None:
    authority.fails = error
    for _ in range(FAILURES):
        await refused(authority)


async def test_failures_in_a_row_open_it_and_readiness_says_so() -> None:
    clock = VirtualClock()
    authority = scripted(clock)
    authority.fails = DOWN
    for _ in range(FAILURES - 1):
        await refused(authority)
    authority.fails = None
    await authority.issue(order(now=pki.NOW))  # a success between starts the count anew
    await break_it(authority)
    asked = authority.asked
    error = await refused(authority)
    assert isinstance(error, AuthorityUnavailable)
    assert (error.reason, error.remedy) == ("timeout", "start it")
    assert authority.asked == asked, "no caller waits for a back end that is left alone"
    report = authority.describe()
    assert (report.state, report.circuit, report.reason) == ("unavailable", "open", "timeout")
    assert report.retry_at > clock.now().timestamp()
    assert not authority.can_sign


async def test_after_a_good_poll_one_request_is_tried() -> None:
    clock = VirtualClock()
    authority = scripted(clock)
    await break_it(authority)
    await authority.refresh()
    assert authority.polled == 0, "not before the probe is due"
    await clock.advance(authority.pause)
    await authority.refresh()
    assert authority.describe().circuit == "half-open"
    assert authority.describe().state == "degraded"
    asked = authority.asked
    outcomes = await asyncio.gather(
        *(authority.issue(order(now=pki.NOW)) for _ in range(5)), return_exceptions=True
    )
    assert authority.asked == asked + 1
    assert all(isinstance(outcome, AuthorityUnavailable) for outcome in outcomes)
    assert authority.describe().circuit == "open"
    await clock.advance(authority.pause)
    await authority.refresh()
    authority.fails = None
    await authority.issue(order(now=pki.NOW))
    assert authority.describe().circuit == "closed"
    assert authority.describe().state == "ready"


async def test_a_poll_that_failed_lets_no_request_try_although_an_earlier_one_stays_in_force() -> None:
    """As where the hub builds the leaf: the pair that was good last stays, whatever the back end answers now."""
    clock = VirtualClock()
    authority = scripted(clock)
    await break_it(authority)
    authority.blind = True
    await clock.advance(authority.pause)
    await authority.refresh()
    assert authority.sick is None, "what it has is good"
    assert (authority.describe().circuit, authority.can_sign) == ("open", False)
    authority.blind = False
    await clock.advance(authority.pause)
    await authority.refresh()
    assert authority.describe().circuit == "half-open"


async def test_probes_back_off_with_jitter_up_to_a_bound() -> None:
    clock = VirtualClock()
    authority = scripted(clock)
    await break_it(authority)
    authority.sick = DOWN
    pauses = []
    for _ in range(12):
        pauses.append(authority.pause)
        await clock.advance(authority.pause)
        await authority.refresh()
    assert pauses[0] <= 1.0
    assert pauses[-1] > LONGEST_PROBE / 2
    assert max(pauses) <= LONGEST_PROBE
    assert len(set(pauses)) == len(pauses)
    assert authority.polled == 12


async def test_a_refused_request_is_no_failure_of_the_back_end() -> None:
    clock = VirtualClock()
    authority = scripted(clock)
    authority.fails = AuthorityRefused("the role does not allow it", reason="role_too_narrow")
    for _ in range(FAILURES * 3):
        assert isinstance(await refused(authority), AuthorityRefused)
    assert authority.describe().circuit == "closed"


async def test_forbidden_opens_it_as_an_outage_does() -> None:
    clock = VirtualClock()
    authority = scripted(clock)
    await break_it(authority, AuthorityMisconfigured("403", reason="forbidden", remedy="grant it"))
    report = authority.describe()
    assert (report.circuit, report.reason, report.remedy) == ("open", "forbidden", "grant it")


async def test_throttling_slows_down_and_opens_nothing() -> None:
    clock = VirtualClock()
    authority = scripted(clock, quota=10.0)
    authority.fails = AuthorityThrottled("429", retry_after=2.0)
    await refused(authority)
    authority.fails = None
    waiting = asyncio.create_task(authority.issue(order(now=pki.NOW)))
    await clock.advance(1.9)
    assert not waiting.done()
    assert authority.describe().queued == 1
    await clock.advance(0.5)
    assert (await waiting).der == b"leaf"
    assert authority.describe().circuit == "closed"


async def test_throttling_is_reported_until_a_request_passes() -> None:
    clock = VirtualClock()
    authority = scripted(clock)
    authority.fails = AuthorityThrottled("429")
    await refused(authority)
    report = authority.describe()
    assert (report.state, report.reason, report.circuit) == ("degraded", "throttled", "closed")
    assert "429" in report.detail
    assert "quota" in report.remedy
    authority.fails = None
    served = asyncio.create_task(authority.issue(order(now=pki.NOW)))
    await clock.advance(2.0)
    await served
    assert authority.describe().state == "ready"


async def test_a_caller_that_gives_up_as_the_probe_blocks_no_caller_after_it() -> None:
    clock = VirtualClock()
    authority = scripted(clock)
    await break_it(authority)
    await clock.advance(authority.pause)
    await authority.refresh()
    authority.fails = None
    probe = asyncio.create_task(authority.issue(order(now=pki.NOW)))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert (await authority.issue(order(now=pki.NOW))).der == b"leaf"


async def test_the_report_says_quota_use_and_how_many_workloads_that_carries() -> None:
    clock = VirtualClock()
    authority = scripted(clock, quota=25.0)
    authority.take_share(0.5)
    for _ in range(30):
        await authority.issue(order(now=pki.NOW, life=timedelta(hours=1)))
        await clock.advance(1.0)
    report = authority.describe()
    assert (report.quota, report.share) == (25.0, 12.5)
    assert report.capacity == 45_000, "25 a second, an hour's life, renewed at half of it"
    assert 0.2 < report.rate <= 1.0
