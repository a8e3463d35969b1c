"""Every chain that the hub verifies is accepted by production verifiers: gRPC's BoringSSL, OpenSSL and a real Envoy.

Each case is an authority with one peculiarity. Some that the hub refuses are accepted by some verifiers: it refuses
what any one of BoringSSL, Go and rustls refuses (docs/security.md).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.controller.proof.handshake import Credential, HandshakeError, handshake
from federation.core.errors import AuthorityMisconfigured
from federation.core.identity import SpiffeId, TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import SubjectAltName
from federation.core.pki.keys import KeyKind, private_key_pem, signer, spki
from federation.core.pki.leaf import LeafProfile, LeafTemplate
from federation.core.pki.verification import check_intermediate
from federation.runtime.clock import SystemClock
from tests.support import pki
from tests.support.envoy import Envoy, call, running, write_identity
from tests.support.patience import PATIENCE

HOST = "hub.mesh.example"
IDENTITY = SpiffeId.parse("spiffe://mesh.example/ns/shop/sa/frontend")
NOW = SystemClock().now().replace(microsecond=0)
TIMES: pki.Times = {"not_before": NOW - pki.DAY, "not_after": NOW + 30 * pki.DAY}
CA_USAGE = (pki.CA_KEY_USAGE, True)
CA = (x509.BasicConstraints(ca=True, path_length=0), True)


@dataclass(frozen=True)
class Case:
    """An authority, and whether the hub may call it verified."""

    make: Callable[[], pki.Authority]
    fit: bool
    reason: str = ""


def below(
    issuer: pki.Authority, *extensions: tuple[x509.ExtensionType, bool], **options: object
) -> pki.Authority:
    """An intermediate with exactly these extensions."""
    own = pki.key("of a case")
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "of a case")])
    made = pki.certificate(
        issuer,
        extensions,
        public_key=own.public_key(),
        **{"subject": subject, **TIMES, **options},  # type: ignore[arg-type]
    )
    return pki.Authority(made, own, (made,), issuer.root)


def ordinary(kind: KeyKind) -> pki.Authority:
    return pki.intermediate(
        f"case {kind.value}", pki.root(f"case {kind.value}", kind, **TIMES), kind, **TIMES
    )


def plain(*extensions: tuple[x509.ExtensionType, bool], **options: object) -> pki.Authority:
    return below(pki.root("of cases", **TIMES), *extensions, **options)


def constrained(
    permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None = None
) -> pki.Authority:
    return plain(CA, CA_USAGE, (x509.NameConstraints(permitted, excluded), True))


def renumbered(number: bytes) -> pki.Authority:
    above = pki.root("renumbered", **TIMES)
    own = pki.intermediate("below renumbered", above, **TIMES)
    return pki.Authority(own.certificate, own.key, own.chain, pki.renumbered(above, number))


def on_curve(curve: ec.EllipticCurve) -> pki.Authority:
    return pki.root_of_curve(curve, **TIMES)[1]


def signed_by_pss() -> pki.Authority:
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return below(pki.root("pss", KeyKind.RSA_2048, **TIMES), CA, CA_USAGE, rsa_padding=scheme)


def large(length: int) -> pki.Authority:
    """With a name of that many characters, and so with issuers of more than twice as many bytes in every handshake."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "o" * length)])
    return plain(CA, CA_USAGE, subject=subject)


def other_issuer() -> pki.Authority:
    """What `openssl ca` with `authorityKeyIdentifier = issuer:always` leaves behind once its root was issued again."""
    above = pki.root("of cases", **TIMES).certificate
    issuer = [x509.DirectoryName(above.x509.issuer)]
    identifier = x509.AuthorityKeyIdentifier(bytes.fromhex(above.key_id), issuer, above.serial + 2)
    return plain(CA, CA_USAGE, (identifier, False), authority_key_id=False)


POLICY = x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)
ANY_USAGE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
CASES = {
    **{kind.value: Case(lambda kind=kind: ordinary(kind), fit=True) for kind in KeyKind},  # type: ignore[misc]
    "signed with RSASSA-PSS": Case(signed_by_pss, fit=True),
    "basicConstraints not critical": Case(lambda: plain((CA[0], False), CA_USAGE), fit=True),
    "no key usage": Case(lambda: plain(CA), fit=True),
    "no key identifiers": Case(lambda: plain(CA, CA_USAGE, authority_key_id=False), fit=True),
    "serial number 0 of the root": Case(lambda: renumbered(b"\0"), fit=True),
    "negative serial number of the root": Case(lambda: renumbered(b"\x85"), fit=True),
    "constraints that permit": Case(
        lambda: constrained([DNS("mesh.example"), URI("mesh.example")]), fit=True
    ),
    "constraints that exclude others": Case(lambda: constrained(None, [DNS("corp.example")]), fit=True),
    "constraints without the listener": Case(
        lambda: constrained([DNS("corp.example")]), False, "name_constraints"
    ),
    "constraints that exclude the listener": Case(
        lambda: constrained(None, [DNS("example")]), False, "name_constraints"
    ),
    "constraints without the mesh": Case(
        lambda: constrained([URI("other.example")]), False, "name_constraints"
    ),
    "constraints on subjects": Case(
        lambda: constrained(None, [x509.DirectoryName(pki.EMPTY_ORGANIZATION)]), False, "name_constraints"
    ),
    "brainpool": Case(lambda: on_curve(ec.BrainpoolP256R1()), False, "weak_key"),
    "secp256k1": Case(lambda: on_curve(ec.SECP256K1()), False, "weak_key"),
    "P-521": Case(lambda: on_curve(ec.SECP521R1()), False, "weak_key"),
    "no subject": Case(lambda: plain(CA, CA_USAGE, subject=x509.Name([])), False, "no_subject"),
    "critical key identifier": Case(
        lambda: plain(CA, CA_USAGE, (x509.SubjectKeyIdentifier(b"1" * 20), True)), False, "critical_extension"
    ),
    "no CA": Case(lambda: plain((x509.BasicConstraints(ca=False, path_length=None), True)), False, "not_ca"),
    "path length": Case(
        lambda: pki.intermediate(
            "too low", pki.intermediate("case", pki.root("of cases", **TIMES), **TIMES), **TIMES
        ),
        False,
        "path_length",
    ),
    "another serial number of the issuer": Case(other_issuer, False, "other_issuer"),
    "an explicit policy": Case(
        lambda: plain(CA, CA_USAGE, (x509.PolicyConstraints(0, None), False)), False, "uncommon_form"
    ),
    "a policy twice": Case(
        lambda: plain(CA, CA_USAGE, (x509.CertificatePolicies([POLICY, POLICY]), False)),
        False,
        "uncommon_form",
    ),
    "3,000 characters of name": Case(lambda: large(3000), fit=True),
    # gRPC's buffer for a handshake has just enough room for it, or not, as it is emptied.
    "4,500 characters of name": Case(lambda: large(4500), False, "too_large"),
    "9,000 characters of name": Case(lambda: large(9000), False, "too_large"),
    "any usage": Case(
        lambda: plain(CA, CA_USAGE, (x509.ExtendedKeyUsage([ANY_USAGE]), False)), False, "extended_key_usage"
    ),
}
REFUSED_BY_BORINGSSL = (
    "constraints without the listener", "constraints that exclude the listener", "brainpool", "secp256k1", "no CA",
    "path length", "another serial number of the issuer", "an explicit policy", "a policy twice",
    "9,000 characters of name",
)  # fmt: skip


def leaf_of(authority: pki.Authority, profile: LeafProfile) -> Certificate:
    """What the hub would sign with it, by its own template."""
    key = pki.key("workload of a case").public_key()
    san = (
        SubjectAltName.of_hosts([HOST])
        if profile is LeafProfile.SERVING
        else SubjectAltName.of_identity(IDENTITY)
    )
    template = LeafTemplate(authority.certificate, profile)
    tbs = template.tbs(spki(key), san, 4711, NOW - timedelta(minutes=2), NOW + timedelta(hours=1))
    return Certificate.from_der(template.assemble(tbs, signer(authority.key)(tbs)))


def hub_says(authority: pki.Authority) -> str:
    """The reason for which the hub refuses it; empty where it may sign."""
    try:
        check_intermediate(
            authority.chain,
            authority.key.public_key(),
            [authority.root],
            NOW,
            trust_domain=TrustDomain("mesh.example"),
            hosts=(HOST,),
        )
    except AuthorityMisconfigured as error:
        return error.reason
    return ""


def openssl_accepts(authority: pki.Authority) -> bool:
    """A mutual handshake of two workloads, as in the hub's own proof."""
    chain = (leaf_of(authority, LeafProfile.WORKLOAD), *authority.chain)
    own = Credential(chain, private_key_pem(pki.key("workload of a case")), (authority.root,), IDENTITY)
    try:
        handshake(client=own, server=own)
    except HandshakeError:
        return False
    return True


async def boringssl_accepts(authority: pki.Authority) -> bool:
    """gRPC's client and server, which are a listener of that authority and a workload."""
    key = private_key_pem(pki.key("workload of a case"))
    listener, workload = (
        leaf_of(authority, profile).pem + authority.chain_pem
        for profile in (LeafProfile.SERVING, LeafProfile.WORKLOAD)
    )
    roots = authority.root.pem
    server = grpc.aio.server()
    own = grpc.ssl_server_credentials([(key, listener)], root_certificates=roots, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", own)
    await server.start()
    options = [("grpc.ssl_target_name_override", HOST), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(roots, key, workload)
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
            await channel.unary_unary("/nothing/Here")(b"", timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNIMPLEMENTED  # it got through to a server without that method
    finally:
        await server.stop(None)
    raise AssertionError("a server without methods has answered")


@pytest.mark.parametrize("name", CASES)
async def test_what_the_hub_accepts_openssl_and_boringssl_accept(name: str) -> None:
    case = CASES[name]
    authority = case.make()
    assert hub_says(authority) == case.reason
    assert (case.reason == "") is case.fit
    boringssl = await boringssl_accepts(authority)
    if case.fit:
        assert boringssl
        assert await asyncio.to_thread(openssl_accepts, authority)
    elif name in REFUSED_BY_BORINGSSL:
        assert not boringssl


@pytest.mark.parametrize(
    "name", ["ecdsa-p256", "serial number 0 of the root", "constraints without the mesh", "brainpool"]
)
async def test_a_real_envoy_decides_the_same(name: str, tmp_path: Path) -> None:
    authority = CASES[name].make()
    chain = leaf_of(authority, LeafProfile.WORKLOAD).pem + authority.chain_pem
    key = private_key_pem(pki.key("workload of a case"))
    proxies = [Envoy(side, tmp_path / side, "mesh.example") for side in ("client", "server")]
    for proxy in proxies:
        write_identity(proxy.identity, chain=chain, key=key, trust=authority.root.pem)
    client, server = proxies
    accepted = True
    try:
        async with running([(server, {}), (client, {"server": (server, str(IDENTITY))})]):
            await call(client, "server")
    except (aiohttp.ClientError, TimeoutError, ssl.SSLError, AssertionError):
        accepted = False  # of the handshake, or of the configuration
    assert accepted is CASES[name].fit
