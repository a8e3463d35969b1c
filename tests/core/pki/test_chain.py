"""Path validation by RFC 5280: every rule broken once, and cryptography's verifier as the judge of whole worlds."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import verification
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.errors import AuthorityMisconfigured, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import MAX_PATH, build_chain, cert_chain_elements, single_chain, verify_chain
from federation.core.pki.keys import KeyKind
from federation.core.pki.path_rules import Purpose
from federation.core.pki.verification import check_intermediate
from tests.support.pki import (
    BOTH_WAYS,
    CA_KEY_USAGE,
    DAY,
    IDENTITY,
    NOW,
    WORKLOAD_KEY_USAGE,
    Authority,
    certificate,
    intermediate,
    key,
    leaf,
    root,
    spiffe_san,
)

ROOT, INTERMEDIATE = root(), intermediate()
LEAF = leaf()
CHAIN = (LEAF, INTERMEDIATE.certificate)
ROOTS = (root("b").certificate, ROOT.certificate)
CLIENT_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
CA = (x509.BasicConstraints(ca=True, path_length=None), True)
CA_USAGE = (CA_KEY_USAGE, True)


def authority(
    name: str, issuer: Authority, *extensions: tuple[x509.ExtensionType, bool], **options: object
) -> Authority:
    """A CA certificate of which every part can be set to something wrong."""
    own = key(f"odd {name}")
    made = certificate(
        issuer,
        extensions or (CA, CA_USAGE),
        public_key=own.public_key(),
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        not_after=NOW + DAY,
        **options,  # type: ignore[arg-type]
    )
    return Authority(made, own, (made, *issuer.chain), issuer.root)


def below(issuer: Authority, **options: object) -> tuple[Certificate, ...]:
    """A leaf of that authority with its chain."""
    extensions = [(WORKLOAD_KEY_USAGE, True), (BOTH_WAYS, False), (spiffe_san(IDENTITY), True)]
    made = certificate(issuer, extensions, authority_key_id=False, **options)  # type: ignore[arg-type]
    return (made, *issuer.chain)


def problem(
    chain: tuple[Certificate, ...],
    anchors: tuple[Certificate, ...] = ROOTS,
    *,
    at: object = NOW,
    purpose: Purpose = Purpose.BOTH,
    partial: bool = True,
) -> InvalidValue:
    with pytest.raises(InvalidValue) as error:
        verify_chain(chain, anchors, at, purpose=purpose, partial=partial)  # type: ignore[arg-type]
    return error.value


# --- what is valid ---


@pytest.mark.parametrize("purpose", [Purpose.SERVER, Purpose.CLIENT, Purpose.BOTH])
def test_a_leaf_with_its_intermediate(purpose: Purpose) -> None:
    path = verify_chain(CHAIN, ROOTS, NOW, purpose=purpose)
    assert path == (LEAF, INTERMEDIATE.certificate, ROOT.certificate)


@pytest.mark.parametrize("leaf_kind", list(KeyKind))
@pytest.mark.parametrize("ca_kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
def test_every_kind_of_key(leaf_kind: KeyKind, ca_kind: KeyKind) -> None:
    top = root(f"chain {ca_kind.value}", ca_kind)
    middle = intermediate(f"chain {ca_kind.value}", top, ca_kind)
    made = leaf(middle, private_key=key("workload", leaf_kind))
    assert verify_chain((made, middle.certificate), [top.certificate], NOW)[-1] == top.certificate


def test_order_and_company_do_not_matter() -> None:
    """TLS 1.3 peers may send more than is needed (RFC 8446, 4.4.2)."""
    crowd = (
        LEAF,
        root("b").certificate,
        ROOT.certificate,
        intermediate("b1", root("b")).certificate,
        *CHAIN[1:],
    )
    assert verify_chain(crowd, ROOTS, NOW)[1] == INTERMEDIATE.certificate


def test_an_intermediate_among_the_anchors_ends_a_path_only_where_partial_chains_count() -> None:
    assert verify_chain((LEAF,), CHAIN[1:], NOW) == CHAIN
    assert problem((LEAF,), CHAIN[1:], partial=False).reason == "no_anchor"
    assert verify_chain(CHAIN, (*CHAIN[1:], *ROOTS), NOW, partial=False)[-1] == ROOT.certificate


def test_two_tiers_of_intermediates() -> None:
    upper = intermediate("upper", path_length=1)
    lower = intermediate("lower", upper)
    path = verify_chain((leaf(lower), *lower.chain), ROOTS, NOW)
    assert [c.subject for c in path[1:]] == [
        lower.certificate.subject, upper.certificate.subject, ROOT.certificate.subject
    ]  # fmt: skip


def test_a_cross_signed_root_validates_by_either_way() -> None:
    """During a rotation the new root may be signed by the old one as well."""
    new = root("new")
    crossed = certificate(
        ROOT,
        [CA, CA_USAGE],
        public_key=new.key.public_key(),
        subject=new.certificate.x509.subject,
        not_after=NOW + DAY,
    )
    middle = intermediate("new1", new)
    chain = (leaf(middle), middle.certificate, crossed)
    assert verify_chain(chain, [ROOT.certificate], NOW)[-1] == ROOT.certificate
    assert verify_chain(chain, [new.certificate], NOW)[-1] == new.certificate


def test_the_way_that_is_valid_is_found_among_those_that_are_not() -> None:
    expired = intermediate("twin", not_after=NOW - timedelta(seconds=1))
    valid = intermediate("twin", not_after=NOW + DAY)
    assert expired.certificate.subject == valid.certificate.subject
    for order in ((expired, valid), (valid, expired)):
        chain = (leaf(valid), *(a.certificate for a in order))
        assert verify_chain(chain, ROOTS, NOW)[1] == valid.certificate


def test_an_intermediate_as_an_authority() -> None:
    assert verify_chain(CHAIN[1:], ROOTS, NOW, purpose=Purpose.AUTHORITY)[-1] == ROOT.certificate


# --- what is not ---


def test_the_missing_anchor_is_named() -> None:
    error = problem(CHAIN, (root("b").certificate,))
    assert error.reason == "no_anchor"
    assert error.what == (
        f"no path to an anchor: the issuer {ROOT.certificate.subject}"
        f" (key id {ROOT.certificate.key_id}) is not in the bundle"
    )


def test_a_root_that_was_sent_but_is_not_trusted_is_named() -> None:
    error = problem((*CHAIN, ROOT.certificate), (root("b").certificate,))
    assert error.what.startswith(f"no path to an anchor: the root {ROOT.certificate.subject}")


def test_a_missing_intermediate_is_named() -> None:
    error = problem((LEAF,))
    assert error.reason == "no_anchor"
    assert INTERMEDIATE.certificate.subject in error.what
    assert INTERMEDIATE.certificate.key_id in error.what


def test_nothing_to_validate_and_nothing_to_trust() -> None:
    assert problem(()).reason == "empty_chain"
    assert problem(CHAIN, ()).reason == "no_anchor"


def test_roots_of_one_name_and_two_keys() -> None:
    """The trap of a rotation in which the new root bears the old one's name."""
    pretender = certificate(
        ROOT, [CA, CA_USAGE], public_key=key("pretender").public_key(), subject=ROOT.certificate.x509.subject,
        signing_key=key("pretender"), authority_key_id=False, not_after=NOW + DAY,
    )  # fmt: skip
    assert pretender.is_self_signed
    bare = certificate(ROOT, [(WORKLOAD_KEY_USAGE, True)], authority_key_id=False)
    error = problem((bare,), (pretender,))
    assert error.reason == "bad_signature"
    assert pretender.key_id in error.what
    assert verify_chain((bare,), (pretender, ROOT.certificate), NOW)[-1] == ROOT.certificate
    # a leaf that names its issuer's key is not even tried against another
    assert problem(CHAIN, (pretender,)).reason == "no_anchor"


def test_an_issuer_name_in_another_string_type_has_its_own_reason_and_remedy() -> None:
    """The remedy must not be about two CAs with one name: there is one CA, and Go and rustls compare names as bytes."""
    printable = x509.Name(
        [x509.NameAttribute(a.oid, a.value, _ASN1Type.PrintableString) for a in ROOT.certificate.x509.subject]
    )
    below_it = authority("below a printable name", ROOT, issuer_name=printable)
    with pytest.raises(InvalidValue) as refused:
        verify_chain((below_it.certificate,), ROOTS, NOW, purpose=Purpose.AUTHORITY)
    assert refused.value.reason == "name_encoding"
    assert "string type" in refused.value.what
    with pytest.raises(AuthorityMisconfigured) as error:
        check_intermediate((below_it.certificate,), below_it.key.public_key(), ROOTS, NOW)
    assert "byte for byte" in error.value.remedy
    assert "two CAs" not in error.value.remedy


def test_a_forged_leaf() -> None:
    forged = certificate(INTERMEDIATE, [(spiffe_san(IDENTITY), True)], signing_key=key("thief"))
    error = problem((forged, *CHAIN[1:]))
    assert error.reason == "bad_signature"
    assert str(IDENTITY) in error.what


@pytest.mark.parametrize(
    ("at", "reason", "words"),
    [
        (NOW + timedelta(hours=1), None, ""),
        (NOW + timedelta(hours=1, seconds=1), "expired", "expired at 2026-11-24 13:00:00 UTC"),
        (NOW - timedelta(minutes=2), None, ""),
        (NOW - timedelta(minutes=2, seconds=1), "not_yet_valid", "valid only from 2026-11-24 11:58:00 UTC"),
    ],
)
def test_the_leafs_own_time(at: object, reason: str | None, words: str) -> None:
    if reason is None:
        assert verify_chain(CHAIN, ROOTS, at)[0] == LEAF  # type: ignore[arg-type]
    else:
        error = problem(CHAIN, at=at)
        assert error.reason == reason
        assert words in error.what


def test_an_expired_intermediate_and_an_expired_root() -> None:
    gone = intermediate("gone", not_after=NOW - timedelta(seconds=1))
    error = problem((leaf(gone), gone.certificate))
    assert error.reason == "expired"
    assert gone.certificate.subject in error.what
    old = root("gone", not_after=NOW - timedelta(seconds=1))
    middle = intermediate("of gone", old)
    assert problem((leaf(middle), middle.certificate), (old.certificate,)).reason == "expired"
    future = intermediate("future", not_before=NOW + DAY)
    assert problem((leaf(future), future.certificate)).reason == "not_yet_valid"


def test_a_leaf_that_signs_another() -> None:
    workload = Authority(LEAF, key("workload"), CHAIN, ROOT.certificate)
    error = problem(below(workload, issuer_name=LEAF.x509.subject))
    assert error.reason == "not_ca"


def test_an_issuer_that_is_no_ca() -> None:
    not_ca = authority("not a CA", ROOT, (x509.BasicConstraints(ca=False, path_length=None), True), CA_USAGE)
    assert problem(below(not_ca)).reason == "not_ca"
    silent = authority("says nothing", ROOT, CA_USAGE)
    assert problem(below(silent)).reason == "not_ca"


def test_a_ca_where_a_leaf_belongs_and_the_reverse() -> None:
    assert problem(CHAIN[1:]).reason == "is_ca"
    assert problem(CHAIN, purpose=Purpose.AUTHORITY).reason == "not_ca"


def test_an_issuer_that_may_not_sign_certificates() -> None:
    error = problem(below(authority("no keyCertSign", ROOT, CA, (WORKLOAD_KEY_USAGE, True))))
    assert error.reason == "key_usage"
    assert "keyCertSign" in error.what


def test_a_leaf_that_may_not_sign_handshakes() -> None:
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=True, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    assert problem((leaf(key_usage=usage), *CHAIN[1:])).reason == "key_usage"


def test_path_lengths() -> None:
    lower = intermediate("too low", INTERMEDIATE)
    error = problem((leaf(lower), *lower.chain))
    assert error.reason == "path_length"
    assert "allows 0" in error.what
    flat = root("flat", path_length=0)
    middle = intermediate("below flat", flat)
    assert problem((leaf(middle), middle.certificate), (flat.certificate,)).reason == "path_length"
    # as an authority it would sign leaves, so it counts itself
    assert (
        problem((middle.certificate,), (flat.certificate,), purpose=Purpose.AUTHORITY).reason == "path_length"
    )
    assert verify_chain((leaf(flat),), (flat.certificate,), NOW)[-1] == flat.certificate


def test_extended_key_usages_are_confined_from_above() -> None:
    client = (leaf(usage=CLIENT_ONLY), *CHAIN[1:])
    assert verify_chain(client, ROOTS, NOW, purpose=Purpose.CLIENT)[0] == client[0]
    assert problem(client, purpose=Purpose.SERVER).reason == "extended_key_usage"
    assert "serverAuth" in problem(client).what
    confined = below(authority("servers only", ROOT, CA, CA_USAGE, (SERVER_ONLY, False)))
    assert verify_chain(confined, ROOTS, NOW, purpose=Purpose.SERVER)[0] == confined[0]
    assert "clientAuth" in problem(confined, purpose=Purpose.CLIENT).what
    anything = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    # BoringSSL and Go take it for all, webpki does not know it
    confined = below(authority("any", ROOT, CA, CA_USAGE, (anything, False)))
    assert problem(confined).reason == "extended_key_usage"


def test_a_critical_extension_that_nothing_knows() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert problem((leaf(extra=[(unknown, True)]), *CHAIN[1:])).reason == "critical_extension"
    assert verify_chain((leaf(extra=[(unknown, False)]), *CHAIN[1:]), ROOTS, NOW)[1] == CHAIN[1]
    constrained = x509.PolicyConstraints(require_explicit_policy=0, inhibit_policy_mapping=None)
    assert (
        problem(below(authority("policies", ROOT, CA, CA_USAGE, (constrained, True)))).reason
        == "critical_extension"
    )


@pytest.mark.parametrize(
    "weak",
    [
        lambda: ec.generate_private_key(ec.SECP224R1()),
        lambda: rsa.generate_private_key(65537, 1024),
        ed25519.Ed25519PrivateKey.generate,
    ],
    ids=["P-224", "RSA-1024", "Ed25519"],
)
def test_keys_that_are_not_accepted(weak: object) -> None:
    made = certificate(INTERMEDIATE, [(spiffe_san(IDENTITY), True)], public_key=weak().public_key())  # type: ignore[operator]
    assert problem((made, *CHAIN[1:])).reason == "weak_key"


def test_a_weak_hash_counts_below_the_anchor_only() -> None:
    made = certificate(INTERMEDIATE, [(spiffe_san(IDENTITY), True)], algorithm=hashes.SHA224())
    assert problem((made, *CHAIN[1:])).reason == "weak_signature"
    anchor = authority("weakly signed", ROOT, algorithm=hashes.SHA224())
    assert problem(below(anchor)).reason == "weak_signature"
    assert verify_chain(below(anchor), (anchor.certificate,), NOW)[-1] == anchor.certificate


def test_a_chain_made_to_branch_costs_little_and_is_refused() -> None:
    """Many CAs of one name and key that sign each other: as many paths as there are orders of them."""
    own = key("knot")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "knot")])
    knot = Authority(
        certificate(ROOT, [CA], public_key=own.public_key(), subject=name, issuer_name=name, signing_key=own,
                    authority_key_id=False), own, (), ROOT.certificate,
    )  # fmt: skip
    crowd = [
        certificate(
            knot, [CA], public_key=own.public_key(), subject=name, serial_number=n, authority_key_id=False
        )
        for n in range(1, 40)
    ]
    made = certificate(knot, [(spiffe_san(IDENTITY), True)], authority_key_id=False)
    assert problem((made, *crowd)).reason == "too_complex"


def test_a_path_has_a_longest_length() -> None:
    above = root("long")
    for i in range(MAX_PATH):
        above = intermediate(f"long {i}", above, path_length=None)
    assert problem((leaf(above), *above.chain), (above.root,)).reason == "no_anchor"


# --- an independent judge ---

WORLD = [root("w1"), root("w2"), root("w3", path_length=0)]
MIDDLES = [
    *(intermediate(f"w{i}", r) for i, r in enumerate(WORLD)),
    intermediate("w expired", WORLD[0], not_after=NOW - DAY),
    intermediate("w wide", WORLD[0], path_length=1),
]
MIDDLES.append(intermediate("w lower", MIDDLES[4]))
MIDDLES.append(intermediate("w too low", MIDDLES[0]))
LEAVES = [
    leaf(issuer, usage=usage, not_before=NOW - timedelta(hours=1), not_after=end)
    for issuer in MIDDLES
    for usage in (SERVER_ONLY, CLIENT_ONLY, BOTH_WAYS)
    for end in (NOW + DAY, NOW - timedelta(minutes=1))
]


@settings(deadline=None, max_examples=300)
@given(
    target=st.sampled_from(LEAVES),
    others=st.lists(st.sampled_from(MIDDLES), max_size=4),
    anchors=st.lists(
        st.sampled_from(WORLD), min_size=1, max_size=3, unique_by=lambda a: a.certificate.sha256
    ),
    purpose=st.sampled_from([Purpose.SERVER, Purpose.CLIENT]),
    days=st.sampled_from([0, 0, 0, -40, -31, -1, 1, 300, 366, 4000]),
)
def test_cryptographys_verifier_agrees(
    *, target: Certificate, others: list[Authority], anchors: list[Authority], purpose: Purpose, days: int
) -> None:
    at = NOW + timedelta(days=days)
    policy = (
        verification.PolicyBuilder().store(verification.Store([a.certificate.x509 for a in anchors])).time(at)
    )
    # RFC 5280 alone: the web's own rules (a SAN of DNS names, and so on) have no place in a mesh
    policy = policy.extension_policies(
        ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
        ee_policy=verification.ExtensionPolicy.permit_all(),
    )
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if purpose is Purpose.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    usages = target.extension(x509.ExtendedKeyUsage)
    try:
        policy.build_client_verifier().verify(target.x509, [a.certificate.x509 for a in others])
        expected = usages is not None and wanted in usages
    except verification.VerificationError:
        expected = False
    try:
        verify_chain(
            (target, *(a.certificate for a in others)), [a.certificate for a in anchors], at, purpose=purpose
        )
        found = True
    except InvalidValue:
        found = False
    assert found == expected


# --- building, ordering, replying ---


def test_a_chain_is_built_without_judging_its_time() -> None:
    gone = intermediate("gone", not_after=NOW - timedelta(seconds=1))
    made = leaf(gone)
    assert build_chain(made, [gone.certificate], ROOTS) == (made, gone.certificate, ROOT.certificate)
    assert build_chain(LEAF, CHAIN[1:], CHAIN[1:] + ROOTS) == CHAIN
    with pytest.raises(InvalidValue, match="not in the bundle"):
        build_chain(LEAF, [], ROOTS)


@given(st.permutations([*CHAIN, ROOT.certificate, LEAF]))
def test_one_chain_in_any_order(shuffled: list[Certificate]) -> None:
    assert single_chain(shuffled) == (*CHAIN, ROOT.certificate)


@pytest.mark.parametrize(
    "certificates",
    [
        (),
        (LEAF, ROOT.certificate),
        (LEAF, leaf(identity="spiffe://cluster.local/ns/foo/sa/other"), *CHAIN[1:]),
        (*CHAIN, intermediate("b1", root("b")).certificate),
        (*CHAIN, root("b").certificate),
        tuple(root(f"many {i}").certificate for i in range(MAX_PATH + 1)),
    ],
    ids=["none", "gap", "two leaves", "two chains", "stray root", "too many"],
)
def test_certificates_that_do_not_form_one_chain(certificates: tuple[Certificate, ...]) -> None:
    with pytest.raises(InvalidValue) as error:
        single_chain(certificates)
    assert error.value.reason == "broken_chain"


def test_two_cas_that_signed_each_other_end_no_search() -> None:
    first, second = root("ring 1"), root("ring 2")
    one = certificate(second, [CA], public_key=first.key.public_key(), subject=first.certificate.x509.subject)
    two = certificate(
        first, [CA], public_key=second.key.public_key(), subject=second.certificate.x509.subject
    )
    with pytest.raises(InvalidValue) as error:
        single_chain((leaf(first), one, two))
    assert error.value.reason == "broken_chain"
    assert problem((leaf(first), one, two)).reason == "no_anchor"


def test_the_reply_has_istios_shape() -> None:
    upper = intermediate("upper", path_length=1)
    lower = intermediate("lower", upper)
    bundle = ROOTS[0].pem + ROOTS[1].pem
    made = leaf(lower)
    elements = cert_chain_elements(made.der, (*lower.chain, ROOT.certificate), bundle)
    assert elements == [
        made.pem,
        lower.pem,
        upper.pem,
        bundle,
    ]
    assert [element.count(b"BEGIN CERTIFICATE") for element in elements] == [1, 1, 1, 2]
    assert all(element.endswith(b"-----END CERTIFICATE-----\n") for element in elements)
