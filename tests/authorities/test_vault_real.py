"""A real Vault or OpenBao: the recommended roles and policy are enough, and what they leave out is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from federation.core.config.authorities.settings import JwtRef, SecretRef, VaultAuth, VaultAuthorityConfig
from federation.core.errors import AuthorityMisconfigured, AuthorityRefused, FederationError
from federation.core.pki.certificate import Certificate
from federation.core.pki.leaf import LeafProfile
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import AuthoritySettings, ManagedAuthority
from federation_sandbox.cluster import SandboxCluster
from tests.authorities.back_end import BackEnd, authority_of, order
from tests.authorities.real_vault import (
    OWN_TOKEN,
    Admin,
    admin,
    pki_policy,
    token_server,
    way_to,
)
from tests.authorities.vault_hub import ELSEWHERE, by_certificate, secret_file
from tests.signer.running_signer import authority
from tests.support import pki


@dataclass
class Real:
    """The server set up as recommended, and the hub's settings for it."""

    operator: Admin
    mesh: str
    root: Certificate
    config: VaultAuthorityConfig
    token: str
    directory: Path

    @asynccontextmanager
    async def hub(self, auth: VaultAuth | None = None, **options: Any) -> AsyncIterator[ManagedAuthority]:
        server = replace(self.config.server, auth=auth) if auth is not None else self.config.server
        config = replace(self.config, server=server, **options)
        back_end = BackEnd(settings=AuthoritySettings(config), root=self.root)
        async with authority_of(back_end) as kept:
            yield kept

    async def sign(self, role: str, **changes: Any) -> tuple[int, str]:
        """What the hub's own token gets, with a request that the hub would not make."""
        body = {"csr": pki.csr_pem(), **changes}
        path = f"{self.mesh}/issuer/default/sign/{role}"
        status, answer = await self.operator.ask("POST", path, body, token=self.token)
        return status, " ".join(answer.get("errors", ()))


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(admin())
        proxy = await stack.enter_async_context(way_to(operator))
        mesh, root = await operator.root_and_intermediate()
        await operator.recommended_roles(mesh)
        token = await operator.token_with(await operator.policy(pki_policy(mesh) + OWN_TOKEN))
        config = VaultAuthorityConfig(
            name="real vault",
            server=token_server(operator, proxy, tmp_path, token),
            mount=mesh,
            role="mesh-workload",
            serving_role="mesh-listener",
        )
        yield Real(operator, mesh, root, config, token, tmp_path)


async def refused(kept: ManagedAuthority, *args: Any, **options: Any) -> FederationError:
    with pytest.raises(FederationError) as caught:
        await kept.issue(order(*args, **options))
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("role", "changes", "words"),
    [
        ("mesh-workload", {"uri_sans": ["spiffe://elsewhere/ns/foo/sa/bar"]}, "not valid for this role"),
        ("mesh-workload", {"uri_sans": ["https://cluster.local/"]}, "not valid for this role"),
        ("mesh-workload", {"alt_names": "federation-hub.federation-system.svc"}, "not allowed by this role"),
        ("mesh-workload", {"alt_names": "localhost"}, "not allowed by this role"),
        ("mesh-workload", {"alt_names": "admin@cluster.local"}, "not allowed by this role"),
        ("mesh-workload", {"common_name": "admin"}, "not allowed by this role"),
        ("mesh-workload", {"ip_sans": ["127.0.0.1"]}, "not allowed in this role"),
        ("mesh-workload", {"other_sans": ["1.3.6.1.4.1.311.20.2.3;UTF8:admin"]}, "not allowed by this role"),
        ("mesh-workload", {"user_ids": ["admin"]}, "not allowed by this role"),
        ("mesh-workload", {"not_after": "2099-01-01T00:00:00Z"}, "not_after_bound"),
        ("mesh-workload", {"not_before": "2020-01-01T00:00:00Z"}, "not_before_bound"),
        ("mesh-listener", {"uri_sans": ["spiffe://cluster.local/ns/foo/sa/bar"]}, "not allowed in this role"),
        ("mesh-listener", {"alt_names": "other.federation-system.svc"}, "not allowed by this role"),
        (
            "mesh-listener",
            {"alt_names": "sub.federation-hub.federation-system.svc"},
            "not allowed by this role",
        ),
        ("mesh-listener", {"alt_names": "*.federation-system.svc"}, "not allowed by this role"),
        ("mesh-listener", {"ip_sans": ["127.0.0.1"]}, "not allowed in this role"),
    ],
)
async def test_each_restriction_of_the_recommended_roles_bites(
    real: Real, role: str, changes: dict[str, Any], words: str
) -> None:
    assert (await real.sign(role))[0] == 200
    status, text = await real.sign(role, **changes)
    assert (status, words in text) == (400, True), text


async def test_what_the_csr_says_beside_its_key_does_not_count(real: Real) -> None:
    csr = pki.csr_pem("spiffe://cluster.local/ns/kube-system/sa/admin")
    path = f"{real.mesh}/issuer/default/sign/mesh-workload"
    body = {"csr": csr, "ttl": 600, "uri_sans": [str(pki.IDENTITY)]}
    _, answer = await real.operator.ask("POST", path, body, token=real.token)
    leaf = x509.load_pem_x509_certificate(answer["data"]["certificate"].encode())
    assert Certificate.from_der(leaf.public_bytes(Encoding.DER)).uris == (str(pki.IDENTITY),)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "{mesh}/sign/mesh-workload"),
        ("POST", "{mesh}/issue/mesh-workload"),
        ("POST", "{mesh}/issuer/default/issue/mesh-workload"),
        ("POST", "{mesh}/issuer/default/sign-intermediate"),
        ("POST", "{mesh}/issuer/default/sign-verbatim"),
        ("POST", "{mesh}/issuer/default/sign-verbatim/mesh-workload"),
        ("POST", "{mesh}/issuer/default/sign-self-issued"),
        ("POST", "{mesh}/roles/mesh-workload"),
        ("GET", "{mesh}/roles/mesh-workload"),
        ("POST", "{mesh}/revoke"),
        ("POST", "{mesh}/root/generate/internal"),
        ("POST", "{mesh}/config/issuers"),
        ("GET", "{mesh}/keys"),
        ("POST", "auth/token/create"),
        ("GET", "sys/mounts"),
        ("GET", "sys/policies/acl"),
    ],
)
async def test_the_recommended_policy_grants_nothing_more(real: Real, method: str, path: str) -> None:
    body: dict[str, str] | None = {} if method == "POST" else None
    status, _ = await real.operator.ask(method, path.format(mesh=real.mesh), body, token=real.token)
    assert status == 403


async def test_leaves_are_not_stored_there(real: Real) -> None:
    async with real.hub() as kept:
        leaf = Certificate.from_der((await kept.issue(order())).der)
        serial = f"{leaf.serial:x}".zfill(40)
        colons = ":".join(serial[i : i + 2] for i in range(0, 40, 2))
        status, _ = await real.operator.ask("GET", f"{real.mesh}/cert/{colons}")
        assert status == 404


async def test_the_longest_life_is_the_roles(real: Real) -> None:
    async with real.hub() as kept:
        leaf = Certificate.from_der((await kept.issue(order(life=timedelta(hours=48)))).der)
        assert leaf.not_after <= kept.issuers[0].not_after
        assert leaf.not_after - order().validity.not_before < timedelta(hours=24, minutes=5)
        await kept.refresh()
        assert kept.describe().state == "degraded"
        assert "max_ttl" in kept.describe().detail


async def test_refusals_have_different_reasons(real: Real) -> None:
    async with real.hub() as kept:
        problem = await refused(kept, identity=ELSEWHERE)
        assert (type(problem), problem.reason) == (AuthorityRefused, "role_too_narrow")
        problem = await refused(kept, LeafProfile.SERVING, hosts=("elsewhere.svc",))
        assert (type(problem), problem.reason) == (AuthorityRefused, "role_too_narrow")
        await real.operator.do("DELETE", f"{real.mesh}/roles/mesh-workload")
        problem = await refused(kept)
        assert (type(problem), problem.reason) == (AuthorityMisconfigured, "not_found")
        await real.operator.recommended_roles(real.mesh)
        assert (await kept.issue(order())).der
        await real.operator.do("POST", f"{real.mesh}/issuer/default/revoke", {})
        problem = await refused(kept)
        assert (type(problem), problem.reason) == (AuthorityMisconfigured, "issuer_unusable")
    async with real.hub(issuer="missing") as kept:
        assert kept.describe().reason == "not_found"
    async with real.hub(mount="nowhere") as kept:
        assert kept.describe().reason == "not_found"
    async with real.hub(role="another") as kept:
        assert (await refused(kept)).reason == "forbidden", "the policy names its roles"


async def test_an_intermediate_that_ends_soon(real: Real) -> None:
    issuer = await real.operator.new_intermediate(f"{real.operator.name}-root", real.mesh, "10m")
    await real.operator.do("POST", f"{real.mesh}/config/issuers", {"default": issuer})
    async with real.hub() as kept:
        end = kept.issuers[0].not_after
        leaf = Certificate.from_der((await kept.issue(order(life=timedelta(hours=1)))).der)
        assert timedelta(0) <= end - leaf.not_after < timedelta(seconds=15)


async def test_a_quota_throttles(real: Real) -> None:
    quota = f"sys/quotas/rate-limit/{real.operator.name}"
    body = {"path": f"{real.mesh}/issuer/default/sign/mesh-workload", "rate": 1, "interval": "1m"}
    await real.operator.do("POST", quota, body)
    try:
        async with real.hub() as kept:
            assert (await kept.issue(order())).der
            problem = await refused(kept)
            assert problem.reason == "throttled"
    finally:
        await real.operator.do("DELETE", quota)


async def test_a_revoked_token_is_reported(real: Real) -> None:
    async with real.hub() as kept:
        assert (await kept.issue(order())).der
        await real.operator.do("POST", "auth/token/revoke", {"token": real.token})
        assert (await refused(kept)).reason == "login_refused"
        policy = real.operator.name
        other = await real.operator.token_with(policy)
        secret_file(real.directory, "vault-token", other)
        await kept.refresh()
        assert (await kept.issue(order())).der


async def approle(real: Real, **options: Any) -> tuple[str, str]:
    """An AppRole with the recommended policy: its mount and role_id."""
    mount = await real.operator.auth_method("approle")
    role = {
        "token_policies": [real.operator.name],
        "token_no_default_policy": True,
        "token_ttl": "1h",
        **options,
    }
    await real.operator.do("POST", f"auth/{mount}/role/hub", role)
    return mount, (await real.operator.do("GET", f"auth/{mount}/role/hub/role-id"))["role_id"]


async def wrapped_secret(real: Real, mount: str) -> str:
    _, answer = await real.operator.ask(
        "POST", f"auth/{mount}/role/hub/secret-id", {}, headers={"X-Vault-Wrap-TTL": "60s"}
    )
    token: str = answer["wrap_info"]["token"]
    return token


def by_approle(real: Real, mount: str, role_id: str, secret: str, *, wrapped: bool = True) -> VaultAuth:
    return VaultAuth(
        method="approle",
        mount=mount,
        role="hub",
        role_id=SecretRef("file", str(secret_file(real.directory, "role-id", role_id))),
        secret_id=SecretRef("file", str(secret_file(real.directory, "secret-id", secret))),
        secret_id_wrapped=wrapped,
    )


async def test_a_wrapped_secret_id(real: Real) -> None:
    mount, role_id = await approle(real)
    token = await wrapped_secret(real, mount)
    async with real.hub(by_approle(real, mount, role_id, token)) as kept:
        assert (await kept.issue(order())).der
    async with real.hub(by_approle(real, mount, role_id, token)) as kept:
        assert (await kept.issue(order())).der, "this process has taken it out"
    taken = await wrapped_secret(real, mount)
    status, _ = await real.operator.ask("POST", "sys/wrapping/unwrap", token=taken)
    assert status == 200
    async with real.hub(by_approle(real, mount, role_id, taken)) as kept:
        assert kept.describe().reason == "secret_id_tampered", "it was taken out before"
    _, answer = await real.operator.ask(
        "POST", "sys/wrapping/wrap", {"secret_id": "forged"}, headers={"X-Vault-Wrap-TTL": "60s"}
    )
    forged = answer["wrap_info"]["token"]
    async with real.hub(by_approle(real, mount, role_id, forged)) as kept:
        assert kept.describe().reason == "secret_id_tampered"
        assert "sys/wrapping/wrap" in kept.describe().detail
    status, _ = await real.operator.ask("POST", "sys/wrapping/unwrap", token=forged)
    assert status == 200, "the hub did not open it"


async def test_a_short_lease_is_renewed_and_made_anew(real: Real) -> None:
    mount, role_id = await approle(real, token_ttl="2s", token_max_ttl="3s")
    secret = (await real.operator.do("POST", f"auth/{mount}/role/hub/secret-id", {}))["secret_id"]
    auth = by_approle(real, mount, role_id, secret, wrapped=False)
    async with real.hub(auth, poll_seconds=1.0) as kept:
        for _ in range(6):
            await asyncio.sleep(0.7)
            await kept.refresh()
            assert kept.describe().state == "ready", kept.describe().detail
            assert (await kept.issue(order())).der


async def test_a_jwt(real: Real) -> None:
    mount = await real.operator.auth_method("jwt")
    key = pki.key("an issuer of tokens")
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    await real.operator.do("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": [pem]})
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["vault"],
        "bound_subject": "system:serviceaccount:federation-system:federation-hub-signer",
        "token_policies": [real.operator.name],
        "token_no_default_policy": True,
    }
    await real.operator.do("POST", f"auth/{mount}/role/hub", role)
    now = int(SystemClock().now().timestamp())
    claims = {"sub": role["bound_subject"], "aud": "vault", "iat": now, "exp": now + 600}
    file = real.directory / "projected-token"
    file.write_text(jwt.encode(claims, key, algorithm="ES256"))
    auth = VaultAuth(method="jwt", mount=mount, role="hub", jwt=JwtRef("file", str(file)))
    async with real.hub(auth) as kept:
        assert (await kept.issue(order())).der
    file.write_text(jwt.encode({**claims, "aud": "another"}, key, algorithm="ES256"))
    async with real.hub(auth) as kept:
        assert kept.describe().reason == "login_refused"


async def test_a_client_certificate(real: Real) -> None:
    if not real.operator.address.startswith("https:"):
        pytest.skip("the real server speaks plain http: no client certificate can be shown")
    mount = await real.operator.auth_method("cert")
    auth = replace(by_certificate(real.directory), mount=mount)
    role = {
        "certificate": authority("vault client").root.pem.decode(),
        "allowed_uri_sans": [str(pki.IDENTITY)],
        "token_policies": [real.operator.name],
        "token_no_default_policy": True,
    }
    await real.operator.do("POST", f"auth/{mount}/certs/hub", role)
    async with real.hub(auth) as kept:
        assert (await kept.issue(order())).der
    async with real.hub(replace(by_certificate(real.directory, ""), mount=mount)) as kept:
        assert kept.describe().reason == "login_refused", "a certificate without a common name"
        assert "common name" in kept.describe().remedy
    by_certificate(real.directory)
    await real.operator.do("POST", f"auth/{mount}/certs/hub", {**role, "allowed_uri_sans": [str(ELSEWHERE)]})
    async with real.hub(auth) as kept:
        assert kept.describe().reason == "login_refused"


async def test_a_service_account(real: Real) -> None:
    async with SandboxCluster("management") as cluster:
        cluster.create_namespace("federation-system")
        cluster.create_service_account("federation-system", "federation-hub-signer")
        mount = await real.operator.auth_method("kubernetes")
        config = {
            "kubernetes_host": cluster.url,
            "kubernetes_ca_cert": cluster.ca_pem.decode(),
            "token_reviewer_jwt": cluster.user_token("vault", ("system:masters",)),
            "disable_local_ca_jwt": True,
        }
        await real.operator.do("POST", f"auth/{mount}/config", config)
        role = {
            "bound_service_account_names": ["federation-hub-signer"],
            "bound_service_account_namespaces": ["federation-system"],
            "audience": "vault",
            "token_policies": [real.operator.name],
            "token_no_default_policy": True,
        }
        await real.operator.do("POST", f"auth/{mount}/role/hub", role)
        file = real.directory / "projected-token"
        file.write_text(cluster.token("federation-system", "federation-hub-signer", audiences=["vault"]))
        auth = VaultAuth(method="kubernetes", mount=mount, role="hub", jwt=JwtRef("file", str(file)))
        async with real.hub(auth) as kept:
            assert (await kept.issue(order())).der
        cluster.create_service_account("federation-system", "another")
        file.write_text(cluster.token("federation-system", "another", audiences=["vault"]))
        async with real.hub(auth) as kept:
            assert kept.describe().reason == "login_refused"
