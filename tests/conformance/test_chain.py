"""Chain cases of istio-csr's server and of istiod's CA, by their peers' names, against the hub's chain and reply.

istio-csr: ``pkg/server`` (``parseCertificateBundle``) and its TLS root store. istiod: ``security/pkg/server/ca``
(``TestCreateCertificate``: several intermediates) and ``security/pkg/pki/util`` (``TestVerifyCertificate``).
"""

from __future__ import annotations

import pytest

from federation.core.errors import AuthorityViolation, InvalidValue
from federation.core.identity import TrustDomain
from federation.core.istio.ca_protocol import decode_response, encode_response
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import cert_chain_elements, single_chain, verify_chain
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import Validity
from federation.core.pki.pem import parse_certificates
from federation.core.pki.requests import check_request
from federation.core.pki.verification import check_issued
from federation.core.trust.bundle import Anchor, TrustBundle
from tests.support.pki import DAY, IDENTITY, NOW, Authority, csr_pem, intermediate, leaf, root

REQUEST = check_request(csr_pem(), identity=IDENTITY, accepted_keys=frozenset(KeyKind))
DOMAIN = TrustDomain("cluster.local")


def bundle(*roots: Authority) -> TrustBundle:
    return TrustBundle.merge(
        Anchor(certificate=r.certificate, origin="test", kind="root", trust_domain=DOMAIN) for r in roots
    )


def reply(returned: bytes, trusted: TrustBundle) -> tuple[str, ...]:
    """The cert_chain a caller gets for what a back end returned as PEM: parsed, judged, cut to shape, over the wire."""
    first, *rest = single_chain(parse_certificates(returned, where="back end"))
    check_issued(
        first,
        rest,
        subject=str(IDENTITY),
        public_key=REQUEST.public_key,
        san=REQUEST.san,
        validity=Validity(NOW, NOW + DAY),
        anchors=trusted.certificates,
        at=NOW,
    )
    return decode_response(encode_response(cert_chain_elements(first.der, rest, trusted.pem)))


def count(elements: tuple[str, ...]) -> list[int]:
    return [element.count("-----BEGIN CERTIFICATE-----") for element in elements]


class TestIstioCsrChains:
    """istio-csr: what the issuer returned is parsed, verified against the current roots and cut into elements."""

    @pytest.mark.parametrize(
        "garbage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\ngarbage\n-----END CERTIFICATE-----\n"]
    )
    def test_garbage_certificate_chain(self, garbage: bytes) -> None:
        with pytest.raises(InvalidValue):
            reply(garbage, bundle(root()))

    @pytest.mark.parametrize("text", [b"garbage", b"\n\0\xff\n", b"# next\r\n", b"subject=CN=a\n"])
    @pytest.mark.parametrize("where", ["before", "between", "behind"])
    def test_text_around_a_good_chain(self, text: bytes, where: str) -> None:
        """It is no error, as for Go (RFC 7468, section 2), and is handed to no caller: istio-csr refuses it."""
        own, above = leaf().pem, intermediate().pem
        line = text if text.endswith(b"\n") else text + b"\n"
        returned = {"before": line + own + above, "between": own + line + above, "behind": own + above + text}
        elements = reply(returned[where], bundle(root()))
        assert [element.encode() for element in elements] == [own, above, root().pem]

    @pytest.mark.parametrize(
        "garbage",
        [
            b"-----BEGIN CERTIFICATE-----\ngarbage",
            b"-----BEGIN CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\ngarbage\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n",
            b"garbage-----BEGIN CERTIFICATE-----\n",
            b"-----END CERTIFICATE-----\n",
        ],
    )
    def test_garbage_behind_a_good_chain(self, garbage: bytes) -> None:
        """What says that it is a certificate and is none refuses the whole answer."""
        with pytest.raises(InvalidValue):
            reply(leaf().pem + intermediate().pem + garbage, bundle(root()))

    def test_forked_chain(self) -> None:
        other = intermediate("fork", root())
        with pytest.raises(InvalidValue) as error:
            reply(leaf().pem + intermediate().pem + other.pem, bundle(root()))
        assert error.value.reason == "broken_chain"

    def test_chain_of_two_leaves(self) -> None:
        other = leaf(identity="spiffe://cluster.local/ns/foo/sa/other")
        with pytest.raises(InvalidValue) as error:
            reply(leaf().pem + other.pem + intermediate().pem, bundle(root()))
        assert error.value.reason == "broken_chain"

    def test_chain_with_a_missing_intermediate(self) -> None:
        lower = intermediate("lower", intermediate("upper", path_length=1))
        with pytest.raises(AuthorityViolation) as error:
            reply(leaf(lower).pem + lower.pem, bundle(root()))
        assert error.value.reason == "no_anchor"

    def test_chain_signed_by_a_root_that_is_not_in_the_bundle(self) -> None:
        wrong = intermediate("wrong", root("wrong"))
        with pytest.raises(AuthorityViolation) as error:
            reply(leaf(wrong).pem + wrong.pem + wrong.root.pem, bundle(root()))
        assert error.value.reason == "no_anchor"

    def test_chain_and_one_root(self) -> None:
        elements = reply(leaf().pem + intermediate().pem, bundle(root()))
        assert count(elements) == [1, 1, 1]
        assert elements[1].encode() == intermediate().pem
        assert elements[-1].encode() == root().pem

    def test_chain_with_the_root_in_it_has_the_root_once(self) -> None:
        elements = reply(leaf().pem + intermediate().pem + root().pem, bundle(root()))
        assert count(elements) == [1, 1, 1]
        assert elements[-1].encode() == root().pem

    def test_chain_out_of_order(self) -> None:
        elements = reply(root().pem + intermediate().pem + leaf().pem, bundle(root()))
        assert count(elements) == [1, 1, 1]
        assert elements[1].encode() == intermediate().pem

    def test_leaf_signed_by_the_root_itself(self) -> None:
        """Sidecars need more than one element; leaf and bundle are two."""
        elements = reply(leaf(root()).pem, bundle(root()))
        assert count(elements) == [1, 1]

    def test_several_roots_in_the_last_element(self) -> None:
        trusted = bundle(root("b"), root("c"), root())
        elements = reply(leaf().pem + intermediate().pem, trusted)
        assert count(elements) == [1, 1, 3]
        assert elements[-1].encode() == trusted.pem


class TestIstiodChains:
    """istiod's CA server and PKI utilities."""

    def test_several_intermediates_give_one_element_each(self) -> None:
        upper = intermediate("upper", path_length=1)
        lower = intermediate("lower", upper)
        elements = reply(leaf(lower).pem + lower.pem + upper.pem, bundle(root()))
        assert count(elements) == [1, 1, 1, 1]
        assert [e.encode() for e in elements[1:3]] == [lower.pem, upper.pem]

    def test_last_element_holds_the_whole_bundle_unlike_istiods(self) -> None:
        """istiod sends one root per element; ztunnel then trusts only the last."""
        elements = reply(leaf().pem + intermediate().pem, bundle(root(), root("b")))
        assert count(elements)[-1] == 2
        assert set(count(elements)[:-1]) == {1}

    def test_verify_certificate(self) -> None:
        chain = (leaf(), intermediate().certificate)
        assert verify_chain(chain, [root().certificate], NOW)[-1] == root().certificate

    def test_verify_certificate_with_another_root(self) -> None:
        with pytest.raises(InvalidValue, match="is not in the bundle"):
            verify_chain((leaf(), intermediate().certificate), [root("b").certificate], NOW)

    def test_verify_certificate_that_expired(self) -> None:
        with pytest.raises(InvalidValue, match="expired at"):
            verify_chain((leaf(), intermediate().certificate), [root().certificate], NOW + DAY)

    @pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
    def test_chains_of_each_kind_of_key(self, kind: KeyKind) -> None:
        top = root(f"conformance {kind.value}", kind)
        middle = intermediate(f"conformance {kind.value} below", top, kind)
        elements = reply(leaf(middle).pem + middle.pem, bundle(top))
        leaf_back = Certificate.from_der(parse_certificates(elements[0].encode(), where="reply")[0].der)
        assert leaf_back.is_signed_by(middle.certificate)
