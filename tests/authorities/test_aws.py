"""AWS Private CA and KMS: what AWS's documentation promises, every failure it lists, and moto's own wrong answers.

The contract suite covers what all back ends have in common; here is what only AWS has.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.clock import Clock
from federation.core.config.authority_model import (
    AwsConfig,
    AwsKmsAuthorityConfig,
    AwsPcaAuthorityConfig,
    JwtRef,
)
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import LeafProfile
from federation.runtime.clock import SystemClock
from federation.signer.authorities.aws.described_ca import SAFE_TEMPLATES, template_arn
from federation.signer.authorities.aws.failures import MAX_QUOTED, Call, error_of
from federation.signer.authorities.aws.kms import KmsPair
from federation.signer.authorities.aws.pace import LOOKS_PER_CERTIFICATE, SHORTEST, Pace
from federation.signer.authorities.catalogue import AuthoritySettings
from federation.signer.authorities.checked import Alarms, CheckedLeaf, issue_checked
from federation.signer.authorities.interface import KeptAuthority, LeafOrder
from federation.signer.authorities.own_credentials import OwnCredentials
from federation.state.documents import AuthorityReport
from tests.authorities.aws_world import (
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    Seen,
    World,
    cut,
    open_world,
    refuse,
    with_keys,
    without_keys,
)
from tests.authorities.back_end import BackEnd, authority_of, order, surroundings
from tests.support import pki
from tests.support.clock import VirtualClock

ROLE = "arn:aws:iam::123456789012:role/federation-hub"
JWT = "eyJhbGciOiJFUzI1NiJ9.first.signature"
NEXT_JWT = "eyJhbGciOiJFUzI1NiJ9.second.signature"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    with_keys(monkeypatch)
    async with open_world() as opened:
        yield opened


@pytest.fixture
async def plain_moto(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """moto without the corrections: an AWS that breaks its word."""
    with_keys(monkeypatch)
    async with open_world(corrected=False) as opened:
        yield opened


class HurriedClock(SystemClock):
    """The system's clock, but waits between attempts take a tenth of their time."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 10)


@asynccontextmanager
async def opened(
    world: World, config: AwsPcaAuthorityConfig | AwsKmsAuthorityConfig, clock: Clock | None = None
) -> AsyncIterator[KeptAuthority]:
    back_end = BackEnd(settings=AuthoritySettings(config), root=world.root.certificate)
    async with authority_of(back_end, clock=clock or HurriedClock()) as authority:
        yield authority


async def issue(
    world: World, authority: KeptAuthority, wanted: LeafOrder | None = None, alarms: Alarms | None = None
) -> CheckedLeaf:
    return await issue_checked(
        authority,
        wanted or order(),
        anchors=(world.root.certificate,),
        at=SystemClock().now(),
        alarms=alarms or Alarms(SystemClock()),
    )


async def looked_at(world: World, config: AwsPcaAuthorityConfig | AwsKmsAuthorityConfig) -> AuthorityReport:
    async with opened(world, config) as authority:
        return authority.describe()


def answering(operation: str, answer: Callable[[Seen], web.StreamResponse], times: int = 1000) -> Any:
    """A spoiler that gives the first calls of an operation that answer."""
    left = times

    async def spoil(call: Seen) -> web.StreamResponse | None:
        nonlocal left
        if call.operation != operation or left == 0:
            return None
        left -= 1
        return answer(call)

    return spoil


def now_clock() -> VirtualClock:
    """Virtual time that begins now, because moto lives by the system's clock."""
    return VirtualClock(SystemClock().now().replace(microsecond=0))


# What AWS answers, and what becomes of it

ORDER_ERRORS = [
    ("ThrottlingException", "Rate exceeded", AuthorityThrottled, "throttled"),
    ("RequestLimitExceeded", "", AuthorityThrottled, "throttled"),
    ("LimitExceededException", "too many certificates", AuthorityThrottled, "limit_exceeded"),
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


async def test_every_refusal_of_an_order_is_told_apart(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        for code, message, kind, reason in ORDER_ERRORS:
            world.front.seen.clear()
            world.front.before = answering("IssueCertificate", _refusing(code, message))
            with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
                await authority.issue(order())
            error = caught.value
            assert (type(error), error.reason, error.where) == (kind, reason, "pca"), code
            assert error.remedy
            assert message in str(error)
            assert len(world.front.calls("IssueCertificate")) == 1
            assert not world.front.calls("GetCertificate")


def _refusing(code: str, message: str = "", status: int = 400) -> Callable[[Seen], web.StreamResponse]:
    return lambda _: refuse(code, message, status)


async def test_the_permission_that_is_missing_is_named(world: World) -> None:
    world.front.before = answering(
        "DescribeCertificateAuthority", lambda _: refuse("AccessDeniedException", "is not authorized")
    )
    report = await looked_at(world, await world.private_ca())
    assert (report.state, report.reason) == ("unavailable", "forbidden")
    assert "acm-pca:DescribeCertificateAuthority" in report.remedy


async def test_a_look_is_never_the_fault_of_an_order(world: World) -> None:
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
def test_whatever_it_answers_becomes_a_bounded_printable_error(
    code: str, message: str, status: int, may_issue: bool, at: int
) -> None:
    call = Call("sts:AssumeRoleWithWebIdentity", "pca", may_issue=may_issue, secret=JWT)
    error = error_of(code, status, message[:at] + JWT + message[at:], call)
    assert isinstance(error, AuthorityError | AuthorityUnavailable)
    assert error.reason.replace("_", "").isalpha()
    assert str(error).isprintable()
    assert len(str(error)) < MAX_QUOTED + 200
    assert JWT not in error.diagnostics()


def test_a_validation_error_that_repeats_the_token_is_not_quoted() -> None:
    call = Call("sts:AssumeRoleWithWebIdentity", "pca", secret=JWT)
    error = error_of("ValidationError", 400, f"Value '{JWT[:20]}' at 'webIdentityToken' failed", call)
    assert JWT[:20] not in str(error)


# Answers that are late, lost or no answers

LOST = {
    "cut": lambda call: cut(call.request),
    "500": lambda _: refuse("InternalFailure", "", 500),
    "502": lambda _: web.Response(status=502, text="<html>bad gateway</html>"),
    "503": lambda _: refuse("ServiceUnavailableException", "", 503),
    "html": lambda _: web.Response(text="<html>welcome</html>"),
    "list": lambda _: web.json_response([1, 2]),
    "bytes": lambda _: web.Response(body=b"\xff\xfe\x00"),
    "empty": lambda _: web.json_response({}),
    "other": lambda _: web.json_response({"CertificateArn": "arn:aws:acm-pca:::certificate-authority/x"}),
}


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
            answers = iter([LOST["cut"], *[_refusing(then)] * 2])
            world.front.before = answering("IssueCertificate", lambda call, left=answers: next(left)(call))
            with pytest.raises(AuthorityUncertain):
                await authority.issue(order())
            assert len(world.front.calls("IssueCertificate")) == 3, then


async def test_a_throttled_repetition_may_still_make_it_certain(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        answers = iter([LOST["cut"], _refusing("ThrottlingException")])
        world.front.before = answering("IssueCertificate", lambda call: next(answers)(call), 2)
        await issue(world, authority)
        asked = world.front.calls("IssueCertificate")
        assert len(asked) == 3
        assert len({call.parameters["IdempotencyToken"] for call in asked}) == 1


async def test_a_hung_call_ends_in_time_and_counts_as_issued(world: World) -> None:
    async with opened(world, await world.private_ca(timeout=0.6)) as authority:

        async def hang(call: Seen) -> web.StreamResponse | None:
            if call.operation == "IssueCertificate":
                await asyncio.sleep(30)
            return None

        world.front.before = hang
        begun = time.monotonic()
        with pytest.raises(AuthorityUncertain):
            await authority.issue(order())
        assert time.monotonic() - begun < 3


async def test_what_is_never_issued_counts_as_issued(world: World) -> None:
    async with opened(world, await world.private_ca(timeout=0.8), SystemClock()) as authority:
        world.front.before = answering("GetCertificate", lambda _: refuse("RequestInProgressException"))
        with pytest.raises(AuthorityUncertain) as caught:
            await authority.issue(order())
        assert "accepted" in str(caught.value)
        assert 1 <= len(world.front.calls("GetCertificate")) <= LOOKS_PER_CERTIFICATE + 1


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("AccessDeniedException", AuthorityUncertain, "forbidden"),
        ("ResourceNotFoundException", AuthorityUncertain, "not_found"),
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
        for answer in (LOST["cut"], LOST["503"], _refusing("ThrottlingException", "Rate exceeded")):
            world.front.seen.clear()
            world.front.before = answering("GetCertificate", answer, 1)
            await issue(world, authority)
            assert len(world.front.calls("IssueCertificate")) == 1
            assert len(world.front.calls("GetCertificate")) >= 2


async def test_no_more_than_three_looks_for_a_certificate(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        await asyncio.gather(*(issue(world, authority) for _ in range(20)))
        asked = len(world.front.calls("IssueCertificate"))
        assert asked == 20
        assert len(world.front.calls("GetCertificate")) <= asked * LOOKS_PER_CERTIFICATE


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
    assert sum(settled) / len(settled) <= LOOKS_PER_CERTIFICATE
    assert max(waited_of[50:]) <= max(3.4 * takes * (1 + spread), 1.3 * SHORTEST)


# What AWS may break its word about


async def test_moto_as_it_is_lets_a_leaf_outlive_its_order(plain_moto: World) -> None:
    async with opened(plain_moto, await plain_moto.private_ca("RSA_2048")) as authority:
        assert authority.describe().state == "ready"
        alarms = Alarms(SystemClock())
        with pytest.raises(AuthorityViolation) as caught:
            await issue(plain_moto, authority, alarms=alarms)
        assert caught.value.reason == "outlives_request"
        assert alarms.violations == 1


async def test_moto_as_it_is_gives_the_door_a_leaf_of_no_use(plain_moto: World) -> None:
    async with opened(plain_moto, await plain_moto.private_ca("RSA_2048")) as authority:
        with pytest.raises(AuthorityViolation) as caught:
            await issue(plain_moto, authority, order(LeafProfile.SERVING))
        assert caught.value.reason == "wrong_usages"


async def test_moto_as_it_is_has_another_key_than_the_ca_was_made_with(plain_moto: World) -> None:
    async with opened(plain_moto, await plain_moto.private_ca("EC_prime256v1")) as authority:
        asked = plain_moto.front.calls("IssueCertificate")
        with pytest.raises(AuthorityViolation):
            await issue(plain_moto, authority)
        assert not asked


async def test_moto_as_it_is_signs_the_digest_of_the_digest(plain_moto: World, tmp_path: Path) -> None:
    async with opened(plain_moto, await plain_moto.kms_key(tmp_path)) as authority:
        alarms = Alarms(SystemClock())
        with pytest.raises(AuthorityViolation) as caught:
            await issue(plain_moto, authority, alarms=alarms)
        assert caught.value.reason == "signature_invalid"
        assert alarms.violations == 1


def _csr(**options: Any) -> str:
    return base64.b64encode(pki.csr_pem(**options).encode()).decode()


VIOLATIONS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "another key": ("wrong_key", lambda: {"Csr": _csr(private_key=pki.key("a thief's"))}),
    "another name": (
        "wrong_names",
        lambda: {
            "Csr": _csr(
                identity="spiffe://cluster.local/ns/foo/sa/payments",
                private_key=pki.key(f"workload of kind {KeyKind.EC_P256.value}"),
            )
        },
    ),
    "a CA": ("wrong_usages", lambda: {"TemplateArn": "arn:aws:acm-pca:::template/RootCACertificate/V1"}),
    "a server only": (
        "wrong_usages",
        lambda: {"TemplateArn": "arn:aws:acm-pca:::template/EndEntityServerAuthCertificate/V1"},
    ),
    "too long": (
        "outlives_request",
        lambda: {"Validity": {"Type": "ABSOLUTE", "Value": int(time.time()) + 90_000}},
    ),
    "not yet": (
        "clock_skew",
        lambda: {"ValidityNotBefore": {"Type": "ABSOLUTE", "Value": int(time.time()) + 600}},
    ),
}


async def test_a_leaf_that_was_not_ordered_is_an_alarm(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        alarms = Alarms(SystemClock())
        for number, (what, (reason, changes)) in enumerate(VIOLATIONS.items(), 1):

            def rewrite(call: Seen, changes: Callable[[], dict[str, Any]] = changes) -> None:
                if call.operation == "IssueCertificate":
                    call.parameters.update(changes())

            world.front.rewrite = rewrite
            with pytest.raises(AuthorityViolation) as caught:
                await issue(world, authority, alarms=alarms)
            assert caught.value.reason == reason, what
            assert alarms.violations == number


async def test_a_certificate_that_is_none_is_an_alarm(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        for text in ("hello", "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
            world.front.after = lambda call, answer, text=text: (
                {**answer, "Certificate": text} if call.operation == "GetCertificate" else answer
            )
            with pytest.raises(AuthorityViolation) as caught:
                await issue(world, authority)
            assert caught.value.reason == "garbage"


# The request, the CA and its chain


async def test_the_order_is_passed_on_exactly(world: World) -> None:
    config = await world.private_ca("EC_secp384r1")
    async with opened(world, config) as authority:
        wanted = order(life=timedelta(minutes=61))
        leaf = Certificate.from_der((await issue(world, authority, wanted)).der)
        asked = world.front.calls("IssueCertificate")[0].parameters
        assert asked["SigningAlgorithm"] == "SHA384WITHECDSA"
        assert asked["TemplateArn"] == "arn:aws:acm-pca:::template/EndEntityCertificate/V1"
        assert (leaf.not_before, leaf.not_after) == (wanted.validity.not_before, wanted.validity.not_after)
        assert {call.region for call in world.front.seen} == {config.aws.region}
        assert {call.key for call in world.front.seen} == {ACCESS_KEY}


@pytest.mark.parametrize("algorithm", ["RSA_2048", "EC_prime256v1"])
async def test_every_usual_key_of_a_ca(world: World, algorithm: str) -> None:
    async with opened(world, await world.private_ca(algorithm)) as authority:
        leaf = Certificate.from_der((await issue(world, authority)).der)
        assert leaf.is_signed_by(authority.issuers[0])


STATES = [
    ("DISABLED", "ca_disabled"),
    ("EXPIRED", "issuer_expired"),
    ("CREATING", "ca_pending"),
    ("DELETED", "ca_deleted"),
    ("FAILED", "ca_failed"),
    ("SOMETHING_NEW", "ca_disabled"),
]


async def test_a_ca_that_is_not_active_is_told_with_its_state(world: World) -> None:
    async with opened(world, await world.private_ca()) as authority:
        for state, reason in STATES:
            world.front.after = lambda call, answer, state=state: _with_status(call, answer, state)
            await authority.refresh()
            report = authority.describe()
            assert (report.state, report.reason) == ("unavailable", reason)
            assert state in report.detail
            assert report.remedy


def _with_status(call: Seen, answer: dict[str, Any], state: str) -> dict[str, Any]:
    if call.operation == "DescribeCertificateAuthority":
        answer["CertificateAuthority"]["Status"] = state
    return answer


async def test_a_ca_disabled_between_two_looks_is_told_by_the_next_order(world: World) -> None:
    config = await world.private_ca()
    async with opened(world, config) as authority:
        await world.set_status(config.ca_arn, "DISABLED")
        with pytest.raises(AuthorityMisconfigured) as caught:
            await authority.issue(order())
        assert caught.value.reason == "ca_disabled"
        assert "DISABLED" in str(caught.value)
        await world.set_status(config.ca_arn, "ACTIVE")
        await authority.refresh()
        await issue(world, authority)


async def test_a_ca_without_its_certificate_is_pending(world: World) -> None:
    config = AwsPcaAuthorityConfig(name="pca", aws=world.aws, ca_arn=await world.pending_ca())
    report = await looked_at(world, config)
    assert (report.state, report.reason) == ("unavailable", "ca_pending")


async def test_a_ca_that_is_not_there(world: World) -> None:
    missing = f"arn:aws:acm-pca:{world.aws.region}:123456789012:certificate-authority/none"
    report = await looked_at(world, AwsPcaAuthorityConfig(name="pca", aws=world.aws, ca_arn=missing))
    assert report.reason == "not_found"


async def test_a_key_that_the_hub_does_not_take(world: World) -> None:
    config = await world.private_ca("EC_secp521r1")
    assert (await looked_at(world, config)).reason == "weak_key"


async def test_the_chain_is_fetched_once_and_again_when_it_may_have_changed(world: World) -> None:
    clock = now_clock()
    async with opened(world, await world.private_ca(), clock) as authority:
        for _ in range(3):
            await authority.refresh()
        assert len(world.front.calls("DescribeCertificateAuthority")) == 4
        assert len(world.front.calls("GetCertificateAuthorityCertificate")) == 1
        await clock.advance(301)
        await authority.refresh()
        assert len(world.front.calls("GetCertificateAuthorityCertificate")) == 2
        world.front.after = lambda call, answer: _with_serial(call, answer)
        await authority.refresh()
        assert len(world.front.calls("GetCertificateAuthorityCertificate")) == 3


def _with_serial(call: Seen, answer: dict[str, Any]) -> dict[str, Any]:
    if call.operation == "DescribeCertificateAuthority":
        answer["CertificateAuthority"]["Serial"] = "4711"
    return answer


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_templates_are_of_the_ca_s_partition(partition: str) -> None:
    arn = f"arn:{partition}:acm-pca:r:1:certificate-authority/x"
    for template in SAFE_TEMPLATES:
        assert template_arn(arn, template) == f"arn:{partition}:acm-pca:::template/{template}"


UNSAFE = (
    "SubordinateCACertificate_PathLen0/V1",
    "RootCACertificate/V1",
    "EndEntityCertificate_CSRPassthrough/V1",
    "BlankEndEntityCertificate_APICSRPassthrough/V1",
    "",
)


async def test_a_template_that_could_make_a_ca_is_refused(world: World) -> None:
    config = await world.private_ca()
    for template in UNSAFE:
        for unsafe in (replace(config, template=template), replace(config, serving_template=template)):
            report = await looked_at(world, unsafe)
            assert (report.state, report.reason) == ("unavailable", "template_unsafe")
    assert not world.front.seen


@pytest.mark.parametrize("arn", ["", "arn:aws:kms:r:1:key/x", "nonsense"])
async def test_an_arn_that_is_no_ca_s(world: World, arn: str) -> None:
    report = await looked_at(world, AwsPcaAuthorityConfig(name="pca", aws=world.aws, ca_arn=arn))
    assert report.reason == "ca_arn"


# Credentials


def role_config(world: World, directory: Path, config: AwsPcaAuthorityConfig) -> AwsPcaAuthorityConfig:
    token = directory / "token"
    token.write_text(JWT)
    return replace(config, aws=replace(config.aws, role_arn=ROLE, jwt=JwtRef("file", str(token))))


async def test_a_role_is_assumed_with_the_token_of_now(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = role_config(world, tmp_path, await world.private_ca())
    without_keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", world.front.url)
    clock = now_clock()
    async with opened(world, config, clock) as authority:
        assert authority.describe().state == "ready", authority.describe()
        for _ in range(2):
            await authority.refresh()
        (assumed,) = world.front.calls("AssumeRoleWithWebIdentity")
        assert assumed.parameters["WebIdentityToken"] == JWT
        assert assumed.parameters["RoleArn"] == ROLE
        assert assumed.key == ""
        used = {call.key for call in world.front.calls("DescribeCertificateAuthority")}
        assert len(used) == 1
        assert ACCESS_KEY not in used

        (tmp_path / "token").write_text(NEXT_JWT)
        await clock.advance(0.76 * 3600)
        await authority.refresh()
        _, again = world.front.calls("AssumeRoleWithWebIdentity")
        assert again.parameters["WebIdentityToken"] == NEXT_JWT
        assert world.front.calls("DescribeCertificateAuthority")[-1].key not in used
        shown = f"{authority.describe()!r} {config!r}"
    for secret in (JWT, NEXT_JWT):
        assert secret not in shown
        assert secret not in caplog.text


async def test_keys_that_are_good_outlive_a_renewal_that_fails(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = role_config(world, tmp_path, await world.private_ca())
    without_keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", world.front.url)
    clock = now_clock()
    async with opened(world, config, clock) as authority:
        message = f"Not authorized with {JWT}"
        world.front.before = answering(
            "AssumeRoleWithWebIdentity",
            lambda _: web.Response(
                status=403,
                content_type="text/xml",
                text="<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>"
                f"<Message>{message}</Message></Error></ErrorResponse>",
            ),
        )
        await clock.advance(0.76 * 3600)
        await authority.refresh()
        report = authority.describe()
        assert (report.state, report.reason) == ("degraded", "warning")
        assert "trust policy" in report.detail
        assert authority.can_sign
        await clock.advance(0.24 * 3600)
        await authority.refresh()
        report = authority.describe()
        assert (report.state, report.reason) == ("unavailable", "forbidden")
        assert "trust policy" in report.remedy
        assert JWT not in report.detail


async def test_a_token_that_is_not_there_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = role_config(world, tmp_path, await world.private_ca())
    (tmp_path / "token").unlink()
    report = await looked_at(world, config)
    assert report.reason == "credential_missing"
    assert str(tmp_path / "token") in report.detail


async def test_an_empty_chain_is_told_and_filled_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config = await world.private_ca()
    without_keys(monkeypatch)
    async with opened(world, config) as authority:
        report = authority.describe()
        assert (report.state, report.reason) == ("unavailable", "credential_missing")
        assert "IRSA" in report.remedy
        with_keys(monkeypatch)
        await authority.refresh()
        await issue(world, authority)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("ExpiredTokenException", "credentials_expired"),
        ("UnrecognizedClientException", "credentials_refused"),
    ],
)
async def test_keys_that_aws_refuses_are_read_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    async with opened(world, await world.private_ca()) as authority:
        world.front.before = answering(
            "IssueCertificate", lambda call: refuse(code, f"the key {call.key} is not valid"), 1
        )
        with pytest.raises(AuthorityMisconfigured) as caught:
            await authority.issue(order())
        assert caught.value.reason == reason
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDANOTHERDUMMY")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another/dummy")
        await authority.refresh()
        await issue(world, authority)
        assert world.front.calls("IssueCertificate")[-1].key == "AKIDANOTHERDUMMY"


async def test_a_program_that_should_give_keys_and_does_not_is_not_quoted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await world.private_ca()
    without_keys(monkeypatch)
    file = tmp_path / "config"
    file.write_text(f"[default]\ncredential_process = sh -c 'echo {SECRET_KEY} >&2; exit 1'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    report = await looked_at(world, config)
    assert report.reason == "credentials_unavailable"
    assert "custom-process" in report.detail
    assert SECRET_KEY not in f"{report!r}"


async def test_closing_closes_the_credentials_too(world: World, tmp_path: Path) -> None:
    class Watched(OwnCredentials):
        closed = 0

        async def close(self) -> None:
            self.closed += 1
            await super().close()

    credentials = Watched()
    source = KmsPair(await world.kms_key(tmp_path), credentials, surroundings())
    await source.read()
    await source.close()
    assert credentials.closed == 1


# The way there


async def test_nothing_is_sent_through_a_proxy_of_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await world.private_ca()
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert (await looked_at(world, config)).state == "ready"


async def test_tls_by_an_own_ca_and_by_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(monkeypatch)
    now = SystemClock().now().replace(microsecond=0)
    ca = pki.root("of the endpoint", not_before=now - pki.DAY, not_after=now + pki.DAY)
    key = pki.key("endpoint")
    san = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    served = pki.leaf(ca, private_key=key, san=san, not_before=now - pki.DAY, not_after=now + pki.DAY)
    pki.Authority(served, key, (), ca.certificate).write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca-chain.pem", tmp_path / "ca-key.pem")
    async with open_world(tls=context) as world:
        config = await world.private_ca()
        trusting = replace(config, aws=replace(config.aws, ca_file=tmp_path / "root.pem"))
        assert (await looked_at(world, trusting)).state == "ready"
        for ca_file in (None, tmp_path / "missing.pem"):
            other = replace(config, aws=replace(config.aws, ca_file=ca_file))
            report = await looked_at(world, other)
            assert (report.state, report.reason) == ("unavailable", "tls")
            assert "ca_file" in report.remedy


async def test_a_look_that_is_answered_by_nobody(world: World, tmp_path: Path) -> None:
    expected = {"cut": "cut_off", "502": "server_error", "500": "server_error", "503": "server_error"}
    for config, operation in (
        (await world.kms_key(tmp_path), "GetPublicKey"),
        (await world.private_ca(), "DescribeCertificateAuthority"),
        (await world.private_ca(), "GetCertificateAuthorityCertificate"),
    ):
        world.front.before = answering(operation, LOST["cut"])
        async with opened(world, config) as authority:
            for how, answer in LOST.items():
                world.front.before = answering(operation, answer)
                await authority.refresh()
                report = authority.describe()
                assert (report.state, report.reason) == ("unavailable", expected.get(how, "garbage")), how
                assert report.remedy


async def test_an_answer_cut_in_its_middle(world: World, tmp_path: Path) -> None:
    async def half(call: Seen) -> web.StreamResponse | None:
        if call.operation != "GetPublicKey":
            return None
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(call.request)
        await response.write(b'{"PublicKey": "')
        return cut(call.request)

    world.front.before = half
    assert (await looked_at(world, await world.kms_key(tmp_path))).reason == "cut_off"


async def test_a_region_that_cannot_be(world: World) -> None:
    config = replace(
        await world.private_ca(), aws=AwsConfig(region="no such region", endpoint=world.front.url)
    )
    report = await looked_at(world, config)
    assert (report.state, report.reason) == ("unavailable", "not_sent")


# KMS


@pytest.mark.parametrize(
    ("spec", "algorithm", "digest_bytes"),
    [
        ("ECC_NIST_P256", "ECDSA_SHA_256", 32),
        ("ECC_NIST_P384", "ECDSA_SHA_384", 48),
        ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256", 32),
        ("RSA_3072", "RSASSA_PKCS1_V1_5_SHA_256", 32),
    ],
)
async def test_every_usual_key_signs(
    world: World, tmp_path: Path, spec: str, algorithm: str, digest_bytes: int
) -> None:
    async with opened(world, await world.kms_key(tmp_path, spec)) as authority:
        leaf = Certificate.from_der((await issue(world, authority)).der)
        assert leaf.is_signed_by(authority.issuers[0])
        (asked,) = world.front.calls("Sign")
        assert asked.parameters["MessageType"] == "DIGEST"
        assert asked.parameters["SigningAlgorithm"] == algorithm
        assert len(base64.b64decode(asked.parameters["Message"])) == digest_bytes


KMS_ERRORS = [
    ("DisabledException", 400, AuthorityMisconfigured, "key_disabled", 1),
    ("KMSInvalidStateException", 400, AuthorityMisconfigured, "key_unusable", 1),
    ("InvalidKeyUsageException", 400, AuthorityMisconfigured, "wrong_key_usage", 1),
    ("NotFoundException", 400, AuthorityMisconfigured, "not_found", 1),
    ("AccessDeniedException", 400, AuthorityMisconfigured, "forbidden", 1),
    ("ThrottlingException", 400, AuthorityThrottled, "throttled", 1),
    ("LimitExceededException", 400, AuthorityThrottled, "limit_exceeded", 1),
    ("KMSInternalException", 500, AuthorityUnavailable, "server_error", 2),
    ("KeyUnavailableException", 500, AuthorityUnavailable, "server_error", 2),
    ("DependencyTimeoutException", 503, AuthorityUnavailable, "server_error", 2),
]


async def test_every_error_of_sign(world: World, tmp_path: Path) -> None:
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        for code, status, kind, reason, asked in KMS_ERRORS:
            world.front.seen.clear()
            world.front.before = answering("Sign", _refusing(code, "", status))
            with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
                await authority.issue(order())
            assert (type(caught.value), caught.value.reason) == (kind, reason), code
            assert caught.value.remedy
            assert len(world.front.calls("Sign")) == asked, code
            world.front.before = answering("GetPublicKey", _refusing(code, "", status))
            await authority.refresh()  # which asks for the key because a signature failed
            report = authority.describe()
            assert (report.state, report.reason) == ("degraded", reason), code
            world.front.before = None
            await authority.refresh()
            await issue(world, authority)
            assert authority.describe().state == "ready"


@pytest.mark.parametrize("how", ["cut", "503"])
async def test_a_passing_failure_of_sign_is_not_seen(world: World, tmp_path: Path, how: str) -> None:
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        world.front.before = answering("Sign", LOST[how], 1)
        await issue(world, authority)
        assert len(world.front.calls("Sign")) == 2


@pytest.mark.parametrize("how", ["html", "empty"])
async def test_a_signature_that_is_none(world: World, tmp_path: Path, how: str) -> None:
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        world.front.before = answering("Sign", LOST[how])
        with pytest.raises(AuthorityUnavailable) as caught:
            await authority.issue(order())
        assert caught.value.reason == "garbage"


async def test_a_signature_of_another_key_is_an_alarm(world: World, tmp_path: Path) -> None:
    other, _ = await world.key_below_root()
    async with opened(world, await world.kms_key(tmp_path)) as authority:

        def rewrite(call: Seen) -> None:
            if call.operation == "Sign":
                call.parameters["KeyId"] = other

        world.front.rewrite = rewrite
        alarms = Alarms(SystemClock())
        with pytest.raises(AuthorityViolation) as caught:
            await issue(world, authority, alarms=alarms)
        assert caught.value.reason == "signature_invalid"
        assert alarms.violations == 1


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}, "wrong_key_usage"),
        ({"KeySpec": "ECC_NIST_P521", "KeyUsage": "SIGN_VERIFY"}, "weak_key"),
        ({"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY"}, "weak_key"),
    ],
)
async def test_a_key_that_cannot_sign_leaves(
    world: World, tmp_path: Path, made: dict[str, str], reason: str
) -> None:
    key = await world.kms("CreateKey", **made)
    config = replace(await world.kms_key(tmp_path), key_id=key["KeyMetadata"]["KeyId"])
    report = await looked_at(world, config)
    assert (report.state, report.reason) == ("unavailable", reason)
    assert report.remedy


async def test_another_key_s_certificate_is_not_taken_up(world: World, tmp_path: Path) -> None:
    other, _ = await world.key_below_root()
    config = replace(await world.kms_key(tmp_path), key_id=other)
    assert (await looked_at(world, config)).reason == "wrong_key"


async def test_an_alias_that_moves_changes_key_and_chain_together(world: World, tmp_path: Path) -> None:
    config = await world.kms_key(tmp_path)
    alias = f"alias/mesh-{config.key_id}"
    await world.kms("CreateAlias", AliasName=alias, TargetKeyId=config.key_id)
    clock = now_clock()
    async with opened(world, replace(config, key_id=alias), clock) as authority:
        first = authority.issuers[0]
        other, certificate = await world.key_below_root()
        await world.kms("UpdateAlias", AliasName=alias, TargetKeyId=other)
        leaf = Certificate.from_der((await issue(world, authority)).der)
        assert leaf.is_signed_by(first), "the key that was seen keeps signing, not whatever the alias names"
        config.certificate_file.write_bytes(certificate.pem)
        await authority.refresh()
        assert authority.describe().state == "degraded", "the new chain over the old key"
        await clock.advance(301)
        await authority.refresh()
        assert authority.describe().state == "ready"
        leaf = Certificate.from_der((await issue(world, authority)).der)
        assert leaf.is_signed_by(certificate)


async def test_the_pair_is_one_object_until_something_changes(world: World, tmp_path: Path) -> None:
    config = await world.kms_key(tmp_path)
    clock = now_clock()
    async with AsyncExitStack() as stack:
        source = KmsPair(config, OwnCredentials(), surroundings(clock))
        stack.push_async_callback(source.close)
        pair = await source.read()
        for _ in range(3):
            assert await source.read() is pair
        assert len(world.front.calls("GetPublicKey")) == 1
        await clock.advance(301)
        assert await source.read() is pair
        assert len(world.front.calls("GetPublicKey")) == 2
        config.certificate_file.write_bytes(config.certificate_file.read_bytes() * 2)
        assert await source.read() is not pair


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "file_unreadable"), (b"hello", "file_invalid"), (b"", "file_invalid")]
)
async def test_a_chain_that_cannot_be_read(
    world: World, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    config = await world.kms_key(tmp_path)
    if content is None:
        config.certificate_file.unlink()
    else:
        config.certificate_file.write_bytes(content)
    report = await looked_at(world, config)
    assert (report.state, report.reason) == ("unavailable", reason)
    assert report.remedy


async def test_nothing_of_the_keys_is_in_any_text(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.front.before = answering(
        "Sign", lambda _: refuse("AccessDeniedException", "User: arn:aws:iam::1:user/x\x1b[2J is not")
    )
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        with pytest.raises(AuthorityMisconfigured) as caught:
            await authority.issue(order())
        assert str(caught.value).isprintable()
        shown = f"{authority.describe()!r} {caught.value.diagnostics()}"
    for secret in (SECRET_KEY, SESSION_TOKEN):
        assert secret not in shown
        assert secret not in caplog.text
    assert not [record for record in caplog.records if "botocore" in record.name and record.levelno < 20]
