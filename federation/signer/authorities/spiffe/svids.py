"""SVIDs judged by their specifications before they are used (SPIFFE X509-SVID and JWT-SVID). Pure.

The agent is trusted: its socket is this machine's, and its word is what the hub is. What is checked is that
the SVID is one that a peer can accept, so that a mistake is told here and not by a failed login.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.der import elements
from federation.core.pki.keys import MAX_KEY_FILE_BYTES
from federation.core.pki.pem import encode_certificates
from federation.signer.authorities.own_credentials import ClientPair
from federation.signer.authorities.spiffe.messages import JwtSvid, X509Svid

MOST_CERTIFICATES: Final = 64
"""In a chain or a bundle; SPIRE's bundles hold a handful."""

MAX_JWT_BYTES: Final = 16 * 1024
"""More than any header field that would have to carry it."""

LATEST: Final = 1e11
"""Seconds since the epoch; JSON can hold numbers that arithmetic with dates does not survive."""

MAX_SPIFFE_ID_BYTES: Final = 2048  # SPIFFE-ID, 2.3


@dataclass(frozen=True, slots=True)
class OwnX509:
    """An X.509-SVID fit for use: as PEM, and when it ends."""

    spiffe_id: str
    pair: ClientPair
    not_after: datetime


@dataclass(frozen=True, slots=True)
class OwnJwt:
    """A JWT-SVID fit for use, and when it ends in seconds since the epoch."""

    spiffe_id: str
    token: str = field(repr=False)
    expires: float


def read_x509(svid: X509Svid, *, at: datetime) -> OwnX509:
    """The SVID as PEM.

    Raises InvalidValue where certificate and key do not belong together, or the leaf is none by X509-SVID,
    sections 2 to 4: one URI, which is the SPIFFE ID; not a CA; for digital signatures and client
    authentication; not expired.
    """
    chain, bundle = _certificates(svid.chain_der, "the chain"), _certificates(svid.bundle_der, "the bundle")
    leaf = chain[0]
    _check_leaf(leaf, svid.spiffe_id, at)
    key = _private_key(svid.key_der)
    if _spki(key.public_key()) != _spki(leaf.public_key):
        raise InvalidValue("the private key is not the certificate's")
    pair = ClientPair(
        chain_pem=encode_certificates(chain),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        bundle_pem=encode_certificates(bundle),
    )
    return OwnX509(svid.spiffe_id, pair, leaf.not_after)


def read_jwt(svid: JwtSvid, audience: str, *, at: datetime) -> OwnJwt:
    """The SVID and its end; the signature is for whoever receives it to verify.

    Raises InvalidValue where it is no JWS in compact form, or its claims are not those of JWT-SVID, section 3:
    ``sub`` the SPIFFE ID, ``aud`` the audience, ``exp`` in the future.
    """
    if len(svid.token) > MAX_JWT_BYTES:
        raise InvalidValue(f"a JWT of {len(svid.token)} bytes; at most {MAX_JWT_BYTES} are read")
    if not svid.token.isascii():
        raise InvalidValue("the JWT is not ASCII")
    _check_id(svid.spiffe_id)
    try:
        claims = jwt.decode(svid.token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidValue("it is not a JWT in compact form") from None
    if claims.get("sub") != svid.spiffe_id:
        raise InvalidValue("the JWT's subject is not the SPIFFE ID")
    audiences = claims.get("aud")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise InvalidValue("the JWT is for another audience")
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or isinstance(expires, bool) or not 0 < expires < LATEST:
        raise InvalidValue("the JWT does not say when it ends")
    if expires <= at.timestamp():
        raise InvalidValue("the JWT has expired already")
    return OwnJwt(svid.spiffe_id, svid.token, float(expires))


def _check_leaf(leaf: Certificate, spiffe_id: str, at: datetime) -> None:
    if leaf.uris != (spiffe_id,):
        raise InvalidValue("the certificate's one URI is not the SPIFFE ID")
    _check_id(spiffe_id)
    usage = leaf.extension(x509.KeyUsage)
    if leaf.is_ca or usage is None or usage.key_cert_sign or usage.crl_sign:
        raise InvalidValue("the certificate may sign others: it is not a leaf")
    if not usage.digital_signature:
        raise InvalidValue("the certificate is not for digital signatures")
    purposes = leaf.extension(x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise InvalidValue("the certificate is not for client authentication")
    if leaf.not_after <= at:
        raise InvalidValue(f"the certificate ended at {leaf.not_after:%Y-%m-%d %H:%M:%S} UTC")


def _check_id(spiffe_id: str) -> None:
    """Refuse what is no SPIFFE ID of a workload (SPIFFE-ID, section 2): scheme, trust domain and path."""
    if len(spiffe_id.encode()) > MAX_SPIFFE_ID_BYTES or not spiffe_id.isprintable():
        raise InvalidValue("the SPIFFE ID is too long, or not printable")
    try:
        uri = urlsplit(spiffe_id)
    except ValueError:
        raise InvalidValue("the SPIFFE ID is not a URI") from None
    if uri.scheme != "spiffe" or not uri.netloc or len(uri.path) < 2 or uri.query or uri.fragment:
        raise InvalidValue("the SPIFFE ID is not of the form spiffe://<trust domain>/<path>")


def _certificates(der: bytes, what: str) -> tuple[Certificate, ...]:
    """Certificates that stand one after another."""
    parts = elements(der, 0, len(der))
    if not 1 <= len(parts) <= MOST_CERTIFICATES:
        raise InvalidValue(f"{what} has {len(parts)} certificates; 1 to {MOST_CERTIFICATES} are read")
    return tuple(Certificate.from_der(der[start:stop], where=what) for _, start, _, stop in parts)


def _private_key(der: bytes) -> PrivateKeyTypes:
    if len(der) > MAX_KEY_FILE_BYTES:
        raise InvalidValue(f"the private key is larger than {MAX_KEY_FILE_BYTES} bytes")
    try:
        return serialization.load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidValue("the private key is not an unencrypted PKCS#8 key") from None


def _spki(key: object) -> bytes:
    """The DER of a public key; every kind that a certificate can hold has it."""
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
