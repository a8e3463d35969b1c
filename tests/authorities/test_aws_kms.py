"""AWS KMS: keys of every kind, its errors, aliases that move, and signatures that are none."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityViolation,
)
from federation.core.pki.certificate import Certificate
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import Alarms
from federation.signer.authorities.aws.kms import KmsPair
from federation.signer.authorities.credentials import OwnCredentials
from tests.authorities.aws_cases import (
    LOST,
    answering,
    issue,
    looked_at,
    now_clock,
    opened,
    refusing,
)
from tests.authorities.aws_world import (
    SECRET_KEY,
    SESSION_TOKEN,
    Seen,
    World,
    open_world,
    refuse,
    with_keys,
)
from tests.authorities.back_end import back_end_context, order


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    with_keys(monkeypatch)
    async with open_world() as opened_world:
        yield opened_world


@pytest.fixture
async def plain_moto(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """moto without the corrections: an AWS that breaks its word."""
    with_keys(monkeypatch)
    async with open_world(corrected=False) as opened_world:
        yield opened_world


@pytest.mark.parametrize(
    ("spec", "algorithm", "digest_bytes"),
    [
        ("ECC_NIST_P256", "ECDSA_SHA_256", 32),
        ("ECC_NIST_P384", "ECDSA_SHA_384", 48),
        ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256", 32),
        ("RSA_3072", "RSASSA_PKCS1_V1_5_SHA_256", 32),
    ],
)
async def test_every_usual_key_signs(
    world: World, tmp_path: Path, spec: str, algorithm: str, digest_bytes: int
) -> None:
    async with opened(world, await world.kms_key(tmp_path, spec)) as authority:
        leaf = Certificate.from_der((await issue(world, authority)).der)
        assert leaf.is_signed_by(authority.issuers[0])
        (asked,) = world.front.calls("Sign")
        assert asked.parameters["MessageType"] == "DIGEST"
        assert asked.parameters["SigningAlgorithm"] == algorithm
        assert len(base64.b64decode(asked.parameters["Message"])) == digest_bytes


KMS_ERRORS = [
    ("DisabledException", 400, AuthorityMisconfigured, "key_disabled", 1),
    ("KMSInvalidStateException", 400, AuthorityMisconfigured, "key_unusable", 1),
    ("InvalidKeyUsageException", 400, AuthorityMisconfigured, "wrong_key_usage", 1),
    ("NotFoundException", 400, AuthorityMisconfigured, "not_found", 1),
    ("AccessDeniedException", 400, AuthorityMisconfigured, "forbidden", 1),
    ("ThrottlingException", 400, AuthorityThrottled, "throttled", 1),
    ("LimitExceededException", 400, AuthorityMisconfigured, "limit_exceeded", 1),
    ("KMSInternalException", 500, AuthorityUnavailable, "server_error", 2),
    ("KeyUnavailableException", 500, AuthorityUnavailable, "server_error", 2),
    ("DependencyTimeoutException", 503, AuthorityUnavailable, "server_error", 2),
]


async def test_every_error_of_sign(world: World, tmp_path: Path) -> None:
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        for code, status, kind, reason, asked in KMS_ERRORS:
            world.front.seen.clear()
            world.front.before = answering("Sign", refusing(code, "", status))
            with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
                await authority.issue(order())
            assert (type(caught.value), caught.value.reason) == (kind, reason), code
            assert caught.value.remedy
            assert len(world.front.calls("Sign")) == asked, code
            world.front.before = answering("GetPublicKey", refusing(code, "", status))
            await authority.refresh()  # which asks for the key because a signature failed
            report = authority.describe()
            assert (report.state, report.reason) == ("degraded", reason), code
            world.front.before = None
            await authority.refresh()
            await issue(world, authority)
            assert authority.describe().state == "ready"


@pytest.mark.parametrize("how", ["cut", "503"])
async def test_a_passing_failure_of_sign_is_not_seen(world: World, tmp_path: Path, how: str) -> None:
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        world.front.before = answering("Sign", LOST[how], 1)
        await issue(world, authority)
        assert len(world.front.calls("Sign")) == 2


@pytest.mark.parametrize("how", ["html", "empty"])
async def test_a_signature_that_is_none(world: World, tmp_path: Path, how: str) -> None:
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        world.front.before = answering("Sign", LOST[how])
        with pytest.raises(AuthorityUnavailable) as caught:
            await authority.issue(order())
        assert caught.value.reason == "garbage"


async def test_a_signature_of_another_key_is_an_alarm(world: World, tmp_path: Path) -> None:
    other, _ = await world.key_below_root()
    async with opened(world, await world.kms_key(tmp_path)) as authority:

        def rewrite(call: Seen) -> None:
            if call.operation == "Sign":
                call.parameters["KeyId"] = other

        world.front.rewrite = rewrite
        alarms = Alarms(SystemClock())
        with pytest.raises(AuthorityViolation) as caught:
            await issue(world, authority, alarms=alarms)
        assert caught.value.reason == "signature_invalid"
        assert alarms.violations == 1


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}, "wrong_key_usage"),
        ({"KeySpec": "ECC_NIST_P521", "KeyUsage": "SIGN_VERIFY"}, "weak_key"),
        ({"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY"}, "weak_key"),
    ],
)
async def test_a_key_that_cannot_sign_leaves(
    world: World, tmp_path: Path, made: dict[str, str], reason: str
) -> None:
    key = await world.kms("CreateKey", **made)
    config = replace(await world.kms_key(tmp_path), key_id=key["KeyMetadata"]["KeyId"])
    report = await looked_at(world, config)
    assert (report.state, report.reason) == ("unavailable", reason)
    assert report.remedy


async def test_another_key_s_certificate_is_not_taken_up(world: World, tmp_path: Path) -> None:
    other, _ = await world.key_below_root()
    config = replace(await world.kms_key(tmp_path), key_id=other)
    assert (await looked_at(world, config)).reason == "wrong_key"


async def test_an_alias_that_moves_changes_key_and_chain_together(world: World, tmp_path: Path) -> None:
    config = await world.kms_key(tmp_path)
    alias = f"alias/mesh-{config.key_id}"
    await world.kms("CreateAlias", AliasName=alias, TargetKeyId=config.key_id)
    clock = now_clock()
    async with opened(world, replace(config, key_id=alias), clock) as authority:
        first = authority.issuers[0]
        other, certificate = await world.key_below_root()
        await world.kms("UpdateAlias", AliasName=alias, TargetKeyId=other)
        leaf = Certificate.from_der((await issue(world, authority)).der)
        assert leaf.is_signed_by(first), "the key that was seen keeps signing, not whatever the alias names"
        config.certificate_file.write_bytes(certificate.pem)
        await authority.refresh()
        assert authority.describe().state == "degraded", "the new chain over the old key"
        await clock.advance(301)
        await authority.refresh()
        assert authority.describe().state == "ready"
        leaf = Certificate.from_der((await issue(world, authority)).der)
        assert leaf.is_signed_by(certificate)


async def test_the_pair_is_one_object_until_something_changes(world: World, tmp_path: Path) -> None:
    config = await world.kms_key(tmp_path)
    clock = now_clock()
    async with AsyncExitStack() as stack:
        source = KmsPair(config, OwnCredentials(), back_end_context(clock))
        stack.push_async_callback(source.close)
        pair = await source.read()
        for _ in range(3):
            assert await source.read() is pair
        assert len(world.front.calls("GetPublicKey")) == 1
        await clock.advance(301)
        assert await source.read() is pair
        assert len(world.front.calls("GetPublicKey")) == 2
        config.certificate_file.write_bytes(config.certificate_file.read_bytes() * 2)
        assert await source.read() is not pair


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "file_unreadable"), (b"hello", "file_invalid"), (b"", "file_invalid")]
)
async def test_a_chain_that_cannot_be_read(
    world: World, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    config = await world.kms_key(tmp_path)
    if content is None:
        config.certificate_file.unlink()
    else:
        config.certificate_file.write_bytes(content)
    report = await looked_at(world, config)
    assert (report.state, report.reason) == ("unavailable", reason)
    assert report.remedy


async def test_nothing_of_the_keys_is_in_any_text(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.front.before = answering(
        "Sign", lambda _: refuse("AccessDeniedException", "User: arn:aws:iam::1:user/x\x1b[2J is not")
    )
    async with opened(world, await world.kms_key(tmp_path)) as authority:
        with pytest.raises(AuthorityMisconfigured) as caught:
            await authority.issue(order())
        assert str(caught.value).isprintable()
        shown = f"{authority.describe()!r} {caught.value.diagnostics()}"
    for secret in (SECRET_KEY, SESSION_TOKEN):
        assert secret not in shown
        assert secret not in caplog.text
    assert not [record for record in caplog.records if "botocore" in record.name and record.levelno < 20]


async def test_moto_as_it_is_signs_the_digest_of_the_digest(plain_moto: World, tmp_path: Path) -> None:
    async with opened(plain_moto, await plain_moto.kms_key(tmp_path)) as authority:
        alarms = Alarms(SystemClock())
        with pytest.raises(AuthorityViolation) as caught:
            await issue(plain_moto, authority, alarms=alarms)
        assert caught.value.reason == "signature_invalid"
        assert alarms.violations == 1
