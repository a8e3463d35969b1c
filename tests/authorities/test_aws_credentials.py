"""Who the hub is to AWS, and the way there."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from federation.core.config.authorities.settings import AwsConfig, AwsPcaAuthorityConfig, JwtRef
from federation.core.errors import AuthorityMisconfigured
from federation.runtime.clock import SystemClock
from federation.signer.authorities.aws.kms import KmsPair
from federation.signer.authorities.credentials import OwnCredentials
from tests.authorities.aws_cases import (
    LOST,
    answering,
    issue,
    looked_at,
    now_clock,
    opened,
)
from tests.authorities.aws_world import (
    ACCESS_KEY,
    SECRET_KEY,
    Seen,
    World,
    cut,
    open_world,
    refuse,
    with_keys,
    without_keys,
)
from tests.authorities.back_end import back_end_context, order
from tests.support import pki

ROLE = "arn:aws:iam::123456789012:role/federation-hub"
JWT = "eyJhbGciOiJFUzI1NiJ9.first.signature"
NEXT_JWT = "eyJhbGciOiJFUzI1NiJ9.second.signature"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    with_keys(monkeypatch)
    async with open_world() as opened_world:
        yield opened_world


def role_config(world: World, directory: Path, config: AwsPcaAuthorityConfig) -> AwsPcaAuthorityConfig:
    token = directory / "token"
    token.write_text(JWT)
    return replace(config, aws=replace(config.aws, role_arn=ROLE, jwt=JwtRef("file", str(token))))


async def test_a_role_is_assumed_with_the_token_of_now(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = role_config(world, tmp_path, await world.private_ca())
    without_keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", world.front.url)
    clock = now_clock()
    async with opened(world, config, clock) as authority:
        assert authority.describe().state == "ready", authority.describe()
        for _ in range(2):
            await authority.refresh()
        (assumed,) = world.front.calls("AssumeRoleWithWebIdentity")
        assert assumed.parameters["WebIdentityToken"] == JWT
        assert assumed.parameters["RoleArn"] == ROLE
        assert assumed.key == ""
        used = {call.key for call in world.front.calls("DescribeCertificateAuthority")}
        assert len(used) == 1
        assert ACCESS_KEY not in used

        (tmp_path / "token").write_text(NEXT_JWT)
        await clock.advance(0.76 * 3600)
        await authority.refresh()
        _, again = world.front.calls("AssumeRoleWithWebIdentity")
        assert again.parameters["WebIdentityToken"] == NEXT_JWT
        assert world.front.calls("DescribeCertificateAuthority")[-1].key not in used
        shown = f"{authority.describe()!r} {config!r}"
    for secret in (JWT, NEXT_JWT):
        assert secret not in shown
        assert secret not in caplog.text


async def test_keys_that_are_good_outlive_a_renewal_that_fails(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = role_config(world, tmp_path, await world.private_ca())
    without_keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", world.front.url)
    clock = now_clock()
    async with opened(world, config, clock) as authority:
        message = f"Not authorized with {JWT}"
        world.front.before = answering(
            "AssumeRoleWithWebIdentity",
            lambda _: web.Response(
                status=403,
                content_type="text/xml",
                text="<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>"
                f"<Message>{message}</Message></Error></ErrorResponse>",
            ),
        )
        await clock.advance(0.76 * 3600)
        await authority.refresh()
        report = authority.describe()
        assert (report.state, report.reason) == ("degraded", "warning")
        assert "trust policy" in report.detail
        assert authority.can_sign
        await clock.advance(0.24 * 3600)
        await authority.refresh()
        report = authority.describe()
        assert (report.state, report.reason) == ("unavailable", "forbidden")
        assert "trust policy" in report.remedy
        assert JWT not in report.detail


async def test_a_missing_token_file_is_reported(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = role_config(world, tmp_path, await world.private_ca())
    (tmp_path / "token").unlink()
    report = await looked_at(world, config)
    assert report.reason == "credential_missing"
    assert str(tmp_path / "token") in report.detail


async def test_missing_credentials_are_reported_and_used_once_they_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await world.private_ca()
    without_keys(monkeypatch)
    async with opened(world, config) as authority:
        report = authority.describe()
        assert (report.state, report.reason) == ("unavailable", "credential_missing")
        assert "IRSA" in report.remedy
        with_keys(monkeypatch)
        await authority.refresh()
        await issue(world, authority)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("ExpiredTokenException", "credentials_expired"),
        ("UnrecognizedClientException", "credentials_refused"),
    ],
)
async def test_keys_that_aws_refuses_are_read_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    async with opened(world, await world.private_ca()) as authority:
        world.front.before = answering(
            "IssueCertificate", lambda call: refuse(code, f"the key {call.key} is not valid"), 1
        )
        with pytest.raises(AuthorityMisconfigured) as caught:
            await authority.issue(order())
        assert caught.value.reason == reason
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDANOTHERDUMMY")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another/dummy")
        await authority.refresh()
        await issue(world, authority)
        assert world.front.calls("IssueCertificate")[-1].key == "AKIDANOTHERDUMMY"


async def test_a_program_that_should_give_keys_and_does_not_is_not_quoted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await world.private_ca()
    without_keys(monkeypatch)
    file = tmp_path / "config"
    file.write_text(f"[default]\ncredential_process = sh -c 'echo {SECRET_KEY} >&2; exit 1'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    report = await looked_at(world, config)
    assert report.reason == "credentials_unavailable"
    assert "custom-process" in report.detail
    assert SECRET_KEY not in f"{report!r}"


async def test_closing_closes_the_credentials_too(world: World, tmp_path: Path) -> None:
    class Watched(OwnCredentials):
        closed = 0

        async def close(self) -> None:
            self.closed += 1
            await super().close()

    credentials = Watched()
    source = KmsPair(await world.kms_key(tmp_path), credentials, back_end_context())
    await source.read()
    await source.close()
    assert credentials.closed == 1


async def test_nothing_is_sent_through_a_proxy_of_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await world.private_ca()
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert (await looked_at(world, config)).state == "ready"


async def test_tls_by_an_own_ca_and_by_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(monkeypatch)
    now = SystemClock().now().replace(microsecond=0)
    ca = pki.root("of the endpoint", not_before=now - pki.DAY, not_after=now + pki.DAY)
    key = pki.key("endpoint")
    san = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    served = pki.leaf(ca, private_key=key, san=san, not_before=now - pki.DAY, not_after=now + pki.DAY)
    pki.Authority(served, key, (), ca.certificate).write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca-chain.pem", tmp_path / "ca-key.pem")
    async with open_world(tls=context) as world:
        config = await world.private_ca()
        trusting = replace(config, aws=replace(config.aws, ca_file=tmp_path / "root.pem"))
        assert (await looked_at(world, trusting)).state == "ready"
        for ca_file, reason, remedy in (
            (None, "tls", "ca_file"),
            (tmp_path / "missing.pem", "file_unreadable", "mount it where the configuration says"),
        ):
            other = replace(config, aws=replace(config.aws, ca_file=ca_file))
            report = await looked_at(world, other)
            assert (report.state, report.reason) == ("unavailable", reason)
            assert remedy in report.remedy


async def test_a_poll_without_a_usable_answer_is_reported_with_a_remedy(world: World, tmp_path: Path) -> None:
    expected = {"cut": "cut_off", "502": "server_error", "500": "server_error", "503": "server_error"}
    for config, operation in (
        (await world.kms_key(tmp_path), "GetPublicKey"),
        (await world.private_ca(), "DescribeCertificateAuthority"),
        (await world.private_ca(), "GetCertificateAuthorityCertificate"),
    ):
        world.front.before = answering(operation, LOST["cut"])
        async with opened(world, config) as authority:
            for how, answer in LOST.items():
                world.front.before = answering(operation, answer)
                await authority.refresh()
                report = authority.describe()
                assert (report.state, report.reason) == ("unavailable", expected.get(how, "garbage")), how
                assert report.remedy


async def test_an_answer_cut_in_its_middle(world: World, tmp_path: Path) -> None:
    async def half(call: Seen) -> web.StreamResponse | None:
        if call.operation != "GetPublicKey":
            return None
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(call.request)
        await response.write(b'{"PublicKey": "')
        return cut(call.request)

    world.front.before = half
    assert (await looked_at(world, await world.kms_key(tmp_path))).reason == "cut_off"


async def test_a_region_that_cannot_be(world: World) -> None:
    config = replace(
        await world.private_ca(), aws=AwsConfig(region="no such region", endpoint=world.front.url)
    )
    report = await looked_at(world, config)
    assert (report.state, report.reason) == ("unavailable", "not_sent")
