"""A key in a SoftHSM2 token as a back end under test.

SoftHSM2 reads its configuration and finds its tokens when the module is initialised, which happens once in a
process. So each opening of a :class:`SoftHsm` initialises it anew, in the one thread that may call it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from federation.core.config.authorities.settings import Pkcs11AuthorityConfig, SecretRef
from federation.core.pki.keys import PrivateKey, private_key_pem
from federation.signer.authorities.authority import AuthoritySettings
from tests.authorities.back_end import BackEnd
from tests.signer.running_signer import authority
from tests.support import pki
from tests.support.patience import PATIENCE

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
TIMEOUT = PATIENCE


def need_softhsm() -> None:
    """Skip the test where SoftHSM2, its tool or the library that calls it is missing."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed", allow_module_level=True)
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")


@dataclass
class SoftToken:
    """A token with its PIN in a file."""

    hsm: SoftHsm
    label: str
    pin: str
    so_pin: str
    pin_file: Path

    @property
    def serial(self) -> str:
        """As the tool shows it."""
        shown = self.hsm.tool("--show-slots").split("Slot ")
        [own] = [slot for slot in shown if f"Label:            {self.label} " in slot or self.label in slot]
        [serial] = [line.split(":")[1].strip() for line in own.splitlines() if "Serial number:" in line]
        return serial

    def take(self, key: PrivateKey, *, label: str = "ca", key_id: str = "01") -> None:
        """Import a private key, with its public half, as an operator would."""
        file = self.hsm.directory / f"{secrets.token_hex(4)}.pem"
        file.write_bytes(private_key_pem(key))
        self.hsm.tool(
            *("--import", str(file), "--token", self.label, "--label", label, "--id", key_id),
            *("--pin", self.pin),
        )
        file.unlink()

    def config(self, ca: pki.Authority, **changes: Any) -> Pkcs11AuthorityConfig:
        """An authority that uses its key "ca"; the chain is written beside the token."""
        chain = self.hsm.directory / f"chain of {self.label}.pem"
        chain.write_bytes(ca.chain_pem)
        settings: dict[str, Any] = {
            "name": "hsm",
            "module": MODULE,
            "pin": SecretRef("file", str(self.pin_file)),
            "certificate_file": chain,
            "token": self.label,
            "key_label": "ca",
            "timeout": TIMEOUT,
        }
        return Pkcs11AuthorityConfig(**(settings | changes))

    async def session(self, work: Callable[[Any], Any]) -> Any:
        """What ``work`` makes of a session that may write, beside whatever is open."""
        from federation.signer.authorities.pkcs11.pair import library_of_this_process

        def run() -> Any:
            import pkcs11

            token = pkcs11.lib(str(MODULE.resolve())).get_token(token_label=self.label)
            try:
                session = token.open(rw=True, user_pin=self.pin)
            except pkcs11.UserAlreadyLoggedIn:
                session = token.open(rw=True)
            try:
                return work(session)
            finally:
                session.close()

        return await library_of_this_process().thread.run(run, timeout=TIMEOUT)


@dataclass
class SoftHsm:
    """SoftHSM2 with a directory of its own for tokens."""

    directory: Path
    tokens: list[SoftToken] = field(default_factory=list)

    def tool(self, *arguments: str) -> str:
        """What softhsm2-util says."""
        done = subprocess.run(
            ["softhsm2-util", *arguments],
            env=os.environ | {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def token(self, key: PrivateKey | None = None, *, label: str = "") -> SoftToken:
        """A new token, holding that key as "ca". To be made before :meth:`initialise`."""
        label = label or f"token-{secrets.token_hex(4)}"
        pin, so_pin = secrets.token_hex(6), secrets.token_hex(6)
        self.tool("--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so_pin)
        pin_file = self.directory / f"pin of {secrets.token_hex(4)}"
        pin_file.touch(mode=0o600)
        pin_file.write_text(pin + "\n")
        token = SoftToken(self, label, pin, so_pin, pin_file)
        self.tokens.append(token)
        if key is not None:
            token.take(key)
        return token

    async def initialise(self) -> None:
        """Have this process see the tokens that are there now; every session there was is gone."""
        from federation.signer.authorities.pkcs11.pair import library_of_this_process

        def initialise() -> None:
            import pkcs11

            pkcs11.lib(str(MODULE.resolve())).reinitialize()

        await library_of_this_process().thread.run(initialise, timeout=TIMEOUT)


@asynccontextmanager
async def soft_hsm(directory: Path, *, mechanisms: str = "ALL") -> AsyncIterator[SoftHsm]:
    """SoftHSM2 with an empty directory of tokens, for this process and the tool."""
    need_softhsm()
    tokens = directory / "tokens"
    tokens.mkdir(parents=True)
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        f"slots.mechanisms = {mechanisms}\n"
    )
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    try:
        yield SoftHsm(directory)
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """A token that holds an intermediate of the moment."""
    async with soft_hsm(directory / "hsm") as hsm:
        ca = authority("contract")
        token = hsm.token(ca.key)
        await hsm.initialise()
        secret_key = ca.key_pem.decode().splitlines()[1]
        yield BackEnd(
            settings=AuthoritySettings(token.config(ca)),
            root=ca.root,
            secrets=(token.pin, token.so_pin, secret_key),
        )
