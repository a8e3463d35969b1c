"""Subject alternative names as the bytes of a certificate."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import InvalidValue
from federation.core.identity import SpiffeId
from federation.core.pki.der import SubjectAltName
from tests.core.pki.strategies import identities, subdomains


@given(identities)
def test_an_identity_is_exactly_one_uri(identity: SpiffeId) -> None:
    expected = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    assert SubjectAltName.of_identity(identity).der == expected.public_bytes()


@given(st.lists(st.one_of(subdomains, st.ip_addresses().map(str)), min_size=1, max_size=4, unique=True))
def test_hosts_are_names_and_addresses_in_their_order(hosts: list[str]) -> None:
    def general_name(host: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ip_address(host))
        except ValueError:
            return x509.DNSName(host)

    expected = x509.SubjectAlternativeName([general_name(host) for host in hosts])
    assert SubjectAltName.of_hosts([*hosts, hosts[0]]).der == expected.public_bytes()


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "*.example.org",
        "a..b",
        "-a",
        "a b",
        "a:443",
        "http://a",
        "ä.example",
        "a" * 64,
        "a\0b",
        "::1%eth0",
    ],
)
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(InvalidValue):
        SubjectAltName.of_hosts([host])


def test_a_server_without_a_name_is_an_error() -> None:
    with pytest.raises(InvalidValue, match="at least one name"):
        SubjectAltName.of_hosts([])
