"""Who is asking: istio-csr's and istiod's authentication tests, by name, against real API answers, and what they lack.

Every case goes through the listener over TLS, with tokens that clusters in a box have signed. All clusters use the same
issuer, as kubeadm's do: nothing may depend on it.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import msgspec
import pytest

from federation.core.documents.signer import SignerClusterReport
from federation_sandbox.apiserver.faults import Answer as Status
from federation_sandbox.apiserver.faults import Delay, Garbage, Hang, Silence
from federation_sandbox.cluster import DEFAULT_ISSUER, SandboxCluster
from tests.signer.running_signer import Answer, RunningSigner, eventually, identity_of, running_signer
from tests.support.patience import PATIENCE

KEYS_TYPE = "application/jwk-set+json"
OKP_ONLY = (
    b'{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ed1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",'
    b'"use":"sig","alg":"EdDSA"}]}'
)
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def reported(hub: RunningSigner, cluster: str = "east") -> SignerClusterReport:
    return hub.role.report().clusters[cluster]


def refused(answer: Answer) -> bool:
    return (answer.code, answer.details) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "request authenticate failure",
    )


def unavailable(answer: Answer) -> bool:
    return (answer.code, answer.details) == (
        grpc.StatusCode.UNAVAILABLE,
        "certificate signing is temporarily unavailable",
    )


def reviews(box: SandboxCluster) -> int:
    return box.requests.count(verb="create", resource="tokenreviews")


def mode(name: str, *, request_timeout: float = 5.0) -> Any:
    def setup(hub: RunningSigner) -> None:
        hub.options = dict.fromkeys(hub.clusters, f'attestation = "{name}"')
        hub.request_timeout = request_timeout

    return setup


def method_of(hub: RunningSigner, cluster: str = "east") -> str:
    return hub.role.report().clusters[cluster].attestation


async def test_a_token_is_refused_under_the_clusterid_of_another_cluster(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        token = hub.pod("east")
        hub.pod("west")
        assert hub.clusters["east"].issuer == hub.clusters["west"].issuer
        assert refused(await hub.ask("west", token))
        assert (await hub.ask("east", token)).leaf.uris == (str(identity_of("foo", "bar")),)
        assert reviews(hub.clusters["west"]) == 0, "a foreign token must never be shown to an API server"
        assert sum(hub.refused("west").values()) == 1


@pytest.mark.parametrize("own_keys", [True, False])
async def test_a_foreign_token_is_not_shown_to_an_api_server_that_reviews(
    tmp_path: Path, own_keys: bool
) -> None:
    west = SandboxCluster("west")
    fault = west.faults.inject(Status.forbidden(), path="/openid/v1/jwks")
    if own_keys:
        fault.lift()
    boxes = {"east": SandboxCluster("east"), "west": west}
    async with running_signer(tmp_path, clusters=boxes, setup=mode("token-review")) as hub:
        await eventually(lambda: hub.role.report().clusters["east"].keys)
        token = hub.pod("east")
        assert refused(await hub.ask("west", token))
        assert reviews(west) == 0
        assert hub.refused("west") == {"token_of_another_cluster": 1}
        assert (await hub.ask("west", hub.pod("west"))).code is grpc.StatusCode.OK
        assert reviews(west) == 1


async def test_without_a_clusterid_the_key_decides(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        for name in hub.clusters:
            token = hub.pod(name)
            for cluster_id in (None, "Kubernetes"):
                assert (await hub.ask(cluster_id, token)).leaf.uris == (str(identity_of("foo", "bar")),)
        report = hub.role.report()
        assert {name: cluster.issued for name, cluster in report.clusters.items()} == {"east": 2, "west": 2}


async def test_more_than_one_clusterid_counts_as_none(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        answer = await hub.ask("west", hub.pod("east"), metadata=[("clusterid", "west")])
        assert answer.code is grpc.StatusCode.OK
        assert hub.role.report().clusters["east"].issued == 1


async def test_a_token_that_verifies_by_keys_of_two_clusters_is_refused_without_a_clusterid(
    tmp_path: Path,
) -> None:
    """A cloned control plane, or a broken cluster that publishes another's keys."""
    east, west = SandboxCluster("east"), SandboxCluster("west")
    west.keys.keys.append(east.keys.signing)
    async with running_signer(tmp_path, clusters={"east": east, "west": west}) as hub:
        token = hub.pod("east")
        assert refused(await hub.ask(None, token))
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK, "the broken one must not disturb it"
        assert refused(await hub.ask("west", token)), "the pod is not there"


async def test_an_unknown_cluster_is_refused(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        assert refused(await hub.ask("north", hub.pod("east")))
        assert refused(await hub.ask("east-", hub.pod("east")))
        # HTTP/2 has no white space at a value's end (RFC 9113, 8.2.1): such a call does not even come in.
        assert (await hub.ask("east\x20", hub.pod("east"))).code is grpc.StatusCode.INTERNAL
        assert hub.role.report().rejected_calls.total == {"headers_malformed": 1}


async def test_a_removed_cluster_is_refused_and_the_other_is_not_disturbed(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        tokens = {name: hub.pod(name) for name in hub.clusters}
        hub.registered.remove("west")
        await hub.reconfigure()
        assert refused(await hub.ask("west", tokens["west"]))
        assert refused(await hub.ask(None, tokens["west"]))
        assert (await hub.ask("east", tokens["east"])).code is grpc.StatusCode.OK
        assert list(hub.role.report().clusters) == ["east"]
        hub.registered.append("west")
        await hub.reconfigure()
        await hub.ready()
        assert (await hub.ask("west", tokens["west"])).code is grpc.StatusCode.OK


@pytest.mark.parametrize("attestation", ["auto", "token-keys", "token-review"])
async def test_a_deleted_pod_takes_its_token_with_it(tmp_path: Path, attestation: str) -> None:
    async with running_signer(tmp_path, setup=mode(attestation)) as hub:
        box, token = hub.clusters["east"], hub.pod("east")
        await eventually(lambda: hub.role.report().clusters["east"].state == "ready")
        if attestation == "token-keys":
            await known(hub)
        else:
            assert (await hub.ask("east", hub.pod("east", name="other-0"))).code is grpc.StatusCode.OK
        box.delete("pods", "foo", "bar-0")

        async def gone() -> bool:
            answer = await hub.ask("east", token)
            return refused(answer) or (attestation == "token-keys" and unavailable(answer))

        async with asyncio.timeout(PATIENCE):
            while not await gone():
                await asyncio.sleep(0.05)
        assert await gone()


async def known(hub: RunningSigner, cluster: str = "east") -> None:
    """Wait until the watch has seen every pod there is."""
    pods = hub.clusters[cluster].objects("pods")
    await eventually(lambda: len(hub.attestors[cluster].objects.pods or ()) == len(pods))


@pytest.mark.parametrize(("ago", "accepted"), [(-30, True), (50, True), (90, False)])
async def test_a_terminating_pod_counts_until_a_minute_after_its_end(
    tmp_path: Path, ago: int, accepted: bool
) -> None:
    async with running_signer(tmp_path) as hub:
        box, token = hub.clusters["east"], hub.pod("east")
        box.skew = timedelta(seconds=-ago - 10)
        box.delete("pods", "foo", "bar-0", grace=10)
        box.skew = timedelta(0)
        assert box.get("pods", "foo", "bar-0") is not None
        await eventually(lambda: any(pod.deletion for pod in hub.attestors["east"].objects.pods or ()))
        answer = await hub.ask("east", token)
        assert (answer.code is grpc.StatusCode.OK) is accepted
        assert refused(answer) is not accepted
        assert hub.refused("east") == ({} if accepted else {"object_deleted": 1})


async def test_uid_mismatch_of_the_pod(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        box, old = hub.clusters["east"], hub.pod("east")
        box.delete("pods", "foo", "bar-0")
        new = hub.pod("east")
        assert refused(await hub.ask("east", old))
        assert (await hub.ask("east", new)).code is grpc.StatusCode.OK


async def test_uid_mismatch_of_the_service_account(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        box, old = hub.clusters["east"], hub.pod("east")
        box.delete("serviceaccounts", "foo", "bar")
        box.create_service_account("foo", "bar")
        assert refused(await hub.ask("east", old))
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK


async def test_service_account_mismatch_between_token_and_request(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        for identity in (identity_of("foo", "other"), identity_of("other", "bar")):
            assert refused(await hub.ask("east", token, identity=identity))
        assert hub.refused("east") == {"name_mismatch": 2} or sum(hub.refused("east").values()) == 2


async def test_a_token_for_another_audience_is_refused(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        hub.pod("east")
        box = hub.clusters["east"]
        for audiences in ((box.issuer,), ("vault",), ("istio-ca.example",)):
            token = box.token("foo", "bar", pod="bar-0", audiences=audiences)
            assert refused(await hub.ask("east", token))
        several = box.token("foo", "bar", pod="bar-0", audiences=("vault", "istio-ca"))
        assert (await hub.ask("east", several)).code is grpc.StatusCode.OK


async def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        hub.pod("east")
        box = hub.clusters["east"]
        box.skew = timedelta(hours=-2)
        token = box.token("foo", "bar", pod="bar-0", expiration=600)
        box.skew = timedelta(0)
        assert refused(await hub.ask("east", token))
        assert hub.refused("east") == {"token_expired": 1}


def review(**changes: Any) -> Garbage:
    """An API server's verdict on the token of foo/bar in bar-0, with something wrong about it."""
    status: dict[str, Any] = {
        "authenticated": True,
        "audiences": ["istio-ca"],
        "user": {
            "username": "system:serviceaccount:foo:bar",
            "uid": "?",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:foo", "system:authenticated"],
            "extra": {},
        },
    }
    user = {**status["user"], **changes.pop("user", {})}
    body = {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "status": {**status, "user": user, **changes},
    }
    return Garbage(code=201, content_type="application/json", body=msgspec.json.encode(body))


VERDICTS: list[tuple[dict[str, Any], str]] = [
    ({"authenticated": False}, "review_refused"),
    ({"error": "token has been invalidated"}, "review_refused"),
    ({"user": {}, "audiences": []}, "review_audience"),
    ({"audiences": None}, "review_audience"),
    ({"audiences": ["https://kubernetes.default.svc.cluster.local"]}, "review_audience"),
    ({"user": {"groups": ["system:authenticated"]}}, "review_not_service_account"),
    ({"user": {"groups": None}}, "review_not_service_account"),
    ({"user": {"username": "system:serviceaccount:foo"}}, "review_not_service_account"),
    ({"user": {"username": "system:serviceaccount:foo:bar:baz"}}, "review_not_service_account"),
    ({"user": {"username": "alice"}}, "review_not_service_account"),
    ({"user": {"username": "system:serviceaccount:foo:other"}}, "review_mismatch"),
    ({"user": {"uid": "another"}}, "review_mismatch"),
    ({"pod": "another"}, "review_mismatch"),
    ({"pod": ""}, "review_mismatch"),
    ({"pod_uid": "another"}, "review_mismatch"),
    ({"node": "node-2"}, "review_mismatch"),
    ({"node": "node-1"}, ""),
    ({}, ""),
]


async def test_what_a_token_review_must_say(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=mode("token-review")) as hub:
        box = hub.clusters["east"]
        for number, (wrong, reason) in enumerate(VERDICTS):
            changes, name = dict(wrong), f"bar-{number}"
            token = hub.pod("east", name=name)
            pod, account = box.get("pods", "foo", name), box.get("serviceaccounts", "foo", "bar")
            assert pod is not None
            assert account is not None
            extra = {
                "authentication.kubernetes.io/pod-name": [changes.pop("pod", name)],
                "authentication.kubernetes.io/pod-uid": [changes.pop("pod_uid", pod["metadata"]["uid"])],
            }
            if extra["authentication.kubernetes.io/pod-name"] == [""]:
                extra = {}
            if "node" in changes:
                extra["authentication.kubernetes.io/node-name"] = [changes.pop("node")]
            changes["user"] = {"uid": account["metadata"]["uid"], "extra": extra} | changes.get("user", {})
            before = hub.refused("east").get(reason, 0)
            with box.faults.inject(review(**changes), resource="tokenreviews"):
                answer = await hub.ask("east", token)
            if reason:
                assert refused(answer), wrong
                assert hub.refused("east").get(reason, 0) == before + 1, (wrong, hub.refused("east"))
            else:
                assert answer.leaf.uris == (str(identity_of("foo", "bar")),)


@pytest.mark.parametrize(
    "fault",
    [
        Status.server_error(),
        Status.forbidden(),
        Status.unauthorized(),
        Status.throttled(),
        Garbage(),
        Garbage(code=200, content_type="application/json", body=b"{}"),
        Garbage(code=201, content_type="application/json", body=b'{"kind":"TokenReview"'),
        Garbage(code=202, body=b'{"kind":"TokenReview","status":{"error":"\xff"}}'),
        Hang(),
    ],
    ids=lambda fault: type(fault).__name__ + str(getattr(fault, "code", "")),
)
async def test_a_token_review_outage_is_unavailable_and_not_a_refusal(tmp_path: Path, fault: Any) -> None:
    async with running_signer(tmp_path, setup=mode("token-review")) as hub:
        token = hub.pod("east")
        with hub.clusters["east"].faults.inject(fault, resource="tokenreviews"):
            assert unavailable(await hub.ask("east", token))
            assert hub.role.report().clusters["east"].state != "ready"
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert hub.role.report().clusters["east"].state == "ready"


async def test_a_pod_newer_than_the_watch_is_decided_by_token_review(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        box = hub.clusters["east"]
        with box.faults.inject(Silence(), resource="pods"):
            token = hub.pod("east")
            assert method_of(hub) == "token-keys"
            assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert reviews(box) == 1


async def test_where_the_watch_is_down_token_review_decides(tmp_path: Path) -> None:
    box = SandboxCluster("east")
    fault = box.faults.inject(Status.forbidden(), resource="pods")
    async with running_signer(tmp_path, clusters={"east": box}, start=False) as hub:
        await hub.publish()
        await hub.start()
        await eventually(lambda: hub.role.report().ready and hub.role.report().clusters["east"].keys)
        token = hub.pod("east")
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        report = hub.role.report().clusters["east"]
        assert (report.attestation, report.state, report.reason) == ("token-review", "degraded", "forbidden")
        assert reviews(box) == 1
        fault.lift()
        await hub.ready()
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert reviews(box) == 1


async def test_where_reviews_decide_nothing_is_read_but_keys(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=mode("token-review")) as hub:
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        paths = {entry.info.path for entry in hub.clusters["east"].requests.recent}
        assert REVIEWS in paths
        assert not any("pods" in path or path.endswith("serviceaccounts") for path in paths)


async def test_where_keys_decide_no_review_is_asked_for(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=mode("token-keys")) as hub:
        token = hub.pod("east")
        await known(hub)
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        box = hub.clusters["east"]
        box.requests.reset()
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert not box.requests.recent, "what fresh caches hold costs the cluster nothing"
        with box.faults.inject(Silence(), resource="pods"):
            young = hub.pod("east", name="young-0")
            assert (await hub.ask("east", young)).code is grpc.StatusCode.OK, "the watch has not shown it yet"
            box.delete("pods", "foo", "young-0")
            assert refused(await hub.ask("east", young))
            assert hub.refused("east") == {"object_unknown": 1}
        assert reviews(box) == 0


@pytest.mark.parametrize("fault", ["silent", "broken", "not listed yet"])
async def test_a_stale_pod_watch_refuses_no_honest_caller_where_token_keys_decide(
    tmp_path: Path, fault: str
) -> None:
    """Calls are served while a silent watch times out and a broken one waits to be restarted."""

    def setup(hub: RunningSigner) -> None:
        mode("token-keys")(hub)
        hub.timeouts = "watch_silence = 2"

    async with running_signer(tmp_path, setup=setup, start=False) as hub:
        box, token = hub.clusters["east"], hub.pod("east")
        gone = hub.pod("east", account="other", name="gone-0")
        await hub.publish()
        every_pod = "/api/v1/pods"  # lists and watches; questions about one pod name its namespace
        if fault == "not listed yet":
            hang = box.faults.inject(Hang(), path=every_pod)
            await hub.start()
            await eventually(lambda: hub.role.report().ready and reported(hub).keys)
        else:
            await hub.start()
            await hub.ready()
            await known(hub)
            hang = box.faults.inject(Hang(), path=every_pod)
            if fault == "silent":
                box.faults.inject(Silence(), resource="pods")
            else:
                box.end_watches()
        await eventually(lambda: hub.attestors["east"].objects.pods is None)
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        box.delete("serviceaccounts", "foo", "other")
        assert refused(await hub.ask("east", gone))
        assert hub.refused("east") == {"object_unknown": 1}
        assert reviews(box) == 0
        await eventually(lambda: not hub.attestors["east"].objects.recent)
        with box.faults.inject(Status.server_error(), path="/api/v1/namespaces/foo/pods"):
            assert unavailable(await hub.ask("east", token)), "an outage is no refusal"
        assert hub.attestors["east"].objects.pods is None, "all the while"
        hang.lift()


@pytest.mark.parametrize("attestation", ["auto", "token-keys"])
async def test_caches_decide_for_a_while_where_the_api_server_is_away(
    tmp_path: Path, attestation: str
) -> None:
    async with running_signer(tmp_path, setup=mode(attestation)) as hub:
        box, token = hub.clusters["east"], hub.pod("east")
        gone = hub.pod("east", name="gone-0")
        await known(hub)
        box.delete("pods", "foo", "gone-0")
        await known(hub)
        box.faults.inject(Silence(), resource="pods")
        unseen = hub.pod("east", name="unseen-0")
        await box.down()
        await eventually(lambda: not hub.attestors["east"].objects.fresh)
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert unavailable(await hub.ask("east", gone))
        assert unavailable(await hub.ask("east", unseen))
        assert reported(hub).state != "ready"


@pytest.mark.parametrize("attestation", ["auto", "token-keys"])
async def test_caches_decide_no_longer_than_those_of_a_silent_watch(tmp_path: Path, attestation: str) -> None:
    def setup(hub: RunningSigner) -> None:
        mode(attestation)(hub)
        hub.timeouts = "watch_silence = 2"

    async with running_signer(tmp_path, setup=setup) as hub:
        token = hub.pod("east")
        await known(hub)
        await hub.clusters["east"].down()
        await eventually(lambda: not hub.attestors["east"].objects.recent)
        assert unavailable(await hub.ask("east", token))


@pytest.mark.parametrize(
    "fault",
    [Status.forbidden(), Status.throttled(), Garbage(code=200)],
    ids=["forbidden", "throttled", "garbage"],
)
async def test_caches_do_not_decide_where_the_api_server_answers_otherwise(
    tmp_path: Path, fault: Any
) -> None:
    async with running_signer(tmp_path) as hub:
        box, token = hub.clusters["east"], hub.pod("east")
        await known(hub)
        box.faults.inject(Hang(), path="/api/v1/pods")
        box.end_watches()
        await eventually(lambda: not hub.attestors["east"].objects.fresh)
        with box.faults.inject(fault, resource="tokenreviews"):
            assert unavailable(await hub.ask("east", token))


async def test_callers_of_one_pod_share_the_question_about_it(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=mode("token-keys", request_timeout=20)) as hub:
        box, token = hub.clusters["east"], hub.pod("east")
        await known(hub)
        box.faults.inject(Hang(), path="/api/v1/pods")
        box.end_watches()
        await eventually(lambda: hub.attestors["east"].objects.pods is None)
        box.requests.reset()
        with box.faults.inject(Delay(3), path="/api/v1/namespaces/"):
            answers = await asyncio.gather(*(hub.ask("east", token) for _ in range(8)))
        assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
        assert box.requests.count(verb="list", resource="pods") == 1


async def test_callers_with_one_token_share_one_review(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=mode("token-review", request_timeout=20)) as hub:
        token = hub.pod("east")
        with hub.clusters["east"].faults.inject(Delay(3), resource="tokenreviews"):
            answers = await asyncio.gather(*(hub.ask("east", token) for _ in range(8)))
        assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert reviews(hub.clusters["east"]) == 1


async def test_a_caller_that_goes_away_takes_no_other_callers_review_with_it(tmp_path: Path) -> None:
    async with running_signer(tmp_path, setup=mode("token-review", request_timeout=20)) as hub:
        token = hub.pod("east")
        with hub.clusters["east"].faults.inject(Delay(4), resource="tokenreviews"):
            first = asyncio.create_task(hub.ask("east", token, timeout=2))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(hub.ask("east", token))
            assert (await first).code is not grpc.StatusCode.OK
            assert (await second).code is grpc.StatusCode.OK
        assert reviews(hub.clusters["east"]) == 1


async def test_a_new_token_key_is_found_when_it_is_first_used(tmp_path: Path) -> None:
    def setup(
        hub: RunningSigner,
    ) -> None:  # with a certificate: a token of the signer's own would end with the old key
        user, groups = "system:serviceaccount:federation-system:federation-signer", ["system:serviceaccounts"]
        hub.clusters["east"].write_kubeconfig(tmp_path / "east.kubeconfig", user, groups=groups)

    async with running_signer(tmp_path, setup=setup) as hub:
        box = hub.clusters["east"]
        old = hub.pod("east")
        box.keys.rotate("ES256")
        new = box.token("foo", "bar", pod="bar-0")
        assert (await hub.ask("east", new)).code is grpc.StatusCode.OK
        assert (await hub.ask("east", old)).code is grpc.StatusCode.OK
        box.keys.retire()
        await hub.attestors["east"].keys.refresh()
        assert refused(await hub.ask("east", old))


async def test_unknown_keys_do_not_become_load_on_the_cluster(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ("east", "west")) as hub:
        box = hub.clusters["east"]
        before = box.requests.count(resource="/openid/v1/jwks")
        token = hub.pod("west")
        for _ in range(10):
            assert refused(await hub.ask("east", token))
        assert box.requests.count(resource="/openid/v1/jwks") - before == 1


async def test_keys_known_before_serve_while_they_cannot_be_fetched(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        box, token = hub.clusters["east"], hub.pod("east")
        with box.faults.inject(Status.server_error(), path="/openid/v1/jwks"):
            await hub.attestors["east"].keys.refresh()
            report = hub.role.report().clusters["east"]
            assert (report.state, report.reason) == ("degraded", "server_error")
            assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
            box.keys.rotate()
            assert unavailable(await hub.ask("east", box.token("foo", "bar", pod="bar-0")))


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/openid/v1/jwks", b"<html>", "garbage"),
        ("/.well-known/openid-configuration", b'{"issuer":"\xff"}', "garbage"),
    ],
    ids=["keys", "issuer"],
)
async def test_keys_that_are_garbage_leave_it_to_token_review(
    tmp_path: Path, path: str, body: bytes, reason: str
) -> None:
    box = SandboxCluster("east")
    box.faults.inject(Garbage(code=200, body=body), path=path)
    async with running_signer(tmp_path, clusters={"east": box}, start=False) as hub:
        await hub.publish()
        await hub.start()
        await eventually(
            lambda: hub.role.report().ready and hub.role.report().clusters["east"].reason == reason
        )
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK


async def test_keys_that_are_unreachable_at_start_leave_it_to_token_review(tmp_path: Path) -> None:
    box = SandboxCluster("east")
    box.faults.inject(Garbage(), path="/openid/v1/jwks")
    async with running_signer(tmp_path, clusters={"east": box}, start=False) as hub:
        await hub.publish()
        await hub.start()
        await eventually(
            lambda: hub.role.report().ready and hub.role.report().clusters["east"].reason == "server_error"
        )
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        assert method_of(hub) == "token-review"


async def test_keys_are_never_fetched_from_elsewhere(tmp_path: Path) -> None:
    box = SandboxCluster("east", issuer="https://issuer.elsewhere.example")
    elsewhere = b'{"issuer":"https://issuer.elsewhere.example","jwks_uri":"https://127.0.0.1:1/keys"}'
    box.faults.inject(
        Garbage(code=200, content_type="application/json", body=elsewhere),
        path="/.well-known/openid-configuration",
    )
    async with running_signer(tmp_path, clusters={"east": box}) as hub:
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        assert hub.role.report().clusters["east"].issuer == "https://issuer.elsewhere.example"


async def test_the_configured_issuer_is_compared(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.options = {"east": 'issuer = "https://another.example"'}

    async with running_signer(tmp_path, setup=setup) as hub:
        assert refused(await hub.ask("east", hub.pod("east")))
        assert hub.refused("east") == {"token_issuer": 1}


async def test_tokens_of_an_issuer_that_was_changed_are_reviewed_while_they_live(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        box, old = hub.clusters["east"], hub.pod("east")
        box.change_issuer("https://new.example")
        await hub.attestors["east"].keys.refresh()
        new = box.token("foo", "bar", pod="bar-0")
        assert (await hub.ask("east", new)).code is grpc.StatusCode.OK
        assert reviews(box) == 0
        assert (await hub.ask("east", old)).code is grpc.StatusCode.OK
        assert reviews(box) == 1
        box.change_issuer(DEFAULT_ISSUER, keep=False)
        await hub.attestors["east"].keys.refresh()
        assert refused(await hub.ask("east", new))
        assert hub.refused("east") == {"review_refused": 1}


@pytest.mark.parametrize("attestation", ["token-keys", "token-review", "auto"])
@pytest.mark.parametrize("former", [True, False])
async def test_tokens_of_a_former_issuer_are_accepted_only_if_it_is_listed(
    tmp_path: Path, attestation: str, former: bool
) -> None:
    def setup(hub: RunningSigner) -> None:
        listed = f'\nformer_issuers = ["{DEFAULT_ISSUER}"]' if former else ""
        hub.options = {"east": f'attestation = "{attestation}"\nissuer = "https://new.example"{listed}'}

    async with running_signer(tmp_path, setup=setup) as hub:
        box, old = hub.clusters["east"], hub.pod("east")
        box.change_issuer("https://new.example")
        await eventually(lambda: hub.role.report().clusters["east"].state == "ready")
        assert (await hub.ask("east", box.token("foo", "bar", pod="bar-0"))).code is grpc.StatusCode.OK
        answer = await hub.ask("east", old)
        if former:
            assert answer.code is grpc.StatusCode.OK
        else:
            assert refused(answer)
            assert hub.refused("east") == {"token_issuer": 1}


async def test_with_unusable_keys_every_token_is_reviewed_and_the_report_is_degraded(
    tmp_path: Path,
) -> None:
    box = SandboxCluster("east")
    box.faults.inject(Garbage(code=200, content_type=KEYS_TYPE, body=OKP_ONLY), path="/openid/v1/jwks")
    async with running_signer(tmp_path, clusters={"east": box}, start=False) as hub:
        await hub.publish()
        await hub.start()
        await eventually(lambda: hub.role.report().ready and "reviewed" in reported(hub).detail)
        assert reported(hub).state == "degraded"
        assert "no key that a cluster signs tokens with, so every token is reviewed" in reported(hub).detail
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        assert reviews(box) == 1
        assert method_of(hub) == "token-review"
        assert reported(hub).state == "degraded"


@pytest.mark.parametrize("change", ["kid", "kty"])
async def test_a_token_of_a_key_that_cannot_be_used_is_reviewed(tmp_path: Path, change: str) -> None:
    """Its key has no name in the key set, or is of another kind there; another key of the set can be used."""
    box = SandboxCluster("east")
    box.keys.rotate("ES256")
    unusable, usable = (key.jwk() for key in box.keys.keys)
    document = json.dumps({"keys": [unusable | {change: ""}, usable]}).encode()
    box.faults.inject(Garbage(code=200, content_type=KEYS_TYPE, body=document), path="/openid/v1/jwks")
    async with running_signer(tmp_path, clusters={"east": box}) as hub:
        assert reported(hub).keys == 1
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        assert reviews(box) == 1


async def test_a_service_account_may_have_the_longest_name_that_kubernetes_takes(tmp_path: Path) -> None:
    name = f"{'a' * 100}.{'b' * 152}"
    assert len(name) == 253
    namespace = "n" * 63
    async with running_signer(tmp_path) as hub:
        for attestation in ("auto", "token-review"):
            hub.options["east"] = f'attestation = "{attestation}"'
            await hub.reconfigure()
            await hub.ready()
            token = hub.pod("east", namespace, name, "p" * 253)
            answer = await hub.ask("east", token, identity=identity_of(namespace, name))
            assert answer.leaf.uris == (f"spiffe://cluster.local/ns/{namespace}/sa/{name}",), attestation
        assert reviews(hub.clusters["east"]) == 1


async def test_a_token_bound_to_no_pod_is_for_the_probe_alone(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        hub.pod("east")
        box = hub.clusters["east"]
        assert refused(await hub.ask("east", box.token("foo", "bar")))
        assert hub.refused("east") == {"pod_required": 1}
        probe = box.token("federation-system", "federation-probe")
        identity = identity_of("federation-system", "federation-probe")
        assert (await hub.ask("east", probe, identity=identity)).leaf.uris == (str(identity),)
        hub.policies["east"] = "require_pod = false"
        await hub.reconfigure()
        assert (await hub.ask("east", box.token("foo", "bar"))).code is grpc.StatusCode.OK


async def test_a_token_bound_to_a_secret_is_reviewed_even_if_it_names_a_pod(
    tmp_path: Path,
) -> None:
    """The hub watches no Secrets. kube-apiserver binds to one object, and judges each that is named."""
    async with running_signer(tmp_path) as hub:
        box = hub.clusters["east"]
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        assert reviews(box) == 0
        claims = jwt.decode(hub.pod("east"), options={"verify_signature": False})
        claims["kubernetes.io"]["secret"] = {"name": "gone", "uid": "gone"}
        await hub.ask("east", box.keys.signing.sign(claims))
        assert reviews(box) == 1


async def test_policy_of_one_cluster_binds_that_cluster_alone(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.policies = {"west": 'allow = ["shop/*"]\ndeny = ["shop/root", "federation-system/*"]'}

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        assert (await hub.ask("east", hub.pod("east"))).code is grpc.StatusCode.OK
        assert refused(await hub.ask("west", hub.pod("west")))
        shop = hub.pod("west", "shop", "cart", "cart-0")
        assert (await hub.ask("west", shop, identity=identity_of("shop", "cart"))).code is grpc.StatusCode.OK
        root = hub.pod("west", "shop", "root", "root-0")
        assert refused(await hub.ask("west", root, identity=identity_of("shop", "root")))
        probe = hub.clusters["west"].token("federation-system", "federation-probe")
        identity = identity_of("federation-system", "federation-probe")
        assert refused(await hub.ask("west", probe, identity=identity)), "deny holds for the probe as well"
        assert hub.refused("west") == {"account_not_allowed": 3}


async def test_a_hung_cluster_delays_no_other(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.request_timeout = 15.0  # long enough for all that is asked meanwhile

    async with running_signer(tmp_path, ("east", "west"), setup=setup) as hub:
        east, west = hub.pod("east"), hub.pod("west", name="unseen-0")
        with hub.clusters["west"].hung():
            hub.clusters["west"].create_pod("foo", "newer-0", "bar")
            west = hub.clusters["west"].token("foo", "bar", pod="newer-0")
            stuck = [asyncio.create_task(hub.ask("west", west)) for _ in range(8)]
            await asyncio.sleep(0.1)
            for _ in range(5):
                assert (await hub.ask("east", east)).code is grpc.StatusCode.OK
                assert not any(task.done() for task in stuck), "answered while the others hang"
            assert not any(task.done() for task in stuck)
            answers = await asyncio.gather(*stuck)
        assert all(unavailable(answer) for answer in answers)


async def test_no_token_is_ever_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with running_signer(tmp_path, ("east", "west")) as hub:
        token = hub.pod("east")
        await hub.ask("west", token)
        await hub.ask("east", token + "x")
        await hub.ask("east", token)
        await hub.ask("nowhere", token)
    secret = token.split(".")[1][40:80]
    shown = [
        record.getMessage() + repr(record.__dict__)
        for record in caplog.records
        if "federation" in record.name
    ]
    assert len(shown) > 3
    assert not any(secret in text or token.split(".")[2][:40] in text for text in shown)
