"""What only some verifiers of a mesh read is refused before anything is signed below it.

Each case was given to Go 1.26 (crypto/x509, crypto/tls), rustls-webpki 0.103 and gRPC's BoringSSL, and at least one of
them refused a leaf below it; the others, and OpenSSL, mostly did not. The second list is what all of them take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.errors import AuthorityMisconfigured, InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki import der
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, signer
from federation.core.pki.verification import check_intermediate
from tests.support.pki import CA_KEY_USAGE, NOW, YEAR, Authority, certificate, key, resigned, root

ROOT = root("of common forms")
OWN = key("of an uncommon form")
CA = (x509.BasicConstraints(ca=True, path_length=0), True)
USAGE = (CA_KEY_USAGE, True)
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "uncommon")])
TIMES = {"not_before": NOW - YEAR, "not_after": NOW + YEAR}
DNS, URI, MAIL = x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name
FIRST_POLICY = x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)
VERSION_3 = der.encode(0xA0, der.integer(2))


def raw(dotted: str, value: bytes) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), value), False


def below(*more: tuple[x509.ExtensionType, bool], issuer: Authority = ROOT, **options: object) -> Certificate:
    made: dict[str, object] = {"subject": NAME, "public_key": OWN.public_key(), **TIMES, **options}
    usual = [] if any(isinstance(extension, x509.BasicConstraints) for extension, _ in more) else [CA]
    return certificate(issuer, [*usual, USAGE, *more], **made)  # type: ignore[arg-type]


def changed(old: bytes, new: bytes) -> Certificate:
    return resigned(below(), ROOT.key, old, new)


def named(tag: int, value: bytes) -> Certificate:
    return changed(der.encode(0x0C, b"uncommon"), der.encode(tag, value))


def excluding(name: x509.GeneralName) -> Certificate:
    return below((x509.NameConstraints(None, [name]), True))


def identified(
    *, serial: int = ROOT.certificate.serial, issuer: x509.Name | None = None, own: bytes | None
) -> Certificate:
    above = issuer or ROOT.certificate.x509.issuer
    identifier = x509.AuthorityKeyIdentifier(own, [x509.DirectoryName(above)], serial)
    return below((identifier, False), authority_key_id=False)


def numbered(value: bytes) -> tuple[x509.ExtensionType, bool]:
    subtree = der.sequence(der.encode(0x82, b"mesh.example"), value)
    return raw("2.5.29.30", der.sequence(der.encode(0xA1, subtree)))


EMPTY_MAPPINGS = raw("2.5.29.33", der.sequence())
ANY_POLICY = der.object_identifier("2.5.29.32.0")
MAPPED_ANY = raw("2.5.29.33", der.sequence(der.sequence(ANY_POLICY, der.object_identifier("1.2.4"))))
RELATIVE = x509.DistributionPoint(
    None, x509.RelativeDistinguishedName(list(NAME)), None, None
)  # fmt: skip


def usages(*oids: x509.ObjectIdentifier) -> Certificate:
    return below((x509.ExtendedKeyUsage(oids), False))


ANY, SERVER, CLIENT = (
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
)
ROOT_KEY_ID = bytes.fromhex(ROOT.certificate.key_id)

REFUSED: dict[str, tuple[Callable[[], Certificate], str]] = {
    "version 1 with extensions": (lambda: changed(VERSION_3, b""), "uncommon_form"),
    "unique identifiers": (
        lambda: changed(
            der.encode(0xA3, _extensions()), b"\x81\x02\x00\x01" + der.encode(0xA3, _extensions())
        ),
        "uncommon_form",
    ),
    "UniversalString": (lambda: named(0x1C, "ab".encode("utf-32-be")), "uncommon_form"),
    "VisibleString": (lambda: named(0x1A, b"ab"), "uncommon_form"),
    "BMPString with a surrogate": (lambda: named(0x1E, b"\x00a\xff\xfe"), "uncommon_form"),
    "valid from 1950 on": (lambda: below(not_before=datetime(1950, 1, 1, tzinfo=UTC)), "uncommon_form"),
    "path length 256": (
        lambda: below((x509.BasicConstraints(ca=True, path_length=256), True)),
        "uncommon_form",
    ),
    "any usage": (lambda: usages(ANY), "extended_key_usage"),
    "server and any usage": (lambda: usages(SERVER, ANY), "extended_key_usage"),
    "a policy twice": (lambda: below((x509.CertificatePolicies([FIRST_POLICY] * 2), False)), "uncommon_form"),
    "an explicit policy": (lambda: below((x509.PolicyConstraints(0, None), False)), "uncommon_form"),
    "no policy mapped": (lambda: below(EMPTY_MAPPINGS), "uncommon_form"),
    "any policy mapped": (lambda: below(MAPPED_ANY), "uncommon_form"),
    "a relative CRL name": (lambda: below((x509.CRLDistributionPoints([RELATIVE]), False)), "uncommon_form"),
    "another serial number of the issuer": (lambda: identified(serial=5, own=ROOT_KEY_ID), "other_issuer"),
    "another issuer of the issuer": (lambda: identified(issuer=NAME, own=None), "other_issuer"),
    "an empty key identifier": (
        lambda: below((x509.AuthorityKeyIdentifier(b"", None, None), False), authority_key_id=False),
        "other_issuer",
    ),
    "a URI with a space": (
        lambda: below((x509.SubjectAlternativeName([URI("http://a b/")]), False)),
        "uncommon_form",
    ),
    "a URI with words for a port": (
        lambda: below((x509.SubjectAlternativeName([URI("http://h:port/")]), False)),
        "uncommon_form",
    ),
    "a critical name of another kind": (
        lambda: below((x509.SubjectAlternativeName([x509.DirectoryName(NAME)]), True)),
        "uncommon_form",
    ),
    **{
        f"constraint {name!r}": (lambda name=name: excluding(DNS(name)), "uncommon_form")  # type: ignore[misc]
        for name in ("1.2.3.4", "a b", "..corp", ".", "corp.example.")
    },
    **{
        f"constraint {name!r}": (lambda name=name: excluding(MAIL(name)), "uncommon_form")  # type: ignore[misc]
        for name in ("@corp.example", "a b@c")
    },
    "no URI at all": (lambda: excluding(URI("")), "name_constraints"),
    "a minimum": (lambda: below(numbered(b"\x80\x01\x01")), "uncommon_form"),
    "a maximum": (lambda: below(numbered(b"\x81\x01\x05")), "uncommon_form"),
}
NAMES = [DNS("ca.corp.example"), MAIL("ca@corp.example"), URI("ldap:///CN=a%20b?c?d")]
EXCLUDED = [DNS("corp.example"), DNS(".x_y.example"), MAIL("a@b.example"), MAIL(".b")]
TAKEN: dict[str, Callable[[], Certificate]] = {
    "TeletexString": lambda: named(0x14, b"ab"),
    "BMPString": lambda: named(0x1E, "ab".encode("utf-16-be")),
    "path length 255": lambda: below((x509.BasicConstraints(ca=True, path_length=255), True)),
    "valid from 1970 on": lambda: below(not_before=datetime(1970, 1, 1, tzinfo=UTC)),
    "every usage by name": lambda: usages(SERVER, CLIENT, ANY),
    "a policy": lambda: below((x509.CertificatePolicies([FIRST_POLICY]), False)),
    "no policy mapping inhibited": lambda: below((x509.PolicyConstraints(None, 0), False)),
    "issuer and serial number of the issuer": lambda: identified(own=ROOT_KEY_ID),
    "names": lambda: below((x509.SubjectAlternativeName(NAMES), False)),
    "constraints": lambda: below((x509.NameConstraints(None, EXCLUDED), True)),
}


def organization(length: int) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "o" * length)])


def test_more_certificates_than_every_server_takes_are_refused() -> None:
    """gRPC's server breaks off what has more than 8.2 KiB (conformance/test_verifiers.py); a leaf names its issuer."""
    assert reason(below(subject=organization(3000))) == ""
    assert reason(below(subject=organization(3200))) == "too_large"
    large = root("with a long name")
    large = replace(large, certificate=_renamed(large, organization(20_000)))
    assert reason(below(issuer=large), large.certificate) == "too_large"


def _renamed(authority: Authority, name: x509.Name) -> Certificate:
    """Its root with that name."""
    own = authority.certificate
    once = resigned(own, authority.key, own.parts.subject, name.public_bytes())
    return resigned(once, authority.key, own.parts.issuer, name.public_bytes())


def _extensions() -> bytes:
    return below().parts.extensions


def _without_key_identifier() -> tuple[bytes, bytes]:
    """The extension of the root, and nothing."""
    value = der.encode(der.OCTET_STRING, der.encode(der.OCTET_STRING, ROOT_KEY_ID))
    return der.sequence(der.object_identifier("2.5.29.14"), value), b""


def reason(own: Certificate, above: Certificate = ROOT.certificate, *between: Certificate) -> str:
    try:
        check_intermediate(
            (own, *between), OWN.public_key(), [above], NOW, trust_domain=TrustDomain("mesh.example")
        )
    except AuthorityMisconfigured as error:
        assert error.remedy
        return error.reason
    return ""


@pytest.mark.parametrize("name", REFUSED)
def test_what_some_verifier_does_not_read_is_refused(name: str) -> None:
    make, expected = REFUSED[name]
    assert reason(make()) == expected


@pytest.mark.parametrize("name", TAKEN)
def test_what_all_verifiers_read_is_taken(name: str) -> None:
    assert reason(TAKEN[name]()) == ""


@pytest.mark.parametrize(
    ("old", "new"), [(VERSION_3, b""), (b"\x0c", b"\x1a")], ids=["version", "string type"]
)
def test_a_root_that_go_leaves_out_of_its_pool_is_refused(old: bytes, new: bytes) -> None:
    above = ROOT.certificate
    if old == b"\x0c":
        (name,) = above.x509.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        text = str(name.value).encode()
        odd = resigned(above, ROOT.key, der.encode(0x0C, text), der.encode(0x1A, text))  # its issuer
        odd = resigned(odd, ROOT.key, der.encode(0x0C, text), der.encode(0x1A, text))  # its subject
    else:
        odd = resigned(above, ROOT.key, old, new)
    own = below(issuer=replace(ROOT, certificate=odd, root=odd))
    own = resigned(own, ROOT.key, own.parts.issuer, odd.parts.subject)
    assert reason(own, odd) == "uncommon_form"


@pytest.mark.parametrize("kind", [KeyKind.RSA_2048, KeyKind.EC_P256])
def test_an_old_root_that_signed_itself_with_sha1_is_an_anchor(kind: KeyKind) -> None:
    """No verifier checks the signature of an anchor, and many a corporate root is that old."""
    good = root("signed with sha1", kind)
    own = good.key
    by_rsa = isinstance(own, rsa.RSAPrivateKey)
    oid, parameters = ("1.2.840.113549.1.1.5", b"\x05\x00") if by_rsa else ("1.2.840.10045.4.1", b"")
    sha1 = der.sequence(der.object_identifier(oid), parameters)
    made = resigned(good.certificate, own, good.certificate.parts.signed_algorithm, sha1)
    tbs = made.parts.tbs
    if isinstance(own, rsa.RSAPrivateKey):
        signature = own.sign(tbs, padding.PKCS1v15(), hashes.SHA1())
    else:
        signature = own.sign(tbs, ec.ECDSA(hashes.SHA1()))
    old = Certificate.from_der(der.sequence(tbs, sha1, der.bit_string(signature)))
    assert old.is_self_signed
    assert reason(below(issuer=Authority(old, own, (), old)), old) == ""
    other = Certificate.from_der(der.sequence(tbs, sha1, der.bit_string(signer(own)(tbs))))
    assert not other.is_self_signed


@pytest.mark.parametrize("number", [b"\xff\xff", b"\x00\x00"])
def test_a_serial_number_that_is_not_in_its_shortest_form_is_not_read(number: bytes) -> None:
    with pytest.raises(InvalidValue, match="shortest form"):
        changed(der.integer(4711), der.encode(der.INTEGER, number))


def test_an_issuer_without_a_key_identifier_is_found_by_its_name() -> None:
    """No verifier computes one for it, and how the CA computed what it writes below is not known."""
    bare = resigned(ROOT.certificate, ROOT.key, *_without_key_identifier())
    identifier = x509.AuthorityKeyIdentifier(b"by another method", None, None)
    own = below((identifier, False), authority_key_id=False)
    assert reason(own) == "other_issuer"
    assert reason(own, bare) == ""


def confined_to(other_than: x509.GeneralName) -> Authority:
    above, own = root("with constraints"), key("confining")
    made = certificate(
        above,
        [
            (x509.BasicConstraints(ca=True, path_length=1), True),
            USAGE,
            (x509.NameConstraints(None, [other_than]), True),
            (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
        ],
        public_key=own.public_key(),
        subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "confining")]),
        **TIMES,  # type: ignore[arg-type]
    )
    return Authority(made, own, (), above.certificate)


@pytest.mark.parametrize(
    ("name", "expected"),
    [(DNS("a.b."), "name_constraints"), (MAIL("no-at-sign"), "name_constraints"), (DNS("a.b"), "")],
)
def test_a_name_that_go_cannot_compare_is_refused_below_any_constraint(
    name: x509.GeneralName, expected: str
) -> None:
    confining = confined_to(DNS("corp.example"))
    own = below((x509.SubjectAlternativeName([name]), False), issuer=confining)
    assert reason(own, confining.root, confining.certificate) == expected


@pytest.mark.parametrize(
    ("kind", "other_than", "expected"),
    [
        (_ASN1Type.UTF8String, DNS("corp.example"), "name_constraints"),
        (_ASN1Type.IA5String, MAIL("corp.example"), "name_constraints"),
        (_ASN1Type.IA5String, DNS("corp.example"), ""),
    ],
    ids=["another string type", "excluded", "nothing about mail"],
)
def test_the_mail_address_of_a_subject_is_compared(
    kind: _ASN1Type, other_than: x509.GeneralName, expected: str
) -> None:
    """BoringSSL and OpenSSL do so (RFC 5280, 4.2.1.10); they take no other string type than IA5String."""
    confining = confined_to(other_than)
    mail = x509.NameAttribute(x509.NameOID.EMAIL_ADDRESS, "ca@corp.example", kind)
    own = below(issuer=confining, subject=x509.Name([*NAME, mail]))
    assert reason(own, confining.root, confining.certificate) == expected
