"""The way to one Vault: redirects, namespaces, and whatever an answer may contain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable
from federation.signer.authorities.http import retry_after
from federation.signer.authorities.vault.client import VaultAnswer
from federation.signer.authorities.vault.session import api_path, judge_health
from tests.authorities.back_end import order
from tests.authorities.shifted_clock import ShiftedClock
from tests.authorities.vault_hub import approle, hub_of, pki_config, server_context
from tests.authorities.vault_server import VaultServer, vault_server

SIGN = "pki/issuer/default/sign/*"


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[VaultServer, VaultServer]]:
    """A standby that refers to the active node, and that one."""
    async with AsyncExitStack() as stack:
        active = await stack.enter_async_context(vault_server())
        standby = await stack.enter_async_context(vault_server(state="standby", clock=active.clock))
        standby.redirect = active.address
        yield standby, active


async def test_the_active_node_is_followed_to(nodes: tuple[VaultServer, VaultServer], tmp_path: Path) -> None:
    standby, active = nodes
    config = pki_config(standby, approle(active, tmp_path))
    async with hub_of(standby, config, active.pki.ca.root) as kept:
        assert (await kept.issue(order())).der
        assert active.pki.signed == 1
        assert "standby" in kept.describe().detail


async def test_no_node_is_followed_to_twice(nodes: tuple[VaultServer, VaultServer], tmp_path: Path) -> None:
    standby, active = nodes
    active.redirect = standby.address
    async with hub_of(standby, pki_config(standby, approle(active, tmp_path))) as kept:
        assert (kept.describe().state, kept.describe().reason) == ("unavailable", "vault_standby")
        assert (standby.count("auth/*"), active.count("auth/*")) == (1, 1)


async def test_nothing_is_sent_from_https_to_http(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server() as active, vault_server(context, state="standby") as standby:
        standby.redirect = active.address
        async with hub_of(standby, pki_config(standby, approle(active, tmp_path), ca_file=ca_file)) as kept:
            report = kept.describe()
            assert (report.state, report.reason) == ("unavailable", "redirect_refused")
            assert "in the open" in report.detail
            assert "api_addr" in report.remedy
        assert active.seen == []


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (307, "http://192.0.2.1:8200/v1/auth/approle/login"),
        (307, "http://127.0.0.1:1/login"),
        (307, "http://127.0.0.1:1/v1/auth/approle/login/"),
        (307, "ftp://127.0.0.1/v1/auth/approle/login"),
        (307, ""),
        (307, "http://[::1/v1"),
        (302, "http://127.0.0.1:1/v1/auth/approle/login"),
        (301, "http://127.0.0.1:1/v1/auth/approle/login"),
        (308, "http://127.0.0.1:1/v1/auth/approle/login"),
    ],
)
async def test_a_redirect_elsewhere_is_refused(tmp_path: Path, status: int, location: str) -> None:
    async with vault_server() as server:
        server.fault("auth/approle/login", status, headers={"Location": location})
        async with hub_of(server, pki_config(server, approle(server, tmp_path))) as kept:
            assert (kept.describe().state, kept.describe().reason) == ("unavailable", "redirect_refused")
            assert server.count("auth/approle/login") == 1


@pytest.mark.parametrize("namespace", ["mesh", "mesh/prod"])
async def test_the_namespace_goes_with_every_request_but_health(tmp_path: Path, namespace: str) -> None:
    async with (
        vault_server(namespace=namespace) as server,
        hub_of(server, pki_config(server, approle(server, tmp_path))) as kept,
    ):
        assert kept.describe().state == "ready"
        assert (await kept.issue(order())).der


def test_paths_are_quoted() -> None:
    assert api_path("team a/pki/", "issuer", "de?fault") == "/v1/team%20a/pki/issuer/de%3Ffault"


@given(st.text(max_size=600), st.text(min_size=6, max_size=20))
def test_a_refusal_is_one_short_printable_line_without_secrets(text: str, secret: str) -> None:
    body = msgspec.json.encode({"errors": [text.encode("utf-8", "replace").decode(), secret]})
    shown = VaultAnswer(400, {}, body, (secret,)).why
    assert shown.isprintable()
    assert len(shown) <= 210


@given(st.binary(max_size=200), st.sampled_from([200, 204, 400, 429, 472, 473, 474, 500, 501, 503, 530]))
def test_no_health_answer_breaks_the_judge(body: bytes, status: int) -> None:
    try:
        warnings = judge_health(VaultAnswer(status, {}, body), clock=ShiftedClock())
    except (AuthorityUnavailable, AuthorityMisconfigured) as error:
        assert error.reason
        assert error.remedy
    else:
        assert isinstance(warnings, tuple)


@given(st.text(max_size=40))
def test_no_retry_after_silences_the_hub(value: str) -> None:
    assert 0.0 <= retry_after(value, ShiftedClock()) <= 300.0


def test_a_retry_after_may_be_a_date() -> None:
    clock = ShiftedClock()
    later = clock.now().timestamp() + 60
    assert 55 <= retry_after(formatdate(later, usegmt=True), clock) <= 61
