"""Conjur as a store of secrets and as the place of the intermediate, against a server that answers as it does."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from federation.core.config.authorities.settings import ConjurAuthorityConfig, ConjurConfig, JwtRef, SecretRef
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityThrottled,
    AuthorityUnavailable,
    FederationError,
)
from federation.core.pki.keys import KeyKind
from federation.signer.authorities.authority import AuthoritySettings, KeyPair
from federation.signer.authorities.back_ends import make_authority
from federation.signer.authorities.conjur import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    Conjur,
    PairOfVariables,
    read_token,
    read_values,
)
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.http import HttpAnswer
from federation_sandbox.apiserver.authentication import ClusterCa
from tests.authorities.back_end import back_end_context
from tests.authorities.conjur_server import ACCOUNT, HOST, SERVICE, ConjurServer, conjur_server
from tests.signer.running_signer import authority
from tests.support import pki
from tests.support.clock import VirtualClock
from tests.support.memory import kept_by

BINARY = bytes(range(256))
PASSWORD = b"correct horse battery staple"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def server(clock: VirtualClock) -> AsyncIterator[ConjurServer]:
    async with conjur_server(clock=clock, variables={"vault/password": PASSWORD}) as running:
        yield running


@pytest.fixture
async def conjur(server: ConjurServer, clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Conjur]:
    store = Conjur(server.config(tmp_path), OwnCredentials(), clock=clock)
    yield store
    await store.close()


def answering(*answers: web.Response | None, path: str = "/secrets") -> Callable[[web.Request], Any]:
    """An intercept that gives these answers in turn for that path, then leaves it to Conjur."""
    left = list(answers)

    async def intercept(request: web.Request) -> web.StreamResponse | None:
        return left.pop(0) if left and request.path.endswith(path) else None

    return intercept


async def refused_with(asked: Awaitable[object]) -> FederationError:
    with pytest.raises((AuthorityError, AuthorityUnavailable)) as caught:
        await asked
    assert caught.value.remedy
    assert caught.value.where.startswith("Conjur at 127.0.0.1")
    return caught.value


# Reading


@pytest.mark.parametrize("value", [PASSWORD, BINARY, "grüße\n".encode(), b"x" * 100_000])
async def test_a_value_arrives_byte_for_byte(server: ConjurServer, conjur: Conjur, value: bytes) -> None:
    server.variables["secret"] = value
    assert await conjur.read("secret") == value


@pytest.mark.parametrize("name", ["a/b/c", "with space", "a+b", "a&b=c", "50%", "ü", "a:b", "%2F", "a?b#c"])
async def test_any_name_but_one_with_a_comma_reaches_conjur_as_it_is(
    server: ConjurServer, conjur: Conjur, name: str
) -> None:
    server.variables[name] = PASSWORD
    assert await conjur.read(name) == PASSWORD


@pytest.mark.parametrize("name", ["", "a,b", ","])
async def test_a_name_that_a_batch_cannot_carry_is_refused_before_anything_is_sent(
    server: ConjurServer, conjur: Conjur, name: str
) -> None:
    assert (await refused_with(conjur.read(name))).reason == "variable_name"
    assert server.seen == []


async def test_several_variables_are_read_in_one_request(server: ConjurServer, conjur: Conjur) -> None:
    server.variables |= {"one": b"1", "two": BINARY}
    assert await conjur.read_together("two", "one", "two") == (BINARY, b"1", BINARY)
    assert server.seen == [f"POST /authn-jwt/{SERVICE}/{ACCOUNT}/authenticate", "GET /secrets"]


async def test_every_read_sees_the_value_of_now(server: ConjurServer, conjur: Conjur) -> None:
    assert await conjur.read("vault/password") == PASSWORD
    server.variables["vault/password"] = b"another"
    assert await conjur.read("vault/password") == b"another"


async def test_text_is_read_from_a_gateway_that_drops_the_header_asking_for_base64(
    server: ConjurServer, conjur: Conjur
) -> None:
    server.base64_understood = False
    server.variables["text"] = "grüße".encode()
    assert await conjur.read("text") == "grüße".encode()


async def test_a_secret_of_another_back_end_comes_from_conjur(server: ConjurServer, conjur: Conjur) -> None:
    credentials = OwnCredentials(conjur=conjur)
    server.variables["vault/password"] = PASSWORD + b"\n"
    assert await credentials.secret(SecretRef("conjur", "vault/password")) == PASSWORD.decode()


async def test_it_works_over_plain_http_to_an_agent_on_this_machine(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with conjur_server(clock=clock, tls=False, variables={"a": b"1"}) as server:
        store = Conjur(server.config(tmp_path), OwnCredentials(), clock=clock)
        assert await store.read("a") == b"1"
        await store.close()


# Logging in


async def test_one_login_serves_until_two_thirds_of_its_life(
    server: ConjurServer, conjur: Conjur, clock: VirtualClock
) -> None:
    for seconds, logins in [(0, 1), (319, 1), (2, 2), (318, 2), (3, 3)]:
        await clock.advance(seconds)
        await conjur.read("vault/password")
        assert server.logins == logins


async def test_an_access_token_that_lives_shorter_is_renewed_earlier(
    server: ConjurServer, conjur: Conjur, clock: VirtualClock
) -> None:
    server.token_ttl = 60
    await conjur.read("vault/password")
    await clock.advance(41)
    await conjur.read("vault/password")
    assert (server.logins, server.reads) == (2, 2)  # nothing was refused in between


async def test_readers_that_come_at_once_share_one_login(server: ConjurServer, conjur: Conjur) -> None:
    values = await asyncio.gather(*(conjur.read("vault/password") for _ in range(12)))
    assert values == [PASSWORD] * 12
    assert server.logins == 1


async def test_a_token_that_is_refused_leads_to_one_more_login(server: ConjurServer, conjur: Conjur) -> None:
    await conjur.read("vault/password")
    server.revoke_tokens()
    assert await conjur.read("vault/password") == PASSWORD
    assert server.logins == 2


async def test_many_whose_token_is_refused_log_in_once_together(server: ConjurServer, conjur: Conjur) -> None:
    await conjur.read("vault/password")
    server.revoke_tokens()
    values = await asyncio.gather(*(conjur.read("vault/password") for _ in range(12)))
    assert values == [PASSWORD] * 12
    assert server.logins == 2


async def test_a_refused_fresh_token_is_reported_after_one_more_login(
    server: ConjurServer, conjur: Conjur
) -> None:
    server.token_ttl = 0
    assert (await refused_with(conjur.read("vault/password"))).reason == "token_refused"
    assert (server.logins, server.reads) == (2, 2)


async def test_a_removed_host_is_reported_as_a_refused_login(server: ConjurServer, conjur: Conjur) -> None:
    await conjur.read("vault/password")
    server.revoke_tokens()
    server.hosts.clear()
    assert (await refused_with(conjur.read("vault/password"))).reason == "login_refused"


async def test_the_jwt_is_read_anew_for_each_login(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path
) -> None:
    config = server.config(tmp_path)
    token = Path(config.jwt.name)
    conjur = Conjur(config, OwnCredentials(), clock=clock)
    token.write_text(server.jwt(life=-1), "ascii")
    error = await refused_with(conjur.read("vault/password"))
    assert error.reason == "login_refused"
    assert "expired" in str(error)
    token.write_text(server.jwt(), "ascii")
    assert await conjur.read("vault/password") == PASSWORD
    await conjur.close()


@pytest.mark.parametrize("host", [HOST, HOST.removeprefix("host/")])
async def test_a_host_can_be_named_where_the_authenticator_wants_it_in_the_address(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path, host: str
) -> None:
    server.identity_from_url = True
    conjur = Conjur(server.config(tmp_path, host=host), OwnCredentials(), clock=clock)
    assert await conjur.read("vault/password") == PASSWORD
    encoded = "host%2Fclusters%2Fsystem%3Aserviceaccount%3Afederation-system%3Asigner"
    assert server.seen[0] == f"POST /authn-jwt/{SERVICE}/{ACCOUNT}/{encoded}/authenticate"
    await conjur.close()


async def test_a_login_that_is_given_up_does_not_keep_others_from_theirs(
    server: ConjurServer, conjur: Conjur
) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> None:
        arrived.set()
        await go_on.wait()

    server.intercept = hold
    reading = asyncio.create_task(conjur.read("vault/password"))
    await arrived.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    server.intercept = None
    go_on.set()
    assert await conjur.read("vault/password") == PASSWORD


# What goes wrong


def refuse_login(server: ConjurServer) -> None:
    server.hosts.clear()


def forbid_login(server: ConjurServer) -> None:
    server.loggers_in.clear()


def forbid_reading(server: ConjurServer) -> None:
    server.readers.clear()


def lose(server: ConjurServer) -> None:
    server.variables.clear()


def leave_without_value(server: ConjurServer) -> None:
    server.variables["vault/password"] = None


def leave_empty(server: ConjurServer) -> None:
    server.variables["vault/password"] = b" \n"


def answer(status: int, body: bytes = b"", path: str = "/secrets", **headers: str) -> Any:
    def prepare(server: ConjurServer) -> None:
        response = web.Response(
            status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        server.intercept = answering(response, path=path)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "reason", "kind"),
    [
        (refuse_login, "login_refused", AuthorityMisconfigured),
        (forbid_login, "forbidden", AuthorityMisconfigured),
        (forbid_reading, "forbidden", AuthorityMisconfigured),
        (lose, "conjur_not_found", AuthorityMisconfigured),
        (leave_without_value, "conjur_not_found", AuthorityMisconfigured),
        (leave_empty, "variable_empty", AuthorityMisconfigured),
        (answer(400, path="/authenticate"), "login_refused", AuthorityMisconfigured),
        (answer(404, path="/authenticate"), "authenticator_not_found", AuthorityMisconfigured),
        (answer(418, path="/authenticate"), "request_refused", AuthorityMisconfigured),
        (answer(503, path="/authenticate"), "server_error", AuthorityUnavailable),
        (answer(429, path="/authenticate"), "throttled", AuthorityThrottled),
        (answer(200, b"<html>", path="/authenticate"), "garbage", AuthorityUnavailable),
        (answer(302, path="/authenticate", Location="/elsewhere"), "garbage", AuthorityUnavailable),
        (answer(422, b'{"error": {"message": "variable_ids"}}'), "request_refused", AuthorityMisconfigured),
        (answer(406), "request_refused", AuthorityMisconfigured),
        (answer(500), "server_error", AuthorityUnavailable),
        (answer(502, b"<html>Bad Gateway"), "server_error", AuthorityUnavailable),
        (answer(429, Retry_After="7"), "throttled", AuthorityThrottled),
        (answer(204), "garbage", AuthorityUnavailable),
        (answer(307, Location="/elsewhere"), "garbage", AuthorityUnavailable),
        (answer(200, b"[]"), "garbage", AuthorityUnavailable),
        (answer(200, b"{}"), "garbage", AuthorityUnavailable),
        (answer(200, b"x" * 5_000_000), "garbage", AuthorityUnavailable),
    ],
)
async def test_each_failure_has_its_own_reason_and_the_next_read_succeeds(
    server: ConjurServer,
    conjur: Conjur,
    prepare: Callable[[ConjurServer], None],
    reason: str,
    kind: type[Exception],
) -> None:
    hosts, loggers_in, readers = set(server.hosts), set(server.loggers_in), set(server.readers)
    prepare(server)
    error = await refused_with(conjur.read("vault/password"))
    assert (error.reason, type(error)) == (reason, kind)

    server.intercept, server.variables["vault/password"] = None, PASSWORD
    server.hosts, server.loggers_in, server.readers = hosts, loggers_in, readers
    assert await conjur.read("vault/password") == PASSWORD


async def test_a_404_names_both_of_its_meanings_and_the_variable(
    server: ConjurServer, conjur: Conjur
) -> None:
    error = await refused_with(conjur.read_together("vault/password", "mesh/key"))
    assert "not there" in str(error)
    assert "no permission" in str(error)
    assert "Variable acme:variable:mesh/key is empty or not found" in str(error)


async def test_the_time_to_wait_is_passed_on(server: ConjurServer, conjur: Conjur) -> None:
    answer(429, Retry_After="7")(server)
    error = await refused_with(conjur.read("vault/password"))
    assert isinstance(error, AuthorityThrottled)
    assert error.retry_after == 7.0


async def test_an_outage_of_conjur_is_reported_and_reads_succeed_after_it(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path
) -> None:
    conjur = Conjur(server.config(tmp_path, timeout=6.0), OwnCredentials(), clock=clock)
    await conjur.read("vault/password")
    async with server.down():
        assert (await refused_with(conjur.read("vault/password"))).reason == "unreachable"
    stopped = asyncio.Event()

    async def hang(request: web.Request) -> None:
        await stopped.wait()

    server.intercept = hang
    assert (await refused_with(conjur.read("vault/password"))).reason == "timeout"
    stopped.set()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.abort()
        return response

    server.intercept = cut
    assert (await refused_with(conjur.read("vault/password"))).reason == "cut_off"
    server.intercept = None
    assert await conjur.read("vault/password") == PASSWORD
    await conjur.close()


async def test_nothing_secret_is_in_an_error_even_where_conjur_sends_it_back(
    server: ConjurServer, conjur: Conjur
) -> None:
    sent: list[str] = []

    async def echo(request: web.Request) -> web.StreamResponse | None:
        form = await request.post()
        secret = str(form.get("jwt") or request.headers["Authorization"].split('"')[1])
        sent.append(secret)
        if request.path.endswith("/authenticate") and len(sent) > 1:
            return None
        message = f"\x1b[31m{secret} is\nnot good" + "x" * 1000
        return web.json_response({"error": {"message": message}}, status=403)

    server.intercept = echo
    for _ in range(2):
        error = await refused_with(conjur.read("vault/password"))
        assert sent[-1] not in str(error)
        assert sent[-1] not in repr(vars(error))
        assert "[redacted] is not good" in str(error)
        assert "\x1b" not in str(error)
        assert len(str(error)) < 600
    shown = f"{conjur!r} {vars(conjur)!r}"
    assert all(secret not in shown for secret in sent)


async def test_a_token_is_never_sent_where_a_redirect_leads(server: ConjurServer, conjur: Conjur) -> None:
    await conjur.read("vault/password")
    answer(307, Location="/stolen")(server)
    await refused_with(conjur.read("vault/password"))
    assert not any(seen.endswith("/stolen") for seen in server.seen)


# TLS


async def test_a_server_of_another_ca_gets_no_jwt(
    server: ConjurServer, conjur: Conjur, tmp_path: Path
) -> None:
    (tmp_path / "conjur-ca.pem").write_bytes(ClusterCa("another").pem)
    assert (await refused_with(conjur.read("vault/password"))).reason == "tls"
    assert server.seen == []


async def test_the_ca_rotates_in_place(server: ConjurServer, conjur: Conjur, tmp_path: Path) -> None:
    file = tmp_path / "conjur-ca.pem"
    assert await conjur.read("vault/password") == PASSWORD
    async with server.down():
        server.ca = ClusterCa("next")
    assert (await refused_with(conjur.read("vault/password"))).reason == "tls"
    file.write_bytes(server.ca.pem)
    assert await conjur.read("vault/password") == PASSWORD


@pytest.mark.parametrize("content", [None, b"", b"not PEM"])
async def test_a_ca_file_that_cannot_be_used_is_reported(
    conjur: Conjur, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "conjur-ca.pem"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    error = await refused_with(conjur.read("vault/password"))
    assert (error.reason, str(file) in str(error)) == ("ca_file", True)


async def test_a_missing_jwt_is_reported(server: ConjurServer, clock: VirtualClock, tmp_path: Path) -> None:
    config = server.config(tmp_path, jwt=JwtRef("file", str(tmp_path / "absent")))
    conjur = Conjur(config, OwnCredentials(), clock=clock)
    with pytest.raises(AuthorityMisconfigured) as caught:
        await conjur.read("vault/password")
    assert caught.value.reason == "credential_missing"
    await conjur.close()


# The intermediate as two variables

PAIR = ConjurAuthorityConfig(name="conjur", chain_variable="mesh/chain", key_variable="mesh/key")


def put(server: ConjurServer, ca: pki.Authority) -> None:
    server.variables |= {"mesh/chain": ca.chain_pem, "mesh/key": ca.key_pem}


def pair_source(config: ConjurConfig, clock: VirtualClock) -> PairOfVariables:
    credentials = OwnCredentials(conjur=Conjur(config, OwnCredentials(), clock=clock))
    return PairOfVariables(PAIR, config, credentials, clock=clock)


async def test_the_pair_is_the_same_object_until_a_variable_changes(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path
) -> None:
    source = pair_source(server.config(tmp_path), clock)
    first, second = pki.intermediate("first"), pki.intermediate("second", kind=KeyKind.EC_P384)
    put(server, first)
    pair = await source.read()
    assert pair.chain == first.chain
    assert pair.key.public_key == first.key.public_key()
    assert await source.read() is pair

    put(server, second)
    other = await source.read()
    assert other.chain == second.chain
    assert other.key.public_key == second.key.public_key()
    await source.close()


async def test_both_variables_come_out_of_one_request(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path
) -> None:
    source = pair_source(server.config(tmp_path), clock)
    put(server, pki.intermediate())
    await source.read()
    assert (server.logins, server.reads) == (1, 1)
    await source.close()


@pytest.mark.parametrize(
    ("chain", "key"),
    [
        (b"no PEM", pki.intermediate().key_pem),
        (pki.intermediate().chain_pem, b"no PEM"),
        (pki.intermediate().key_pem, pki.intermediate().chain_pem),
        (BINARY, BINARY),
    ],
)
async def test_a_value_that_is_no_pair_is_reported_without_a_byte_of_it(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path, chain: bytes, key: bytes
) -> None:
    source = pair_source(server.config(tmp_path), clock)
    server.variables |= {"mesh/chain": chain, "mesh/key": key}
    with pytest.raises(AuthorityMisconfigured) as caught:
        await source.read()
    assert caught.value.reason == "variable_invalid"
    assert "the variable mesh/" in str(caught.value)
    assert caught.value.remedy
    assert pki.intermediate().key_pem.decode().splitlines()[1] not in str(caught.value)
    put(server, pki.intermediate())
    assert (await source.read()).chain == pki.intermediate().chain
    await source.close()


async def test_a_rotation_that_is_half_done_is_not_taken_up_and_then_it_is(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path
) -> None:
    old, new = authority("old"), authority("new")
    put(server, old)
    settings = AuthoritySettings(PAIR, conjur=server.config(tmp_path))
    kept = make_authority(settings, back_end_context())  # its certificates live by the system's clock
    kept.trust((old.root, new.root))
    await kept.refresh()
    report = kept.describe()
    assert (report.state, report.sha256) == ("ready", old.certificate.sha256)

    server.variables["mesh/key"] = new.key_pem
    await kept.refresh()
    report = kept.describe()
    assert (report.state, report.reason, report.sha256) == ("degraded", "wrong_key", old.certificate.sha256)

    server.variables["mesh/chain"] = new.chain_pem
    await kept.refresh()
    report = kept.describe()
    assert (report.state, report.sha256) == ("ready", new.certificate.sha256)
    await kept.close()


async def test_it_goes_on_signing_while_conjur_is_away_and_says_so(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path
) -> None:
    ca = authority("kept")
    put(server, ca)
    kept = make_authority(AuthoritySettings(PAIR, conjur=server.config(tmp_path)), back_end_context())
    kept.trust((ca.root,))
    await kept.refresh()
    async with server.down():
        await kept.refresh()
        report = kept.describe()
        assert (report.state, report.reason) == ("degraded", "unreachable")
        assert kept.can_sign
    await kept.refresh()
    assert kept.describe().state == "ready"
    await kept.close()


async def test_it_is_looked_at_as_often_as_the_configuration_says(
    server: ConjurServer, tmp_path: Path
) -> None:
    kept = make_authority(
        AuthoritySettings(PAIR, conjur=server.config(tmp_path, poll=17.0)), back_end_context()
    )
    assert kept.pause == 17.0
    await kept.close()


async def test_closed_it_holds_neither_key_nor_token(
    server: ConjurServer, clock: VirtualClock, tmp_path: Path
) -> None:
    source = pair_source(server.config(tmp_path), clock)
    put(server, pki.intermediate())
    await source.read()
    assert all(secrets_kept_by(source))
    await source.close()
    assert not any(secrets_kept_by(source))


def secrets_kept_by(source: PairOfVariables) -> tuple[list[KeyPair], list[bytes], list[str]]:
    """Pairs, keys as PEM, and access tokens, which are JSON in base64."""
    pem = [data for data in kept_by(source, bytes, depth=8) if b"PRIVATE KEY" in data]
    return (
        kept_by(source, KeyPair, depth=8),
        pem,
        [text for text in kept_by(source, str, depth=8) if text.startswith("eyJ")],
    )


# The parsers, over anything at all


@given(st.binary(max_size=400))
def test_any_answer_to_a_login_is_a_token_or_garbage(body: bytes) -> None:
    with pytest.raises(AuthorityUnavailable) as caught:
        read_token(body, where="Conjur")
    assert caught.value.reason == "garbage"


@given(
    st.dictionaries(st.sampled_from(["iat", "exp", "sub"]), st.integers() | st.floats() | st.text())
    | st.binary()
)
def test_a_tokens_life_is_bounded_for_any_claims(claims: object) -> None:
    raw = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    payload = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    token = json.dumps({"protected": "e30", "payload": payload, "signature": "AA"}).encode()
    bare, encoded = (
        read_token(token, where="Conjur"),
        read_token(base64.b64encode(token) + b"\n", where="Conjur"),
    )
    assert bare == encoded
    assert base64.b64decode(bare.encoded) == token
    assert 0.0 <= bare.lifetime <= LONGEST_LIFETIME


@pytest.mark.parametrize(
    ("claims", "lifetime"),
    [
        ({"iat": 1000, "exp": 1060}, 60.0),
        ({"iat": 1000}, DEFAULT_LIFETIME),
        ({"exp": 1000}, DEFAULT_LIFETIME),
        ({"iat": 1000, "exp": 10**12}, LONGEST_LIFETIME),
        ({"iat": 1000, "exp": 900}, 0.0),
        ([], DEFAULT_LIFETIME),
    ],
)
def test_a_token_lives_as_long_as_lies_between_its_own_dates(claims: object, lifetime: float) -> None:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
    token = json.dumps({"protected": "", "payload": payload, "signature": ""}).encode()
    assert read_token(token, where="Conjur").lifetime == lifetime


@given(st.binary(max_size=300), st.booleans())
def test_any_answer_to_a_read_is_values_or_an_error(body: bytes, encoded: bool) -> None:
    headers = CIMultiDict({"Content-Encoding": "base64"} if encoded else {})
    with pytest.raises((AuthorityUnavailable, AuthorityMisconfigured)) as caught:
        read_values(HttpAnswer(200, headers, body), ["acme:variable:a"], where="Conjur")
    assert caught.value.reason in {"garbage", "variable_empty"}


@given(st.dictionaries(st.text(min_size=1), st.binary().filter(bytes.strip), min_size=1))
def test_every_value_survives_the_way_through_base64(values: dict[str, bytes]) -> None:
    body = json.dumps({name: base64.encodebytes(value).decode() for name, value in values.items()}).encode()
    answer = HttpAnswer(200, CIMultiDict({"content-encoding": "Base64"}), body)
    assert read_values(answer, list(values), where="Conjur") == tuple(values.values())
