"""Signing by Vault's Transit engine: kinds and versions of keys, and what it can do wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    FederationError,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from federation.core.pki.pem import encode_certificates
from federation.signer.authorities.authority import AuthoritySettings, ManagedAuthority
from federation.signer.authorities.back_ends import own_credentials
from federation.signer.authorities.vault.transit import TransitPair
from tests.authorities.back_end import back_end_context, order
from tests.authorities.vault_engines import TransitKey
from tests.authorities.vault_hub import given_token, hub_of, transit_config
from tests.authorities.vault_keys import intermediate_for
from tests.authorities.vault_server import VaultServer, vault_server
from tests.support import pki

SIGN = "transit/sign/*"
KEY = "transit/keys/mesh"
KINDS = [kind.value for kind in KeyKind]


@pytest.fixture
async def server() -> AsyncIterator[VaultServer]:
    async with vault_server() as running:
        running.transit.create("mesh", "ecdsa-p256")
        yield running


@asynccontextmanager
async def hub(server: VaultServer, directory: Path) -> AsyncIterator[ManagedAuthority]:
    config, root = transit_config(server, given_token(server, directory)[1], directory)
    async with hub_of(server, config, root) as kept:
        yield kept


async def refused(kept: ManagedAuthority) -> FederationError:
    with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
        await kept.issue(order())
    assert caught.value.remedy
    return caught.value


def new_chain(server: VaultServer, directory: Path, version: int) -> None:
    """What the operator does after a rotation."""
    key = server.transit.keys["mesh"].versions[version - 1]
    (directory / "chain.pem").write_bytes(encode_certificates(intermediate_for(key.public_key())[:1]))


@pytest.mark.parametrize("kind", KINDS)
async def test_every_accepted_kind_of_key_signs(server: VaultServer, tmp_path: Path, kind: str) -> None:
    server.transit.create("mesh", kind)
    async with hub(server, tmp_path) as kept:
        issued = await kept.issue(order())
        assert Certificate.from_der(issued.der).is_signed_by(issued.issuers[0])


async def test_a_rotated_key_goes_on_signing_with_the_version_of_the_chain(
    server: VaultServer, tmp_path: Path
) -> None:
    async with hub(server, tmp_path) as kept:
        first = kept.issuers[0]
        server.transit.rotate("mesh")
        await kept.refresh()
        assert (await kept.issue(order())).issuers[0] == first
        assert kept.describe().state == "ready"
        new_chain(server, tmp_path, 2)
        await kept.refresh()
        issued = await kept.issue(order())
        assert issued.issuers[0] != first
        assert Certificate.from_der(issued.der).is_signed_by(issued.issuers[0])


async def test_a_version_that_may_not_sign_any_more(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.transit.rotate("mesh")
        server.transit.keys["mesh"].min_encryption_version = 2
        assert (await refused(kept)).reason == "key_rotated"
        assert server.count(SIGN) == 1
        await kept.refresh()
        report = kept.describe()
        assert report.reason == "key_rotated"
        assert "min_encryption_version" in report.remedy


async def test_no_version_of_the_key_is_that_of_the_chain(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.transit.create("mesh", "ecdsa-p256")
        await kept.refresh()
        assert kept.describe().reason == "key_rotated"
        assert "chain.pem" in kept.describe().detail


async def test_the_pair_is_the_same_object_until_it_changes(server: VaultServer, tmp_path: Path) -> None:
    config, _ = transit_config(server, given_token(server, tmp_path)[1], tmp_path)
    around = back_end_context()
    pair = TransitPair(config, own_credentials(AuthoritySettings(config), around), around)
    try:
        first = await pair.read()
        assert await pair.read() is first
        server.transit.rotate("mesh")
        assert await pair.read() is first
        new_chain(server, tmp_path, 2)
        assert await pair.read() is not first
        assert "hvs." not in repr(first)
    finally:
        await pair.close()


@pytest.mark.parametrize("kind", ["aes256-gcm96", "ed25519"])
async def test_a_key_that_cannot_sign_certificates(server: VaultServer, tmp_path: Path, kind: str) -> None:
    async with hub(server, tmp_path) as kept:
        server.transit.keys["mesh"] = TransitKey(kind, [])
        assert (await refused(kept)).reason == "key_unusable"
        await kept.refresh()
        assert kept.describe().reason == "weak_key"
        assert kind in kept.describe().detail


async def test_a_key_that_is_not_there(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        del server.transit.keys["mesh"]
        problem = await refused(kept)
        assert isinstance(problem, AuthorityMisconfigured)
        assert problem.reason == "not_found"
        await kept.refresh()
        assert kept.describe().reason == "not_found"
        assert "bao write" in kept.describe().remedy


async def test_the_policy_path_that_is_missing_is_named(server: VaultServer, tmp_path: Path) -> None:
    server.auth.policy = ("read auth/token/lookup-self", "read transit/keys/mesh")
    async with hub(server, tmp_path) as kept:
        problem = await refused(kept)
        assert problem.reason == "forbidden"
        assert 'path "transit/sign/mesh/sha2-256" { capabilities = ["update"] }' in problem.remedy
    server.auth.policy = ("read auth/token/lookup-self",)
    async with hub(server, tmp_path) as kept:
        assert kept.describe().reason == "forbidden"
        assert 'path "transit/keys/mesh" { capabilities = ["read"] }' in kept.describe().remedy


@pytest.mark.parametrize(
    ("content", "reason"), [(b"junk", "file_invalid"), (b"", "file_invalid"), (None, "file_unreadable")]
)
async def test_a_broken_chain_file_leaves_the_last_good_pair(
    server: VaultServer, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    async with hub(server, tmp_path) as kept:
        file = tmp_path / "chain.pem"
        file.unlink() if content is None else file.write_bytes(content)
        await kept.refresh()
        report = kept.describe()
        assert (report.state, report.reason) == ("degraded", reason)
        assert str(file) in report.detail
        assert (await kept.issue(order())).der


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"signature": "vault:v2:AAAA"}, "wrong_key"),
        ({"signature": "AAAA"}, "wrong_key"),
        ({"signature": "vault:v1:A"}, "garbage"),
    ],
)
async def test_what_is_no_signature_is_an_alarm(
    server: VaultServer, tmp_path: Path, answer: Any, reason: str
) -> None:
    async with hub(server, tmp_path) as kept:
        server.transit.answers = answer
        problem = await refused(kept)
        assert isinstance(problem, AuthorityViolation)
        assert problem.reason == reason


async def test_a_signature_by_another_key_is_never_handed_out(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.transit.keys["mesh"].versions[0] = pki.key("another's")
        with pytest.raises(AuthorityViolation):
            await kept.issue(order())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"status": 503, "errors": ("Vault is sealed",)}, "vault_sealed"),
        ({"status": 500, "errors": ("storage",)}, "server_error"),
        ({"status": 502, "body": b"<html>"}, "server_error"),
        ({"status": 200, "body": b"<html>"}, "garbage"),
        ({"status": 418}, "garbage"),
        ({"cut": True}, "cut_off"),
    ],
)
async def test_a_signature_that_does_not_come_has_issued_nothing(
    server: VaultServer, tmp_path: Path, options: Any, reason: str
) -> None:
    async with hub(server, tmp_path) as kept:
        errors = options.pop("errors", ())
        server.fault(SIGN, options.pop("status", 0), *errors, **options)
        problem = await refused(kept)
        assert isinstance(problem, AuthorityUnavailable)
        assert not isinstance(problem, AuthorityUncertain), "only the hub knows what was to be signed"
        assert problem.reason == reason


async def test_an_exceeded_quota_is_reported_with_its_retry_after(
    server: VaultServer, tmp_path: Path
) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, 429, "rate limit quota exceeded", headers={"Retry-After": "3"})
        problem = await refused(kept)
        assert isinstance(problem, AuthorityThrottled)
        assert problem.retry_after == 3.0


async def test_a_revoked_login_is_made_anew_from_the_file(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        assert (await kept.issue(order())).der
        server.auth.revoke_all()
        given_token(server, tmp_path)
        assert (await kept.issue(order())).der
        assert server.count(KEY) == 1
