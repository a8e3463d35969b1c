"""A key in a real SoftHSM2 token: kinds of keys, every fault that can be made there, and who may log in when.

A library that hangs, or that locks a PIN, is made up, for SoftHSM2 does neither.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.config.authorities.pkcs11 import parse_uri
from federation.core.config.authorities.settings import Pkcs11AuthorityConfig, SecretRef
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable, FederationError
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import KeyKind, verify
from federation.signer.authorities.authority import AuthoritySettings, KeyPair
from federation.signer.authorities.credentials import OwnCredentials
from tests.authorities.back_end import BackEnd, authority_of, order
from tests.authorities.of_pkcs11 import MODULE, SoftHsm, SoftToken, need_softhsm, soft_hsm
from tests.signer.running_signer import authority, eventually
from tests.support import pki

need_softhsm()

import pkcs11  # noqa: E402 - only where it is installed
from pkcs11 import Attribute, ObjectClass  # noqa: E402

from federation.signer.authorities.pkcs11.key import public_key_of  # noqa: E402
from federation.signer.authorities.pkcs11.pair import Library, TokenPair, library_of_this_process  # noqa: E402
from federation.signer.authorities.pkcs11.tokens import LibraryThread, Tokens  # noqa: E402
from tests.support.patience import PATIENCE  # noqa: E402

MESSAGE = b"to be signed"
CA = pki.intermediate("in a token")
OTHER = pki.intermediate("in another token")


@pytest.fixture
async def hsm(tmp_path: Path) -> AsyncIterator[SoftHsm]:
    async with soft_hsm(tmp_path / "hsm") as soft:
        yield soft


@asynccontextmanager
async def pair_of(config: Pkcs11AuthorityConfig, library: Library | None = None) -> AsyncIterator[TokenPair]:
    pair = TokenPair(config, OwnCredentials(), library)
    try:
        yield pair
    finally:
        await pair.close()


async def fault(pair: TokenPair) -> FederationError:
    with pytest.raises((AuthorityMisconfigured, AuthorityUnavailable)) as caught:
        await pair.read()
    assert caught.value.remedy
    return caught.value


async def signs(read: KeyPair, ca: pki.Authority = CA) -> None:
    assert verify(ca.certificate.public_key, await read.key.sign(MESSAGE), MESSAGE)


def objects(session: Any, kind: ObjectClass) -> list[Any]:
    return list(session.get_objects({Attribute.CLASS: kind}))


# -- kinds of keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KeyKind))
async def test_every_accepted_kind_of_key_signs_leaves(hsm: SoftHsm, kind: KeyKind) -> None:
    ca = authority(f"of {kind.value} in a token", kind=kind)
    token = hsm.token(ca.key)
    await hsm.initialise()
    back_end = BackEnd(settings=AuthoritySettings(token.config(ca)), root=ca.root)
    async with authority_of(back_end) as hub:
        leaf = await hub.issue(order())
        assert Certificate.from_der(leaf.der).is_signed_by(ca.certificate)
        assert hub.describe().state == "ready"


async def test_a_token_without_raw_rsa_is_given_whole_messages(tmp_path: Path) -> None:
    ca = pki.intermediate("rsa by whole messages", kind=KeyKind.RSA_2048)
    async with soft_hsm(tmp_path / "hsm", mechanisms="CKM_SHA256_RSA_PKCS") as hsm:
        token = hsm.token(ca.key)
        await hsm.initialise()
        async with pair_of(token.config(ca)) as pair:
            await signs(await pair.read(), ca)


async def test_a_token_without_the_signing_mechanism_is_reported(tmp_path: Path) -> None:
    async with soft_hsm(tmp_path / "hsm", mechanisms="CKM_RSA_PKCS") as hsm:
        token = hsm.token(CA.key)
        await hsm.initialise()
        async with pair_of(token.config(CA)) as pair:
            assert (await fault(pair)).reason == "sign_refused"


async def test_the_public_key_is_the_tokens_own_and_else_the_certificates(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(token.config(OTHER)) as pair:
        assert (await pair.read()).key.public_key == CA.key.public_key()
    await token.session(lambda session: [o.destroy() for o in objects(session, ObjectClass.PUBLIC_KEY)])
    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        assert read.key.public_key == CA.key.public_key()
        await signs(read)
    async with pair_of(token.config(OTHER)) as pair:
        error = await fault(pair)
        assert (error.reason, "certificate" in str(error)) == ("wrong_key", True)


async def test_a_public_key_object_that_lies_is_found_out(hsm: SoftHsm) -> None:
    token = hsm.token()
    token.take(CA.key, label="ca", key_id="01")
    token.take(OTHER.key, label="other", key_id="02")
    await hsm.initialise()

    def swap(session: Any) -> None:
        for one in objects(session, ObjectClass.PUBLIC_KEY):
            if one[Attribute.ID] == b"\x01":
                one.destroy()
            else:
                one[Attribute.ID] = b"\x01"

    await token.session(swap)
    async with pair_of(token.config(OTHER)) as pair:
        error = await fault(pair)
        assert (error.reason, "public key object" in str(error)) == ("wrong_key", True)


@pytest.mark.parametrize(
    ("curve", "params"), [(ec.SECP256R1(), "06082a8648ce3d030107"), (ec.SECP384R1(), "06052b81040022")]
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_points_are_read_as_the_standard_has_them_and_bare(curve: Any, params: str, wrapped: bool) -> None:
    key = ec.generate_private_key(curve).public_key()
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    shown: Any = {
        Attribute.KEY_TYPE: pkcs11.KeyType.EC,
        Attribute.EC_PARAMS: bytes.fromhex(params),
        Attribute.EC_POINT: bytes((4, len(point))) + point if wrapped else point,
    }
    assert public_key_of(shown) == key
    assert public_key_of(shown | {Attribute.EC_POINT: point[:-1]}) is None
    assert public_key_of(shown | {Attribute.EC_PARAMS: bytes.fromhex("06052b81040023")}) is None


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({Attribute.SIGN: False}, "key_usage"),
        ({Attribute.ALWAYS_AUTHENTICATE: True}, "key_always_authenticates"),
    ],
)
async def test_a_key_that_may_not_sign_unattended_is_reported(
    hsm: SoftHsm, attributes: dict[Attribute, Any], reason: str
) -> None:
    token = hsm.token()
    await hsm.initialise()
    await token.session(lambda session: generate(session, "ca", attributes))
    async with pair_of(token.config(CA)) as pair:
        assert (await fault(pair)).reason == reason


def generate(session: Any, label: str, attributes: dict[Attribute, Any], curve: str = "secp256r1") -> Any:
    from pkcs11.util.ec import encode_named_curve_parameters

    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}, local=True
    )
    return parameters.generate_keypair(store=True, label=label, id=b"\x01", private_template=attributes)


async def test_a_key_of_another_kind_is_reported(hsm: SoftHsm) -> None:
    token = hsm.token()
    await hsm.initialise()
    await token.session(lambda session: generate(session, "ca", {}, curve="secp521r1"))
    odd = replace(CA, certificate=P521, chain=(P521,))
    async with pair_of(token.config(odd)) as pair:
        error = await fault(pair)
        assert (error.reason, "secp521r1" in str(error)) == ("key_kind", True)
    async with pair_of(token.config(pki.intermediate("rsa for an ec key", kind=KeyKind.RSA_2048))) as pair:
        assert (await fault(pair)).reason == "wrong_key"


P521 = pki.certificate(pki.root(), [], public_key=ec.generate_private_key(ec.SECP521R1()).public_key())


# -- the key stays in its token --------------------------------------------------------------------


async def test_the_private_value_cannot_be_read(hsm: SoftHsm, caplog: pytest.LogCaptureFixture) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()

    def value(session: Any) -> Any:
        [key] = objects(session, ObjectClass.PRIVATE_KEY)
        return key[Attribute.VALUE]

    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        with pytest.raises(pkcs11.AttributeSensitive):
            await token.session(value)
        assert repr(read.key) == "TokenKey(ecdsa-p256)"
        assert not read.key.has_local_key
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_key_that_may_leave_its_token_is_warned_of_once(
    hsm: SoftHsm, caplog: pytest.LogCaptureFixture
) -> None:
    token = hsm.token()
    await hsm.initialise()
    lax = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}
    await token.session(lambda session: generate(session, "ca", lax))
    async with pair_of(token.config(CA)) as pair:
        await pair.read()
        await hsm.initialise()
        await pair.read()
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(logged) == 1
    assert "CKA_EXTRACTABLE" in logged[0]
    assert "CKA_SENSITIVE" in logged[0]


# -- finding token and key -------------------------------------------------------------------------


async def test_a_token_is_found_by_label_slot_serial_or_uri(hsm: SoftHsm) -> None:
    hsm.token(OTHER.key)
    token = hsm.token(CA.key)
    await hsm.initialise()
    slot = await token.session(lambda session: session.token.slot.slot_id)
    uri = parse_uri(f"pkcs11:token={token.label};serial={token.serial};object=ca;id=%01;type=private")
    for named in (
        {"token": token.label},
        {"token": "", "slot": slot},
        {"token": "", "serial": token.serial},
        {"token": uri.token, "serial": uri.serial, "key_label": uri.object, "key_id": uri.id},
        {"key_label": "", "key_id": "01"},
        {"key_label": ""},
    ):
        async with pair_of(token.config(CA, **named)) as pair:
            await signs(await pair.read())


async def test_missing_and_ambiguous_objects_have_different_reasons(hsm: SoftHsm, tmp_path: Path) -> None:
    token, twin = hsm.token(CA.key, label="twins"), hsm.token(label="twins")
    await hsm.initialise()
    config = token.config(CA)
    no_module = tmp_path / "not a module.so"
    no_module.write_bytes(b"\x7fELF and nothing behind")
    cases: dict[str, dict[str, Any]] = {
        "token_missing": {"token": "missing"},
        "token_ambiguous": {},
        "key_missing": {"token": "", "serial": await serial_of(token), "key_label": "missing"},
        "module_missing": {"module": tmp_path / "nowhere.so"},
        "module_invalid": {"module": no_module},
        "file_unreadable": {"certificate_file": tmp_path / "no chain"},
        "file_invalid": {"certificate_file": no_module},
        "credential_missing": {"pin": SecretRef("env", "NOT_SET_ANYWHERE")},
    }
    seen = {}
    for reason, changes in cases.items():
        async with pair_of(replace(config, **changes)) as pair:
            error = await fault(pair)
            seen[reason] = (error.reason, type(error))
    assert seen == {reason: (reason, AuthorityMisconfigured) for reason in cases}
    assert twin.label == token.label


async def serial_of(token: SoftToken) -> str:
    """The serial of the one token of that label that this token's PIN opens."""

    def find() -> str:
        for slot in pkcs11.lib(str(MODULE.resolve())).get_slots(token_present=True):
            one = slot.get_token()
            if one.label == token.label:
                try:
                    one.open(user_pin=token.pin).close()
                except pkcs11.PinIncorrect:
                    continue
                return one.serial.decode()
        raise AssertionError(token.label)

    return await library_of_this_process().thread.run(find, timeout=PATIENCE)


async def test_two_keys_of_one_label_are_not_guessed_between(hsm: SoftHsm) -> None:
    token = hsm.token()
    token.take(CA.key, label="ca", key_id="01")
    token.take(OTHER.key, label="ca", key_id="02")
    await hsm.initialise()
    async with pair_of(token.config(CA)) as pair:
        assert (await fault(pair)).reason == "key_ambiguous"
    async with pair_of(token.config(CA, key_id="01")) as pair:
        await signs(await pair.read())


async def test_nothing_changed_is_the_same_pair_and_a_new_chain_another(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    config = token.config(CA)
    async with pair_of(config) as pair:
        first = await pair.read()
        assert await pair.read() is first
        config.certificate_file.write_bytes(b"half of a certif")
        assert (await fault(pair)).reason == "file_invalid"
        config.certificate_file.write_bytes(CA.chain_pem + CA.root.pem)
        second = await pair.read()
        assert second is not first
        assert second.chain == (*CA.chain, CA.root)


# -- sessions that are lost ------------------------------------------------------------------------


async def test_signatures_go_on_when_every_session_is_lost(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        await hsm.initialise()  # as a device that restarts: no session, no login, no handle is good any more
        await asyncio.gather(*(signs(read) for _ in range(16)))
        await hsm.initialise()
        assert await pair.read() is read


async def test_signing_continues_after_the_process_was_logged_out(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        await log_out(token)
        await signs(read)
        await log_out(token)
        assert await pair.read() is read


async def log_out(token: SoftToken) -> None:
    """End the login of this process and leave its sessions open: private keys vanish from their sight."""

    def run(session: Any) -> None:
        assert ctypes.CDLL(str(MODULE)).C_Logout(ctypes.c_ulong(session.handle)) == 0

    await token.session(run)


async def test_a_removed_key_is_reported_and_used_again_once_restored(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        await token.session(lambda s: [o.destroy() for k in KEY_OBJECTS for o in objects(s, k)])
        with pytest.raises(AuthorityMisconfigured) as caught:
            await read.key.sign(MESSAGE)
        assert caught.value.reason == "key_missing"
        assert (await fault(pair)).reason == "key_missing"
        token.take(CA.key)
        await signs(await pair.read())


KEY_OBJECTS = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)


async def test_a_key_that_was_exchanged_does_not_sign_for_the_old_certificate(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        await token.session(lambda s: [o.destroy() for k in KEY_OBJECTS for o in objects(s, k)])
        token.take(OTHER.key)
        await hsm.initialise()
        with pytest.raises(AuthorityUnavailable) as caught:
            await read.key.sign(MESSAGE)
        assert caught.value.reason == "key_changed"
        assert (await pair.read()).key.public_key == OTHER.key.public_key()


async def test_a_token_that_goes_away_is_unavailable_not_misconfigured(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        hsm.tool("--delete-token", "--token", token.label)
        await hsm.initialise()
        error = await fault(pair)
        assert (type(error), error.reason) == (AuthorityUnavailable, "token_gone")
        with pytest.raises(AuthorityUnavailable):
            await read.key.sign(MESSAGE)


# -- the PIN ---------------------------------------------------------------------------------------


async def test_a_wrong_pin_is_tried_once_and_a_new_one_taken_up(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    token.pin_file.write_text("000000")
    async with pair_of(token.config(CA)) as pair:
        error = await fault(pair)
        assert (type(error), error.reason) == (AuthorityMisconfigured, "pin_refused")
        assert "000000" not in error.diagnostics()
        assert await token_counts_wrong_pins(token)
        await token.session(lambda _: None)  # a login that succeeds sets the token's count back
        assert (await fault(pair)).reason == "pin_refused"
        async with pair_of(token.config(CA)) as after_a_reload:
            assert (await fault(after_a_reload)).reason == "pin_refused"
        assert not await token_counts_wrong_pins(token)
        token.pin_file.write_text(token.pin)
        await signs(await pair.read())


async def token_counts_wrong_pins(token: SoftToken) -> bool:
    """True where the last login that the token saw was refused."""

    def ask() -> bool:
        shown = pkcs11.lib(str(MODULE.resolve())).get_token(token_label=token.label)
        return bool(shown.flags & pkcs11.TokenFlag.USER_PIN_COUNT_LOW)

    return await library_of_this_process().thread.run(ask, timeout=PATIENCE)


async def test_a_wrong_pin_after_a_lost_session_is_reported_by_the_signature(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(token.config(CA)) as pair:
        read = await pair.read()
        token.pin_file.write_text("111111")
        await signs(read)  # the login is still valid: no PIN is needed
        await hsm.initialise()
        with pytest.raises(AuthorityMisconfigured) as caught:
            await read.key.sign(MESSAGE)
        assert caught.value.reason == "pin_refused"
        token.pin_file.write_text(token.pin)
        await signs(read)


@dataclass
class OddToken:
    """A token as the library shows it, with what SoftHSM2 never does."""

    login_fails: type[pkcs11.PKCS11Error]
    flags: pkcs11.TokenFlag = pkcs11.TokenFlag.TOKEN_INITIALIZED
    label: str = "odd"
    serial: bytes = b"4711"
    asked: int = 0

    @property
    def slot(self) -> Any:
        return SimpleNamespace(slot_id=1, get_token=lambda: self)

    def open(self, user_pin: str) -> Any:
        self.asked += 1
        raise self.login_fails

    def library(self) -> Library:
        module: Any = SimpleNamespace(get_slots=lambda token_present: [self.slot])
        return Library(LibraryThread(), Tokens(load=lambda _: module))


@pytest.mark.parametrize(
    ("code", "reason", "asked"),
    [
        (pkcs11.PinLocked, "pin_locked", 1),
        (pkcs11.PinExpired, "pin_expired", 1),
        (pkcs11.PinLenRange, "pin_refused", 1),
        (pkcs11.UserPinNotInitialized, "pin_not_set", 1),
        (pkcs11.SessionCount, "sessions_exhausted", 2),
        (pkcs11.DeviceError, "hsm_error", 2),
    ],
)
async def test_each_login_failure_has_its_own_reason(
    tmp_path: Path, code: type[pkcs11.PKCS11Error], reason: str, asked: int
) -> None:
    token = OddToken(code)
    async with pair_of(odd_config(tmp_path), token.library()) as pair:
        assert (await fault(pair)).reason == reason
        assert (await fault(pair)).reason == reason
        assert token.asked == asked  # what the PIN is to blame for is not tried again


async def test_a_token_that_says_it_is_locked_is_not_asked(tmp_path: Path) -> None:
    token = OddToken(pkcs11.PinIncorrect)
    async with pair_of(odd_config(tmp_path), token.library()) as pair:
        assert (await fault(pair)).reason == "pin_refused"
        token.flags |= pkcs11.TokenFlag.USER_PIN_LOCKED
        assert (await fault(pair)).reason == "pin_locked"
        assert token.asked == 1
        token.flags = pkcs11.TokenFlag.TOKEN_INITIALIZED  # the security officer set the PIN anew
        assert (await fault(pair)).reason == "pin_refused"
        assert token.asked == 2


def odd_config(directory: Path) -> Pkcs11AuthorityConfig:
    """Any module that can be read will do: a made-up one is loaded in its place."""
    chain, pin = directory / "chain.pem", directory / "pin"
    chain.write_bytes(CA.chain_pem)
    pin.touch(mode=0o600)
    pin.write_text("123456")
    return Pkcs11AuthorityConfig(
        name="odd", module=chain, pin=SecretRef("file", str(pin)), certificate_file=chain, token="odd"
    )


# -- several authorities in one process ------------------------------------------------------------


async def test_another_authority_takes_over_in_the_same_process(hsm: SoftHsm) -> None:
    old, new = hsm.token(CA.key), hsm.token(OTHER.key)
    await hsm.initialise()
    async with pair_of(new.config(OTHER)) as second:
        async with pair_of(old.config(CA)) as first:
            before, after = await first.read(), await second.read()
            await asyncio.gather(*(signs(before) for _ in range(8)), *(signs(after, OTHER) for _ in range(8)))
        await signs(after, OTHER)


async def test_two_keys_on_one_token_share_its_login(hsm: SoftHsm) -> None:
    token = hsm.token()
    token.take(CA.key, label="ca", key_id="01")
    token.take(OTHER.key, label="next", key_id="02")
    await hsm.initialise()
    async with pair_of(token.config(OTHER, key_label="next")) as second:
        async with pair_of(token.config(CA)) as first:
            before, after = await first.read(), await second.read()
            await signs(before)
        token.pin_file.unlink()
        await signs(after, OTHER)  # the first has left, and has not logged out the second
        await log_out(token)
        with pytest.raises(AuthorityMisconfigured):  # so that it would have had to log in
            await after.key.sign(MESSAGE)


def with_pin(token: SoftToken, pin: str) -> Pkcs11AuthorityConfig:
    """Its settings, with this PIN in a file of its own."""
    file = token.hsm.directory / f"PIN {pin}"
    file.touch(mode=0o600)
    file.write_text(pin)
    return token.config(CA, pin=SecretRef("file", str(file)))


async def test_a_wrong_pin_beside_a_right_one_is_not_shown_to_the_token(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(with_pin(token, "222222")) as bad:
        async with pair_of(token.config(CA)) as good:
            read = await good.read()
            token.pin_file.unlink()  # so that it could not log in again
            for _ in range(2):
                assert (await fault(bad)).reason == "pin_differs"
                await signs(read)
                assert await good.read() is read
            assert not await token_counts_wrong_pins(token)
        assert (await fault(bad)).reason == "pin_refused"
        assert await token_counts_wrong_pins(token)


async def test_each_wrong_pin_is_tried_once_despite_good_logins_in_between(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    async with pair_of(with_pin(token, "222222")) as one, pair_of(with_pin(token, "333333")) as other:
        assert (await fault(one)).reason == "pin_refused"
        assert (await fault(other)).reason == "pin_refused"
        async with pair_of(token.config(CA)) as good:
            await signs(await good.read())  # which sets the token's count back
        for _ in range(2):
            assert (await fault(one)).reason == "pin_refused"
            assert (await fault(other)).reason == "pin_refused"
        assert not await token_counts_wrong_pins(token)


@dataclass
class BrokenSessions(OddToken):
    """A token whose sessions break, while the login of the first one stays."""

    def open(self, user_pin: str | None = None) -> Any:
        self.asked += user_pin is not None
        if user_pin is not None and self.asked > 1:
            raise pkcs11.UserAlreadyLoggedIn

        def broken(*_: object) -> None:
            raise pkcs11.DeviceError

        return SimpleNamespace(generate_random=broken, close=broken)


def test_a_login_that_outlived_its_session_is_not_taken_over_with_another_pin(tmp_path: Path) -> None:
    token, config = BrokenSessions(pkcs11.PinIncorrect), odd_config(tmp_path)
    module: Any = SimpleNamespace(get_slots=lambda token_present: [token.slot])
    tokens = Tokens(load=lambda _: module)
    good, bad = object(), object()
    first = tokens.login(config, "123456", good)
    with pytest.raises(AuthorityMisconfigured) as caught:
        tokens.login(config, "222222", bad)
    assert caught.value.reason == "pin_differs"
    assert tokens.login(config, "123456", good) is not first


# -- the thread: hangs, callers that give up -------------------------------------------------------


class Device:
    """Work for the thread that hangs until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.done: list[str] = []

    def hang(self) -> None:
        self.begun.set()
        assert self.let_go.wait(20)
        self.done.append("hung")

    def work(self) -> str:
        self.done.append("worked")
        return "result"


async def test_a_hanging_token_is_reported_in_time_and_does_not_block_the_loop() -> None:
    thread, device = LibraryThread(most_waiting=2), Device()
    try:
        hung = asyncio.create_task(thread.run(device.hang, timeout=0.2))
        behind = asyncio.create_task(thread.run(device.work, timeout=0.1))
        ticks = 0
        while not hung.done():
            await asyncio.sleep(0.005)
            ticks += 1
        assert ticks > 5  # the event loop went on
        assert not device.done  # it hangs still
        for task in (hung, behind):
            with pytest.raises(AuthorityUnavailable) as caught:
                await task
            assert caught.value.reason == "hsm_hangs"
            assert caught.value.remedy
        with pytest.raises(AuthorityUnavailable):
            await thread.run(device.work, timeout=0.05)
        with pytest.raises(AuthorityUnavailable, match="2 calls wait") as caught:
            await thread.run(device.work, timeout=PATIENCE)  # at once: the queue is full of those given up
        assert caught.value.reason == "hsm_hangs"
    finally:
        device.let_go.set()
    await eventually(lambda: device.done)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                assert await thread.run(device.work, timeout=PATIENCE) == "result"
            except AuthorityUnavailable as error:
                assert "2 calls wait" in str(error)  # those given up are still to be taken from the queue
            else:
                break
            await asyncio.sleep(0.005)
    assert device.done == ["hung", "worked"]  # what had been given up was not done


async def test_a_call_that_was_given_up_before_it_began_is_never_made() -> None:
    thread, device = LibraryThread(), Device()
    hung = asyncio.create_task(thread.run(device.hang, timeout=PATIENCE))
    assert await asyncio.to_thread(device.begun.wait, 20)
    given_up = asyncio.create_task(thread.run(device.work, timeout=PATIENCE))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    device.let_go.set()
    await hung
    await thread.run(lambda: None, timeout=PATIENCE)
    assert device.done == ["hung"]


async def test_a_job_that_fails_is_its_callers_and_the_thread_goes_on() -> None:
    thread = LibraryThread()

    def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await thread.run(fail, timeout=PATIENCE)
    names = await asyncio.gather(
        *(thread.run(lambda: threading.current_thread(), timeout=PATIENCE) for _ in range(4))
    )
    assert len(set(names)) == 1
    assert names[0].daemon


async def test_a_device_that_hangs_leaves_the_authority_degraded_and_lets_it_close(hsm: SoftHsm) -> None:
    token = hsm.token(CA.key)
    await hsm.initialise()
    device = Device()
    async with pair_of(token.config(CA, timeout=3.0)) as pair:
        read = await pair.read()
        hung = asyncio.create_task(library_of_this_process().thread.run(device.hang, timeout=PATIENCE))
        try:
            assert await asyncio.to_thread(device.begun.wait, 20)
            with pytest.raises(AuthorityUnavailable) as caught:
                await read.key.sign(MESSAGE)
            assert caught.value.reason == "hsm_hangs"
            assert (await fault(pair)).reason == "hsm_hangs"
            await pair.close()
            assert not hung.done()  # closing waits for no call that hangs
        finally:
            device.let_go.set()
            await hung
        await signs(await pair.read())
