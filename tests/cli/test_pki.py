"""``federation pki init``: what it makes can be used as it is, and nothing is ever overwritten."""

from __future__ import annotations

import contextlib
import ssl
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation.cli.main import main
from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.load import parse_config
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, kind_of, load_private_key
from federation.core.pki.pem import parse_certificates
from federation.core.pki.verification import check_intermediate


def certificate(path: Path) -> Certificate:
    (found,) = parse_certificates(path.read_bytes(), where=str(path))
    return found


@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
def test_what_it_makes_is_an_authority_the_signer_accepts(
    kind: KeyKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "new" / "pki"
    assert main(["pki", "init", str(place), "--key-kind", kind.value, "--days", "30", "--name", "try"]) == 0
    root, intermediate = certificate(place / "root.pem"), certificate(place / "chain.pem")
    key = load_private_key((place / "key.pem").read_bytes(), where="key.pem")
    assert kind_of(key) is kind
    now = datetime.now(UTC)
    check_intermediate((intermediate,), key.public_key(), (root,), now)
    assert "try intermediate" in intermediate.subject
    assert now + timedelta(days=29) < intermediate.not_after < now + timedelta(days=31)
    assert root.is_self_signed
    assert root.not_after > intermediate.not_after

    out, err = capsys.readouterr()
    assert root.sha256 in out
    assert "development only" in err


def test_the_printed_lines_are_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / 'odd "name" \\ here'
    assert main(["pki", "init", str(place)]) == 0
    snippet = capsys.readouterr().out
    assert set(tomllib.loads(snippet)) == {"trust", "signer"}
    config = parse_config(
        'trust_domain = "mesh.example"\nstate.directory = "s"\ndoor.server_names = ["hub.example"]\n'
        + snippet,
        file="/x/clusters.toml",
    )
    assert config.trust.anchors[0].file == place / "root.pem"
    assert config.trust.anchors[0].sha256 == certificate(place / "root.pem").sha256
    assert isinstance(config.signer.authority, LocalAuthorityConfig)
    assert config.signer.authority.key_file == place / "key.pem"
    assert config.signer.authority.certificate_file == place / "chain.pem"


@pytest.mark.parametrize(
    ("name", "printed"), [("east-prod", "east-prod"), ("My CA: 7", "my-ca-7"), ("\u00fc", "development")]
)
def test_the_printed_authority_bears_the_name_that_was_given(
    name: str, printed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pki", "init", str(tmp_path / "pki"), "--name", name]) == 0
    assert tomllib.loads(capsys.readouterr().out)["signer"]["authority"]["name"] == printed


def test_keys_belong_to_their_owner_alone(tmp_path: Path) -> None:
    assert main(["pki", "init", str(tmp_path / "pki")]) == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").iterdir()}
    assert modes["key.pem"] == modes["root-key.pem"] == 0o600
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    assert set(modes) == {"root.pem", "root-key.pem", "chain.pem", "key.pem"}


@pytest.mark.parametrize("there", ["root.pem", "root-key.pem", "chain.pem", "key.pem"])
def test_nothing_is_overwritten_and_nothing_half_written(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / there).write_text("precious")
    assert main(["pki", "init", str(tmp_path)]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_a_place_that_cannot_be_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["pki", "init", str(tmp_path / "file" / "pki")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_every_run_makes_other_authorities(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["pki", "init", str(tmp_path / name)]) == 0
    first, second = (certificate(tmp_path / name / "root.pem") for name in ("a", "b"))
    assert first.sha256 != second.sha256
    assert first.serial != second.serial
    assert first.subject != second.subject  # equal subjects of two roots break a rotation


@pytest.mark.parametrize(
    "arguments", [["--days", "0"], ["--days", "x"], ["--root-days", "999999"], ["--days", "²"]]
)
def test_lives_are_checked(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["pki", "init", str(tmp_path), *arguments])
    assert caught.value.code == 2


def test_no_intermediate_outlives_its_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pki", "init", str(tmp_path), "--days", "11", "--root-days", "10"]) == 1
    assert "outlive" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_for_status_is_verified_by_what_is_written_beside_it(tmp_path: Path) -> None:
    """OpenSSL is the judge, as for a client of status: by name and by address, and no other name."""
    place = tmp_path / "status"
    name = "federation-status.federation-system.svc"
    assert main(["pki", "server", str(place), name, "127.0.0.1", "--days", "30"]) == 0
    assert {path.name for path in place.iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    assert stat.S_IMODE((place / "tls.key").stat().st_mode) == 0o600
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(place / "tls.crt", place / "tls.key")
    client = ssl.create_default_context(cafile=str(place / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    shake_hands(client, server, name)
    shake_hands(client, server, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(client, server, "localhost")
    served = certificate(place / "tls.crt")
    assert (
        datetime.now(UTC) + timedelta(days=29) < served.not_after <= certificate(place / "ca.crt").not_after
    )
    assert main(["pki", "server", str(place), name]) != 0, "nothing is overwritten"


@pytest.mark.parametrize(
    "name", ["", "a b", "x-.example", "a..b", "x" * 64, "https://a.example", "\u00fc.example"]
)
def test_what_is_no_name_of_a_server_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pki", "server", str(tmp_path / "status"), "a.example", f"{name}"]) != 0
    assert "neither a DNS name nor an IP address" in capsys.readouterr().err
    assert not (tmp_path / "status").exists()


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """TLS in memory. Raises ssl.SSLError where the client refuses it."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert all(end.version() for end in ends)
