"""Who is calling: client certificate, then bearer token, else anonymous; and the keys and certificates behind that.

Source: "Authenticating" in the Kubernetes documentation. A credential that is sent and not accepted is 401, never
anonymous. A caller is a name, groups and what else the credential says.

**Service account tokens** are made by TokenRequest and checked as the API server checks them. Source:
k8s.io/kubernetes ``pkg/registry/core/serviceaccount/storage/token.go`` (issuing), ``pkg/serviceaccount/claims.go``
and ``jwt.go`` (claims and their validation), KEP-1205 (bound tokens), KEP-4193 (node and credential ID). The keys
that sign them are published as a JSON Web Key Set. Source: ``pkg/serviceaccount/jwt.go`` (key IDs) and
``openidmetadata.go`` (what is published).

**TLS:** the cluster's own CA, its serving certificate and the client certificates it issues. These belong to the
transport, whose clients verify them by the system's clock; so their validity is in real time, whatever clock the rest
of the cluster runs by.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import ssl
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.types import Options

from federation_sandbox.apiserver.resources import NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from federation_sandbox.apiserver.status import ApiError, bad_request, invalid, not_found, unauthorized
from federation_sandbox.apiserver.store import Obj, Store, metadata, new_uid, timestamp

ANONYMOUS_NAME = "system:anonymous"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
MASTERS = "system:masters"
SERVICE_ACCOUNT_GROUP = "system:serviceaccounts"


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated user (or the anonymous one)."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The ``user`` of a TokenReview or SelfSubjectReview status."""
        found: dict[str, Any] = {"username": self.name}
        if self.uid:
            found["uid"] = self.uid
        found["groups"] = list(self.groups)
        if self.extra:
            found["extra"] = {key: list(values) for key, values in self.extra.items()}
        return found


ANONYMOUS = User(ANONYMOUS_NAME, (UNAUTHENTICATED,))


def authenticated(name: str, groups: tuple[str, ...] = ()) -> User:
    """A user with a separate credential; ``system:authenticated`` comes with it."""
    return User(name, (*groups, AUTHENTICATED) if AUTHENTICATED not in groups else groups)


def service_account_name(namespace: str, name: str) -> str:
    """The user name of a service account (KEP-1205)."""
    return f"system:serviceaccount:{namespace}:{name}"


def service_account_groups(namespace: str) -> tuple[str, ...]:
    """The groups of every service account of a namespace."""
    return SERVICE_ACCOUNT_GROUP, f"{SERVICE_ACCOUNT_GROUP}:{namespace}", AUTHENTICATED


Algorithm = Literal["RS256", "ES256"]


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key. Its ID is the SHA-256 of the public key's DER, as kube-apiserver derives it."""

    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    algorithm: Algorithm
    key_id: str

    @classmethod
    def generate(cls, algorithm: Algorithm) -> SigningKey:
        """A new RSA-2048 or P-256 key."""
        private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if algorithm == "RS256":
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        else:
            private = ec.generate_private_key(ec.SECP256R1())
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(private, algorithm, _base64url(hashlib.sha256(spki).digest()))

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS over the claims; its header holds ``alg`` and ``kid`` only."""
        headers = {"kid": self.key_id, "typ": None}
        return jwt.encode(dict(claims), self.private, algorithm=self.algorithm, headers=headers)

    def jwk(self) -> dict[str, str]:
        """The public half as a JSON Web Key (RFC 7517)."""
        head = {"use": "sig", "kid": self.key_id, "alg": self.algorithm}
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            modulus = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
            return head | {
                "kty": "RSA",
                "n": _base64url(modulus),
                "e": _base64url(numbers.e.to_bytes(3, "big")),
            }
        point = public.public_numbers()
        x, y = (_base64url(value.to_bytes(32, "big")) for value in (point.x, point.y))
        return head | {"kty": "EC", "crv": "P-256", "x": x, "y": y}


class KeyRing:
    """The keys of one cluster: the first signs, all of them verify and are published."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm: Algorithm = algorithm
        self.keys = [SigningKey.generate(algorithm)]

    @property
    def signing(self) -> SigningKey:
        """The key that signs new tokens."""
        return self.keys[0]

    def rotate(self, algorithm: Algorithm | None = None) -> SigningKey:
        """Sign with a new key from now on; older ones still verify."""
        self.keys.insert(0, SigningKey.generate(algorithm or self.algorithm))
        return self.signing

    def retire(self) -> None:
        """Forget every key but the one that signs: older tokens are worth nothing any more."""
        del self.keys[1:]

    def find(self, key_id: str) -> SigningKey | None:
        """The key with that ID."""
        return next((key for key in self.keys if key.key_id == key_id), None)

    def jwks(self) -> dict[str, Any]:
        """What ``/openid/v1/jwks`` answers."""
        return {"keys": [key.jwk() for key in self.keys]}

    def discovery(self, issuer: str, jwks_uri: str) -> dict[str, Any]:
        """What ``/.well-known/openid-configuration`` answers (OpenID Connect Discovery 1.0)."""
        return {
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self.keys}),
        }


DEFAULT_SECONDS: Final = 3600
MIN_SECONDS: Final = 600
MAX_SECONDS: Final = 1 << 32
WARN_ONLY_SECONDS: Final = 3607  # what kubelets ask for: such tokens live a year and warn after an hour
EXTENDED_SECONDS: Final = 365 * 24 * 3600
MOST_REMEMBERED: Final = 1000
"""Tokens whose signature is verified once: each request of the hub shows one. Claims are looked at each time."""

LEEWAY: Final = timedelta(minutes=1)  # go-jose's default for exp, nbf and iat
DELETION_LEEWAY: Final = timedelta(seconds=60)  # a terminating pod's token still works this long

_EXTRA = "authentication.kubernetes.io/"
# Claims are checked here, by the cluster's own clock and audiences; PyJWT only verifies the signature.
_BY_HAND: Final[Options] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class TokenRejectedError(Exception):
    """The token authenticates no user; the text is what a TokenReview's ``status.error`` says."""


class NotOursError(TokenRejectedError):
    """Not a token of this issuer at all: another authenticator may know it."""


class ServiceAccountTokens:
    """Issues and checks the service account tokens of one cluster."""

    def __init__(
        self,
        store: Store,
        keys: KeyRing,
        now: Callable[[], datetime],
        *,
        issuer: str,
        audiences: Sequence[str],
    ) -> None:
        self._store = store
        self._keys = keys
        self._signed: dict[str, tuple[SigningKey, Obj]] = {}
        """Tokens whose signature was verified, by which key, and their claims."""
        self._now = now
        self.issuer = issuer
        self.former_issuers: set[str] = set()  # --service-account-issuer, given again: their tokens are taken
        self.node_claims = True  # ServiceAccountTokenPodNodeInfo: from Kubernetes 1.30 on
        self.audiences = tuple(audiences)

    def request(self, namespace: str, name: str, spec: Obj) -> tuple[str, datetime, Obj]:
        """TokenRequest: the token, when its holder should have replaced it, and the spec as it was taken.

        Raises ApiError: 404 for a missing account or bound object, 409 for another UID, 422 for a bad
        duration.
        """
        account = self._store.get(SERVICE_ACCOUNTS, namespace, name)
        if account is None:
            raise not_found(SERVICE_ACCOUNTS, name)
        seconds = spec.get("expirationSeconds") or DEFAULT_SECONDS
        problem = ""
        if seconds < MIN_SECONDS:
            problem = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
        elif seconds > MAX_SECONDS:
            problem = f"Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds"
        if problem:
            raise invalid("TokenRequest", "authentication.k8s.io", "", "spec.expirationSeconds", problem)
        audiences = list(spec.get("audiences") or self.audiences)
        kubernetes: Obj = {"namespace": namespace}
        reference = spec.get("boundObjectRef")
        if reference:
            kubernetes |= self._bind(namespace, name, reference)
        kubernetes["serviceaccount"] = {"name": name, "uid": account.uid}
        now = self._now()
        expires = replace_by = now + timedelta(seconds=seconds)
        if seconds == WARN_ONLY_SECONDS and set(audiences) <= set(self.audiences):
            kubernetes["warnafter"] = int(replace_by.timestamp())
            expires = now + timedelta(seconds=EXTENDED_SECONDS)
        claims = {
            "aud": audiences,
            "exp": int(expires.timestamp()),
            "iat": int(now.timestamp()),
            "iss": self.issuer,
            "jti": new_uid(),
            "kubernetes.io": kubernetes,
            "nbf": int(now.timestamp()),
            "sub": service_account_name(namespace, name),
        }
        taken = {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": reference}
        return self._keys.signing.sign(claims), replace_by, taken

    def _bind(self, namespace: str, account: str, reference: Obj) -> Obj:
        kind, name = reference.get("kind"), reference.get("name", "")
        resource = {"Pod": PODS, "Secret": SECRETS, "Node": NODES}.get(kind or "")
        if resource is None:
            raise bad_request(f'cannot bind token to object of type "{kind}"')
        bound = self._store.get(resource, namespace if resource.namespaced else "", name)
        if bound is None:
            raise not_found(resource, name)
        if reference.get("uid") not in {None, "", bound.uid}:
            why = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in "
                "record. The object might have been deleted and then recreated"
            )
            message = f'Operation cannot be fulfilled on {kind} "{name}": {why}'
            raise ApiError(409, "Conflict", message, details={"name": name, "kind": kind})
        claim = {"name": name, "uid": bound.uid}
        if resource != PODS:
            return {str(kind).lower(): claim}
        if bound.value["spec"].get("serviceAccountName") != account:
            raise bad_request(
                f'cannot bind token for serviceaccount "{account}" to pod running with different '
                "serviceaccount name."
            )
        node = bound.value["spec"].get("nodeName")
        return ({"node": self._node(node)} if node and self.node_claims else {}) | {"pod": claim}

    def _node(self, name: str) -> Obj:
        node = self._store.get(NODES, "", name)
        return {"name": name, "uid": node.uid} if node is not None else {"name": name}

    def authenticate(self, token: str, audiences: Sequence[str]) -> tuple[User, tuple[str, ...]]:
        """The token's user, and those of ``audiences`` it is for. Raises :class:`TokenRejectedError`."""
        claims = self._verified(token)
        own = claims.get("aud") or []
        own = [own] if isinstance(own, str) else own
        shared = tuple(audience for audience in own if audience in audiences)
        if not shared:
            wanted, given = (" ".join(f'"{one}"' for one in many) for many in (audiences, own))
            raise TokenRejectedError(
                f"token audiences [{given}] is invalid for the target audiences [{wanted}]"
            )
        self._check_times(claims)
        kubernetes = claims.get("kubernetes.io") or {}
        namespace, account = kubernetes.get("namespace", ""), kubernetes.get("serviceaccount") or {}
        if claims.get("sub") != service_account_name(namespace, account.get("name", "")):
            raise TokenRejectedError("service account name does not match the token's subject")
        self._check_alive(SERVICE_ACCOUNTS, "service account", namespace, account)
        extra = {_EXTRA + "credential-id": (f"JTI={claims['jti']}",)} if claims.get("jti") else {}
        for kind, resource in (("pod", PODS), ("secret", SECRETS), ("node", NODES)):
            reference = kubernetes.get(kind)
            if not reference:
                continue
            if kind != "node" or "pod" not in kubernetes:
                self._check_alive(resource, kind, namespace if resource.namespaced else "", reference)
            if kind != "secret":
                extra |= {f"{_EXTRA}{kind}-{part}": (value,) for part, value in reference.items() if value}
        name = account.get("name", "")
        groups = service_account_groups(namespace)
        user = User(
            service_account_name(namespace, name), groups, account.get("uid", ""), dict(sorted(extra.items()))
        )
        return user, shared

    def _verified(self, token: str) -> Obj:
        """The claims of a token that one of our keys signed for our issuer."""
        key, claims = self._signed.get(token, (None, {}))
        if key is None or self._keys.find(key.key_id) is not key:
            key, claims = self._signature_verified(token)
            if len(self._signed) >= MOST_REMEMBERED:
                self._signed.clear()
            self._signed[token] = key, claims
        if not self._is_ours(claims):
            raise NotOursError("invalid bearer token")
        return claims

    def _signature_verified(self, token: str) -> tuple[SigningKey, Obj]:
        """The key that signed a token, and its claims."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise NotOursError("invalid bearer token") from None
        key = self._keys.find(str(header.get("kid", "")))
        if key is None:
            raise self._unknown_key(token)
        try:
            claims: Obj = jwt.decode(
                token, key.private.public_key(), algorithms=[key.algorithm], options=_BY_HAND
            )
        except jwt.PyJWTError:
            raise TokenRejectedError("error in cryptographic primitive") from None
        return key, claims

    def _is_ours(self, claims: Obj) -> bool:
        return claims.get("iss") in {self.issuer, *self.former_issuers}

    def _unknown_key(self, token: str) -> TokenRejectedError:
        """Whether it is another issuer's token, or claims to be ours and is not."""
        try:
            claimed = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return NotOursError("invalid bearer token")
        if not self._is_ours(claimed):
            return NotOursError("invalid bearer token")
        return TokenRejectedError("no key of this cluster signed the token")

    def _check_times(self, claims: Obj) -> None:
        now = self._now().timestamp()
        if now - LEEWAY.total_seconds() > claims.get("exp", 0):
            raise TokenRejectedError("service account token has expired")
        if now + LEEWAY.total_seconds() < claims.get("nbf", 0):
            raise TokenRejectedError("service account token is not valid yet")

    def _check_alive(self, resource: Any, what: str, namespace: str, reference: Obj) -> None:
        """The object the token speaks of exists, is the same one, and is not long being deleted."""
        name = reference.get("name", "")
        found = self._store.get(resource, namespace, name)
        if found is None:
            if resource == SERVICE_ACCOUNTS:
                raise TokenRejectedError(f'serviceaccounts "{name}" not found')
            raise TokenRejectedError("service account token has been invalidated")
        if found.uid != reference.get("uid"):
            raise TokenRejectedError(
                f"{what} UID ({found.uid}) does not match claim ({reference.get('uid')})"
            )
        deleted = metadata(found.value).get("deletionTimestamp")
        if deleted and deleted < timestamp(self._now() - DELETION_LEEWAY):
            raise TokenRejectedError(f"{what} has been deleted")


_LIFETIME = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


class ClusterCa:
    """A cluster's certificate authority (kubeadm's ``ca.crt``), for the server and for its users."""

    def __init__(self, cluster: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"{cluster}-ca")
        self._certificate = self._builder(self._name, self._key.public_key(), ca=True).sign(
            self._key, hashes.SHA256()
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def serving(self) -> KeyPair:
        """The API server's certificate, for loopback and the in-cluster service names."""
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        names += [x509.DNSName(name) for name in ("localhost", "kubernetes", "kubernetes.default.svc")]
        return self._issue(_name("kube-apiserver"), ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """A client certificate: the common name is the user, each organization a group."""
        return self._issue(_name(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _issue(
        self, subject: x509.Name, usage: x509.ObjectIdentifier, names: list[x509.GeneralName]
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject, key.public_key(), ca=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return KeyPair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=not ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=ca,
            crl_sign=ca,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations
    ]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def server_context(ca: ClusterCa) -> ssl.SSLContext:
    """TLS for the server: a client certificate is asked for, not demanded, and must chain to the CA.

    A certificate of another CA fails in the handshake here, where kube-apiserver completes it and answers
    401.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    pair = ca.serving()
    with tempfile.TemporaryDirectory(prefix="federation-sandbox-") as directory:
        file = Path(directory) / "serving.pem"  # the ssl module loads key and certificate from files only
        file.touch(mode=0o600)
        file.write_bytes(pair.certificate + pair.key)
        context.load_cert_chain(file)
    context.load_verify_locations(cadata=ca.pem.decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


@lru_cache(maxsize=1024)
def certificate_user(der: bytes) -> tuple[str, tuple[str, ...]]:
    """User name and groups of a verified client certificate."""
    subject = x509.load_der_x509_certificate(der).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else "", tuple(str(group.value) for group in groups)


class Authenticator:
    """Every way to prove a name to one cluster."""

    def __init__(self, tokens: ServiceAccountTokens) -> None:
        self._tokens = tokens
        self._static: dict[str, User] = {}

    def add_token(self, token: str, user: User) -> None:
        """Accept an opaque token for a user, as ``--token-auth-file`` does."""
        self._static[token] = user

    def revoke(self, token: str) -> None:
        """Accept an opaque token no longer."""
        self._static.pop(token, None)

    def caller(self, authorization: str | None, certificate: bytes | None) -> User:
        """The user of one request. Raises ApiError 401."""
        if certificate is not None:
            name, groups = certificate_user(certificate)
            return authenticated(name, groups)
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return ANONYMOUS
        try:
            user, _ = self.review(token.strip(), self._tokens.audiences)
        except TokenRejectedError:
            raise unauthorized() from None
        return user

    def review(self, token: str, audiences: Sequence[str]) -> tuple[User, tuple[str, ...]]:
        """The token's user and those audiences it is good for. Raises :class:`TokenRejectedError`.

        Opaque tokens know no audience: they are good for the API server's own.
        """
        user = self._static.get(token)
        if user is not None:
            shared = tuple(audience for audience in audiences if audience in self._tokens.audiences)
            if shared:
                return user, shared
            raise TokenRejectedError("invalid bearer token")
        try:
            return self._tokens.authenticate(token, audiences)
        except NotOursError:
            raise
        except TokenRejectedError as why:
            raise TokenRejectedError(f"[invalid bearer token, {why}]") from None
