"""PEM: what is not exactly certificates is an error, so that no anchor ever vanishes in silence."""

from __future__ import annotations

import time
from pathlib import Path
from subprocess import run

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import (
    MAX_CERTIFICATES,
    MAX_PEM_BYTES,
    der_blocks,
    encode_certificates,
    find_certificate,
    parse_certificates,
    readable_certificates,
)
from tests.support.pki import intermediate, leaf, root

A, B, LEAF = root("a").certificate, root("b").certificate, leaf()
CERTIFICATES = [A, B, intermediate().certificate, LEAF]


@given(
    chosen=st.lists(st.sampled_from(CERTIFICATES), min_size=1, max_size=6),
    spaces=st.lists(st.text(" \t\r\n", max_size=4), min_size=8, max_size=8),
    newline=st.sampled_from([b"\n", b"\r\n"]),
)
def test_order_and_duplicates_survive_any_white_space(
    chosen: list[object], spaces: list[str], newline: bytes
) -> None:
    text = spaces[0].encode()
    for certificate, space in zip(chosen, spaces[1:], strict=False):
        text += certificate.pem.replace(b"\n", newline) + space.encode()  # type: ignore[attr-defined]
    assert parse_certificates(text, where="file") == tuple(chosen)


@given(
    chosen=st.lists(st.sampled_from(CERTIFICATES), min_size=1, max_size=3),
    ends=st.lists(
        st.sampled_from([b"\n", b" \n", b"\t\n", b" \t\r\n", b"\n\n", b" \n    "]),
        min_size=1,
    ),
)
def test_white_space_around_lines_is_passed_over(chosen: list[Certificate], ends: list[bytes]) -> None:
    """As terminals, editors and block scalars leave it; Go and BoringSSL read it at the ends of lines."""
    lines = encode_certificates(chosen).splitlines()
    text = b"".join(line + ends[number % len(ends)] for number, line in enumerate(lines))
    assert parse_certificates(text, where="file") == tuple(chosen)
    assert readable_certificates(text.rstrip() + b" ") == tuple(chosen)
    assert find_certificate(text, chosen[0].sha256, where="file") == chosen[0]


def test_each_certificate_ends_with_one_newline() -> None:
    text = encode_certificates([A, B])
    assert text == A.pem + B.pem
    assert text.endswith(b"-----END CERTIFICATE-----\n")
    assert b"\n\n" not in text


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_bundle_is_an_error_or_holds_as_many_certificates(data: st.DataObject) -> None:
    text = encode_certificates([A, B, LEAF])
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    damaged = text[:start] + data.draw(st.binary(max_size=20)) + text[stop:]
    readable = readable_certificates(damaged)
    assert {*readable} <= {A, B, LEAF}
    for certificate in (A, LEAF):
        whole = damaged.startswith(certificate.pem) or damaged.endswith(b"\n" + certificate.pem)
        assert certificate in readable or not whole
    try:
        found = parse_certificates(damaged, where="file")
    except InvalidValue:
        return
    assert readable == found
    # whole blocks may have been cut out, or their white space changed; nothing else passes
    assert damaged.count(b"-----BEGIN CERTIFICATE-----") == len(found)
    assert set(found) <= {A, B, LEAF}


PADDED = next(c.pem for c in (root(f"padded {n}").certificate for n in range(99)) if len(c.der) % 3 == 0)
"""It needs no padding: Go and BoringSSL take none there."""

KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "no certificate"),
        (b" \n\t", "no certificate"),
        (b"garbage", "no certificate"),
        (A.pem[30:], "found '-----END CERTIFICATE-----'"),
        (A.pem.replace(b"-----BEGIN", b"----BEGIN"), "found '----BEGIN CERTIFICATE-----'"),
        (A.pem.replace(b"CERTIFICATE-----", b"CERTIFICAT-----"), "found '-----BEGIN CERTIFICAT-----'"),
        (A.pem + b"# " + B.pem, "found '# -----BEGIN CERTIFICATE-----'"),
        (A.pem[:-1] + b" trailing\n", "text after the END line"),
        (A.pem[:-1] + B.pem, "text after the END line"),
        (A.pem[:-40], "cut short"),
        (A.pem.replace(b"-----END", b"----END"), "cut short"),
        (A.pem.replace(b"CERTIFICATE-----\n", b"CERTIFICATE-----\nX: y\n\n", 1), "headers"),
        (A.pem.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"), "expected"),
        (A.pem.replace(b"CERTIFICATE", b"X509 CRL"), "expected"),
        (A.pem.replace(b"M", b"!", 1), "base64"),
        (PADDED.replace(b"\n-----END", b"==\n-----END"), "base64"),
        (PADDED.replace(b"\n-----END", b"====\n-----END"), "base64"),
        (A.pem.replace(b"CERTIFICATE-----\n", b"CERTIFICATE-----", 1), "lines of their own"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "not a readable"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a readable"),
        (A.pem.replace(b"\n", b"\r"), "lines of their own"),  # neither Go nor BoringSSL reads it
        (A.pem.replace(b"\n", b"\r\r\n"), "lines of their own"),
        (A.pem + KEY, "private key"),
    ],
)
def test_what_is_not_exactly_certificates(text: bytes, problem: str) -> None:
    with pytest.raises(InvalidValue, match=problem) as error:
        parse_certificates(text, where="roots.pem")
    assert "roots.pem" in str(error.value)
    assert "c2VjcmV0" not in error.value.diagnostics()


TEXT = [
    b"# corporate root\n",
    b"subject=CN=a\nissuer=CN=a\n",
    b"======== Roots ========\n-------------------\n",
    b"Certificate:\n    Data:\n        Version: 3 (0x2)\n",
    "Zertifikat für Müller\n".encode("latin-1"),
    b"BEGIN of the list\r\n",
    b"\0\n",
]


@given(
    chosen=st.lists(st.sampled_from(CERTIFICATES), min_size=1, max_size=6),
    texts=st.lists(st.sampled_from(TEXT), min_size=8, max_size=8),
    mark=st.booleans(),
)
def test_text_around_certificates_is_no_error_and_goes_nowhere(
    chosen: list[Certificate], texts: list[bytes], mark: bool
) -> None:
    """RFC 7468, section 2: what ``openssl ca`` and ``openssl x509 -text`` write."""
    parts = [texts[0], *(c.pem + text for c, text in zip(chosen, texts[1:], strict=False))]
    text = (b"\xef\xbb\xbf" if mark else b"") + b"".join(parts)
    found = parse_certificates(text, where="file")
    assert found == tuple(chosen)
    assert encode_certificates(found) == b"".join(c.pem for c in chosen)


def test_what_openssl_prints_is_taken(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(A.pem)
    printed = run(
        ["openssl", "x509", "-in", tmp_path / "root.pem", "-text", "-issuer", "-fingerprint"],
        check=True,
        capture_output=True,
    ).stdout
    assert b"Certificate:" in printed
    assert parse_certificates(printed + B.pem + printed, where="") == (A, B, A)


ODD = A.pem.replace(b"M", b"N", 3)


@pytest.mark.parametrize("odd", [ODD, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_an_odd_certificate_spoils_no_other(odd: bytes) -> None:
    text = odd + A.pem + odd + B.pem
    with pytest.raises(InvalidValue, match="not a readable"):
        parse_certificates(text, where="roots.pem")
    assert find_certificate(text, A.sha256, where="roots.pem") == A
    assert find_certificate(text, B.sha256, where="roots.pem") == B
    assert readable_certificates(text) == (A, B)
    with pytest.raises(InvalidValue, match="not a readable"):  # for that one may be what was meant
        find_certificate(text, LEAF.sha256, where="roots.pem")
    with pytest.raises(InvalidValue, match="not the certificate with the fingerprint"):
        find_certificate(A.pem + B.pem, LEAF.sha256, where="roots.pem")


@pytest.mark.parametrize(
    "odd",
    [
        A.pem.replace(b"M", b"!", 1),
        A.pem.replace(b"M", b"-", 1),
        A.pem[:-40] + b"\n",
        A.pem[40:],
        A.pem.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
        A.pem.replace(b"CERTIFICATE-----\n", b"CERTIFICATE-----\nX: y\n\n", 1),
        A.pem.replace(b"-----BEGIN", b"----BEGIN"),
        A.pem.replace(b"END CERTIFICATE", b"END X509 CERTIFICATE"),
        A.pem.replace(b"\n", b"\r"),
        A.pem[:-1] + b" trailing\n",
        b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n",
        b"-----BEGIN CERTIFICATE-----\n" * 3,
        b"-----END CERTIFICATE-----\n" * 3,
        b"# -----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN X\n-----END ",
    ],
)
def test_what_is_no_certificate_hides_none(odd: bytes) -> None:
    """Go's encoding/pem skips each of these: what its readers trust behind them is not to be hidden from the hub."""
    text = odd + B.pem + odd + LEAF.pem
    assert readable_certificates(text) == (B, LEAF)
    assert [*der_blocks(text)] == [B.der, LEAF.der]
    assert find_certificate(text, LEAF.sha256, where="roots.pem") == LEAF
    with pytest.raises(InvalidValue):
        parse_certificates(text, where="roots.pem")


@pytest.mark.parametrize("odd", [b"", ODD, A.pem[:-40] + b"\n"])
def test_a_private_key_is_no_part_of_a_file_of_pins_wherever_it_stands(odd: bytes) -> None:
    for text in (KEY + odd + B.pem, odd + KEY + B.pem, B.pem + odd + KEY, odd + B.pem + KEY[:-30]):
        assert readable_certificates(text) == (B,)  # of others; Go skips it
        with pytest.raises(InvalidValue, match="private key") as error:
            find_certificate(text, B.sha256, where="roots.pem")
        assert "c2VjcmV0" not in error.value.diagnostics()


def test_the_line_of_the_mistake_is_named() -> None:
    with pytest.raises(InvalidValue) as error:
        parse_certificates(A.pem + b"\n-----BEGIN\n", where="roots.pem")
    assert error.value.where.endswith(f"line {len(A.pem.splitlines()) + 2}")


def test_sizes_and_numbers_are_bounded() -> None:
    with pytest.raises(InvalidValue, match="at most"):
        parse_certificates(b" " * (MAX_PEM_BYTES + 1), where="")
    with pytest.raises(InvalidValue, match=f"more than {MAX_CERTIFICATES}"):
        parse_certificates(A.pem * (MAX_CERTIFICATES + 1), where="")


@pytest.mark.parametrize(
    "piece",
    [
        b"BEGIN ",
        b"END A",
        b"-",
        b"- ",
        b"CERTIFICATE ",
        b"-----BEGIN CERTIFICATE-----\n",
        b"\n ",
        b"-----END ",
    ],
)
def test_no_text_takes_the_square_of_its_length_to_read(piece: bytes) -> None:
    """What may write one ConfigMap chooses what is read here: a megabyte of this took minutes."""

    def seconds(size: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        began = time.thread_time()
        readable_certificates(text)
        with pytest.raises(InvalidValue):
            find_certificate(text, A.sha256, where="")
        return time.thread_time() - began

    assert seconds(MAX_PEM_BYTES) < 1.0
