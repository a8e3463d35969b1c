"""An intermediate before it signs: each way to configure it wrongly, with the remedy."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.errors import AuthorityMisconfigured
from federation.core.identity import TrustDomain
from federation.core.pki.authority_check import check_intermediate
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from tests.support.pki import (
    CA_KEY_USAGE,
    DAY,
    NOW,
    WORKLOAD_KEY_USAGE,
    certificate,
    intermediate,
    key,
    leaf,
    root,
)

ROOTS = (root("b").certificate, root().certificate)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd intermediate")])
CA = (x509.BasicConstraints(ca=True, path_length=0), True)
CA_USAGE = (CA_KEY_USAGE, True)
ODD_KEY = key("odd intermediate")


def odd(*extensions: tuple[x509.ExtensionType, bool], **options: object) -> Certificate:
    return certificate(
        root(), extensions, public_key=ODD_KEY.public_key(), subject=NAME, not_after=NOW + DAY, **options
    )  # type: ignore[arg-type]


def refused(chain: tuple[Certificate, ...], public_key: object, **options: object) -> str:
    with pytest.raises(AuthorityMisconfigured) as error:
        check_intermediate(chain, public_key, options.pop("anchors", ROOTS), NOW, **options)  # type: ignore[arg-type]
    assert error.value.what
    assert error.value.remedy
    return error.value.reason


@pytest.mark.parametrize("kind", list(KeyKind))
def test_every_kind_of_intermediate(kind: KeyKind) -> None:
    own = intermediate(f"issuer {kind.value}", kind=kind)
    path = check_intermediate(
        own.chain, own.key.public_key(), ROOTS, NOW, trust_domain=TrustDomain("cluster.local")
    )
    assert path == (own.certificate, root().certificate)


def test_the_root_may_be_in_the_file_and_tiers_may_be_two() -> None:
    upper = intermediate("upper", path_length=1)
    lower = intermediate("lower", upper)
    path = check_intermediate((*lower.chain, root().certificate), lower.key.public_key(), ROOTS, NOW)
    assert path == (*lower.chain, root().certificate)


def test_no_certificate() -> None:
    assert refused((), ODD_KEY.public_key()) == "no_certificate"


def test_a_key_of_another_certificate() -> None:
    own = intermediate()
    assert refused(own.chain, ODD_KEY.public_key()) == "wrong_key"
    upper = intermediate("upper", path_length=1)
    lower = intermediate("lower", upper)
    assert refused((upper.certificate, lower.certificate), lower.key.public_key()) == "wrong_key"


def test_a_root_itself() -> None:
    assert refused((root().certificate,), root().key.public_key()) == "is_root"


def test_a_leaf() -> None:
    own = key("workload")
    assert refused((leaf(), intermediate().certificate), own.public_key()) == "not_ca"


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ([CA_USAGE], "not_ca"),
        ([(x509.BasicConstraints(ca=False, path_length=None), True), CA_USAGE], "not_ca"),
        ([CA, (WORKLOAD_KEY_USAGE, True)], "key_usage"),
        (
            [CA, CA_USAGE, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)],
            "extended_key_usage",
        ),
        (
            [CA, CA_USAGE, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)],
            "critical_extension",
        ),
    ],
)
def test_certificates_that_may_not_sign_leaves(
    extensions: list[tuple[x509.ExtensionType, bool]], expected: str
) -> None:
    assert refused((odd(*extensions),), ODD_KEY.public_key()) == expected


def test_weak_hashes_and_weak_keys() -> None:
    assert refused((odd(CA, CA_USAGE, algorithm=hashes.SHA224()),), ODD_KEY.public_key()) == "weak_signature"
    weak = ec.generate_private_key(ec.SECP224R1()).public_key()
    made = certificate(root(), [CA, CA_USAGE], public_key=weak, subject=NAME)
    assert refused((made,), weak) == "weak_key"


def test_a_path_length_that_leaves_no_room() -> None:
    lower = intermediate("too low", intermediate())
    assert refused(lower.chain, lower.key.public_key()) == "path_length"
    flat = root("flat", path_length=0)
    below = intermediate("below flat", flat)
    assert refused(below.chain, below.key.public_key(), anchors=(flat.certificate,)) == "path_length"


def test_a_root_that_is_not_pinned_and_a_tier_that_is_missing() -> None:
    own = intermediate("c1", root("c"))
    assert refused(own.chain, own.key.public_key()) == "no_anchor"
    assert refused((*own.chain, root("c").certificate), own.key.public_key()) == "no_anchor"
    lower = intermediate("lower", intermediate("upper", path_length=1))
    assert refused((lower.certificate,), lower.key.public_key()) == "no_anchor"


def test_an_intermediate_among_the_anchors_is_no_pinned_root() -> None:
    own = intermediate("c1", root("c"))
    assert refused(own.chain, own.key.public_key(), anchors=(own.certificate,)) == "no_anchor"


def test_outside_its_time() -> None:
    gone = intermediate("gone", not_after=NOW - timedelta(seconds=1))
    assert refused(gone.chain, gone.key.public_key()) == "expired"
    future = intermediate("future", not_before=NOW + DAY)
    assert refused(future.chain, future.key.public_key()) == "not_yet_valid"


def test_name_constraints_that_leave_out_the_mesh() -> None:
    constraints = x509.NameConstraints([x509.UniformResourceIdentifier("other.example")], None)
    made = odd(CA, CA_USAGE, (constraints, True))
    assert check_intermediate((made,), ODD_KEY.public_key(), ROOTS, NOW)[0] == made
    domain = TrustDomain("cluster.local")
    assert refused((made,), ODD_KEY.public_key(), trust_domain=domain) == "name_constraints"
    other = TrustDomain("other.example")
    assert check_intermediate((made,), ODD_KEY.public_key(), ROOTS, NOW, trust_domain=other)[0] == made
