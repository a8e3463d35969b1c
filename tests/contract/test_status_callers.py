"""Callers of the status API with Kubernetes tokens: what TokenReview and SubjectAccessReview make of them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.config.hub import KubernetesCallersConfig, StatusConfig
from federation.core.errors import Unavailable
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation.status import authorization
from federation.status.callers import StatusCaller, unverified_claims
from federation.status.kubernetes_callers import OPERATE, READ, KubernetesCallers
from federation.status.routes import Right
from tests.contract.client import Api
from tests.status.every_route import answers, due
from tests.status.test_callers import bearer, guarded
from tests.support.clock import VirtualClock

AUDIENCE = "federation-hub"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


async def grant(api: Api, namespace: str, account: str, *rules: dict[str, Any]) -> str:
    """A ClusterRole with these rules for that account; its binding's name."""
    name = f"{namespace}-{account}"
    await api.make_global(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": list(rules)})
    await api.make_global(
        f"{RBAC}/clusterrolebindings",
        {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    )
    return name


def roles_of_the_page() -> dict[str, list[dict[str, Any]]]:
    """The ClusterRoles that docs/how-to/callers.md has to copy, as rules by their names."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "callers.md").read_text("utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return {role["metadata"]["name"]: role["rules"] for block in blocks for role in yaml.safe_load_all(block)}


def path_rule(verb: str, path: str) -> dict[str, Any]:
    return {"verbs": [verb], "nonResourceURLs": [path]}


REVIEWS = (
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
)


class Hub:
    """The callers of a hub that has the account ``hub`` in the cluster."""

    def __init__(self, api: Api, namespace: str, clock: VirtualClock, session: ClusterSession) -> None:
        self.api, self.namespace, self.clock = api, namespace, clock
        self.callers = KubernetesCallers(session, clock, audience=lambda: AUDIENCE)

    async def account(self, name: str, *rules: dict[str, Any]) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        await self.api.make(path, {"metadata": {"name": name}})
        if rules:
            await grant(self.api, self.namespace, name, *rules)

    async def token(self, name: str, *audiences: str) -> str:
        return await self.api.token(self.namespace, name, audiences=list(audiences or [AUDIENCE]))

    def caller(self, name: str, right: Right | None) -> StatusCaller:
        return StatusCaller(
            name=f"system:serviceaccount:{self.namespace}:{name}", kind="kubernetes", right=right
        )


async def opened(config: dict[str, Any], token: str, directory: Path) -> ClusterSession:
    user = config["contexts"][0]["context"]["user"]
    file = directory / "kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps({**config, "users": [{"name": user, "user": {"token": token}}]}))
    return await ClusterSession.open(
        Credentials(kubeconfig=file),
        cluster=ClusterName("hub"),
        timeouts=ClusterTimeouts(),
        clock=SystemClock(),
    )


@pytest.fixture
async def hub(config: dict[str, Any], api: Api, namespace: str, tmp_path: Path) -> AsyncIterator[Hub]:
    await api.make(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "hub"}})
    await grant(api, namespace, "hub", *REVIEWS)
    async with await opened(config, await api.token(namespace, "hub"), tmp_path) as session:
        yield Hub(api, namespace, VirtualClock(), session)


async def test_a_caller_has_the_rights_that_its_roles_grant(hub: Hub) -> None:
    await hub.account("reader", path_rule(*READ))
    await hub.account("operator", path_rule(*OPERATE))
    await hub.account("stranger")
    await hub.account("other", path_rule("post", READ[1]), path_rule("get", OPERATE[1]))
    for name, right in {
        "reader": Right.READ,
        "operator": Right.OPERATE,
        "stranger": None,
        "other": None,
    }.items():
        token = await hub.token(name)
        assert hub.callers.takes(unverified_claims(token))
        assert await hub.callers.caller(token) == hub.caller(name, right), name


async def test_every_route_answers_each_caller_by_the_roles_that_it_has(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "REFUSED_BURST", 1000)
    roles = roles_of_the_page()
    await hub.account("reader", *roles["federation-hub-reader"])
    await hub.account("operator", *roles["federation-hub-operator"])
    await hub.account("stranger")
    config = StatusConfig(
        kubernetes=KubernetesCallersConfig(kubeconfig=tmp_path / "kubeconfig", audience=AUDIENCE)
    )
    async with guarded(tmp_path, hub.callers, config) as (session, url):
        for name, right in (("reader", Right.READ), ("operator", Right.OPERATE), ("stranger", None)):
            found = await answers(session, url, bearer(await hub.token(name)))
            assert found == due(right, otherwise=403), name
        other = bearer(await hub.api.token(hub.namespace, "operator", audiences=["istio-ca"]))
        assert await answers(session, url, other) == due(None, otherwise=401)


async def test_a_token_that_is_not_for_the_hub_is_not_taken_and_not_good(hub: Hub) -> None:
    await hub.account("reader", path_rule(*READ))
    for audiences in (("istio-ca",), ()):
        token = await hub.api.token(hub.namespace, "reader", audiences=list(audiences))
        assert not hub.callers.takes(unverified_claims(token))
        assert await hub.callers.caller(token) is None
    token = await hub.token("reader")
    head, body, signature = token.split(".")
    for forged in (
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body}.{signature}x",
    ):
        assert await hub.callers.caller(forged) is None


async def test_a_verdict_is_remembered_for_seconds_alone(hub: Hub) -> None:
    await hub.account("reader", path_rule(*READ))
    token = await hub.token("reader")
    assert not hub.callers.remembers(token)
    assert await hub.callers.caller(token) == hub.caller("reader", Right.READ)
    await hub.api.delete(f"/api/v1/namespaces/{hub.namespace}/serviceaccounts/reader")
    assert await hub.callers.caller(token) == hub.caller("reader", Right.READ)
    assert hub.callers.remembers(token)
    for _ in range(30):  # a real API server remembers tokens for ten seconds itself
        await hub.clock.advance(10)
        if await hub.callers.caller(token) is None:
            break
        await SystemClock().sleep(0.5)
    assert await hub.callers.caller(token) is None
    assert not hub.callers.remembers(token)


async def test_a_hub_that_may_not_ask_knows_no_one_and_says_why(
    config: dict[str, Any], api: Api, namespace: str, tmp_path: Path
) -> None:
    async with await opened(config, await api.token(namespace, "app"), tmp_path) as session:
        callers = KubernetesCallers(session, VirtualClock(), audience=lambda: AUDIENCE)
        with pytest.raises(Unavailable, match="TokenReview"):
            await callers.caller(await api.token(namespace, "app", audiences=[AUDIENCE]))
