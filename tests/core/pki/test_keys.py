"""Key kinds, and private keys out of files."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from federation.core.errors import InvalidValue
from federation.core.pki.development import generate_key
from federation.core.pki.keys import (
    MAX_KEY_FILE_BYTES,
    KeyKind,
    describe,
    kind_of,
    load_private_key,
    private_key_pem,
    signature_hash,
    signer,
    verify,
)
from tests.support.pki import key

P256, RSA2048 = key("keys"), key("keys", KeyKind.RSA_2048)


@pytest.mark.parametrize("kind", list(KeyKind))
def test_each_kind_is_made_known_stored_and_used(kind: KeyKind) -> None:
    own = key("keys", kind)
    assert kind_of(own) is kind_of(own.public_key()) is kind
    loaded = load_private_key(private_key_pem(own), where="key.pem")
    assert loaded.public_key() == own.public_key()
    signature = signer(loaded)(b"message")
    assert verify(own.public_key(), signature, b"message")
    assert not verify(own.public_key(), signature, b"massage")
    assert kind.is_rsa == isinstance(own, rsa.RSAPrivateKey)


def test_p384_signs_with_sha384_and_all_others_with_sha256() -> None:
    used = {kind: signature_hash(kind).name for kind in KeyKind}
    assert used == {kind: "sha384" if kind is KeyKind.EC_P384 else "sha256" for kind in KeyKind}


OTHERS: list[Callable[[], object]] = [
    lambda: ec.generate_private_key(ec.SECP224R1()),
    lambda: ec.generate_private_key(ec.SECP521R1()),
    lambda: rsa.generate_private_key(65537, 1024),
    lambda: rsa.generate_private_key(65537, 2176),
    lambda: rsa.generate_private_key(3, 2048),
    ed25519.Ed25519PrivateKey.generate,
]


@pytest.mark.parametrize(
    "make", OTHERS, ids=["P-224", "P-521", "RSA-1024", "RSA-2176", "exponent 3", "Ed25519"]
)
def test_other_kinds_are_unknown_and_not_loaded(make: Callable[[], object]) -> None:
    own = make()
    assert kind_of(own) is None
    assert kind_of(own.public_key()) is None  # type: ignore[attr-defined]
    assert describe(own)
    assert not verify(own.public_key(), b"", b"")  # type: ignore[attr-defined]
    with pytest.raises(InvalidValue, match="not accepted"):
        load_private_key(private_key_pem(own), where="key.pem")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue):
        signer(own)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [P256, RSA2048], ids=["EC", "RSA"])
def test_the_traditional_forms_load_too(own: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    pem = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    assert load_private_key(pem, where="key.pem").public_key() == own.public_key()


ENCRYPTED = P256.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"secret"),
)
PUBLIC = P256.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        (b"", "not a PEM private key"),
        (b"garbage", "not a PEM private key"),
        (PUBLIC, "not a PEM private key"),
        (private_key_pem(P256)[:-60], "not a PEM private key"),
        (ENCRYPTED, "encrypted"),
        (private_key_pem(P256) * 2, "more than one"),
        (b"A" * (MAX_KEY_FILE_BYTES + 1), "larger than"),
    ],
)
def test_files_that_hold_no_usable_key(pem: bytes, problem: str) -> None:
    with pytest.raises(InvalidValue, match=problem) as error:
        load_private_key(pem, where="key.pem")
    assert error.value.where == "key.pem"
    assert error.value.__suppress_context__ or error.value.__cause__ is None


def test_an_error_about_a_broken_key_has_no_byte_of_the_key() -> None:
    broken = private_key_pem(P256).replace(b"\n-----END", b"!\n-----END")
    with pytest.raises(InvalidValue) as error:
        load_private_key(broken, where="key.pem")
    body = broken.split(b"\n")[1].decode()
    assert body not in error.value.diagnostics()
    assert error.value.__cause__ is None


def test_generated_keys_are_new() -> None:
    assert generate_key(KeyKind.EC_P256).public_key() != generate_key(KeyKind.EC_P256).public_key()


def test_signatures_are_the_ones_of_certificates() -> None:
    assert isinstance(P256, ec.EllipticCurvePrivateKey)
    P256.public_key().verify(signer(P256)(b"m"), b"m", ec.ECDSA(hashes.SHA256()))
    assert not verify(RSA2048.public_key(), signer(P256)(b"m"), b"m")
