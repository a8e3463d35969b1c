"""What becomes of everything that a Vault with a PKI engine can do wrong: each with its reason and remedy."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    FederationError,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import LeafProfile
from federation.signer.authorities.authority import Alarms, LeafRequest, ManagedAuthority, issue_checked
from federation.signer.authorities.vault import client
from tests.authorities.back_end import order
from tests.authorities.shifted_clock import ShiftedClock
from tests.authorities.vault_engines import Role
from tests.authorities.vault_hub import ELSEWHERE, approle, hub_of, pki_config, server_context
from tests.authorities.vault_server import VaultServer, vault_server
from tests.signer.running_signer import authority
from tests.support import pki

SIGN = "pki/issuer/default/sign/*"
JSON = "pki/issuer/default/json"


@pytest.fixture
async def server() -> AsyncIterator[VaultServer]:
    async with vault_server() as running:
        yield running


@asynccontextmanager
async def hub(server: VaultServer, directory: Path, **options: Any) -> AsyncIterator[ManagedAuthority]:
    config = pki_config(server, approle(server, directory), **options)
    async with hub_of(server, config) as kept:
        yield kept


def ordered(server: VaultServer, *args: Any, **options: Any) -> LeafRequest:
    return order(*args, now=server.clock.now(), **options)


async def refused(kept: ManagedAuthority, server: VaultServer, *args: Any, **options: Any) -> FederationError:
    """Why an order is not carried out."""
    with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
        await kept.issue(ordered(server, *args, **options))
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("dr", "dr_secondary", "disaster recovery"),
        ("uninitialised", "vault_uninitialised", "not initialised"),
        ("sealed", "vault_sealed", "sealed"),
        ("cut off", "vault_standby", "cannot reach the active node"),
        ("removed", "vault_removed", "removed from its cluster"),
    ],
)
async def test_a_node_that_answers_no_requests(
    server: VaultServer, tmp_path: Path, state: str, reason: str, words: str
) -> None:
    server.state = state
    async with hub(server, tmp_path) as kept:
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", reason)
        assert words in report.detail
        assert report.remedy
        server.state = "active"
        await kept.refresh()
        assert kept.describe().state == "ready"


@pytest.mark.parametrize("state", ["standby", "performance"])
async def test_a_standby_signs_and_is_shown(server: VaultServer, tmp_path: Path, state: str) -> None:
    server.state = state
    async with hub(server, tmp_path) as kept:
        assert (await kept.issue(ordered(server))).der
        report = kept.describe()
        assert report.state == "degraded"
        assert "standby" in report.detail


@pytest.mark.parametrize(
    ("status", "text", "reason", "attempts"),
    [
        (503, "Vault is sealed", "vault_sealed", 1),
        (503, "no active Vault instance found", "vault_standby", 3),
        (500, "local node not active but active cluster node not found", "vault_standby", 3),
        (473, "", "vault_standby", 1),
        (472, "", "dr_secondary", 1),
        (501, "", "vault_uninitialised", 1),
        (412, "required index state not present", "behind", 3),
        (500, "1 error occurred: storage is gone", "server_error", 3),
        (503, "", "server_error", 3),
    ],
)
async def test_a_sign_that_is_not_served_is_unavailable(
    server: VaultServer, tmp_path: Path, *, status: int, text: str, reason: str, attempts: int
) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, status, text)
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityUnavailable)
        assert not isinstance(problem, AuthorityUncertain)
        assert problem.reason == reason
        assert server.count(SIGN) == attempts, (
            "only what says that nothing was done, and may pass, is repeated"
        )
        assert server.pki.signed == 0


@pytest.mark.parametrize("status", [412, 500, 502, 503])
async def test_one_bad_answer_is_got_over(server: VaultServer, tmp_path: Path, status: int) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, status, "for a moment", times=2)
        assert (await kept.issue(ordered(server))).der
        assert server.pki.signed == 1
        assert [0.05 <= wait <= 0.2 for wait in server.clock.slept] == [True, True]


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", 0.0), ("soon", 0.0), ("99999999", 300.0)])
async def test_an_exceeded_quota_is_reported_with_its_retry_after(
    server: VaultServer, tmp_path: Path, header: str, seconds: float
) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, 429, "rate limit quota exceeded", headers={"Retry-After": header})
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityThrottled)
        assert (problem.reason, problem.retry_after) == ("throttled", seconds)
        assert server.count(SIGN) == 1


async def test_what_the_policy_lacks_is_named(server: VaultServer, tmp_path: Path) -> None:
    server.auth.policy = ("update auth/token/renew-self",)
    async with hub(server, tmp_path) as kept:
        server.clock.ahead += 60
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityMisconfigured)
        assert problem.reason == "forbidden"
        assert 'path "pki/issuer/default/sign/mesh-workload" { capabilities = ["update"] }' in problem.remedy
        assert server.count(SIGN) == 2
        assert server.auth.logins == 2, "one new login, in case the token was revoked"
        await refused(kept, server)
        assert server.auth.logins == 2, "a login of a moment ago is not the reason"


@pytest.mark.parametrize(
    ("role", "args", "options", "words"),
    [
        ("mesh-workload", (), {"identity": ELSEWHERE}, "not valid for this role"),
        ("mesh-listener", (LeafProfile.SERVING,), {"hosts": ("elsewhere.svc",)}, "elsewhere.svc not allowed"),
        ("rsa-only", (), {}, "role requires keys of type rsa"),
        ("no-uris", (), {}, "not allowed in this role"),
    ],
)
async def test_a_role_that_is_too_narrow(
    server: VaultServer, tmp_path: Path, *, role: str, args: Any, options: Any, words: str
) -> None:
    server.pki.roles["rsa-only"] = Role(allowed_uri_sans=("spiffe://*",), key_type="rsa")
    server.pki.roles["no-uris"] = Role()
    roles = {"serving_role" if args else "role": role}
    async with hub(server, tmp_path, **roles) as kept:
        problem = await refused(kept, server, *args, **options)
        assert isinstance(problem, AuthorityRefused)
        assert problem.reason == "role_too_narrow"
        assert words in str(problem)
        assert role in str(problem)
        assert kept.can_sign, "it refuses one request, not all"
        if role != "rsa-only":
            return
        assert (await kept.issue(ordered(server, kind=KeyKind.RSA_2048))).der


async def test_another_refusal_of_one_request(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, 400, "csr contains no data")
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityRefused)
        assert problem.reason == "request_refused"
        assert "csr contains no data" in str(problem)


async def test_a_role_that_is_not_there(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path, role="missing") as kept:
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityMisconfigured)
        assert problem.reason == "not_found"
        assert "missing" in str(problem)


@pytest.mark.parametrize(
    ("options", "words"), [({"mount": "nowhere"}, "no PKI engine"), ({"issuer": "missing"}, "issuer missing")]
)
async def test_a_mount_or_issuer_that_is_not_there(
    server: VaultServer, tmp_path: Path, options: Any, words: str
) -> None:
    async with hub(server, tmp_path, **options) as kept:
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", "not_found")
        assert words in report.detail
        assert report.remedy


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "no handler for route"),
        (500, "could not fetch the CA certificate: unable to find PKI issuer for reference: default"),
    ],
)
async def test_an_engine_that_goes_away(server: VaultServer, tmp_path: Path, status: int, text: str) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, status, text)
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityMisconfigured)
        assert problem.reason == "not_found"
        assert server.count(SIGN) == 1


async def test_a_namespace_that_is_not_there(server: VaultServer, tmp_path: Path) -> None:
    config = pki_config(server, approle(server, tmp_path))
    server.namespace = "elsewhere"
    async with hub_of(server, config) as kept:
        assert kept.describe().reason == "not_found"
        assert "namespace" in kept.describe().remedy


async def test_an_issuer_that_may_not_issue_any_more(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.pki.usable = False
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityMisconfigured)
        assert problem.reason == "issuer_unusable"
        assert server.count(SIGN) == 1


async def test_near_the_end_of_the_issuer_leaves_still_fit(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        end = min(c.not_after for c in kept.issuers)
        server.clock.ahead = (end - server.clock.now()).total_seconds() - 600
        leaf = Certificate.from_der((await kept.issue(ordered(server, life=timedelta(minutes=10)))).der)
        assert timedelta(0) <= end - leaf.not_after <= timedelta(seconds=10)


async def test_an_issuer_at_its_end(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.clock.ahead = (kept.issuers[0].not_after - server.clock.now()).total_seconds() - 5
        assert (await refused(kept, server)).reason == "issuer_expired"
        assert server.count(SIGN) == 0
        assert kept.describe().reason == "issuer_expired"


async def test_an_issuer_that_was_exchanged_for_one_that_ends_sooner(
    server: VaultServer, tmp_path: Path
) -> None:
    async with hub(server, tmp_path) as kept:
        now = server.clock.now().replace(microsecond=0)
        ca = server.pki.ca
        ends = now + timedelta(minutes=30)
        root = pki.root("vault of signer", not_before=ca.root.not_before, not_after=ca.root.not_after)
        server.pki.issuers["default"] = pki.intermediate(
            "soon over", root, not_before=now - pki.DAY, not_after=ends
        )
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityMisconfigured)
        assert problem.reason == "issuer_expired"


async def test_a_closed_port_is_reported_as_unreachable(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept, server.stopped():
        assert (await refused(kept, server)).reason in {"unreachable", "outcome_unknown"}
        problem = await refused(kept, server)
        assert type(problem) is AuthorityUnavailable
        assert problem.reason == "unreachable"


async def test_a_certificate_of_a_stranger(tmp_path: Path) -> None:
    context, _ = server_context(tmp_path)
    async with vault_server(context) as server:
        wrong_ca = tmp_path / "other-ca.pem"
        wrong_ca.write_bytes(authority("another").root.pem)
        async with hub(server, tmp_path, ca_file=wrong_ca) as kept:
            report = kept.describe()
            assert (report.state, report.reason) == ("unavailable", "tls")
            assert "ca_file" in report.remedy


@pytest.mark.parametrize(("content", "reason"), [(b"junk", "tls_files"), (None, "file_unreadable")])
async def test_a_ca_file_that_is_none(tmp_path: Path, content: bytes | None, reason: str) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server:
        good = ca_file.read_bytes()
        ca_file.unlink() if content is None else ca_file.write_bytes(content)
        async with hub(server, tmp_path, ca_file=ca_file) as kept:
            assert kept.describe().reason == reason
            assert str(ca_file) in kept.describe().detail
            ca_file.write_bytes(good)
            await kept.refresh()
            assert kept.describe().state == "ready"


async def test_another_ca_of_its_own_is_taken_up(tmp_path: Path) -> None:
    context, ca_file = server_context(tmp_path)
    async with vault_server(context) as server, hub(server, tmp_path, ca_file=ca_file) as kept:
        await server.stop()
        other, _ = server_context(tmp_path, ca="vault tls, renewed")
        await server.start(other)
        await kept.refresh()
        assert kept.describe().state == "ready", kept.describe().detail
        assert (await kept.issue(ordered(server))).der


async def test_a_sign_without_an_answer_is_uncertain(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path, timeout=6.0) as kept:
        server.fault(SIGN, hang=True, times=1)
        alarms = Alarms(server.clock)
        with pytest.raises(AuthorityUncertain) as caught:
            await issue_checked(
                kept,
                ordered(server),
                anchors=(server.pki.ca.root,),
                at=server.clock.now(),
                alarms=alarms,
            )
        assert caught.value.remedy
        assert alarms.uncertain == 1
        assert server.pki.signed == 1, "it had issued, and was not asked again"
        assert (await kept.issue(ordered(server))).der


async def test_a_poll_without_an_answer(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path, timeout=6.0) as kept:
        server.fault(JSON, hang=True)
        await kept.refresh()
        assert kept.describe().reason == "timeout"


async def test_an_answer_that_is_cut_off(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, cut=True, times=1)
        assert isinstance(await refused(kept, server), AuthorityUncertain)
        assert server.pki.signed == 1
        server.fault(JSON, cut=True)
        await kept.refresh()
        assert kept.describe().reason == "cut_off"


@pytest.mark.parametrize("status", [502, 504])
async def test_a_gateway_that_lost_the_answer(server: VaultServer, tmp_path: Path, status: int) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, status, body=b"<html>Bad gateway</html>")
        assert isinstance(await refused(kept, server), AuthorityUncertain)
        assert server.count(SIGN) == 1


@pytest.mark.parametrize(
    "body", [b"<html>Log in</html>", b"{}", b'{"data": {"certificate": 7}}', b"[" * 10_000]
)
async def test_garbage(server: VaultServer, tmp_path: Path, body: bytes) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(SIGN, 200, body=body)
        problem = await refused(kept, server)
        assert isinstance(problem, AuthorityUncertain)
        assert "something other than Vault" in problem.remedy
        server.fault(JSON, 200, body=body)
        await kept.refresh()
        assert kept.describe().reason == "garbage"
        assert "html" not in kept.describe().detail


@pytest.mark.parametrize("status", [200, 404, 418, 500])
async def test_garbage_for_health(server: VaultServer, tmp_path: Path, status: int) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault("sys/health", status, body=b"<html>")
        await kept.refresh()
        assert kept.describe().reason == ("server_error" if status == 500 else "garbage")


async def test_health_itself_may_be_throttled(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault("sys/health", 429, "rate limit quota exceeded", headers={"Retry-After": "5"})
        await kept.refresh()
        assert kept.describe().reason == "throttled"


async def test_an_answer_without_end(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.fault(JSON, 200, body=b" " * (5 * 1024 * 1024))
        await kept.refresh()
        assert kept.describe().reason == "garbage"


async def test_text_of_the_other_side_is_made_harmless(
    server: VaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with hub(server, tmp_path) as kept:
        token = next(iter(server.auth.tokens))
        server.fault(SIGN, 400, f"\x1b[31m{token}\n" + "x" * 1000)
        text = str(await refused(kept, server))
        assert token not in text + caplog.text
        assert text.isprintable()
        assert len(text) < 400


async def alarm(kept: ManagedAuthority, server: VaultServer, *anchors: Certificate) -> AuthorityViolation:
    """The violation that what was returned raises."""
    alarms = Alarms(server.clock)
    with pytest.raises(AuthorityViolation) as caught:
        await issue_checked(
            kept,
            ordered(server),
            anchors=anchors or (server.pki.ca.root,),
            at=server.clock.now(),
            alarms=alarms,
        )
    assert alarms.violations == 1
    return caught.value


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"public_key": pki.key("another's").public_key()}, "wrong_key"),
        ({"san": pki.spiffe_san("spiffe://cluster.local/ns/kube-system/sa/admin")}, "wrong_names"),
        ({"ca": True}, "is_ca"),
        ({"signing_key": pki.key("a forger's")}, "broken_chain"),
    ],
)
async def test_a_leaf_that_was_not_ordered(
    server: VaultServer, tmp_path: Path, lie: Any, reason: str
) -> None:
    async with hub(server, tmp_path) as kept:
        server.pki.lies = lie
        assert (await alarm(kept, server)).reason == reason


async def test_leaves_of_another_time(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        now = server.clock.now().replace(microsecond=0)
        server.pki.lies = {
            "not_before": now + timedelta(minutes=10),
            "not_after": now + timedelta(minutes=20),
        }
        assert (await alarm(kept, server)).reason == "clock_skew"
        server.pki.lies = {"not_after": now + timedelta(hours=9)}
        assert (await alarm(kept, server)).reason == "outlives_request"


async def test_a_chain_to_an_unpinned_root(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        stranger = authority("a stranger to vault")
        server.pki.signs_with, server.pki.chain_above = stranger, (stranger.root,)
        assert (await alarm(kept, server)).reason == "no_anchor"
        assert stranger.root not in kept.issuers


@pytest.mark.parametrize(
    "answer",
    [
        {"certificate": "junk"},
        {"certificate": ""},
        {"certificate": pki.root().pem.decode() * 2},
        {"ca_chain": ["junk"]},
    ],
)
async def test_a_certificate_that_is_none(server: VaultServer, tmp_path: Path, answer: Any) -> None:
    async with hub(server, tmp_path) as kept:
        server.pki.answers = answer
        assert (await alarm(kept, server)).reason == "garbage"


async def test_a_chain_with_two_ways_up_is_no_alarm(server: VaultServer, tmp_path: Path) -> None:
    """A mount whose root is cross-signed lists both ways; the one that was judged counts."""
    async with hub(server, tmp_path) as kept:
        ca = server.pki.ca
        other = authority("the older root")
        root_key = pki.key(f"root {'vault of signer'}")
        crossed = pki.certificate(
            other,
            [
                (pki.CA_KEY_USAGE, True),
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), False),
            ],
            public_key=root_key.public_key(),
            subject=ca.root.x509.subject,
            not_before=ca.root.not_before,
            not_after=ca.root.not_after,
        )
        server.pki.chain_above = (ca.root, crossed, other.root)
        await kept.refresh()
        issued = await issue_checked(
            kept,
            ordered(server),
            anchors=(ca.root,),
            at=server.clock.now(),
            alarms=Alarms(server.clock),
        )
        assert issued.issuers == (ca.certificate, ca.root)
        assert [p.sha256 for p in kept.describe().proposals] == [other.root.sha256]


async def test_a_new_root_is_a_proposal(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        new = authority("the next root")
        server.pki.issuers["default"] = new
        await kept.refresh()
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", "no_anchor")
        assert [p.sha256 for p in report.proposals] == [new.root.sha256]
        assert "pin" in report.remedy
        kept.trust((server.pki.ca.root,))
        assert kept.describe().state == "ready"
        assert kept.describe().proposals == []


async def test_a_skewed_clock_of_vault_is_reported_before_leaves_violate(
    server: VaultServer, tmp_path: Path
) -> None:
    server.skew = 600
    async with hub(server, tmp_path) as kept:
        report = kept.describe()
        assert (report.state, report.reason) == ("unavailable", "clock_skew")
        assert "synchronise" in report.remedy
        server.skew = -600
        await kept.refresh()
        assert kept.describe().state == "degraded"
        assert "behind" in kept.describe().detail
        server.skew = 20
        await kept.refresh()
        assert kept.describe().state == "ready"


async def test_lifetimes_that_the_role_cuts_short_are_shown(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        server.pki.roles["mesh-workload"].max_ttl = 1800
        leaf = Certificate.from_der((await kept.issue(ordered(server))).der)
        assert leaf.not_after <= server.clock.now() + timedelta(seconds=1800)
        await kept.refresh()
        assert kept.describe().state == "degraded"
        assert "mesh-workload" in kept.describe().detail
        assert "max_ttl" in kept.describe().detail
        server.pki.roles["mesh-workload"].max_ttl = 86400
        await kept.issue(ordered(server))
        await kept.refresh()
        assert kept.describe().state == "ready"


@pytest.mark.parametrize(
    ("status", "crl", "state"),
    [(404, b"", "ready"), (0, b"", "ready"), (500, b"", "degraded"), (403, b"", "degraded")],
)
async def test_an_engine_without_a_crl_signs(
    server: VaultServer, tmp_path: Path, status: int, crl: bytes, state: str
) -> None:
    server.pki.crl_der = crl
    if status:
        server.fault("pki/issuer/default/crl/der", status, "no crl")
    async with hub(server, tmp_path) as kept:
        assert kept.describe().state == state
        assert kept.describe().crl_next_update == 0.0
        assert (await kept.issue(ordered(server))).der


async def test_the_crl_is_taken_up(server: VaultServer, tmp_path: Path) -> None:
    async with hub(server, tmp_path) as kept:
        assert kept.describe().crl_next_update > server.clock.now().timestamp()
        server.pki.crl_der = b"junk"
        await kept.refresh()
        assert kept.describe().reason == "crl_invalid"


async def test_no_attempt_is_waited_for_beyond_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ShiftedClock()
    monkeypatch.setattr(client, "FIRST_WAIT", 5.0)
    monkeypatch.setattr(client, "LONGEST_WAIT", 100.0)
    async with vault_server(clock=clock) as server, hub(server, tmp_path, timeout=8.0) as kept:
        server.fault(SIGN, 500, "again and again")
        assert (await refused(kept, server)).reason == "server_error"
        assert sum(clock.slept) <= 8.0
        assert 1 <= server.count(SIGN) <= 2
