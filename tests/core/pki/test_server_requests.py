"""The request gate for servers: DNS names that the caller may have, every one of them, and nothing beside them."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.core.config.clusters import IstioConfig
from federation.core.errors import RequestRefused
from federation.core.istio.istiod import is_istiod_name, istiod_names
from federation.core.pki import der
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, signer
from federation.core.pki.leaf import LeafProfile, LeafTemplate
from federation.core.pki.requests import CertificateRequest, Refusal, check_server_request
from tests.support import csr as craft
from tests.support.pki import DAY, IDENTITY, NOW, csr_pem, intermediate, key

ALL_KINDS = frozenset(KeyKind)
ISTIO = IstioConfig()
NAMES = istiod_names(ISTIO, "istio-system", ["canary"])


def check(text: str, istio: IstioConfig = ISTIO) -> CertificateRequest:
    return check_server_request(
        text, permitted=lambda host: is_istiod_name(istio, host), accepted_keys=ALL_KINDS
    )


def dns(name: str | bytes) -> bytes:
    return der.encode(0x82, name if isinstance(name, bytes) else name.encode())


def request(*names: bytes, critical: bool = True, beside: tuple[bytes, ...] = ()) -> str:
    """A signed request whose subject alternative name holds these GeneralNames."""
    extensions = craft.extension_request(craft.san(*names, critical=critical), *beside)
    return craft.as_pem(craft.csr_der(attributes=[extensions]))


def reason(text: str) -> str:
    with pytest.raises(RequestRefused) as refused:
        check(text)
    return refused.value.reason


@pytest.mark.parametrize("critical", [True, False])
def test_every_name_asked_for_is_in_the_certificate_and_no_other(critical: bool) -> None:
    checked = check(request(*map(dns, NAMES), critical=critical))
    assert checked.names == NAMES
    template = LeafTemplate(intermediate().certificate, LeafProfile.SERVING)
    tbs = template.tbs(checked.spki_der, checked.san, 1, NOW, NOW + DAY)
    leaf = x509.load_der_x509_certificate(template.assemble(tbs, signer(intermediate().key)(tbs)))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(name) for name in NAMES]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([], Refusal.NAME_MISSING),
        ([craft.uri(IDENTITY)], Refusal.URI),
        ([dns(NAMES[0]), craft.uri(IDENTITY)], Refusal.URI),
        ([craft.uri("spiffe://cluster.local/ns/federation-system/sa/federation-istiod")], Refusal.URI),
        ([dns(NAMES[0]), der.encode(0x87, b"\x0a\x00\x00\x01")], Refusal.IP_ADDRESS),
        ([dns(NAMES[0]), der.encode(0x81, b"a@b.example")], Refusal.EMAIL),
        ([dns(NAMES[0]), der.encode(0x88, b"\x2a")], Refusal.NAME_KIND),
        ([dns(NAMES[0]), dns("kubernetes.default.svc")], Refusal.DNS_NAME),
        ([dns("federation-hub.federation-system.svc")], Refusal.DNS_NAME),
        ([dns("istiod.kube-system.svc")], Refusal.DNS_NAME),
        ([dns("*.istio-system.svc")], Refusal.DNS_NAME),
        ([dns("istiod.istio-system.svc.")], Refusal.DNS_NAME),
        ([dns("ISTIOD.istio-system.svc")], Refusal.DNS_NAME),
        ([dns("istiod.istio-system.svc\x00.evil.example")], Refusal.DNS_NAME),
        ([dns("istiod.istio-system.svc.evil.example")], Refusal.DNS_NAME),
        ([dns("evil.istiod.istio-system.svc")], Refusal.DNS_NAME),
        ([dns("istiod.istio-systém.svc")], Refusal.DNS_NAME),
        ([dns(b"\xff\xfe")], Refusal.DNS_NAME),
        ([dns("")], Refusal.DNS_NAME),
        ([dns("10.0.0.1")], Refusal.DNS_NAME),
        ([dns(NAMES[0]), dns(NAMES[0])], Refusal.DNS_NAME),
    ],
)
def test_anything_else_is_refused(names: list[bytes], wanted: Refusal) -> None:
    assert reason(request(*names)) == wanted


def test_a_request_for_an_identity_or_for_nothing_is_refused() -> None:
    assert reason(csr_pem()) == Refusal.URI
    assert reason(craft.as_pem(craft.csr_der(attributes=[]))) == Refusal.NAME_MISSING


def test_a_request_with_names_in_two_places_is_refused() -> None:
    """A request with two SAN extensions, or with two extension requests, is refused in any order."""
    good, other = craft.san(dns(NAMES[0])), craft.san(dns("kubernetes.default.svc"))
    for first, second in ((good, other), (other, good), (good, good)):
        twice = craft.csr_der(attributes=[craft.extension_request(first, second)])
        with pytest.raises(RequestRefused):
            check(craft.as_pem(twice))
        apart = craft.csr_der(attributes=[craft.extension_request(first), craft.extension_request(second)])
        with pytest.raises(RequestRefused):
            check(craft.as_pem(apart))


def test_an_address_that_is_permitted_as_text_is_not_turned_into_one() -> None:
    """``10.0.0.1`` as a DNS name is not an IP address, and the certificate holds exactly what was requested."""
    with pytest.raises(RequestRefused) as refused:
        check_server_request(request(dns("10.0.0.1")), permitted=lambda _: True, accepted_keys=ALL_KINDS)
    assert refused.value.reason == Refusal.DNS_NAME


def test_everything_but_the_names_is_judged_as_for_a_workload() -> None:
    constraints = der.extension("2.5.29.19", der.sequence(der.encode(1, b"\xff")), critical=True)
    assert reason(request(dns(NAMES[0]), beside=(constraints,))) == Refusal.BASIC_CONSTRAINTS
    stranger = craft.csr_der(
        attributes=[craft.extension_request(craft.san(dns(NAMES[0])))], sign=signer(key("another"))
    )
    assert reason(craft.as_pem(stranger)) == Refusal.SIGNATURE_INVALID
    named = craft.csr_der(
        attributes=[craft.extension_request(craft.san(dns(NAMES[0])))],
        subject=der.sequence(craft.rdn("2.5.4.3", b"istiod")),
    )
    assert reason(craft.as_pem(named)) == Refusal.COMMON_NAME


general_names = st.one_of(
    st.sampled_from([dns(name) for name in NAMES]),
    st.sampled_from([dns(name) for name in NAMES]),
    st.text(max_size=40).map(dns),
    st.sampled_from(["istiod", "istiod-x", "istio-pilot", "evil"]).flatmap(
        lambda service: st.sampled_from(["istio-system", "kube-system", "istio-system.svc", ""]).map(
            lambda namespace: dns(f"{service}.{namespace}.svc")
        )
    ),
    st.builds(der.encode, st.sampled_from([0x81, 0x82, 0x86, 0x87, 0x88, 0xA0]), st.binary(max_size=30)),
    st.just(craft.uri(IDENTITY)),
)


@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(general_names, max_size=4), flips=st.lists(st.integers(0, 600), max_size=2))
def test_no_request_obtains_a_name_that_is_not_istiod_s(names: list[bytes], flips: list[int]) -> None:
    data = bytearray(craft.from_pem(request(*names)))
    for place in flips:
        data[place % len(data)] ^= 1
    text = craft.as_pem(bytes(data))
    try:
        checked = check(text)
    except RequestRefused as refused:
        assert refused.reason in set(Refusal)
        return
    seen = x509.load_pem_x509_csr(text.encode())
    assert seen.is_signature_valid
    requested = list(seen.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    assert requested == [x509.DNSName(name) for name in checked.names]
    assert requested, "an empty one is no certificate for a server"
    assert all(is_istiod_name(ISTIO, name) for name in checked.names)
    template = LeafTemplate(intermediate().certificate, LeafProfile.SERVING)
    tbs = template.tbs(checked.spki_der, checked.san, 1, NOW, NOW + DAY)
    leaf = Certificate.from_der(template.assemble(tbs, signer(intermediate().key)(tbs)))
    assert not leaf.uris
    assert not leaf.is_ca
