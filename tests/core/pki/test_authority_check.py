"""An intermediate before it signs: each way to configure it wrongly, with the remedy."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.errors import AuthorityMisconfigured
from federation.core.identity import TrustDomain
from federation.core.pki.algorithms import key_problem, signature_problem
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from federation.core.pki.pem import parse_certificates
from federation.core.pki.verification import check_intermediate
from tests.support.pki import (
    CA_KEY_USAGE,
    DAY,
    NOW,
    WORKLOAD_KEY_USAGE,
    certificate,
    intermediate,
    key,
    leaf,
    renumbered,
    resigned,
    root,
)

ROOTS = (root("b").certificate, root().certificate)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd intermediate")])
CA = (x509.BasicConstraints(ca=True, path_length=0), True)
CA_USAGE = (CA_KEY_USAGE, True)
ODD_KEY = key("odd intermediate")


def odd(*extensions: tuple[x509.ExtensionType, bool], **options: Any) -> Certificate:
    return certificate(
        root(), extensions, public_key=ODD_KEY.public_key(), subject=NAME, not_after=NOW + DAY, **options
    )


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


def made_by_openssl(directory: Path, *options: str) -> Certificate:
    """A self-signed root of OpenSSL's making."""
    command = ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=odd root", "-days", "3000"]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "root.pem"), *options]
    run(command, check=True, capture_output=True)
    (made,) = parse_certificates((directory / "root.pem").read_bytes(), where="root.pem")
    return made


EC = ("-newkey", "ec", "-pkeyopt", "ec_param_enc:named_curve", "-pkeyopt")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((*EC, "ec_paramgen_curve:brainpoolP256r1"), "EC on brainpoolP256r1"),
        ((*EC, "ec_paramgen_curve:secp256k1"), "EC on secp256k1"),
        ((*EC, "ec_paramgen_curve:P-521"), "EC on secp521r1"),
        ((*EC, "ec_paramgen_curve:P-224"), "EC on secp224r1"),
        (
            ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"),
            "explicit parameters",
        ),
        (("-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"), "id-RSASSA-PSS"),
        (("-newkey", "rsa:1024"), "RSA of 1024 bits"),
        (("-newkey", "rsa:2050"), "RSA of 2050 bits"),
        (("-newkey", "ed25519"), "Ed25519"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_root_whose_key_some_verifier_does_not_take(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    odd_root = made_by_openssl(tmp_path, *options)
    key_of_root = load_pem_private_key((tmp_path / "key.pem").read_bytes(), password=None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(odd_root.x509.subject)
        .public_key(ODD_KEY.public_key())
        .serial_number(5)
        .not_valid_before(odd_root.not_before)
        .not_valid_after(odd_root.not_after)
        .add_extension(CA[0], critical=True)
        .add_extension(CA_KEY_USAGE, critical=True)
    )
    built = builder.sign(key_of_root, None if "ed25519" in options else hashes.SHA256())  # type: ignore[arg-type]
    own = Certificate.from_der(built.public_bytes(Encoding.DER))
    with pytest.raises(AuthorityMisconfigured) as error:
        check_intermediate((own,), ODD_KEY.public_key(), [odd_root], odd_root.not_before + DAY)
    assert (error.value.reason, "CN=odd root" in error.value.what) == ("weak_key", True)
    assert reason in error.value.what
    assert error.value.remedy


@pytest.mark.parametrize(
    "options", [("-newkey", "rsa:2048", "-pkeyopt", "rsa_keygen_pubexp:3"), ("-newkey", "rsa:3080")]
)
def test_a_root_with_an_rsa_key_that_all_take(tmp_path: Path, options: tuple[str, ...]) -> None:
    odd_root = made_by_openssl(tmp_path, *options)
    assert key_problem(odd_root) is None
    assert signature_problem(odd_root) is None


def test_algorithms_of_signatures() -> None:
    rsa = root("rsa", KeyKind.RSA_2048)
    for algorithm, taken in (
        (hashes.SHA256(), True),
        (hashes.SHA384(), True),
        (hashes.SHA512(), True),
        (hashes.SHA224(), False),
    ):
        signed = certificate(rsa, [CA, CA_USAGE], subject=NAME, algorithm=algorithm)
        assert (signature_problem(signed) is None) is taken
        curve = certificate(root(), [CA, CA_USAGE], subject=NAME, algorithm=algorithm)
        assert (signature_problem(curve) is None) is (
            algorithm.name in {"sha256", "sha384"}
        )  # ring has no third
    for salt, taken in ((32, True), (20, False)):
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        signed = certificate(rsa, [CA, CA_USAGE], subject=NAME, rsa_padding=scheme)
        assert signed.is_signed_by(rsa.certificate)
        assert (signature_problem(signed) is None) is taken


def test_a_root_may_have_the_serial_number_zero_and_an_intermediate_may_not() -> None:
    own = intermediate()
    for number in (b"\x00", b"\x80"):
        anchor = renumbered(root(), number)
        path = check_intermediate(own.chain, own.key.public_key(), [anchor], NOW)
        assert path == (own.certificate, anchor)
    zero = odd(CA, CA_USAGE, serial_number=1)
    changed = resigned(zero, root().key, b"\x02\x01\x01", b"\x02\x01\x00")
    assert refused((changed,), ODD_KEY.public_key()) == "serial"


def test_a_ca_without_a_name_and_critical_key_identifiers() -> None:
    identifier = x509.SubjectKeyIdentifier.from_public_key(ODD_KEY.public_key())
    assert refused((odd(CA, CA_USAGE, (identifier, True)),), ODD_KEY.public_key()) == "critical_extension"
    nameless = certificate(root(), [CA, CA_USAGE], public_key=ODD_KEY.public_key(), subject=x509.Name([]))
    assert refused((nameless,), ODD_KEY.public_key()) == "no_subject"


@pytest.mark.parametrize("extensions", [[CA_USAGE, (CA[0], False)], [CA], [CA, CA_USAGE]])
def test_what_no_verifier_asks_for_is_not_asked_for(
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> None:
    """basicConstraints that are not critical, no key usage and no key identifiers: old roots are like that."""
    own = odd(*extensions, authority_key_id=False)
    assert check_intermediate((own,), ODD_KEY.public_key(), ROOTS, NOW)[0] == own


def test_name_constraints_that_exclude_the_listeners_name() -> None:
    constraints = x509.NameConstraints([x509.DNSName("corp.example")], None)
    made = odd(CA, CA_USAGE, (constraints, True))
    domain = TrustDomain("cluster.local")
    for hosts in ((), ("hub.corp.example",), ("corp.example", "10.1.2.3")):
        path = check_intermediate((made,), ODD_KEY.public_key(), ROOTS, NOW, trust_domain=domain, hosts=hosts)
        assert path[0] == made
    with pytest.raises(AuthorityMisconfigured) as error:
        check_intermediate(
            (made,),
            ODD_KEY.public_key(),
            ROOTS,
            NOW,
            trust_domain=domain,
            hosts=("a.corp.example", "hub.mesh"),
        )
    assert error.value.reason == "name_constraints"
    for part in ("CN=odd intermediate", "'hub.mesh'", "'corp.example'"):
        assert part in error.value.what


@pytest.mark.parametrize("excluded", [False, True])
def test_constraints_on_uris_are_of_no_use_to_ztunnel(excluded: bool) -> None:
    names = [x509.UniformResourceIdentifier("other.example" if excluded else "cluster.local")]
    constraints = x509.NameConstraints(None, names) if excluded else x509.NameConstraints(names, None)
    made = odd(CA, CA_USAGE, (constraints, True))
    domain = TrustDomain("cluster.local")
    assert check_intermediate((made,), ODD_KEY.public_key(), ROOTS, NOW, trust_domain=domain)[0] == made
    assert refused((made,), ODD_KEY.public_key(), trust_domain=domain, ztunnel=True) == "name_constraints"
    dns = odd(CA, CA_USAGE, (x509.NameConstraints([x509.DNSName("corp.example")], None), True))
    path = check_intermediate((dns,), ODD_KEY.public_key(), ROOTS, NOW, trust_domain=domain, ztunnel=True)
    assert path[0] == dns


def test_name_constraints_that_exclude_the_trust_domain() -> None:
    constraints = x509.NameConstraints([x509.UniformResourceIdentifier("other.example")], None)
    made = odd(CA, CA_USAGE, (constraints, True))
    assert check_intermediate((made,), ODD_KEY.public_key(), ROOTS, NOW)[0] == made
    domain = TrustDomain("cluster.local")
    assert refused((made,), ODD_KEY.public_key(), trust_domain=domain) == "name_constraints"
    other = TrustDomain("other.example")
    assert check_intermediate((made,), ODD_KEY.public_key(), ROOTS, NOW, trust_domain=other)[0] == made
