"""``federation authority check``: what the configured authority is, and whether it signs as it should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.cli.main import main
from federation.runtime.clock import SystemClock
from tests.core.config.texts import EAST
from tests.signer.running_signer import authority
from tests.support import pki

ONE_KIND = '\n[clusters.policy]\nkey_kinds = ["ecdsa-p256"]\n'


def configuration(
    directory: Path, ca: pki.Authority, *, pinned: pki.Authority | None = None, more: str = ONE_KIND
) -> Path:
    chain, key, _ = ca.write(directory)
    root = (pinned or ca).root
    (directory / "pinned.pem").write_bytes(root.pem)
    file = directory / "clusters.toml"
    file.write_text(
        f"""
trust_domain = "cluster.local"
[[trust.anchors]]
file = "pinned.pem"
sha256 = "{root.sha256}"
[listener]
server_names = ["hub.example"]
[signer.authority]
name = "shared"
certificate_file = "{chain}"
key_file = "{key}"
[state]
directory = "state"
{EAST}{more}
"""
    )
    return file


def check(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["authority", "check", "--config", str(file), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (code == 0)
    assert (document["name"], document["kind"]) == ("shared", "local")
    return code, {row["check"]: row for row in document["checks"]}


def test_a_good_authority_signs_workload_listener_and_istiod_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = authority("checked")
    code, checks = check(configuration(tmp_path, ca), capsys)
    assert code == 0
    assert list(checks) == ["back end", "chain", "workload, ecdsa-p256", "listener", "istiod"]
    assert all(row["outcome"] == "ok" for row in checks.values())
    assert ca.certificate.subject in checks["chain"]["detail"]


def test_the_check_as_text_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configuration(tmp_path, authority("checked"))
    assert main(["authority", "check", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("authority shared, kind local\n")
    assert "signed and verified" in out
    assert "do:" not in out


def test_a_failed_check_is_printed_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configuration(tmp_path, authority("checked"))
    (tmp_path / "ca-key.pem").chmod(0o644)
    code, checks = check(file, capsys)
    assert code == 1
    assert list(checks) == ["back end"], "nothing is asked of an authority that cannot sign"
    assert checks["back end"]["reason"] == "key_file_mode"
    assert "chmod 600" in checks["back end"]["remedy"]
    assert main(["authority", "check", "--config", str(file)]) == 1
    assert "do: chmod 600" in capsys.readouterr().out


def odd(kind: str) -> pki.Authority:
    """An authority that OpenSSL signs with as if nothing were odd about it."""
    now = SystemClock().now().replace(microsecond=0)
    times: pki.Times = {"not_before": now - pki.DAY, "not_after": now + 30 * pki.DAY}
    match kind:
        case "name constraints":
            above = pki.root("of a confined one", **times)
            return pki.confined([x509.DNSName("corp.example")], issuer=above, **times)
        case "brainpool":
            return pki.root_of_curve(ec.BrainpoolP256R1(), **times)[1]
        case _:
            above = pki.root("with serial zero", **times)
            below = pki.intermediate("below serial zero", above, **times)
            return replace(below, root=pki.renumbered(above, b"\0"))


@pytest.mark.parametrize(
    ("kind", "reason", "stated"),
    [
        ("name constraints", "name_constraints", ["CN=confined", "'hub.example'", "'corp.example'"]),
        ("brainpool", "weak_key", ["CN=Root on brainpoolP256r1", "Go", "BoringSSL"]),
    ],
)
def test_what_clients_would_refuse_is_refused_before_anything_is_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, reason: str, stated: list[str]
) -> None:
    code, checks = check(configuration(tmp_path, odd(kind)), capsys)
    assert code == 1
    assert list(checks) == ["back end"], "nothing is asked of an authority that is of no use"
    assert checks["back end"]["reason"] == reason
    assert [part for part in stated if part not in checks["back end"]["detail"]] == []
    assert checks["back end"]["remedy"]


def test_a_pinned_root_is_found_with_text_around_it_and_an_odd_certificate_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = authority("checked")
    file = configuration(tmp_path, ca)
    unreadable = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    text = b"Certificate:\n    Data:\n        Version: 3 (0x2)\n"
    (tmp_path / "pinned.pem").write_bytes(text + unreadable + text + ca.root.pem + text)
    chain = tmp_path / "ca-chain.pem"
    chain.write_bytes(text + chain.read_bytes() + text)
    code, checks = check(file, capsys)
    assert (code, {row["outcome"] for row in checks.values()}) == (0, {"ok"})


def test_constraints_on_uris_are_reported_where_a_ztunnel_is_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = SystemClock().now().replace(microsecond=0)
    times: pki.Times = {"not_before": now - pki.DAY, "not_after": now + 30 * pki.DAY}
    above = pki.root("of one that constrains URIs", **times)
    ca = pki.confined([x509.UniformResourceIdentifier("cluster.local")], issuer=above, **times)
    code, _ = check(configuration(tmp_path, ca), capsys)
    assert code == 0
    trusting = ONE_KIND + 'trusted_node_accounts = ["istio-system/ztunnel"]\n'
    code, checks = check(configuration(tmp_path, ca, more=trusting), capsys)
    assert (code, checks["back end"]["reason"]) == (1, "name_constraints")
    assert "ztunnel" in checks["back end"]["detail"]


def test_a_root_with_the_serial_number_zero_is_one_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, checks = check(configuration(tmp_path, odd("serial zero")), capsys)
    assert code == 0
    assert {row["outcome"] for row in checks.values()} == {"ok", "warning"}
    assert "serial number 0" in checks["serial"]["detail"]


def test_an_authority_under_another_root_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configuration(tmp_path, authority("checked"), pinned=authority("pinned instead"))
    code, checks = check(file, capsys)
    assert code == 1
    assert checks["back end"]["reason"] == "no_anchor"


def test_a_pinned_root_that_cannot_be_read_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configuration(tmp_path, authority("checked"))
    (tmp_path / "pinned.pem").write_bytes(authority("another").root.pem)
    code, checks = check(file, capsys)
    assert code == 1
    assert checks["pinned roots"]["reason"] == "anchor_unreadable"


def test_the_successor_is_checked_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, other = configuration(tmp_path, authority("checked")), authority("next")
    (tmp_path / "next").mkdir()
    chain, key, _ = other.write(tmp_path / "next")
    (tmp_path / "next.pem").write_bytes(other.root.pem)
    successor = f'[signer.successor]\nname = "next"\ncertificate_file = "{chain}"\nkey_file = "{key}"\n'
    pin = f'[[trust.anchors]]\nfile = "next.pem"\nsha256 = "{other.root.sha256}"\n'
    text = file.read_text()
    file.write_text(text.replace("[listener]", f"{pin}[listener]").replace("[state]", f"{successor}[state]"))
    assert main(["authority", "check", "--config", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["name"]) == (True, "shared")
    assert (document["successor"]["ok"], document["successor"]["name"]) == (True, "next")
    assert other.certificate.subject in document["successor"]["checks"][1]["detail"]

    key.chmod(0o644)
    assert main(["authority", "check", "--config", str(file), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["successor"]["ok"]) == (False, False)
    assert document["successor"]["checks"][0]["reason"] == "key_file_mode"
    assert all(row["outcome"] == "ok" for row in document["checks"])
    assert main(["authority", "check", "--config", str(file)]) == 1
    out = capsys.readouterr().out
    assert "authority shared, kind local\n" in out
    assert "successor next, kind local\n" in out


def test_a_configuration_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "clusters.toml"
    file.write_text("[signer.authority]\nkind = 'nothing'\n")
    assert main(["authority", "check", "--config", str(file)]) == 2
    assert "nothing" in capsys.readouterr().err
