"""Reading and checking service account tokens: PyJWT is the oracle for what is accepted, hypothesis for the rest."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.config.clusters import ClusterConfig, Credentials
from federation.core.errors import AttestationRefused
from federation.core.identity import ClusterId, ClusterName
from federation.core.jwks import parse_key_set
from federation.signer.attestation.tokens import MAX_TOKEN_CHARACTERS, Token, TokenReader, check_claims
from tests.signer import tokens as t

KEYS = parse_key_set(t.PUBLISHED, where="test")
ORACLE = {kid: key.public_key for kid, key in KEYS.items()}


def verify(text: str, *, now: float = t.NOW, issuer: str = t.ISSUER, audience: str = t.AUDIENCE) -> Token:
    """Everything that is decided without asking a cluster."""
    token = TokenReader().read(text)
    key = KEYS.get(token.header.kid)
    if key is None or not key.signed(token.header.alg, token.signed, token.signature):
        raise AttestationRefused("not signed", reason="token_signature")
    check_claims(token, audience=audience, issuers=(issuer,) if issuer else (), now=now)
    return token


def oracle_accepts(text: str, *, now: float = t.NOW) -> bool:
    """What PyJWT says of the same token at that time."""
    try:
        header = jwt.get_unverified_header(text)
        decoded = jwt.decode(
            text,
            ORACLE[header["kid"]],
            algorithms=["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"],
            audience=t.AUDIENCE,
            issuer=t.ISSUER,
            options={
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_jti": False,
                "require": ["exp", "iat"],
            },
        )
    except (jwt.PyJWTError, KeyError, ValueError, TypeError, RecursionError):
        return False
    times = decoded["iat"], decoded.get("nbf", decoded["iat"]), decoded["exp"]
    if not all(isinstance(time, int) for time in times):
        return False  # PyJWT was set to leave the times alone
    return bool(max(times[:2]) - 60 <= now < times[2] + 60)


def reason_of(text: str, **options: Any) -> str:
    with pytest.raises(AttestationRefused) as refused:
        verify(text, **options)
    assert not any(len(part) > 8 and part in str(refused.value) for part in text.split(".")), (
        "a token in an error"
    )
    return refused.value.reason


@pytest.mark.parametrize("algorithm", sorted(t.SIGNERS))
def test_accepts_what_a_cluster_signs(algorithm: str) -> None:
    token = verify(t.signed(algorithm=algorithm))
    assert str(token.account) == "foo/bar"
    assert token.claims.kubernetes.pod is not None
    assert token.claims.kubernetes.pod.uid == "p-1"
    assert oracle_accepts(t.signed(algorithm=algorithm))


def test_accepts_a_single_audience_and_the_type_header() -> None:
    assert verify(t.signed(t.claims(aud=t.AUDIENCE), headers={"typ": "JWT"})).claims.aud == t.AUDIENCE


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (t.claims(aud=["https://kubernetes.default.svc"]), "token_audience"),
        (t.claims(aud=[]), "token_audience"),
        (t.claims(aud=["istio-ca2", "xistio-ca"]), "token_audience"),
        (t.claims(aud="istio-ca-and-more"), "token_audience"),
        (t.claims(aud=None), "token_malformed"),
        (t.claims(iss="https://elsewhere"), "token_issuer"),
        (t.claims(iss=None), "token_malformed"),
        (t.claims(exp=int(t.NOW) - 60), "token_expired"),
        (t.claims(exp=None), "token_malformed"),
        (t.claims(exp=t.NOW + 0.5), "token_malformed"),
        (t.claims(exp="4000000000"), "token_malformed"),
        (t.claims(exp=True), "token_malformed"),
        (t.claims(nbf=int(t.NOW) + 61), "token_not_yet_valid"),
        (t.claims(iat=int(t.NOW) + 61), "token_not_yet_valid"),
        (t.claims(iat=None), "token_malformed"),
        (t.claims(sub="system:serviceaccount:foo:other"), "token_subject"),
        (t.claims(sub="system:serviceaccount:other:bar"), "token_subject"),
        (t.claims(sub="system:node:node-1"), "token_malformed"),
        (t.claims(sub="system:serviceaccount:foo:bar:baz"), "token_malformed"),
        (t.claims(sub="system:serviceaccount:foo:ba,r"), "token_malformed"),
        (t.claims(**{"kubernetes.io": None}), "token_malformed"),
        (t.claims(**{"kubernetes.io": t.kubernetes(serviceaccount=None)}), "token_malformed"),
        (t.claims(**{"kubernetes.io": t.kubernetes(serviceaccount={"name": "bar"})}), "token_malformed"),
        (
            t.claims(**{"kubernetes.io": t.kubernetes(serviceaccount={"name": "bar", "uid": ""})}),
            "token_malformed",
        ),
        (t.claims(**{"kubernetes.io": t.kubernetes(pod={"name": "bar-0"})}), "token_malformed"),
        (
            t.claims(**{"kubernetes.io": t.kubernetes(pod={"name": "bar-0", "uid": "x" * 129})}),
            "token_malformed",
        ),
        (t.claims(**{"kubernetes.io": t.kubernetes(pod="bar-0")}), "token_malformed"),
        (t.claims(**{"kubernetes.io": t.kubernetes(secret={"name": "bar"})}), "token_malformed"),
        (t.claims(**{"kubernetes.io": t.kubernetes(pod=None, node={"name": "n"})}), "token_malformed"),
        (t.claims(**{"kubernetes.io": t.kubernetes(node={"uid": "n-1"})}), "token_malformed"),
        (t.claims(**{"kubernetes.io": t.kubernetes(node={"name": "", "uid": "n-1"})}), "token_malformed"),
        (t.claims(**{"kubernetes.io": t.kubernetes(node={"name": "n", "uid": 1})}), "token_malformed"),
        (
            t.claims(**{"kubernetes.io": t.kubernetes(node={"name": "n", "uid": "x" * 129})}),
            "token_malformed",
        ),
    ],
)
def test_refuses_claims_signed_by_the_cluster_itself(payload: dict[str, Any], reason: str) -> None:
    assert reason_of(t.signed(payload)) == reason


LONG_LABEL = "a" * 253
SIGNED_BY_KUBE_APISERVER: dict[str, dict[str, Any]] = {
    "a projected token": t.claims(),
    "before 1.30: no node": t.claims(**{"kubernetes.io": t.kubernetes(node=None)}),
    "the Node object could not be read": t.claims(**{"kubernetes.io": t.kubernetes(node={"name": "node-1"})}),
    "before 1.29: no jti": t.claims(jti=None),
    "bound to no object": t.claims(**{"kubernetes.io": t.kubernetes(node=None, pod=None)}),
    "bound to a Secret": t.claims(
        **{"kubernetes.io": t.kubernetes(node=None, pod=None, secret={"name": "s", "uid": "u"})}
    ),
    "bound to a Node": t.claims(**{"kubernetes.io": t.kubernetes(pod=None)}),
    "no warnafter": t.claims(**{"kubernetes.io": t.kubernetes(warnafter=None)}),
    "a name of one label of 253 characters": t.claims(
        sub=f"system:serviceaccount:foo:{LONG_LABEL}",
        **{"kubernetes.io": t.kubernetes(serviceaccount={"name": LONG_LABEL, "uid": "s-1"})},
    ),
    "a name with dots": t.claims(
        sub="system:serviceaccount:foo:bar.v2.0",
        **{"kubernetes.io": t.kubernetes(serviceaccount={"name": "bar.v2.0", "uid": "s-1"})},
    ),
}


@pytest.mark.parametrize("kind", SIGNED_BY_KUBE_APISERVER)
def test_takes_what_kube_apiserver_signs(kind: str) -> None:
    """Every shape that ``Claims`` in its ``pkg/serviceaccount/claims.go`` gives a token."""
    payload = SIGNED_BY_KUBE_APISERVER[kind]
    account = verify(t.signed(payload)).account
    assert f"system:serviceaccount:{account.namespace}:{account.name}" == payload["sub"]


@pytest.mark.parametrize("seconds", [0, 59])
def test_clocks_may_differ_by_a_minute(seconds: int) -> None:
    early = t.signed(t.claims(iat=int(t.NOW) + seconds, nbf=int(t.NOW) + seconds))
    late = t.signed(t.claims(exp=int(t.NOW) - seconds))
    assert verify(early).claims.iat == int(t.NOW) + seconds
    assert verify(late).claims.exp == int(t.NOW) - seconds


def hs256(header: dict[str, Any], secret: bytes) -> str:
    """A token with an HMAC, put together by hand: PyJWT refuses to take a public key for a secret."""
    message = f"{t.b64(json.dumps(header).encode())}.{t.b64(json.dumps(t.claims()).encode())}"
    return f"{message}.{t.b64(hmac.new(secret, message.encode(), hashlib.sha256).digest())}"


CLAIMS = json.dumps(t.claims()).encode()
TWICE = CLAIMS[:-1] + b',"sub":"system:serviceaccount:a:b"}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "token_missing"),
        ("a", "token_malformed"),
        ("a.b", "token_malformed"),
        ("a.b.c.d", "token_malformed"),
        ("..", "token_malformed"),
        ("é.é.é", "token_malformed"),
        (t.signed() + "\n", "token_malformed"),
        (" " + t.signed(), "token_malformed"),
        (t.signed() + "==", "token_malformed"),
        ("x" * (MAX_TOKEN_CHARACTERS + 1), "token_malformed"),
        (t.raw(b'{"alg":"none","kid":"rsa"}', CLAIMS, b""), "token_algorithm"),
        (t.raw(b'{"alg":"NONE","kid":"rsa"}', CLAIMS, b""), "token_algorithm"),
        (t.raw(b'{"alg":"","kid":"rsa"}', CLAIMS, b""), "token_algorithm"),
        (t.raw(b'{"alg":"PS256","kid":"rsa"}', CLAIMS), "token_algorithm"),
        (t.raw(b'{"alg":"EdDSA","kid":"rsa"}', CLAIMS), "token_algorithm"),
        (hs256({"alg": "HS256", "kid": "rsa"}, t.public_pem(t.RSA_KEY)), "token_algorithm"),
        (hs256({"alg": "HS256", "kid": "p256"}, t.public_pem(t.EC_KEY)), "token_algorithm"),
        (hs256({"alg": "RS256", "kid": "rsa"}, t.public_pem(t.RSA_KEY)), "token_signature"),
        (t.raw(b'{"alg":"ES256","kid":"rsa"}', CLAIMS, b"\x01" * 64), "token_signature"),
        (t.raw(b'{"alg":"RS256","kid":"p256"}', CLAIMS), "token_signature"),
        (t.raw(b'{"alg":"ES384","kid":"p256"}', CLAIMS, b"\x01" * 96), "token_signature"),
        (t.raw(b'{"alg":"ES256","kid":"p256"}', CLAIMS, b"\x00" * 64), "token_signature"),
        (t.raw(b'{"alg":"ES256","kid":"p256"}', CLAIMS, b""), "token_signature"),
        (t.raw(b'{"alg":"RS256"}', CLAIMS), "token_malformed"),
        (t.raw(b'{"alg":"RS256","kid":""}', CLAIMS), "token_malformed"),
        (t.raw(b'{"alg":"RS256","kid":"rsa","typ":"at+jwt"}', CLAIMS), "token_malformed"),
        (t.signed(headers={"kid": "../../etc/passwd"}), "token_signature"),
        (t.signed(headers={"kid": "rsa' OR 1=1"}), "token_signature"),
        (t.signed(headers={"jwk": t.jwk(t.STRANGER, "rsa")}, key=t.STRANGER), "token_malformed"),
        (t.signed(headers={"x5u": "https://attacker.example/key"}), "token_malformed"),
        (t.signed(headers={"jku": "https://attacker.example/jwks"}), "token_malformed"),
        (t.signed(headers={"x5c": ["AAAA"]}), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa","crit":["exp"]}', CLAIMS), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa","b64":false}', CLAIMS), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","alg":"RS256","kid":"rsa"}', CLAIMS), "token_malformed"),
        (
            t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', CLAIMS[:-1] + b',"sub":"system:serviceaccount:a:b"}'),
            "token_malformed",
        ),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', CLAIMS + b" {}"), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', CLAIMS.replace(b"foo", b"f\xff")), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', b"[" * 4000), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', b'{"a":' * 900 + b"1" + b"}" * 900), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', b"null"), "token_malformed"),
        (t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', b'"' + b"a" * 10 + b'"'), "token_malformed"),
        (t.signed(key=t.STRANGER), "token_signature"),
    ],
)
def test_refuses_tricks(text: str, reason: str) -> None:
    assert reason_of(text) == reason


def test_the_standard_base64_alphabet_is_refused() -> None:
    text = next(
        text for text in (t.signed(t.claims(jti=str(n))) for n in range(500)) if "-" in text or "_" in text
    )
    assert reason_of(text.replace("-", "+").replace("_", "/")) == "token_malformed"


def test_a_remembered_header_changes_no_verdict() -> None:
    reader = TokenReader()
    good = reader.read(t.signed())
    again = reader.read(t.signed(t.claims(sub="system:serviceaccount:foo:bar")))
    assert good.header is again.header
    with pytest.raises(AttestationRefused):
        reader.read(t.raw(b'{"alg":"none","kid":"rsa"}', CLAIMS))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(AttestationRefused):
        verify(text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=600), st.binary(max_size=300))
def test_any_three_parts_are_refused(header: bytes, payload: bytes, signature: bytes) -> None:
    with pytest.raises(AttestationRefused):
        verify(t.raw(header, payload, signature))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    """One character of a good token is another: nothing but the very same bytes may pass."""
    text = t.signed()
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
    changed = text[:place] + character + text[place + 1 :]
    if TokenReader().read(text).signed == changed.rpartition(".")[0].encode() and _same_signature(
        text, changed
    ):
        assert verify(changed).account == verify(text).account
    else:
        with pytest.raises(AttestationRefused):
            verify(changed)


def _same_signature(one: str, other: str) -> bool:
    """The last character of unpadded base64 has bits that mean nothing."""
    try:
        return TokenReader().read(one).signature == TokenReader().read(other).signature
    except AttestationRefused:
        return False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
CHANGED = st.dictionaries(st.sampled_from(sorted(t.claims())), JSON | st.just(None), max_size=3)


@settings(max_examples=400, deadline=None)
@given(CHANGED, st.sampled_from(sorted(t.SIGNERS)), st.integers(-7200, 7200))
def test_never_more_lenient_than_the_oracle(changes: dict[str, Any], algorithm: str, drift: int) -> None:
    """Claims of any shape, signed by the cluster's own key: what passes here passes PyJWT, and names foo/bar."""
    payload = t.claims(**changes)
    try:
        text = t.signed(payload, algorithm=algorithm)
    except (TypeError, ValueError, jwt.PyJWTError):
        text = t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', json.dumps(payload).encode())
    try:
        token = verify(text, now=t.NOW + drift)
    except AttestationRefused:
        assert not (oracle_accepts(text, now=t.NOW + drift) and not changes), (
            "the oracle accepts an honest token"
        )
    else:
        assert oracle_accepts(text, now=t.NOW + drift)
        assert f"system:serviceaccount:{token.account.namespace}:{token.account.name}" == payload["sub"]
        assert payload["kubernetes.io"]["namespace"] == token.account.namespace


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    st.sampled_from(["RS256", "ES256", "HS256", "none"]),
)
def test_headers_of_any_shape_bring_no_identity(extra: dict[str, Any], algorithm: str) -> None:
    header = {"kid": "rsa", "alg": algorithm} | extra
    text = t.sign_raw(json.dumps(header).encode(), CLAIMS)
    try:
        token = verify(text)
    except AttestationRefused:
        return
    assert token.header.alg == "RS256"
    assert set(header) <= {"alg", "kid", "typ"}


NAMES = st.sampled_from(["a", "b", ":", '":', "iss", "sub", "kubernetes.io", "é", "\\", " "])
VALUES = st.sampled_from(
    ['":a"', '"a:"', '"\\":"', "1", "[]", "null", '{":":":"}', '{"a":1,"a":1}', '{"a":[{"b":1}]}']
)
SPACE = st.sampled_from(["", "", "", " ", "\n"])


def strict(text: str) -> bool:
    """By the standard library: is every name there once?"""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError

    try:
        json.loads(text, object_pairs_hook=unique)
    except ValueError:
        return False
    return True


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(NAMES, SPACE, VALUES), max_size=4))
def test_names_that_stand_twice_are_found_however_they_are_written(more: list[tuple[str, str, str]]) -> None:
    text = CLAIMS_COMPACT[:-1] + "".join(f",{json.dumps(n)}{space}:{value}" for n, space, value in more) + "}"
    token = t.sign_raw(b'{"alg":"RS256","kid":"rsa"}', text.encode())
    if strict(text):
        assert str(verify(token).account) == "foo/bar"
    else:
        assert reason_of(token) == "token_malformed"


CLAIMS_COMPACT = json.dumps(t.claims(), separators=(",", ":"))


@pytest.mark.parametrize(
    ("hours", "accepted"), [(1, True), (12, True), (48, True), (49, False), (8766, False)]
)
def test_the_life_of_a_token_is_bounded(hours: int, accepted: bool) -> None:
    """Istio projects 12 hours; a pod's default token is extended to a year, and stolen would last as long."""
    payload = t.claims(iat=int(t.NOW) - 60, exp=int(t.NOW) - 60 + hours * 3600)
    token = TokenReader().read(t.signed(payload))
    longest = ClusterConfig(
        name=ClusterName("east"),
        cluster_id=ClusterId("east"),
        signer=Credentials(kubeconfig=None),
        controller=Credentials(kubeconfig=None),
    ).longest_token_life

    def check() -> None:
        check_claims(token, audience=t.AUDIENCE, issuers=(t.ISSUER,), now=t.NOW, longest=longest)

    if accepted:
        check()
    else:
        with pytest.raises(AttestationRefused) as caught:
            check()
        assert caught.value.reason == "token_life"
