"""Ten thousand hostile requests: none crashes the gate, none obtains an identity that was not proven.

Four ways to be hostile are mixed: DER of a good request changed in its structure, requests put together out of good
and bad parts and then properly signed, PEM text changed by character, and plain noise. What the gate lets through is
read again by cryptography, an independent reader, which must find exactly the proven identity in it.
"""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.core.errors import RequestRefused
from federation.core.identity import SpiffeId
from federation.core.pki import der
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, signer, spki
from federation.core.pki.leaf import LeafTemplate
from federation.core.pki.requests import Refusal, check_request
from tests.core.pki.strategies import identities
from tests.support import csr as craft
from tests.support.examples import examples
from tests.support.pki import DAY, EMPTY_ORGANIZATION, IDENTITY, NOW, csr_pem, intermediate, key

CASES = examples(4_000)
ALL_KINDS = frozenset(KeyKind)
POOL = [
    *(key(f"pool {i}") for i in range(4)),
    *(key(f"pool {i}", KeyKind.EC_P384) for i in range(2)),
    key("pool", KeyKind.RSA_2048),
]
"""P-256 most of the time: it is the quickest, and the mixture of kinds is what counts."""

GOOD = [
    craft.from_pem(csr_pem(private_key=own, subject=subject))
    for own in POOL
    for subject in (x509.Name([]), EMPTY_ORGANIZATION)
]
GOOD_SPKI = [spki(own.public_key()) for own in POOL]
VICTIM = "spiffe://cluster.local/ns/kube-system/sa/victim"


# DER of a good request, changed: bytes, ranges, and whole elements of its structure


@st.composite
def changed_der(draw: st.DrawFn) -> str:
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(start + draw(st.integers(0, 6)), len(data))
        match draw(st.integers(0, 4)):
            case 0:
                data[start:stop] = draw(st.binary(max_size=6))
            case 1:
                data[start:start] = data[start:stop]
            case 2:
                del data[start:stop]
            case 3 if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case _:
                _swap_elements(data, draw(st.integers(0, 30)), draw(st.integers(0, 30)))
    return craft.as_pem(bytes(data))


def _swap_elements(data: bytearray, first: int, second: int) -> None:
    """Exchange two elements anywhere in the tree, as far as the bytes are still DER."""
    found: list[der.Element] = []
    pending = [(0, len(data))]
    try:
        while pending:
            start, end = pending.pop()
            for element in der.elements(bytes(data), start, end):
                found.append(element)
                if element[0] & 0x20:
                    pending.append((element[2], element[3]))
    except Exception:
        return
    found.sort(key=lambda element: element[1])
    if found:
        a, b = found[first % len(found)], found[second % len(found)]
        data[b[1] : b[3]] = data[a[1] : a[3]]


# requests of good and bad parts, put together and signed with the key they hold (or another)

elements = st.builds(
    der.encode,
    st.sampled_from([0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x30, 0x31, 0xA0]),
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from([craft.uri(IDENTITY), der.sequence(), *map(der.integer, (0, 1))]),
    ),
)

_names = st.lists(
    st.one_of(
        st.just(craft.uri(IDENTITY)),
        st.just(craft.uri(VICTIM)),
        identities.map(craft.uri),
        st.builds(der.encode, st.sampled_from([0x81, 0x82, 0x86, 0x87, 0x88]), st.binary(max_size=12)),
        elements,
    ),
    max_size=3,
)
_subjects = st.one_of(
    st.just(der.sequence()),
    st.just(der.sequence(craft.rdn("2.5.4.10", b"", 0x13))),
    st.builds(
        lambda oid, value: der.sequence(craft.rdn(oid, value)),
        st.sampled_from(["2.5.4.3", "2.5.4.10", "2.5.4.11", "2.5.4.5", "0.9.2342.19200300.100.1.1"]),
        st.binary(max_size=6),
    ),
    elements,
)
_good_san = craft.san(craft.uri(IDENTITY))
_extensions = st.lists(
    st.one_of(
        st.just(_good_san),
        st.builds(craft.san, st.just(craft.uri(IDENTITY)), critical=st.booleans()),
        _names.map(lambda names: craft.san(*names)),
        st.builds(
            der.extension,
            st.sampled_from(["2.5.29.15", "2.5.29.37", "2.5.29.19", "2.5.29.17", "2.5.29.30", "1.2.3.4"]),
            st.one_of(elements, st.sampled_from([der.bit_string(b"\xa0", 5), der.bit_string(b"\x06", 1)])),
            critical=st.booleans(),
        ),
        elements,
    ),
    max_size=3,
)
_attributes = st.lists(
    st.one_of(
        st.just(craft.extension_request(_good_san)),
        _extensions.map(lambda extensions: craft.extension_request(*extensions)),
        st.builds(lambda value: craft.attribute(craft.CHALLENGE_PASSWORD, value), elements),
        elements,
    ),
    max_size=2,
)


@st.composite
def assembled(draw: st.DrawFn) -> str:
    own = draw(st.sampled_from(POOL))
    signing = draw(st.sampled_from([own, own, own, *POOL]))
    data = craft.csr_der(
        private_key=own,
        version=draw(st.sampled_from([der.integer(0), der.integer(0), der.integer(0), der.integer(2)])),
        subject=draw(_subjects),
        public_key=draw(st.sampled_from([None, None, None, *GOOD_SPKI])),
        attributes=draw(_attributes),
        algorithm=draw(
            st.sampled_from([None, None, None, craft.ECDSA_SHA256, craft.ECDSA_SHA384, craft.RSA_SHA256])
        ),
        sign=signer(signing),
        trailing=draw(st.sampled_from([b"", b"", b"", b"\x05\x00"])),
    )
    return craft.as_pem(data + draw(st.sampled_from([b"", b"", b"", b"\x00"])))


# PEM text changed by character, and noise


@st.composite
def changed_text(draw: st.DrawFn) -> str:
    text = craft.as_pem(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = start + draw(st.integers(0, 30))
        inserted = draw(st.one_of(st.just(""), st.just("\n"), st.just(text), st.text(max_size=8)))
        text = text[:start] + inserted + text[stop:]
    return text


noise = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=200).map(craft.as_pem),
    st.lists(elements, max_size=3).map(lambda parts: craft.as_pem(der.sequence(*parts))),
    st.binary(max_size=60).map(lambda data: base64.b64encode(data).decode()),
)


@pytest.fixture(scope="module")
def template() -> LeafTemplate:
    return LeafTemplate(intermediate().certificate)


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.one_of(changed_der(), assembled(), assembled(), changed_text(), noise))
def test_no_request_crashes_the_gate_or_obtains_another_identity(text: str, template: LeafTemplate) -> None:
    try:
        request = check_request(text, identity=IDENTITY, accepted_keys=ALL_KINDS)
    except RequestRefused as refused:
        assert refused.reason in set(Refusal)
        return
    assert request.names == (str(IDENTITY),)
    read_again(text, IDENTITY)
    tbs = template.tbs(request.spki_der, request.san, 1, NOW, NOW + DAY)
    leaf = Certificate.from_der(template.assemble(tbs, signer(intermediate().key)(tbs)))
    assert leaf.uris == (str(IDENTITY),)
    assert leaf.public_key == request.public_key
    assert not leaf.is_ca


def read_again(text: str, identity: SpiffeId) -> None:
    """What cryptography finds in a request that passed."""
    seen = x509.load_pem_x509_csr(text.encode())
    assert seen.is_signature_valid
    assert isinstance(seen.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    assert [attribute.value for attribute in seen.subject] in ([], [""])
    names = seen.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(str(identity))]
    allowed = {x509.SubjectAlternativeName.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid}
    assert {extension.oid for extension in seen.extensions} <= allowed
    assert len(seen.attributes) == 1


@pytest.mark.parametrize("data", GOOD)
def test_what_the_hostile_requests_are_made_of_is_good(data: bytes) -> None:
    text = craft.as_pem(data)
    assert check_request(text, identity=IDENTITY, accepted_keys=ALL_KINDS).names == (str(IDENTITY),)
    read_again(text, IDENTITY)
