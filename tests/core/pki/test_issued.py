"""What a back end returned: exactly what was requested passes, everything else is an alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.errors import AuthorityViolation
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import Validity
from federation.core.pki.requests import check_request
from federation.core.pki.verification import CLOCK_TOLERANCE, check_issued
from tests.support.pki import (
    CA_KEY_USAGE,
    IDENTITY,
    NOW,
    WORKLOAD_KEY_USAGE,
    certificate,
    csr_pem,
    intermediate,
    key,
    leaf,
    root,
    spiffe_san,
)

HOUR = timedelta(hours=1)
REQUEST = check_request(csr_pem(), identity=IDENTITY, accepted_keys=frozenset(KeyKind))
REQUESTED = Validity(NOW - timedelta(minutes=2), NOW + HOUR)
ANCHORS = (root("a").certificate, root("b").certificate)
CHAIN = (intermediate().certificate,)
OTHER = "spiffe://cluster.local/ns/foo/sa/other"


def check(returned: Certificate, chain: Sequence[Certificate] = CHAIN) -> tuple[Certificate, ...]:
    return check_issued(
        returned,
        chain,
        subject=str(IDENTITY),
        public_key=REQUEST.public_key,
        san=REQUEST.san,
        validity=REQUESTED,
        anchors=ANCHORS,
        at=NOW,
    )


def reason(returned: Certificate, chain: Sequence[Certificate] = CHAIN) -> str:
    with pytest.raises(AuthorityViolation) as error:
        check(returned, chain)
    assert str(IDENTITY) in error.value.what
    return error.value.reason


def test_what_was_asked_for() -> None:
    returned = leaf()
    assert check(returned) == (returned, *CHAIN, root().certificate)


def test_with_the_root_and_in_any_order() -> None:
    assert check(leaf(), (root().certificate, *CHAIN))[-1] == root().certificate


def test_a_little_later_than_asked_by_the_back_ends_own_clock() -> None:
    assert check(leaf(not_after=REQUESTED.not_after + CLOCK_TOLERANCE))
    assert (
        reason(leaf(not_after=REQUESTED.not_after + CLOCK_TOLERANCE + timedelta(seconds=1)))
        == "outlives_request"
    )


def test_shorter_than_asked_is_no_violation() -> None:
    assert check(leaf(not_after=NOW + timedelta(minutes=5)))


def ca_leaf() -> Certificate:
    return leaf(ca=True)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (lambda: leaf(private_key=key("stranger")), "wrong_key"),
        (lambda: leaf(private_key=key("stranger", KeyKind.RSA_2048)), "wrong_key"),
        (lambda: leaf(identity=OTHER), "wrong_names"),
        (lambda: leaf(san=spiffe_san(IDENTITY, OTHER)), "wrong_names"),
        (
            lambda: leaf(
                san=x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(str(IDENTITY)), x509.DNSName("payments.svc")]
                )
            ),
            "wrong_names",
        ),
        (lambda: certificate(intermediate(), [(WORKLOAD_KEY_USAGE, True)]), "wrong_names"),
        (lambda: leaf(usage=None), "wrong_usages"),
        (lambda: leaf(usage=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])), "wrong_usages"),
        (
            lambda: leaf(
                usage=x509.ExtendedKeyUsage(
                    [
                        ExtendedKeyUsageOID.SERVER_AUTH,
                        ExtendedKeyUsageOID.CLIENT_AUTH,
                        ExtendedKeyUsageOID.CODE_SIGNING,
                    ]
                )
            ),
            "wrong_usages",
        ),
        (lambda: leaf(key_usage=CA_KEY_USAGE), "wrong_usages"),
        (ca_leaf, "is_ca"),
        (lambda: leaf(not_after=NOW + 2 * HOUR), "outlives_request"),
        (lambda: leaf(not_before=NOW - HOUR, not_after=NOW - timedelta(seconds=1)), "expired"),
        (lambda: leaf(not_before=NOW + timedelta(seconds=1)), "clock_skew"),
        (
            lambda: leaf(
                extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]
            ),
            "critical_extension",
        ),
    ],
)
def test_leaves_that_are_not_what_was_asked_for(returned: Callable[[], Certificate], expected: str) -> None:
    assert reason(returned()) == expected


def test_chains_that_do_not_reach_a_pinned_root() -> None:
    foreign = intermediate("c1", root("c"))
    assert reason(leaf(foreign), (foreign.certificate,)) == "no_anchor"
    assert reason(leaf(foreign), (foreign.certificate, root("c").certificate)) == "no_anchor"
    assert reason(leaf(), ()) == "no_anchor"


def test_an_intermediate_is_no_pinned_root_even_where_it_is_published() -> None:
    middle = intermediate("c1", root("c"))
    with pytest.raises(AuthorityViolation) as error:
        check_issued(
            leaf(middle),
            (middle.certificate,),
            subject=str(IDENTITY),
            public_key=REQUEST.public_key,
            san=REQUEST.san,
            validity=REQUESTED,
            anchors=(*ANCHORS, middle.certificate),
            at=NOW,
        )
    assert error.value.reason == "no_anchor"


def test_chains_that_are_no_chain() -> None:
    stray = intermediate("b1", root("b")).certificate
    assert reason(leaf(), (*CHAIN, stray)) == "broken_chain"
    assert reason(leaf(), (*CHAIN, leaf(identity=OTHER))) == "broken_chain"


def test_a_leaf_beyond_its_issuer() -> None:
    ending = intermediate("ending", not_after=NOW + timedelta(minutes=10))
    assert reason(leaf(ending), (ending.certificate,)) == "outlives_issuer"
