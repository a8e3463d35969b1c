"""cert-manager: what becomes of a request, and that none of them stays behind."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.core.config.clusters import Credentials
from federation.core.errors import (
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
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import (
    Alarms,
    CheckedLeaf,
    LeafRequest,
    ManagedAuthority,
    issue_checked,
)
from federation.signer.authorities.cert_manager.requests import INSTANCE, LEFTOVER_AGE, MANAGED_BY, MANAGER
from federation.signer.authorities.cert_manager.service import CHAIN_MEMORY, CertManager
from federation.signer.authorities.service import TOLERATED_THROTTLED
from federation_sandbox.apiserver.faults import Answer, Cut, Effect, Garbage, Gone, Hang
from tests.authorities.back_end import IDENTITY, authority_of, back_end_context, order
from tests.authorities.cert_manager_controller import wrong_answer
from tests.authorities.of_cert_manager import ACCOUNT, ISSUER, NAMESPACE, USER, Management, management
from tests.signer.running_signer import authority, eventually
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

CLOCK = SystemClock()
REQUESTS = "certificaterequests"
OURS = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/"
"""What the hub asks; the controller in these tests watches all namespaces, by another path."""

HASTY = {"timeout": 4.0}
"""For tests that see a timeout; all others have time for a slow machine."""


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Management]:
    async with management(tmp_path, timeout=10.0) as built:
        yield built


async def checked(
    kept: ManagedAuthority, hub: Management, wanted: LeafRequest | None = None, alarms: Alarms | None = None
) -> CheckedLeaf:
    """A leaf that was judged when it came."""
    at = CLOCK.now() + timedelta(seconds=5)
    anchors = (hub.ca.root,)
    return await issue_checked(
        kept, wanted or order(), anchors=anchors, at=at, alarms=alarms or Alarms(CLOCK)
    )


async def one_request(hub: Management) -> dict[str, Any]:
    found = await eventually(lambda: hub.requests)
    assert len(found) == 1
    request: dict[str, Any] = found[0]
    return request


async def refused(kept: ManagedAuthority, kind: type[FederationError], reason: str) -> FederationError:
    with pytest.raises(kind) as caught:
        await kept.issue(order())
    assert caught.value.reason == reason
    assert caught.value.remedy
    assert str(caught.value).isprintable()
    return caught.value


# What is asked for -------------------------------------------------------------------------------------------------


async def test_the_request_says_who_it_is_for_and_asks_for_no_more(hub: Management) -> None:
    hub.controller.behaviour.signs = False
    async with authority_of(hub.back_end) as kept:
        wanted = order()
        asking = asyncio.create_task(kept.issue(wanted))
        request = await one_request(hub)
        assert request["metadata"]["labels"][MANAGED_BY] == MANAGER
        assert request["metadata"]["labels"][INSTANCE] in request["metadata"]["name"]
        assert request["metadata"]["annotations"] == {
            "federation-hub/identity": str(IDENTITY),
            "federation-hub/cluster": "east",
        }
        spec = request["spec"]
        assert spec["isCA"] is False
        assert spec["usages"] == ["digital signature", "key encipherment", "server auth", "client auth"]
        assert spec["issuerRef"] == {"name": ISSUER, "kind": "ClusterIssuer", "group": "cert-manager.io"}
        left = (wanted.validity.not_after - CLOCK.now()).total_seconds()
        assert 0 <= left - int(spec["duration"].removesuffix("s")) <= hub.config.timeout + 5
        hub.controller.behaviour.signs = True
        hub.controller.look_again()
        await asking
        listener = asyncio.create_task(kept.issue(order(LeafProfile.SERVING)))
        await listener
    asked = hub.controller.seen[-1]["spec"]
    assert asked["usages"] == ["digital signature", "key encipherment", "server auth"]


async def test_a_leaf_never_outlives_what_was_ordered(hub: Management) -> None:
    async with authority_of(hub.back_end) as kept:
        for life in (timedelta(seconds=1), timedelta(minutes=5), timedelta(hours=24)):
            wanted = order(life=life)
            leaf = Certificate.from_der((await kept.issue(wanted)).der)
            assert leaf.not_after <= max(wanted.validity.not_after, CLOCK.now() + timedelta(seconds=1))
            assert leaf.not_after > wanted.validity.not_after - timedelta(seconds=hub.config.timeout + 5)


# What becomes of it ------------------------------------------------------------------------------------------------


async def test_a_certificate_is_issued_and_its_request_removed(hub: Management) -> None:
    async with authority_of(hub.back_end) as kept:
        leaf = await checked(kept, hub)
        assert leaf.issuers[0] == hub.ca.certificate
        assert leaf.issuers[-1] == hub.ca.root
        await eventually(lambda: not hub.requests)
        assert kept.issuers == (hub.ca.certificate, hub.ca.root), "learned with the leaf"
        await kept.refresh()
        assert kept.issuers == (*hub.ca.chain, hub.ca.root)


async def test_a_denied_request_is_reported_with_the_approvers_reason(hub: Management) -> None:
    hub.controller.behaviour.denies = "No policy approved this request: \x1b[31mnamespaces"
    async with authority_of(hub.back_end) as kept:
        error = await refused(kept, AuthorityRefused, "denied")
        assert "policy.cert-manager.io: No policy approved this request" in str(error)
        assert kept.can_sign  # others may pass
        assert kept.describe().reason == "denied"
        await eventually(lambda: not hub.requests)


async def test_failed_and_invalid_requests_have_different_reasons(hub: Management) -> None:
    async with authority_of(hub.back_end) as kept:
        hub.controller.behaviour.fails = "Vault failed to sign certificate: 503 sealed"
        error = await refused(kept, AuthorityUnavailable, "failed")
        assert "503 sealed" in str(error)
        assert ISSUER in error.remedy
        hub.controller.behaviour.fails = ""
        hub.controller.behaviour.invalid = "validity period is too long"
        await refused(kept, AuthorityRefused, "invalid_request")
        await eventually(lambda: not hub.requests)


async def test_a_request_that_is_never_approved_is_reported_and_does_not_count_as_issued(
    hub: Management,
) -> None:
    hub.controller.behaviour.approves = False
    async with authority_of(hub.configured(**HASTY)) as kept:
        error = await refused(kept, AuthorityUnavailable, "not_approved")
        assert not isinstance(error, AuthorityUncertain)
        await eventually(lambda: not hub.requests)


async def test_approved_and_not_signed_in_time_may_be_signed_yet(hub: Management) -> None:
    hub.controller.behaviour.signs = False
    async with authority_of(hub.configured(**HASTY)) as kept:
        error = await refused(kept, AuthorityUncertain, "outcome_unknown")
        assert error.remedy
        await eventually(lambda: not hub.requests)


async def test_a_request_that_is_deleted_meanwhile_is_not_waited_for(hub: Management) -> None:
    hub.controller.behaviour.signs = False
    async with authority_of(hub.back_end) as kept:
        asking = asyncio.create_task(refused(kept, AuthorityUncertain, "request_deleted"))
        request = await one_request(hub)
        await eventually(lambda: hub.requests[0].get("status", {}).get("conditions"))
        hub.cluster.delete(REQUESTS, NAMESPACE, request["metadata"]["name"])
        assert NAMESPACE in (await asking).remedy


async def test_a_missing_issuer_is_reported_at_once(hub: Management) -> None:
    async with authority_of(hub.configured(issuer_name="other")) as kept:
        error = await refused(kept, AuthorityMisconfigured, "issuer_not_found")
        assert '"other" not found' in str(error)


async def test_an_issuer_of_the_namespace_may_be_used(hub: Management) -> None:
    await hub.controller.set_issuer("own", "Issuer", namespace=NAMESPACE)
    async with authority_of(hub.configured(issuer_name="own", issuer_kind="Issuer")) as kept:
        assert (await checked(kept, hub)).issuers[-1] == hub.ca.root


async def test_an_issuer_that_is_not_ready_is_reported_at_once(hub: Management) -> None:
    await hub.controller.set_issuer(ISSUER, ready=False)
    async with authority_of(hub.back_end) as kept:
        await refused(kept, AuthorityUnavailable, "issuer_not_ready")


async def test_an_external_issuer_that_never_answers(hub: Management) -> None:
    async with authority_of(
        hub.configured(issuer_group="example.com", issuer_kind="StepIssuer", **HASTY)
    ) as kept:
        assert kept.describe().state == "ready"
        await refused(kept, AuthorityUncertain, "outcome_unknown")


async def test_where_the_issuer_may_be_read_its_state_is_health(hub: Management) -> None:
    grant_issuers(hub)
    async with authority_of(hub.back_end) as kept:
        assert kept.describe().state == "ready"
        await hub.controller.set_issuer(ISSUER, ready=False)
        await kept.refresh()
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", "issuer_not_ready")
        assert "shared-intermediate-ca" in report.detail
        hub.cluster.delete("clusterissuers", "", ISSUER)
        await kept.refresh()
        assert kept.describe().reason == "issuer_not_found"
        await hub.controller.set_issuer(ISSUER)
        await kept.refresh()
        assert kept.describe().state == "ready"


def grant_issuers(hub: Management) -> None:
    """The optional right of docs/authorities.md."""
    rbac = "rbac.authorization.k8s.io"
    name = {"metadata": {"name": "federation-signer-issuer"}}
    rule = {
        "apiGroups": ["cert-manager.io"],
        "resources": ["clusterissuers"],
        "resourceNames": [ISSUER],
        "verbs": ["get"],
    }
    role = name | {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "rules": [rule]}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT[1], "namespace": ACCOUNT[0]}
    binding = name | {
        "apiVersion": f"{rbac}/v1",
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "federation-signer-issuer"},
        "subjects": [subject],
    }
    hub.cluster.apply_manifest([role, binding])


# One watch, few operations ------------------------------------------------------------------------------------------


async def test_many_at_once_share_one_watch_and_cost_two_operations_each(hub: Management) -> None:
    number = 40
    async with authority_of(hub.back_end) as kept:
        await asyncio.gather(*(checked(kept, hub) for _ in range(number)))
        await eventually(lambda: not hub.requests)
    asked = [record.info for record in hub.cluster.requests.by(USER) if record.info.full_resource == REQUESTS]
    verbs = Counter(info.verb for info in asked)
    assert verbs["create"] == verbs["delete"] == number
    assert verbs["watch"] == 1
    assert verbs["list"] <= 3  # the watch's first, the sweep, and a look at its health
    assert set(verbs) == {"create", "delete", "watch", "list"}  # which is what the manifest grants


async def test_a_caller_who_gives_up_leaves_no_request(hub: Management) -> None:
    hub.controller.behaviour.signs = False
    async with authority_of(hub.back_end) as kept:
        for pause in (0.0, 0.0, 0.002, 0.01, 0.05):
            asking = asyncio.create_task(kept.issue(order()))
            await asyncio.sleep(pause)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        hub.controller.behaviour.signs = True
        await checked(kept, hub)
        await eventually(lambda: not hub.requests)
    created = hub.cluster.requests.count(verb="create", resource=REQUESTS)
    assert created >= 2


async def test_closing_waits_until_requests_are_removed(hub: Management) -> None:
    async with authority_of(hub.back_end) as kept:
        await asyncio.gather(*(kept.issue(order()) for _ in range(5)))
    assert hub.requests == []


async def test_closing_does_not_wait_for_ever(hub: Management) -> None:
    async with asyncio.timeout(PATIENCE):
        async with authority_of(hub.back_end) as kept:
            await kept.issue(order())
            hub.cluster.faults.inject(Hang(), verb="delete")
        assert hub.requests, "what could not be removed is left to the next sweep"
    hub.cluster.faults.clear()


# What a crash left behind -------------------------------------------------------------------------------------------


def leave(hub: Management, age: timedelta, *, labels: dict[str, str] | None = None) -> str:
    """A request as a replica that crashed so long ago would have left it."""
    hub.cluster.skew = -age
    name = f"federation-{secrets.token_hex(8)}"
    own = {MANAGED_BY: MANAGER, INSTANCE: "0123456789abcdef"}
    meta = {"name": name, "labels": own if labels is None else labels}
    hub.controller.behaviour.approves = False
    hub.cluster.create(REQUESTS, {"metadata": meta, "spec": {"issuerRef": {}}}, namespace=NAMESPACE)
    hub.cluster.skew = timedelta(0)
    return name


def names(hub: Management) -> set[str]:
    return {request["metadata"]["name"] for request in hub.requests}


async def test_leftovers_of_a_crash_are_removed_and_those_of_others_kept(hub: Management) -> None:
    old = {leave(hub, LEFTOVER_AGE + timedelta(minutes=1)) for _ in range(3)}
    kept_ones = {
        leave(hub, LEFTOVER_AGE - timedelta(minutes=1)),  # a replica may be waiting for it
        leave(hub, timedelta(days=1), labels={}),
        leave(hub, timedelta(days=1), labels={MANAGED_BY: "another-hub", INSTANCE: "0123456789abcdef"}),
    }
    assert names(hub) == old | kept_ones
    async with authority_of(hub.back_end):
        await eventually(lambda: names(hub) == kept_ones)


async def test_the_age_of_requests_is_by_the_clusters_own_clock(hub: Management) -> None:
    hub.cluster.skew = -timedelta(hours=1)  # an hour behind: everything there looks old from here
    hub.renew_token()
    name = f"federation-{secrets.token_hex(8)}"
    meta = {"name": name, "labels": {MANAGED_BY: MANAGER, INSTANCE: "0123456789abcdef"}}
    hub.controller.behaviour.approves = False
    hub.cluster.create(REQUESTS, {"metadata": meta, "spec": {"issuerRef": {}}}, namespace=NAMESPACE)
    async with authority_of(hub.back_end) as kept:
        await kept.refresh()
        assert kept.describe().state == "ready"
        await eventually(lambda: hub.cluster.requests.count(verb="list", resource=REQUESTS) >= 3)
    assert names(hub) == {name}


async def test_what_could_not_be_removed_is_swept_later(hub: Management) -> None:
    clock = VirtualClock(CLOCK.now())
    fault = hub.cluster.faults.inject(Answer.server_error(), verb="delete")
    name = leave(hub, LEFTOVER_AGE + timedelta(minutes=1))
    service = CertManager(hub.config, back_end_context(clock))
    polling = asyncio.create_task(service.poll())
    await eventually(lambda: fault.hits)
    fault.lift()
    assert names(hub) == {name}
    while names(hub):
        await clock.advance(30)
        await asyncio.sleep(0.01)
        assert clock.monotonic() < 1200
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    await service.close()


@pytest.mark.parametrize("status", [403, 409, 422])
async def test_one_that_cannot_be_removed_keeps_no_other(hub: Management, status: int) -> None:
    left = sorted(leave(hub, LEFTOVER_AGE + timedelta(minutes=1)) for _ in range(3))
    refusal = Answer(status, "Refused", "not this one")
    with hub.cluster.faults.inject(refusal, verb="delete", name=left[0]):
        async with authority_of(hub.back_end):
            await eventually(lambda: names(hub) == {left[0]})
            assert names(hub) == {left[0]}, "it is tried again and again, and the others are gone for good"


async def test_without_the_right_to_delete_leaves_are_issued_and_status_says_so(hub: Management) -> None:
    role = hub.cluster.get("roles", NAMESPACE, "federation-signer")
    assert role is not None
    rule = role["rules"][0]
    verbs = [verb for verb in rule["verbs"] if verb != "delete"]
    hub.cluster.patch("roles", NAMESPACE, "federation-signer", {"rules": [rule | {"verbs": verbs}]})
    async with authority_of(hub.back_end) as kept:
        await checked(kept, hub)
        await eventually(lambda: hub.cluster.requests.count(verb="delete", resource=REQUESTS, status=403))
        await kept.refresh()
        report = kept.describe()
        assert (report.state, report.reason) == ("degraded", "warning")
        assert "manifests/cert-manager" in report.detail


# Where the watch breaks while a caller waits ----------------------------------------------------------------------


async def waiting_for(kept: ManagedAuthority, hub: Management) -> asyncio.Task[CheckedLeaf]:
    """A request that is there, approved, and not signed yet."""
    hub.controller.behaviour.signs = False
    asking = asyncio.create_task(checked(kept, hub))
    await eventually(lambda: hub.requests and hub.requests[0].get("status", {}).get("conditions"))
    return asking


async def sign_now(hub: Management) -> None:
    hub.controller.behaviour.signs = True
    hub.controller.look_again()
    await eventually(lambda: hub.controller.issued)


@pytest.mark.parametrize(
    "effect", [Answer.server_error(), Gone(as_event=True), Gone(as_event=False), Garbage(), Cut(after=500)]
)
async def test_what_is_issued_while_the_watch_is_broken_is_found(hub: Management, effect: Effect) -> None:
    async with authority_of(hub.back_end) as kept:
        asking = await waiting_for(kept, hub)
        fault = hub.cluster.faults.inject(effect, verb="watch", path=OURS)
        hub.cluster.end_watches()
        await sign_now(hub)
        await eventually(lambda: fault.hits)
        fault.lift()
        assert (await asking).issuers[-1] == hub.ca.root


async def test_a_version_that_is_too_old_leads_to_a_list(hub: Management) -> None:
    async with authority_of(hub.back_end) as kept:
        asking = await waiting_for(kept, hub)
        with hub.cluster.faults.inject(Answer.server_error(), verb="watch", path=OURS):
            hub.cluster.end_watches()
            await sign_now(hub)
            hub.cluster.compact()
        assert (await asking).issuers[-1] == hub.ca.root
        await eventually(lambda: not hub.requests)


async def test_a_request_that_was_removed_while_the_watch_was_broken_is_known_to_be_gone(
    hub: Management,
) -> None:
    async with authority_of(hub.back_end) as kept:
        asking = await waiting_for(kept, hub)
        with hub.cluster.faults.inject(Answer.server_error(), verb="watch", path=OURS):
            hub.cluster.end_watches()
            hub.cluster.delete(REQUESTS, NAMESPACE, hub.requests[0]["metadata"]["name"])
            hub.cluster.compact()
        with pytest.raises(AuthorityUncertain) as caught:
            await asking
        assert caught.value.reason == "request_deleted"


async def test_a_request_whose_watch_failed_counts_as_possibly_issued(hub: Management) -> None:
    async with authority_of(hub.configured(**HASTY)) as kept:
        with hub.cluster.faults.inject(Answer.server_error(), verb="watch", path=OURS):
            hub.cluster.end_watches()
            hub.controller.behaviour.approves = False
            await refused(kept, AuthorityUncertain, "outcome_unknown")
            await kept.refresh()
            assert kept.describe().reason == "server_error"


# What the API server does ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [0, 20])
async def test_an_answer_that_is_lost_is_no_lost_certificate(hub: Management, sent: int) -> None:
    """Cut before its first byte the creation is sent once more, and there is one request all the same."""
    async with authority_of(hub.back_end) as kept:
        with hub.cluster.faults.inject(Cut(after=sent), verb="create", path=OURS) as fault:
            assert (await checked(kept, hub)).issuers[-1] == hub.ca.root
            assert fault.hits
        assert hub.controller.issued == 1
        await eventually(lambda: not hub.requests)


@pytest.mark.parametrize(
    ("effect", "kind", "reason"),
    [
        (Answer.forbidden(), AuthorityMisconfigured, "forbidden"),
        (Answer.unauthorized(), AuthorityMisconfigured, "unauthorized"),
        (Answer.throttled(retry_after=7), AuthorityThrottled, "throttled"),
        (Answer.server_error(), AuthorityUncertain, "outcome_unknown"),
        (Answer(400, "BadRequest", 'admission webhook "x" denied it'), AuthorityRefused, "request_invalid"),
        (
            Answer(400, "", 'admission webhook "x" denied the request: no'),
            AuthorityRefused,
            "request_invalid",
        ),
        (
            Answer(401, "", 'admission webhook "x" denied the request: no'),
            AuthorityRefused,
            "request_invalid",
        ),
        (
            Answer(404, "NotFound", "the server could not find it"),
            AuthorityMisconfigured,
            "cert_manager_missing",
        ),
        (Answer(404, "NotFound", 'namespaces "a" not found'), AuthorityMisconfigured, "namespace_missing"),
    ],
)
async def test_each_answer_to_a_creation_is_its_own_error(
    hub: Management, effect: Effect, kind: type[FederationError], reason: str
) -> None:
    async with authority_of(hub.back_end) as kept:
        with hub.cluster.faults.inject(effect, verb="create", path=OURS):
            error = await refused(kept, kind, reason)
        assert type(error) is kind
        assert not isinstance(error, AuthorityThrottled) or error.retry_after == 7
        assert (await checked(kept, hub)).issuers[-1] == hub.ca.root


@pytest.mark.parametrize(
    ("effect", "reason"),
    [
        (Answer.forbidden(), "forbidden"),
        (Answer.unauthorized(), "unauthorized"),
        (Answer.throttled(), "throttled"),
        (Answer(404, "NotFound", "the server could not find the requested resource"), "cert_manager_missing"),
        (Garbage(), "server_error"),
    ],
)
async def test_each_answer_to_a_poll_has_its_own_state(hub: Management, effect: Effect, reason: str) -> None:
    async with authority_of(hub.back_end) as kept:
        with hub.cluster.faults.inject(effect, verb="list", path=OURS):
            for _ in range(TOLERATED_THROTTLED + 1):  # what may pass is borne a few times
                await kept.refresh()
            report = kept.describe()
            assert (report.state, report.reason) == ("unavailable", reason)
            assert report.remedy
            assert not kept.can_sign
        await kept.refresh()
        assert kept.describe().state == "ready"
        await checked(kept, hub)


async def test_an_api_server_that_hangs_is_no_answer_in_time(hub: Management) -> None:
    async with authority_of(hub.configured(**HASTY)) as kept:
        with hub.cluster.faults.inject(Hang(), path=OURS):
            await refused(kept, AuthorityUncertain, "outcome_unknown")
            await kept.refresh()
            assert kept.describe().reason == "timeout"


async def test_a_cluster_without_cert_manager(hub: Management) -> None:
    resource = hub.cluster.resources.find("cert-manager.io", "v1", REQUESTS)
    assert resource is not None
    hub.cluster.resources.remove(resource)
    async with authority_of(hub.back_end) as kept:
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", "cert_manager_missing")


async def test_an_api_server_that_is_down_is_no_uncertainty(hub: Management) -> None:
    async with authority_of(hub.back_end) as kept:
        await hub.cluster.down()
        error = await refused(kept, AuthorityUnavailable, "unreachable")
        assert not isinstance(error, AuthorityUncertain)
        await hub.cluster.up()
        await kept.refresh()
        await checked(kept, hub)


async def test_credentials_are_read_anew_when_they_are_refused(hub: Management) -> None:
    file = hub.config.credentials.kubeconfig
    assert file is not None
    good = file.read_text()
    file.write_text(good.replace(hub.token, "stale"))
    async with authority_of(hub.back_end) as kept:
        assert kept.describe().reason == "unauthorized"
        file.write_text(good)
        await kept.refresh()
        assert kept.describe().state == "ready"
        assert (await checked(kept, hub)).issuers[-1] == hub.ca.root


async def test_after_a_token_rotation_the_client_reconnects_without_a_refused_request(
    hub: Management,
) -> None:
    def watches() -> int:
        """How many connections the hub has made: each begins with one."""
        recent = hub.cluster.requests.recent
        return sum(entry.info.verb == "watch" and entry.user == USER for entry in recent)

    service = CertManager(hub.config, back_end_context())
    try:
        await service.poll()
        await eventually(lambda: watches() == 1)
        hub.renew_token()
        await service.poll()
        await eventually(lambda: watches() == 2)
        assert hub.cluster.requests.count(status=401) == 0
    finally:
        await service.close()


async def test_a_changed_kubeconfig_is_taken_up_while_requests_are_under_way(hub: Management) -> None:
    file = hub.config.credentials.kubeconfig
    assert file is not None
    async with authority_of(hub.back_end) as kept:
        asking = await waiting_for(kept, hub)
        old = hub.token
        hub.renew_token()
        assert hub.token != old
        await kept.refresh()
        assert kept.describe().state == "ready"
        await sign_now(hub)
        assert (await asking).issuers
        await eventually(lambda: not hub.requests)


@pytest.mark.parametrize("spoilt", ["no kubeconfig", "stale"])
async def test_a_changed_kubeconfig_that_is_no_good_leaves_the_one_of_now(
    hub: Management, spoilt: str
) -> None:
    file = hub.config.credentials.kubeconfig
    assert file is not None
    async with authority_of(hub.back_end) as kept:
        good = file.read_text()
        file.write_text(good.replace(hub.token, spoilt) if spoilt == "stale" else spoilt)
        await kept.refresh()
        assert kept.describe().state == "degraded"
        assert "kubeconfig" in kept.describe().detail
        await checked(kept, hub)
        file.write_text(good)
        await kept.refresh()
        assert kept.describe().state == "ready"


async def test_credentials_that_are_none(tmp_path: Path, hub: Management) -> None:
    missing = Credentials(kubeconfig=tmp_path / "missing")
    async with authority_of(hub.configured(credentials=missing)) as kept:
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", "credentials")
        assert report.remedy


# What is no answer ------------------------------------------------------------------------------------------------


async def violated(kept: ManagedAuthority, hub: Management, reason: str) -> AuthorityViolation:
    alarms = Alarms(CLOCK)
    with pytest.raises(AuthorityViolation) as caught:
        await checked(kept, hub, alarms=alarms)
    assert caught.value.reason == reason
    assert alarms.violations == 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    return caught.value


@pytest.mark.parametrize(
    ("certificate", "ca"),
    [
        (b"no certificate", b""),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b""),
        (b"-----BEGIN CERTIFICATE-----\n" + b"A" * 120_000, b""),
        (pki.root("many").pem * 9, b""),
        (pki.root("many").pem, b"no certificate"),
        (pki.root("many").pem, pki.root("many").pem * 33),
        (b"", b""),
    ],
)
async def test_garbage_is_an_alarm(hub: Management, certificate: bytes, ca: bytes) -> None:
    hub.controller.behaviour.answer = lambda _: (certificate, ca)
    async with authority_of(hub.back_end) as kept:
        await violated(kept, hub, "garbage")
        hub.controller.behaviour.answer = None
        await checked(kept, hub)
        await eventually(lambda: not hub.requests)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"private_key": pki.key("another's")}, "wrong_key"),
        ({"identity": "spiffe://cluster.local/ns/foo/sa/admin"}, "wrong_names"),
        ({"ca": True}, "is_ca"),
        ({"usage": None}, "wrong_usages"),
        ({"not_after": CLOCK.now().replace(microsecond=0) + timedelta(hours=5)}, "outlives_request"),
    ],
)
async def test_a_leaf_that_was_not_ordered_is_an_alarm(
    hub: Management, wrong: dict[str, Any], reason: str
) -> None:
    own = {"private_key": pki.key("workload of kind ecdsa-p256"), "identity": IDENTITY} | wrong
    hub.controller.behaviour.answer = lambda _: wrong_answer(hub.ca, **own)
    async with authority_of(hub.back_end) as kept:
        await violated(kept, hub, reason)


async def test_an_unpinned_root_is_an_alarm_and_a_proposal_and_can_be_mended(hub: Management) -> None:
    stranger = authority("stranger")
    hub.controller.behaviour.answer = lambda request: hub.controller.sign(request, issuer=stranger)
    clock = SkippingClock()
    async with authority_of(hub.back_end, clock=clock) as kept:
        await violated(kept, hub, "no_anchor")
        await kept.refresh()
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", "no_anchor")
        assert [proposal.sha256 for proposal in report.proposals] == [stranger.root.sha256]
        hub.controller.behaviour.answer = None
        clock.skipped = CHAIN_MEMORY + 1
        hub.cluster.end_watches()  # a watch that was silent for so long would be listed anew
        await kept.refresh()  # what was learned is too old to matter
        assert (await checked(kept, hub)).issuers[-1] == hub.ca.root
        await kept.refresh()
        assert kept.issuers[-1] == hub.ca.root


class SkippingClock(SystemClock):
    """The system's clock, which a test can have skip some seconds."""

    skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped


async def test_a_bundle_in_status_ca_is_no_broken_chain(hub: Management) -> None:
    """External issuers put whole bundles there; of those only what continues the chain is taken."""

    def bundled(request: dict[str, Any]) -> tuple[bytes, bytes]:
        certificate, root = hub.controller.sign(request)
        return certificate, pki.root("old").pem + root + pki.root("older").pem + root

    hub.controller.behaviour.answer = bundled
    async with authority_of(hub.back_end) as kept:
        assert (await checked(kept, hub)).issuers == (*hub.ca.chain, hub.ca.root)


async def test_a_status_that_is_none_spoils_one_request_only(hub: Management) -> None:
    hub.controller.behaviour.signs = False
    async with authority_of(hub.back_end) as kept:
        spoiled = asyncio.create_task(checked(kept, hub))
        name = (await one_request(hub))["metadata"]["name"]
        await eventually(lambda: hub.requests[0].get("status", {}).get("conditions"))
        fine = asyncio.create_task(checked(kept, hub))
        await eventually(lambda: len(hub.requests) == 2)
        await hub.controller.spoil(name, {"conditions": "all of them"})
        with pytest.raises(AuthorityViolation, match="not what the API promises"):
            await spoiled
        await sign_now(hub)
        assert (await fine).issuers[-1] == hub.ca.root


async def test_nothing_is_asked_of_one_that_was_closed(hub: Management) -> None:
    service = CertManager(hub.config, replace(back_end_context(), jitter=random.Random(3)))
    await service.close()
    with pytest.raises(AuthorityUnavailable) as caught:
        await service.issue(order())
    assert caught.value.reason == "closed"
