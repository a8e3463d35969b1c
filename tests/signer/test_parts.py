"""The small parts: keys that grow old, policy, counters, and a log that cannot be flooded."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from federation.core.config.clusters import ClusterConfig, ClusterPolicy, ClusterTimeouts, Credentials
from federation.core.errors import (
    AttestationRefused,
    AuthorityMisconfigured,
    AuthorityViolation,
    ClusterTimeout,
    FederationError,
    InvalidValue,
    NotReady,
    Overloaded,
    PolicyRefused,
    RequestRefused,
    StateUnavailable,
)
from federation.core.identity import ClusterId, ClusterName, ServiceAccountRef
from federation.kubernetes.session import ClusterSession
from federation.signer.accounting import BOUNDS, NO_CLUSTER, Accounting
from federation.signer.attestation.attestor import KEYS, Caller, TokenEvidence
from federation.signer.attestation.token_keys import LONGEST_USE, UNKNOWN_KEY_INTERVAL, TokenKeys
from federation.signer.listeners.grpc import Code, answer_to
from federation.signer.listeners.rejected_calls import IN_FULL, WINDOW, RefusalLog
from federation.signer.policy import check_policy, check_reserved
from federation_sandbox.apiserver.faults import Answer as Status
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock

EAST = ClusterName("east")


def are_usable(keys: TokenKeys) -> bool:
    return keys.usable


async def test_keys_that_cannot_be_looked_at_again_grow_old(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with SandboxCluster("east") as box:
        file = box.write_kubeconfig(tmp_path / "kubeconfig")
        session = await ClusterSession.open(
            Credentials(kubeconfig=file), cluster=EAST, timeouts=ClusterTimeouts(), clock=clock
        )
        async with session:
            keys = TokenKeys(session, clock=clock, jitter=random.Random(1))
            assert not are_usable(keys)
            await keys.refresh()
            assert are_usable(keys)
            assert keys.issuer == box.issuer
            box.faults.inject(Status.server_error(), path="/openid")
            await clock.advance(LONGEST_USE - 1)
            await keys.refresh()
            assert are_usable(keys)
            assert keys.problem is not None
            await clock.advance(2)
            assert not are_usable(keys)
            asked = box.requests.count(resource="/openid/v1/jwks")
            for _ in range(3):
                with pytest.raises(FederationError):
                    await keys.find("unknown")
            assert box.requests.count(resource="/openid/v1/jwks") == asked + 1
            await clock.advance(UNKNOWN_KEY_INTERVAL)
            box.faults.clear()
            assert await keys.find("unknown") is None
            assert are_usable(keys)
            assert keys.problem is None


def config(policy: ClusterPolicy) -> ClusterConfig:
    none = Credentials(kubeconfig=None)
    return ClusterConfig(name=EAST, cluster_id=ClusterId("east"), signer=none, controller=none, policy=policy)


@pytest.mark.parametrize(
    ("policy", "account", "pod", "reason"),
    [
        (ClusterPolicy(), "foo/bar", "bar-0", ""),
        (ClusterPolicy(), "foo/bar", "", "pod_required"),
        (ClusterPolicy(require_pod=False), "foo/bar", "", ""),
        (ClusterPolicy(allow=("foo/*",)), "foo/bar", "bar-0", ""),
        (ClusterPolicy(allow=("foo/*",)), "foo2/bar", "bar-0", "account_not_allowed"),
        (ClusterPolicy(allow=()), "foo/bar", "bar-0", "account_not_allowed"),
        (ClusterPolicy(deny=("*/bar",)), "foo/bar", "bar-0", "account_not_allowed"),
        (ClusterPolicy(allow=("FOO/*",)), "foo/bar", "bar-0", "account_not_allowed"),
        (ClusterPolicy(allow=("foo/*",)), "federation-system/federation-probe", "", ""),
        (
            ClusterPolicy(deny=("federation-*/*",)),
            "federation-system/federation-probe",
            "",
            "account_not_allowed",
        ),
    ],
)
def test_policy(policy: ClusterPolicy, account: str, pod: str, reason: str) -> None:
    caller = Caller(EAST, ServiceAccountRef(*account.split("/")), pod, KEYS)
    if not reason:
        check_policy(caller, config(policy))
        return
    with pytest.raises(PolicyRefused) as refused:
        check_policy(caller, config(policy))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("reserved", "account", "refused"),
    [
        ((), "istio-system/istiod", True),
        ((), "istio-system/istiod-canary", True),
        ((), "istio-system/ztunnel", False),
        ((), "federation-system/federation-signer", True),
        ((), "federation-system/federation-probe", False),
        (("istio-system/*",), "istio-system/istiod", False),
        (("shop/*",), "istio-system/istiod", True),
    ],
)
def test_reserved_identities(reserved: tuple[str, ...], account: str, refused: bool) -> None:
    caller = Caller(EAST, ServiceAccountRef(*account.split("/")), "pod-0", KEYS)
    if not refused:
        check_reserved(caller, config(ClusterPolicy(reserved=reserved)))
        return
    with pytest.raises(PolicyRefused) as raised:
        check_reserved(caller, config(ClusterPolicy(reserved=reserved)))
    assert raised.value.reason == "identity_reserved"


def test_counters_and_the_histogram() -> None:
    accounting = Accounting()
    accounting.count_issued("east", seconds=0.0005, now=17.0)
    accounting.count_issued("east", seconds=0.001, now=18.0)
    accounting.count_refused("east", "token_expired", seconds=0.03)
    accounting.count_refused(NO_CLUSTER, "token_missing", seconds=99.0)
    assert accounting.of("east") == (2, {"token_expired": 1}, 18.0)
    assert accounting.of("west") == (0, {}, 0.0)
    latency = accounting.latency
    assert latency.bounds == list(BOUNDS)
    assert latency.counts[0] == 2
    assert latency.counts[-1] == 3
    assert latency.count == 4
    assert latency.total == pytest.approx(99.0315)
    assert latency.counts == sorted(latency.counts)
    accounting.keep(["west"])
    assert accounting.of("east") == (0, {}, 0.0)
    assert accounting.of(NO_CLUSTER)[1] == {"token_missing": 1}
    assert accounting.issued == 2


def test_what_the_hub_asks_for_itself_is_counted_apart() -> None:
    accounting = Accounting()
    accounting.count_issued("east", seconds=0.001, now=17.0)
    accounting.count_issued("east", seconds=0.001, now=19.0, own=True)
    accounting.count_refused("east", "account_not_allowed", seconds=0.001)
    accounting.count_refused("east", "pod_required", seconds=0.001, own=True)
    assert accounting.of("east") == (2, {"account_not_allowed": 1, "pod_required": 1}, 19.0)
    assert accounting.own("east") == (1, {"pod_required": 1})
    assert accounting.workload_issued_at("east") == 17.0
    assert accounting.own("west") == (0, {})
    assert accounting.workload_issued_at("west") == 0.0


async def test_a_flood_of_refusals_is_a_number_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    log = RefusalLog(clock)
    for _ in range(500):
        log.note(AttestationRefused("it has expired", where="east", reason="token_expired"), peer="a")
    log.note(AttestationRefused("it has expired", where="west", reason="token_expired"), peer="b")
    assert len(caplog.records) == IN_FULL + 1
    assert caplog.records[-1].__dict__["cluster"] == "west"
    await clock.advance(WINDOW)
    log.note(AttestationRefused("it has expired", where="east", reason="token_expired"), peer="a")
    assert f"{500 - IN_FULL} more" in caplog.records[-2].getMessage()
    log.note(AuthorityViolation("another key", reason="wrong_key"), peer="a")
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (AttestationRefused("secret"), Code.UNAUTHENTICATED, "request authenticate failure"),
        (RequestRefused("secret"), Code.UNAUTHENTICATED, "request authenticate failure"),
        (PolicyRefused("secret"), Code.UNAUTHENTICATED, "request authenticate failure"),
        (Overloaded("secret"), Code.RESOURCE_EXHAUSTED, "too many requests, try again later"),
        (ClusterTimeout("secret"), Code.UNAVAILABLE, "certificate signing is temporarily unavailable"),
        (NotReady("secret"), Code.UNAVAILABLE, "certificate signing is temporarily unavailable"),
        (StateUnavailable("secret"), Code.UNAVAILABLE, "certificate signing is temporarily unavailable"),
        (TimeoutError(), Code.UNAVAILABLE, "certificate signing is temporarily unavailable"),
        (AuthorityMisconfigured("secret"), Code.INTERNAL, "failed to sign certificate request"),
        (
            AuthorityViolation("secret"),
            Code.INTERNAL,
            "failed to parse and verify signed certificate from issuer",
        ),
        (InvalidValue("secret"), Code.INTERNAL, "failed to sign certificate request"),
        (ZeroDivisionError("secret"), Code.INTERNAL, "failed to sign certificate request"),
    ],
)
def test_every_class_of_error_has_one_answer(error: Exception, code: Code, sentence: str) -> None:
    answer = answer_to(error)
    assert (answer.code, answer.sentence) == (code, sentence)


def test_evidence_does_not_show_its_token() -> None:
    assert "eyJ" not in repr(TokenEvidence("eyJhbGciOi", "east"))
