"""The request gate: Istio's shapes pass, everything else is refused with the reason it says."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import InvalidValue, RequestRefused
from federation.core.identity import ServiceAccountRef, SpiffeId
from federation.core.pki import der
from federation.core.pki.certificate import pem_encode
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import KeyKind, PrivateKey, spki
from federation.core.pki.requests import (
    MAX_CSR_CHARACTERS,
    CertificateRequest,
    Refusal,
    build_request,
    check_request,
    check_server_request,
)
from tests.core.pki.strategies import identities
from tests.support import csr as craft
from tests.support.pki import (
    CA_KEY_USAGE,
    EMPTY_ORGANIZATION,
    EMPTY_SUBJECT,
    IDENTITY,
    WORKLOAD_KEY_USAGE,
    csr_pem,
    key,
    make_csr,
    spiffe_san,
)

ALL_KINDS = frozenset(KeyKind)
POOL = [key(f"pool {i}") for i in range(3)] + [key("pool", KeyKind.EC_P384), key("pool", KeyKind.RSA_2048)]


def check(
    text: str, identity: SpiffeId = IDENTITY, kinds: frozenset[KeyKind] = ALL_KINDS
) -> CertificateRequest:
    return check_request(text, identity=identity, accepted_keys=kinds)


def reason(text: str, kinds: frozenset[KeyKind] = ALL_KINDS) -> str:
    with pytest.raises(RequestRefused) as refused:
        check(text, kinds=kinds)
    assert refused.value.what
    return refused.value.reason


def spki_of(public_key: object, point: serialization.PublicFormat | None = None) -> bytes:
    return public_key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, point or serialization.PublicFormat.SubjectPublicKeyInfo
    )


# --- what passes ---


@pytest.mark.parametrize("kind", list(KeyKind))
@pytest.mark.parametrize("subject", [EMPTY_SUBJECT, EMPTY_ORGANIZATION], ids=["no subject", "empty O="])
def test_istios_own_shapes_pass(kind: KeyKind, subject: x509.Name) -> None:
    own = key("workload", kind)
    request = check(csr_pem(private_key=own, subject=subject))
    assert request.key_kind is kind
    assert request.public_key == own.public_key()
    assert request.spki_der == spki(own.public_key())
    assert request.names == (str(IDENTITY),)
    assert request.san == SubjectAltName.of_identity(IDENTITY)


@pytest.mark.parametrize("tag", [0x13, 0x0C], ids=["PrintableString", "UTF8String"])
def test_an_empty_organization_passes_in_both_string_types(tag: int) -> None:
    subject = der.sequence(craft.rdn("2.5.4.10", b"", tag))
    assert check(craft.as_pem(craft.csr_der(subject=subject))).names == (str(IDENTITY),)


@pytest.mark.parametrize("critical", [True, False])
def test_extensions_pass_critical_or_not(critical: bool) -> None:
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    extensions = [(WORKLOAD_KEY_USAGE, critical), (usages, critical)]
    assert check(csr_pem(san_critical=critical, extensions=extensions)).names == (str(IDENTITY),)


@pytest.mark.parametrize(
    "algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: a.name
)
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.RSA_2048])
def test_strong_hashes_pass(kind: KeyKind, algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512) -> None:
    assert check(csr_pem(private_key=key("workload", kind), algorithm=algorithm)).key_kind is kind


@pytest.mark.parametrize("around", ["{}", "\n{}\n\n", "  {}  ", "\r\n{}\r\n\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_white_space_around_the_block_passes(around: str, newline: str) -> None:
    assert check(around.format(csr_pem().replace("\n", newline))).names == (str(IDENTITY),)


@settings(deadline=None)
@given(identity=identities, own=st.sampled_from(POOL), critical=st.booleans())
def test_every_identity_passes_as_itself(identity: SpiffeId, own: PrivateKey, critical: bool) -> None:
    text = craft.as_pem(
        craft.csr_der(
            private_key=own,
            attributes=[craft.extension_request(craft.san(craft.uri(identity), critical=critical))],
        )
    )
    request = check(text, identity)
    assert request.names == (str(identity),)
    assert request.public_key == own.public_key()


@settings(deadline=None)
@given(requested=identities, proven=identities)
def test_no_identity_passes_as_another(requested: SpiffeId, proven: SpiffeId) -> None:
    text = craft.as_pem(craft.csr_der(attributes=[craft.extension_request(craft.san(craft.uri(requested)))]))
    if requested == proven:
        assert check(text, proven).names == (str(proven),)
    else:
        with pytest.raises(RequestRefused):
            check(text, proven)


# --- PEM ---

GOOD = csr_pem()
BODY = GOOD.partition("\n")[2].partition("-----END")[0]
FRAME = "-----BEGIN CERTIFICATE REQUEST-----\n{}-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Refusal.NOT_PEM),
        ("bad PEM", Refusal.NOT_PEM),
        (BODY, Refusal.NOT_PEM),
        (GOOD.replace("-----END", "----END"), Refusal.NOT_PEM),
        (GOOD[:-40], Refusal.NOT_PEM),
        (FRAME.format(""), Refusal.MALFORMED),
        (FRAME.format("!" + BODY), Refusal.NOT_PEM),
        (FRAME.format("\n" + BODY), Refusal.NOT_PEM),
        (FRAME.format(BODY.replace("\n", "\n\n", 1)), Refusal.NOT_PEM),
        (FRAME.format(BODY.replace("\n", " \n", 1)), Refusal.NOT_PEM),
        (FRAME.format(BODY[:-2] + "\n"), Refusal.NOT_PEM),
        (FRAME.format("=\n" + BODY), Refusal.NOT_PEM),
        (GOOD.replace("\n", " \n"), Refusal.NOT_PEM),
        (GOOD.replace("\n", "\t\r\n", 1), Refusal.NOT_PEM),
        (GOOD.replace("-----\n", "-----", 1), Refusal.PEM_LABEL),
        (GOOD.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"), Refusal.PEM_LABEL),
        (GOOD.replace("CERTIFICATE REQUEST", "CERTIFICATE"), Refusal.PEM_LABEL),
        (GOOD.replace("CERTIFICATE REQUEST", "RSA PRIVATE KEY"), Refusal.PEM_LABEL),
        (FRAME.format("Proc-Type: 4,ENCRYPTED\n\n" + BODY), Refusal.PEM_HEADERS),
        (FRAME.format("X: y\n" + BODY), Refusal.PEM_HEADERS),
        (GOOD + GOOD, Refusal.SEVERAL_BLOCKS),
        (GOOD + csr_pem("spiffe://cluster.local/ns/foo/sa/other"), Refusal.SEVERAL_BLOCKS),
        (GOOD + "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", Refusal.SEVERAL_BLOCKS),
        (GOOD + "trailing", Refusal.TRAILING_DATA),
        (GOOD + "\x00", Refusal.TRAILING_DATA),
        ("leading\n" + GOOD, Refusal.NOT_PEM),
        (GOOD.replace("A", "Ä"), Refusal.NOT_ASCII),
        ("\ufeff" + GOOD, Refusal.NOT_ASCII),
        (GOOD + "\u00a0", Refusal.NOT_ASCII),
        ("A" * (MAX_CSR_CHARACTERS + 1), Refusal.TOO_LARGE),
        (GOOD + "\n" * MAX_CSR_CHARACTERS, Refusal.TOO_LARGE),
    ],
)
def test_text_that_is_not_exactly_one_block(text: str, expected: Refusal) -> None:
    assert reason(text) == expected


# --- DER ---


def test_data_behind_the_request_inside_the_block() -> None:
    assert reason(craft.as_pem(craft.csr_der() + b"\x05\x00")) == Refusal.MALFORMED
    assert reason(craft.as_pem(craft.csr_der() + b"\x00")) == Refusal.MALFORMED
    assert reason(craft.as_pem(craft.csr_der(trailing=b"\x05\x00"))) == Refusal.MALFORMED


def test_der_that_is_not_in_its_shortest_form() -> None:
    data = craft.csr_der()
    octets = data[1] - 0x80  # of the length: one or two, as the signature happens to be short or long
    assert octets in {1, 2}
    padded = bytes((0x30, 0x80 + octets + 1, 0)) + data[2:]
    assert reason(craft.as_pem(padded)) == Refusal.MALFORMED
    indefinite = b"\x30\x80" + data[2 + octets :] + b"\x00\x00"
    assert reason(craft.as_pem(indefinite)) == Refusal.MALFORMED


def test_an_extension_flagged_false_in_so_many_bytes() -> None:
    """FALSE is the default and DER does not write defaults (X.690, 11.5)."""
    value = der.encode(der.OCTET_STRING, der.sequence(craft.uri(IDENTITY)))
    flagged = der.sequence(der.object_identifier(craft.SAN_OID), b"\x01\x01\x00", value)
    assert (
        reason(craft.as_pem(craft.csr_der(attributes=[craft.extension_request(flagged)])))
        == Refusal.MALFORMED
    )


def test_a_signature_of_odd_bits() -> None:
    request = craft.csr_der()
    outer = der.elements(request, 0, len(request))[0]
    info, algorithm, signature = der.elements(request, outer[2], outer[3])
    odd = der.sequence(
        request[info[1] : info[3]],
        request[algorithm[1] : algorithm[3]],
        der.bit_string(request[signature[2] + 1 : signature[3]], 1),
    )
    assert reason(craft.as_pem(odd)) == Refusal.MALFORMED


def test_a_certificate_in_the_place_of_a_request() -> None:
    certificate = make_csr().public_key()
    assert reason(craft.as_pem(spki_of(certificate))) == Refusal.MALFORMED


def test_another_version() -> None:
    assert reason(craft.as_pem(craft.csr_der(version=der.integer(1)))) == Refusal.VERSION


# --- subject ---


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ([(NameOID.COMMON_NAME, "bar")], Refusal.COMMON_NAME),
        ([(NameOID.COMMON_NAME, "")], Refusal.COMMON_NAME),
        ([(NameOID.ORGANIZATION_NAME, ""), (NameOID.COMMON_NAME, "bar")], Refusal.COMMON_NAME),
        ([(NameOID.ORGANIZATION_NAME, "evil")], Refusal.SUBJECT),
        ([(NameOID.ORGANIZATION_NAME, " ")], Refusal.SUBJECT),
        ([(NameOID.ORGANIZATION_NAME, ""), (NameOID.ORGANIZATION_NAME, "")], Refusal.SUBJECT),
        ([(NameOID.ORGANIZATIONAL_UNIT_NAME, "")], Refusal.SUBJECT),
        ([(NameOID.SERIAL_NUMBER, "1")], Refusal.SUBJECT),
        ([(NameOID.EMAIL_ADDRESS, "a@b.c")], Refusal.SUBJECT),
        ([(NameOID.USER_ID, "root")], Refusal.SUBJECT),
        ([(NameOID.COUNTRY_NAME, "DE")], Refusal.SUBJECT),
    ],
)
def test_subjects_that_say_something(
    subject: list[tuple[x509.ObjectIdentifier, str]], expected: Refusal
) -> None:
    rdns = [craft.rdn(oid.dotted_string, value.encode()) for oid, value in subject]
    assert reason(craft.as_pem(craft.csr_der(subject=der.sequence(*rdns)))) == expected


def test_an_empty_set_or_a_broken_name_is_no_empty_subject() -> None:
    assert reason(craft.as_pem(craft.csr_der(subject=der.sequence(der.encode(der.SET))))) == Refusal.SUBJECT
    assert (
        reason(craft.as_pem(craft.csr_der(subject=der.encode(der.SEQUENCE, b"\x31\x05"))))
        == Refusal.MALFORMED
    )


# --- names ---

OTHER = "spiffe://cluster.local/ns/foo/sa/other"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], Refusal.NAME_MISSING),
        ([craft.uri(OTHER)], Refusal.IDENTITY),
        ([craft.uri(f"x{OTHER}")], Refusal.IDENTITY),
        ([craft.uri("spiffe://other.example/ns/foo/sa/bar")], Refusal.TRUST_DOMAIN),
        ([craft.uri("spiffe://other.example/ns/foo/sa/bar"), craft.uri(IDENTITY)], Refusal.IDENTITY),
        ([craft.uri(IDENTITY), craft.uri(OTHER)], Refusal.IDENTITY),
        ([craft.uri(IDENTITY), craft.uri(IDENTITY)], Refusal.IDENTITY),
        ([craft.uri(f"{IDENTITY},{OTHER}")], Refusal.IDENTITY),
        ([craft.uri(f"{IDENTITY}\0")], Refusal.IDENTITY),
        ([craft.uri(f"{IDENTITY}/")], Refusal.IDENTITY),
        ([craft.uri(str(IDENTITY).upper())], Refusal.IDENTITY),
        ([craft.uri("")], Refusal.IDENTITY),
        ([der.encode(0x82, b"example.org")], Refusal.DNS_NAME),
        ([craft.uri(IDENTITY), der.encode(0x82, b"example.org")], Refusal.DNS_NAME),
        ([craft.uri(IDENTITY), der.encode(0x87, bytes(4))], Refusal.IP_ADDRESS),
        ([craft.uri(IDENTITY), der.encode(0x81, b"a@b.c")], Refusal.EMAIL),
        ([craft.uri(IDENTITY), der.encode(0xA4, der.sequence())], Refusal.NAME_KIND),
        ([craft.uri(IDENTITY), der.encode(0x88, b"\x2a\x03")], Refusal.NAME_KIND),
        ([der.encode(0xA0, der.object_identifier("1.3.6.1.4.1.311.20.2.3"))], Refusal.NAME_KIND),
    ],
)
def test_names_other_than_exactly_the_identity(names: list[bytes], expected: Refusal) -> None:
    request = craft.csr_der(attributes=[craft.extension_request(craft.san(*names))])
    assert reason(craft.as_pem(request)) == expected


def test_a_request_of_another_trust_domain_is_refused_with_the_trust_domain_to_set() -> None:
    request = craft.csr_der(
        attributes=[craft.extension_request(craft.san(craft.uri("spiffe://other.example/ns/foo/sa/bar")))]
    )
    with pytest.raises(RequestRefused) as refused:
        check(craft.as_pem(request))
    assert (
        "asks for 'spiffe://other.example/ns/foo/sa/bar', and this hub's trust domain is cluster.local"
        in str(refused.value)
    )
    assert "set meshConfig.trustDomain to cluster.local" in refused.value.remedy


def test_no_name_at_all() -> None:
    assert reason(craft.as_pem(craft.csr_der(attributes=[]))) == Refusal.NAME_MISSING
    assert reason(craft.as_pem(craft.csr_der(attributes=[craft.extension_request()]))) == Refusal.NAME_MISSING


def test_a_name_that_is_no_list_of_names() -> None:
    extension = der.extension(craft.SAN_OID, craft.uri(IDENTITY), critical=True)
    assert (
        reason(craft.as_pem(craft.csr_der(attributes=[craft.extension_request(extension)])))
        == Refusal.MALFORMED
    )


# --- extensions and attributes ---

SAN = craft.san(craft.uri(IDENTITY))


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ([(x509.BasicConstraints(ca=False, path_length=None), True)], Refusal.BASIC_CONSTRAINTS),
        ([(x509.BasicConstraints(ca=True, path_length=None), True)], Refusal.BASIC_CONSTRAINTS),
        ([(CA_KEY_USAGE, True)], Refusal.KEY_USAGE),
        ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)], Refusal.EXTENDED_KEY_USAGE),
        (
            [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)],
            Refusal.EXTENDED_KEY_USAGE,
        ),
        (
            [
                (
                    x509.ExtendedKeyUsage(
                        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING]
                    ),
                    False,
                )
            ],
            Refusal.EXTENDED_KEY_USAGE,
        ),
        ([(x509.SubjectKeyIdentifier(bytes(20)), False)], Refusal.EXTENSION),
        ([(x509.OCSPNoCheck(), False)], Refusal.EXTENSION),
        ([(x509.TLSFeature([x509.TLSFeatureType.status_request]), False)], Refusal.EXTENSION),
        (
            [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)],
            Refusal.EXTENSION,
        ),
    ],
)
def test_extensions_a_workload_may_not_ask_for(
    extensions: list[tuple[x509.ExtensionType, bool]], expected: Refusal
) -> None:
    assert reason(csr_pem(extensions=extensions)) == expected


@pytest.mark.parametrize(
    "bits",
    [b"", b"\xe0", b"\x80\x80", b"\xa4", b"\x00"],
    ids=["none", "three", "decipherOnly", "certSign", "zero"],
)
def test_key_usages_outside_the_two(bits: bytes) -> None:
    usage = der.extension(craft.KEY_USAGE_OID, der.bit_string(bits), critical=True)
    assert (
        reason(craft.as_pem(craft.csr_der(attributes=[craft.extension_request(SAN, usage)])))
        == Refusal.KEY_USAGE
    )


@pytest.mark.parametrize(
    "extensions",
    [
        [SAN, SAN],
        [SAN, craft.san(craft.uri(IDENTITY), critical=False)],
        [der.extension(craft.KEY_USAGE_OID, der.bit_string(b"\x80", 7), critical=True)] * 2 + [SAN],
    ],
)
def test_an_extension_twice(extensions: list[bytes]) -> None:
    request = craft.csr_der(attributes=[craft.extension_request(*extensions)])
    assert reason(craft.as_pem(request)) == Refusal.EXTENSION_REPEATED


def test_a_second_name_extension_does_not_add_a_name() -> None:
    request = craft.csr_der(attributes=[craft.extension_request(SAN, craft.san(craft.uri(OTHER)))])
    assert reason(craft.as_pem(request)) == Refusal.EXTENSION_REPEATED


def test_a_second_extension_request_is_not_passed_over() -> None:
    """Readers that take the first attribute and those that take the last would see different requests."""
    second = craft.extension_request(craft.san(craft.uri(OTHER)))
    request = craft.csr_der(attributes=[craft.extension_request(SAN), second])
    assert reason(craft.as_pem(request)) == Refusal.ATTRIBUTE_REPEATED


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        (craft.attribute(craft.CHALLENGE_PASSWORD, der.encode(0x0C, b"secret")), Refusal.ATTRIBUTE),
        (
            craft.attribute(der.object_identifier("1.3.6.1.4.1.311.2.1.14"), der.sequence(SAN)),
            Refusal.ATTRIBUTE,
        ),
        (craft.attribute(craft.EXTENSION_REQUEST), Refusal.MALFORMED),
        (craft.attribute(craft.EXTENSION_REQUEST, der.sequence(SAN), der.sequence(SAN)), Refusal.MALFORMED),
        (der.sequence(craft.EXTENSION_REQUEST), Refusal.MALFORMED),
        (der.encode(der.SET), Refusal.MALFORMED),
    ],
)
def test_attributes_other_than_one_extension_request(attribute: bytes, expected: Refusal) -> None:
    attributes = [attribute] if expected is Refusal.MALFORMED else [craft.extension_request(SAN), attribute]
    assert reason(craft.as_pem(craft.csr_der(attributes=attributes))) == expected


# --- keys ---


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ec.generate_private_key(ec.SECP224R1()), Refusal.KEY_WEAK),
        (lambda: ec.generate_private_key(ec.SECP521R1()), Refusal.KEY_KIND),
        (lambda: ec.generate_private_key(ec.SECP256K1()), Refusal.KEY_KIND),
        (lambda: ec.generate_private_key(ec.BrainpoolP256R1()), Refusal.KEY_KIND),
        (ed25519.Ed25519PrivateKey.generate, Refusal.KEY_KIND),
        (lambda: rsa.generate_private_key(65537, 1024), Refusal.KEY_WEAK),
        (lambda: rsa.generate_private_key(65537, 2056), Refusal.KEY_KIND),
        (lambda: rsa.generate_private_key(3, 2048), Refusal.KEY_WEAK),
    ],
    ids=["P-224", "P-521", "secp256k1", "brainpool", "Ed25519", "RSA-1024", "RSA-2056", "RSA exponent 3"],
)
def test_kinds_of_keys_that_are_never_taken(make: object, expected: Refusal) -> None:
    assert reason(csr_pem(private_key=make())) == expected  # type: ignore[operator]


def test_a_dsa_key_is_not_taken() -> None:
    public_key = spki_of(dsa.generate_private_key(2048).public_key())
    assert reason(craft.as_pem(craft.csr_der(public_key=public_key))) == Refusal.KEY_KIND


@pytest.mark.parametrize("kind", list(KeyKind))
def test_a_kind_the_clusters_policy_leaves_out(kind: KeyKind) -> None:
    text = csr_pem(private_key=key("workload", kind))
    assert reason(text, ALL_KINDS - {kind}) == Refusal.KEY_NOT_ACCEPTED


def test_a_point_that_is_not_on_the_curve() -> None:
    honest = spki(key("workload").public_key())
    wrong = honest[:-1] + bytes([honest[-1] ^ 1])
    assert reason(craft.as_pem(craft.csr_der(public_key=wrong))) == Refusal.KEY_INVALID
    zero = honest[:-64] + bytes(64)
    assert reason(craft.as_pem(craft.csr_der(public_key=zero))) == Refusal.KEY_INVALID


def test_an_unusual_encoding_of_a_good_key() -> None:
    own = key("workload").public_key()
    assert isinstance(own, ec.EllipticCurvePublicKey)
    compressed = own.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    algorithm = der.sequence(
        der.object_identifier("1.2.840.10045.2.1"), der.object_identifier("1.2.840.10045.3.1.7")
    )
    public_key = der.sequence(algorithm, der.bit_string(compressed))
    assert reason(craft.as_pem(craft.csr_der(public_key=public_key))) == Refusal.KEY_ENCODING


def test_explicit_curve_parameters_are_not_taken() -> None:
    """CVE-2020-0601: a key on parameters of the sender's choice."""
    point = spki(key("workload").public_key())[-65:]
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.2.1"), der.sequence(der.integer(1)))
    request = craft.csr_der(public_key=der.sequence(algorithm, der.bit_string(point)))
    assert reason(craft.as_pem(request)) in {Refusal.KEY_INVALID, Refusal.KEY_KIND}


def test_an_rsa_modulus_that_is_even_or_short() -> None:
    own = key("workload", KeyKind.RSA_2048)
    honest = spki(own.public_key())
    even = honest[:-6] + bytes([honest[-6] & 0xFE]) + honest[-5:]
    assert reason(craft.as_pem(craft.csr_der(private_key=own, public_key=even))) == Refusal.KEY_INVALID
    short = honest[: -5 - 256] + b"\x00" + honest[-5 - 255 :]
    assert reason(craft.as_pem(craft.csr_der(private_key=own, public_key=short))) == Refusal.KEY_INVALID


def test_a_key_that_is_no_key() -> None:
    assert reason(craft.as_pem(craft.csr_der(public_key=der.sequence()))) == Refusal.KEY_INVALID


# --- signatures ---


def test_a_request_signed_with_another_key() -> None:
    other = key("pool 0")
    request = craft.csr_der(sign=lambda message: other.sign(message, ec.ECDSA(hashes.SHA256())))  # type: ignore[call-arg, arg-type]
    assert reason(craft.as_pem(request)) == Refusal.SIGNATURE_INVALID


@pytest.mark.parametrize("signature", [b"", b"\x00", b"\x30\x06\x02\x01\x00\x02\x01\x00", bytes(64)])
def test_bytes_that_are_no_signature(signature: bytes) -> None:
    assert reason(craft.as_pem(craft.csr_der(sign=lambda _: signature))) == Refusal.SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("oid", "expected"),
    [
        ("1.2.840.10045.4.1", Refusal.SIGNATURE_WEAK),
        ("1.2.840.10045.4.3.1", Refusal.SIGNATURE_WEAK),
        ("1.2.840.113549.1.1.5", Refusal.SIGNATURE_WEAK),
        ("1.2.840.113549.1.1.4", Refusal.SIGNATURE_WEAK),
        ("1.2.840.113549.1.1.11", Refusal.SIGNATURE_ALGORITHM),
        ("1.3.101.112", Refusal.SIGNATURE_ALGORITHM),
        ("2.5.29.17", Refusal.SIGNATURE_ALGORITHM),
    ],
)
def test_signature_algorithms_that_are_not_taken_for_ec(oid: str, expected: Refusal) -> None:
    request = craft.csr_der(algorithm=der.sequence(der.object_identifier(oid)))
    assert reason(craft.as_pem(request)) == expected


def test_signature_algorithms_that_are_not_taken_for_rsa() -> None:
    own = key("workload", KeyKind.RSA_2048)
    assert isinstance(own, rsa.RSAPrivateKey)

    def sha1(message: bytes) -> bytes:
        return own.sign(message, padding.PKCS1v15(), hashes.SHA1())

    weak = der.sequence(der.object_identifier("1.2.840.113549.1.1.5"), b"\x05\x00")
    assert (
        reason(craft.as_pem(craft.csr_der(private_key=own, algorithm=weak, sign=sha1)))
        == Refusal.SIGNATURE_WEAK
    )
    pss = csr_pss(own)
    assert reason(pss) == Refusal.SIGNATURE_ALGORITHM
    ecdsa = craft.csr_der(private_key=own, algorithm=craft.ECDSA_SHA256)
    assert reason(craft.as_pem(ecdsa)) == Refusal.SIGNATURE_ALGORITHM
    none = craft.csr_der(private_key=own, algorithm=der.sequence())
    assert reason(craft.as_pem(none)) == Refusal.SIGNATURE_ALGORITHM


def csr_pss(own: rsa.RSAPrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(EMPTY_SUBJECT)
    builder = builder.add_extension(spiffe_san(IDENTITY), critical=True)
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    request = builder.sign(own, hashes.SHA256(), rsa_padding=scheme)
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_rsa_parameters_may_be_absent() -> None:
    """RFC 4055, section 5: implementations accept NULL and absent parameters."""
    own = key("workload", KeyKind.RSA_2048)
    request = craft.csr_der(
        private_key=own, algorithm=der.sequence(der.object_identifier("1.2.840.113549.1.1.11"))
    )
    assert check(craft.as_pem(request)).key_kind is KeyKind.RSA_2048


def test_an_algorithm_with_parameters_it_has_not() -> None:
    request = craft.csr_der(algorithm=der.sequence(der.object_identifier("1.2.840.10045.4.3.2"), b"\x05\x00"))
    assert reason(craft.as_pem(request)) == Refusal.SIGNATURE_ALGORITHM


def test_nothing_the_caller_wrote_stands_raw_in_a_message() -> None:
    hostile = craft.uri("spiffe://x\n\x1b[31mforged log line")
    request = craft.csr_der(attributes=[craft.extension_request(craft.san(hostile))])
    with pytest.raises(RequestRefused) as refused:
        check(craft.as_pem(request))
    assert refused.value.what.isprintable()


def test_object_identifiers_in_messages_are_readable() -> None:
    with pytest.raises(RequestRefused, match=r"1\.2\.840\.113549\.1\.9\.7"):
        check(
            craft.as_pem(
                craft.csr_der(attributes=[craft.attribute(craft.CHALLENGE_PASSWORD, der.encode(0x0C, b"x"))])
            )
        )
    absurd = der.encode(der.OBJECT_IDENTIFIER, b"\xff" * 5)
    with pytest.raises(RequestRefused, match="hex 0605ffffffffff"):
        check(craft.as_pem(craft.csr_der(attributes=[craft.attribute(absurd, b"")])))


@pytest.mark.parametrize("organization", [True, False])
@pytest.mark.parametrize("kind", KeyKind)
def test_the_hubs_own_requests_pass_its_gate(kind: KeyKind, organization: bool) -> None:
    own, subject = key("workload", kind), EMPTY_ORGANIZATION if organization else x509.Name([])
    uri, hosts = x509.UniformResourceIdentifier(str(IDENTITY)), ("a.example", "b.example")
    checked = check(build_request(own, [uri], subject=subject))
    assert (checked.names, checked.spki_der) == ((str(IDENTITY),), spki(own.public_key()))
    text = build_request(own, [x509.DNSName(host) for host in hosts], subject=subject)
    served = check_server_request(text, permitted=hosts.__contains__, accepted_keys=ALL_KINDS)
    assert (served.names, served.key_kind) == (hosts, kind)
    assert x509.load_pem_x509_csr(text.encode()).subject == subject


def test_no_request_is_built_with_a_key_that_no_leaf_may_have() -> None:
    with pytest.raises(InvalidValue, match="RSA of 1024 bits"):
        build_request(rsa.generate_private_key(65537, 1024), [x509.DNSName("a.example")])


# --- what was found good before is not looked at again, but for the key ---


def taken_apart(text: str) -> tuple[bytes, bytes]:
    """What a request has signed, and the AlgorithmIdentifier behind it."""
    data = x509.load_pem_x509_csr(text.encode()).public_bytes(serialization.Encoding.DER)
    outer = der.elements(data, 0, len(data))[0]
    info, algorithm, _ = der.elements(data, outer[2], outer[3])
    return data[info[1] : info[3]], data[algorithm[1] : algorithm[3]]


def signed_anew(info: bytes, algorithm: bytes, own: ec.EllipticCurvePrivateKey) -> str:
    signature = own.sign(info, ec.ECDSA(hashes.SHA256()))
    return pem_encode(der.sequence(info, algorithm, der.bit_string(signature)), "CERTIFICATE REQUEST")


def test_after_a_good_request_none_passes_that_differs_in_one_bit_of_anything_but_the_key() -> None:
    own = key("one bit", KeyKind.EC_P256)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    info, algorithm = taken_apart(csr_pem(private_key=own))
    for _ in range(2):
        assert check(signed_anew(info, algorithm, own)).spki_der == spki(own.public_key())
    point = info.index(spki(own.public_key())[-64:])
    refusals = set[str]()
    for at in (*range(point), *range(point + 64, len(info))):
        for bit in range(8):
            changed = bytearray(info)
            changed[at] ^= 1 << bit
            refusals.add(reason(signed_anew(bytes(changed), algorithm, own)))
            assert check(signed_anew(info, algorithm, own)).public_key == own.public_key()
    assert {Refusal.MALFORMED, Refusal.VERSION, Refusal.EXTENSION, Refusal.IDENTITY} <= refusals


def test_a_key_is_judged_and_its_proof_verified_each_time() -> None:
    own, other = key("each time", KeyKind.EC_P256), key("another time", KeyKind.EC_P256)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    assert isinstance(other, ec.EllipticCurvePrivateKey)
    info, algorithm = taken_apart(csr_pem(private_key=own))
    assert check(signed_anew(info, algorithm, own)).public_key == own.public_key()
    assert reason(signed_anew(info, algorithm, other)) == Refusal.SIGNATURE_INVALID
    public = spki(own.public_key())
    off_curve = info.replace(public, public[:-1] + bytes([public[-1] ^ 1]))
    assert reason(signed_anew(off_curve, algorithm, own)) == Refusal.KEY_INVALID
    assert (
        reason(signed_anew(info, algorithm, own), frozenset({KeyKind.RSA_2048})) == Refusal.KEY_NOT_ACCEPTED
    )


def test_a_good_request_opens_nothing_for_another_identity() -> None:
    text = csr_pem(private_key=key("another", KeyKind.EC_P256))
    account = ServiceAccountRef(IDENTITY.service_account.namespace, "x" * len(IDENTITY.service_account.name))
    for _ in range(2):
        assert check(text).names == (str(IDENTITY),)
        with pytest.raises(RequestRefused) as refused:
            check(text, SpiffeId(IDENTITY.trust_domain, account))
        assert refused.value.reason == Refusal.IDENTITY


def test_many_ways_of_writing_a_request_pass_one_after_the_other() -> None:
    ways = [
        csr_pem(private_key=own, subject=subject, san_critical=critical)
        for own in POOL
        for subject in (EMPTY_SUBJECT, EMPTY_ORGANIZATION)
        for critical in (True, False)
    ]
    for text in ways * 2:
        assert check(text).names == (str(IDENTITY),)
