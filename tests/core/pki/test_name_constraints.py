"""Name constraints: an intermediate that is confined to one trust domain signs for no other."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.path_rules import not_permitted, permits_trust_domain, violation
from tests.support.pki import (
    BOTH_WAYS,
    IDENTITY,
    NOW,
    WORKLOAD_KEY_USAGE,
    certificate,
    confined,
    leaf,
    root,
)

CORPORATE = x509.Name(
    [x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Corp")]
)
UNIT = x509.Name([*CORPORATE, x509.NameAttribute(NameOID.COMMON_NAME, "payments")])


def uri(value: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(value)


def named(*names: x509.GeneralName, subject: x509.Name | None = None) -> Certificate:
    """A leaf with these names; who signed it does not matter here."""
    extensions = [(WORKLOAD_KEY_USAGE, True), (BOTH_WAYS, False), (x509.SubjectAlternativeName(names), True)]
    return certificate(root(), extensions, subject=subject or x509.Name([]))


@pytest.mark.parametrize(
    ("permitted", "excluded", "allowed"),
    [
        (["cluster.local"], None, True),
        (["CLUSTER.local"], None, True),
        (["other.example"], None, False),
        (["other.example", "cluster.local"], None, True),
        ([".local"], None, True),
        ([".cluster.local"], None, False),
        (["local"], None, False),
        (["luster.local"], None, False),
        (None, ["cluster.local"], False),
        (None, ["other.example"], True),
        ([".local"], ["cluster.local"], False),
    ],
)
def test_trust_domains(permitted: list[str] | None, excluded: list[str] | None, allowed: bool) -> None:
    issuer = confined(
        [uri(value) for value in permitted] if permitted else None,
        [uri(value) for value in excluded] if excluded else None,
    )
    assert permits_trust_domain(issuer.certificate, TrustDomain("cluster.local")) is allowed
    chain = (leaf(issuer), issuer.certificate)
    if allowed:
        assert verify_chain(chain, [root().certificate], NOW)[1] == issuer.certificate
    else:
        with pytest.raises(InvalidValue, match=str(IDENTITY)) as error:
            verify_chain(chain, [root().certificate], NOW)
        assert error.value.reason == "name_constraints"


@pytest.mark.parametrize(
    "value",
    [
        "spiffe://",
        "spiffe:///ns/foo",
        "urn:cluster.local",
        "cluster.local",
        "spiffe://[::1",
        "spiffe://user@cluster.local/",
    ],
)
def test_a_uri_without_a_plain_host_satisfies_no_constraint(value: str) -> None:
    assert violation(confined([uri("cluster.local")]).certificate, named(uri(value)))
    assert violation(confined(None, [uri("cluster.local")]).certificate, named(uri(value)))


@pytest.mark.parametrize(
    ("name", "base", "allowed"),
    [
        ("istiod.istio-system.svc", "svc", True),
        ("istiod.istio-system.svc", "istiod.istio-system.svc", True),
        ("evil-svc", "svc", False),
        ("a.example", "svc", False),
        ("a.svc", ".svc", True),
        ("anything.example", "", True),
        ("*.svc", "svc", True),
        ("*.svc", ".svc", True),
    ],
)
def test_dns_names(name: str, base: str, allowed: bool) -> None:
    certificate_ = named(x509.DNSName(name))
    assert (violation(confined([x509.DNSName(base)]).certificate, certificate_) is None) is allowed
    assert (violation(confined(None, [x509.DNSName(base)]).certificate, certificate_) is None) is not allowed


@pytest.mark.parametrize("name", ["*.example", "a..example", ".example", "example.", "", "a b.example"])
def test_a_wildcard_beyond_a_constraint_and_what_is_no_name_are_permitted_by_none(name: str) -> None:
    """The first is CVE-2025-61727: it covers names inside and outside of the subtree."""
    subtree = x509.DNSName("b.example")
    assert violation(confined([subtree]).certificate, named(x509.DNSName(name)))
    assert violation(confined(None, [subtree]).certificate, named(x509.DNSName(name)))


def test_names_and_constraints_are_compared_within_a_bound() -> None:
    issuer = confined([x509.DNSName(f"{n}.example") for n in range(1000)]).certificate
    many = named(*(x509.DNSName(f"a.{n}.example") for n in range(101)))
    assert "more than are compared" in (violation(issuer, many) or "")


def test_where_verifiers_differ_the_strictest_counts() -> None:
    """OpenSSL lets no ``corp.example`` pass a permitted ``.corp.example``; Go excludes subdomains of a URI's host."""
    host = named(x509.DNSName("corp.example"))
    assert violation(confined([x509.DNSName(".corp.example")]).certificate, host)
    assert violation(confined(None, [x509.DNSName(".corp.example")]).certificate, host)
    below = named(uri("spiffe://eu.cluster.local/ns/foo/sa/bar"))
    assert violation(confined([uri("cluster.local")]).certificate, below)
    assert violation(confined(None, [uri("cluster.local")]).certificate, below)


@pytest.mark.parametrize(
    ("name", "network", "allowed"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("fd00::1", "fd00::/8", True),
        ("10.1.2.3", "fd00::/8", False),
    ],
)
def test_ip_addresses(name: str, network: str, allowed: bool) -> None:
    subtree = x509.IPAddress(ip_network(network))
    address = named(x509.IPAddress(ip_address(name)))
    assert (violation(confined([subtree]).certificate, address) is None) is allowed
    assert (violation(confined(None, [subtree]).certificate, address) is None) is not allowed
    assert violation(confined([x509.DNSName("corp.example")]).certificate, address) is None


def test_names_as_text_are_judged_as_they_stand_in_a_certificate() -> None:
    names = ["spiffe://cluster.local/ns/a/sa/b", "hub.corp.example", "10.1.2.3", "fd00::1"]
    kinds = [uri(names[0]), x509.DNSName(names[1]), *(x509.IPAddress(ip_address(n)) for n in names[2:])]
    for subtree in [
        uri("cluster.local"),
        uri("other"),
        x509.DNSName("corp.example"),
        x509.DNSName("other"),
        x509.IPAddress(ip_network("10.0.0.0/8")),
        x509.IPAddress(ip_network("fd00::/8")),
    ]:
        for permitted, excluded in (([subtree], None), (None, [subtree])):
            issuer = confined(permitted, excluded).certificate
            for text, name in zip(names, kinds, strict=True):
                assert bool(not_permitted((root().certificate, issuer), [text])) is bool(
                    violation(issuer, named(name))
                )


def test_a_constraint_that_some_verifier_does_not_process_lets_nothing_pass() -> None:
    """Go refuses the CA for a critical extension that it does not handle, webpki everything below it."""
    issuer = confined([x509.DirectoryName(CORPORATE)])
    with pytest.raises(InvalidValue, match="neither Go nor rustls") as error:
        verify_chain((leaf(issuer), issuer.certificate), [root().certificate], NOW)
    assert error.value.reason == "name_constraints"


def test_subjects() -> None:
    issuer = confined([x509.DirectoryName(CORPORATE)]).certificate
    assert violation(issuer, named(uri(str(IDENTITY)), subject=UNIT)) is None
    stranger = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "payments")])
    assert "CN=payments" in (violation(issuer, named(uri(str(IDENTITY)), subject=stranger)) or "")


def test_other_kinds_of_names_are_free_unless_they_are_constrained() -> None:
    email = named(x509.RFC822Name("a@b.example"))
    assert violation(confined([uri("cluster.local")]).certificate, email) is None
    assert "email 'a@b.example'" in (
        violation(confined([x509.RFC822Name("b.example")]).certificate, email) or ""
    )
    assert "email 'a@b.example'" in (
        violation(confined(None, [x509.RFC822Name("c.example")]).certificate, email) or ""
    )


def test_a_ca_without_constraints_permits_everything() -> None:
    assert violation(root().certificate, named(uri("spiffe://anything/"))) is None
    assert permits_trust_domain(root().certificate, TrustDomain("anything"))
