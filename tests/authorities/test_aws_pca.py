"""AWS Private CA keeps its word, breaks it, or is in no state to: what the hub makes of it."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from federation.core.config.authorities.settings import AwsPcaAuthorityConfig
from federation.core.errors import AuthorityMisconfigured, AuthorityViolation
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import LeafProfile
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import Alarms
from federation.signer.authorities.aws.private_ca import SAFE_TEMPLATES, template_arn
from tests.authorities.aws_cases import (
    issue,
    looked_at,
    now_clock,
    opened,
)
from tests.authorities.aws_world import (
    ACCESS_KEY,
    Seen,
    World,
    open_world,
    with_keys,
)
from tests.authorities.back_end import order
from tests.support import pki


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    with_keys(monkeypatch)
    async with open_world() as opened_world:
        yield opened_world


@pytest.fixture
async def plain_moto(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """moto without the corrections: an AWS that breaks its word."""
    with_keys(monkeypatch)
    async with open_world(corrected=False) as opened_world:
        yield opened_world


async def test_moto_as_it_is_lets_a_leaf_outlive_its_order(plain_moto: World) -> None:
    async with opened(plain_moto, await plain_moto.private_ca("RSA_2048")) as authority:
        assert authority.describe().state == "ready"
        alarms = Alarms(SystemClock())
        with pytest.raises(AuthorityViolation) as caught:
            await issue(plain_moto, authority, alarms=alarms)
        assert caught.value.reason == "outlives_request"
        assert alarms.violations == 1


async def test_unpatched_moto_issues_a_serving_leaf_with_wrong_usages(plain_moto: World) -> None:
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


async def test_a_ca_that_is_not_active_is_reported_with_its_state(world: World) -> None:
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


async def test_a_ca_disabled_between_two_polls_is_reported_by_the_next_request(world: World) -> None:
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
