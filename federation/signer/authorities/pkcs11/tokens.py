"""The tokens that this process is logged in to, and the one thread in which PKCS#11 modules are called.

PKCS#11 knows one login for each token and process, whatever the number of sessions (v2.40, 5.6): two authorities
whose keys are on one token share it, and it ends with the last of them. One thread needs but one session, so that is
shared as well. Modules stay initialised until the process ends: the library holds the interpreter's lock during
C_Finalize, and a device that is gone would stop the whole process there.

**The thread.** The library initialises modules without locking (``C_Initialize(NULL)``), which promises that one
thread alone calls them; SoftHSM2 for one aborts the process where two do. Modules may share a library beneath them,
so it is one thread for the whole process. It is a daemon: a call that never comes back must not keep the process from
ending.

**Return codes** and what they mean to an operator are those of PKCS #11 v2.40 (OASIS), 5.1; python-pkcs11 makes an
exception class of each it knows.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import pkcs11

from federation.core.config.authorities.settings import Pkcs11AuthorityConfig
from federation.core.errors import AuthorityMisconfigured, AuthorityUnavailable
from federation.files import remedy_of
from federation.kubernetes.answers import harmless

MOST_WAITING: Final = 1024
"""Jobs behind the one at work. Far above what two authorities have in flight, so only a hang gets there."""

_WITHHELD: Final = 0.0005  # seconds; below what a device takes for one signature, so only software waits

_REMEDY: Final = (
    "check the device, its network and its client's log; restart the signer if it does not come back, for"
    " a call that hangs cannot be ended from outside"
)

Result = TypeVar("Result")
_Outcome: TypeAlias = tuple[asyncio.Future[Any], Any, Exception | None]


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class LibraryThread:
    """Runs jobs one after another, in the order of their coming. The thread starts with the first.

    ``keeps`` is never let go of: the library calls C_Finalize when its last reference to a module goes, as it
    does when the interpreter ends, and where a device hangs that would keep the process from ending.
    """

    def __init__(self, *, keeps: object = None, most_waiting: int = MOST_WAITING) -> None:
        self._keeps = keeps
        self._most_waiting = most_waiting
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._starting = threading.Lock()
        self._started = False

    async def run(self, job: Callable[[], Result], *, timeout: float) -> Result:
        """What the job returns or raises.

        A caller that gives up, or has waited for ``timeout`` seconds, takes its job back if it has not begun;
        one that has begun runs to its end without a caller. Raises AuthorityUnavailable with the reason
        ``hsm_hangs`` then, and at once where too many jobs wait already.
        """
        if self._jobs.qsize() >= self._most_waiting:
            raise _hangs(f"{self._most_waiting} calls wait for it")
        if not self._started:
            self._start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._jobs.put(_Job(job, future, loop))
        limit = loop.call_later(timeout, _give_up, future, timeout)
        try:
            return await future
        finally:
            limit.cancel()

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                threading.Thread(target=self._serve, name="pkcs11", daemon=True).start()
                self._started = True

    def _serve(self) -> None:
        while True:
            self._work(self._jobs.get())

    def _work(self, job: _Job) -> None:
        """Run this job and those that wait behind it, and hand outcomes over a few at a time.

        Waking the event loop costs as much as half a signature in software, and so does its work between two
        signatures while it holds the interpreter's lock.
        """
        loop, outcomes, began = job.loop, [_run(job)], time.monotonic()
        while time.monotonic() - began < _WITHHELD and not self._jobs.empty():
            job = self._jobs.get()
            if job.loop is not loop:
                _hand_over(loop, outcomes)
                loop, outcomes, began = job.loop, [], time.monotonic()
            outcomes.append(_run(job))
        _hand_over(loop, outcomes)


def _run(job: _Job) -> _Outcome:
    if job.future.done():  # taken back
        return job.future, None, None
    try:
        return job.future, job.run(), None
    except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller; the thread goes on
        return job.future, None, error


def _hand_over(loop: asyncio.AbstractEventLoop, outcomes: list[_Outcome]) -> None:
    with suppress(RuntimeError):  # the loop was closed: no caller waits any more
        loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _give_up(future: asyncio.Future[Any], timeout: float) -> None:
    if not future.done():
        future.set_exception(_hangs(f"no answer within {timeout:g} s"))


def _hangs(what: str) -> AuthorityUnavailable:
    return AuthorityUnavailable(f"the PKCS#11 module hangs: {what}", reason="hsm_hangs", remedy=_REMEDY)


LOST: Final = (
    pkcs11.SessionHandleInvalid,
    pkcs11.SessionClosed,
    pkcs11.DeviceRemoved,
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
    pkcs11.UserNotLoggedIn,
    pkcs11.KeyHandleInvalid,  # a logout takes the handles of private objects away
    pkcs11.ObjectHandleInvalid,
    pkcs11.OperationActive,  # something went wrong in between: a new session starts clean
    pkcs11.OperationNotInitialized,
    # What clients of network HSMs answer once their connection is gone:
    pkcs11.DeviceError,
    pkcs11.GeneralError,
    pkcs11.FunctionFailed,
)
"""A new session and a new login may help."""

_UNFIT: Final = (
    pkcs11.MechanismInvalid,
    pkcs11.MechanismParamInvalid,
    pkcs11.KeyTypeInconsistent,
    pkcs11.KeySizeRange,
    pkcs11.FunctionRejected,
    pkcs11.FunctionNotSupported,
    pkcs11.DataLenRange,
)


class SessionLost(Exception):
    """There is no session, or it is of no use any more: log in (again), then ask anew."""


def in_words(error: pkcs11.PKCS11Error) -> str:
    """The code's name, and what the library says of it, bounded and printable."""
    name = type(error).__name__
    text = harmless(str(error))[:200]
    return f"{name}: {text}" if text else name


def failed(error: pkcs11.PKCS11Error, doing: str) -> AuthorityMisconfigured | AuthorityUnavailable:
    """What a call that failed, and not for want of a session, is to callers."""
    if isinstance(error, _UNFIT):
        return AuthorityMisconfigured(
            f"{doing}: {in_words(error)}",
            reason="sign_refused",
            remedy="allow the key and the token to sign with CKM_ECDSA or CKM_RSA_PKCS",
        )
    if isinstance(error, pkcs11.SessionCount):
        return AuthorityUnavailable(
            f"{doing}: the token has no session left",
            reason="sessions_exhausted",
            remedy="close sessions of other clients, or raise the token's limit; each signer needs one",
        )
    return AuthorityUnavailable(
        f"{doing}: {in_words(error)}",
        reason="hsm_error",
        remedy="look at the device and at its client's log",
    )


def pin_refused(error: pkcs11.PKCS11Error, where: str) -> AuthorityMisconfigured | None:
    """The error for a login that the token refuses because of the PIN; None where that is not why."""
    match error:
        case pkcs11.PinIncorrect() | pkcs11.PinInvalid() | pkcs11.PinLenRange():
            return refused(where)
        case pkcs11.PinLocked():
            return locked(where)
        case pkcs11.PinExpired():
            return AuthorityMisconfigured(
                f"the user PIN of {where} has expired",
                reason="pin_expired",
                remedy="give the token a new user PIN, and write it where signer.authority.pin points",
            )
        case pkcs11.UserPinNotInitialized():
            return AuthorityMisconfigured(
                f"{where} has no user PIN yet",
                reason="pin_not_set",
                remedy="have the security officer set one, and write it where signer.authority.pin points",
            )
    return None


def refused(where: str) -> AuthorityMisconfigured:
    """The token does not take this PIN."""
    return AuthorityMisconfigured(
        f"{where} refuses the user PIN; it is not tried again, for tokens lock after a few wrong ones",
        reason="pin_refused",
        remedy="write the right one where signer.authority.pin points; restart the signer if it was the"
        " token's PIN that was wrong and has been corrected",
    )


def differs(where: str) -> AuthorityMisconfigured:
    """Others of this process are logged in with another PIN, so that this one cannot be tried."""
    return AuthorityMisconfigured(
        f"another authority of this signer is logged in to {where} with another user PIN; this one is not tried"
        " meanwhile",
        reason="pin_differs",
        remedy="give both authorities the token's PIN; restart the signer if it was changed on the token",
    )


def locked(where: str) -> AuthorityMisconfigured:
    """The token takes no user PIN at all."""
    return AuthorityMisconfigured(
        f"the user PIN of {where} is locked after too many wrong ones",
        reason="pin_locked",
        remedy="have the security officer set a new user PIN, write it where signer.authority.pin points,"
        " and find out who tried",
    )


MOST_NAMED: Final = 8  # tokens that an error message lists
MOST_REFUSED: Final = 64  # PINs remembered for each token: more than any token takes before it locks

_TokenId: TypeAlias = tuple[str, int, bytes]


class Module(Protocol):
    """A PKCS#11 module that is initialised."""

    def get_slots(self, token_present: bool = False) -> list[pkcs11.Slot]:
        """Its slots."""
        ...


@dataclass(eq=False)
class ModuleLogin:
    """A session that is logged in. ``users`` are the keys that use it."""

    token: pkcs11.Token
    session: pkcs11.Session = field(repr=False)
    pin_digest: bytes = field(repr=False)
    users: set[object] = field(default_factory=set, repr=False)
    alive: bool = True

    def check(self) -> None:
        """Raise SessionLost where the session is gone.

        To be called before a search: the library cannot clean up after one that fails. Asking for random
        bytes is the cheapest thing that every session can do.
        """
        if not self.alive:
            raise SessionLost("the session was closed")
        try:
            self.session.generate_random(64)
        except (pkcs11.RandomNoRNG, pkcs11.FunctionNotSupported):
            return
        except pkcs11.PKCS11Error as error:
            raise SessionLost(in_words(error)) from None


class Tokens:
    """Finds tokens and keeps their logins. A PIN that a token has refused is never tried on it again."""

    def __init__(
        self,
        *,
        load: Callable[[str], Module] = pkcs11.lib,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._load = load
        self._salt = random_bytes(32)
        self._modules: dict[str, Module] = {}
        self._logins: dict[_TokenId, ModuleLogin] = {}
        self._refused: dict[_TokenId, dict[bytes, pkcs11.PKCS11Error]] = {}
        self._accepted: dict[_TokenId, bytes] = {}

    def login(self, config: Pkcs11AuthorityConfig, pin: str, user: object) -> ModuleLogin:
        """A login to the configured token for ``user``: the one there is, if it was made with the same PIN.

        Raises AuthorityMisconfigured or AuthorityUnavailable.
        """
        token = self.find(config)
        identity = (str(config.module.resolve()), token.slot.slot_id, token.serial)
        where = _name(token)
        digest = hmac.digest(self._salt, pin.encode(), "sha256")
        if token.flags & pkcs11.TokenFlag.USER_PIN_LOCKED:
            self._refused.pop(identity, None)  # once the token is unlocked, the PIN may be right again
            raise locked(where)
        before = self._refused.get(identity, {}).get(
            digest
        )  # of a salted digest: its time shows nothing of a PIN
        if before is not None:
            raise pin_refused(before, where) or failed(before, where)
        login = self._shared(identity, digest, where)
        if login is None:
            login = self._logins[identity] = self._new(token, pin, identity, digest)
        login.users.add(user)
        return login

    def _shared(self, identity: _TokenId, digest: bytes, where: str) -> ModuleLogin | None:
        """The login there is, where it is of that PIN; None where there is none that is of use.

        No authority works with a PIN that was never shown to the token, and the token takes none while the process is
        logged in. A login that others work with is not given up to try one that may be wrong.
        """
        login = self._logins.get(identity)
        if login is None:
            return None
        try:
            login.check()
        except SessionLost:
            self.drop(login)
            return None
        if not hmac.compare_digest(login.pin_digest, digest):
            raise differs(where)
        return login

    def _new(self, token: pkcs11.Token, pin: str, identity: _TokenId, digest: bytes) -> ModuleLogin:
        where = _name(token)
        try:
            session = token.open(user_pin=pin)
            self._accepted[identity] = digest
        except pkcs11.UserAlreadyLoggedIn:
            # The login of a session that broke is still there, counts for every session of this process, and says
            # nothing of a PIN that is not its own.
            if not hmac.compare_digest(self._accepted.get(identity, digest), digest):
                raise differs(where) from None
            session = self._beside(token, where)
        except pkcs11.PKCS11Error as error:
            refusal = pin_refused(error, where)
            if refusal is None:
                raise failed(error, f"logging in to {where}") from None
            refused = self._refused.setdefault(identity, {})
            while len(refused) >= MOST_REFUSED:
                del refused[next(iter(refused))]
            refused[digest] = type(error)()
            raise refusal from None
        return ModuleLogin(token, session, digest)

    def _beside(self, token: pkcs11.Token, where: str) -> pkcs11.Session:
        """A session that shares the login that is there."""
        try:
            return token.open()
        except pkcs11.PKCS11Error as error:
            raise failed(error, f"opening a session at {where}") from None

    def leave(self, login: ModuleLogin, user: object) -> None:
        """``user`` needs it no more; the last one logs out."""
        login.users.discard(user)
        if not login.users:
            self.drop(login)

    def drop(self, login: ModuleLogin) -> None:
        """Close the session; a key that still uses it gets SessionLost and logs in anew."""
        if not login.alive:
            return
        login.alive = False
        for identity, known in tuple(self._logins.items()):
            if known is login:
                del self._logins[identity]
        with suppress(pkcs11.PKCS11Error):  # it may be what is broken, and then its handle stays behind
            login.session.close()

    def find(self, config: Pkcs11AuthorityConfig) -> pkcs11.Token:
        """The one token that is configured. Raises AuthorityMisconfigured or AuthorityUnavailable."""
        module = self._module(config.module)
        present: list[pkcs11.Token] = []
        try:
            for slot in module.get_slots(token_present=True):
                with suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                    present.append(slot.get_token())
        except pkcs11.PKCS11Error as error:
            raise failed(error, f"asking {config.module} for its tokens") from None
        present = [token for token in present if token.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED]
        found = [token for token in present if _fits(token, config)]
        if len(found) == 1:
            return found[0]
        seen = ", ".join(_name(token) for token in (found or present)[:MOST_NAMED]) or "none"
        if found:
            raise AuthorityMisconfigured(
                f"{len(found)} tokens match: {seen}",
                reason="token_ambiguous",
                remedy="name the token by its serial, or by its slot",
            )
        raise AuthorityMisconfigured(
            f"{config.module} shows no token {_wanted(config)}; it shows: {seen}",
            reason="token_missing",
            remedy="correct token, slot or serial, or plug it in; a module that finds tokens only when it is"
            " initialised (SoftHSM2) needs a restart of the signer to see a new one",
        )

    def _module(self, path: Path) -> Module:
        """The module, initialised: once in a process, whatever the names it is given."""
        try:
            real = path.resolve(strict=True)
            with real.open("rb") as file:  # a volume that hangs does so here, without the interpreter's lock
                file.read(4)
        except OSError as error:
            raise AuthorityMisconfigured(
                f"cannot read the PKCS#11 module {path}: {error.strerror}",
                reason="module_missing",
                remedy=remedy_of(
                    error,
                    "install the device's client, and name its shared library in signer.authority.module",
                ),
            ) from None
        try:
            module = self._modules[str(real)] = self._load(str(real))
        except pkcs11.PKCS11Error as error:
            if type(error) is pkcs11.PKCS11Error:  # not a return code: the dynamic linker speaks
                raise AuthorityMisconfigured(
                    f"{path} cannot be loaded as a PKCS#11 module: {in_words(error)}",
                    reason="module_invalid",
                    remedy="name a PKCS#11 module for this machine's architecture, and install what it needs",
                ) from None
            raise AuthorityMisconfigured(
                f"{path} cannot be initialised: {in_words(error)}",
                reason="module_unusable",
                remedy="check the module's own configuration and that the signer may read and write its files",
            ) from None
        return module


def _fits(token: pkcs11.Token, config: Pkcs11AuthorityConfig) -> bool:
    return (
        (not config.token or token.label == config.token)
        and (config.slot is None or token.slot.slot_id == config.slot)
        and (not config.serial or token.serial == config.serial.encode())
    )


def _wanted(config: Pkcs11AuthorityConfig) -> str:
    asked = {"label": config.token, "slot": config.slot, "serial": config.serial}
    return " and ".join(
        f"with the {name} {value}" for name, value in asked.items() if value not in {"", None}
    )


def _name(token: pkcs11.Token) -> str:
    """The token as operators know it; its texts come from the device."""
    return (
        f"token {harmless(token.label)!r} (slot {token.slot.slot_id},"
        f" serial {harmless(token.serial.decode('utf-8', 'replace'))})"
    )
