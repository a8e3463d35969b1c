"""The tokens that this process is logged in to. All of it runs in the library thread, and nowhere else.

PKCS#11 knows one login for each token and process, whatever the number of sessions (v2.40, 5.6): two
authorities whose keys are on one token share it, and it ends with the last of them. One thread needs but one
session, so that is shared as well. Modules stay initialised until the process ends: the library holds the
interpreter's lock during C_Finalize, and a device that is gone would stop the whole process there.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import pkcs11

from federation.clusters.answers import harmless
from federation.core.config.authority_model import Pkcs11AuthorityConfig
from federation.core.errors import AuthorityMisconfigured
from federation.signer.authorities.pkcs11.faults import (
    SessionLost,
    differs,
    failed,
    in_words,
    locked,
    pin_refused,
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
class Login:
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
        self._logins: dict[_TokenId, Login] = {}
        self._refused: dict[_TokenId, dict[bytes, pkcs11.PKCS11Error]] = {}
        self._accepted: dict[_TokenId, bytes] = {}

    def login(self, config: Pkcs11AuthorityConfig, pin: str, user: object) -> Login:
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
        )  # of a salted digest: its time tells nothing of a PIN
        if before is not None:
            raise pin_refused(before, where) or failed(before, where)
        login = self._shared(identity, digest, where)
        if login is None:
            login = self._logins[identity] = self._new(token, pin, identity, digest)
        login.users.add(user)
        return login

    def _shared(self, identity: _TokenId, digest: bytes, where: str) -> Login | None:
        """The login there is, where it is of that PIN; None where there is none that is of use.

        Nobody works with a PIN that was never shown to the token, and the token takes none while the process is
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

    def _new(self, token: pkcs11.Token, pin: str, identity: _TokenId, digest: bytes) -> Login:
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
        return Login(token, session, digest)

    def _beside(self, token: pkcs11.Token, where: str) -> pkcs11.Session:
        """A session that shares the login that is there."""
        try:
            return token.open()
        except pkcs11.PKCS11Error as error:
            raise failed(error, f"opening a session at {where}") from None

    def leave(self, login: Login, user: object) -> None:
        """``user`` needs it no more; the last one logs out."""
        login.users.discard(user)
        if not login.users:
            self.drop(login)

    def drop(self, login: Login) -> None:
        """Close the session; whoever still uses it gets SessionLost and logs in anew."""
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
                remedy="install the device's client, and name its shared library in signer.authority.module",
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
