"""What a CertificateRequest's status says, and what its certificates are: bounded, whatever they contain."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.errors import AuthorityViolation
from federation.core.pki.certificate import Certificate
from federation.signer.authorities.cert_manager.requests import duration
from federation.signer.authorities.cert_manager.service import chain_above, read_answer
from federation.signer.authorities.cert_manager.verdict import (
    MAX_FIELD,
    MAX_TEXT,
    Blocked,
    Denied,
    Failed,
    Invalid,
    Issued,
    Pending,
    Unreadable,
    Verdict,
    verdict_of,
)
from tests.support import pki

CHAIN = pki.intermediate("verdict", pki.root("verdict"))
LEAF = pki.leaf(CHAIN)


def of(*conditions: tuple[str, str, str, str], **status: Any) -> Verdict:
    written = [dict(zip(("type", "status", "reason", "message"), one, strict=True)) for one in conditions]
    return verdict_of(msgspec.json.encode(status | {"conditions": written}))


APPROVED = ("Approved", "True", "cert-manager.io", "Certificate request has been approved by cert-manager.io")
READY = ("Ready", "True", "Issued", "Certificate fetched from issuer successfully")


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        ((), Pending()),
        ((APPROVED,), Pending(approved=True)),
        ((APPROVED, ("Ready", "False", "Pending", "waiting")), Pending(approved=True, message="waiting")),
        ((("Denied", "True", "policy", "not this one"),), Denied("policy: not this one")),
        ((("Denied", "True", "policy", "no"), READY), Denied("policy: no")),
        ((("Denied", "False", "", ""), READY), Issued("YQ==", "")),
        ((("Ready", "False", "Denied", "an approver said no"),), Denied("an approver said no")),
        ((APPROVED, ("Ready", "False", "Failed", "no backend")), Failed("no backend")),
        ((APPROVED, ("InvalidRequest", "True", "Bad", "names")), Invalid("Bad: names")),
        ((APPROVED, READY), Issued("YQ==", "")),
        (
            (("Ready", "False", "Pending", 'Referenced "Issuer" not found: issuer "a" not found'),),
            Blocked("issuer_not_found", 'Referenced "Issuer" not found: issuer "a" not found'),
        ),
        (
            (("Ready", "False", "Pending", "Referenced issuer does not have a Ready status condition"),),
            Blocked("issuer_not_ready", "Referenced issuer does not have a Ready status condition"),
        ),
        (
            (APPROVED, ("Ready", "False", "Pending", "Referenced secret a/b not found: no")),
            Blocked("issuer_not_ready", "Referenced secret a/b not found: no"),
        ),
    ],
)
def test_each_state_is_its_own_verdict(
    conditions: tuple[tuple[str, str, str, str], ...], verdict: Verdict
) -> None:
    assert of(*conditions, certificate="YQ==") == verdict


@pytest.mark.parametrize(
    "status",
    [
        b'{"conditions":[{"type":"Ready","status":"True"}]}',
        b'{"conditions":[{"type":"Ready","status":"True"}],"certificate":""}',
        b'{"conditions":[{"type":"Ready","status":"True"}],"certificate":"%s"}' % (b"A" * (MAX_FIELD + 1)),
        b'{"conditions":[{"type":"Ready","status":"True"}],"certificate":"A","ca":"%s"}'
        % (b"A" * (MAX_FIELD + 1)),
        b'{"conditions":{"Ready":true}}',
        b'{"certificate":["a"]}',
        b"[]",
    ],
)
def test_what_is_ready_and_cannot_be_read_is_no_certificate(status: bytes) -> None:
    assert isinstance(verdict_of(status), Unreadable)


@pytest.mark.parametrize("status", [b"null", b"{}", b'{"conditions":null}', b'{"unknown":1}'])
def test_an_empty_status_is_pending(status: bytes) -> None:
    assert verdict_of(status) == Pending()


WORDS = st.sampled_from(
    ["Ready", "Approved", "Denied", "InvalidRequest", "True", "False", "Failed", "Pending"]
)
TEXTS = WORDS | st.text(max_size=400)
CONDITIONS = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "status", "reason", "message"), TEXTS)),
    max_size=5,
)
STATUSES = st.fixed_dictionaries(
    {}, optional={"conditions": CONDITIONS | st.none(), "certificate": TEXTS, "ca": TEXTS}
)


@given(STATUSES.map(msgspec.json.encode) | st.binary(max_size=200))
def test_every_status_has_a_verdict_whose_words_are_short_and_printable(status: bytes) -> None:
    verdict = verdict_of(status)
    if isinstance(verdict, Issued):
        assert verdict.certificate
        return
    for text in msgspec.structs.astuple(verdict):
        assert not isinstance(text, str) or (text.isprintable() and len(text) <= MAX_TEXT + 60)


def issued(certificate: bytes, ca: bytes = b"") -> Issued:
    return Issued(base64.b64encode(certificate).decode(), base64.b64encode(ca).decode())


@pytest.mark.parametrize(
    ("certificate", "ca", "above"),
    [
        (LEAF.pem + CHAIN.pem, CHAIN.root.pem, (CHAIN.certificate, CHAIN.root)),
        (LEAF.pem + CHAIN.pem, b"", (CHAIN.certificate,)),
        (LEAF.pem + CHAIN.pem, CHAIN.pem, (CHAIN.certificate,)),  # a secret without ca.crt
        (LEAF.pem, CHAIN.root.pem + CHAIN.pem, (CHAIN.certificate, CHAIN.root)),
        (LEAF.pem + CHAIN.pem, pki.root("another").pem, (CHAIN.certificate,)),
        (LEAF.pem + CHAIN.pem + CHAIN.pem + LEAF.pem, b"", (CHAIN.certificate,)),
        (LEAF.pem, b"", ()),
    ],
)
def test_the_chain_goes_on_with_what_ca_holds_of_it(
    certificate: bytes, ca: bytes, above: tuple[Certificate, ...]
) -> None:
    answer = read_answer(issued(certificate, ca))
    assert answer.der == LEAF.der
    assert answer.chain == above
    assert chain_above(answer) == above


def test_certificates_that_form_no_chain_are_passed_on_to_be_judged() -> None:
    answer = read_answer(issued(LEAF.pem + pki.root("another").pem))
    assert answer.chain == (pki.root("another").certificate,)
    assert chain_above(answer) == ()


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_what_is_no_certificate_is_a_violation(certificate: bytes, ca: bytes) -> None:
    with pytest.raises(AuthorityViolation) as caught:
        read_answer(issued(certificate, ca))
    assert caught.value.reason == "garbage"
    assert len(str(caught.value)) < 300


@given(st.text(max_size=100))
def test_what_is_not_base64_is_a_violation(text: str) -> None:
    with pytest.raises(AuthorityViolation):
        read_answer(Issued(text or "!", ""))


NOW = datetime(2026, 11, 24, tzinfo=UTC)


@given(
    left=st.integers(min_value=-(10**6), max_value=10**8),
    micros=st.integers(min_value=0, max_value=999_999),
    margin=st.floats(min_value=0.0, max_value=60.0),
)
def test_a_leaf_signed_within_the_margin_never_outlives_its_request(
    left: int, micros: int, margin: float
) -> None:
    now = NOW + timedelta(microseconds=micros)
    not_after = NOW + timedelta(seconds=left)
    seconds = duration(not_after, now, margin)
    assert seconds >= 1
    assert seconds == 1 or now + timedelta(seconds=margin + seconds) <= not_after + timedelta(microseconds=1)
    assert not_after - now - timedelta(seconds=margin + seconds) < timedelta(seconds=1)
