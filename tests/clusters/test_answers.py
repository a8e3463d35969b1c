"""What a refusal means: the code alone does not distinguish RBAC, a quota, a policy and a webhook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import (
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterInvalid,
    ClusterNotFound,
    ClusterServerError,
)
from federation.kubernetes.answers import error_for

RBAC = (
    'configmaps "istio-ca-root-cert" is forbidden: User "system:serviceaccount:federation-system:controller" cannot '
    'patch resource "configmaps" in API group "" in the namespace "shop"'
)
QUOTA = (
    'configmaps "istio-ca-root-cert" is forbidden: exceeded quota: team, requested: count/configmaps=1, used: '
    "count/configmaps=4, limited: count/configmaps=4"
)
ENDING = (
    'configmaps "istio-ca-root-cert" is forbidden: unable to create new content in namespace shop because it is being '
    "terminated"
)
POLICY = (
    "configmaps \"istio-ca-root-cert\" is forbidden: ValidatingAdmissionPolicy 'roots' with binding 'roots' denied "
    "request: only pinned roots"
)
WEBHOOK = 'admission webhook "deny.example.org" denied the request: user "hub" cannot write roots here'
NO_PARAMETERS = (
    "secrets \"istiod-tls\" is forbidden: ValidatingAdmissionPolicy 'federation-guard-istiod' with binding "
    "'federation-guard-istiod' denied request: failed to configure binding: no params found for policy binding with "
    "`Deny` parameterNotFoundAction"
)
FAILED = 'configmaps "x" is forbidden: failed quota: team: must specify limits.cpu'


RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "refusals.json").read_text("utf-8"))
"""What kube-apiserver v1.36.2 answered to an apply of the bundle's ConfigMap, with a quota, policies and webhooks; a
webhook that says nothing but no is answered for with 400, and a ValidatingAdmissionPolicy with 422."""

MEANINGS: dict[str, tuple[type[ClusterError], str]] = {
    "quota": (ClusterDenied, "quota"),
    "policy": (ClusterDenied, "admission"),
    "policy_without_parameters": (ClusterDenied, "admission"),
    "policy_forbidden": (ClusterDenied, "admission"),
    "webhook": (ClusterDenied, "admission"),
    "webhook_unexplained": (ClusterDenied, "admission"),
    "webhook_reason": (ClusterDenied, "admission"),
    "webhook_401": (ClusterDenied, "admission"),
    "webhook_409": (ClusterDenied, "admission"),
    "webhook_422": (ClusterDenied, "admission"),
    "webhook_429": (ClusterDenied, "admission"),
    "webhook_500": (ClusterDenied, "admission"),
    "webhook_unreachable": (ClusterServerError, "webhook"),
    "terminating": (ClusterDenied, "terminating"),
    "no_namespace": (ClusterNotFound, "not_found"),
    "immutable": (ClusterInvalid, "invalid"),
    "right_to_patch": (ClusterForbidden, "forbidden"),
    "right_to_list": (ClusterForbidden, "forbidden"),
    "right_to_create": (ClusterForbidden, "forbidden"),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_what_kube_apiserver_really_answers_is_the_right_error(name: str) -> None:
    status = RECORDED[name]
    error = error_for(status["code"], msgspec.json.encode(status), what="PATCH", where="east")
    assert (type(error), error.reason) == MEANINGS[name]
    if error.reason == "admission":
        words = (
            "restart that API server" if name == "policy_without_parameters" else "or webhook that is named"
        )
        assert words in error.remedy


def test_every_answer_that_was_recorded_has_a_meaning() -> None:
    assert RECORDED.keys() == MEANINGS.keys()


def answered(message: str, reason: str = "Forbidden", code: int = 403) -> ClusterError:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    return error_for(code, msgspec.json.encode(status | {"message": message}), what="PATCH", where="east")


@pytest.mark.parametrize(
    ("message", "kind", "reason", "words"),
    [
        (RBAC, ClusterForbidden, "forbidden", "manifests/member"),
        (
            f'{RBAC}: RBAC: clusterrole "federation" not found',
            ClusterForbidden,
            "forbidden",
            "manifests/member",
        ),
        (
            'forbidden: User "system:anonymous" cannot get path "/version"',
            ClusterForbidden,
            "forbidden",
            "manifests",
        ),
        (QUOTA, ClusterDenied, "quota", "ResourceQuota"),
        (FAILED, ClusterDenied, "quota", "ResourceQuota"),
        (NO_PARAMETERS, ClusterDenied, "admission", "restart that API server"),
        (ENDING, ClusterDenied, "terminating", "nothing"),
        (POLICY, ClusterDenied, "admission", "admission policy"),
        (WEBHOOK, ClusterDenied, "admission", "webhook"),
        ("forbidden: injected", ClusterForbidden, "forbidden", "federation clusters check"),
    ],
)
def test_who_refused_follows_from_the_message(
    message: str, kind: type[ClusterError], reason: str, words: str
) -> None:
    error = answered(message)
    assert (type(error), error.reason) == (kind, reason)
    assert words in error.remedy
    if kind is ClusterDenied:
        assert "manifests" not in error.remedy


def test_a_webhook_that_cannot_be_called_is_not_the_api_servers_failure() -> None:
    message = 'Internal error occurred: failed calling webhook "deny.example.org": failed to call webhook: no endpoints'
    error = answered(message, "InternalError", 500)
    assert (type(error), error.reason) == (ClusterServerError, "webhook")
    assert "webhook that is named" in error.remedy
    assert answered("etcdserver: request timed out", "InternalError", 500).reason == "server_error"


def test_what_is_immutable_is_to_be_deleted() -> None:
    error = answered("data: Forbidden: field is immutable when `immutable` is set", "Invalid", 422)
    assert type(error) is ClusterInvalid
    assert error.remedy.startswith("delete that object")


def test_a_webhook_may_answer_without_a_reason() -> None:
    assert type(answered(WEBHOOK, reason="")) is ClusterDenied


@given(st.text(max_size=200))
def test_whatever_a_policy_says_after_it_rbac_refused(text: str) -> None:
    assert type(answered(f"{RBAC}: {text}")) is ClusterForbidden


@given(st.text(max_size=200))
def test_whatever_a_policy_says_after_it_the_quota_refused(text: str) -> None:
    assert answered(f"{QUOTA}; {text}").reason == "quota"


@given(st.text(max_size=200), st.sampled_from([400, 401, 404, 409, 410, 422, 429, 500, 503]))
def test_only_the_api_server_says_that_admission_refused(text: str, code: int) -> None:
    """What others write comes after the API server's own words."""
    message = f'configmaps "x" is invalid: data: Invalid value: "{text}": {WEBHOOK}'
    assert type(answered(message, "Invalid", code)) is not ClusterDenied
