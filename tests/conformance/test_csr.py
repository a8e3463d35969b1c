"""CSR cases of istio-csr's server and of istiod's CA, by their peers' names, against the hub's gate and leaf.

istio-csr: ``pkg/server`` (authentication and CSR validation), ``internal/extensions``. istiod: ``security/pkg/pki/ca``,
``security/pkg/pki/util`` and ``security/pkg/server/ca`` of istio/istio.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.errors import RequestRefused
from federation.core.identity import SpiffeId
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, PrivateKey, signer
from federation.core.pki.leaf import LeafTemplate, leaf_validity
from federation.core.pki.requests import Refusal, check_request
from tests.support.pki import (
    CA_KEY_USAGE,
    DAY,
    EMPTY_ORGANIZATION,
    EMPTY_SUBJECT,
    IDENTITY,
    NOW,
    WORKLOAD_KEY_USAGE,
    Authority,
    csr_pem,
    intermediate,
    key,
    root,
    spiffe_san,
)

FOO = IDENTITY
BAR = SpiffeId.parse("spiffe://cluster.local/ns/foo/sa/other")
ALL_KINDS = frozenset(KeyKind)
ISSUER = intermediate()
HOUR = timedelta(hours=1)


def refused(text: str) -> str:
    with pytest.raises(RequestRefused) as error:
        check_request(text, identity=FOO, accepted_keys=ALL_KINDS)
    return error.value.reason


def san(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([*spiffe_san(FOO), *names])


def issue(
    text: str,
    *,
    issuer: Authority = ISSUER,
    requested: int = 3600,
    longest: timedelta = DAY,
    default: timedelta = DAY,
    serial: int = 1,
) -> Certificate:
    """What a caller who proved to be FOO gets for this request."""
    request = check_request(text, identity=FOO, accepted_keys=ALL_KINDS)
    validity = leaf_validity(NOW, requested, longest, (*issuer.chain, issuer.root), default)
    template = LeafTemplate(issuer.certificate)
    tbs = template.tbs(request.spki_der, request.san, serial, validity.not_before, validity.not_after)
    return Certificate.from_der(template.assemble(tbs, signer(issuer.key)(tbs)))


class TestIstioCsrValidation:
    """istio-csr: what a CSR may hold."""

    def test_bad_pem_encoded_csr(self) -> None:
        assert refused("bad csr") == Refusal.NOT_PEM

    def test_csr_that_is_pem_but_no_csr(self) -> None:
        assert refused(ISSUER.pem.decode()) == Refusal.PEM_LABEL
        relabelled = ISSUER.pem.decode().replace("CERTIFICATE", "CERTIFICATE REQUEST")
        assert refused(relabelled) == Refusal.MALFORMED

    def test_csr_with_a_signature_that_does_not_check_out(self) -> None:
        text = csr_pem()
        lines = text.splitlines()
        lines[-2] = lines[-2][:4] + ("A" if lines[-2][4] != "A" else "B") + lines[-2][5:]
        assert refused("\n".join(lines) + "\n") == Refusal.SIGNATURE_INVALID

    def test_csr_with_dns_names(self) -> None:
        assert refused(csr_pem(san=san(x509.DNSName("example.com")))) == Refusal.DNS_NAME

    def test_csr_with_ip_addresses(self) -> None:
        assert refused(csr_pem(san=san(x509.IPAddress(ip_address("8.8.8.8"))))) == Refusal.IP_ADDRESS

    def test_csr_with_common_name(self) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jetstack.io")])
        assert refused(csr_pem(subject=subject)) == Refusal.COMMON_NAME

    def test_csr_with_email_addresses(self) -> None:
        assert refused(csr_pem(san=san(x509.RFC822Name("joe@example.com")))) == Refusal.EMAIL

    def test_csr_with_no_identity(self) -> None:
        only_dns = x509.SubjectAlternativeName([x509.DNSName("example.com")])
        assert refused(csr_pem(san=only_dns)) == Refusal.DNS_NAME

    def test_csr_identity_mismatch(self) -> None:
        assert refused(csr_pem(BAR)) == Refusal.IDENTITY

    def test_csr_identities_are_a_superset(self) -> None:
        assert refused(csr_pem(san=spiffe_san(FOO, BAR))) == Refusal.IDENTITY

    def test_csr_identities_are_a_subset(self) -> None:
        assert refused(csr_pem(san=x509.SubjectAlternativeName([]))) == Refusal.NAME_MISSING

    def test_csr_identities_in_another_order(self) -> None:
        """A workload here has exactly one identity, so any list of two is refused in either order."""
        assert refused(csr_pem(san=spiffe_san(BAR, FOO))) == Refusal.IDENTITY

    def test_csr_identity_twice(self) -> None:
        assert refused(csr_pem(san=spiffe_san(FOO, FOO))) == Refusal.IDENTITY

    def test_csr_identity_matches(self) -> None:
        assert check_request(csr_pem(), identity=FOO, accepted_keys=ALL_KINDS).names == (str(FOO),)

    def test_csr_with_an_extension_that_is_not_allowed(self) -> None:
        key_id = x509.SubjectKeyIdentifier(bytes(20))
        assert refused(csr_pem(extensions=[(key_id, False)])) == Refusal.EXTENSION

    @pytest.mark.parametrize("ca", [True, False])
    def test_csr_with_basic_constraints(self, *, ca: bool) -> None:
        constraints = x509.BasicConstraints(ca=ca, path_length=None)
        assert refused(csr_pem(extensions=[(constraints, True)])) == Refusal.BASIC_CONSTRAINTS

    def test_csr_with_allowed_key_usages(self) -> None:
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        text = csr_pem(extensions=[(WORKLOAD_KEY_USAGE, True), (usages, False)])
        assert check_request(text, identity=FOO, accepted_keys=ALL_KINDS).names == (str(FOO),)

    def test_csr_with_key_usage_cert_sign(self) -> None:
        assert refused(csr_pem(extensions=[(CA_KEY_USAGE, True)])) == Refusal.KEY_USAGE

    def test_csr_with_extended_key_usage_code_signing(self) -> None:
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        assert refused(csr_pem(extensions=[(usages, False)])) == Refusal.EXTENDED_KEY_USAGE


class TestIstioCsrGaps:
    """istio-csr: what passes there and is refused here."""

    @pytest.mark.parametrize(
        "oid",
        [NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.SERIAL_NUMBER],
        ids=lambda oid: oid.dotted_string,
    )
    def test_subject_attributes(self, oid: x509.ObjectIdentifier) -> None:
        assert refused(csr_pem(subject=x509.Name([x509.NameAttribute(oid, "x")]))) == Refusal.SUBJECT

    def test_trailing_data_after_the_pem_block(self) -> None:
        assert refused(csr_pem() + "trailing") == Refusal.TRAILING_DATA
        assert refused(csr_pem() + csr_pem(BAR)) == Refusal.SEVERAL_BLOCKS

    def test_an_identity_with_a_comma_adds_no_name(self) -> None:
        """istiod splits the SAN list on commas."""
        assert refused(csr_pem(f"{FOO},{BAR}")) == Refusal.IDENTITY

    @pytest.mark.parametrize("requested", [0, -1, -(2**63), 9223372037, 2**63 - 1])
    def test_durations_that_pass_or_overflow_there(self, requested: int) -> None:
        leaf = issue(csr_pem(), requested=requested, longest=HOUR, default=HOUR)
        assert leaf.not_after - NOW == HOUR


class TestIstioCsrDuration:
    """istio-csr: the duration asked for is capped by the largest allowed one."""

    def test_duration_below_the_maximum_is_kept(self) -> None:
        assert issue(csr_pem(), requested=1800, longest=HOUR).not_after - NOW == timedelta(minutes=30)

    def test_duration_above_the_maximum_is_capped(self) -> None:
        assert issue(csr_pem(), requested=7200, longest=HOUR).not_after - NOW == HOUR


class TestIstioCsrKeys:
    """istio-csr, end to end: meshes with RSA and with ECDSA P-256 and P-384."""

    @pytest.mark.parametrize("kind", [KeyKind.RSA_2048, KeyKind.EC_P256, KeyKind.EC_P384])
    @pytest.mark.parametrize("issuer_kind", [KeyKind.RSA_2048, KeyKind.EC_P256, KeyKind.EC_P384])
    def test_key_of_workload_and_issuer(self, kind: KeyKind, issuer_kind: KeyKind) -> None:
        own: PrivateKey = key("workload", kind)
        issuer = intermediate(f"conformance {issuer_kind.value}", kind=issuer_kind)
        leaf = issue(csr_pem(private_key=own), issuer=issuer)
        assert leaf.public_key == own.public_key()
        assert leaf.is_signed_by(issuer.certificate)


class TestIstiodSign:
    """istiod's CA: ``TestSignCSR``, ``TestGenCertFromCSR``, ``TestSignCSRForWorkload``, ``TestAppendRootCerts``."""

    @pytest.mark.parametrize("subject", [EMPTY_SUBJECT, EMPTY_ORGANIZATION], ids=["ztunnel", "agent"])
    def test_sign_csr_for_workload(self, subject: x509.Name) -> None:
        leaf = issue(csr_pem(subject=subject))
        assert leaf.uris == (str(FOO),)
        assert leaf.subject == ""
        assert leaf.x509.version is x509.Version.v3

    def test_sign_csr_sets_key_usages(self) -> None:
        leaf = issue(csr_pem())
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
        assert (usage.value, usage.critical) == (WORKLOAD_KEY_USAGE, True)
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert list(extended.value) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        assert not extended.critical

    def test_san_is_critical_where_the_subject_is_empty(self) -> None:
        names = issue(csr_pem(san_critical=False)).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        assert names.critical
        assert list(names.value) == [x509.UniformResourceIdentifier(str(FOO))]

    def test_workload_certificate_is_no_ca(self) -> None:
        constraints = issue(csr_pem()).extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert not constraints.value.ca

    def test_authority_key_id_is_the_issuers_subject_key_id(self) -> None:
        leaf = issue(csr_pem())
        assert leaf.authority_key_id == ISSUER.certificate.key_id
        assert leaf.issuer == ISSUER.certificate.subject

    def test_not_before_is_two_minutes_back(self) -> None:
        assert issue(csr_pem()).not_before == NOW - timedelta(minutes=2)

    def test_serial_number_of_128_bits(self) -> None:
        assert issue(csr_pem(), serial=(1 << 128) - 1).serial == (1 << 128) - 1

    def test_ttl_of_zero_is_the_default(self) -> None:
        assert issue(csr_pem(), requested=0, default=HOUR).not_after - NOW == HOUR

    def test_negative_ttl_is_the_default(self) -> None:
        assert issue(csr_pem(), requested=-100, default=HOUR).not_after - NOW == HOUR

    def test_ttl_above_the_maximum(self) -> None:
        """istiod answers with an error, istio-csr caps; the hub caps, because a retry would ask the same again."""
        assert issue(csr_pem(), requested=3650 * 86400).not_after - NOW == DAY

    def test_not_after_is_clamped_to_the_signers(self) -> None:
        ending = intermediate("ending soon", not_after=NOW + timedelta(minutes=10))
        assert issue(csr_pem(), issuer=ending).not_after == ending.certificate.not_after

    def test_not_after_is_clamped_to_the_roots(self) -> None:
        old = root("ending soon", not_after=NOW + timedelta(minutes=20))
        middle = intermediate("outlives its root", old)
        assert issue(csr_pem(), issuer=middle).not_after == old.certificate.not_after

    def test_the_certificate_holds_the_key_of_the_request(self) -> None:
        for kind in KeyKind:
            own = key("workload", kind)
            assert issue(csr_pem(private_key=own)).public_key == own.public_key()
