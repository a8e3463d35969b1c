"""Handshakes in memory: who is accepted, who is refused, by whom and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.x509 import ExtendedKeyUsage
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.controller.proof.handshake import Credential, HandshakeError, handshake
from federation.core.pki.keys import KeyKind, private_key_pem
from tests.controller.parties import NOW, credential, identity
from tests.controller.world import intermediate, root
from tests.support import pki


def refusal(client: Credential, server: Credential) -> HandshakeError:
    with pytest.raises(HandshakeError) as refused:
        handshake(client=client, server=server)
    return refused.value


def test_two_workloads_of_one_root_accept_one_another() -> None:
    assert handshake(client=credential("east"), server=credential("west")) == "TLSv1.3"


def test_two_roots_need_both_anchors_on_both_sides() -> None:
    east, west = credential("east", "a", "a", "b"), credential("west", "b", "a", "b")
    assert handshake(client=east, server=west) == "TLSv1.3"
    error = refusal(credential("east", "a", "a"), west)
    assert (error.side, error.reason) == ("client", "certificate_refused")
    error = refusal(east, credential("west", "b", "b"))
    assert (error.side, error.reason) == ("server", "certificate_refused")


def test_an_intermediate_among_the_anchors_ends_a_path_as_in_envoy() -> None:
    east = credential("east")
    only_intermediate = replace(credential("west"), trust=(intermediate().certificate,))
    assert handshake(client=only_intermediate, server=east) == "TLSv1.3"
    bare = replace(east, chain=east.chain[:1])
    assert handshake(client=only_intermediate, server=bare) == "TLSv1.3"
    assert refusal(credential("west"), bare).reason == "certificate_refused"


def test_an_expired_leaf_is_refused() -> None:
    error = refusal(credential("east"), credential("west", expired=True))
    assert (error.side, error.reason) == ("client", "certificate_refused")
    assert "expired" in error.what
    assert refusal(credential("west", expired=True), credential("east")).side == "server"


def test_a_peer_of_another_identity_is_refused() -> None:
    east = credential("east")
    error = refusal(east, replace(credential("west"), identity=identity("north")))
    assert (error.side, error.reason) == ("client", "identity")
    assert "probe-west" in error.what
    assert refusal(replace(credential("west"), identity=identity("north")), east).side == "server"


def test_a_peer_of_another_trust_domain_is_refused() -> None:
    error = refusal(credential("east"), credential("west", domain="other.example"))
    assert (error.side, error.reason) == ("client", "trust_domain")
    assert "other.example" in error.what


def test_a_key_that_is_not_the_leafs_cannot_be_used() -> None:
    east = credential("east")
    error = refusal(east, replace(credential("west"), key_pem=east.key_pem))
    assert (error.side, error.reason) == ("server", "credential")
    assert "PRIVATE" not in str(error)


def test_without_trust_anchors_no_peer_is_accepted() -> None:
    error = refusal(replace(credential("east"), trust=()), credential("west"))
    assert (error.side, error.reason) == ("client", "trust")


def test_a_leaf_that_is_only_for_servers_is_refused_as_a_client() -> None:
    only_server = pki.leaf(
        intermediate(),
        identity("east"),
        private_key=pki.key("probe east"),
        not_before=NOW,
        not_after=NOW + pki.DAY,
        usage=ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    )
    east = replace(credential("east"), chain=(only_server, *intermediate().chain))
    west = credential("west")
    assert handshake(client=west, server=east) == "TLSv1.3"
    assert refusal(east, west).side == "server"


@pytest.mark.parametrize("kind", [KeyKind.EC_P384, KeyKind.RSA_2048])
def test_other_kinds_of_keys_shake_hands(kind: KeyKind) -> None:
    key = pki.key(f"probe {kind.value}", kind)
    name = identity("other")
    certificate = pki.leaf(intermediate(), name, private_key=key, not_before=NOW, not_after=NOW + pki.DAY)
    other = Credential(
        (certificate, *intermediate().chain), private_key_pem(key), (root().certificate,), name
    )
    assert handshake(client=other, server=credential("west")) == "TLSv1.3"


def test_no_descriptor_and_no_file_stays_behind() -> None:
    east, west = credential("east"), credential("west")
    handshake(client=east, server=west)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(5):
        handshake(client=east, server=west)
        refusal(east, credential("west", "b", "a"))
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before


def test_keys_are_not_shown() -> None:
    assert "PRIVATE" not in repr(credential("east"))
