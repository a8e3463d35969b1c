"""Certificates as values."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from subprocess import run

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import MAX_CERTIFICATE_BYTES, Certificate
from tests.support.pki import IDENTITY, NOW, certificate, intermediate, key, leaf, renumbered, root

ROOT = root().certificate
INTERMEDIATE = intermediate().certificate
LEAF = leaf()


def test_what_it_says_about_itself() -> None:
    assert LEAF.uris == (str(IDENTITY),)
    assert LEAF.subject == ""
    assert LEAF.issuer == INTERMEDIATE.subject
    assert LEAF.sha256 == sha256(LEAF.der).hexdigest()
    assert LEAF.not_after == NOW + timedelta(hours=1)
    assert LEAF.authority_key_id == INTERMEDIATE.key_id
    assert not LEAF.is_ca
    assert LEAF.path_length is None
    assert INTERMEDIATE.is_ca
    assert INTERMEDIATE.path_length == 0
    assert ROOT.path_length is None
    assert "CN=Root a" in ROOT.subject
    assert "serialNumber=" in ROOT.subject


def test_pem_is_what_cryptography_writes() -> None:
    assert ROOT.pem == ROOT.x509.public_bytes(serialization.Encoding.PEM)


def test_equal_by_bytes() -> None:
    again = Certificate.from_der(ROOT.der)
    assert again == ROOT
    assert hash(again) == hash(ROOT)
    assert ROOT != INTERMEDIATE
    assert len({again, ROOT, INTERMEDIATE}) == 2


def test_self_signed_means_a_signature_and_not_only_equal_names() -> None:
    assert ROOT.is_self_signed
    assert not INTERMEDIATE.is_self_signed
    pretender = certificate(root(), [], subject=ROOT.x509.subject, signing_key=key("pretender"))
    assert pretender.subject == pretender.issuer
    assert not pretender.is_self_signed
    assert not pretender.is_signed_by(ROOT)
    assert LEAF.is_signed_by(INTERMEDIATE)
    assert not LEAF.is_signed_by(ROOT)


def test_a_key_identifier_where_the_certificate_has_none() -> None:
    bare = certificate(root(), [], public_key=root().key.public_key(), authority_key_id=False)
    assert bare.key_id == ROOT.key_id  # development roots use the same method of RFC 5280, 4.2.1.2
    assert bare.authority_key_id == ""


def test_a_name_cannot_forge_a_log_line() -> None:
    hostile = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a\nb\x1b[2J\u202e")])
    assert certificate(root(), [], subject=hostile).subject.isprintable()
    assert "\n" not in repr(certificate(root(), [], subject=hostile))


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30\x00", LEAF.der + b"\x00", LEAF.der[:-1], bytes(MAX_CERTIFICATE_BYTES + 1)],
    ids=["nothing", "empty", "trailing data", "cut short", "too large"],
)
def test_bytes_that_are_no_certificate(der: bytes) -> None:
    with pytest.raises(InvalidValue) as error:
        Certificate.from_der(der, where="somewhere")
    assert str(error.value).startswith("somewhere: ")


def test_a_signature_of_odd_bits_would_be_a_second_fingerprint() -> None:
    """cryptography takes it where the last bit is zero."""
    unused = LEAF.der.rindex(LEAF.x509.signature) - 1
    odd = LEAF.der[:unused] + b"\x01" + LEAF.der[unused + 1 :]
    with pytest.raises(InvalidValue, match="whole number of bytes"):
        Certificate.from_der(odd)


@pytest.mark.parametrize("serial", [b"\x00", b"\x80", b"\xff"], ids=["zero", "-128", "-1"])
def test_a_certificate_whose_serial_number_is_not_positive_can_be_read(serial: bytes) -> None:
    """Whether it may be at its place in a path is the path's question: real roots have the number 0."""
    made = renumbered(root(), serial)
    assert made.serial == int.from_bytes(serial, "big", signed=True)
    assert made.is_self_signed
    assert made.subject == root().certificate.subject
    assert made.public_key == root().certificate.public_key
    assert made.sha256 != root().certificate.sha256
    assert intermediate().certificate.is_signed_by(made)
    assert not made.is_signed_by(root("b").certificate)
    forged = Certificate.from_der(made.der.replace(b"\x02\x01" + serial, b"\x02\x01\xf0", 1))
    assert not forged.is_self_signed


def test_openssl_reads_the_same_number(tmp_path: Path) -> None:
    for serial in (b"\x00", b"\x80", b"\x85\x01"):
        made = renumbered(root(), serial)
        (tmp_path / "root.pem").write_bytes(made.pem)
        printed = run(
            ["openssl", "x509", "-in", tmp_path / "root.pem", "-noout", "-serial"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert int(printed.stdout.strip().removeprefix("serial="), 16) == made.serial


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_a_certificate_that_can_be_read_or_an_error(data: st.DataObject) -> None:
    der = bytearray(data.draw(st.sampled_from([ROOT.der, LEAF.der])))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = Certificate.from_der(bytes(der))
    except InvalidValue:
        return
    assert made.der == bytes(der)
    values = (
        made.sha256,
        made.subject,
        made.issuer,
        made.key_id,
        made.authority_key_id,
        made.pem,
        repr(made),
    )
    assert all(isinstance(value, str | bytes) for value in values)
    assert isinstance(made.is_ca, bool)
    assert made.not_before.utcoffset() == made.not_after.utcoffset() == timedelta(0)
    assert not made.is_signed_by(INTERMEDIATE) or bytes(der) == LEAF.der
    assert not made.is_self_signed or bytes(der) == ROOT.der
    assert isinstance(made.uris, tuple)
