"""The hub's own SVIDs from a Workload API that is real gRPC on a Unix socket."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from federation.core.config.authorities.settings import CertificateRef, JwtRef, SpiffeConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityUnavailable,
    FederationError,
    InvalidValue,
)
from federation.core.pki.keys import KeyKind
from federation.core.pki.pem import parse_certificates
from federation.kubernetes.credentials import client_context
from federation.signer.authorities.conjur import Conjur
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.spiffe import (
    LOOK_AGAIN,
    MAX_JWT_BYTES,
    JwtSvid,
    WorkloadApi,
    X509Svid,
    decode_jwt_response,
    decode_x509_response,
    read_jwt,
    read_x509,
)
from tests.authorities.conjur_server import HOST, conjur_server
from tests.authorities.spiffe_agent import HUB, SECOND, SpiffeAgent, pkcs8, spiffe_agent
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def agent(clock: VirtualClock) -> AsyncIterator[SpiffeAgent]:
    async with spiffe_agent(clock) as running:
        yield running


@pytest.fixture
async def api(agent: SpiffeAgent, clock: VirtualClock) -> AsyncIterator[WorkloadApi]:
    workload_api = WorkloadApi(agent.config(), clock=clock)
    yield workload_api
    await workload_api.close()


async def refused_with(asked: Awaitable[object]) -> FederationError:
    with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
        await asked
    assert caught.value.remedy
    assert caught.value.where.startswith("the SPIFFE agent at /")
    return caught.value


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


# X.509-SVIDs


async def test_the_svid_comes_as_chain_key_and_bundle(agent: SpiffeAgent, api: WorkloadApi) -> None:
    pair = await api.x509()
    leaf, *above = parse_certificates(pair.chain_pem, where="chain")
    assert leaf.uris == (HUB,)
    assert tuple(above) == agent.issuer.chain
    assert pair.bundle_pem == agent.issuer.root.pem
    key = serialization.load_pem_private_key(pair.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == leaf.public_key


async def test_a_client_context_takes_it(api: WorkloadApi) -> None:
    pair = await api.x509()
    context = client_context(
        authority=pair.bundle_pem, certificate=pair.chain_pem, key=pair.key_pem, where="svid"
    )
    assert context.verify_mode is ssl.CERT_REQUIRED


async def test_of_several_identities_the_first_is_ours(agent: SpiffeAgent, api: WorkloadApi) -> None:
    agent.identities = [SECOND, HUB]
    (leaf, *_) = parse_certificates((await api.x509()).chain_pem, where="chain")
    assert leaf.uris == (SECOND,)
    assert claims(await api.jwt("vault"))["sub"] == SECOND


@pytest.mark.parametrize("kind", [KeyKind.EC_P384, KeyKind.RSA_2048])
async def test_keys_of_other_kinds_are_taken_too(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock, kind: KeyKind
) -> None:
    key = pki.key("svid", kind)
    leaf = pki.leaf(agent.issuer, HUB, private_key=key, not_after=clock.now() + timedelta(hours=1))
    agent.x509_answer = agent.x509_response(x509_svid=leaf.der, x509_svid_key=pkcs8(key))
    assert (await api.x509()).chain_pem == leaf.pem


async def test_one_fetch_is_reused_for_a_while_and_a_rotation_is_seen_soon(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock
) -> None:
    first = await api.x509()
    assert await api.x509() is first
    assert agent.calls == ["x509"]

    agent.rotate()
    await clock.advance(LOOK_AGAIN)
    second = await api.x509()
    assert second.key_pem != first.key_pem
    assert second.chain_pem != first.chain_pem


async def test_the_same_svid_is_the_same_object_however_often_it_is_fetched(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock
) -> None:
    agent.x509_answer = agent.x509_response()
    first = await api.x509()
    await clock.advance(LOOK_AGAIN)
    assert await api.x509() is first
    assert agent.calls == ["x509"] * 2


async def test_an_svid_that_lives_for_seconds_is_looked_at_by_half_of_them(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock
) -> None:
    agent.life = timedelta(seconds=8)
    await api.x509()
    await clock.advance(4)
    await api.x509()
    assert agent.calls == ["x509"] * 2


async def test_nothing_stays_open_at_the_agent(agent: SpiffeAgent, api: WorkloadApi) -> None:
    await api.x509()
    async with asyncio.timeout(PATIENCE):
        while agent.open_streams:
            await asyncio.sleep(0.01)
    assert (agent.calls, agent.open_streams) == (["x509"], 0)


# JWT-SVIDs


async def test_a_jwt_is_for_its_audience_and_kept_until_half_of_its_life(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock
) -> None:
    first = await api.jwt("vault")
    assert claims(first)["aud"] == ["vault"]
    await clock.advance(149)
    assert await api.jwt("vault") == first
    agent.rotate()
    await clock.advance(1)
    second = await api.jwt("vault")
    assert claims(second)["exp"] == claims(first)["exp"] + 150
    assert agent.calls == ["jwt", "jwt"]


async def test_each_audience_has_a_jwt_of_its_own(agent: SpiffeAgent, api: WorkloadApi) -> None:
    vault, conjur = await api.jwt("vault"), await api.jwt("conjur")
    assert [claims(token)["aud"] for token in (vault, conjur)] == [["vault"], ["conjur"]]
    assert await api.jwt("vault") == vault
    assert agent.calls == ["jwt", "jwt"]


async def test_askers_that_come_at_once_share_one_call(agent: SpiffeAgent, api: WorkloadApi) -> None:
    tokens = await asyncio.gather(*(api.jwt("vault") for _ in range(12)))
    pairs = await asyncio.gather(*(api.x509() for _ in range(12)))
    assert (len(set(tokens)), len({id(pair) for pair in pairs})) == (1, 1)
    assert agent.calls == ["jwt", "x509"]


# What goes wrong


def both(api: WorkloadApi) -> tuple[Awaitable[object], Awaitable[object]]:
    return api.x509(), api.jwt("vault")


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "spiffe_no_identity", AuthorityMisconfigured),
        (grpc.StatusCode.INVALID_ARGUMENT, "spiffe_refused", AuthorityMisconfigured),
        (grpc.StatusCode.UNIMPLEMENTED, "spiffe_refused", AuthorityMisconfigured),
        (grpc.StatusCode.UNAVAILABLE, "spiffe_agent_unreachable", AuthorityUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "spiffe_timeout", AuthorityUnavailable),
        (grpc.StatusCode.INTERNAL, "spiffe_error", AuthorityUnavailable),
        (grpc.StatusCode.UNKNOWN, "spiffe_error", AuthorityUnavailable),
    ],
)
async def test_each_status_has_its_own_reason_and_the_next_call_succeeds(
    agent: SpiffeAgent, api: WorkloadApi, code: grpc.StatusCode, reason: str, kind: type[Exception]
) -> None:
    agent.status = code, "what the \x1b[31magent\nsays" + "x" * 1000
    for asked in both(api):
        error = await refused_with(asked)
        assert (error.reason, type(error)) == (reason, kind)
        assert len(str(error)) < 600
        assert str(error).isprintable()
    agent.status = None
    assert claims(await api.jwt("vault"))["sub"] == HUB
    assert (await api.x509()).key_pem


async def test_without_an_identity_the_agent_is_asked_once_a_time(
    agent: SpiffeAgent, api: WorkloadApi
) -> None:
    agent.identities = []
    for asked in both(api):
        error = await refused_with(asked)
        assert error.reason == "spiffe_no_identity"
        assert "no identity issued" in str(error)
    assert agent.calls == ["x509", "jwt"]


async def test_an_identity_that_is_taken_away_is_used_no_more(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock
) -> None:
    await asyncio.gather(*both(api))
    agent.identities = []
    await clock.advance(200)  # well within the life of both
    for _ in range(2):
        for asked in both(api):
            assert (await refused_with(asked)).reason == "spiffe_no_identity"
    assert len(agent.calls) == 6


async def test_a_missing_agent_is_reported_with_its_socket(clock: VirtualClock) -> None:
    api = WorkloadApi(SpiffeConfig(socket=Path("/nonexistent/agent.sock")), clock=clock)
    for asked in both(api):
        error = await refused_with(asked)
        assert error.reason == "spiffe_agent_unreachable"
        assert "/nonexistent/agent.sock" in str(error)
        assert "No such file" in str(error)


async def test_while_the_agent_is_away_its_last_svids_serve_until_they_end(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    pair, token = await api.x509(), await api.jwt("vault")
    async with agent.down():
        await clock.advance(160)
        with caplog.at_level(logging.WARNING):
            assert await api.x509() is pair
            assert await api.jwt("vault") == token
        assert "stays in use for at most" in caplog.text
        assert pair.key_pem.decode().splitlines()[1] not in caplog.text
        assert token not in caplog.text
        await clock.advance(136)  # 4 s before the JWT ends: too few to send it anywhere
        assert await api.x509() is pair
        assert (await refused_with(api.jwt("vault"))).reason == "spiffe_agent_unreachable"
        await clock.advance(3590 - 296)
        assert await api.x509() is pair
        await clock.advance(6)  # again 4 s before the end, now the certificate's
        assert (await refused_with(api.x509())).reason == "spiffe_agent_unreachable"
    assert (await api.x509()).key_pem
    assert claims(await api.jwt("vault"))["sub"] == HUB


async def test_an_agent_that_restarts_is_found_at_once(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock
) -> None:
    async with agent.down():
        for _ in range(5):
            await refused_with(api.x509())
    assert (await api.x509()).key_pem


async def test_callers_of_a_hanging_agent_share_one_timeout(agent: SpiffeAgent, clock: VirtualClock) -> None:
    api = WorkloadApi(agent.config(timeout=5.0), clock=clock)
    agent.hang = True
    loop = asyncio.get_running_loop()
    started = loop.time()
    answers = await asyncio.gather(*(api.x509() for _ in range(200)), return_exceptions=True)
    assert loop.time() - started < 500.0  # and not two hundred times the timeout
    assert {getattr(answer, "reason", "") for answer in answers} == {"spiffe_timeout"}
    agent.hang = False
    assert (await api.x509()).key_pem


async def test_a_cancelled_request_does_not_affect_the_next_one(agent: SpiffeAgent, api: WorkloadApi) -> None:
    agent.hang = True
    asked = asyncio.create_task(api.x509())
    while not agent.calls:
        await asyncio.sleep(0.001)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert asked.cancelled()
    agent.hang = False
    assert (await api.x509()).key_pem


@pytest.mark.parametrize("answer", [b"\xff", b"\x0a\x05abc", b"\x0a\x02\x0a\x01"])
async def test_what_is_no_answer_is_garbage(agent: SpiffeAgent, api: WorkloadApi, answer: bytes) -> None:
    agent.x509_answer = agent.jwt_answer = answer
    for asked in both(api):
        error = await refused_with(asked)
        assert error.reason == "spiffe_garbage"
        assert isinstance(error, AuthorityUnavailable)


async def test_a_call_that_ends_without_an_answer_is_garbage(agent: SpiffeAgent, api: WorkloadApi) -> None:
    agent.say_nothing = True
    assert (await refused_with(api.x509())).reason == "spiffe_garbage"


async def test_an_answer_without_svids_is_no_identity(agent: SpiffeAgent, api: WorkloadApi) -> None:
    agent.x509_answer = agent.jwt_answer = b""
    for asked in both(api):
        assert (await refused_with(asked)).reason == "spiffe_no_identity"


async def test_an_answer_that_is_not_grpc_is_reported(clock: VirtualClock, agent: SpiffeAgent) -> None:
    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    socket = agent.socket.with_name("other.sock")
    async with await asyncio.start_unix_server(answer, socket):
        api = WorkloadApi(SpiffeConfig(socket=socket, timeout=1.0), clock=clock)
        for asked in both(api):
            assert (await refused_with(asked)).reason in {"spiffe_agent_unreachable", "spiffe_timeout"}


def of_usage(**changes: bool) -> x509.KeyUsage:
    usages = {
        name: getattr(pki.WORKLOAD_KEY_USAGE, name) for name in ("digital_signature", "key_encipherment")
    }
    others = ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    values = usages | dict.fromkeys((*others, "encipher_only", "decipher_only"), False) | changes
    return x509.KeyUsage(**values)


ANOTHER_URI = pki.spiffe_san(HUB, "https://elsewhere")
SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"san": ANOTHER_URI}, "one URI"),
        ({"san": pki.spiffe_san(SECOND)}, "one URI"),
        ({"san": pki.dns_san("a.example")}, "one URI"),
        ({"ca": True}, "not a leaf"),
        ({"key_usage": of_usage(key_cert_sign=True)}, "not a leaf"),
        ({"key_usage": of_usage(crl_sign=True)}, "not a leaf"),
        ({"key_usage": of_usage(digital_signature=False)}, "digital signatures"),
        ({"usage": SERVER_ONLY}, "client authentication"),
        ({"not_after": pki.NOW}, "ended at"),
        ({"private_key": pki.key("a stranger's")}, "not the certificate's"),
    ],
)
async def test_a_certificate_that_no_peer_would_accept_is_refused_here(
    agent: SpiffeAgent, api: WorkloadApi, options: dict[str, Any], says: str
) -> None:
    leaf = pki.leaf(agent.issuer, HUB, **({"private_key": agent.key} | options))
    agent.x509_answer = agent.x509_response(x509_svid=leaf.der)
    error = await refused_with(api.x509())
    assert (error.reason, type(error)) == ("spiffe_bad_svid", AuthorityMisconfigured)
    assert says in str(error)


def encrypted(key: Any) -> bytes:
    data: bytes = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    return data


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x509_svid": b""}, "the chain has 0"),
        ({"bundle": b""}, "the bundle has 0"),
        ({"bundle": b"\x30\x00" * 65}, "the bundle has 65"),
        ({"x509_svid": b"\x30\x00"}, "the chain: "),
        ({"x509_svid": b"garbage"}, "DER"),
        ({"x509_svid_key": b""}, "PKCS#8"),
        ({"x509_svid_key": b"garbage"}, "PKCS#8"),
        ({"x509_svid_key": b"x" * 100_000}, "larger than"),
        ({"x509_svid_key": encrypted(pki.key("svid 0"))}, "unencrypted"),
        ({"spiffe_id": ""}, "one URI"),
        ({"spiffe_id": SECOND}, "one URI"),
    ],
)
async def test_a_message_without_a_usable_svid_is_reported_without_a_byte_of_it(
    agent: SpiffeAgent, api: WorkloadApi, changes: dict[str, Any], says: str
) -> None:
    agent.x509_answer = agent.x509_response(**changes)
    error = await refused_with(api.x509())
    assert error.reason == "spiffe_bad_svid"
    assert says in str(error)
    assert "garbage" not in str(error)


@pytest.mark.parametrize(
    "identity",
    [
        "a",
        "https://cluster.local/a",
        "spiffe:///path",
        "spiffe://cluster.local",
        "spiffe://cluster.local/",
        "spiffe://cluster.local/a?b",
        "spiffe://cluster.local/a#b",
        f"spiffe://cluster.local/{'a' * 2048}",
    ],
)
async def test_what_is_no_spiffe_id_of_a_workload_is_refused(
    agent: SpiffeAgent, api: WorkloadApi, identity: str
) -> None:
    leaf = pki.leaf(agent.issuer, identity, private_key=agent.key)
    agent.x509_answer = agent.x509_response(x509_svid=leaf.der, spiffe_id=identity)
    agent.jwt_answer = agent.jwt_response((identity, agent.token(identity)))
    for asked in both(api):
        error = await refused_with(asked)
        assert error.reason == "spiffe_bad_svid"
        assert "the SPIFFE ID" in str(error)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"identity": SECOND}, "subject"),
        ({"sub": None}, "subject"),
        ({"audience": "conjur"}, "audience"),
        ({"audience": ["conjur", "aws"]}, "audience"),
        ({"audience": None}, "audience"),
        ({"audience": {"vault": 1}}, "audience"),
        ({"exp": None}, "ends"),
        ({"exp": "tomorrow"}, "ends"),
        ({"exp": True}, "ends"),
        ({"exp": 10**400}, "ends"),
        ({"exp": 1e300}, "ends"),
        ({"exp": [1]}, "ends"),
        ({"exp": pki.NOW.timestamp()}, "expired"),
        ({"padding": "x" * MAX_JWT_BYTES}, "at most"),
    ],
)
async def test_a_jwt_that_no_recipient_would_accept_is_refused_here(
    agent: SpiffeAgent, api: WorkloadApi, changes: dict[str, Any], says: str
) -> None:
    agent.jwt_answer = agent.jwt_response((HUB, agent.token(**changes)))
    error = await refused_with(api.jwt("vault"))
    assert (error.reason, type(error)) == ("spiffe_bad_svid", AuthorityMisconfigured)
    assert says in str(error)


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c", "..", "ü.ü.ü", "e30.e30.", "e30.W10.AA"])
async def test_what_is_no_jwt_is_refused(agent: SpiffeAgent, api: WorkloadApi, token: str) -> None:
    agent.jwt_answer = agent.jwt_response((HUB, token))
    assert (await refused_with(api.jwt("vault"))).reason == "spiffe_bad_svid"


async def test_nothing_secret_is_in_its_text(agent: SpiffeAgent, api: WorkloadApi) -> None:
    pair, token = await api.x509(), await api.jwt("vault")
    line = pair.key_pem.decode().splitlines()[1]
    svids = decode_x509_response(agent.x509_response())
    tokens = decode_jwt_response(agent.jwt_response((HUB, token)))
    shown = (
        f"{api!r} {vars(api)!r} {pair!r} {svids!r} {tokens!r} {read_jwt(tokens[0], 'vault', at=pki.NOW)!r}"
    )
    assert HUB in shown
    assert line not in shown
    assert token not in shown
    assert repr(svids[0].key_der)[2:-1] not in shown


async def test_closed_it_holds_no_svid_and_can_be_closed_again(agent: SpiffeAgent, api: WorkloadApi) -> None:
    await asyncio.gather(*both(api))
    for _ in range(2):
        await api.close()
    assert (vars(api)["_x509"], vars(api)["_jwts"]) == (None, {})


# As the hub's credentials


async def test_a_back_end_gets_jwt_and_client_certificate_through_the_credentials(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock
) -> None:
    credentials = OwnCredentials(spiffe=api)
    assert claims(await credentials.jwt(JwtRef("spiffe", "vault")))["aud"] == ["vault"]
    first = await credentials.client_certificate(CertificateRef())
    agent.rotate()
    await clock.advance(LOOK_AGAIN)
    second = await credentials.client_certificate(CertificateRef())
    (leaf, *_) = parse_certificates(second.chain_pem, where="chain")
    assert leaf.public_key == agent.key.public_key()
    assert first.key_pem != second.key_pem
    await credentials.close()


async def test_the_hub_logs_in_to_conjur_with_its_svid(
    agent: SpiffeAgent, api: WorkloadApi, clock: VirtualClock, tmp_path: Path
) -> None:
    """Conjur's server knows Kubernetes' issuer, so the agent gives that one's token here: what counts is the way."""
    async with conjur_server(clock=clock, variables={"a": b"1"}) as server:
        server.hosts = server.loggers_in = server.readers = {f"host/clusters/{HUB}"}
        token = server.jwt(sub=HUB)
        agent.jwt_answer = agent.jwt_response((HUB, token))
        config = server.config(tmp_path, jwt=JwtRef("spiffe", "conjur"))
        conjur = Conjur(config, OwnCredentials(spiffe=api), clock=clock)
        assert await conjur.read("a") == b"1"
        assert HOST not in server.hosts
        await conjur.close()


# The parsers, over anything at all


@given(st.binary(max_size=300))
def test_any_bytes_are_svids_or_no_answer(data: bytes) -> None:
    for decode in (decode_x509_response, decode_jwt_response):
        try:
            svids: tuple[object, ...] = decode(data)
        except InvalidValue as error:
            assert "the answer is not a" in str(error)
        else:
            assert isinstance(svids, tuple)


_LEAF = pki.leaf(pki.intermediate(), HUB, private_key=pki.key("svid"))
_PARTS: dict[str, bytes] = {
    "chain_der": _LEAF.der + pki.intermediate().certificate.der,
    "key_der": pkcs8(pki.key("svid")),
    "bundle_der": pki.root().certificate.der,
}


@given(
    st.sampled_from(sorted(_PARTS)),
    st.integers(min_value=0, max_value=2000),
    st.sampled_from(["cut", "flip", "insert", "repeat"]),
    st.binary(min_size=1, max_size=4),
)
def test_a_damaged_svid_is_refused_or_as_good_as_it_was(
    part: str, where: int, how: str, noise: bytes
) -> None:
    data = _PARTS[part]
    at = where % len(data)
    damaged = {
        "cut": data[:at],
        "flip": data[:at] + bytes((data[at] ^ noise[0],)) + data[at + 1 :],
        "insert": data[:at] + noise + data[at:],
        "repeat": data + data[at:],
    }[how]
    svid = X509Svid(spiffe_id=HUB, **(_PARTS | {part: damaged}))
    try:
        own = read_x509(svid, at=pki.NOW)
    except InvalidValue as error:
        assert str(error).isprintable()
        return
    (leaf, *_) = parse_certificates(own.pair.chain_pem, where="chain")
    key = serialization.load_pem_private_key(own.pair.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    assert (leaf.uris, leaf.public_key) == ((HUB,), key.public_key())
    assert own.not_after > pki.NOW


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=60) | st.text(max_size=20))
def test_any_text_as_a_jwt_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_jwt(JwtSvid(HUB, token), "vault", at=pki.NOW)
    assert len(token) < 8 or token not in str(caught.value)


@given(
    st.dictionaries(
        st.sampled_from(["sub", "aud", "exp"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_a_jwt_is_valid_only_for_its_subject_and_until_its_expiry(
    claimed: dict[str, Any],
) -> None:
    token = jwt.api_jws.encode(json.dumps(claimed).encode(), "k" * 32, algorithm="HS256")
    try:
        own = read_jwt(JwtSvid(HUB, token), "vault", at=pki.NOW)
    except InvalidValue:
        return
    assert claimed["sub"] == HUB
    assert own.expires > pki.NOW.timestamp()
