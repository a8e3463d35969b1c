"""A Kubernetes service account token (KEP-1205, RFC 7519) read strictly, before anything in it is verified.

Reading proves nothing: a :class:`Token` is what a caller sent, until a key of the cluster (``jwks``) or its
API server (``token_review``) has confirmed it. What kube-apiserver never writes is refused here: header
fields other than ``alg``, ``kid`` and ``typ`` (so no ``crit``, ``b64``, ``jwk`` or ``x5u``), names that
are repeated, claims of other types, times that are no integers.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from hashlib import sha256
from math import inf
from typing import Any, Final, Never

import msgspec

from federation.core.errors import AttestationRefused, InvalidValue
from federation.core.identity import ServiceAccountRef

MAX_TOKEN_CHARACTERS: Final = 8 * 1024
"""A projected token has about 1,200; gRPC itself takes 8 KiB of metadata."""

MAX_UID_CHARACTERS: Final = 128
LEEWAY: Final = 60
"""Seconds that clocks may differ, as kube-apiserver allows (go-jose's default, used for its own tokens)."""

ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"})
"""What a cluster can sign its tokens with: kube-apiserver knows no ``none``, no HMAC and no PSS."""

_MEMO_ENTRIES: Final = 1024
_BASE64URL: Final = bytes.maketrans(
    b"-_+/=", b"+/\x00\x00\x00"
)  # what is not of the alphabet stays out of it
_PADDING: Final = (b"", b"", b"==", b"=")


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JOSE header (RFC 7515, section 4)."""

    alg: str
    kid: str
    typ: str = "JWT"


class BoundObject(msgspec.Struct, frozen=True):
    """The name and UID of an object that a token is bound to; both are there or the token is refused."""

    name: str
    uid: str


class NodeClaim(msgspec.Struct, frozen=True):
    """The node that a token is bound to, or in a token bound to a pod the node of that pod.

    The latter has no UID where the Node object could not be read when the token was signed
    (``pkg/registry/core/serviceaccount/storage/token.go``).
    """

    name: str
    uid: str = ""


class KubernetesClaim(msgspec.Struct, frozen=True):
    """The private claim ``kubernetes.io``; only the API server can check ``secret`` and ``node``."""

    namespace: str
    serviceaccount: BoundObject
    pod: BoundObject | None = None
    secret: BoundObject | None = None
    node: NodeClaim | None = None


class Claims(msgspec.Struct, frozen=True):
    """The claims the hub relies on, others are ignored; times are seconds since the epoch."""

    iss: str
    sub: str
    aud: list[str] | str
    exp: int
    iat: int
    kubernetes: KubernetesClaim = msgspec.field(name="kubernetes.io")
    nbf: int | None = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller sent, read but not verified; ``digest`` is what is remembered of it."""

    header: Header
    claims: Claims
    account: ServiceAccountRef
    digest: bytes
    signed: bytes
    signature: bytes
    text: str

    def __repr__(self) -> str:
        return f"Token({self.account}, {self.digest.hex()[:16]})"


class TokenReader:
    """Reads tokens, and remembers the headers and subjects that many tokens share."""

    def __init__(self) -> None:
        self._headers: dict[bytes, Header] = {}
        self._accounts: dict[str, ServiceAccountRef] = {}
        self._claims = msgspec.json.Decoder(Claims)

    def read(self, text: str) -> Token:
        """The token in this text.

        Raises AttestationRefused with the reason ``token_missing``, ``token_malformed``,
        ``token_algorithm`` or ``token_subject``.
        """
        if not text:
            raise AttestationRefused("there is no token", reason="token_missing")
        if len(text) > MAX_TOKEN_CHARACTERS:
            _malformed(f"{len(text)} characters; at most {MAX_TOKEN_CHARACTERS} are read")
        try:
            data = text.encode("ascii")
        except UnicodeEncodeError:
            _malformed("it holds other characters than ASCII")
        parts = data.split(b".")
        if len(parts) != 3:
            _malformed("it is not a signed JWT of three parts")
        head, body, tail = parts
        header = self._headers.get(head) or self._read_header(head)
        payload = _base64url(body)
        _refuse_repeated_names(payload)
        try:
            claims = self._claims.decode(payload)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            _malformed("its claims are not those of a service account token")
        return Token(
            header=header,
            claims=claims,
            account=self._account(claims),
            digest=sha256(data).digest(),
            signed=data[: len(head) + 1 + len(body)],
            signature=_base64url(tail),
            text=text,
        )

    def _account(self, claims: Claims) -> ServiceAccountRef:
        """The service account, where subject and ``kubernetes.io`` claim agree on it and UIDs are there."""
        account = self._accounts.get(claims.sub) or self._read_subject(claims.sub)
        bound = claims.kubernetes
        if account.namespace != bound.namespace or account.name != bound.serviceaccount.name:
            raise AttestationRefused(
                "its subject and its kubernetes.io claim name different service accounts",
                reason="token_subject",
            )
        for thing in (bound.serviceaccount, bound.pod, bound.secret, bound.node):
            if thing is None:
                continue
            uid_needed = thing is not bound.node or bound.pod is None
            if not thing.name or len(thing.uid) > MAX_UID_CHARACTERS or (uid_needed and not thing.uid):
                _malformed("it is bound to something without a name or a UID")
        return account

    def _read_subject(self, subject: str) -> ServiceAccountRef:
        try:
            account = ServiceAccountRef.from_username(subject)
        except InvalidValue:
            _malformed("its subject is not a service account")
        if len(self._accounts) >= _MEMO_ENTRIES:
            self._accounts.clear()
        self._accounts[subject] = account
        return account

    def _read_header(self, head: bytes) -> Header:
        raw = _base64url(head)
        _refuse_repeated_names(raw)
        try:
            header = msgspec.json.decode(raw, type=Header)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            _malformed("its header holds something other than alg, kid and typ")
        if header.alg not in ALGORITHMS:
            raise AttestationRefused("no cluster signs tokens with its algorithm", reason="token_algorithm")
        if not header.kid or header.typ.upper() != "JWT":
            _malformed("its header names no key, or another type than JWT")
        if len(self._headers) >= _MEMO_ENTRIES:
            self._headers.clear()
        self._headers[head] = header
        return header


def check_claims(
    token: Token, *, audience: str, issuers: Sequence[str], now: float, longest: float = inf
) -> None:
    """Audience, issuer (one of these; none: not known, not compared) and times (RFC 7519, 4.1) with :data:`LEEWAY`.

    ``longest`` is how many seconds may lie between ``iat`` and ``exp``. Raises AttestationRefused with the reason
    ``token_audience``, ``token_issuer``, ``token_expired``, ``token_not_yet_valid`` or ``token_life``.
    """
    claims = token.claims
    audiences = claims.aud
    if audiences != audience if isinstance(audiences, str) else audience not in audiences:
        raise AttestationRefused(
            f"it is not meant for the audience {audience}",
            reason="token_audience",
            remedy="set audience of this cluster to the one that its agents' tokens are for (Istio: istio-ca)",
        )
    if issuers and claims.iss not in issuers:
        raise AttestationRefused(
            f"its issuer is {claims.iss[:200]!r}, this cluster's is {issuers[0]!r}",
            reason="token_issuer",
            remedy="if that is an issuer of this cluster, set issuer or former_issuers of it; otherwise the caller is "
            "of another cluster: compare global.multiCluster.clusterName there with cluster_id",
        )
    if claims.exp + LEEWAY <= now:
        raise AttestationRefused(
            "it has expired",
            reason="token_expired",
            remedy="compare the hub's clock with the cluster's; where they agree, the caller does not read its token "
            "anew: restart it",
        )
    if claims.iat - LEEWAY > now or (claims.nbf is not None and claims.nbf - LEEWAY > now):
        raise AttestationRefused(
            "it is not valid yet",
            reason="token_not_yet_valid",
            remedy="compare the hub's clock with the cluster's",
        )
    if (life := claims.exp - claims.iat) > longest:
        raise AttestationRefused(
            f"it lives {life / 3600:.0f} hours, longer than the {longest / 3600:.0f} that are accepted",
            reason="token_life",
            remedy="project a token of a shorter life (Istio's has 12 hours), or raise longest_token_life",
        )


def _base64url(data: bytes) -> bytes:
    """Decoded base64url without padding (RFC 7515, section 2); anything else is refused."""
    try:
        return binascii.a2b_base64(data.translate(_BASE64URL) + _PADDING[len(data) % 4], strict_mode=True)
    except binascii.Error:
        _malformed("it is not base64url")


def _refuse_repeated_names(raw: bytes) -> None:
    """Two readers may take different ones of two equal names, so none may be repeated (RFC 7519, 4).

    Every name of JSON without white space ends in a quote and a colon. Without escapes, nothing else does
    but a string that begins with a colon. So where no more of these are found than there are different
    names, none is repeated; for anything else the slow reader decides.
    """
    try:
        compact = b"\\" not in raw and len(raw.split()) == 1
        if not (compact and raw.count(b'":') == _count_names(msgspec.json.decode(raw))):
            _STRICT.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        _malformed("it is not JSON in UTF-8 with each name once")


def _count_names(value: object) -> int:
    """How many names the objects in a JSON value have, each counted once an object."""
    names, waiting = 0, [value]
    for one in waiting:
        if type(one) is dict:
            names += len(one)
            waiting += one.values()
        elif type(one) is list:
            waiting += one
    return names


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name is repeated")
    return names


_STRICT: Final = json.JSONDecoder(object_pairs_hook=_unique)


def _malformed(what: str) -> Never:
    raise AttestationRefused(f"the token cannot be read: {what}", reason="token_malformed") from None
