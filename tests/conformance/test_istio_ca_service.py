"""The listener: istio-csr's and istiod's tests of CreateCertificate, by name, over TLS, and what they leave out."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.core.pki.chain import verify_chain
from federation.core.pki.keys import KeyKind, PrivateKey
from federation.core.pki.path_rules import Purpose
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation.signer.attestation.token_keys import LONGEST_USE
from federation_sandbox.apiserver.faults import Answer as Status
from tests.signer.running_signer import (
    Answer,
    RunningSigner,
    authority,
    bundle_of,
    eventually,
    identity_of,
    running_signer,
)
from tests.support import pki
from tests.support.clock import AheadClock

IDENTITY = identity_of("foo", "bar")
OTHER = identity_of("foo", "other")
UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")

SHAPES = [
    (kind, subject)
    for kind in (KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048)
    for subject in (pki.EMPTY_SUBJECT, pki.EMPTY_ORGANIZATION)
]


async def test_the_shapes_that_istios_clients_send(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        for kind, subject in SHAPES:
            own = pki.key(f"workload {kind}", kind)
            csr = pki.csr_pem(IDENTITY, private_key=own, subject=subject)
            check_leaf(hub, await hub.ask("east", token, csr), own)


def check_leaf(hub: RunningSigner, answer: Answer, own: PrivateKey) -> None:
    """What Istio's clients need of a reply, and what the profile promises."""
    leaf = answer.leaf
    assert leaf.public_key == own.public_key()
    assert leaf.x509.subject == pki.EMPTY_SUBJECT
    usage = leaf.extension(x509.ExtendedKeyUsage)
    assert usage is not None
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert leaf.uris == (str(IDENTITY),)
    assert leaf.serial.bit_length() > 64
    now = hub.clock.now()
    assert timedelta(seconds=110) < now - leaf.not_before < timedelta(seconds=140)
    chain = [c for e in answer.elements[:-1] for c in parse_certificates(e.encode(), where="chain")]
    roots = parse_certificates(answer.elements[-1].encode(), where="bundle")
    verify_chain(chain, roots, now, purpose=Purpose.BOTH, partial=False)


def cn() -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bar")])


GENERAL_NAMES: dict[str, list[x509.GeneralName]] = {
    "DNS": [x509.DNSName("bar.foo")],
    "email": [x509.RFC822Name("bar@foo.example")],
    "URI mismatch": [x509.UniformResourceIdentifier(str(OTHER))],
    "URI superset": [
        x509.UniformResourceIdentifier(str(IDENTITY)),
        x509.UniformResourceIdentifier(str(OTHER)),
    ],
    "URI superset, other order": [
        x509.UniformResourceIdentifier(str(OTHER)),
        x509.UniformResourceIdentifier(str(IDENTITY)),
    ],
    "URI twice": [x509.UniformResourceIdentifier(str(IDENTITY))] * 2,
    "URI and DNS": [x509.UniformResourceIdentifier(str(IDENTITY)), x509.DNSName("bar.foo")],
}


async def test_requests_that_istio_csr_refuses(tmp_path: Path) -> None:
    cases: dict[str, str] = {
        name: pki.csr_pem(san=x509.SubjectAlternativeName(names)) for name, names in GENERAL_NAMES.items()
    }
    cases |= {
        "IP": pki.csr_pem(san=x509.SubjectAlternativeName([x509.IPAddress(ip_address("10.0.0.1"))])),
        "CN": pki.csr_pem(IDENTITY, subject=cn()),
        "empty": "",
        "bad PEM": "-----BEGIN CERTIFICATE REQUEST-----\nbad\n-----END CERTIFICATE REQUEST-----\n",
        "trailing data": pki.csr_pem(IDENTITY) + "x",
        "two requests": pki.csr_pem(IDENTITY) * 2,
        "a certificate": pki.root().pem.decode(),
        "CA": pki.csr_pem(IDENTITY, extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)]),
        "certSign": pki.csr_pem(IDENTITY, extensions=[(pki.CA_KEY_USAGE, True)]),
        "code signing": pki.csr_pem(
            IDENTITY, extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)]
        ),
        "O": pki.csr_pem(
            IDENTITY, subject=x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")])
        ),
        "another trust domain": pki.csr_pem("spiffe://other.example/ns/foo/sa/bar"),
    }
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        for name, csr in cases.items():
            answer = await hub.ask("east", token, csr)
            assert (answer.code, answer.details) == UNAUTHENTICATED, name
        refused = hub.refused("east")
        assert sum(refused.values()) == len(cases)
        assert all(reason.startswith("csr_") for reason in refused)
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert hub.role.report().issued == 1


async def test_status_codes_reveal_only_whether_the_caller_or_the_hub_is_at_fault(tmp_path: Path) -> None:
    """The same answer whether the token, the cluster, the CSR or the policy is at fault."""
    async with running_signer(tmp_path, ("east", "west")) as hub:
        token = hub.pod("east")
        hub.policies["west"] = 'deny = ["*/*"]'
        await hub.reconfigure()
        answers = [
            await hub.ask("east", None),
            await hub.ask("east", "garbage"),
            await hub.ask("east", token[:-8] + "AAAAAAAA"),
            await hub.ask("nowhere", token),
            await hub.ask("west", token),
            await hub.ask("west", hub.pod("west")),
            await hub.ask("east", token, "garbage"),
            await hub.ask("east", token, message=b"\xff\xff\xff"),
            await hub.ask("east", token, fields={"ImpersonatedIdentity": str(OTHER)}),
            await hub.ask("east", token, metadata=[("authorization", f"Bearer {token}")]),
        ]
        assert {(answer.code, answer.details) for answer in answers} == {UNAUTHENTICATED}
        # "Bearer " ends with white space, which HTTP/2 does not allow (RFC 9113, 8.2.1): it is not even read.
        bare = await hub.ask("east", "")
        assert bare.code is grpc.StatusCode.INTERNAL
        assert hub.role.report().rejected_calls.total["headers_malformed"] == 1
        hub.clusters["east"].delete("pods", "foo", "bar-0")
        new = hub.pod("east", name="new-0")
        hub.store.failing = "horizons/"  # how far leaves reach cannot be persisted, so none is issued
        outage = await hub.ask("east", new)
        assert (outage.code, outage.details) == (
            grpc.StatusCode.UNAVAILABLE,
            "certificate signing is temporarily unavailable",
        )


async def test_other_authorization_headers_are_passed_over(tmp_path: Path) -> None:
    """Clients may add any header; CertSigner is sent by every sidecar, usually empty."""
    async with running_signer(tmp_path) as hub:
        token = hub.pod("east")
        answer = await hub.ask(
            "east",
            token,
            metadata=[
                ("authorization", "Basic Zm9vOmJhcg=="),
                ("x-anything", "1"),
                ("clusterid-bin", b"\x00"),
            ],
            fields={"CertSigner": "clusterissuers.cert-manager.io/istio"},
        )
        assert answer.code is grpc.StatusCode.OK
        assert (
            await hub.ask("east", None, metadata=[("authorization", f"bearer {token}")])
        ).code is grpc.StatusCode.OK


DURATIONS = [
    (600, 600),
    (3600, 3600),
    (7200, 3600),
    (0, 1800),
    (-1, 1800),
    (-(2**63), 1800),
    (9223372037, 3600),
    (2**63 - 1, 3600),
]


async def test_duration_cap(tmp_path: Path) -> None:
    def setup(hub: RunningSigner) -> None:
        hub.policies = {"east": "longest_ttl = 3600\ndefault_ttl = 1800"}

    async with running_signer(tmp_path, setup=setup) as hub:
        token = hub.pod("east")
        for asked, expected in DURATIONS:
            leaf = (await hub.ask("east", token, seconds=asked)).leaf
            assert abs((leaf.not_after - hub.clock.now()).total_seconds() - expected) < 5, asked


async def test_a_leaf_never_outlives_its_issuers(tmp_path: Path) -> None:
    now = SystemClock().now().replace(microsecond=0)
    root = pki.root("short", not_before=now - pki.DAY, not_after=now + timedelta(hours=3))
    above = pki.intermediate(
        "short 1", root, not_before=now - pki.DAY, not_after=now + timedelta(hours=9), path_length=1
    )
    ca = pki.intermediate("short 2", above, not_before=now - pki.DAY, not_after=now + timedelta(hours=5))

    async with running_signer(tmp_path, ca=ca) as hub:
        leaf = (await hub.ask("east", hub.pod("east"), seconds=86400)).leaf
        assert leaf.not_after == root.certificate.not_after


async def test_several_intermediates_give_one_element_each(tmp_path: Path) -> None:
    now = SystemClock().now().replace(microsecond=0)
    span: dict[str, Any] = {"not_before": now - pki.DAY, "not_after": now + 5 * pki.DAY}
    root = pki.root("tall", **span)
    upper = pki.intermediate("tall 1", root, path_length=1, **span)
    ca = pki.intermediate("tall 2", upper, **span)
    async with running_signer(tmp_path, ca=ca) as hub:
        elements = (await hub.ask("east", hub.pod("east"))).elements
        assert len(elements) == 4
        assert elements[1:3] == (ca.certificate.pem.decode(), upper.certificate.pem.decode())
        assert elements[3] == root.certificate.pem.decode()
        assert all(element.count("BEGIN CERTIFICATE") == 1 for element in elements)


async def test_several_roots_come_in_the_last_element(tmp_path: Path) -> None:
    second = authority("second")

    def setup(hub: RunningSigner) -> None:
        hub.pins = [second]

    async with running_signer(tmp_path, setup=setup) as hub:
        token = hub.pod("east")
        one = await hub.ask("east", token)
        await hub.publish(hub.ca, second)
        await eventually(lambda: hub.role.report().generation == 2)
        two = await hub.ask("east", token)
        assert one.elements[1:] == (hub.ca.certificate.pem.decode(), bundle_of(hub.ca).decode())
        assert two.elements[1:] == (hub.ca.certificate.pem.decode(), bundle_of(hub.ca, second).decode())
        assert two.elements[-1].count("BEGIN CERTIFICATE") == 2


async def test_authenticators_fall_back_from_keys_to_review(tmp_path: Path) -> None:
    """First that can decide wins: with keys gone the API server is asked, and the caller notices nothing."""
    clock = AheadClock()

    def setup(hub: RunningSigner) -> None:
        hub.clock = clock
        hub.listener_options = "serving_lifetime = 86400"

    async with running_signer(tmp_path, setup=setup) as hub:
        hub.pod("east")
        box = hub.clusters["east"]
        token = box.token("foo", "bar", pod="bar-0", expiration=3 * int(LONGEST_USE))
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        box.faults.inject(Status.forbidden(), path="/openid/v1/jwks")
        clock.ahead = LONGEST_USE
        assert not hub.attestors["east"].keys.usable
        before = box.requests.count(verb="create", resource="tokenreviews")
        assert (await hub.ask("east", token)).code is grpc.StatusCode.OK
        assert box.requests.count(verb="create", resource="tokenreviews") == before + 1
