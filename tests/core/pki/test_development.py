"""Development authorities are real ones: what they say about themselves, and that they validate."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.development import create_intermediate, create_root
from federation.core.pki.keys import KeyKind, PrivateKey
from federation.core.pki.verification import check_intermediate
from tests.support.pki import CA_KEY_USAGE, DAY, NOW, YEAR, key


def make_root(own: PrivateKey, **options: object) -> Certificate:
    values: dict[str, object] = {
        "common_name": "Root", "serial": 1, "not_before": NOW - DAY, "not_after": NOW + YEAR, **options
    }  # fmt: skip
    return create_root(key=own, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(KeyKind))
def test_a_root_and_its_intermediate(kind: KeyKind) -> None:
    top, own = key("development root", kind), key("development intermediate", KeyKind.EC_P256)
    made = make_root(top)
    below = create_intermediate(
        issuer=made,
        issuer_key=top,
        common_name="Intermediate",
        key=own,
        serial=2,
        not_before=NOW - DAY,
        not_after=NOW + DAY,
    )
    for certificate, path_length in ((made, None), (below, 0)):
        assert certificate.is_ca
        assert certificate.path_length == path_length
        assert certificate.extension(x509.KeyUsage) == CA_KEY_USAGE
        assert {e.oid for e in certificate.extensions if e.critical} == {
            x509.BasicConstraints.oid, x509.KeyUsage.oid
        }  # fmt: skip
    assert made.is_self_signed
    assert below.issuer == made.subject
    assert below.authority_key_id == made.key_id
    assert (made.serial, below.serial) == (1, 2)
    assert (below.not_before, below.not_after) == (NOW - DAY, NOW + DAY)
    assert check_intermediate((below,), own.public_key(), [made], NOW) == (below, made)


def test_roots_of_one_common_name_differ_in_subject_and_key_identifier() -> None:
    first, second = make_root(key("twin 1")), make_root(key("twin 2"))
    assert first.subject != second.subject
    assert first.key_id != second.key_id


def test_a_path_length_of_one_is_written() -> None:
    assert make_root(key("twin 1"), path_length=1).path_length == 1


@pytest.mark.parametrize(
    "options",
    [
        {"not_after": NOW - YEAR},
        {"serial": 0},
        {"serial": 1 << 160},
        {"common_name": "a" * 65},
        {"common_name": ""},
    ],
)
def test_what_cannot_be_made(options: dict[str, object]) -> None:
    with pytest.raises(InvalidValue):
        make_root(key("twin 1"), **options)


def test_keys_that_are_not_accepted() -> None:
    with pytest.raises(InvalidValue):
        make_root(ed25519.Ed25519PrivateKey.generate())  # type: ignore[arg-type]


def test_a_key_that_is_not_the_issuers() -> None:
    made = make_root(key("twin 1"))
    with pytest.raises(InvalidValue, match="not its key"):
        create_intermediate(
            issuer=made,
            issuer_key=key("twin 2"),
            common_name="Intermediate",
            key=key("twin 2"),
            serial=2,
            not_before=NOW,
            not_after=NOW + DAY,
        )
