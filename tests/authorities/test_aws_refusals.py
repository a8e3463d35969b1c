"""A request to AWS Private CA: every refusal that its documentation lists, and every way to lose an answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.web import StreamResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
)
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import Alarms
from federation.signer.authorities.aws.client import MAX_QUOTED, AwsCall, error_of
from federation.signer.authorities.aws.private_ca import POLLS_PER_CERTIFICATE, SHORTEST, Pace
from tests.authorities.aws_cases import (
    LOST,
    answering,
    issue,
    looked_at,
    opened,
    refusing,
)
from tests.authorities.aws_world import (
    Seen,
    World,
    open_world,
    refuse,
    with_keys,
)
from tests.authorities.back_end import order
from tests.support.patience import PATIENCE

JWT = "eyJhbGciOiJFUzI1NiJ9.first.signature"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    with_keys(monkeypatch)
    async with open_world() as opened_world:
        yield opened_world


ORDER_ERRORS = [
    ("ThrottlingException", "Rate exceeded", AuthorityThrottled, "throttled"),
    ("RequestLimitExceeded", "", AuthorityThrottled, "throttled"),
    ("LimitExceededException", "too many certificates", AuthorityMisconfigured, "limit_exceeded"),
    ("AccessDeniedException", "User is not authorized", AuthorityMisconfigured, "forbidden"),
    ("ExpiredTokenException", "The security token is expired", AuthorityMisconfigured, "credentials_expired"),
    ("UnrecognizedClientException", "", AuthorityMisconfigured, "credentials_refused"),
    ("RequestTimeTooSkewed", "", AuthorityMisconfigured, "clock_skew"),
    (
        "InvalidSignatureException",
        "Signature expired: 20261124T1 is now earlier than",
        AuthorityMisconfigured,
        "clock_skew",
    ),
    (
        "InvalidSignatureException",
        "The request signature we calculated does not match the signature you provided.",
        AuthorityMisconfigured,
        "credentials_refused",
    ),
    ("ResourceNotFoundException", "", AuthorityMisconfigured, "not_found"),
    ("InvalidArnException", "", AuthorityMisconfigured, "not_found"),
    ("MalformedCSRException", "bad", AuthorityRefused, "csr_refused"),
    ("InvalidArgsException", "The validity exceeds the CA's", AuthorityRefused, "arguments_refused"),
    ("ValidationException", "1 validation error", AuthorityRefused, "arguments_refused"),
    ("RegionDisabledException", "", AuthorityMisconfigured, "region_disabled"),
    ("NeverHeardOfException", "", AuthorityMisconfigured, "refused"),
]


async def test_every_refusal_of_a_request_has_its_own_reason(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        for code, message, kind, reason in ORDER_ERRORS:
            world.front.seen.clear()
            world.front.before = answering("IssueCertificate", refusing(code, message))
            with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
                await authority.issue(order())
            error = caught.value
            assert (type(error), error.reason, error.where) == (kind, reason, "pca"), code
            assert error.remedy
            assert message in str(error)
            assert len(world.front.calls("IssueCertificate")) == 1
            assert not world.front.calls("GetCertificate")


async def test_the_permission_that_is_missing_is_named(world: World) -> None:
    world.front.before = answering(
        "DescribeCertificateAuthority", lambda _: refuse("AccessDeniedException", "is not authorized")
    )
    report = await looked_at(world, await world.private_ca())
    assert (report.state, report.reason) == ("unavailable", "forbidden")
    assert "acm-pca:DescribeCertificateAuthority" in report.remedy


async def test_a_failed_poll_is_never_a_fault_of_the_request(world: World) -> None:
    world.front.before = answering(
        "DescribeCertificateAuthority", lambda _: refuse("ValidationException", "1 validation error")
    )
    async with opened(world, await world.private_ca()) as authority:
        assert authority.describe().reason == "arguments_refused"
        with pytest.raises(AuthorityMisconfigured):
            await authority.issue(order())


async def test_a_request_without_a_subject_needs_a_critical_san(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        message = "CSR must mark the SAN extension critical when it has an empty subject"
        world.front.before = answering(
            "IssueCertificate", lambda _: refuse("MalformedCSRException", message), 1
        )
        with pytest.raises(AuthorityRefused) as caught:
            await authority.issue(order())
        assert "ztunnel" in caught.value.remedy
        assert authority.describe().state == "degraded"
        await issue(world, authority)
        assert authority.describe().state == "ready"


@given(
    code=st.text(max_size=80),
    message=st.text(max_size=600),
    status=st.integers(100, 599),
    may_issue=st.booleans(),
    at=st.integers(0, 600),
)
@settings(max_examples=200, deadline=None)
def test_any_answer_becomes_a_bounded_printable_error(
    code: str, message: str, status: int, may_issue: bool, at: int
) -> None:
    call = AwsCall("sts:AssumeRoleWithWebIdentity", "pca", may_issue=may_issue, secret=JWT)
    error = error_of(code, status, message[:at] + JWT + message[at:], call)
    assert isinstance(error, AuthorityError | AuthorityUnavailable)
    assert error.reason.replace("_", "").isalpha()
    assert str(error).isprintable()
    assert len(str(error)) < MAX_QUOTED + 200
    assert JWT not in error.diagnostics()


def test_a_validation_error_that_repeats_the_token_is_not_quoted() -> None:
    call = AwsCall("sts:AssumeRoleWithWebIdentity", "pca", secret=JWT)
    error = error_of("ValidationError", 400, f"Value '{JWT[:20]}' at 'webIdentityToken' failed", call)
    assert JWT[:20] not in str(error)


async def test_an_answer_that_is_none_counts_as_issued(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        alarms = Alarms(SystemClock())
        for number, (how, answer) in enumerate(LOST.items(), 1):
            world.front.seen.clear()
            world.front.before = answering("IssueCertificate", answer)
            with pytest.raises(AuthorityUncertain):
                await issue(world, authority, alarms=alarms)
            assert alarms.uncertain == number, how
            tokens = [call.parameters["IdempotencyToken"] for call in world.front.calls("IssueCertificate")]
            assert 1 <= len(tokens) <= 3, how
            assert len(set(tokens)) == 1, how


async def test_a_lost_answer_is_asked_for_again_and_issues_once(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        lost: list[Seen] = []

        def lose(call: Seen) -> bool:
            if call.operation != "IssueCertificate" or lost:
                return False
            lost.append(call)
            return True

        arns: list[str] = []

        def remember(call: Seen, answer: dict[str, Any]) -> dict[str, Any]:
            if call.operation == "GetCertificate":
                arns.append(call.parameters["CertificateArn"])
            return answer

        world.front.lose, world.front.after = lose, remember
        await issue(world, authority)
        first, second = world.front.calls("IssueCertificate")
        assert first.parameters == second.parameters
        assert 16 <= len(first.parameters["IdempotencyToken"]) <= 36
        assert len(set(arns)) == 1
        await issue(world, authority)
        third = world.front.calls("IssueCertificate")[-1]
        assert third.parameters["IdempotencyToken"] != first.parameters["IdempotencyToken"]


async def test_what_follows_a_lost_answer_does_not_make_it_certain(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        for then in ("ThrottlingException", "AccessDeniedException"):
            world.front.seen.clear()
            answers = iter([LOST["cut"], *[refusing(then)] * 2])

            def in_turn(
                call: Seen, left: Iterator[Callable[[Seen], StreamResponse]] = answers
            ) -> StreamResponse:
                return next(left)(call)

            world.front.before = answering("IssueCertificate", in_turn)
            with pytest.raises(AuthorityUncertain):
                await authority.issue(order())
            assert len(world.front.calls("IssueCertificate")) == 3, then


async def test_a_throttled_repetition_may_still_make_it_certain(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        answers = iter([LOST["cut"], refusing("ThrottlingException")])
        world.front.before = answering("IssueCertificate", lambda call: next(answers)(call), 2)
        await issue(world, authority)
        asked = world.front.calls("IssueCertificate")
        assert len(asked) == 3
        assert len({call.parameters["IdempotencyToken"] for call in asked}) == 1


async def test_a_hung_call_ends_in_time_and_counts_as_issued(world: World) -> None:
    async with opened(world, await world.private_ca(timeout=6.0)) as authority:

        async def hang(call: Seen) -> web.StreamResponse | None:
            if call.operation == "IssueCertificate":
                await asyncio.Event().wait()
            return None

        world.front.before = hang
        with pytest.raises(AuthorityUncertain):
            async with asyncio.timeout(PATIENCE):  # the answer never comes
                await authority.issue(order())


async def test_what_is_never_issued_counts_as_issued(world: World) -> None:
    world.front.before = answering("GetCertificate", lambda _: refuse("RequestInProgressException"))
    for timeout in (6.0, 60.0):  # on a busy machine the first may end before the call was accepted
        async with opened(world, await world.private_ca(timeout=timeout), SystemClock()) as authority:
            with pytest.raises(AuthorityUncertain) as caught:
                await authority.issue(order())
        if "accepted" in str(caught.value):
            break
    assert "accepted" in str(caught.value)
    asked = Counter(call.parameters["CertificateArn"] for call in world.front.calls("GetCertificate"))
    assert asked
    # Each pause is twice the one before: ten times the time is four polls more.
    assert max(asked.values()) <= POLLS_PER_CERTIFICATE + (1 if timeout == 6.0 else 5)


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("AccessDeniedException", AuthorityUncertain, "forbidden"),
        ("ResourceNotFoundException", AuthorityUncertain, "not_found"),
        ("ValidationException", AuthorityUncertain, "arguments_refused"),
        ("RequestFailedException", AuthorityRefused, "issuing_failed"),
    ],
)
async def test_accepted_but_not_to_be_had(
    world: World, code: str, kind: type[Exception], reason: str
) -> None:
    async with opened(world, await world.private_ca()) as authority:
        world.front.before = answering("GetCertificate", lambda _: refuse(code, "is in a failed state"))
        with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
            await authority.issue(order())
        assert (type(caught.value), caught.value.reason) == (kind, reason)
        assert len(world.front.calls("GetCertificate")) == 1


async def test_fetching_goes_on_after_a_passing_failure(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        for answer in (LOST["cut"], LOST["503"], refusing("ThrottlingException", "Rate exceeded")):
            world.front.seen.clear()
            world.front.before = answering("GetCertificate", answer, 1)
            await issue(world, authority)
            assert len(world.front.calls("IssueCertificate")) == 1
            assert len(world.front.calls("GetCertificate")) >= 2


async def test_a_certificate_is_polled_for_at_most_three_times(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        await asyncio.gather(*(issue(world, authority) for _ in range(20)))
        asked = len(world.front.calls("IssueCertificate"))
        assert asked == 20
        assert len(world.front.calls("GetCertificate")) <= asked * POLLS_PER_CERTIFICATE


@given(takes=st.floats(0.01, 7.0), spread=st.floats(0.0, 0.5), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_the_pace_stays_within_the_quota_however_long_issuing_takes(
    takes: float, spread: float, seed: int
) -> None:
    chance = random.Random(seed)
    pace = Pace(random.Random(seed), timeout=8.0)
    looks_of, waited_of = [], []
    for _ in range(200):
        ready = takes * chance.uniform(1 - spread, 1 + spread)
        looks, waited = 0, 0.0
        while waited < ready:
            waited += pace.wait(looks)
            looks += 1
        pace.found(looks)
        looks_of.append(looks)
        waited_of.append(waited)
    settled = looks_of[50:]
    assert sum(settled) / len(settled) <= POLLS_PER_CERTIFICATE
    assert max(waited_of[50:]) <= max(3.4 * takes * (1 + spread), 1.3 * SHORTEST)
