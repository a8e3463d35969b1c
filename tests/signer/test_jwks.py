"""A cluster's published keys: what is read, what is left out, what is refused as a whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from federation.core.errors import InvalidValue
from federation.core.jwks import MAX_DOCUMENT_BYTES, parse_key_set
from tests.signer import tokens as t


def test_reads_keys_by_name_and_binds_algorithms_to_their_kind() -> None:
    keys = parse_key_set(t.PUBLISHED, where="test")
    assert {kid: key.algorithms for kid, key in keys.items()} == {
        "rsa": {"RS256", "RS384", "RS512"},
        "p256": {"ES256"},
        "p384": {"ES384"},
    }


def test_an_algorithm_in_the_document_narrows_the_key() -> None:
    keys = parse_key_set(t.key_set(t.jwk(t.RSA_KEY, "a", alg="RS512")), where="test")
    assert keys["a"].algorithms == {"RS512"}


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "kid": "x", "k": "AAAA"},
        {"kty": "OKP", "kid": "x", "crv": "Ed25519", "x": "AAAA"},
        t.jwk(t.RSA_KEY, ""),
        t.jwk(t.RSA_KEY, "x", use="enc"),
        t.jwk(t.RSA_KEY, "x", alg="HS256"),
        t.jwk(t.RSA_KEY, "x", alg="ES256"),
        t.jwk(t.EC_KEY, "x", crv="P-384"),
        t.jwk(ec.generate_private_key(ec.SECP256K1()), "x"),
        t.jwk(rsa.generate_private_key(65537, 1024), "x"),
        RSAAlgorithm.to_jwk(t.RSA_KEY, as_dict=True) | {"kid": "x"},
        {"kty": "RSA", "kid": "x", "n": "", "e": "AQAB"},
        {"kty": "RSA", "kid": "x"},
        {
            "kty": "RSA",
            "kid": "x",
            "n": t.b64(b"\xff" * 2049),
            "e": "AQAB",
        },  # 16392 bits: each check would cost
        {"kty": "RSA", "kid": "x", "n": t.b64(b"\xff" * 64_000), "e": "AQAB"},
        {"kty": "RSA", "kid": "x", "n": t.b64(b"\xff" * 384), "e": t.b64(b"\x7f" + b"\xff" * 382)},
        {"kty": "EC", "kid": "x", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": ["RSA"], "kid": "x"},
        "a string",
        None,
    ],
)
def test_what_no_cluster_signs_with_is_left_out(entry: Any) -> None:
    good = t.jwk(t.RSA_KEY, "good")
    assert set(parse_key_set(t.key_set(entry, good), where="test")) == {"good"}
    with pytest.raises(InvalidValue, match="no key that a cluster signs"):
        parse_key_set(t.key_set(entry), where="test")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"{}",
        b"[]",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b"[" * 5000,
        b"\xff",
        b" " * (MAX_DOCUMENT_BYTES + 1),
        t.key_set(*(t.jwk(t.RSA_KEY, str(n)) for n in range(65))),
        t.key_set(t.jwk(t.RSA_KEY, "same"), t.jwk(t.STRANGER, "same")),
    ],
)
def test_what_is_no_key_set_is_refused_as_a_whole(data: bytes) -> None:
    with pytest.raises(InvalidValue):
        parse_key_set(data, where="test")


def test_one_key_given_twice_is_one_key() -> None:
    assert len(parse_key_set(t.key_set(t.jwk(t.RSA_KEY, "a"), t.jwk(t.RSA_KEY, "a")), where="test")) == 1


ENTRIES = st.recursive(st.none() | st.text(), st.lists, max_leaves=9)
GARBAGE = st.binary(max_size=400) | ENTRIES.map(lambda entry: json.dumps({"keys": [entry]}).encode())


@settings(max_examples=200, deadline=None)
@given(GARBAGE)
def test_garbage_never_becomes_a_key(data: bytes) -> None:
    with pytest.raises(InvalidValue):
        parse_key_set(data, where="test")
