"""An authority that issues from a request: what it says of itself is judged, and what it returns as well.

The service is behind its interface and issues with a real CA, rightly or wrongly, as a test says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    FederationError,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.signer.authorities.authority import (
    Alarms,
    AuthorityBasics,
    LeafRequest,
    ServiceAnswer,
    ServiceView,
    issue_checked,
)
from federation.signer.authorities.service import SOON, TOLERATED, TOLERATED_THROTTLED, ServiceAuthority
from tests.authorities.back_end import SERVER_NAME, back_end_context, order
from tests.support import pki
from tests.support.clock import VirtualClock

CA = pki.intermediate()
STRANGER = pki.intermediate("of a stranger", pki.root("stranger"))
SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


def crl(issuer: pki.Authority, *serials: int, signed_by: pki.Authority | None = None) -> bytes:
    """A CRL of that issuer which revokes these serial numbers."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.x509.subject)
        .last_update(pki.NOW - pki.DAY)
        .next_update(pki.NOW + pki.DAY)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(pki.NOW - pki.DAY)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign((signed_by or issuer).key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def issued(wanted: LeafRequest, ca: pki.Authority = CA, **wrong: object) -> Certificate:
    """What the order asks for, with something else about it."""
    options: dict[str, object] = {
        "not_before": wanted.validity.not_before,
        "not_after": wanted.validity.not_after,
        "public_key": wanted.public_key,
    } | wrong
    serving = wanted.profile is LeafProfile.SERVING
    usage = options.pop("usage", SERVER_ONLY if serving else pki.BOTH_WAYS)
    san = options.pop("san", pki.dns_san(*wanted.names) if serving else pki.spiffe_san(*wanted.names))
    extensions = [
        (options.pop("key_usage", pki.WORKLOAD_KEY_USAGE), True),
        (usage, False),
        (x509.BasicConstraints(ca=bool(options.pop("is_ca", False)), path_length=None), True),
        (san, True),
    ]
    return pki.certificate(ca, extensions, **options)  # type: ignore[arg-type]


class Service:
    """Answers as a test says."""

    def __init__(self) -> None:
        self.view = ServiceView((CA.certificate, CA.root))
        self.sick: FederationError | None = None
        self.answer: Callable[[LeafRequest], ServiceAnswer] = lambda o: ServiceAnswer(
            issued(o).der, (CA.certificate,)
        )

    async def poll(self) -> ServiceView:
        if self.sick is not None:
            raise self.sick
        return self.view

    async def issue(self, wanted: LeafRequest) -> ServiceAnswer:
        return self.answer(wanted)

    async def close(self) -> None:
        self.sick = AuthorityUnavailable("closed")


@asynccontextmanager
async def looked(
    service: Service, anchors: Sequence[Certificate] = (CA.root,), clock: VirtualClock | None = None
) -> AsyncIterator[ServiceAuthority]:
    authority = ServiceAuthority(
        service,
        AuthorityBasics(
            name="pki",
            kind="test",
            poll_seconds=30.0,
            context=back_end_context(clock or VirtualClock(pki.NOW)),
        ),
    )
    authority.trust(anchors)
    await authority.refresh()
    yield authority
    await authority.close()


async def test_a_good_service_is_ready_and_known_beforehand() -> None:
    async with looked(Service()) as authority:
        report = authority.describe()
        assert (report.state, report.sha256) == ("ready", CA.certificate.sha256)
        assert authority.issuers == (CA.certificate, CA.root)
        assert report.chain_pem.encode() == CA.certificate.pem, "the root is the operator's to publish"
        assert report.proposals == []


async def test_a_new_root_is_a_proposal_and_never_trusted_by_itself() -> None:
    service = Service()
    service.view = ServiceView((STRANGER.certificate, STRANGER.root))
    async with looked(service) as authority:
        report = authority.describe()
        assert (report.state, report.reason) == ("unavailable", "no_anchor")
        assert [p.sha256 for p in report.proposals] == [STRANGER.root.sha256]
        assert "pin" in report.remedy
        with pytest.raises(AuthorityError):
            await authority.issue(order(now=pki.NOW))
        authority.trust((CA.root, STRANGER.root))
        assert authority.can_sign
        assert authority.describe().proposals == []


async def test_a_second_root_beside_a_pinned_one_is_a_proposal_and_disturbs_nothing() -> None:
    service = Service()
    service.view = ServiceView((CA.certificate, CA.root, STRANGER.root))
    async with looked(service) as authority:
        report = authority.describe()
        assert report.state == "ready"
        assert [p.sha256 for p in report.proposals] == [STRANGER.root.sha256]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: crl(CA), ""),
        (lambda: crl(pki.root(), CA.certificate.serial), "issuer_revoked"),
        (lambda: crl(pki.root(), 4711), ""),
        (lambda: crl(CA, CA.certificate.serial), ""),  # one's own list says nothing about oneself
        (lambda: crl(CA, signed_by=STRANGER), "crl_invalid"),
        (lambda: b"garbage", "crl_invalid"),
    ],
)
async def test_a_crl_counts_only_where_an_issuer_signed_it(made: Callable[[], bytes], reason: str) -> None:
    service = Service()
    published = made()
    service.view = ServiceView((CA.certificate, CA.root), crl_der=published)
    async with looked(service) as authority:
        report = authority.describe()
        assert report.reason == reason
        assert authority.can_sign == (not reason)
        if reason:
            with pytest.raises(AuthorityUnavailable):
                await authority.revocation_list()
        else:
            assert await authority.revocation_list() == published
            assert report.crl_next_update == (pki.NOW + pki.DAY).timestamp()


async def test_an_outage_keeps_no_green_and_passes() -> None:
    service = Service()
    async with looked(service) as authority:
        service.sick = AuthorityUnavailable("it is sealed", reason="vault_sealed", remedy="unseal it")
        await authority.refresh()
        report = authority.describe()
        assert (report.state, report.reason, report.remedy) == ("unavailable", "vault_sealed", "unseal it")
        with pytest.raises(AuthorityUnavailable):
            await authority.issue(order(now=pki.NOW))
        service.sick = None
        await authority.refresh()
        assert authority.describe().state == "ready"


NO_ANSWER = AuthorityUnavailable("no answer", reason="timeout", remedy="look at the path to it")


async def test_after_a_failed_poll_requests_are_served_and_the_poll_is_repeated_soon() -> None:
    service = Service()
    async with looked(service) as authority:
        usual = authority.pause
        service.sick = NO_ANSWER
        assert not await authority.refresh()
        report = authority.describe()
        assert (report.state, report.reason, report.remedy) == ("degraded", "timeout", NO_ANSWER.remedy)
        assert authority.pause <= SOON
        await authority.issue(order(now=pki.NOW))
        service.sick = None
        assert await authority.refresh()
        assert authority.describe().state == "ready"
        assert authority.pause == usual


@pytest.mark.parametrize(
    ("error", "borne"),
    [(NO_ANSWER, TOLERATED), (AuthorityThrottled("429", retry_after=1.0), TOLERATED_THROTTLED)],
)
async def test_repeatedly_failed_polls_stop_requests(error: FederationError, borne: int) -> None:
    service = Service()
    async with looked(service) as authority:
        service.sick = error
        for _ in range(borne):
            await authority.refresh()
            await authority.issue(order(now=pki.NOW))
        await authority.refresh()
        assert not authority.can_sign
        assert authority.describe().state == "unavailable"
        with pytest.raises(AuthorityUnavailable):
            await authority.issue(order(now=pki.NOW))
        pauses = []
        for _ in range(9):
            await authority.refresh()
            pauses.append(authority.pause)
        assert authority.pause > 15, "and it is not asked more often than usual for long"
        assert max(pauses) <= 30


async def test_a_failed_request_after_a_failed_poll_stops_requests() -> None:
    def lose(_: LeafRequest) -> ServiceAnswer:
        raise AuthorityUncertain("cut off")

    service = Service()
    async with looked(service) as authority:
        service.sick = NO_ANSWER
        await authority.refresh()
        service.answer = lose
        with pytest.raises(AuthorityUncertain):
            await authority.issue(order(now=pki.NOW))
        assert authority.describe().state == "unavailable"
        authority.trust((CA.root,))
        assert not authority.can_sign, "what was good before the outage is not taken up again"
        service.sick = None
        assert await authority.refresh()
        assert authority.can_sign


async def test_a_misconfiguration_stops_requests_at_once_and_is_not_polled_more_often() -> None:
    service = Service()
    async with looked(service) as authority:
        service.sick = AuthorityMisconfigured("the login is refused", reason="login_refused")
        await authority.refresh()
        assert not authority.can_sign
        assert authority.pause == 30.0, "a back end may count logins that it refused"


async def test_each_caller_gets_an_error_of_its_own() -> None:
    service = Service()
    async with looked(service) as authority:
        service.sick = AuthorityThrottled("429", reason="quota", retry_after=3.0)
        for _ in range(TOLERATED_THROTTLED + 1):
            await authority.refresh()
        raised = []
        for _ in range(2):
            with pytest.raises(AuthorityThrottled) as caught:
                await authority.issue(order(now=pki.NOW))
            raised.append(caught.value)
        first, second = raised
        assert first is not second
        assert (str(second), second.reason, second.retry_after) == ("pki: 429", "quota", 3.0)


async def test_a_request_that_is_refused_degrades_until_one_passes() -> None:
    service = Service()
    good = service.answer

    def refuse(_: LeafRequest) -> ServiceAnswer:
        raise AuthorityRefused("not by this role", reason="role_too_narrow", remedy="widen it")

    async with looked(service) as authority:
        service.answer = refuse
        with pytest.raises(AuthorityRefused):
            await authority.issue(order(now=pki.NOW))
        report = authority.describe()
        assert (report.state, report.reason, report.remedy) == ("degraded", "role_too_narrow", "widen it")
        service.answer = good
        await authority.issue(order(now=pki.NOW))
        assert authority.describe().state == "ready"


async def test_an_issuer_that_ends_within_a_minute_is_reported_as_expired() -> None:
    clock = VirtualClock(pki.NOW)
    async with looked(Service(), clock=clock) as authority:
        clock.step((CA.certificate.not_after - pki.NOW).total_seconds() - 30)
        report = authority.describe()
        assert (report.state, report.reason) == ("unavailable", "issuer_expired")
        assert report.remedy


async def test_an_expired_chain_known_only_from_leaves_is_forgotten_at_the_next_poll() -> None:
    """As with cert-manager: the next request finds out that the issuer was repaired, and must not be refused."""
    old = pki.intermediate("ends tomorrow", not_after=pki.NOW + pki.DAY)
    service, clock = Service(), VirtualClock(pki.NOW)
    service.view = ServiceView()
    service.answer = lambda o: ServiceAnswer(issued(o, old).der, (old.certificate,))
    async with looked(service, clock=clock) as authority:
        await authority.issue(order(now=pki.NOW))
        assert authority.issuers == (old.certificate, old.root)
        clock.step(pki.DAY.total_seconds() - 30)
        assert authority.describe().reason == "issuer_expired"
        service.answer = lambda o: ServiceAnswer(issued(o).der, (CA.certificate,))
        await authority.refresh()
        assert authority.can_sign
        assert list(authority.issuers) == []
        await authority.issue(order(now=clock.now()))
        assert authority.issuers == (CA.certificate, CA.root)
        assert authority.describe().state == "ready"


OTHER = pki.key("another").public_key()
HOUR = timedelta(hours=1)
WRONG: dict[str, Callable[[LeafRequest], ServiceAnswer]] = {
    "garbage": lambda o: ServiceAnswer(b"garbage", (CA.certificate,)),
    "wrong_key": lambda o: ServiceAnswer(issued(o, public_key=OTHER).der, (CA.certificate,)),
    "wrong_names": lambda o: ServiceAnswer(
        issued(o, san=pki.spiffe_san("spiffe://cluster.local/ns/foo/sa/admin")).der, (CA.certificate,)
    ),
    "is_ca": lambda o: ServiceAnswer(issued(o, is_ca=True).der, (CA.certificate,)),
    "wrong_usages": lambda o: ServiceAnswer(issued(o, usage=SERVER_ONLY).der, (CA.certificate,)),
    "no_anchor": lambda o: ServiceAnswer(issued(o, STRANGER).der, (STRANGER.certificate, STRANGER.root)),
    "outlives_request": lambda o: ServiceAnswer(
        issued(o, not_after=o.validity.not_after + HOUR).der, (CA.certificate,)
    ),
    "clock_skew": lambda o: ServiceAnswer(issued(o, not_before=pki.NOW + HOUR / 2).der, (CA.certificate,)),
    "broken_chain": lambda o: ServiceAnswer(issued(o).der, (CA.certificate, STRANGER.certificate)),
}


@pytest.mark.parametrize("reason", WRONG)
async def test_a_violation_is_an_alarm(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.answer = WRONG[reason]
    alarms = Alarms(VirtualClock(pki.NOW))
    async with looked(service) as authority:
        with pytest.raises(AuthorityViolation) as caught:
            await issue_checked(authority, order(now=pki.NOW), anchors=(CA.root,), at=pki.NOW, alarms=alarms)
    assert caught.value.reason == reason
    assert caught.value.remedy
    assert (alarms.violations, alarms.last_violation_at) == (1, pki.NOW.timestamp())
    assert "ALARM" in caplog.text


@pytest.mark.parametrize("usage", [pki.BOTH_WAYS, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
async def test_the_listeners_certificate_is_for_a_server_only(usage: x509.ExtendedKeyUsage) -> None:
    service = Service()
    clock = VirtualClock(pki.NOW)
    wanted = order(LeafProfile.SERVING, now=pki.NOW)
    async with looked(service) as authority:
        leaf = await issue_checked(authority, wanted, anchors=(CA.root,), at=pki.NOW, alarms=Alarms(clock))
        names = Certificate.from_der(leaf.der).extension(x509.SubjectAlternativeName)
        assert names is not None
        assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME]
        service.answer = lambda o: ServiceAnswer(issued(o, usage=usage).der, (CA.certificate,))
        with pytest.raises(AuthorityViolation) as caught:
            await issue_checked(authority, wanted, anchors=(CA.root,), at=pki.NOW, alarms=Alarms(clock))
        assert caught.value.reason == "wrong_usages"


async def test_an_answer_that_was_lost_is_counted() -> None:
    def lose(_: LeafRequest) -> ServiceAnswer:
        raise AuthorityUncertain("no answer")

    service = Service()
    service.answer = lose
    alarms = Alarms(VirtualClock(pki.NOW))
    async with looked(service) as authority:
        with pytest.raises(AuthorityUncertain):
            await issue_checked(authority, order(now=pki.NOW), anchors=(CA.root,), at=pki.NOW, alarms=alarms)
    assert (alarms.uncertain, alarms.violations) == (1, 0)
