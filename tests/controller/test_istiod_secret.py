"""Judging, deciding on and describing the Secret as pure functions, for any content that others put there."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.controller.publication.istiod_secret import (
    Examined,
    ObservedSecret,
    SecretStep,
    Sight,
    WantedSecret,
    apply_body,
    decode_secret,
    examine,
    istiod_certificate_state,
    next_step,
    renewal_of,
)
from federation.core.errors import ClusterForbidden, ClusterInvalid, ClusterUnreachable, Refused
from federation.core.pki.chain import MAX_PATH
from federation.core.pki.keys import private_key_pem
from tests.controller.world import START, intermediate, leaf_for, root
from tests.support import pki

NAMES = ("istiod.istio-system.svc", "istio-pilot.istio-system.svc")
ISSUER = intermediate().certificate.sha256
WANTED = WantedSecret(NAMES, ISSUER, root().pem, (root().certificate,))
NOW = START + timedelta(minutes=5)
LIFE = timedelta(days=1)


def observed(
    authority: pki.Authority | None = None, names: tuple[str, ...] = NAMES, **changes: object
) -> ObservedSecret:
    """A Secret with a certificate of that authority; by default one that is as wanted."""
    authority = authority or intermediate()
    key = pki.key("istiod")
    san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    leaf = leaf_for(authority, san, key.public_key(), lifetime=LIFE)
    fields: dict[str, object] = {
        "type": "kubernetes.io/tls",
        "certificate": leaf.pem + authority.chain_pem,
        "key": private_key_pem(key),
        "ca": WANTED.bundle,
        "ours": True,
    }
    return ObservedSecret(**(fields | changes))  # type: ignore[arg-type]


GOOD = observed()


def step(secret: ObservedSecret | None, wanted: WantedSecret = WANTED, at: datetime = NOW) -> SecretStep:
    examined = examine(secret, wanted, at) if secret is not None else None
    leaf = examined.chain[0] if examined is not None and examined.chain else None
    renew_at = renewal_of(leaf, None) if leaf is not None else None
    return next_step(examined, wanted, renew_at=renew_at, now=at)


UNREADABLE = b"-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("secret", "wanted"),
    [
        (GOOD, SecretStep.KEEP),
        (observed(ours=False), SecretStep.KEEP),
        (observed(type="Opaque"), SecretStep.KEEP),
        (observed(names=(*NAMES, "istiod-old.istio-system.svc")), SecretStep.KEEP),
        (None, SecretStep.ISSUE),
        (observed(ca=b""), SecretStep.REWRITE),
        (observed(ca=root("b").pem), SecretStep.REWRITE),
        (observed(ca=WANTED.bundle + b"\n"), SecretStep.REWRITE),
        (observed(key=b""), SecretStep.ISSUE),
        (observed(key=private_key_pem(pki.key("another"))), SecretStep.ISSUE),
        (observed(certificate=b""), SecretStep.ISSUE),
        (observed(certificate=b"nonsense", ours=False), SecretStep.ISSUE),
        (observed(names=NAMES[:1]), SecretStep.ISSUE),
        (
            observed(intermediate("another", below="a")),
            SecretStep.ISSUE,
        ),  # of the same root, and not the one ordered
        (observed(intermediate("stranger")), SecretStep.ISSUE),
        (observed(intermediate("stranger"), ours=False), SecretStep.LEAVE),
        (observed(intermediate("stranger"), names=("elsewhere.svc",), ours=False), SecretStep.LEAVE),
        (observed(certificate=b"text\n" + GOOD.certificate, ours=False), SecretStep.KEEP),  # as Go reads it
        (observed(certificate=b"text\n" + GOOD.certificate), SecretStep.KEEP),
        (observed(certificate=UNREADABLE, ours=False), SecretStep.LEAVE),  # Go may read what is not read here
        (observed(certificate=UNREADABLE), SecretStep.ISSUE),
    ],
)
def test_what_is_done_about_it(secret: ObservedSecret | None, wanted: SecretStep) -> None:
    assert step(secret) is wanted


@pytest.mark.parametrize(
    "key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1())]
)
def test_a_certificate_of_another_ca_is_left_alone_for_any_kind_of_key(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    """istiod serves with what Go reads, which is more than the hub signs for."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    san = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another CA")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW - LIFE, NOW + LIFE, [])
    algorithm = hashes.SHA512() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    leaf = made.add_extension(san, critical=False).sign(key, algorithm)
    secret = observed(certificate=leaf.public_bytes(serialization.Encoding.PEM), key=pem, ours=False)
    assert step(secret) is SecretStep.LEAVE
    assert step(secret, at=NOW + LIFE) is SecretStep.ISSUE
    assert step(msgspec.structs.replace(secret, key=b"")) is SecretStep.ISSUE
    assert step(msgspec.structs.replace(secret, ours=True)) is SecretStep.ISSUE


def test_no_more_certificates_are_examined_than_a_path_can_have() -> None:
    many = b"".join(pki.root(f"number {number}").certificate.pem for number in range(40))
    examined = examine(observed(certificate=GOOD.certificate + many), WANTED, NOW)
    assert len(examined.chain) <= MAX_PATH
    assert examined.serves


@pytest.mark.parametrize("ours", [True, False])
def test_text_before_a_certificate_that_is_kept_changes_nothing_of_what_is_served(
    tmp_path: Path, ours: bool
) -> None:
    """Go passes over it, and so does OpenSSL, the judge here: such a Secret serves, and replacing it reloads istiod."""
    secret = observed(certificate=b"Bag Attributes\n    friendlyName: istiod\n" + GOOD.certificate, ours=ours)
    examined = examine(secret, WANTED, NOW)
    assert (examined.serves, examined.problem) == (True, examine(GOOD, WANTED, NOW).problem)
    assert examined.chain == examine(GOOD, WANTED, NOW).chain
    (tmp_path / "tls.crt").write_bytes(secret.certificate)
    (tmp_path / "tls.key").touch(mode=0o600)
    (tmp_path / "tls.key").write_bytes(secret.key)
    (tmp_path / "ca.crt").write_bytes(secret.ca)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    assert shown(client, server, NAMES[0]) == examined.chain[0].der


def shown(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bytes | None:
    """The certificate that the client accepts for that name."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].getpeercert(binary_form=True)


def test_it_is_renewed_at_two_thirds_and_replaced_at_its_end() -> None:
    leaf = examine(GOOD, WANTED, NOW).chain[0]
    begin = leaf.not_before
    due = begin + (leaf.not_after - begin) * 2 / 3
    assert step(GOOD, at=due - timedelta(seconds=1)) is SecretStep.KEEP
    assert step(GOOD, at=due) is SecretStep.ISSUE
    stranger = observed(intermediate("stranger"), ours=False)
    end = examine(stranger, WANTED, NOW).chain[0].not_after
    assert step(stranger, at=end - timedelta(seconds=1)) is SecretStep.LEAVE
    assert step(stranger, at=end) is SecretStep.ISSUE


def test_without_a_directive_for_an_issuer_any_issuer_of_the_bundle_will_do() -> None:
    secret = observed(intermediate("another", below="a"))
    assert step(secret, replace(WANTED, issuer=""), at=datetime.now(UTC)) is SecretStep.KEEP


def test_what_is_backdated_is_renewed_by_when_it_was_issued() -> None:
    leaf = examine(GOOD, WANTED, NOW).chain[0]
    issued = leaf.not_before + timedelta(minutes=2)
    assert renewal_of(leaf, issued) == issued + (leaf.not_after - issued) * 2 / 3


def as_object(secret: ObservedSecret, **meta: object) -> bytes:
    data = {"tls.crt": secret.certificate, "tls.key": secret.key, "ca.crt": secret.ca}
    managed = [{"manager": "federation-hub", "fieldsV1": {"f:data": {"f:ca.crt": {}}}}] if secret.ours else []
    managed += [{"manager": w, "fieldsV1": {"f:data": {"f:tls.crt": {}}}} for w in secret.writers]
    return json.dumps(
        {
            "metadata": {
                "name": "istiod-tls",
                "namespace": "istio-system",
                "resourceVersion": "7",
                "managedFields": managed,
            }
            | meta,
            "type": secret.type,
            "data": {key: base64.b64encode(value).decode() for key, value in data.items() if value},
        }
    ).encode()


@given(
    parts=st.tuples(
        *(st.one_of(st.binary(max_size=200), st.sampled_from([GOOD.certificate, GOOD.key])),) * 3
    ),
    ours=st.booleans(),
    writers=st.sets(st.sampled_from(["cert-manager", "kubectl"])),
)
@settings(max_examples=300, deadline=None)
def test_any_content_is_decoded_unchanged_and_examined_without_a_crash(
    parts: tuple[bytes, bytes, bytes], ours: bool, writers: set[str]
) -> None:
    certificate, key, ca = parts
    secret = ObservedSecret(
        type="Opaque", certificate=certificate, key=key, ca=ca, ours=ours, writers=tuple(sorted(writers))
    )
    item = decode_secret(as_object(secret))
    assert item.value == secret
    examined = examine(secret, WANTED, NOW)
    assert examined.serves == (certificate == GOOD.certificate and key == GOOD.key)
    assert not (examined.foreign and ours)


@pytest.mark.parametrize("value", ["%", "AAA", "é", "=" * 9])
def test_a_value_that_is_not_base64_is_no_value(value: str) -> None:
    text = json.loads(as_object(GOOD)) | {"data": {"tls.crt": value}}
    assert decode_secret(json.dumps(text).encode()).value.certificate == b""


def test_the_whole_of_it_is_applied_and_the_type_that_is_there_stays() -> None:
    """A server-side apply takes away what it leaves out and owned; the API server lets no type be changed."""
    for secret, kind in ((None, "kubernetes.io/tls"), (observed(type="Opaque"), "Opaque")):
        body = json.loads(
            apply_body("istio-system", "istiod-tls", certificate=b"c", key=b"k", ca=b"a", observed=secret)
        )
        assert body["type"] == kind
        assert {k: base64.b64decode(v) for k, v in body["data"].items()} == {
            "tls.crt": b"c",
            "tls.key": b"k",
            "ca.crt": b"a",
        }


def test_nothing_of_a_key_is_in_what_can_be_printed() -> None:
    assert "PRIVATE" not in repr(GOOD)
    assert GOOD.key.splitlines()[1].decode() not in repr((GOOD, examine(GOOD, WANTED, NOW)))


# How it stands, in words


def sight(secret: ObservedSecret | None = GOOD, **changes: object) -> Sight:
    examined = examine(secret, WANTED, NOW) if secret is not None else None
    fields: dict[str, object] = {
        "namespace": "istio-system",
        "secret": "istiod-tls",
        "now": NOW,
        "present": True,
        "fresh": True,
        "wanted": WANTED,
        "examined": examined,
        "renew_at": NOW + timedelta(hours=1),
    }
    return Sight(**(fields | changes))  # type: ignore[arg-type]


REFUSED = Refused("the signer's listener refused the request", remedy="the signer's log says why")
FORBIDDEN = ClusterForbidden("secrets is forbidden")


@pytest.mark.parametrize(
    ("seen", "state", "said", "attention"),
    [
        (sight(), "provided", "", False),
        (sight(present=False), "waiting", "no namespace istio-system", False),
        (sight(present=None, fresh=False), "waiting", "being listed", True),
        (sight(fresh=False, unwatched=ClusterUnreachable("no route")), "waiting", "no route", True),
        (sight(fresh=False, unwatched=FORBIDDEN), "forbidden", "may not be watched", True),
        (sight(None, wanted=None), "waiting", "no bundle", True),
        (sight(None), "waiting", "one is being requested", True),
        (sight(None, withheld="2 namespaces hold other roots"), "waiting", "other roots", True),
        (sight(None, problem=REFUSED), "failed", "refused the request", True),
        (sight(None, problem=FORBIDDEN), "forbidden", "may not provide one", True),
        (sight(None, problem=ClusterInvalid("immutable")), "failed", "immutable", True),
        (sight(None, writers="cert-manager"), "failed", "cert-manager keeps changing it", True),
        (sight(observed(names=NAMES[:1])), "waiting", f"does not cover {NAMES[1]}", True),
        (sight(observed(key=b""), problem=REFUSED), "failed", "cannot serve", True),
        (sight(observed(intermediate("stranger"), ours=False)), "foreign", "another CA", True),
        (sight(renew_at=NOW), "provided", "due to be renewed", False),
        (sight(renew_at=NOW, problem=REFUSED), "provided", "refused the request", True),
        (sight(observed(intermediate("another", below="a"))), "provided", "by order", False),
        (sight(observed(intermediate("another", below="a")), problem=REFUSED), "provided", "refused", True),
        (sight(observed(ca=b"old")), "provided", "ca.crt is not the bundle", True),
        (sight(observed(ca=b"old"), writers="kubectl"), "provided", "kubectl keeps changing it", True),
        (sight(writers="kubectl"), "provided", "kubectl keeps changing it", True),
        (sight(observed(ca=b"old", ours=False), withheld="others"), "provided", "others", True),
    ],
)
def test_how_it_stands_is_said_with_what_to_do(seen: Sight, state: str, said: str, attention: bool) -> None:
    stands = istiod_certificate_state(seen)
    assert (stands.state, stands.attention) == (state, attention), stands
    assert said in stands.detail
    if state in {"forbidden", "foreign", "failed"}:
        assert stands.remedy
    if state in {"forbidden", "foreign"}:
        assert "provide_certificate = false" in stands.remedy


def test_a_green_word_is_said_only_of_what_was_read_back_and_serves() -> None:
    for seen in (
        sight(fresh=False),
        sight(present=False),
        sight(None),
        sight(observed(key=b"")),
        sight(examined=Examined()),
    ):
        assert istiod_certificate_state(seen).state != "provided"
