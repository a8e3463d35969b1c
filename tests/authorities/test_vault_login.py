"""Logging in to Vault by every method, keeping the login alive, and what is said where it is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.core.config.authorities.settings import CertificateRef, VaultAuth
from federation.core.errors import AuthorityError, AuthorityMisconfigured, AuthorityUnavailable
from federation.signer.authorities.authority import ManagedAuthority
from federation.signer.authorities.credentials import ClientPair, OwnCredentials
from federation.signer.authorities.service import TOLERATED
from federation.signer.authorities.vault.client import VaultClient, transport_security
from federation.signer.authorities.vault.login import VaultLogin, granted
from tests.authorities.back_end import back_end_context, order
from tests.authorities.vault_hub import (
    approle,
    by_certificate,
    by_jwt,
    given_token,
    hub_of,
    pki_config,
    secret_file,
    server_context,
)
from tests.authorities.vault_server import VaultServer, vault_server

LOGIN = "auth/*/login"
SIGN = "pki/issuer/default/sign/*"
RENEW = "auth/token/renew-self"


@pytest.fixture
async def server() -> AsyncIterator[VaultServer]:
    async with vault_server() as running:
        yield running


@asynccontextmanager
async def hub(server: VaultServer, auth: VaultAuth, **options: Any) -> AsyncIterator[ManagedAuthority]:
    async with hub_of(server, pki_config(server, auth, **options)) as kept:
        yield kept


async def signs(kept: ManagedAuthority, server: VaultServer) -> bool:
    return bool((await kept.issue(order(now=server.clock.now()))).der)


def auth_of(method: str, server: VaultServer, directory: Path) -> VaultAuth:
    match method:
        case "token":
            return given_token(server, directory)[1]
        case "approle":
            return approle(server, directory)
        case "wrapped":
            return approle(server, directory, wrapped=server.auth.wrap())
        case "cert":
            return by_certificate(directory)
        case _:
            return by_jwt(server, directory, method)


@pytest.mark.parametrize("method", ["token", "kubernetes", "jwt", "approle", "wrapped", "cert"])
async def test_every_method_logs_in(tmp_path: Path, method: str) -> None:
    context, ca_file = server_context(tmp_path, clients=True)
    async with vault_server(context) as server:
        auth = auth_of(method, server, tmp_path)
        async with hub(server, auth, ca_file=ca_file) as kept:
            assert kept.describe().state == "ready", kept.describe().detail
            assert await signs(kept, server)
            assert server.auth.logins == (method != "token")


async def test_a_lease_is_renewed_at_about_two_thirds(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl = 1000
    async with hub(server, approle(server, tmp_path)) as kept:
        server.clock.ahead += 560
        await kept.refresh()
        assert server.auth.renewals == 0
        server.clock.ahead += 170
        await kept.refresh()
        assert (server.auth.renewals, server.auth.logins) == (1, 1)
        server.clock.ahead += 560
        await kept.refresh()
        assert server.auth.renewals == 1, "counted from the renewal"
        assert kept.describe().state == "ready"


def test_renewals_do_not_come_together() -> None:
    jitter = back_end_context().jitter
    due = [granted("t", 1000, renewable=True, now=0, jitter=jitter).due for _ in range(50)]
    assert 600 <= min(due) < 640
    assert 680 < max(due) <= 720


async def test_a_renewal_that_is_capped_means_a_new_login(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl, server.auth.max_ttl = 1000, 1200
    async with hub(server, approle(server, tmp_path)) as kept:
        server.clock.ahead += 730
        await kept.refresh()
        assert (server.auth.renewals, server.auth.logins) == (1, 2)
        assert kept.describe().state == "ready"
        assert await signs(kept, server)


async def test_a_login_that_cannot_be_renewed_is_made_anew(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl, server.auth.renewable = 1000, False
    async with hub(server, approle(server, tmp_path)) as kept:
        server.clock.ahead += 730
        await kept.refresh()
        assert (server.count(RENEW), server.auth.logins) == (0, 2)


@pytest.mark.parametrize("status", [400, 403])
async def test_a_refused_renewal_means_a_new_login(server: VaultServer, tmp_path: Path, status: int) -> None:
    server.auth.ttl = 1000
    async with hub(server, approle(server, tmp_path)) as kept:
        server.fault(RENEW, status, "no")
        server.clock.ahead += 730
        await kept.refresh()
        assert server.auth.logins == 2
        assert kept.describe().state == "ready"


async def test_while_the_login_is_good_its_renewal_may_fail(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl = 1000
    async with hub(server, approle(server, tmp_path)) as kept:
        server.fault(RENEW, 500, "storage")
        server.fault(LOGIN, 500, "storage")
        server.clock.ahead += 730
        await kept.refresh()
        report = kept.describe()
        assert report.state == "degraded"
        assert "login ends in" in report.detail
        assert await signs(kept, server)
        server.clock.ahead += 300
        for _ in range(TOLERATED + 1):
            await kept.refresh()
        assert (kept.describe().state, kept.describe().reason) == ("unavailable", "server_error")
        server.faults.clear()
        await kept.refresh()
        assert kept.describe().state == "ready"


async def test_a_lease_that_ran_out_is_no_refused_order(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl = 1000
    async with hub(server, approle(server, tmp_path)) as kept:
        server.clock.ahead += 1001
        assert await signs(kept, server)
        assert server.auth.logins == 2
        assert server.count(SIGN) == 1, "the hub knew, and did not ask with a dead token"


async def test_a_revoked_login_costs_one_new_login_for_all(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, approle(server, tmp_path)) as kept:
        assert await signs(kept, server)
        server.auth.revoke_all()
        assert all(await asyncio.gather(*(signs(kept, server) for _ in range(16))))
        assert server.auth.logins == 2


async def test_a_late_refusal_of_the_old_login_does_not_cost_another(
    server: VaultServer, tmp_path: Path
) -> None:
    auth, around = approle(server, tmp_path), back_end_context(server.clock)
    server_config = pki_config(server, auth).server
    client = VaultClient(
        server_config,
        OwnCredentials(),
        where="vault",
        timeout=5.0,
        clock=server.clock,
        jitter=around.jitter,
    )
    login = VaultLogin(
        client, server_config, OwnCredentials(), clock=server.clock, jitter=around.jitter, look_every=30.0
    )
    try:
        first = await login.lease()
        server.clock.ahead += 60
        second = await login.again(first)
        assert second is not None
        assert second is not first
        assert await login.again(first) is second
        assert await login.again(second) is None, "it was made a moment ago"
        assert server.auth.logins == 2
    finally:
        await login.close()
        await client.close()


async def test_a_cancelled_caller_does_not_cancel_the_shared_login(
    server: VaultServer, tmp_path: Path
) -> None:
    """A wrapped secret_id can be taken out once: a caller's cancellation must not lose it."""
    auth = approle(server, tmp_path, wrapped=server.auth.wrap())
    server.fault("sys/health", 503, "not yet", times=1)
    async with hub(server, auth) as kept:
        assert server.auth.logins == 0
        looks = [asyncio.create_task(kept.refresh()) for _ in range(3)]
        while not server.count("sys/wrapping/*"):
            await asyncio.sleep(0.001)
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        await kept.refresh()
        assert kept.describe().state == "ready", kept.describe().detail
        assert server.auth.logins == 1


async def test_closing_ends_a_login_that_hangs(server: VaultServer, tmp_path: Path) -> None:
    server.fault(LOGIN, hang=True)
    async with hub(server, approle(server, tmp_path), timeout=0.1) as kept:
        assert kept.describe().reason == "timeout"
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "log in to Vault"]


@pytest.mark.parametrize("method", ["kubernetes", "jwt"])
async def test_the_projected_token_is_read_anew(server: VaultServer, tmp_path: Path, method: str) -> None:
    server.auth.ttl = 1000
    async with hub(server, by_jwt(server, tmp_path, method)) as kept:
        server.auth.jwt = "header.the-kubelet-wrote-another.signature"
        server.clock.ahead += 1001
        with pytest.raises(AuthorityMisconfigured) as caught:
            await signs(kept, server)
        assert caught.value.reason == "login_refused"
        (tmp_path / "projected-token").write_text(server.auth.jwt)
        await kept.refresh()
        assert await signs(kept, server)


async def test_a_new_secret_id_is_taken_up(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl = 1000
    async with hub(server, approle(server, tmp_path)) as kept:
        server.auth.secret_id = "another-secret-id"
        (tmp_path / "secret-id").write_text(server.auth.secret_id)
        server.clock.ahead += 1001
        assert await signs(kept, server)


async def test_another_given_token_is_taken_up_without_waiting(server: VaultServer, tmp_path: Path) -> None:
    first, auth = given_token(server, tmp_path)
    async with hub(server, auth) as kept:
        second, _ = given_token(server, tmp_path)
        await kept.refresh()
        del server.auth.tokens[first.secret]
        assert await signs(kept, server)
        del server.auth.tokens[second.secret]
        with pytest.raises(AuthorityMisconfigured) as caught:
            await signs(kept, server)
        assert caught.value.reason == "login_refused"


async def test_a_given_token_without_end_is_left_alone(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl = 0
    _, auth = given_token(server, tmp_path)
    async with hub(server, auth) as kept:
        server.clock.ahead += 10 * 86400
        server.auth.renewals = 0
        await kept.refresh()
        assert (server.auth.renewals, server.count("auth/token/lookup-self")) == (0, 1)


@pytest.mark.parametrize("renewable", [True, False])
async def test_the_end_of_a_given_token_is_announced(
    server: VaultServer, tmp_path: Path, renewable: bool
) -> None:
    server.auth.ttl, server.auth.max_ttl, server.auth.renewable = 1000, 1000, renewable
    _, auth = given_token(server, tmp_path)
    async with hub(server, auth) as kept:
        server.clock.ahead += 730
        await kept.refresh()
        report = kept.describe()
        assert report.state == "degraded"
        assert "put another one there" in report.detail
        server.clock.ahead += 300
        await kept.refresh()
        assert (kept.describe().state, kept.describe().reason) == ("unavailable", "login_refused")


@pytest.mark.parametrize("renewable", [True, False])
async def test_the_coming_end_of_a_given_token_is_reported_at_every_poll(
    server: VaultServer, tmp_path: Path, renewable: bool
) -> None:
    server.auth.ttl, server.auth.max_ttl, server.auth.renewable = 3000, 3000, renewable
    _, auth = given_token(server, tmp_path)
    async with hub(server, auth) as kept:
        reported_at = []
        for second in range(30, 3000, 30):
            server.clock.ahead += 30
            await kept.refresh()
            if "cannot be renewed" in kept.describe().detail:
                reported_at.append(second)
        assert reported_at == list(range(2010, 3000, 30))


async def test_a_credential_that_cannot_be_read_does_not_end_a_login_that_is_good(
    server: VaultServer, tmp_path: Path
) -> None:
    server.auth.ttl = 1000
    _, auth = given_token(server, tmp_path)
    async with hub(server, auth) as kept:
        (tmp_path / "token").unlink()
        await kept.refresh()
        assert kept.describe().state == "degraded"
        assert "cannot read" in kept.describe().detail
        server.clock.ahead += 730
        await kept.refresh()
        assert server.auth.renewals == 1, "it is still prolonged"
        assert await signs(kept, server)


async def test_another_given_token_that_is_no_good_does_not_replace_one_that_is(
    server: VaultServer, tmp_path: Path
) -> None:
    _, auth = given_token(server, tmp_path)
    async with hub(server, auth) as kept:
        (tmp_path / "token").write_text("hvs.mistyped")
        await kept.refresh()
        assert kept.describe().state == "degraded"
        assert "login by token is refused" in kept.describe().detail
        assert await signs(kept, server)


async def outcome_of(server: VaultServer, auth: VaultAuth, **options: Any) -> tuple[str, str, str]:
    """Reason, detail and remedy of an authority that cannot log in."""
    async with hub(server, auth, **options) as kept:
        report = kept.describe()
        assert report.state == "unavailable"
        with pytest.raises((AuthorityError, AuthorityUnavailable)):
            await signs(kept, server)
        return report.reason, report.detail, report.remedy


@pytest.mark.parametrize("method", ["token", "kubernetes", "jwt", "approle"])
async def test_a_refused_login_says_what_to_compare(
    server: VaultServer, tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    auth = auth_of(method, server, tmp_path)
    server.auth.revoke_all()
    jwt, secret = server.auth.jwt, server.auth.secret_id
    server.auth.jwt = server.auth.secret_id = "something else"
    reason, detail, remedy = await outcome_of(server, auth)
    assert reason == "login_refused"
    assert method in detail
    assert remedy
    for hidden in (jwt, secret, server.auth.role_id):
        assert hidden not in detail + remedy + caplog.text


async def test_a_role_that_the_method_does_not_know_is_named(server: VaultServer, tmp_path: Path) -> None:
    reason, detail, _ = await outcome_of(server, replace(by_jwt(server, tmp_path), role="missing"))
    assert (reason, 'role "missing" could not be found' in detail) == ("login_refused", True)


async def test_a_login_without_client_certificate_is_refused(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server:
        reason, detail, _ = await outcome_of(server, by_certificate(tmp_path), ca_file=ca_file)
        assert reason == "login_refused"
        assert "client certificate must be supplied" in detail


async def test_a_client_certificate_needs_a_common_name(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path, clients=True)
    async with vault_server(context) as server:
        reason, _, remedy = await outcome_of(server, by_certificate(tmp_path, ""), ca_file=ca_file)
        assert reason == "login_refused"
        assert "common name" in remedy


async def test_a_method_that_is_not_enabled(server: VaultServer, tmp_path: Path) -> None:
    server.auth.methods = ()
    reason, _, remedy = await outcome_of(server, by_jwt(server, tmp_path))
    assert reason == "login_refused"
    assert "not enabled" in remedy
    server.fault(LOGIN, 404, "no handler for route")
    reason, detail, _ = await outcome_of(server, by_jwt(server, tmp_path))
    assert (reason, "auth/kubernetes" in detail) == ("not_found", True)


async def test_a_second_factor_is_refused(server: VaultServer, tmp_path: Path) -> None:
    server.auth.answer = {"auth": {"client_token": "", "lease_duration": 0, "mfa_requirement": {}}}
    reason, detail, _ = await outcome_of(server, approle(server, tmp_path))
    assert (reason, "second factor" in detail) == ("login_refused", True)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"auth": null}', b'{"auth": {"client_token": 1}}'])
async def test_garbage_for_a_login(server: VaultServer, tmp_path: Path, body: bytes) -> None:
    server.fault(LOGIN, 200, body=body)
    assert (await outcome_of(server, approle(server, tmp_path)))[0] == "garbage"


@pytest.mark.parametrize(
    ("field", "method"),
    [("jwt", "kubernetes"), ("role_id", "approle"), ("secret_id", "approle"), ("token", "token")],
)
async def test_a_credential_that_is_not_configured(
    server: VaultServer, tmp_path: Path, field: str, method: str
) -> None:
    auth = replace(auth_of(method, server, tmp_path), **{field: None})  # type: ignore[arg-type]
    reason, detail, remedy = await outcome_of(server, auth)
    assert (reason, field in detail, remedy) == ("credential_missing", True, f"set auth.{field}")


async def test_a_credential_that_is_not_there(server: VaultServer, tmp_path: Path) -> None:
    auth = approle(server, tmp_path)
    (tmp_path / "secret-id").unlink()
    assert (await outcome_of(server, auth))[0] == "credential_missing"


async def test_a_wrapped_secret_is_taken_out_once(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl = 1000
    auth = approle(server, tmp_path, wrapped=server.auth.wrap(), role="hub")
    async with hub(server, auth) as kept:
        assert (server.count("sys/wrapping/lookup"), server.count("sys/wrapping/unwrap")) == (1, 1)
        server.clock.ahead += 1001
        assert await signs(kept, server)
        assert server.auth.logins == 2
        assert server.count("sys/wrapping/unwrap") == 1, "the secret_id was kept in memory"
        server.auth.secret_id = "another-secret-id"
        (tmp_path / "secret-id").write_text(server.auth.wrap())
        server.clock.ahead += 1001
        assert await signs(kept, server)
        assert server.count("sys/wrapping/unwrap") == 2


async def test_another_authority_of_the_process_finds_what_was_taken_out(
    server: VaultServer, tmp_path: Path
) -> None:
    auth = approle(server, tmp_path, wrapped=server.auth.wrap(), role="hub")
    async with hub(server, auth) as kept:
        assert await signs(kept, server)
        async with hub(server, auth, timeout=4.0) as successor:
            assert await signs(successor, server)
    assert (server.auth.logins, server.count("sys/wrapping/unwrap")) == (2, 1)
    reason, detail, _ = await outcome_of(server, replace(auth, role="another"))
    assert (reason, "not at" in detail) == ("secret_id_tampered", True), "it was not made for that role"


async def test_authorities_that_begin_at_once_open_it_once(server: VaultServer, tmp_path: Path) -> None:
    auth = approle(server, tmp_path, wrapped=server.auth.wrap())
    server.fault("sys/health", 503, "not yet", times=2)
    async with hub(server, auth) as one, hub(server, auth) as other:
        await asyncio.gather(one.refresh(), other.refresh())
        assert [kept.describe().state for kept in (one, other)] == ["ready", "ready"]
    assert (server.auth.logins, server.count("sys/wrapping/unwrap")) == (2, 1)


async def test_a_new_wrapping_token_is_opened_while_it_lasts(server: VaultServer, tmp_path: Path) -> None:
    server.auth.ttl = 1000
    auth = approle(server, tmp_path, wrapped=server.auth.wrap())
    async with hub(server, auth) as kept:
        server.auth.secret_id = "another-secret-id"
        (tmp_path / "secret-id").write_text(server.auth.wrap())
        await kept.refresh()
        assert (server.count("sys/wrapping/unwrap"), server.auth.logins) == (2, 1)
        server.clock.ahead += 1001
        assert await signs(kept, server)
        (tmp_path / "secret-id").write_text("hvs.used-up")
        await kept.refresh()
        assert kept.describe().state == "degraded"
        assert "another party has" in kept.describe().detail
        assert await signs(kept, server)


@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 504, "body": b"<html>"}])
async def test_an_answer_to_unwrapping_that_was_lost_is_no_tampering(
    server: VaultServer, tmp_path: Path, fault: dict[str, Any]
) -> None:
    token = server.auth.wrap()
    auth = approle(server, tmp_path, wrapped=token)
    server.fault("sys/wrapping/unwrap", times=1, **fault)
    async with hub(server, auth) as kept:
        assert kept.describe().reason == "cut_off"
        assert server.count("sys/wrapping/unwrap") == 1, "it is not asked for again"
        server.auth.wrapped.pop(token, None)
        await kept.refresh()
        report = kept.describe()
        assert report.reason == "secret_id_lost"
        assert "deliver a new" in report.remedy
        (tmp_path / "secret-id").write_text(server.auth.wrap())
        await kept.refresh()
        assert await signs(kept, server)


@pytest.mark.parametrize(
    ("status", "errors", "reason"),
    [
        (404, ("no handler for route",), "not_found"),
        (403, ("permission denied",), "login_refused"),
        (400, ("missing client token",), "login_refused"),
    ],
)
async def test_only_a_used_up_token_is_tampering(
    server: VaultServer, tmp_path: Path, status: int, errors: tuple[str, ...], reason: str
) -> None:
    server.fault("sys/wrapping/lookup", status, *errors)
    auth = approle(server, tmp_path, wrapped=server.auth.wrap())
    assert (await outcome_of(server, auth))[0] == reason


@pytest.mark.parametrize(
    "made_at",
    [
        "sys/wrapping/wrap",
        "auth/other/role/hub/secret-id",
        "auth/approle/role/another/secret-id",
        "auth/approle/role/hub/role-id",
        "auth/approle/role/hub/secret-id/lookup",
        "auth/approle/role//secret-id",
        "cubbyhole/\x1b[31mhub",
    ],
)
async def test_a_secret_that_was_wrapped_elsewhere_is_left_alone(
    server: VaultServer, tmp_path: Path, made_at: str
) -> None:
    auth = approle(server, tmp_path, wrapped=server.auth.wrap(made_at), role="hub")
    reason, detail, remedy = await outcome_of(server, auth)
    assert reason == "secret_id_tampered"
    assert detail.isprintable()
    assert "accessor" in remedy
    assert server.count("sys/wrapping/unwrap") == 0, "what another party wrapped is not even opened"
    assert server.auth.logins == 0


async def test_a_wrapped_secret_that_was_unwrapped_before(server: VaultServer, tmp_path: Path) -> None:
    token = server.auth.wrap()
    auth = approle(server, tmp_path, wrapped=token)
    server.auth.unwrap(token)
    reason, detail, _ = await outcome_of(server, auth)
    assert reason == "secret_id_tampered"
    assert token not in detail
    server.fault(
        "sys/wrapping/lookup", 200, body=b'{"data": {"creation_path": "auth/approle/role/hub/secret-id"}}'
    )
    assert (await outcome_of(server, auth))[0] == "secret_id_tampered", (
        "taken out between look-up and unwrapping"
    )


async def test_a_rotated_client_certificate_is_taken_up(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path, clients=True)
    async with vault_server(context) as server:
        auth = by_certificate(tmp_path)
        key_file = tmp_path / "client-key.pem"
        good = key_file.read_bytes()
        key_file.write_bytes((tmp_path / "vault-key.pem").read_bytes())
        async with hub(server, auth, ca_file=ca_file) as kept:
            assert kept.describe().reason == "tls_files"
            assert "PRIVATE" not in kept.describe().detail
            key_file.write_bytes(good)
            await kept.refresh()
            assert await signs(kept, server)


async def test_a_client_certificate_that_cannot_be_read_leaves_the_one_of_now(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path, clients=True)
    async with vault_server(context) as server:
        key_file = tmp_path / "client-key.pem"
        auth = by_certificate(tmp_path)
        good = key_file.read_bytes()
        async with hub(server, auth, ca_file=ca_file) as kept:
            for spoil in (key_file.unlink, lambda: secret_file(tmp_path, "client-key.pem", "junk")):
                spoil()
                await kept.refresh()
                report = kept.describe()
                assert report.state == "degraded"
                assert "TLS files" in report.detail
                assert await signs(kept, server)
            ca_file.unlink()
            await kept.refresh()
            assert await signs(kept, server)
            server_context(tmp_path)
            key_file.write_bytes(good)
            await kept.refresh()
            assert kept.describe().state == "ready", kept.describe().detail


async def test_a_pair_that_is_being_exchanged_is_read_once_more(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path, clients=True)
    async with vault_server(context) as server:
        config = pki_config(server, by_certificate(tmp_path), ca_file=ca_file).server
        key = (tmp_path / "client-key.pem").read_bytes()
        other = (tmp_path / "vault-key.pem").read_bytes()

        reads = 0

        class Exchanged(OwnCredentials):
            async def client_certificate(self, ref: CertificateRef) -> ClientPair:
                nonlocal reads
                reads += 1
                pair = await super().client_certificate(ref)
                return replace(pair, key_pem=other if reads == 1 else key)

        security = transport_security(config, Exchanged())
        assert await security.refresh() == ()
        assert reads == 2
        assert security.context is not None
