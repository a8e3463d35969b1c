"""The bundle: the same bytes from the same anchors however they come, and an error instead of a loss."""

from __future__ import annotations

from hashlib import sha256

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import InvalidValue
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import parse_certificates
from federation.core.trust import bundle
from federation.core.trust.bundle import Anchor, AnchorKind, TrustBundle, diff
from tests.support.pki import CA_KEY_USAGE, DAY, NOW, certificate, intermediate, key, leaf, root

DOMAIN = TrustDomain("cluster.local")


def anchor(made: Certificate, kind: AnchorKind = "root", **options: object) -> Anchor:
    values: dict[str, object] = {"origin": "roots.pem", "trust_domain": DOMAIN, **options}
    return Anchor(certificate=made, kind=kind, **values)  # type: ignore[arg-type]


A, B, C = (anchor(root(name).certificate) for name in ("a", "b", "c"))
A1, B1 = (anchor(intermediate(f"{n}1", root(n)).certificate, "intermediate") for n in ("a", "b"))
UPPER = intermediate("upper", path_length=1)
LOWER = anchor(intermediate("lower", UPPER).certificate, "intermediate")
POOL = [A, B, C, A1, B1, anchor(UPPER.certificate, "intermediate"), LOWER]


@given(data=st.data())
def test_order_and_duplicates_never_change_the_bytes(data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(POOL), max_size=4))
    chosen = [*some, A, B, anchor(UPPER.certificate, "intermediate")]
    shuffled = data.draw(st.permutations(chosen + data.draw(st.lists(st.sampled_from(chosen), max_size=4))))
    merged, again = TrustBundle.merge(chosen), TrustBundle.merge(shuffled)
    assert again == merged
    assert (again.pem, again.sha256) == (merged.pem, merged.sha256)
    assert {a.certificate for a in merged.anchors} == {a.certificate for a in chosen}


@given(
    spaces=st.lists(st.text(" \t\r\n", max_size=3), min_size=4, max_size=4),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    order=st.permutations([A, B, A1]),
)
def test_white_space_of_the_sources_never_changes_the_bytes(
    spaces: list[str], newline: bytes, order: list[Anchor]
) -> None:
    text = spaces[0].encode() + b"".join(
        a.certificate.pem.replace(b"\n", newline) + space.encode()
        for a, space in zip(order, spaces[1:], strict=True)
    )
    assert (
        TrustBundle.from_pem(text, where="file", trust_domain=DOMAIN).pem == TrustBundle.merge([A, B, A1]).pem
    )


def test_the_bytes() -> None:
    merged = TrustBundle.merge([A, B, C, A1])
    certificates = parse_certificates(merged.pem, where="")
    assert [c.sha256 for c in certificates] == sorted(a.certificate.sha256 for a in (A, B, C, A1))
    assert merged.certificates == certificates
    assert merged.sha256 == sha256(merged.pem).hexdigest()
    assert merged.pem.endswith(b"-----END CERTIFICATE-----\n")
    assert b"\n\n" not in merged.pem
    assert merged.pem.isascii()


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_source_is_an_error_and_never_a_smaller_bundle(data: st.DataObject) -> None:
    whole = TrustBundle.merge([A, B, A1])
    text = bytearray(whole.pem)
    position = data.draw(st.integers(0, len(text) - 1))
    text[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        read = TrustBundle.from_pem(bytes(text), where="file", trust_domain=DOMAIN)
    except InvalidValue:
        return
    assert read.pem == whole.pem


def test_what_is_left_out_at_the_end_of_a_source_is_not_noticed_by_parsing_alone() -> None:
    """A file that ends between two certificates is whole in itself; pins catch it, not PEM."""
    first = TrustBundle.merge([A, B])
    shorter = TrustBundle.from_pem(first.certificates[0].pem, where="file", trust_domain=DOMAIN)
    assert len(diff(first, shorter).removed) == 1


def test_no_anchor_at_all() -> None:
    with pytest.raises(InvalidValue, match="empty"):
        TrustBundle.merge([])


@pytest.mark.parametrize("kind", ["root", "accepted"])
def test_an_anchor_is_self_signed(kind: AnchorKind) -> None:
    with pytest.raises(InvalidValue, match="not self-signed") as error:
        anchor(intermediate().certificate, kind)
    assert error.value.where == "roots.pem"
    assert error.value.remedy


def test_equal_names_do_not_make_a_certificate_self_signed() -> None:
    pretender = certificate(
        root(),
        [(x509.BasicConstraints(ca=True, path_length=None), True), (CA_KEY_USAGE, True)],
        subject=root().certificate.x509.subject,
        signing_key=key("pretender"),
        not_after=NOW + DAY,
    )
    with pytest.raises(InvalidValue, match="not self-signed"):
        anchor(pretender)


@pytest.mark.parametrize("kind", ["root", "accepted", "intermediate"])
def test_a_leaf_is_no_anchor(kind: AnchorKind) -> None:
    with pytest.raises(InvalidValue, match="not a CA"):
        anchor(leaf(), kind)


def test_an_unknown_kind() -> None:
    with pytest.raises(InvalidValue, match="kind of anchor"):
        anchor(root().certificate, "guessed")  # type: ignore[arg-type]


def test_an_intermediate_needs_its_issuer_inside() -> None:
    with pytest.raises(InvalidValue, match="no anchor in the bundle issued") as error:
        TrustBundle.merge([A, B1])
    assert B1.certificate.issuer in error.value.what
    assert B.certificate.key_id in error.value.what
    with pytest.raises(InvalidValue):
        TrustBundle.merge([A1])
    with pytest.raises(InvalidValue):
        TrustBundle.merge([A, LOWER])
    assert len(TrustBundle.merge([A, LOWER, anchor(UPPER.certificate, "intermediate")]).anchors) == 3


def test_a_root_given_as_intermediate_has_itself_as_issuer() -> None:
    """It is self-signed and has no pin, so it must not ride in as an intermediate."""
    with pytest.raises(InvalidValue):
        TrustBundle.merge([A, anchor(root("b").certificate, "intermediate")])


def test_the_strongest_mention_of_a_certificate_stays() -> None:
    accepted = anchor(root("a").certificate, "accepted", origin="cluster east", cluster="east")
    later = anchor(root("a").certificate, origin="z.pem")
    for order in ([accepted, later, A], [A, accepted, later], [later, A, accepted]):
        (merged,) = TrustBundle.merge(order).anchors
        assert merged == A


def test_one_certificate_for_two_trust_domains_is_no_quiet_choice() -> None:
    foreign = anchor(root("a").certificate, trust_domain=TrustDomain("other.example"), foreign_override=True)
    with pytest.raises(InvalidValue, match=r"several trust domains: cluster\.local, other\.example"):
        TrustBundle.merge([A, foreign])


def test_anchors_out_of_order_are_no_bundle() -> None:
    ordered = TrustBundle.merge([A, B]).anchors
    for wrong in (ordered[::-1], (*ordered, ordered[-1])):
        with pytest.raises(InvalidValue, match="order"):
            TrustBundle(wrong)


def test_the_size_of_an_object_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(TrustBundle.merge([A, B]).pem)
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", size)
    assert len(TrustBundle.merge([A, B]).pem) == size
    with pytest.raises(InvalidValue, match="fit into an object"):
        TrustBundle.merge([A, B, C])


def test_pins() -> None:
    merged = TrustBundle.merge([A, B, A1])
    pins = frozenset({A.certificate.sha256})
    assert merged.unpinned(pins) == (B,)
    assert merged.unpinned(pins | {B.certificate.sha256}) == ()


def test_read_from_bytes_roots_are_roots_and_the_rest_is_below_them() -> None:
    read = TrustBundle.from_pem(TrustBundle.merge([A, B, A1]).pem, where="generation 3", trust_domain=DOMAIN)
    assert {a.certificate: a.kind for a in read.anchors} == {
        A.certificate: "root", B.certificate: "root", A1.certificate: "intermediate"
    }  # fmt: skip
    assert {a.origin for a in read.anchors} == {"generation 3"}


def test_differences() -> None:
    old, new = TrustBundle.merge([A, B]), TrustBundle.merge([B, C])
    difference = diff(old, new)
    assert (difference.added, difference.removed, difference.unchanged) == ((C,), (A,), (B,))
    assert difference
    assert not diff(old, TrustBundle.merge([B, A, A]))
    assert diff(None, new).added == new.anchors
    assert diff(None, new).removed == ()


def test_a_subject_that_two_keys_share_is_reported() -> None:
    twin_key = key("twin root")
    twin = certificate(
        root(),
        [
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (x509.SubjectKeyIdentifier.from_public_key(twin_key.public_key()), False),
        ],
        public_key=twin_key.public_key(),
        subject=root().certificate.x509.subject,
        signing_key=twin_key,
        authority_key_id=False,
        not_after=NOW + DAY,
    )
    assert TrustBundle.merge([A, B, anchor(twin)]).shared_subjects() == (A.certificate.subject,)
    assert TrustBundle.merge([A, B]).shared_subjects() == ()
