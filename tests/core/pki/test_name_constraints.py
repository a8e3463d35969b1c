"""Name constraints: an intermediate that is confined to one trust domain signs for no other."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.name_constraints import permits_trust_domain, violation
from tests.support.pki import (
    BOTH_WAYS,
    CA_KEY_USAGE,
    DAY,
    IDENTITY,
    NOW,
    WORKLOAD_KEY_USAGE,
    Authority,
    certificate,
    key,
    leaf,
    root,
)

CORPORATE = x509.Name(
    [x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Corp")]
)
UNIT = x509.Name([*CORPORATE, x509.NameAttribute(NameOID.COMMON_NAME, "payments")])


def uri(value: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(value)


def confined(
    permitted: list[x509.GeneralName] | None = None, excluded: list[x509.GeneralName] | None = None
) -> Authority:
    """An intermediate under these constraints."""
    own = key("confined")
    made = certificate(
        root(),
        [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (CA_KEY_USAGE, True),
            (x509.NameConstraints(permitted, excluded), True),
            (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
        ],
        public_key=own.public_key(),
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "confined")]),
        not_after=NOW + DAY,
    )
    return Authority(made, own, (made,), root().certificate)


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
    ],
)
def test_dns_names(name: str, base: str, allowed: bool) -> None:
    certificate_ = named(x509.DNSName(name))
    assert (violation(confined([x509.DNSName(base)]).certificate, certificate_) == "") is allowed
    assert (violation(confined(None, [x509.DNSName(base)]).certificate, certificate_) == "") is not allowed


def test_subjects() -> None:
    issuer = confined([x509.DirectoryName(CORPORATE)]).certificate
    assert violation(issuer, named(uri(str(IDENTITY)), subject=UNIT)) == ""
    stranger = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "payments")])
    assert "CN=payments" in violation(issuer, named(uri(str(IDENTITY)), subject=stranger))


def test_other_kinds_of_names_are_free_unless_they_are_constrained() -> None:
    email = named(x509.RFC822Name("a@b.example"))
    assert violation(confined([uri("cluster.local")]).certificate, email) == ""
    assert "RFC822Name" in violation(confined([x509.RFC822Name("b.example")]).certificate, email)
    assert "RFC822Name" in violation(confined(None, [x509.RFC822Name("c.example")]).certificate, email)


def test_a_ca_without_constraints_permits_everything() -> None:
    assert violation(root().certificate, named(uri("spiffe://anything/"))) == ""
    assert permits_trust_domain(root().certificate, TrustDomain("anything"))
