"""Service account tokens: TokenRequest, published keys, TokenReview and what ends a token's life."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from federation.kubernetes.protobuf import MEDIA_TYPE, encode_token_review
from tests.contract.client import Api, eventually, pod

AUDIENCE = "istio-ca"
EXTRA = "authentication.kubernetes.io/"


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


@pytest.fixture
async def bound_pod(api: Api, namespace: str) -> dict[str, Any]:
    made = await api.make(f"/api/v1/namespaces/{namespace}/pods", pod("p", "app"))
    return {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made["metadata"]["uid"]}


async def test_a_token_says_what_was_asked_for(api: Api, namespace: str, bound_pod: dict[str, Any]) -> None:
    before = int(time.time())
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/app"
    spec = {"audiences": [AUDIENCE], "expirationSeconds": 1200, "boundObjectRef": bound_pod}
    made = await api.make(f"{path}/token", {"spec": spec})
    assert (made["kind"], made["apiVersion"]) == ("TokenRequest", "authentication.k8s.io/v1")
    token, account = made["status"]["token"], (await api.get(path)).meta
    claims = claims_of(token)
    assert set(claims) == {"aud", "exp", "iat", "iss", "jti", "kubernetes.io", "nbf", "sub"}
    assert claims["aud"] == [AUDIENCE]
    assert claims["exp"] - claims["iat"] == 1200
    assert claims["nbf"] == claims["iat"]
    assert abs(claims["iat"] - before) < 30
    assert claims["sub"] == f"system:serviceaccount:{namespace}:app"
    assert claims["kubernetes.io"] == {
        "namespace": namespace,
        "node": {"name": "node-contract"},
        "pod": {"name": "p", "uid": bound_pod["uid"]},
        "serviceaccount": {"name": "app", "uid": account["uid"]},
    }


async def test_a_token_names_the_node_with_its_uid_where_it_exists(api: Api, namespace: str) -> None:
    node = await api.make_global("/api/v1/nodes", {"metadata": {"generateName": "contract-"}})
    name = node["metadata"]["name"]
    await api.make(f"/api/v1/namespaces/{namespace}/pods", pod("p", "app", node=name))
    token = await api.token(namespace, "app", boundObjectRef={"apiVersion": "v1", "kind": "Pod", "name": "p"})
    assert claims_of(token)["kubernetes.io"]["node"] == {"name": name, "uid": node["metadata"]["uid"]}


async def test_published_keys_verify_the_token(api: Api, namespace: str) -> None:
    token = await api.token(namespace, "app", audiences=[AUDIENCE])
    discovery = await api.get("/.well-known/openid-configuration")
    keys = await api.get("/openid/v1/jwks", accept="application/jwk-set+json, application/json")
    assert discovery.headers["Content-Type"] == "application/json"
    assert keys.headers["Content-Type"] == "application/jwk-set+json"
    assert discovery.json["issuer"] == claims_of(token)["iss"]
    assert discovery.json["jwks_uri"].endswith("/openid/v1/jwks")
    header = jwt.get_unverified_header(token)
    assert set(header) == {"alg", "kid"}
    assert header["alg"] in discovery.json["id_token_signing_alg_values_supported"]
    key = jwt.PyJWKSet.from_dict(keys.json)[header["kid"]]
    verified = jwt.decode(
        token, key, algorithms=[header["alg"]], audience=AUDIENCE, issuer=discovery.json["issuer"]
    )
    assert verified["sub"] == f"system:serviceaccount:{namespace}:app"


async def test_the_key_set_is_not_offered_as_plain_json(api: Api) -> None:
    refused = await api.get("/openid/v1/jwks", accept="application/json")
    assert (refused.status, refused.reason) == (406, "NotAcceptable")
    for accept in ("application/jwk-set+json", "*/*", "application/json, */*"):
        assert (await api.get("/openid/v1/jwks", accept=accept)).status == 200


async def test_a_token_without_audiences_is_for_the_server_itself(api: Api, namespace: str) -> None:
    claims = claims_of(await api.token(namespace, "app"))
    assert claims["iss"] in claims["aud"]
    assert claims["exp"] - claims["iat"] == 3600
    assert "pod" not in claims["kubernetes.io"]


@pytest.mark.parametrize("seconds", [599, -1, 2**32 + 1])
async def test_absurd_lifetimes_are_invalid(api: Api, namespace: str, seconds: int) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/app/token"
    refused = await api.post(path, {"spec": {"expirationSeconds": seconds}})
    assert (refused.status, refused.reason) == (422, "Invalid")
    assert refused.json["details"]["causes"][0]["field"] == "spec.expirationSeconds"


async def test_a_token_needs_its_account_and_its_bound_object(api: Api, namespace: str) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    absent = await api.post(f"{accounts}/absent/token", {"spec": {}})
    assert (absent.status, absent.json["details"]["kind"]) == (404, "serviceaccounts")
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "none"}
    unbound = await api.post(f"{accounts}/app/token", {"spec": {"boundObjectRef": reference}})
    assert (unbound.status, unbound.json["details"]["kind"]) == (404, "pods")
    odd = await api.post(
        f"{accounts}/app/token", {"spec": {"boundObjectRef": reference | {"kind": "ConfigMap"}}}
    )
    assert odd.status == 400


async def test_the_bound_pod_must_be_the_right_one(
    api: Api, namespace: str, bound_pod: dict[str, Any]
) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    other = bound_pod | {"uid": "00000000-0000-0000-0000-000000000000"}
    refused = await api.post(f"{accounts}/app/token", {"spec": {"boundObjectRef": other}})
    assert (refused.status, refused.reason) == (409, "Conflict")
    await api.make(accounts, {"metadata": {"name": "second"}})
    foreign = await api.post(f"{accounts}/second/token", {"spec": {"boundObjectRef": bound_pod}})
    assert (foreign.status, foreign.reason) == (400, "BadRequest")


async def test_a_review_says_whose_the_token_is(api: Api, namespace: str, bound_pod: dict[str, Any]) -> None:
    token = await api.token(namespace, "app", audiences=[AUDIENCE, "other"], boundObjectRef=bound_pod)
    claims = claims_of(token)
    status = await api.review(token, AUDIENCE, "unasked")
    assert status["authenticated"] is True
    assert status["audiences"] == [AUDIENCE]
    user = status["user"]
    assert user["username"] == claims["sub"]
    assert user["uid"] == claims["kubernetes.io"]["serviceaccount"]["uid"]
    assert user["groups"] == [
        "system:serviceaccounts",
        f"system:serviceaccounts:{namespace}",
        "system:authenticated",
    ]
    assert user["extra"] == {
        f"{EXTRA}credential-id": [f"JTI={claims['jti']}"],
        f"{EXTRA}node-name": ["node-contract"],
        f"{EXTRA}pod-name": ["p"],
        f"{EXTRA}pod-uid": [bound_pod["uid"]],
    }


async def test_a_review_without_audiences_asks_for_the_servers_own(api: Api, namespace: str) -> None:
    foreign = await api.review(await api.token(namespace, "app", audiences=[AUDIENCE]))
    assert "authenticated" not in foreign
    assert "is invalid for the target audiences" in foreign["error"]
    own = await api.token(namespace, "app")
    status = await api.review(own)
    assert status["authenticated"] is True
    assert set(status["audiences"]) <= set(claims_of(own)["aud"])


async def test_a_token_for_another_audience_is_rejected(api: Api, namespace: str) -> None:
    status = await api.review(await api.token(namespace, "app", audiences=["vault"]), AUDIENCE)
    assert "authenticated" not in status
    assert status["error"]
    assert status["user"] == {}


@pytest.mark.parametrize("token", ["abc", "a.b.c", "x" * 5000])
async def test_garbage_is_rejected(api: Api, token: str) -> None:
    status = await api.review(token, AUDIENCE)
    assert "authenticated" not in status
    assert status["error"] == "invalid bearer token"


async def test_a_review_may_be_asked_for_in_protobuf(api: Api, namespace: str) -> None:
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    for token in (await api.token(namespace, "app", audiences=[AUDIENCE]), "a.b.c"):
        body = encode_token_review(token, AUDIENCE)
        answer = await api.post(path, body, content_type=MEDIA_TYPE)
        assert answer.status == 201
        assert answer.json["status"] == await api.review(token, AUDIENCE)
    refused = await api.post(path, b"{}", content_type=MEDIA_TYPE)
    assert refused.status == 400


async def test_no_token_at_all_is_a_bad_request(api: Api) -> None:
    refused = await api.post("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {}})
    assert (refused.status, refused.reason) == (400, "BadRequest")


async def test_a_tampered_or_forged_token_is_rejected(api: Api, namespace: str) -> None:
    token = await api.token(namespace, "app", audiences=[AUDIENCE])
    head, body, signature = token.split(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    same_key = {"kid": jwt.get_unverified_header(token)["kid"]}
    forged = jwt.encode(claims_of(token), "0" * 64, algorithm="HS256", headers=same_key)
    unsigned = jwt.encode(claims_of(token), "", algorithm="none", headers=same_key)
    for bad in (f"{head}.{body}.{flipped}", forged, unsigned):
        status = await api.review(bad, AUDIENCE)
        assert "authenticated" not in status
        assert status["error"]


async def test_a_token_dies_with_its_pod(api: Api, namespace: str, bound_pod: dict[str, Any]) -> None:
    token = await api.token(namespace, "app", audiences=[AUDIENCE], boundObjectRef=bound_pod)
    path = f"/api/v1/namespaces/{namespace}/pods"
    await api.delete(f"{path}/p", gracePeriodSeconds=0)
    assert await eventually(lambda: rejected(api, token))
    reborn = await api.make(path, pod("p", "app"))
    assert reborn["metadata"]["uid"] != bound_pod["uid"]
    status = await api.review(token, AUDIENCE)
    assert "authenticated" not in status


async def test_a_token_dies_with_its_account(api: Api, namespace: str) -> None:
    token = await api.token(namespace, "app", audiences=[AUDIENCE])
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    await api.delete(f"{path}/app")
    assert await eventually(lambda: rejected(api, token))
    await api.make(path, {"metadata": {"name": "app"}})
    assert await eventually(lambda: rejected(api, token))


async def rejected(api: Api, token: str) -> bool:
    return "authenticated" not in await api.review(token, AUDIENCE)


async def test_a_terminating_pod_may_still_use_its_token(
    api: Api, namespace: str, bound_pod: dict[str, Any]
) -> None:
    await api.delete(f"/api/v1/namespaces/{namespace}/pods/p")
    token = await api.token(namespace, "app", audiences=[AUDIENCE], boundObjectRef=bound_pod)
    assert (await api.review(token, AUDIENCE))["authenticated"] is True


async def test_kubelet_style_tokens_warn_before_they_expire(
    api: Api, namespace: str, bound_pod: dict[str, Any]
) -> None:
    token = await api.token(namespace, "app", expirationSeconds=3607, boundObjectRef=bound_pod)
    claims = claims_of(token)
    assert claims["exp"] - claims["iat"] == 365 * 24 * 3600
    assert claims["kubernetes.io"]["warnafter"] - claims["iat"] == 3607
    other = claims_of(await api.token(namespace, "app", expirationSeconds=3607, audiences=[AUDIENCE]))
    assert "warnafter" not in other["kubernetes.io"]
    assert other["exp"] - other["iat"] == 3607
